"""One pass over a stored tensor for everything that is asked of all its numbers: a tensor of any size is read a few
hundred kilobytes at a time, which are converted once and stay in a core's cache for all sums.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from gnelint.ir.graph import Parameter
from gnelint.ir.mapped import pieces
from gnelint.records import dataclass
from gnelint.theory.weights.contraction import as_float

CHUNK_ENTRIES = 1 << 16
"""Entries converted at a time: few enough to stay in a core's cache."""
_LARGE = 1e9
"""Entries beyond this are added up in float64: their fourth powers leave float32."""
_LONGEST = 1 << 20
"""Entries of the longest row that is one piece."""
_FEW, _SHARE = 1 << 16, 16
"""Sums of rows are kept where they are so few, or so much fewer than the entries."""


@dataclass(frozen=True, eq=False)
class RowSums:
    """Of each unit's row of a tensor.

    Attributes:
        energy: (rows, taps), the squares of its entries at each tap; taps are what lies behind the second axis.
        mean: (rows,), of its entries.
        constant: how many rows are of one number.
        zero: how many entries of all rows are 0.
    """

    energy: np.ndarray
    mean: np.ndarray
    constant: int
    zero: int


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass over all entries found.

    Attributes:
        size: number of finite entries.
        shift: what was taken off each of them.
        powers: the mean first, second, third and fourth power of what is left, in float64.
        minimum, maximum: the extreme entries.
        finite: whether no entry is nan or infinite; those are in no sum.
        rows: of the units' rows; None where they do not lie together, or hold numbers of extreme size.
    """

    size: int
    shift: float
    powers: tuple[float, float, float, float]
    minimum: float
    maximum: float
    finite: bool
    rows: RowSums | None


def passed(parameter: Parameter) -> Pass:
    """The pass over a parameter's stored numbers, made when it is first asked for."""
    return parameter.once("pass", lambda: _read(parameter))


def row_sums(weight: Parameter, axis: int = 0) -> RowSums | None:
    """What the pass knows of a weight's rows, one for each unit along an axis; None where it knows nothing of them."""
    if axis != 0 or len(weight.shape) < 2 or weight.law is not None or weight.provenance == "placeholder":
        return None
    return passed(weight).rows


def flat_chunks(array: np.ndarray, entries: int) -> Iterator[np.ndarray]:
    """An array's entries as flat float arrays of about `entries` each, in stored order."""
    for _, piece in pieces(array.reshape(-1), entries):
        yield as_float(piece)


@np.errstate(over="ignore", invalid="ignore")  # the squares of a mask of the lowest float64
def _read(parameter: Parameter) -> Pass:
    array = parameter.load()
    rows = _collector(parameter, array)
    chunks = flat_chunks(array, CHUNK_ENTRIES) if rows is None else rows.chunks(array)
    size, shift, finite = 0, 0.0, True
    sums = np.zeros(4)
    minimum, maximum = math.inf, -math.inf
    for chunk in chunks:
        low, high = chunk.min(), chunk.max()
        if not (low > -_LARGE and high < _LARGE):  # masks of the lowest float, infinities, no numbers
            rows = None
            known = np.isfinite(chunk)
            finite = finite and bool(known.all())
            chunk = chunk[known].astype(np.float64)
            if chunk.size == 0:
                continue
            low, high = chunk.min(), chunk.max()
        squares = chunk * chunk
        # float32 sums of this length are exact to about 1e-6 (numpy adds pairwise), enough for every statistic here
        total, second = (float(chunk.sum()), float(squares.sum())) if rows is None else rows.add(chunk, squares)
        if size == 0 and abs(total) > 0.1 * math.sqrt(max(chunk.size * second - total**2, 0.0)):
            shift = total / chunk.size
        if shift:  # powers are taken about the first chunk's mean, to stay accurate
            less = chunk.dtype.type(shift)
            chunk, low, high = chunk - less, low - less, high - less
            squares = chunk * chunk
            total, second = total - shift * chunk.size, float(squares.sum())
        flat, squares = chunk.reshape(-1), squares.reshape(-1)
        sums += (total, second, float(np.dot(squares, flat)), float(np.dot(squares, squares)))
        minimum, maximum = min(minimum, float(low) + shift), max(maximum, float(high) + shift)
        size += chunk.size
    m1, m2, m3, m4 = (float(each) for each in sums / max(size, 1))
    found = None if rows is None else rows.found()
    return Pass(size, shift, (m1, m2, m3, m4), minimum, maximum, finite, found)


class _Collector(ABC):
    """Adds up what is asked of rows, chunk by chunk."""

    _zero = 0

    @abstractmethod
    def chunks(self, array: np.ndarray) -> Iterator[np.ndarray]:
        """The stored array as floats, some rows at a time."""

    @abstractmethod
    def add(self, chunk: np.ndarray, squares: np.ndarray) -> tuple[float, float]:
        """Take a chunk in; the sum of its entries and of their squares."""

    @abstractmethod
    def found(self) -> RowSums:
        """What it has come to."""

    def _count_zeros(self, chunk: np.ndarray, squares: np.ndarray) -> None:
        if not squares.min() > 0:  # or it is too small to have a square
            self._zero += int(np.count_nonzero(chunk == 0))


class _Rows(_Collector):
    """Of a tensor whose rows lie together."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape[0], shape[1], math.prod(shape[2:])
        self._energy, self._mean = np.empty((shape[0], self._shape[2])), np.empty(shape[0])
        self._constant = self._read = 0
        self._ones: np.ndarray | None = None

    def chunks(self, array: np.ndarray) -> Iterator[np.ndarray]:
        stored = array.reshape(self._shape)
        for _, piece in pieces(stored, max(1, CHUNK_ENTRIES // stored[:1].size)):
            yield as_float(piece)

    def add(self, chunk: np.ndarray, squares: np.ndarray) -> tuple[float, float]:
        rows, inner, taps = chunk.shape
        if self._ones is None:
            self._ones = np.ones(inner * taps, chunk.dtype)
        flat, part = chunk.reshape(rows, -1), slice(self._read, self._read + rows)
        if taps == 1:
            self._energy[part, 0] = np.einsum("oi,oi->o", flat, flat)
        else:
            self._energy[part] = np.matmul(self._ones[None, :inner], squares)[:, 0]
        totals = (flat @ self._ones).astype(np.float64)
        self._mean[part] = totals / (inner * taps)
        alike = flat[flat[:, 0] == flat[:, -1]]
        self._constant += int((alike == alike[:, :1]).all(axis=1).sum())
        self._count_zeros(chunk, squares)
        self._read += rows
        return float(totals.sum()), float(self._energy[part].sum())

    def found(self) -> RowSums:
        return RowSums(self._energy, self._mean, self._constant, self._zero)


class _Columns(_Collector):
    """Of a matrix whose columns lie together, each a number of every unit."""

    def __init__(self, units: int) -> None:
        self._energy, self._total = np.zeros(units), np.zeros(units)
        self._alike = np.ones(units, bool)
        self._first: np.ndarray | None = None
        self._read = 0

    def chunks(self, array: np.ndarray) -> Iterator[np.ndarray]:
        for _, piece in pieces(array, max(1, CHUNK_ENTRIES // array[:1].size)):
            yield as_float(piece)

    def add(self, chunk: np.ndarray, squares: np.ndarray) -> tuple[float, float]:
        ones = np.ones(len(chunk), chunk.dtype)
        if self._first is None:
            self._first = chunk[0].copy()
        if self._alike.any():
            self._alike &= (chunk == self._first).all(axis=0)
        energy, total = (ones @ squares).astype(np.float64), (ones @ chunk).astype(np.float64)
        self._energy += energy
        self._total += total
        self._count_zeros(chunk, squares)
        self._read += len(chunk)
        return float(total.sum()), float(energy.sum())

    def found(self) -> RowSums:
        return RowSums(self._energy[:, None], self._total / self._read, int(self._alike.sum()), self._zero)


def _collector(parameter: Parameter, array: np.ndarray) -> _Collector | None:
    """What adds up the rows of a parameter; None where that would take other passes, or more memory than it saves."""
    if array.ndim < 2 or array.size == 0 or not array.flags.c_contiguous or array[:1].size > _LONGEST:
        return None
    taps = math.prod(array.shape[2:])
    if parameter.permutation in (None, tuple(range(array.ndim))):
        return _Rows(array.shape) if len(array) * taps <= max(_FEW, array.size // _SHARE) else None
    return _Columns(array.shape[1]) if parameter.permutation == (1, 0) else None
