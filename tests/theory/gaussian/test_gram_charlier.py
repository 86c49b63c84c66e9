"""Rectified moments of values that are not quite Gaussian, against samples and against the Gaussian formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gnelint.theory.gaussian.gram_charlier import cumulants, rectified_moments, shaped_expectation
from gnelint.theory.gaussian.special import normal_cdf, normal_pdf


def sampled(x: np.ndarray) -> list[float]:
    return [float((x > 0).mean()), *(float((np.maximum(x, 0) ** power).mean()) for power in (1, 2, 3, 4))]


@pytest.mark.parametrize(("rectified", "other"), [(1.0, 1.0), (2.0**0.5, 1.0), (2.0, 1.0), (1.0, 3.0)])
def test_a_rectified_value_beside_a_gaussian_one(rectified: float, other: float) -> None:
    """Residual trunks: P within 0.01, moments within 1 %, where the Gaussian formula is up to 15 % off."""
    generator = np.random.default_rng(0)
    z = np.maximum(rectified * generator.standard_normal(1_000_000), 0.0)
    shape = cumulants(*(np.array([(z**power).mean()]) for power in (1, 2, 3, 4)))
    x = z + other * generator.standard_normal(z.size)
    found = rectified_moments(np.array([x.mean()]), np.array([x.var()]), *shape)
    wanted = sampled(x)
    assert float(found[0][0]) == pytest.approx(wanted[0], abs=0.01)
    assert [float(part[0]) for part in found[1:]] == pytest.approx(wanted[1:], rel=0.01)


@pytest.mark.parametrize("mean", [-2.0, -0.3, 0.0, 1.0, 4.0])
def test_without_cumulants_it_is_the_gaussian_formula(mean: float) -> None:
    variance = np.array([1.7])
    deviation = variance**0.5
    share, first, second, _, _ = rectified_moments(np.array([mean]), variance, np.zeros(1), np.zeros(1))
    t = mean / deviation
    assert share == pytest.approx(normal_cdf(t), abs=1e-14)
    assert first == pytest.approx(mean * normal_cdf(t) + deviation * normal_pdf(t), rel=1e-12)
    expected = (mean**2 + variance) * normal_cdf(t) + mean * deviation * normal_pdf(t)
    assert second == pytest.approx(expected, rel=1e-12)


def test_cumulants_of_a_rectified_gaussian() -> None:
    share, first, second, cube, quart = rectified_moments(np.zeros(1), np.ones(1), np.zeros(1), np.zeros(1))
    x = np.maximum(np.random.default_rng(1).standard_normal(2_000_000), 0.0)
    centred = x - x.mean()
    third, fourth = cumulants(first, second, cube, quart)
    assert share == pytest.approx(0.5)
    assert third == pytest.approx((centred**3).mean(), rel=0.02)
    assert fourth == pytest.approx((centred**4).mean() - 3 * x.var() ** 2, rel=0.05)


def test_shapes_that_are_no_density_are_cut() -> None:
    found = rectified_moments(np.array([-3.0]), np.ones(1), np.array([50.0]), np.array([1000.0]))
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in found)
    assert found[0] <= 1.0


@pytest.mark.parametrize("shape", [3.0, 8.0])
def test_expectations_of_a_skewed_value(shape: float) -> None:
    """Of a gamma variable's hardswish, whose third cumulant is 2 and whose fourth is 6 times the shape."""
    points, weights = np.polynomial.laguerre.laggauss(60)
    density = weights * points ** (shape - 1) / math.gamma(shape)

    def f(z: np.ndarray) -> np.ndarray:
        return np.asarray(z * np.clip(z + 3.0, 0.0, 6.0) / 6.0)

    scale = 1.0 / math.sqrt(shape)
    true = float(density @ f((points - shape) * scale))
    nodes, normal = np.polynomial.hermite_e.hermegauss(120)

    def expected(mean: np.ndarray) -> np.ndarray:
        return np.asarray(f(mean[..., None] + nodes) @ normal / normal.sum())

    one = np.ones(1)
    third_fourth = 2.0 * shape * scale**3 * one, 6.0 * shape * scale**4 * one
    found = float(shaped_expectation(expected, 0.0 * one, one, *third_fourth)[0])
    gaussian = float(expected(0.0 * one)[0])
    assert abs(found - true) < 0.35 * abs(gaussian - true)
    assert found == pytest.approx(true, rel=0.03)
