"""Piecewise constant arrays over the axes of a tensor: the grid on which moments and gradients are kept.

Source: theory 9.1.

Each axis of a tensor is cut into runs of neighbouring indices, its cells, within which everything is taken as alike:
one cell for a batch or a row of like tokens ("pooled"), a cell for every index for channels ("full"), or a few ({class
token, the rest}). An array over the cells has one entry for each combination of cells, so its size does not grow with
the batch, the resolution or the length of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gnelint.records import cached_property, dataclass

MAX_CELLS = 1 << 20
"""Above this many cells an axis is pooled rather than kept apart."""

SMALL = 1 << 12
"""Numbers up to which it takes longer to see that nothing need be written than to write it."""


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor and how it is cut into cells.

    Attributes:
        size: number of indices.
        cuts: where a new cell starts, index 0 left out; None if every index is a cell of its own.
    """

    size: int
    cuts: tuple[int, ...] | None = ()

    @staticmethod
    def full(size: int) -> Axis:
        """Every index its own cell."""
        return Axis(size, None if size > 1 else ())

    @property
    def count(self) -> int:
        """Number of cells."""
        return self.size if self.cuts is None else len(self.cuts) + 1

    @property
    def is_pooled(self) -> bool:
        """Whether there is one cell only."""
        return self.cuts == ()

    @cached_property
    def starts(self) -> np.ndarray:
        """First index of each cell."""
        return np.arange(self.size) if self.cuts is None else np.array((0, *self.cuts))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of indices in each cell, as floats."""
        return np.diff(np.append(self.starts, self.size)).astype(np.float64)

    def refine(self, other: Axis) -> Axis:
        """The coarsest cut that is at least as fine as both. The sizes are equal."""
        if self == other or other.is_pooled:
            return self
        if self.is_pooled:
            return other
        if self.cuts is None or other.cuts is None:
            return Axis.full(self.size)
        return Axis(self.size, tuple(sorted({*self.cuts, *other.cuts})))

    def slice(self, start: int, stop: int, step: int) -> Axis:
        """The axis left by indexing [start:stop:step]; the bounds are non-negative, the step not 0."""
        picked = range(self.size)[start:stop:step] if step > 0 else range(start, stop, step)
        if self.cuts is None:
            return Axis.full(len(picked))
        if not self.cuts:
            return Axis(len(picked))
        cell = np.searchsorted(self.starts, np.arange(picked.start, picked.stop, picked.step), side="right")
        return Axis(len(picked), tuple(int(index) + 1 for index in np.flatnonzero(np.diff(cell))))


Axes = tuple[Axis, ...]


def pooled(shape: Sequence[int]) -> Axes:
    """Axes of a tensor all of whose entries are alike."""
    return tuple(Axis(int(size)) for size in shape)


def counts(axes: Axes) -> tuple[int, ...]:
    """Shape of an array over the cells."""
    return tuple(axis.count for axis in axes)


def refine(*all_axes: Axes) -> Axes:
    """Axis by axis the coarsest common refinement; all tensors have one shape."""
    refined = all_axes[0]
    for axes in all_axes[1:]:
        if axes != refined:
            refined = tuple(a.refine(b) for a, b in zip(refined, axes, strict=True))
    return refined


def resample(array: np.ndarray, old: Axes, new: Axes) -> np.ndarray:
    """The same piecewise constant function on finer cells."""
    if old == new:
        return array
    for index, (before, after) in enumerate(zip(old, new, strict=True)):
        if before == after:
            continue
        if before.is_pooled:
            if array.size * after.count > SMALL:
                array = np.broadcast_to(array, (*array.shape[:index], after.count, *array.shape[index + 1 :]))
            else:
                array = np.repeat(array, after.count, axis=index)
        else:
            cell = np.searchsorted(before.starts, after.starts, side="right") - 1
            array = np.take(array, cell, axis=index)
    return array


def nothing_like(array: np.ndarray) -> np.ndarray:
    """Zeros of the same shape."""
    return np.zeros_like(array) if array.size <= SMALL else np.broadcast_to(0.0, array.shape)


def is_zero(array: np.ndarray) -> bool:
    """Whether all numbers are 0; those that a broadcast repeats are looked at once, and mostly the first tells."""
    if array.size <= SMALL:
        return not array.any()
    if array.item(0) or array.item(array.size // 2):
        return False
    return not array[tuple(slice(None) if stride else slice(0, 1) for stride in array.strides)].any()


def summed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left + right of one shape, for arrays one of which is often zero: then nothing is written."""
    if left.size <= SMALL:
        return np.asarray(left + right)
    if is_zero(right):
        return left
    return right if is_zero(left) else left + right


def times(array: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """array * factor, for arrays that are often zero."""
    if array.size <= SMALL:
        return np.asarray(array * factor)
    if factor.size == 1 and factor.ndim <= array.ndim and factor.item() == 1.0:
        return array
    shape = np.broadcast_shapes(array.shape, factor.shape)
    return np.broadcast_to(0.0, shape) if is_zero(array) else array * factor


def on_cells(array: np.ndarray | float, shape: tuple[int, ...]) -> np.ndarray:
    """The array, or a number, broadcast to this shape."""
    if isinstance(array, np.ndarray) and array.shape == shape:
        return array
    if not shape:  # a value of one number has no axes, which many functions of arrays give it
        return np.asarray(array).reshape(())
    return np.broadcast_to(array, shape)


def average(array: np.ndarray, axes: Axes, index: int, target: Axis | None = None) -> np.ndarray:
    """Mean over the indices of each cell of the coarser `target` (all of them by default) along axis `index`."""
    axis = axes[index]
    if axis.is_pooled:
        return array
    target = target or Axis(axis.size)
    if axis == target or axis.size == 0:
        return array
    shape = [1] * array.ndim
    shape[index] = axis.count
    weighted = array * axis.lengths.reshape(shape)
    if target.is_pooled:
        return np.asarray(weighted.sum(axis=index, keepdims=True) / axis.size)
    first = np.searchsorted(axis.starts, target.starts)
    shape[index] = target.count
    return np.asarray(np.add.reduceat(weighted, first, axis=index) / target.lengths.reshape(shape))


def total_average(array: np.ndarray, axes: Axes) -> float:
    """Mean over all indices."""
    if array.size and all(not axis.cuts for axis in axes):  # every index a cell, or one for all
        return float(array.sum()) / array.size
    for index in range(len(axes)):
        array = average(array, axes, index)
    return float(array.reshape(-1)[0]) if array.size else 0.0


def squeeze_constant(axes: Axes, arrays: Sequence[np.ndarray]) -> tuple[Axes, list[np.ndarray]]:
    """Pool every axis along which none of the arrays changes."""
    kept = list(axes)
    found = list(arrays)
    for index, axis in enumerate(axes):
        if axis.count == 1:
            kept[index] = Axis(axis.size)
            continue
        heads = [array.take([0], axis=index) for array in found]
        if all(bool((head == array).all()) for head, array in zip(heads, found, strict=True)):
            kept[index] = Axis(axis.size)
            found = heads
    return tuple(kept), found


def matching_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Split two shapes of equal size into the shortest runs of axes whose products agree.

    An empty list if the shapes do not match up (sizes of 0, or different totals).
    """
    if math.prod(old) != math.prod(new) or 0 in (*old, *new):
        return []
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        left = right = 1
        while True:
            if left == right and (i > first_i or j > first_j) and not (left == 1 and i == first_i and j < len(new)):
                break
            if (left <= right and i < len(old)) or j >= len(new):
                left *= old[i]
                i += 1
            else:
                right *= new[j]
                j += 1
        groups.append((range(first_i, i), range(first_j, j)))
    return groups
