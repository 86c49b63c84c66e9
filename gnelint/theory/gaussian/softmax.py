"""Moments of softmax probabilities over n independent Gaussian logits of variance q.

S_k = sum_j p_j^k. The exact value is a one-dimensional integral, from 1/Z^k = int u^(k-1) e^(-uZ) du / (k-1)! and the
independence of the logits: E S_k = n int u^(k-1)/(k-1)! E[e^{kz} e^{-u e^z}] E[e^{-u e^z}]^(n-1) du. Source: theory
of components, 3.6.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from gnelint.records import dataclass


@dataclass(frozen=True)
class SoftmaxMoments:
    """E S2 = E sum p^2 and K = E[S2 - 2 S3 + S2^2] = n phi; together is ||J^T 1||^2, 0 where a row sums to 1."""

    s2: float
    k: float
    together: float = 0.0


_NEARLY_LINEAR = 0.98
"""Slope of a soft cap from which on it is taken by its first terms."""

_OF_CAPPED = 1 << 15
"""Numbers that are drawn of capped logits."""

SPIKED = 16.0
"""Variance of the logits above which the largest of them decide alone."""


@lru_cache(maxsize=4096)
def softmax_moments(count: int, variance: float) -> SoftmaxMoments:
    """The moments for `count` logits of this variance, good to about 2 %; beyond a variance of SPIKED to about 5 %."""
    if count <= 1:
        return SoftmaxMoments(1.0, 0.0)
    variance = min(variance, 1e4)  # beyond, one probability is 1
    if variance <= 1e-12:
        return SoftmaxMoments(1.0 / count, 1.0 / count - 1.0 / count**2)
    if math.exp(min(2.0 * variance, 700.0)) * 4.0 < 0.02 * count:  # the expansion's own condition, with margin
        growth = math.exp(variance)
        s2 = growth / count * (1.0 + (3 * growth - 2 * growth**2 - 1.0) / count)
        k = growth / count * (1.0 + (4 * growth - 4 * growth**2 - 1.0) / count)
        return SoftmaxMoments(s2, k)
    if variance > SPIKED:
        return _sampled(count, variance)
    rows = _Rows(count, variance)
    s2, s3 = rows.expected(2), rows.expected(3)
    s22 = rows.expected(4) + rows.expected(2, 2)
    return SoftmaxMoments(s2, max(s2 - 2 * s3 + s22, 0.0))


@lru_cache(maxsize=1024)
def top_softmax_moments(count: int, top: int, variance: float) -> SoftmaxMoments:
    """The moments where only the `top` largest of `count` logits count and the others have probability 0."""
    if top >= count:
        return softmax_moments(count, variance)
    if top <= 1:
        return SoftmaxMoments(1.0, 0.0)
    return _sampled(count, min(variance, 1e4), top)


@lru_cache(maxsize=1024)
def kept_softmax_moments(count: int, top: int, variance: float) -> tuple[float, SoftmaxMoments]:
    """E of the sum of the `top` largest probabilities of a row and, over these alone, E sum p^2 and
    K = E sum p^2 (1 - 2 p + S2), S2 over the whole row: the others are set to 0 after the softmax; by draws."""
    if top >= count:
        return 1.0, softmax_moments(count, variance)
    p = np.sort(_probabilities(count, min(variance, 1e4), 1 << 17), axis=1)
    whole = (p * p).sum(axis=1)
    taken = p[:, count - top :]
    square, total = taken * taken, taken.sum(axis=1)
    k = float((square * (1.0 - 2.0 * taken + whole[:, None])).sum(axis=1).mean())
    s2 = square.sum(axis=1)
    together = float((s2 * (1.0 - 2.0 * total) + total**2 * whole).mean())  # sum of p_j^2 (1[j is kept] - total)^2
    return float(total.mean()), SoftmaxMoments(float(s2.mean()), k, together)


@lru_cache(maxsize=4096)
def capped_softmax_moments(count: int, variance: float, cap: float) -> tuple[SoftmaxMoments, float]:
    """The moments where the logits are c tanh(z / c) of `count` z of this variance, and the mean slope.

    Both are of what z gets: K = E sum p^2 (1 - 2 p + S2) tanh'(z / c)^2, and the slope is E sum p tanh'(z / c). Where
    the cap is far off, tanh' = 1 - z^2 / c^2 over the z that e^(2z) weighs, which are no larger than the largest of a
    row; else by draws.
    """
    variance = min(variance, 1e4)
    largest = 2.0 * variance * math.log(max(count, 2))
    spared = [1.0 - (variance + min((power * variance) ** 2, largest)) / cap**2 for power in (1, 2)]
    if spared[1] > _NEARLY_LINEAR:
        moments = softmax_moments(count, variance)
        return replace(moments, k=moments.k * spared[1] ** 2), spared[0]
    scaled = np.tanh(_drawn(count, variance, _OF_CAPPED) / cap)
    p, slope = _normalised(cap * scaled), 1.0 - scaled**2
    square, s2 = p * p, (p * p).sum(axis=1)
    k = (square * slope**2 * (1.0 - 2.0 * p + s2[:, None])).sum(axis=1)
    return SoftmaxMoments(float(s2.mean()), float(k.mean())), float((p * slope).sum(axis=1).mean())


def _sampled(count: int, variance: float, top: int | None = None) -> SoftmaxMoments:
    """By draws with a fixed seed: one or two probabilities hold nearly all, which the integral's quadrature misses."""
    p = _probabilities(count, variance, 1 << (20 if top is None else 17), top)
    square = p * p
    s2, s3 = square.sum(axis=1), (square * p).sum(axis=1)
    return SoftmaxMoments(float(s2.mean()), float((s2 - 2 * s3 + s2**2).mean()))


def _probabilities(count: int, variance: float, numbers: int, top: int | None = None) -> np.ndarray:
    """Rows of softmax probabilities of drawn logits, of the `top` largest of them where it is given."""
    logits = _drawn(count, variance, numbers)
    if top is not None:
        logits = np.partition(logits, count - top, axis=1)[:, count - top :]
    return _normalised(logits)


def _drawn(count: int, variance: float, numbers: int) -> np.ndarray:
    """Rows of logits."""
    rows = max(64, numbers // count)
    return np.random.default_rng(0).standard_normal((rows, count)) * math.sqrt(variance)


def _normalised(logits: np.ndarray) -> np.ndarray:
    """Softmax over each row."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


class _Rows:
    """Expectations over `count` logits of one variance, all by one table of M(t) = E exp(-e^(t + z))."""

    def __init__(self, count: int, variance: float) -> None:
        self._count, self._variance = count, variance
        points, weights = _hermite()
        deviation = math.sqrt(variance)
        low, high = -math.log(count) - 9.0 * deviation - 14.0, 4.0 + 5.0 * deviation
        self._log_u, self._step = np.linspace(low, high, _POINTS, retstep=True)
        ahead = math.ceil(_HIGHEST_POWER * variance / self._step) + 2
        at = low + self._step * np.arange(-1, _POINTS + ahead)
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            table = np.exp(-np.exp(np.add.outer(at, deviation * points))) @ weights
            self._log_m = np.maximum(np.log(table), _NOTHING)

    def expected(self, *powers: int) -> float:
        """E of the sum over distinct j_1, j_2, ... of the product of p_{j_i}^{powers_i}."""
        total = sum(powers)
        log_value = total * self._log_u - math.lgamma(total)
        log_value += (self._count - len(powers)) * self._tilted(0)
        for index, power in enumerate(powers):
            # E[e^{kz} g(z)] = e^{k^2 q/2} E[g(z + k q)]: shifting the Gaussian keeps the quadrature accurate
            log_value += power**2 * self._variance / 2 + self._tilted(power) + math.log(self._count - index)
        with np.errstate(under="ignore"):
            value = np.exp(np.minimum(log_value, 700.0))
        return float(min(np.trapezoid(value, self._log_u), 1.0))

    def _tilted(self, power: int) -> np.ndarray:
        """log E exp(-u e^(z + power q)) on the grid of u: the table further on, by cubics between its points."""
        whole, f = divmod(power * self._variance / self._step, 1.0)
        shares = (-f * (f - 1) * (f - 2) / 6, (f + 1) * (f - 1) * (f - 2) / 2, -(f + 1) * f * (f - 2) / 2,
                  (f + 1) * f * (f - 1) / 6)  # fmt: skip
        parts = (share * self._log_m[int(whole) + at :][:_POINTS] for at, share in enumerate(shares))
        return np.asarray(sum(parts))


_POINTS, _HIGHEST_POWER = 1200, 4
"""Of the grid of u, and the highest power of a probability that is asked for."""

_NOTHING = -745.0
"""Logarithm of the smallest number."""


@lru_cache(maxsize=1)
def _hermite() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of averages over N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(96)
    return points, weights / math.sqrt(2.0 * math.pi)
