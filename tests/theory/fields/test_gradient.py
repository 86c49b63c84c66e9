"""What a gradient's entries share along an axis that is cut because something else differs there."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gnelint.theory.fields.cells import Axis, pooled
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.nearby import same_along

SHAPE = (4, 6, 8)
CUT = (Axis(4), Axis.full(6), Axis.full(8))


def shared(correlation: float) -> Gradient:
    """Channels of their own, positions that share this much."""
    axes = (Axis(4), Axis.full(6), Axis(8))
    energy = np.linspace(0.5, 1.5, 6).reshape(1, 6, 1)
    return Gradient.flat(axes, energy, correlation * energy)


def correlation(g: Gradient) -> float:
    return float(g.position_covariance.mean() / g.energy.mean())


def test_what_positions_share_is_there_again_behind_a_cut() -> None:
    g = shared(0.8).refined(CUT)
    assert g.alike == {2}
    again = g.pooled(2)
    assert correlation(again) == pytest.approx(0.8)
    assert again.alike == frozenset()


def test_cells_of_their_own_share_nothing() -> None:
    """Nor does a cell of one entry a sample: no two are in it."""
    g = Gradient.flat(CUT, np.ones((1, 6, 8)), 0.8)
    assert correlation(g.pooled(2)) == 0.0
    wide = Gradient.flat((*CUT, Axis(5)), np.ones((1, 6, 8, 1)), 0.8)
    assert correlation(wide.pooled(2)) == pytest.approx(0.8 * 4 / 39)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_sum_is_the_same_whether_positions_are_cut(share: float) -> None:
    whole, cut = shared(share).summed_to((4, 6, 1)), shared(share).refined(CUT).summed_to((4, 6, 1))
    assert cut.energy == pytest.approx(whole.energy)
    assert cut.total == pytest.approx(shared(share).total * (1.0 + 7.0 * share))


def test_axes_follow_a_permutation_and_a_reshape() -> None:
    g = shared(0.8).refined(CUT)
    assert g.permuted((0, 2, 1)).alike == {1}
    assert g.reshaped((4, 6, 2, 4)).alike == {2, 3}
    assert g.reshaped((4, 6, 2, 4)).reshaped(SHAPE).alike == {2}
    assert g.sliced(2, 1, 5, 1).alike == {2}


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_places_of_a_patch_share_nothing_but_those_of_all_patches_do(share: float) -> None:
    """The sum over the merged axis is that over patches first, with energies that differ from place to place."""
    axes, energy = (Axis(4), Axis(6), Axis.full(2), Axis.full(8)), np.ones((1, 1, 2, 8)) * [[[[1.0], [3.0]]]]
    g = Gradient.flat(axes, energy, share * energy)
    merged = g.reshaped((4, 12, 8))
    assert merged.total == pytest.approx(g.total)
    summed = g.summed_to((4, 1, 1, 8)).total
    assert merged.summed_to((4, 1, 8)).total == pytest.approx(summed, rel=1 / 11)  # pairs are counted with the same one
    assert summed == pytest.approx(g.total * (1.0 + 5.0 * share))


def test_factors_without_a_mean_leave_cells_nothing_in_common() -> None:
    """Positions times weights of their own that are drawn about 0 are summed incoherently, about 1 coherently."""
    one = shared(1.0)
    drawn = one.times(CUT, np.ones((1, 6, 8)), np.ones((1, 6, 8)), np.zeros((1, 6, 8)))
    known = one.times(CUT, np.ones((1, 6, 8)), np.ones((1, 6, 8)), np.ones((1, 6, 8)))
    assert drawn.summed_to((4, 6, 1)).total == pytest.approx(one.total)
    assert known.summed_to((4, 6, 1)).total == pytest.approx(8.0 * one.total)


def test_a_sum_shares_what_its_parts_do() -> None:
    coherent, white = shared(0.8).refined(CUT), Gradient.white(SHAPE).refined((*pooled(SHAPE[:2]), Axis.full(8)))
    apart = Gradient.flat(CUT, np.ones((1, 6, 8)), 0.5)
    assert coherent.plus(white).alike == {2}
    assert coherent.plus(apart).alike == frozenset()


def test_channels_that_add_up_to_nothing_do_not_make_samples_do_so() -> None:
    """What a normalisation sent back, as one cell and cut up: together no position's share was taken for opposed."""
    whole = Gradient.flat(pooled(SHAPE), np.ones((1, 1, 1)), np.full((1, 1, 1), -1.0 / 47))
    apart = Gradient.flat(CUT, np.ones((1, 6, 8)), -1.0 / 5)
    both = apart.plus(whole)
    assert both.alike == whole.plus(apart).alike == frozenset()
    assert both.summed_to((4, 1, 1)).total == pytest.approx(both.total)
    assert whole.refined(CUT).plus(whole).alike == {1, 2}


def test_a_gradient_that_is_spent_keeps_its_size_and_takes_no_memory() -> None:
    """That of every value was kept: 1.7 GB for a file of 3 MB with 7,500 positions in cells of their own."""
    g = shared(0.6).refined(CUT)
    level = g.levelled()
    assert level.total == g.total
    assert (level.shape, level.positions, level.correlated) == (g.shape, g.positions, g.correlated)
    assert correlation(level) == pytest.approx(correlation(g))
    assert all(not any(array.strides) for array in level.arrays())


def test_zeros_and_runs_of_many_cells_are_not_written_out() -> None:
    """Finer cells of a field without correlations, a sum of such, a cut of it."""
    shape = (4, 64, 128)
    axes, energy = (Axis(4), Axis.full(64), Axis.full(128)), np.random.default_rng(0).random((1, 64, 128))
    g, white = Gradient.flat(axes, energy), Gradient.white(shape)
    for found in (white.refined(axes), g.plus(white), g.plus(g)):
        assert all(array.strides[-1] == 0 for array in found.arrays()[1:])
    np.testing.assert_array_equal(g.plus(white).energy, energy + 1.0)
    part = g.sliced(2, 1, 128, 3)
    assert np.shares_memory(part.energy, energy)
    np.testing.assert_array_equal(part.energy, energy[..., 1:128:3])
    np.testing.assert_array_equal(g.sliced(2, 6, 1, -2).energy, energy[..., 6:1:-2])


def test_factors_leave_less_of_what_copies_have_beside_what_all_share() -> None:
    """Copies along one axis of a gradient that positions share for the most part, times independent values: what these
    make different of the shared part is in no copy. A gate's softmax had 0.8 bits too little of what rows keep."""
    rng, shared, mean, variance = np.random.default_rng(0), 0.8, 0.4, 0.34
    axes, one = (Axis(20000), Axis(2), Axis(6)), np.ones((1, 1, 1))
    g = replace(Gradient.flat(axes, one, shared * one), nearby=same_along({1: 2}))
    found = g.times(axes, (mean**2 + variance) * one, mean**2 * one)
    drawn = math.sqrt(shared) * rng.normal(size=(20000, 1, 1)) + math.sqrt(1 - shared) * rng.normal(size=(20000, 1, 6))
    product = drawn * (mean + math.sqrt(variance) * rng.normal(size=(20000, 2, 6)))
    common = float((product[:, 0, 0] * product[:, 1, 1]).mean())
    beside = float((product[:, 0] * product[:, 1]).mean()) - common
    assert float(found.position_covariance.mean()) == pytest.approx(common, abs=0.01)
    said = float(found.nearby.lags[1]) * float((found.energy - found.position_covariance).mean())
    assert said == pytest.approx(beside, abs=0.01)
