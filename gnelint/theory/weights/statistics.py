"""Statistics of real weight tensors, streamed: a tensor of any size is read a few megabytes at a time.

A convolution's fan_in is in_channels / groups * taps and its fan_out is out_channels / groups * taps; for a linear
map they are its two sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gnelint.ir.graph import Parameter
from gnelint.ir.laws import Law
from gnelint.ir.mapped import sampled, taken
from gnelint.records import dataclass
from gnelint.theory.weights.passes import CHUNK_ENTRIES, flat_chunks, passed


@dataclass(frozen=True)
class WeightStatistics:
    """Sums over all entries of one tensor, in float64.

    Attributes:
        size: number of entries.
        mean: average entry.
        second_moment: average squared entry; `size * second_moment` is the squared Frobenius norm.
        kurtosis: E (w - mean)^4 / variance^2: 3 for a Gaussian, 1.8 for a uniform draw; nan for a constant tensor.
        minimum, maximum: the extreme entries.
        finite: whether no entry is nan or infinite (those are left out of the sums).
    """

    size: int
    mean: float
    second_moment: float
    kurtosis: float
    minimum: float
    maximum: float
    finite: bool = True

    @property
    def variance(self) -> float:
        """Variance of the entries, never negative."""
        return max(self.second_moment - self.mean**2, 0.0)

    @property
    def std(self) -> float:
        """Standard deviation of the entries."""
        return math.sqrt(self.variance)

    @property
    def is_constant(self) -> bool:
        """Whether every entry is the same number."""
        return self.minimum == self.maximum


def chunks(parameter: Parameter, entries: int = CHUNK_ENTRIES) -> Iterator[np.ndarray]:
    """The parameter's entries as flat float arrays of about `entries` each, in stored order.

    The stored array may be memory-mapped: no more than one chunk is converted at a time.
    """
    yield from flat_chunks(parameter.load(), entries)


def weight_statistics(parameter: Parameter) -> WeightStatistics:
    """From one pass over the tensor. An empty tensor has size 0 and moments 0."""
    if parameter.law is not None:
        return _statistics_of_law(parameter.size, parameter.law)
    if parameter.provenance == "placeholder":  # may stand for more entries than any memory holds
        return _constant_statistics(parameter)
    found = passed(parameter)
    if found.size == 0:
        return WeightStatistics(0, 0.0, 0.0, math.nan, 0.0, 0.0, found.finite)
    m1, m2, m3, m4 = found.powers
    variance = max(m2 - m1**2, 0.0)
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    mean = found.shift + m1
    square = variance**2 if variance < 1e150 else math.inf
    kurtosis = fourth / square if found.minimum < found.maximum and 0 < square < math.inf else math.nan
    second = variance + mean**2
    return WeightStatistics(found.size, mean, second, kurtosis, found.minimum, found.maximum, found.finite)


def _constant_statistics(parameter: Parameter) -> WeightStatistics:
    """Statistics of a tensor that repeats one value."""
    value = float(parameter.load()[(0,) * len(parameter.shape)]) if parameter.size else 0.0
    return WeightStatistics(parameter.size, value, value**2, math.nan, value, value)


def _statistics_of_law(size: int, law: Law) -> WeightStatistics:
    """What is expected of independent entries; the extremes of unbounded ones are those of so many Gaussian draws."""
    reach = math.sqrt(2.0 * math.log(max(size, 2)) * law.variance)
    minimum, maximum = max(law.minimum, law.mean - reach), min(law.maximum, law.mean + reach)
    return WeightStatistics(size, law.mean, law.second_moment, law.kurtosis, minimum, maximum)


def looks_initialised(statistics: WeightStatistics) -> bool:
    """Whether a weight tensor's entries could be a fresh draw: constant, uniform, Gaussian, truncated Gaussian.

    Training leaves heavy tails: the kurtosis of a trained layer is well above 3. The allowance is six standard errors
    of a Gaussian's sample kurtosis, sqrt(24 / size).
    """
    if statistics.size == 0 or statistics.is_constant:
        return True
    return statistics.kurtosis <= 3.15 + 6.0 * math.sqrt(24.0 / statistics.size)


def mostly_zero(parameter: Parameter, entries: int = 1 << 14) -> bool:
    """Whether most of a sample of the entries is exactly zero, as in delta-orthogonal, identity and sparse
    initialisation."""
    stored = parameter.load().reshape(-1)
    sample = sampled(stored, max(1, stored.size // entries))
    return sample.size > 0 and float(np.mean(sample == 0)) > 0.5


_SAMPLE = 8
"""Rows or columns that orthogonality is judged by."""

_FEW = 64
"""Entries below which a kurtosis tells nothing."""


def distribution(parameter: Parameter, statistics: WeightStatistics) -> str:
    """What the entries look like: the name of a draw, or "sparse", "trained", "other", or why it cannot be said.

    The kurtosis tells: 3 for a Gaussian, 1.8 for a uniform draw, 2.37 for a Gaussian cut at two standard deviations.
    """
    if parameter.provenance == "placeholder":
        return "placeholder"
    if statistics.is_constant:
        return "constant"
    if statistics.size < _FEW:
        return "too few"
    if not looks_initialised(statistics):
        if not mostly_zero(parameter):
            return "trained"
        return "delta-orthogonal" if _delta_orthogonal(parameter) else "sparse"
    if parameter.law is None and len(parameter.shape) > 1 and _orthogonal(parameter.array()):
        return "orthogonal"
    known = {"uniform": 1.8, "truncated Gaussian": 2.37, "Gaussian": 3.0}
    name = min(known, key=lambda each: abs(known[each] - statistics.kurtosis))
    allowed = 0.15 + 6.0 * math.sqrt(24.0 / statistics.size)
    return name if abs(known[name] - statistics.kurtosis) <= allowed else "other"


def _delta_orthogonal(parameter: Parameter) -> bool:
    """Whether one tap of a kernel alone has numbers, an orthogonal matrix between channels (arXiv 1806.05393)."""
    if len(parameter.shape) < 3:
        return False
    array = parameter.array()
    taps = array.reshape(*array.shape[:2], -1)
    used = np.flatnonzero(np.any(taps != 0, axis=(0, 1)))
    return len(used) == 1 and taps.shape[2] > 1 and _orthogonal(taps[:, :, used[0]])


def _orthogonal(array: np.ndarray) -> bool:
    """Whether the first few rows, or columns where there are more rows, are of one length and at right angles."""
    rows, inner = array.shape[0], math.prod(array.shape[1:])
    if rows <= inner:
        vectors = np.asarray(taken(array[:_SAMPLE]), np.float64).reshape(-1, inner)
    else:
        vectors = np.asarray(taken(array[:, :_SAMPLE]), np.float64).reshape(rows, -1)[:, :_SAMPLE].T
    if not np.isfinite(vectors).all():
        return False
    gram = vectors @ vectors.T
    size = float(np.trace(gram)) / len(gram)
    return len(gram) > 1 and size > 0 and float(np.abs(gram - size * np.eye(len(gram))).max()) < 1e-3 * size


def gain(op: str, role: str, shape: tuple[int, ...], statistics: WeightStatistics) -> float | None:
    """sqrt(fan_in E[w^2]) of a linear map's weight: sqrt(2) at He initialisation, 1 at LeCun's; None for others."""
    if op not in ("linear", "conv", "lstm", "gru", "rnn") or role not in ("weight", "recurrent") or len(shape) < 2:
        return None
    return math.sqrt(math.prod(shape[1:]) * statistics.second_moment)
