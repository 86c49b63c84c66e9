"""Moments of softmax probabilities: the theory's vectors, limits, and draws."""

from __future__ import annotations

import numpy as np
import pytest

from gnelint.theory.gaussian.softmax import capped_softmax_moments, softmax_moments


@pytest.mark.parametrize(
    ("count", "variance"), [(4, 0.25), (16, 0.25), (256, 2.0), (256, 9.0), (1024, 4.0), (3, 1.0), (8, 16.0)]
)
def test_against_draws(count: int, variance: float) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, count)) * variance**0.5
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    s2, s3 = (p**2).sum(axis=1), (p**3).sum(axis=1)
    k = s2 - 2 * s3 + s2**2
    found = softmax_moments(count, variance)
    for value, sample in ((found.s2, s2), (found.k, k)):
        error = sample.std(ddof=1) / 3000**0.5
        assert value == pytest.approx(
            sample.mean(), abs=5 * error + 0.02 * sample.mean()
        )  # 2 %: the documented accuracy


@pytest.mark.parametrize("variance", [16.5, 25.0, 64.0, 100.0, 400.0])
@pytest.mark.parametrize("count", [8, 50, 512])
def test_spiked_distributions(count: int, variance: float) -> None:
    """Unscaled logits of wide heads: the quadrature once said 0.0 and 0.8 for k here."""
    z = np.random.default_rng(1).normal(size=(4000, count)) * variance**0.5
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    s2, s3 = (p**2).sum(axis=1), (p**3).sum(axis=1)
    k = s2 - 2 * s3 + s2**2
    found = softmax_moments(count, variance)
    assert found.s2 == pytest.approx(s2.mean(), rel=0.05)
    assert found.k == pytest.approx(k.mean(), rel=0.1)  # two samples of 2000 to 4000, k as wide as its mean


def test_limits() -> None:
    assert softmax_moments(1, 3.0) == softmax_moments(0, 1.0)
    assert softmax_moments(1, 3.0).k == 0.0
    uniform = softmax_moments(4, 0.0)
    assert (uniform.s2, uniform.k) == pytest.approx((1 / 4, 3 / 16))
    frozen = softmax_moments(50, 1e6)
    assert 0.95 < frozen.s2 <= 1.0
    assert 0.0 <= frozen.k < 0.02


@pytest.mark.parametrize("variance", [0.01, 0.1, 0.3, 0.5])
def test_the_expansion_meets_the_integral(variance: float) -> None:
    """Where the cheap expansion takes over, nothing jumps by more than the 2 % it is allowed."""
    counts = np.unique(np.geomspace(50, 20000, 25).astype(int))
    scaled = np.array([softmax_moments(int(n), variance).s2 * n for n in counts])
    assert np.all(np.abs(np.diff(scaled)) < 0.02 * scaled[1:])
    assert scaled[-1] == pytest.approx(np.exp(variance), rel=1e-3)


@pytest.mark.parametrize(
    ("count", "variance", "cap"), [(16, 1.0, 50.0), (64, 9.0, 50.0), (24, 4.0, 2.0), (128, 1.0, 1.0)]
)
def test_soft_caps(count: int, variance: float, cap: float) -> None:
    """What z gets of the probabilities of cap tanh(z / cap), by its first terms and by draws."""
    z = np.random.default_rng(1).normal(size=(4000, count)) * variance**0.5
    p = np.exp(cap * np.tanh(z / cap))
    p /= p.sum(axis=1, keepdims=True)
    slope, s2 = 1 - np.tanh(z / cap) ** 2, (p**2).sum(axis=1)
    k = (p**2 * slope**2 * (1 - 2 * p + s2[:, None])).sum(axis=1)
    found, mean_slope = capped_softmax_moments(count, variance, cap)
    assert found.s2 == pytest.approx(s2.mean(), rel=0.05)
    assert found.k == pytest.approx(k.mean(), rel=0.05)
    assert mean_slope == pytest.approx((p * slope).sum(axis=1).mean(), rel=0.02)
