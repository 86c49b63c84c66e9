"""Lengths of vectors of independent Gaussians, of any means and variances: sqrt(S), S = c + sum x_i^2.

With the Laplace transform of S, L(t) = E exp(-t S), a product over the entries, each in closed form:

    E exp(-t x^2)     = exp(-t m^2 / q) / sqrt(q),                    q = 1 + 2 t v
    E x^2 exp(-t x^2) = (v / q + m^2 / q^2) E exp(-t x^2)
    E sqrt(S)         = integral of (1 - L(t)) t^(-3/2) dt / (2 sqrt(pi))
    E x_i^2 / S       = integral of E[x_i^2 exp(-t S)] dt
    E x_i / sqrt(S)   = integral of E[x_i exp(-t S)] t^(-1/2) dt / sqrt(pi),  E x exp(-t x^2) = m / q E exp(-t x^2)

over t > 0. The integrands are analytic in log t and fall exponentially on both sides, so that the trapezoidal rule over
log t is exact to rounding. Source: theory 3.4, 3.7.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STEP = 0.125
_LOG = np.arange(-60.0, 60.0, _STEP)
"""log t times the mean of S."""


def mean_length(entries: Sequence[tuple[Array, Array]], counts: Sequence[int], added: float = 0.0) -> Array:
    """E sqrt(S) of vectors with `counts[i]` entries of mean and variance `entries[i]`, some hundred together at most:
    of more the integrand is too steep for the rule.

    Args:
        entries: arrays of one shape, (mean, variance).
        counts: of each pair.
        added: c.
    """
    whole, t = _times(entries, counts, added)
    survival = -np.expm1(_log_laplace(entries, counts, added, t))
    return np.asarray((survival / np.sqrt(t)).sum(-1) * _STEP / (2.0 * np.sqrt(np.pi)) * (whole > 0))


def derivatives(entries: Sequence[tuple[Array, Array]], added: float = 0.0) -> list[tuple[Array, Array]]:
    """E x_i / sqrt(S) and E x_i^2 / S of each entry, the moments of the length's derivative by it; 0 where S is 0.

    Args: as of `mean_length`.
    """
    whole, t = _times(entries, [1] * len(entries), added)
    together = np.exp(_log_laplace(entries, [1] * len(entries), added, t)) * _STEP * (whole > 0)[..., None]
    found = []
    for mean, variance in entries:
        mean, variance = mean[..., None], variance[..., None]
        q = 1.0 + 2.0 * t * variance
        direction = (mean / q * together * np.sqrt(t / np.pi)).sum(-1)
        found.append((direction, ((variance / q + (mean / q) ** 2) * together * t).sum(-1)))
    return found


def _times(entries: Sequence[tuple[Array, Array]], counts: Sequence[int], added: float) -> tuple[Array, Array]:
    whole = added + sum(
        (count * (mean**2 + variance) for (mean, variance), count in zip(entries, counts, strict=True)), np.zeros(1)
    )
    return whole, np.exp(_LOG) / np.where(whole > 0, whole, 1.0)[..., None]


def _log_laplace(entries: Sequence[tuple[Array, Array]], counts: Sequence[int], added: float, t: Array) -> Array:
    total = -added * t
    for (mean, variance), count in zip(entries, counts, strict=True):
        excess = 2.0 * t * variance[..., None]
        total = total - count * (t * mean[..., None] ** 2 / (1.0 + excess) + 0.5 * np.log1p(excess))
    return total
