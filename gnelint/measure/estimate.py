"""What random probes say about a trace: an estimate, its 95% interval, and how many probes a wanted precision takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gnelint.records import dataclass

CONFIDENCE = 0.95
_Z = 1.959963984540054  # the normal distribution's quantile at (1 + CONFIDENCE) / 2
_WIDENED = 0.5
"""The skewness is itself an estimate, which Hall's intervals do not know: 8 probes were measured to cover the truth in
92 to 95 of 100 runs without this, in 93 to 97 with it; beyond 32 probes it makes no difference."""


@dataclass(frozen=True)
class Estimate:
    """A number with the interval that holds the truth with probability `CONFIDENCE`.

    Attributes:
        value: the mean over the probes.
        low, high: the interval; infinite where there are too few probes to tell.
        probes: how many it stands on.
    """

    value: float
    low: float
    high: float
    probes: int

    @property
    def relative_error(self) -> float:
        """The interval's larger half over the value; inf for a value of 0 that is not certain."""
        half = max(self.high - self.value, self.value - self.low)
        if half == 0:
            return 0.0
        return half / abs(self.value) if self.value and math.isfinite(half) else math.inf

    def log2(self) -> Estimate:
        """The same of the logarithm to base 2; -inf for zero."""
        return Estimate(_log2(self.value), _log2(self.low), _log2(self.high), self.probes)


def estimate(samples: Sequence[float] | np.ndarray, *, least: float = -math.inf) -> Estimate:
    """The mean of independent samples with its interval, cut at the least value that the mean can have.

    Samples of a quadratic form are skewed, so Student's interval covers too rarely; Hall's transformation corrects it
    for the skewness of the samples (P. Hall, On the removal of skewness by transformation, 1992).
    """
    x = np.asarray(samples, dtype=np.float64)
    k = x.size
    mean = float(x.mean())
    if not np.isfinite(x).all():
        return Estimate(mean, -math.inf, math.inf, k)
    if k < 2:
        return Estimate(mean, -math.inf, math.inf, k)
    deviation = float(x.std(ddof=1))
    if deviation <= 1e-9 * abs(mean):  # rounding: every probe says the same, as for an orthogonal matrix
        rounding = 1e-6 * abs(mean)
        return Estimate(mean, mean - rounding, mean + rounding, k)
    skewness = float(((x - mean) ** 3).mean()) / deviation**3
    error, quantile = deviation / math.sqrt(k), student_quantile(k - 1) * (1 + _WIDENED / k)
    low = mean - error * _unskewed(quantile, skewness, k)
    high = mean - error * _unskewed(-quantile, skewness, k)
    return Estimate(mean, max(low, least), high, k)


def _unskewed(t: float, skewness: float, k: int) -> float:
    """The studentised mean whose transform, which is nearly symmetric, is `t`."""
    a, shift = skewness / (3 * math.sqrt(k)), skewness / (6 * math.sqrt(k))
    if abs(a) < 1e-9:
        return t
    return float(np.cbrt(1 + 3 * a * (t - shift)) - 1) / a


def spectrum_variance(phis: Sequence[float], squares: Sequence[float]) -> Estimate:
    """tr((J J^T)^2)/m - phi^2 from the samples ||v||^2/m and ||J v||^2/m, v = J^T g, of the same probes g.

    phi^2 is taken from pairs of different probes: the square of an estimate is too large on average.
    """
    x, y = np.asarray(phis, dtype=np.float64), np.asarray(squares, dtype=np.float64)
    k = x.size
    if k < 2:
        return Estimate(math.nan, -math.inf, math.inf, k)
    pairs = (x.sum() ** 2 - (x**2).sum()) / (k * (k - 1))
    value = float(y.mean() - pairs)
    around = estimate(y - 2 * x.mean() * x)  # the influence of each probe on the value
    scale = abs(float(y.mean()))
    rounding = 1e-6 * scale
    return Estimate(
        value, value - max(around.value - around.low, rounding), value + max(around.high - around.value, rounding), k
    )


def probes_for(samples: Sequence[float], relative_error: float) -> int:
    """How many probes bring the interval's half width to this fraction of the value, from those that there are.

    A tenth is added: the spread is itself an estimate, and to stop where it happens to look small covers too rarely.
    """
    found = estimate(samples)
    if found.relative_error <= relative_error:
        return found.probes
    if not math.isfinite(found.relative_error):
        return 2 * max(found.probes, 2)
    return math.ceil(1.1 * found.probes * (found.relative_error / relative_error) ** 2)


def student_quantile(freedom: int) -> float:
    """Student's quantile at (1 + CONFIDENCE) / 2: exact for 1 and 2, else the Cornish-Fisher expansion, within 0.5%."""
    p = (1 + CONFIDENCE) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z, n = _Z, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / n ** (power + 1) for power, term in enumerate(terms))


def _log2(value: float) -> float:
    return math.log2(value) if value > 0 else -math.inf
