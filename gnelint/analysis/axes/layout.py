"""How an axis of a value is written, and what reshapes do to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

Factor = tuple[int | None, int]
"""The input's axis that it belongs to, None for no axis of the input, and its size."""
Axis = tuple[Factor, ...]
Layout = tuple[Axis, ...]


def labels(layout: Layout) -> set[int]:
    return {label for axis in layout for label, size in axis if label is not None and size > 1}


def label(axis: Axis) -> int | None:
    """The one axis of the input that an axis of a value is; None for none or several."""
    held = {label for label, size in axis if size > 1}
    return next(iter(held)) if len(held) == 1 else None


def sizes(layout: Layout) -> tuple[int, ...]:
    return tuple(math.prod(size for _, size in axis) for axis in layout)


def plain(shape: Sequence[int]) -> Layout:
    return tuple(((None, size),) for size in shape)


def common(parts: Sequence[Axis]) -> Axis | None:
    """One axis for all operands: of those that are not broadcast, the same axis of the input or none."""
    wide = [part for part in parts if math.prod(size for _, size in part) > 1]
    if not wide:
        return parts[0]
    labelled = [part for part in wide if any(label is not None for label, _ in part)]
    first = (labelled or wide)[0]
    return first if all(part == first for part in labelled) else None


def resized(axis: Axis, size: int) -> Axis:
    if math.prod(own for _, own in axis) == size:
        return axis
    return ((label(axis), size),)


def regrouped(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The factors in another grouping; None where one would have to be cut and cannot."""
    factors = [factor for axis in layout for factor in axis if factor[1] > 1]
    found: list[Axis] = []
    for size in shape:
        axis: list[Factor] = []
        left = size
        while left > 1:
            if not factors:
                return None
            label, own = factors.pop(0)
            taken = math.gcd(left, own) if left % own else own
            if taken == 1 or (taken < own and left != taken):
                return None
            axis.append((label, taken))
            left //= taken
            if taken < own:
                factors.insert(0, (label, own // taken))
        found.append(tuple(axis) or ((None, size),))
    return tuple(found)


def tears(layout: Layout, shape: Sequence[int]) -> bool:
    """Whether a reshape puts a part of an axis, of the input or of channels, together with something else.

    The first part of the channels may go to what lies before it: heads beside samples.
    """
    ahead = 1
    for label, own in (factor for axis in layout for factor in axis):
        start, end = ahead, ahead * own
        ahead = end
        begin = 1
        for size in shape:
            first, last = begin, begin * size
            begin = last
            if first < start < last < end and (label is not None or last % start or end % last):
                return True
            if start < first < end < last:
                return True
    return False
