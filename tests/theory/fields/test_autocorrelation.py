"""Correlations by distance: averages over pairs, mixtures, and what moves with a tensor's entries."""

from __future__ import annotations

import numpy as np
import pytest

from gnelint.theory.fields.autocorrelation import Autocorrelation, mixed_autocorrelation
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.field import Effect
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments

NEAR = np.array([0.8, 0.5, 0.3])


@pytest.mark.parametrize("length", [2, 3, 4, 9])
def test_average_over_pairs(length: int) -> None:
    autocorrelation = Autocorrelation(1, NEAR, 0.1)
    pairs = [autocorrelation.reaching(length)[b - a - 1] for a in range(length) for b in range(a + 1, length)]
    assert autocorrelation.within(length) == pytest.approx(float(np.mean(pairs)), rel=1e-12)


def test_one_entry_has_no_pair() -> None:
    assert Autocorrelation(1, NEAR, 0.1).within(1) == 0.0


def test_beyond_its_reach() -> None:
    np.testing.assert_array_equal(Autocorrelation(1, NEAR, 0.1).reaching(5), [0.8, 0.5, 0.3, 0.1, 0.1])
    np.testing.assert_array_equal(Autocorrelation(1, NEAR, 0.1).reaching(2), [0.8, 0.5])


def test_mixture_weighs_covariances() -> None:
    found = mixed_autocorrelation([(3.0, Autocorrelation(1, NEAR, 0.1)), (1.0, None)])
    assert found is not None
    np.testing.assert_allclose(found.near, 0.75 * NEAR)
    assert found.far == pytest.approx(0.075)
    assert mixed_autocorrelation([(1.0, None), (2.0, None)]) is None
    assert mixed_autocorrelation([(0.0, Autocorrelation(1, NEAR)), (0.0, None)]) is None


def with_autocorrelation(shape: tuple[int, ...], axis: int) -> Moments:
    return Moments.uniform(shape, 0.0, 1.0).with_autocorrelation(Autocorrelation(axis, NEAR))


def test_moves_with_its_axis() -> None:
    x = with_autocorrelation((2, 6, 4), 1)
    for moved, axis in (
        (x.permuted((1, 0, 2)), 0),
        (x.reshaped((2, 1, 6, 4)), 2),
        (x.reshaped((2, 6, 2, 2)), 1),
        (x.with_rank(4), 2),
        (x.sliced(2, 0, 2, 1), 1),
        (x.sliced(1, 5, -1, -1), 1),
        (x.refined((Axis(2), Axis.full(6), Axis.full(4))), 1),
        (x.refined((Axis(2), Axis.full(6), Axis.full(4))).pooled(1), 1),
        (x.flattened(), 1),
    ):
        assert moved.autocorrelation is not None
        assert moved.autocorrelation.axis == axis
        np.testing.assert_array_equal(moved.autocorrelation.near, NEAR)


def test_is_lost_where_distances_change() -> None:
    x = with_autocorrelation((2, 6, 4), 1)
    assert x.reshaped((2, 24)).autocorrelation is None
    assert x.reshaped((2, 3, 2, 4)).autocorrelation is None
    assert x.sliced(1, 0, 6, 2).autocorrelation is None
    assert x.behind(Effect.MOVED, x.arrays()).autocorrelation is None


def test_gradients_that_meet_weigh_theirs() -> None:
    g = Gradient.white((2, 6, 4))
    found = g.with_autocorrelation(Autocorrelation(1, NEAR)).plus(g.scaled(3.0)).autocorrelation
    assert found is not None
    np.testing.assert_allclose(found.near, 0.25 * NEAR)
    assert g.plus(g).autocorrelation is None


@pytest.mark.parametrize("cells", [Axis.full(6), Axis(6, (1, 3))])
def test_sum_along_its_axis(cells: Axis) -> None:
    """Of a gradient that every index of the axis got from one entry: all pairs add up, in whichever cells they are."""
    line = np.linspace(0.5, 2.0, cells.count).reshape(1, -1, 1)
    autocorrelation = Autocorrelation(1, NEAR, 0.1)
    g = Gradient.flat((Axis(2), cells, Axis(4)), line).with_autocorrelation(autocorrelation)
    amplitude = np.sqrt(np.repeat(line.reshape(-1), cells.lengths.astype(int)))
    distance = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    correlation = np.concatenate([[1.0], autocorrelation.reaching(5)])[distance]
    whole = amplitude @ correlation @ amplitude
    assert g.summed_to((2, 1, 4)).total == pytest.approx(2 * 4 * whole)
    assert g.with_autocorrelation(None).summed_to((2, 1, 4)).total == pytest.approx(2 * 4 * float((amplitude**2).sum()))
