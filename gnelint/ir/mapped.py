"""Arrays that lie in files which are mapped into memory: what was read of large ones need not stay there."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

LARGE = 1 << 26
"""Bytes of an array in a mapped file from which on what has been read of it leaves the memory again."""


def let_go(array: np.ndarray) -> None:
    """Take what was read of an array in a mapped file out of this process' memory; it is read anew if asked.

    All pages go from the first that the array has a part of to the last. Nothing happens to arrays of any other kind.
    """
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if array.size == 0 or not isinstance(owner, mmap.mmap) or not hasattr(owner, "madvise"):
        return
    low, high = _reach(array)
    start = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first = (start + low) // mmap.PAGESIZE * mmap.PAGESIZE
    owner.madvise(mmap.MADV_DONTNEED, first, min(start + high, len(owner)) - first)


def _reach(array: np.ndarray) -> tuple[int, int]:
    """Bytes from an array's first entry to the lowest one it has, and behind the highest one."""
    steps = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
    return sum(step for step in steps if step < 0), sum(step for step in steps if step > 0) + array.itemsize


def pieces(array: np.ndarray, rows: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Runs of so many rows of an array; of a large one in a mapped file no more stays in memory than a part."""
    large, read, end = _span(array) >= LARGE, 0, 0
    try:
        for start in range(0, len(array), rows):
            if large and _span(array[read:end]) >= LARGE // 4:
                let_go(array[read:end])
                read = end
            end = start + rows
            yield slice(start, end), array[start:end]
    finally:  # whoever has seen enough asks for no more
        if large and array.size:
            let_go(array[read:end])


def _span(array: np.ndarray) -> int:
    """Bytes of the file that an array's entries are spread over."""
    low, high = _reach(array)
    return high - low


def sampled(array: np.ndarray, step: int) -> np.ndarray:
    """Every so many entries of a flat array, a copy if it is a large one in a mapped file."""
    if array.nbytes < LARGE:
        return array[::step]
    rows = max(1, LARGE // 4 // array.itemsize // step) * step
    return np.concatenate([piece[::step].copy() for _, piece in pieces(array, rows)])


def taken(part: np.ndarray) -> np.ndarray:
    """A part of an array that is to be read whole; a copy if it is spread over much of a mapped file."""
    if _span(part) < LARGE:
        return part
    axis = int(np.argmax(np.abs(part.strides)))
    rows = max(1, LARGE // 8 // abs(part.strides[axis]))
    copies = [piece.copy() for _, piece in pieces(np.moveaxis(part, axis, 0), rows)]
    return np.moveaxis(np.concatenate(copies), 0, axis)


class Handed:
    """Arrays in mapped files that were handed out: as soon as they are many bytes together, those before leave."""

    def __init__(self) -> None:
        self._arrays: dict[int, np.ndarray] = {}
        self._bytes = 0

    def out(self, array: np.ndarray) -> np.ndarray:
        """The array itself; the ones handed out before leave the memory if it is one too many."""
        place = array.ctypes.data
        if array.nbytes and place not in self._arrays:
            if self._bytes + array.nbytes > 2 * LARGE:
                for other in self._arrays.values():
                    let_go(other)
                self._arrays, self._bytes = {}, 0
            self._arrays[place] = array
            self._bytes += array.nbytes
        return array
