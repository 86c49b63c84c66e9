"""Data movement: padding, cropping, triangles, reversal, and between depth and space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.axes import axes_of, numbers
from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator
from gnelint.measure.onnx_on_torch.unsigned import on_bits

# --- padding ------------------------------------------------------------------------------------------------------


@operator("Pad")
def pad_by_attribute(call: Call, x: Tensor) -> Tensor:
    """x with entries added at both ends of each axis, or taken away; all given by attributes."""
    pads = call.need("paddings" if call.version == 1 else "pads")
    return _pad(call, x, range(x.dim()), pads, x.new_full((), call.get("value")))


@operator("Pad", since=11)
def pad(call: Call, x: Tensor, pads: Tensor, constant: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    """x with entries added at both ends of some axes, or taken away."""
    along = range(x.dim()) if axes is None else numbers(axes)
    return _pad(call, x, along, numbers(pads), x.new_zeros(()) if constant is None else constant.reshape(()))


def _pad(call: Call, x: Tensor, axes: Sequence[int], pads: Sequence[int], constant: Tensor) -> Tensor:
    chosen, mode = axes_of(axes, x.dim()), call.get("mode")
    if len(pads) != 2 * len(chosen):
        raise CannotRunError(f"{len(pads)} pads for {len(chosen)} axes")
    for axis, begin, end in zip(chosen, pads, pads[len(chosen) :], strict=False):
        x = _crop(x, axis, max(-begin, 0), max(-end, 0))
        begin, end = max(begin, 0), max(end, 0)
        if begin == end == 0:
            continue
        if mode == "constant":
            x = _with_constant(x, axis, begin, end, constant)
        else:
            positions = torch.arange(-begin, x.shape[axis] + end, device=x.device)
            x = x.index_select(axis, _inside(positions, x.shape[axis], mode))
    return x


def _crop(x: Tensor, axis: int, begin: int, end: int) -> Tensor:
    return x.narrow(axis, begin, x.shape[axis] - begin - end) if begin or end else x


def _with_constant(x: Tensor, axis: int, begin: int, end: int, constant: Tensor) -> Tensor:
    lengths = [[*x.shape[:axis], count, *x.shape[axis + 1 :]] for count in (begin, end)]
    before, after = (constant.expand(shape) for shape in lengths)
    return torch.cat([before, x, after], axis)


def _inside(positions: Tensor, length: int, mode: str) -> Tensor:
    """Where the entries at positions along an axis, some of them outside, come from."""
    if length == 0:
        raise CannotRunError(f'mode "{mode}" along an empty axis')
    if mode == "edge":
        return positions.clamp(0, length - 1)
    if mode == "wrap":
        return positions % length
    if mode != "reflect":
        raise CannotRunError(f'mode "{mode}"')
    period = max(2 * (length - 1), 1)
    return torch.minimum(positions % period, period - positions % period)


# --- order --------------------------------------------------------------------------------------------------------


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Blocks of pixels from the channels; these count the block first (DCR) or last (CRD)."""
    size = call.need("blocksize")
    batch, channels, height, width = x.shape
    depth = channels // size**2
    if _depth_first(call):
        blocks = x.reshape(batch, size, size, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(batch, depth, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, depth, height * size, width * size)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Channels from blocks of pixels; these count the block first (DCR) or last (CRD)."""
    size = call.need("blocksize")
    batch, channels, height, width = x.shape
    rows, columns = height // size, width // size
    blocks = x.reshape(batch, channels, rows, size, columns, size)
    ordered = blocks.permute(0, 3, 5, 1, 2, 4) if _depth_first(call) else blocks.permute(0, 1, 3, 5, 2, 4)
    return ordered.reshape(batch, channels * size**2, rows, columns)


def _depth_first(call: Call) -> bool:
    mode = call.get("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise CannotRunError(f'mode "{mode}"')
    return bool(mode == "DCR")


@operator("ReverseSequence", since=10)
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    """Each sample's first entries along the time axis in reverse order; the rest stays."""
    axes = call.get("time_axis"), call.get("batch_axis")
    if sorted(axes) != [0, 1]:
        raise CannotRunError(f"time axis {axes[0]} and batch axis {axes[1]}")
    steps, samples = (torch.arange(x.shape[axis], device=x.device) for axis in axes)
    times = steps.unsqueeze(1)
    source = torch.where(times < lengths, lengths - 1 - times, times)
    return x.movedim(axes, (0, 1))[source, samples].movedim((0, 1), axes)


@operator("Trilu", since=14)
def trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper or lower triangle of each matrix, from the k-th diagonal on."""
    diagonal = 0 if k is None else int(k)
    return on_bits(lambda bits: bits.triu(diagonal) if call.get("upper") else bits.tril(diagonal), x)
