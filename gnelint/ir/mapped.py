"""Arrays that lie in files which are mapped into memory: what was read of a large one need not stay there."""

from __future__ import annotations

import mmap

import numpy as np

LARGE = 1 << 26
"""Bytes of an array in a mapped file from which on what has been read of it leaves the memory again."""


def let_go(array: np.ndarray) -> None:
    """Take what was read of a contiguous array in a mapped file out of this process' memory; it is read anew if asked.

    Nothing happens to arrays of any other kind.
    """
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if not isinstance(owner, mmap.mmap) or not hasattr(owner, "madvise"):
        return
    start = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + array.nbytes - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        owner.madvise(mmap.MADV_DONTNEED, first, length)
