"""Moments of softmax probabilities over n independent Gaussian logits of variance q.

S_k = sum_j p_j^k. The exact value is a one-dimensional integral, from 1/Z^k = int u^(k-1) e^(-uZ) du / (k-1)! and the
independence of the logits: E S_k = n int u^(k-1)/(k-1)! E[e^{kz} e^{-u e^z}] E[e^{-u e^z}]^(n-1) du. Source: theory
of components, 3.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class SoftmaxMoments:
    """E S2 = E sum p^2 and K = E[S2 - 2 S3 + S2^2] = n phi; together is ||J^T 1||^2, 0 where a row sums to 1."""

    s2: float
    k: float
    together: float = 0.0


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
    s2, s3 = _expected(count, variance, (2,)), _expected(count, variance, (3,))
    s22 = _expected(count, variance, (4,)) + _expected(count, variance, (2, 2))
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


def _sampled(count: int, variance: float, top: int | None = None) -> SoftmaxMoments:
    """By draws with a fixed seed: one or two probabilities hold nearly all, which the integral's quadrature misses."""
    p = _probabilities(count, variance, 1 << (20 if top is None else 17), top)
    square = p * p
    s2, s3 = square.sum(axis=1), (square * p).sum(axis=1)
    return SoftmaxMoments(float(s2.mean()), float((s2 - 2 * s3 + s2**2).mean()))


def _probabilities(count: int, variance: float, numbers: int, top: int | None = None) -> np.ndarray:
    """Rows of softmax probabilities of drawn logits, of the `top` largest of them where it is given."""
    logits = np.random.default_rng(0).standard_normal((max(64, numbers // count), count)) * math.sqrt(variance)
    if top is not None:
        logits = np.partition(logits, count - top, axis=1)[:, count - top :]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def _expected(count: int, variance: float, powers: tuple[int, ...]) -> float:
    """E of the sum over distinct j_1, j_2, ... of the product of p_{j_i}^{powers_i}."""
    points, weights = np.polynomial.hermite_e.hermegauss(96)
    weights = weights / math.sqrt(2.0 * math.pi)
    deviation = math.sqrt(variance)
    z = deviation * points
    log_u = np.linspace(-math.log(count) - 9.0 * deviation - 14.0, 4.0 + 5.0 * deviation, 1200)
    u = np.exp(log_u)
    total = sum(powers)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        log_value = total * log_u - math.lgamma(total)
        log_value += (count - len(powers)) * np.log(np.exp(-np.multiply.outer(u, np.exp(z))) @ weights)
        for index, power in enumerate(powers):
            # E[e^{kz} g(z)] = e^{k^2 q/2} E[g(z + k q)]: shifting the Gaussian keeps the quadrature accurate
            tilted = np.exp(-np.multiply.outer(u, np.exp(z + power * variance))) @ weights
            log_value += power**2 * variance / 2 + np.log(tilted) + math.log(count - index)
        value = np.exp(np.minimum(log_value, 700.0))
    return float(min(np.trapezoid(value, log_u), 1.0))
