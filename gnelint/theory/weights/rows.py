"""Statistics of a weight tensor's rows, one for each unit, read a few megabytes at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from gnelint.ir.graph import Parameter
from gnelint.ir.laws import Law
from gnelint.ir.mapped import LARGE, pieces, taken
from gnelint.records import dataclass
from gnelint.theory.sorting import distinct, signs
from gnelint.theory.weights.contraction import EXACT_GRAM, PROBES, as_float, frobenius2, squared_gram
from gnelint.theory.weights.independent import IndependentMatrix
from gnelint.theory.weights.passes import passed, row_sums

CHUNK_ENTRIES = 1 << 20


@dataclass(frozen=True)
class RowStatistics:
    """What can be said of the rows; fractions are between 0 and 1.

    Attributes:
        rows, columns: sizes of the tensor as a matrix, a row for each unit.
        duplicate: fraction of the rows that equal an earlier one, the unit's bias included; of a tensor of one number
            biases do not count, since they shift units and leave their gradients about the same.
        constant: fraction of the rows whose entries are all the same number.
        zero: fraction of the entries that are exactly zero.
        mean_share: part of the squared norm that lies in the rows' means: 0 for centred rows, 1 / columns for
            independent entries of mean zero, 1 for constant rows.
        norm_spread: standard deviation of the rows' squared norms over their mean; 0 for normalised rows.
    """

    rows: int
    columns: int
    duplicate: float
    constant: float
    zero: float
    mean_share: float
    norm_spread: float


def row_statistics(weight: Parameter, bias: Parameter | None = None, axis: int = 0) -> RowStatistics | None:
    """From the one pass over the tensor, where its units lie so; None if it is empty. `axis` is that of the units."""
    if weight.law is not None:
        return _rows_of_law(weight.shape[axis], weight.size // max(weight.shape[axis], 1), weight.law)
    own = None if bias is None or bias.size != weight.shape[axis] else bias.array().reshape(-1)
    rows = weight.shape[axis] if weight.shape else 1
    columns = weight.size // max(rows, 1)
    if not rows or not columns:
        return None
    known = row_sums(weight, axis)
    if known is not None:
        energy, mean, constant, zero = known.energy.sum(axis=1), known.mean, known.constant, known.zero
    else:
        energy, mean, constant, zero = _across(weight, axis) if stored_across(weight, axis) else _along(weight, axis)
    total = float(energy.sum())
    single = constant == rows and mean[0] != 0 and bool((mean == mean[0]).all())
    return RowStatistics(
        rows=rows,
        columns=columns,
        duplicate=(rows - 1 if single else _copies(weight, own, axis)) / rows,
        constant=constant / rows,
        zero=zero / (rows * columns),
        mean_share=float(columns * np.sum(mean**2)) / total if total > 0 else 0.0,
        norm_spread=float(np.std(energy) / np.mean(energy)) if total > 0 else 0.0,
    )


def hiding_rows(table: Parameter) -> np.ndarray | None:
    """Which rows of a table are minus infinity throughout: what looks one up and adds it to logits is hidden.

    None where no row is, or where an entry elsewhere is not finite.
    """
    if table.law is not None or table.provenance == "placeholder" or len(table.shape) != 2 or passed(table).finite:
        return None
    array = table.array()
    hidden = np.concatenate([np.isneginf(piece).all(axis=1) for piece in row_chunks(table)])
    shown = all(bool(np.isfinite(row).all()) for row in array[~hidden])
    return hidden if shown and hidden.any() and not hidden.all() else None


_Sums = tuple[np.ndarray, np.ndarray, int, int]
"""Of each row its squared norm and its mean; how many rows are of one number, and how many entries are zero."""


def _along(weight: Parameter, axis: int) -> _Sums:
    norms: list[np.ndarray] = []
    means: list[np.ndarray] = []
    constant = zero = 0
    for chunk in row_chunks(weight, axis):
        alike = chunk[chunk[:, 0] == chunk[:, -1]]
        constant += int((alike == alike[:, :1]).all(axis=1).sum())
        zero += int(np.count_nonzero(chunk == 0))
        norms.append(np.einsum("ij,ij->i", chunk, chunk, dtype=np.float64))
        means.append(chunk.mean(axis=1, dtype=np.float64))
    return np.concatenate(norms), np.concatenate(means), constant, zero


def _across(weight: Parameter, axis: int) -> _Sums:
    """The same of a matrix whose columns lie together: each run of rows is a part of every page of a large one."""
    energy, total, zero = np.zeros(weight.shape[axis]), np.zeros(weight.shape[axis]), 0
    first: np.ndarray | None = None
    alike = np.ones(weight.shape[axis], bool)
    for chunk in row_chunks(weight, 1 - axis):
        first = chunk[0].copy() if first is None else first
        alike &= (chunk == first).all(axis=0)
        zero += int(np.count_nonzero(chunk == 0))
        energy += np.einsum("ij,ij->j", chunk, chunk, dtype=np.float64)
        total += chunk.sum(axis=0, dtype=np.float64)
    return energy, total / weight.shape[1 - axis], int(alike.sum()), zero


def stored_across(weight: Parameter, axis: int = 0) -> bool:
    """Whether it is a large matrix whose columns lie together."""
    array = weight.array()
    return array.ndim == 2 and array.nbytes >= LARGE and array.strides[axis] < array.strides[1 - axis]


def _rows_of_law(rows: int, columns: int, law: Law) -> RowStatistics | None:
    """What is expected of independent entries: of |w|^2 = sum w_i^2 the variance is n (E w^4 - (E w^2)^2)."""
    if not rows or not columns:
        return None
    if not law.variance:
        zero, share = float(law.mean == 0), float(law.mean != 0)
        return RowStatistics(rows, columns, (rows - 1) / rows, 1.0, zero, share, 0.0)
    second = law.second_moment
    fourth = law.kurtosis * law.variance**2 + 6 * law.variance * law.mean**2 + law.mean**4
    share = (law.variance / columns + law.mean**2) / second
    spread = math.sqrt(max(fourth - second**2, 0.0) / columns) / second
    return RowStatistics(rows, columns, 0.0, 0.0, 0.0, share, spread)


_BEGINNING = 4
"""Entries of a row by which most rows differ from all others."""


def _copies(weight: Parameter, own: np.ndarray | None, axis: int) -> int:
    """How many rows equal an earlier one, with the unit's bias; only rows that begin alike are read whole."""
    rows = np.moveaxis(weight.array(), axis, 0)
    part = rows[(slice(None), *(slice(0, _BEGINNING) for _ in rows.shape[1:]))]
    together = max(1, LARGE // 8 // max(part.strides[0], 1))
    beginnings = np.concatenate([_flat(piece) for _, piece in pieces(part, together)])
    if _all_differ(beginnings):
        return 0
    groups: dict[bytes, list[int]] = defaultdict(list)
    for place, beginning in enumerate(beginnings):
        groups[beginning.tobytes()].append(place)
    copies = 0
    for group in groups.values():
        if len(group) > 1:
            ends = [0.0] * len(group) if own is None else own[group].tolist()
            whole = {
                (hash(_flat(rows[place : place + 1]).tobytes()), end) for place, end in zip(group, ends, strict=True)
            }
            copies += len(group) - len(whole)
    return copies


def _all_differ(beginnings: np.ndarray) -> bool:
    """Whether the first eight bytes tell every row from the others, as they do of most draws."""
    width = 8 // beginnings.itemsize
    if beginnings.shape[1] < width:
        return False
    bits = np.ascontiguousarray(beginnings[:, :width]).view(np.uint64)
    return distinct(bits).size == len(beginnings)


def _flat(rows: np.ndarray) -> np.ndarray:
    """As a matrix in float32 or float64."""
    return as_float(np.ascontiguousarray(rows).reshape(len(rows), -1))


def singular_spread(weight: Parameter, axis: int = 0) -> float | None:
    """Relative variance of the squared singular values of the weight as a matrix of rows (theory 7.2).

    R = min(m, n) tr((W W^T)^2) / tr(W W^T)^2 - 1, which is min(m, n) / max(m, n) for independent entries and 0 for an
    orthogonal matrix. From the Gram matrix if a side is short, else from random signs (standard error below 0.05).
    None if the weight is empty or zero.
    """
    rows = weight.shape[axis]
    columns = weight.size // max(rows, 1)
    if not rows or not columns:
        return None
    if weight.law is not None:
        whole = IndependentMatrix((rows, columns), weight.law, 0)
        once = whole.frobenius2
        return min(rows, columns) * whole.squared_gram / once**2 - 1.0 if once > 0 else None
    if stored_across(weight, axis):  # the Gram matrices of either side have one trace
        axis, columns = 1 - axis, rows
    if min(weight.size // columns, columns) > EXACT_GRAM:
        probes = signs(columns, PROBES)
        squares, once = np.zeros((columns, PROBES)), 0.0
        for chunk in row_chunks(weight, axis):
            wide = chunk.astype(np.float64)
            squares += wide.T @ (wide @ probes)
            once += float(np.einsum("ij,ij->", wide, wide))
        twice = float(np.sum(squares**2)) / PROBES
    else:
        matrix = np.concatenate([chunk.astype(np.float64) for chunk in row_chunks(weight, axis)])
        once, twice = frobenius2(matrix), squared_gram(matrix)
    return min(rows, columns) * twice / once**2 - 1.0 if once > 0 else None


def row_chunks(weight: Parameter, axis: int = 0) -> Iterator[np.ndarray]:
    """The tensor as a matrix with a row for each unit, some rows at a time, in float32 or float64."""
    array = np.moveaxis(weight.array(), axis, 0)
    for _, piece in pieces(array, max(1, CHUNK_ENTRIES // max(1, weight.size // max(1, len(array))))):
        yield _flat(taken(piece))
