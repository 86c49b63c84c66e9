"""How the windows of a convolution or a pooling lie over the spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError
from gnelint.records import dataclass


@dataclass(frozen=True)
class Windows:
    """Windows along each spatial axis.

    Attributes:
        kernel, strides, dilations: of the window.
        begins, ends: what the input is padded by before its first and after its last entry.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def spans(self) -> tuple[int, ...]:
        """Entries from the first to the last of a window, both counted."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    def lengths(self, sizes: Sequence[int], ceil: bool = False) -> tuple[int, ...]:
        """How many windows there are along each axis of an input of these sizes.

        Args:
            sizes: of the input without its pads.
            ceil: count a last window that is only partly filled, unless it would start behind the input.
        """
        found = []
        for axis, size in enumerate(sizes):
            room = size + self.begins[axis] + self.ends[axis] - self.spans[axis]
            stride = self.strides[axis]
            length = (-(-room // stride) if ceil else room // stride) + 1
            if ceil and (length - 1) * stride >= size + self.begins[axis]:
                length -= 1
            found.append(length)
        return tuple(found)

    def reaching(self, sizes: Sequence[int], lengths: Sequence[int]) -> Windows:
        """The same windows over an input whose end is padded just so far that the last window is filled."""
        last = [
            (length - 1) * stride + span for length, stride, span in zip(lengths, self.strides, self.spans, strict=True)
        ]
        ends = [reach - size - begin for reach, size, begin in zip(last, sizes, self.begins, strict=True)]
        return replace(self, ends=tuple(max(end, reach) for end, reach in zip(self.ends, ends, strict=True)))


def read_windows(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """The windows that an operation's attributes describe, pads of `auto_pad` worked out for an input of these sizes.

    Raises:
        CannotRunError: the kernel and the input differ in rank, or there are more than three spatial axes.
    """
    rank = len(sizes)
    if len(kernel) != rank or not 1 <= rank <= 3:
        raise CannotRunError(f"a kernel of {len(kernel)} axes on {rank} spatial axes")
    strides, dilations = per_axis(call, "strides", rank, 1), per_axis(call, "dilations", rank, 1)
    windows = Windows(tuple(kernel), strides, dilations, (0,) * rank, (0,) * rank)
    mode = auto_pad(call)
    if mode == "NOTSET":
        pads = per_axis(call, "pads", 2 * rank, 0)
        return replace(windows, begins=pads[:rank], ends=pads[rank:])
    if mode == "VALID":
        return windows
    needed = [
        max((-(-size // stride) - 1) * stride + span - size, 0)
        for size, stride, span in zip(sizes, strides, windows.spans, strict=True)
    ]
    begins, ends = split_pads(needed, upper=mode == "SAME_UPPER")
    return replace(windows, begins=begins, ends=ends)


def auto_pad(call: Call) -> str:
    """The attribute auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER."""
    mode = str(call.get("auto_pad") or "NOTSET")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise CannotRunError(f'auto_pad "{mode}"')
    return mode


def split_pads(totals: Sequence[int], *, upper: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pads split between begin and end; the odd one goes to the end if `upper`, to the begin otherwise."""
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (small, large) if upper else (large, small)


def per_axis(call: Call, name: str, count: int, default: int) -> tuple[int, ...]:
    """An attribute with one entry per axis.

    Raises:
        CannotRunError: it has another number of entries.
    """
    found = tuple(call.get(name) or (default,) * count)
    if len(found) != count:
        raise CannotRunError(f"{name} of {len(found)} entries where {count} belong")
    return found


def pad_spatial(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Tensor:
    """The tensor with its last axes padded; cropped where a pad is negative."""
    pads = [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair]
    return F.pad(x, pads, value=value) if any(pads) else x
