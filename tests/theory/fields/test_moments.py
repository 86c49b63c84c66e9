"""Moments and gradients on cells: pooling is the law of total variance, summing the adjoint of broadcasting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.profiles import mixed_profile, normalised
from tests.components.harness import dense_energy, dense_moments

AXES = (Axis(4), Axis.full(3), Axis(6, (1, 4)))


def example() -> Moments:
    rng = np.random.default_rng(0)
    return Moments.flat(AXES, rng.normal(size=(1, 3, 3)), rng.uniform(0.5, 2, size=(1, 3, 3)))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_pooling_is_the_law_of_total_variance(index: int) -> None:
    x = example()
    y = x.pooled(index)
    mean, second = dense_moments(x)
    assert y.axes[index].is_pooled
    np.testing.assert_allclose(dense_moments(y)[0].mean(axis=index), mean.mean(axis=index), rtol=1e-12)
    np.testing.assert_allclose(dense_moments(y)[1].mean(axis=index), second.mean(axis=index), rtol=1e-12)
    assert y.total_second == pytest.approx(x.total_second, rel=1e-12)


def test_pooling_into_coarser_cells() -> None:
    x = example()
    y = x.pooled(2, Axis(6, (4,)))
    mean, second = dense_moments(x)
    np.testing.assert_allclose(dense_moments(y)[0][..., 0], mean[..., :4].mean(-1), rtol=1e-12)
    np.testing.assert_allclose(dense_moments(y)[1][..., 5], second[..., 4:].mean(-1), rtol=1e-12)


def test_position_covariance_counts_pairs_of_one_cell_only() -> None:
    """Two of four channels' positions share all: a pair of the pooled cell is in one channel once in four."""
    x = Moments.flat((Axis(2), Axis.full(4), Axis(1000)), np.zeros((1, 4, 1)), np.ones((1, 4, 1)), np.ones((1, 4, 1)))
    assert x.pooled(1).position_covariance.reshape(-1)[0] == pytest.approx(999 / 3999)


def test_broadcast_entries_are_copies() -> None:
    x = Moments.uniform((2, 3, 1), 0.5, 2.0).broadcast((2, 3, 4))
    assert x.shape == (2, 3, 4)
    assert (x.total_mean, x.total_second) == pytest.approx((0.5, 2.25))
    # a pair of twelve entries is of one channel three times in eleven
    assert x.position_covariance.reshape(-1)[0] == pytest.approx(2.0 * 3 / 11)
    rows = Moments.flat((Axis(2), Axis.full(3), Axis(1)), np.zeros((1, 3, 1)), np.ones((1, 3, 1))).broadcast((2, 3, 4))
    np.testing.assert_allclose(rows.position_covariance, 1.0)
    batch = Moments.uniform((1, 3), 0.0, 1.0).broadcast((5, 3))
    assert batch.position_covariance.reshape(-1)[0] == 0.0  # samples count as independent


@pytest.mark.parametrize("shape", [(2, 3, 1), (1, 3, 4), (3, 4), (4,), (1, 1, 1), (3, 1)])
def test_summing_is_the_adjoint_of_broadcasting(shape: tuple[int, ...]) -> None:
    """E ||B^T g||^2 for white g is ||B||_F^2: every one of the 24 outputs once."""
    g = Gradient.white((2, 3, 4)).summed_to(shape)
    assert g.shape == shape
    assert g.total == pytest.approx(24.0)
    fine = Gradient.flat((Axis(2), Axis.full(3), Axis(4)), np.array([1.0, 2, 3]).reshape(1, 3, 1)).summed_to(shape)
    assert fine.total == pytest.approx(2 * 4 * 6.0)


def test_summing_what_positions_share_is_coherent() -> None:
    axes = (Axis(2), Axis.full(3), Axis(4))
    g = Gradient.flat(axes, np.ones(1), 1.0)
    assert g.summed_to((2, 3, 1)).total == pytest.approx(2 * 3 * 16.0)
    assert g.summed_to((1, 3, 1)).total == pytest.approx(3 * 2 * 16.0)


def test_profiles_are_absorbed_into_cells() -> None:
    line = np.array([0.5, 1.0, 1.5])
    x = Moments((Axis(2), Axis(3)), (None, line), np.full((1, 1), 2.0), np.ones((1, 1)), np.zeros((1, 1)))
    y = x.absorbed(1)
    np.testing.assert_allclose(dense_moments(y)[0], dense_moments(x)[0])
    np.testing.assert_allclose(dense_moments(y)[1], dense_moments(x)[1])
    assert y.total_mean == pytest.approx(x.total_mean)
    assert y.total_second == pytest.approx(x.total_second)
    z = x.flattened()
    assert (z.total_mean, z.total_second) == pytest.approx((x.total_mean, x.total_second))


def test_gradient_s_cells_become_a_profile() -> None:
    g = Gradient.flat((Axis(2), Axis(3), Axis(4, (1,))), np.array([4.0, 1.0]).reshape(1, 1, 2))
    p = g.profiled(2)
    assert p.axes[2].is_pooled
    np.testing.assert_allclose(dense_energy(p), dense_energy(g))
    assert p.total == pytest.approx(g.total)
    np.testing.assert_allclose(dense_energy(p.absorbed(2)), dense_energy(g))


def test_sums_of_gradients_with_profiles() -> None:
    line = np.array([0.0, 2.0])
    one = Gradient((Axis(3), Axis(2)), (None, line), np.ones((1, 1)), *[np.zeros((1, 1))] * 4)
    other = Gradient.white((3, 2)).scaled(3.0)
    both = one.plus(other)
    np.testing.assert_allclose(dense_energy(both), dense_energy(one) + dense_energy(other))
    cells = Gradient.flat((Axis(3), Axis.full(2)), np.array([[5.0, 1.0]]))
    np.testing.assert_allclose(dense_energy(cells.plus(one)), dense_energy(cells) + dense_energy(one))


def test_reshaping_profiles_of_an_image_into_tokens_and_back() -> None:
    h, w = np.array([0.5, 1.5]), np.array([0.8, 1.2, 1.0])
    x = Moments(
        (Axis(2), Axis(4), Axis(2), Axis(3)), (None, None, h, w), *(np.full((1,) * 4, v) for v in (0.3, 1.0, 0.0))
    )
    tokens = x.reshaped((2, 4, 6))
    np.testing.assert_allclose(dense_moments(tokens)[1], dense_moments(x)[1].reshape(2, 4, 6), rtol=1e-12)
    back = tokens.reshaped((2, 4, 2, 3))
    np.testing.assert_allclose(dense_moments(back)[1], dense_moments(x)[1], rtol=1e-12)


def test_times_without_a_covariance_is_one_factor_for_the_cell() -> None:
    g = Gradient.flat((Axis(2), Axis(4)), np.ones(1), 0.5).times((Axis(2), Axis(4)), np.full((1, 1), 9.0))
    assert (g.energy.item(), g.position_covariance.item()) == (9.0, 4.5)


def test_profiles_of_nothing() -> None:
    assert normalised(np.zeros(3)) is None
    assert normalised(np.full(3, 7.0)) is None
    assert normalised(np.zeros(0)) is None
    assert mixed_profile([(1.0, None), (2.0, None)], 3) is None
    assert mixed_profile([(0.0, np.array([0.5, 1.5]))], 2) is None


def test_reshape_that_does_not_match_keeps_totals() -> None:
    x = Moments.flat((Axis.full(2), Axis(3)), np.array([[1.0], [3.0]]), np.ones((2, 1)))
    y = x.reshaped((3, 2))
    assert (y.total_mean, y.total_second) == pytest.approx((2.0, 6.0))


def test_channels_that_are_alike_stay_apart_through_a_reshape() -> None:
    """What each channel's positions share is not shared between channels, though all channels have the same numbers."""
    axes = (Axis(2), Axis.full(4), Axis(3), Axis(5))
    g = Gradient.flat(axes, np.ones(1), 1.0).reshaped((2, 2, 2, 15))
    assert g.summed_to((2, 1, 1, 15)).total == pytest.approx(2 * 15 * 4.0)
    assert g.summed_to((2, 2, 2, 1)).total == pytest.approx(2 * 4 * 15.0**2)


def test_pairs_of_cells_of_unlike_length_count_by_their_number() -> None:
    """One token beside a hundred that share all: two of them are of the hundred nearly always."""
    energy = np.array([0.0, 1.0]).reshape(1, 2, 1)
    g = Gradient.flat((Axis(2), Axis(101, (1,)), Axis(1)), energy, energy)
    assert g.pooled(1).position_covariance.reshape(-1)[0] == pytest.approx(100 * 99 / (101 * 100))
    samples = Moments.flat((Axis(4, (2,)), Axis(9)), np.zeros((2, 1)), np.ones((2, 1)), np.ones((2, 1)))
    assert samples.pooled(0).position_covariance.reshape(-1)[0] == pytest.approx(1.0)


def test_a_profile_that_meets_cells_keeps_what_positions_share() -> None:
    flat = Gradient.flat(
        (Axis(2), Axis(101), Axis(1)), np.ones(1), 1.0, (None, normalised(np.arange(1.0, 102.0)), None)
    )
    cells = flat.refined((Axis(2), Axis(101, (1,)), Axis(1)))
    assert cells.axes[1] == Axis(101, (1,))
    assert cells.position_covariance[0, 1, 0] == pytest.approx(cells.energy[0, 1, 0])
    assert cells.total == pytest.approx(flat.total)
    assert cells.alike == {1}  # and so do those of different cells


def test_windows_and_back() -> None:
    """A gradient that all tokens share is shared by windows of them; what windows made of a value is theirs alone."""
    shared = Gradient.flat((Axis(2), Axis(64), Axis.full(3)), np.ones((1, 1, 3)), 0.8)
    apart = shared.reshaped((8, 16, 3))
    assert apart.position_covariance.reshape(-1) == pytest.approx(0.8)
    # of the seven other windows three are of the same sample
    assert apart.sample_covariance.reshape(-1) == pytest.approx(0.8 * 3 / 7)
    back = apart.reshaped((2, 64, 3))
    assert back.position_covariance.reshape(-1) == pytest.approx(0.8)
    assert back.sample_covariance.reshape(-1) == pytest.approx(0.0)

    value = Moments.flat((Axis(2), Axis(64), Axis.full(3)), np.zeros((1, 1, 3)), np.ones((1, 1, 3)), 0.5)
    assert value.reshaped((8, 16, 3)).reshaped((2, 64, 3)).position_covariance.reshape(-1) == pytest.approx(0.5)
    assert value.reshaped((128, 3)).reshaped((2, 64, 3)).position_covariance.reshape(-1) == pytest.approx(0.5)
    windows = Moments.flat((Axis(8), Axis(16), Axis.full(3)), np.zeros((1, 1, 3)), np.ones((1, 1, 3)), 0.5)
    assert windows.reshaped((2, 64, 3)).position_covariance.reshape(-1) == pytest.approx(0.5 * 15 / 63)


def test_averages_that_are_known_are_known_of_tokens_too() -> None:
    """A batch normalisation has taken the average of each channel: laid out as tokens and back, they have none."""
    image = replace(Moments.uniform((4, 6, 3, 5), 0.0, 1.0), mean_known=1.0)
    tokens = image.reshaped((4, 6, 15)).permuted((0, 2, 1))
    assert tokens.mean_known == 1.0
    assert tokens.permuted((0, 2, 1)).reshaped((4, 6, 3, 5)).mean_known == 1.0
    assert tokens.sliced(1, 0, 4, 1).mean_known == 0.0


def test_cells_of_what_was_one_share_what_it_shared() -> None:
    whole = Moments.flat((Axis(2), Axis(3), Axis(8)), np.zeros(1), np.ones(1), 0.25)
    apart = whole.refined((Axis(2), Axis(3), Axis.full(8)))
    assert apart.sharing == whole.sharing == 24
    assert apart.pooled(2).position_covariance.reshape(-1) == pytest.approx(0.25)
    assert apart.scaled(np.linspace(0.5, 1.5, 8)).pooled(2).position_covariance.reshape(-1) == pytest.approx(0.25)


def test_means_of_unlike_samples_are_shared_within_each() -> None:
    """Heads that have become samples: a channel's mean there is that of all its tokens, not one drawn for each."""
    mean = np.array([1.0, -1.0, 2.0, -2.0]).reshape(4, 1)
    x = Moments.flat((Axis.full(4), Axis(8)), mean, np.full((4, 1), 0.5), np.full((4, 1), 0.25))
    pooled = x.pooled(0)
    assert pooled.variance == pytest.approx(0.5 + 2.5)
    assert pooled.position_covariance == pytest.approx(0.25 + 2.5)


def test_cells_of_a_profile_keep_the_shape_of_their_entries() -> None:
    """Rectified entries of another scale are as skewed: a gate of positions that opens cells had made them Gaussian."""
    profile = np.array([0.25, 1.0, 1.75])
    axes, ones = (Axis(4), Axis(3)), np.ones((1, 1))
    x = Moments(axes, (None, profile), 0.0 * ones, ones, 0.0 * ones, cumulants=(0.9 * ones, 0.7 * ones))
    cells = x.refined((Axis(4), Axis.full(3)))
    assert cells.cumulants is not None
    third, fourth = cells.cumulants
    np.testing.assert_allclose(cells.variance, profile[None], rtol=1e-12)
    np.testing.assert_allclose(third, 0.9 * profile[None] ** 1.5, rtol=1e-12)
    np.testing.assert_allclose(fourth, 0.7 * profile[None] ** 2, rtol=1e-12)
