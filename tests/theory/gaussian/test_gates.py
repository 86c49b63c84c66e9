"""Averages of gates over Gaussians against composite quadrature in plain numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gnelint.theory.gaussian.gates import Averages, gate_averages, gated_tanh_averages, relu_averages, tanh_averages

GRID, STEP = np.linspace(-10.0, 10.0, 200_001, retstep=True)
DENSITY = np.exp(-0.5 * GRID**2) / np.sqrt(2 * np.pi) * STEP
MEAN, VARIANCE = np.array([[0.0, 0.7, -2.0, 1.0]]), np.array([[1.0, 0.2, 3.0, 0.0]])


def expected(f: Callable[[np.ndarray], np.ndarray], slope: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    z = MEAN[..., None] + np.sqrt(VARIANCE)[..., None] * GRID
    return [values @ DENSITY for values in (f(z), f(z) ** 2, slope(z), slope(z) ** 2)]


def assert_averages(found: Averages, true: list[np.ndarray], tolerance: float) -> None:
    for name, value in zip(("first", "second", "slope", "square"), true, strict=True):
        np.testing.assert_allclose(getattr(found, name), value, rtol=tolerance, atol=tolerance, err_msg=name)


def logistic(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-z))


def test_tanh() -> None:
    true = expected(np.tanh, lambda z: 1 - np.tanh(z) ** 2)
    assert_averages(tanh_averages(MEAN, VARIANCE), true, 1e-7)


@pytest.mark.parametrize("deviation", [1e-3, 0.5, 0.99, 1.0, 3.0, 40.0, 1e4])
def test_tanh_at_any_width(deviation: float) -> None:
    mean = np.array([0.0, 0.01, -1.5, 6.0, 30.0, -500.0])
    grid, step = np.linspace(-9.0, 9.0, 2_000_001, retstep=True) if deviation > 50 else (GRID, STEP)
    density = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi) * step
    found = tanh_averages(mean, np.full(mean.shape, deviation**2))
    for k, each in enumerate(mean):
        f = np.tanh(each + deviation * grid)
        true = np.array([f @ density, f**2 @ density, (1 - f**2) @ density, (1 - f**2) ** 2 @ density])
        averages = [array[k] for array in (found.first, found.second, found.slope, found.square)]
        np.testing.assert_allclose(averages, true, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("deviation", "through", "gate"), [(0.3, 0.2, 0.4), (0.5, 3.0, 0.7), (0.2, 6.0, 5.0), (2.0, 1.0, 9.0)]
)
def test_a_gate_inside_of_tanh(deviation: float, through: float, gate: float) -> None:
    """Against a sum over all three Gaussians."""
    points = np.arange(-6.0, 6.0, 0.1)
    weights = np.exp(-0.5 * points**2) / np.exp(-0.5 * points**2).sum()
    d, u = 0.4 + deviation * points[:, None, None], -0.5 + through * points[:, None]
    s = logistic(0.3 + gate * points)
    f = np.tanh(d + s * u)
    slope = 1.0 - f**2

    def mean(values: np.ndarray) -> float:
        return float(weights @ (weights @ (values @ weights)))

    given = [np.array([[each]]) for each in (0.4, deviation**2, -0.5, through**2, 0.3, gate**2)]
    found = gated_tanh_averages(given[0], given[1], (given[2], given[3]), (given[4], given[5]))
    new = (found.new.first, found.new.second, found.new.slope, found.new.square)
    true = [
        mean(each) for each in (f, f**2, slope, slope**2, s * slope, (s * slope) ** 2, (s * (1 - s) * u * slope) ** 2)
    ]
    averages = [each.item() for each in (*new, found.passed, found.passed_square, found.reset)]
    np.testing.assert_allclose(averages, true, rtol=0, atol=1e-4)


def test_what_is_not_a_number_stays_so() -> None:
    found = tanh_averages(np.array([np.nan, np.inf, 0.5]), np.array([1.0, 1.0, np.nan]))
    assert np.isnan(found.first[[0, 2]]).all()
    assert found.first[1] == 1.0


def test_relu() -> None:
    true = expected(lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float))
    assert_averages(relu_averages(MEAN, VARIANCE), true, 1e-4)  # the grid's own error at the step


def test_a_constant_0_is_not_above_0() -> None:
    assert relu_averages(np.zeros(1), np.zeros(1)).slope[0] == pytest.approx(0.0, abs=1e-15)


def test_gates_of_either_kind() -> None:
    both = [np.stack([array, array], axis=1) for array in (MEAN, VARIANCE)]
    first, second = gate_averages(both[0], both[1], (True, False))
    assert_averages(first, expected(logistic, lambda z: logistic(z) * (1 - logistic(z))), 1e-7)
    assert_averages(second, expected(np.tanh, lambda z: 1 - np.tanh(z) ** 2), 1e-7)


@pytest.mark.parametrize("variance", [0.0, 1.0])
def test_variance_is_what_is_left(variance: float) -> None:
    found = tanh_averages(np.array([0.3]), np.array([variance]))
    assert found.variance[0] == pytest.approx(found.second[0] - found.first[0] ** 2, abs=1e-12)
