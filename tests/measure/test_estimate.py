"""Estimates from probes: their intervals hold the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gnelint.measure.estimate import estimate, probes_for, spectrum_variance, student_quantile

RUNS = 400
COVERED = range(round(0.93 * RUNS), round(0.97 * RUNS) + 1)


def matrix(kind: str, m: int, generator: np.random.Generator) -> np.ndarray:
    """A random Jacobian: i.i.d. entries, a product of five, or a wide spread of singular values."""
    if kind == "iid":
        return generator.standard_normal((m, 2 * m)) / math.sqrt(2 * m)
    if kind == "product":
        found = np.eye(m)
        for _ in range(5):
            found = found @ generator.standard_normal((m, m)) / math.sqrt(m)
        return found
    left, right = (np.linalg.qr(generator.standard_normal((m, m)))[0] for _ in range(2))
    return left @ np.diag(np.exp(generator.standard_normal(m))) @ right


def samples(j: np.ndarray, probes: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """||J^T g||^2 / m and ||J J^T g||^2 / m of random signs g."""
    g = generator.choice([-1.0, 1.0], size=(probes, j.shape[0]))
    v = g @ j
    return (v**2).sum(1) / j.shape[0], ((v @ j.T) ** 2).sum(1) / j.shape[0]


@pytest.mark.parametrize("kind", ["iid", "product", "wide"])
@pytest.mark.parametrize(("m", "probes"), [(32, 8), (32, 16), (128, 16), (64, 64)])
def test_intervals_of_phi_cover_the_truth(kind: str, m: int, probes: int) -> None:
    generator = np.random.default_rng(m + probes)
    covered = 0
    for _ in range(RUNS):
        j = matrix(kind, m, generator)
        found = estimate(samples(j, probes, generator)[0])
        covered += found.low <= np.trace(j @ j.T) / m <= found.high
    assert covered in COVERED


@pytest.mark.parametrize("kind", ["iid", "product", "wide"])
def test_intervals_of_the_spectrums_variance_cover_the_truth(kind: str) -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(RUNS):
        j = matrix(kind, 64, generator)
        gram = j @ j.T
        truth = np.trace(gram @ gram) / 64 - (np.trace(gram) / 64) ** 2
        found = spectrum_variance(*samples(j, 64, generator))
        covered += found.low <= truth <= found.high
    assert covered in COVERED


@pytest.mark.parametrize("kind", ["iid", "product"])
def test_intervals_cover_when_probing_stops_by_precision(kind: str) -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(4 * RUNS):
        j = matrix(kind, 32, generator)
        found, wanted = samples(j, 8, generator)[0], 0
        while (wanted := min(probes_for(found, 0.1), 256)) > found.size:
            found = np.concatenate([found, samples(j, wanted - found.size, generator)[0]])
        ends = estimate(found)
        covered += ends.low <= np.trace(j @ j.T) / 32 <= ends.high
    assert 0.93 <= covered / (4 * RUNS) <= 0.97  # to stop where the spread looks small costs a little coverage


def test_an_orthogonal_jacobian_is_measured_exactly() -> None:
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    first, second = samples(q, 8, np.random.default_rng(1))
    phi, variance = estimate(first), spectrum_variance(first, second)
    assert phi.low <= 1.0 <= phi.high
    assert phi.relative_error < 1e-5
    assert abs(variance.value) < 1e-12
    assert variance.low <= 0.0 <= variance.high


def test_one_probe_has_no_interval() -> None:
    found = estimate([0.5])
    assert found.value == 0.5
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_numbers_that_are_none_have_no_interval() -> None:
    found = estimate([1.0, math.inf, 1.0])
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_zero_is_zero_for_certain() -> None:
    found = estimate([0.0, 0.0, 0.0])
    assert (found.value, found.low, found.high, found.relative_error) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 15, 100])
def test_students_quantile(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=5e-3)


def test_the_standard_error_is_theorys() -> None:
    """Theory 7.1: with Gaussian probes the relative deviation of one is sqrt(2 (1 + c) / m), c = rows over columns."""
    generator = np.random.default_rng(3)
    m, n = 200, 400
    j = generator.standard_normal((m, n)) / math.sqrt(n)
    found = ((generator.standard_normal((4000, m)) @ j) ** 2).sum(1) / m
    assert found.std() / found.mean() == pytest.approx(math.sqrt(2 * (1 + m / n) / m), rel=0.05)
