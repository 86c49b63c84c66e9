"""The scatter of samples' scales against samples, and how cells take it over."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.log_norm import entry_noise, gaussian_noise, per_sample, ranked_before, stratified
from gnelint.theory.fields.moments import Moments

BATCH, WIDTH = 64, 200


def value(log_norm_variance: float = 0.0) -> Moments:
    rng = np.random.default_rng(0)
    axes = (Axis(BATCH), Axis.full(WIDTH))
    found = Moments.flat(axes, rng.standard_normal((1, WIDTH)), rng.uniform(0.5, 2.0, (1, WIDTH)))
    return replace(found, log_norm_variance=log_norm_variance)


def level_variance(x: Moments) -> float:
    share = x.axes[0].lengths / BATCH
    level = np.log(per_sample(x.second, x))
    return float((share * (level - (share * level).sum()) ** 2).sum())


def test_noise_is_that_of_gaussian_samples() -> None:
    x = value()
    drawn = x.mean + np.sqrt(x.variance) * np.random.default_rng(1).standard_normal((20000, WIDTH))
    square = (drawn**2).mean(axis=1)
    expected = square.var() / square.mean() ** 2
    assert gaussian_noise(x) == pytest.approx(expected, rel=0.05)
    fourth = x.mean**4 + 6 * x.mean**2 * x.variance + 3 * x.variance**2
    assert entry_noise(x.second, fourth, x) == pytest.approx(gaussian_noise(x))


def test_cells_carry_the_variance_and_keep_the_total() -> None:
    x = value(log_norm_variance=0.5)
    cut = stratified(x, 1.0)
    assert cut.log_norm_variance == 0.0
    assert cut.total_second == pytest.approx(x.total_second)
    assert level_variance(cut) == pytest.approx(0.5, rel=0.15)  # 64 samples, the middle ones in one cell


def test_later_variance_moves_the_cells_apart() -> None:
    cut = stratified(value(log_norm_variance=0.5), 1.0)
    wider = stratified(replace(cut, log_norm_variance=0.2), 1.0)
    assert level_variance(wider) == pytest.approx(level_variance(cut) + 0.2)


def test_nothing_is_cut_where_it_does_not_matter() -> None:
    x = value(log_norm_variance=0.5)
    assert stratified(x, 0.01) is x


def test_the_gradient_follows_samples_that_change_places() -> None:
    before = stratified(value(log_norm_variance=0.5), 1.0)
    x = replace(before, log_norm_variance=0.25)
    batch = x.axes[0]
    rho = math.sqrt(level_variance(before) / (level_variance(before) + x.log_norm_variance))
    rng = np.random.default_rng(0)
    old = rng.standard_normal((20000, BATCH))
    new = rho * old + math.sqrt(1 - rho**2) * rng.standard_normal(old.shape)
    # every sample's gradient is its rank behind the added variance, squared
    behind = (np.arange(BATCH) / BATCH) ** 2
    cell = np.repeat(np.arange(batch.count), batch.lengths.astype(int))
    sums = np.add.reduceat(behind, batch.starts) / batch.lengths
    gradient = Gradient.flat((batch, Axis(WIDTH)), sums[:, None])
    found = ranked_before(gradient, x)
    assert found.total == pytest.approx(gradient.total)
    sent = sums[cell][np.argsort(np.argsort(new, axis=1), axis=1)]
    by_rank = np.take_along_axis(sent, np.argsort(old, axis=1), axis=1).mean(axis=0)
    drawn = np.add.reduceat(by_rank, batch.starts) / batch.lengths
    # the largest of a batch is not always as large as its rank says
    np.testing.assert_allclose(found.energy[:, 0], drawn, atol=0.04)


def test_samples_in_one_cell_have_no_place_to_change() -> None:
    x = value(log_norm_variance=0.5)
    gradient = Gradient.white((BATCH, WIDTH))
    assert ranked_before(gradient, x) is gradient


def test_cells_that_do_not_go_by_rank_keep_their_samples() -> None:
    axes = (Axis(BATCH, (20, 40)), Axis(WIDTH))
    x = replace(Moments.flat(axes, np.zeros((3, 1)), np.array([[1.0], [3.0], [2.0]])), log_norm_variance=0.5)
    gradient = Gradient.flat(axes, np.array([[1.0], [2.0], [3.0]]))
    assert ranked_before(gradient, x) is gradient
    ranked = replace(x, variance=np.sort(x.variance, axis=0))
    assert ranked_before(gradient, ranked).energy[0, 0] > 1.0
