"""Gaussian expectations: smooth functions, piecewise polynomials, interpolation over many cells."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, stats

from gnelint.theory.gaussian.piecewise import Piece, derivative, piecewise_expectation, rectified_source
from gnelint.theory.gaussian.quadrature import smooth_expectations

INF = math.inf


def direct(function, mean: float, variance: float, kinks: tuple[float, ...] = ()) -> float:  # type: ignore[no-untyped-def]
    deviation = math.sqrt(variance)
    low, high = mean - 12 * deviation, mean + 12 * deviation
    edges = [low, *sorted(k for k in kinks if low < k < high), high]
    edges = sorted({*edges, *np.linspace(low, high, 25)})
    density = stats.norm(mean, deviation).pdf
    return math.fsum(
        integrate.quad(lambda z: function(z) * density(z), a, b, epsabs=1e-14)[0] for a, b in pairwise(edges)
    )


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.4, 0.01), (-2.0, 4.0), (1.0, 25.0), (0.0, 100.0)])
def test_smooth_functions(mean: float, variance: float) -> None:
    found = smooth_expectations([np.tanh, lambda z: 1 / (1 + np.exp(-z))], np.array([mean]), np.array([variance]))
    assert found[0][0] == pytest.approx(direct(math.tanh, mean, variance), rel=1e-7, abs=1e-9)
    assert found[1][0] == pytest.approx(direct(lambda z: 1 / (1 + math.exp(-z)), mean, variance), rel=1e-7)


def test_a_short_bend_takes_more_points() -> None:
    mean, variance = np.array([0.1]), np.array([4.0])
    (found,) = smooth_expectations([lambda z: np.tanh(10 * z) ** 2], mean, variance, 0.1)
    assert found[0] == pytest.approx(direct(lambda z: math.tanh(10 * z) ** 2, 0.1, 4.0, (0.0, -0.3, 0.3)), rel=1e-7)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 30.0), (40.0, 900.0), (-300.0, 1e4), (5.0, 1e6), (0.0, 1e8)])
def test_wide_gaussians_over_functions_that_settle(mean: float, variance: float) -> None:
    """Softplus squared, its derivative and tanh against integration with panels that follow the bend."""
    functions = (lambda z: np.logaddexp(0.0, z) ** 2, lambda z: 0.5 * (1 + np.tanh(0.5 * z)), np.tanh)
    found = smooth_expectations(functions, np.array([mean]), np.array([variance]), settled=True)
    bends = tuple(np.linspace(-40.0, 40.0, 33))
    for one, function in zip(found, functions, strict=True):
        assert one[0] == pytest.approx(direct(function, mean, variance, bends), rel=1e-6, abs=1e-8)


def test_no_variance_is_the_value() -> None:
    mean = np.array([[-1.0, 0.5], [2.0, 0.0]])
    (found,) = smooth_expectations([np.sin], mean, np.zeros((2, 2)))
    np.testing.assert_allclose(found, np.sin(mean), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("size", [511, 600, 5000])
@pytest.mark.parametrize(
    ("reach", "low", "high"), [(0.5, 0.5, 2.0), (3.0, 0.01, 0.2), (0.0, 1.0, 1.0), (10.0, 0.1, 30.0)]
)
def test_interpolation_agrees_with_integration(size: int, reach: float, low: float, high: float) -> None:
    """1e-4 is what the number of points is chosen for; 6e-5 is the worst of these, of a square that bends twice as
    fast."""
    rng = np.random.default_rng(0)
    mean, variance = reach * rng.uniform(-1, 1, size), rng.uniform(low, high, size)
    together = smooth_expectations([np.tanh, lambda z: np.tanh(z) ** 2], mean, variance)
    for index in range(0, size, size // 7):
        alone = smooth_expectations([np.tanh, lambda z: np.tanh(z) ** 2], mean[[index]], variance[[index]])
        for many, one in zip(together, alone, strict=True):
            assert many[index] == pytest.approx(one[0], abs=1e-4)


HARDSWISH = (Piece(-INF, -3.0, (0.0,)), Piece(-3.0, 3.0, (0.0, 0.5, 1 / 6)), Piece(3.0, INF, (0.0, 1.0)))


def hardswish(z: float) -> float:
    return z * min(max(z + 3, 0), 6) / 6


@pytest.mark.parametrize("power", [1, 2, 4])
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (2.5, 0.04), (-4.0, 9.0), (1.0, 25.0)])
def test_piecewise_polynomials(power: int, mean: float, variance: float) -> None:
    found = piecewise_expectation(HARDSWISH, power, np.array([mean]), np.array([variance]))
    assert found[0] == pytest.approx(
        direct(lambda z: hardswish(z) ** power, mean, variance, (-3.0, 3.0)), rel=1e-8, abs=1e-12
    )


def test_pieces_without_variance_take_the_left_one_at_a_kink() -> None:
    step = (Piece(-INF, 0.0, (0.0,)), Piece(0.0, INF, (1.0,)))
    found = piecewise_expectation(step, 1, np.array([-1.0, 0.0, 1.0]), np.zeros(3))
    assert found.tolist() == [0.0, 0.0, 1.0]


def test_derivative_of_pieces() -> None:
    slopes = derivative(HARDSWISH)
    assert [[float(c) for c in piece.coefficients] for piece in slopes] == [[0.0], [0.5, pytest.approx(1 / 3)], [1.0]]


@pytest.mark.parametrize(("location", "scale"), [(0.0, 1.0), (-1.0, 2.0), (3.0, 0.5), (-2.0, 0.7)])
def test_source_of_a_rectified_value(location: float, scale: float) -> None:
    relu = (Piece(-INF, 0.0, (0.0,)), Piece(0.0, INF, (0.0, 1.0)))
    mu, q = np.array([location]), np.array([scale**2])
    mean = piecewise_expectation(relu, 1, mu, q)
    second = piecewise_expectation(relu, 2, mu, q)
    found = rectified_source(mean, second - mean**2)
    assert (found[0][0], found[1][0]) == pytest.approx((location, scale), rel=1e-6, abs=1e-6)
