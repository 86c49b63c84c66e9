"""Averages over the variance of few Gaussian values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gnelint.theory.gaussian.few_values import inverse_moments


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 1.0])
def test_two_values(epsilon: float) -> None:
    """One degree of freedom: E 1 / (z^2 + e) = sqrt(pi / 2e) exp(e / 2) erfc(sqrt(e / 2))."""
    across, along = inverse_moments(np.array([1.0]), np.array([epsilon]))
    half = epsilon / 2
    assert across[0] == pytest.approx(math.sqrt(math.pi / 4 / half) * math.exp(half) * math.erfc(half**0.5), rel=1e-6)
    z = np.linspace(-12.0, 12.0, 4_000_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    integral = float((density * epsilon**2 / (z**2 + epsilon) ** 3).sum() * (z[1] - z[0]))
    assert along[0] == pytest.approx(integral, rel=1e-4)


@pytest.mark.parametrize("freedom", [5.0, 20.0, 64.0])
def test_many_values(freedom: float) -> None:
    """E 1 / s^2 = k / ((k - 2) q), and what lies along the values is out."""
    across, along = inverse_moments(np.array([freedom]), np.array([0.0]))
    assert across[0] == pytest.approx(freedom / (freedom - 2), rel=1e-6)
    assert along[0] == pytest.approx(0.0, abs=1e-9)
