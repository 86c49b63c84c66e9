"""Products of a weight tensor, and of its entrywise square, with vectors of moments; read a chunk at a time.

Moments may be far outside of the range of float32 (a gradient that vanished), so vectors are scaled to at most 1
before they meet the weights and scaled back behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gnelint.ir.mapped import pieces
from gnelint.theory.sorting import signs
from gnelint.theory.weights.independent import IndependentMatrix, Matrix

CHUNK_ENTRIES = 1 << 16
"""Entries converted and squared at a time: few enough to stay in a core's cache."""


_HALF_EXPONENT = np.uint16(0x7C00)


def as_float(chunk: np.ndarray) -> np.ndarray:
    """Numbers of any type in float32, or as they are in float32 and float64."""
    if chunk.dtype in (np.float32, np.float64):
        return chunk
    return _of_half(chunk) if chunk.dtype == np.float16 else chunk.astype(np.float32)


def _of_half(chunk: np.ndarray) -> np.ndarray:
    """float16 as float32, number by number the same as `astype` and three times as fast, which takes them one by one.

    Sign, exponent and fraction move to their places in float32; what is left is a factor 2^(127 - 15), exact even where
    the number is too small for an exponent of its own. Infinities and what is no number have an exponent that this
    would take for one.
    """
    bits = chunk.view(np.uint16)
    if ((bits & _HALF_EXPONENT) == _HALF_EXPONENT).any():
        return chunk.astype(np.float32)
    wide = chunk.view(np.int16).astype(np.int32)  # the sign is kept in the upper half
    wide <<= 13
    wide &= -0x70002000  # 0x8fffe000
    found = wide.view(np.float32)
    found *= np.float32(2.0**112)
    return found


def _scaled(vector: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, float]:
    largest = float(np.abs(vector).max(initial=0.0))
    if largest == 0.0 or not np.isfinite(largest):
        return np.zeros_like(vector, dtype=dtype), 0.0 if largest == 0.0 else float("nan")
    return (vector / largest).astype(dtype), largest


def _slabs(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Runs of rows of a matrix or a stack of matrices, each about CHUNK_ENTRIES entries, as floats."""
    rows = max(1, CHUNK_ENTRIES // max(1, array[:1].size))
    for part, piece in pieces(array, rows):
        yield part, as_float(piece)


def is_positive(matrix: np.ndarray) -> bool:
    """Whether no entry of a matrix is below 0, and no row of it all 0."""
    stored = matrix if matrix.strides[0] >= matrix.strides[1] else matrix.T
    used = np.zeros(len(matrix), dtype=bool)
    for part, chunk in _slabs(stored):
        if (chunk < 0).any():
            return False
        if stored is matrix:
            used[part] = chunk.any(axis=1)
        else:
            used |= chunk.any(axis=0)
    return bool(used.all())


def rows_times(matrix: Matrix, vectors: np.ndarray, squared: bool) -> np.ndarray:
    """W v or (W*W) v for each row vector of `vectors`.

    Args:
        matrix: (out, in), any numeric type, any strides (a transposed view is read in its stored order), or one
            without numbers.
        vectors: (k, in).
        squared: whether the entries of W are squared.

    Returns:
        (k, out) in float64.
    """
    if isinstance(matrix, IndependentMatrix):
        return matrix.times(vectors, squared, axis=1)
    if not vectors.any():
        return np.zeros((len(vectors), matrix.shape[0]))
    if matrix.strides[0] < matrix.strides[1]:  # stored as (in, out): read in that order
        return columns_times(matrix.T, vectors, squared)
    small, scale = _scaled(vectors, np.dtype(np.float64 if matrix.dtype == np.float64 else np.float32))
    if matrix.size <= CHUNK_ENTRIES:
        whole = as_float(matrix)
        return np.asarray((small @ (whole * whole if squared else whole).T).astype(np.float64) * scale)
    result = np.empty((len(vectors), matrix.shape[0]))
    for part, chunk in _slabs(matrix):
        result[:, part] = small @ (chunk * chunk if squared else chunk).T
    return result * scale


def columns_times(matrix: Matrix, vectors: np.ndarray, squared: bool) -> np.ndarray:
    """v W or v (W*W) for each row vector of `vectors`: (k, out) times (out, in) gives (k, in)."""
    if isinstance(matrix, IndependentMatrix):
        return matrix.times(vectors, squared, axis=0)
    if not vectors.any():
        return np.zeros((len(vectors), matrix.shape[1]))
    if matrix.strides[0] < matrix.strides[1]:
        return rows_times(matrix.T, vectors, squared)
    small, scale = _scaled(vectors, np.dtype(np.float64 if matrix.dtype == np.float64 else np.float32))
    if matrix.size <= CHUNK_ENTRIES:
        whole = as_float(matrix)
        return np.asarray((small @ (whole * whole if squared else whole)).astype(np.float64) * scale)
    result = np.zeros((len(vectors), matrix.shape[1]))
    for part, chunk in _slabs(matrix):
        result += small[:, part] @ (chunk * chunk if squared else chunk)
    return result * scale


def _squares(kernel: np.ndarray, forms: np.ndarray | None, dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """Makes of a chunk (..., taps) its squares, and the squares of its taps' sums beside them: (..., taps + forms)."""
    if forms is None or kernel.shape[-1] == 1:
        return lambda chunk: chunk * chunk
    whole = np.concatenate([np.eye(kernel.shape[-1]), forms], axis=1).astype(dtype)

    def squared(chunk: np.ndarray) -> np.ndarray:
        found = chunk.reshape(-1, chunk.shape[-1]) @ whole
        np.multiply(found, found, out=found)
        return np.asarray(found.reshape(*chunk.shape[:-1], -1))

    return squared


def _with_forms(found: np.ndarray, forms: np.ndarray | None) -> np.ndarray:
    """A kernel of one tap is its own sum, times a number: what is known of it tells the rest."""
    if forms is None or found.shape[-1] != 1:
        return found
    return np.concatenate([found, found * forms[0] ** 2], axis=-1)


def kernel_times(
    kernel: np.ndarray,
    groups: int,
    vectors: np.ndarray,
    squared_vectors: np.ndarray,
    forms: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over input channels of W[o, i, t] v[i] and of W[o, i, t]^2 u[i], for every output channel and tap; W is read
    once.

    Args:
        kernel: (out, in / groups, taps).
        groups: convolution groups; output channel o reads the inputs of group o // (out / groups).
        vectors: (k, in), the v.
        squared_vectors: (l, in), the u.
        forms: (taps, forms), with which taps are summed; the squares of these sums stand behind those of the taps.

    Returns:
        (k, out, taps) and (l, out, taps + forms) in float64.
    """
    out, _, taps = kernel.shape
    dtype = np.dtype(np.float64 if kernel.dtype == np.float64 else np.float32)
    (small, scale), (small_squared, scale_squared) = _scaled(vectors, dtype), _scaled(squared_vectors, dtype)
    squares = _squares(kernel, forms, dtype)
    wide = taps if forms is None or taps == 1 else taps + forms.shape[1]
    plain, squared = np.empty((len(small), out, taps)), np.empty((len(small_squared), out, wide))
    for part, chunk in _slabs(kernel):
        group = np.arange(out)[part] * groups // out
        plain[:, part] = _slab_times(chunk, small, groups, group)
        squared[:, part] = _slab_times(squares(chunk), small_squared, groups, group)
    return plain * scale, _with_forms(squared * scale_squared, forms)


def _slab_times(slab: np.ndarray, vectors: np.ndarray, groups: int, group: np.ndarray) -> np.ndarray:
    """(k, rows, taps) of a run of rows (rows, in / groups, taps), each of which reads its `group`."""
    rows, inner, taps = slab.shape
    if groups > 1:
        found = np.einsum("koi,oit->kot", vectors.reshape(len(vectors), groups, inner)[:, group], slab)
    elif taps == 1:
        found = (slab.reshape(rows, inner) @ vectors.T).T[:, :, None]
    else:
        found = np.matmul(vectors, slab).transpose(1, 0, 2)
    return np.asarray(found)


def kernel_transposed_times(
    kernel: np.ndarray, groups: int, vectors: np.ndarray, forms: np.ndarray | None = None
) -> np.ndarray:
    """Sum over output channels of W[o, i, t]^2 v[o]: (k, out) gives (k, in, taps) in float64.

    With `forms` (taps, forms) the squares of these sums of taps stand behind those of the taps: (k, in, taps + forms).
    """
    out, inner, taps = kernel.shape
    wide = taps if forms is None or taps == 1 else taps + forms.shape[1]
    result = np.zeros((len(vectors), groups * inner, wide))
    if not vectors.any():
        return _with_forms(result, forms)
    dtype = np.dtype(np.float64 if kernel.dtype == np.float64 else np.float32)
    small, scale = _scaled(vectors, dtype)
    squares = _squares(kernel, forms, dtype)
    if groups == 1:
        flat = result.reshape(len(vectors), inner * wide)
        for part, chunk in _slabs(kernel):
            flat += small[:, part] @ squares(chunk).reshape(len(chunk), -1)
    else:
        by_group = result.reshape(len(vectors), groups, inner, wide)
        grouped = kernel.reshape(groups, out // groups, inner, taps)
        for part, chunk in _slabs(grouped):
            energies = small.reshape(len(vectors), groups, -1)[:, part]
            by_group[:, part] += np.einsum("kgo,goit->kgit", energies, squares(chunk))
    return _with_forms(result * scale, forms)


def row_energies(kernel: np.ndarray) -> np.ndarray:
    """Sum over input channels of W[o, i, t]^2: (out, in / groups, taps) gives (out, taps) in float64."""
    out, inner, taps = kernel.shape
    found = np.empty((out, taps))
    ones: np.ndarray | None = None
    for part, chunk in _slabs(kernel):
        if taps == 1:
            flat = chunk.reshape(len(chunk), inner)
            found[part, 0] = np.einsum("oi,oi->o", flat, flat)
            continue
        ones = np.ones((1, inner), chunk.dtype) if ones is None else ones
        found[part] = np.matmul(ones, chunk * chunk)[:, 0]
    return found


def _as_stored(array: np.ndarray) -> np.ndarray:
    """Of any rank, as two or more axes in the order in which it is stored."""
    stored = array.T if array.ndim > 1 and array.strides[0] < array.strides[-1] else array
    return stored if stored.ndim > 1 else stored.reshape(-1, 1)


def is_nonnegative(array: np.ndarray) -> bool:
    """Whether every entry is 0 or above."""
    return all(bool((chunk >= 0).all()) for _, chunk in _slabs(_as_stored(array)))


def is_symmetric(array: np.ndarray) -> bool:
    """Whether a matrix is its own transpose; of most one corner tells that it is not."""
    corner = array[:_CORNER, :_CORNER]
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not np.array_equal(corner, corner.T):
        return False
    rows = max(1, CHUNK_ENTRIES // max(1, len(array)))
    return all(np.array_equal(piece, array[:, part].T) for part, piece in pieces(array, rows))


def zeros(array: np.ndarray) -> int:
    """How many entries are 0."""
    return sum(int(np.count_nonzero(chunk == 0)) for _, chunk in _slabs(_as_stored(array)))


def is_zero(array: np.ndarray) -> bool:
    """Whether every entry is 0."""
    return not any(chunk.any() for _, chunk in _slabs(_as_stored(array)))


def frobenius2(array: Matrix) -> float:
    """Squared Frobenius norm of an array of any rank and type."""
    if isinstance(array, IndependentMatrix):
        return array.frobenius2
    total = 0.0
    for _, chunk in _slabs(_as_stored(array)):
        flat = chunk.reshape(-1)
        total += float(np.dot(flat, flat))
    return total


_CORNER = 64

EXACT_GRAM = 256
PROBES = 8


def squared_gram(matrix: Matrix) -> float:
    """tr((W W^T)^2) of an (m, n) matrix: exactly up to EXACT_GRAM on the smaller side, beyond it by PROBES probes.

    A probe is E ||W W^T g||^2 for random signs g on the smaller side, unbiased; eight have a relative standard
    deviation of about 3 % at 512 x 512 and less for larger matrices (theory 7.2). The signs are always the same: runs
    repeat.
    """
    if isinstance(matrix, IndependentMatrix):
        return matrix.squared_gram
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if wide.shape[0] <= EXACT_GRAM:
        small = np.asarray(wide, dtype=np.float64)
        gram = small @ small.T
        return float(np.sum(gram * gram))
    probes = signs(PROBES, wide.shape[0])
    pulled = columns_times(wide, probes, squared=False)
    return float(np.sum(rows_times(wide, pulled, squared=False) ** 2)) / PROBES
