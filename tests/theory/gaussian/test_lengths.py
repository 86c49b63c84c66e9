"""Lengths of Gaussian vectors against closed forms and draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gnelint.theory.gaussian.lengths import derivatives, mean_length


def shares(entries: list[tuple[np.ndarray, np.ndarray]], added: float = 0.0) -> list[np.ndarray]:
    return [square for _, square in derivatives(entries, added)]


def pair(mean: float, variance: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([mean]), np.array([variance])


@pytest.mark.parametrize("count", [1, 2, 3, 10, 64])
@pytest.mark.parametrize("variance", [1e-12, 1.0, 1e9])
def test_of_mean_zero_it_is_a_chi_distribution(count: int, variance: float) -> None:
    expected = math.sqrt(2.0 * variance) * math.exp(math.lgamma((count + 1) / 2) - math.lgamma(count / 2))
    assert mean_length([pair(0.0, variance)], [count])[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ratio", [1e-4, 0.1, 1.0, 7.0, 1e5])
def test_of_two_with_mean_zero_each_has_the_share_of_its_deviation(ratio: float) -> None:
    found = shares([pair(0.0, ratio**2), pair(0.0, 1.0)])
    assert [float(share[0]) for share in found] == pytest.approx([ratio / (1 + ratio), 1 / (1 + ratio)], rel=1e-6)


def test_shares_are_one_together_and_less_beside_an_epsilon() -> None:
    entries = [pair(0.3, 1.0), pair(-2.0, 0.01), pair(0.0, 4.0)]
    assert sum(float(share[0]) for share in shares(entries)) == pytest.approx(1.0, rel=1e-9)
    assert sum(float(share[0]) for share in shares(entries, added=1.0)) < 0.9


def test_of_any_means_and_variances_it_is_what_draws_give() -> None:
    draws = np.random.default_rng(0).normal(size=(3, 1_000_000))
    entries = [(0.5, 1.0), (2.0, 0.04), (0.0, 3.0)]
    x = np.array([mean + math.sqrt(variance) * row for (mean, variance), row in zip(entries, draws, strict=True)])
    length = np.sqrt((x**2).sum(0) + 0.1)
    known = [pair(*entry) for entry in entries]
    assert mean_length(known, [1, 1, 1], 0.1)[0] == pytest.approx(length.mean(), rel=2e-3)
    for (direction, share), row in zip(derivatives(known, 0.1), x, strict=True):
        assert share[0] == pytest.approx(((row / length) ** 2).mean(), rel=4e-3)
        assert direction[0] == pytest.approx((row / length).mean(), abs=3e-3)


def test_nothing_has_no_length() -> None:
    assert mean_length([pair(0.0, 0.0)], [4])[0] == 0.0
    assert [float(share[0]) for share in shares([pair(0.0, 0.0), pair(0.0, 0.0)])] == [0.0, 0.0]
