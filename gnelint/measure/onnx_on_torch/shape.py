"""Data movement: reshape, transpose, slice, split, concatenate, tile. Padding and pixel shuffles are in `layout`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.axes import axes_of, axis_of, numbers
from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

# --- shapes -------------------------------------------------------------------------------------------------------


@operator("Shape")
def shape(call: Call, x: Tensor) -> Tensor:
    """The lengths of the axes from `start` up to `end`."""
    lengths = list(x.shape)[call.get("start", 0) : call.get("end")]
    return torch.tensor(lengths, dtype=torch.int64, device=call.device)


@operator("Size")
def size(call: Call, x: Tensor) -> Tensor:
    """The number of entries."""
    return torch.tensor(prod(x.shape), dtype=torch.int64, device=call.device)


@operator("Reshape")
def reshape_by_attribute(call: Call, x: Tensor) -> Tensor:
    """x in another shape, given by an attribute: 0 keeps a length, -1 takes what is left."""
    return _reshape(x, call.need("shape"), copy_zero=True)


@operator("Reshape", since=5)
def reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """x in another shape: 0 keeps a length unless `allowzero`, -1 takes what is left."""
    return _reshape(x, numbers(shape), copy_zero=not call.get("allowzero", 0))


def _reshape(x: Tensor, lengths: Sequence[int], *, copy_zero: bool) -> Tensor:
    if not copy_zero:
        return x.reshape(tuple(lengths))
    return x.reshape([x.shape[axis] if length == 0 else length for axis, length in enumerate(lengths)])


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    """x as a matrix: the axes before `axis` are its rows, the others its columns."""
    axis = call.get("axis")
    if axis != x.dim():  # behind the last axis there is nothing: columns of one entry
        axis = axis_of(axis, x.dim())
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """x without axes of length 1: those of the attribute or input, or all."""
    given = call.get("axes") if axes is None else numbers(axes)
    if given is None:
        return x.squeeze()
    if not given and 1 in x.shape:  # the standard removes none, ONNX Runtime all
        raise CannotRunError("an empty list of axes to remove")
    chosen = axes_of(given, x.dim())
    if any(x.shape[axis] != 1 for axis in chosen):
        raise CannotRunError(f"axes {list(given)} of shape {list(x.shape)} are not all of length 1")
    return x.squeeze(tuple(chosen))


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """x with new axes of length 1 where the attribute or input says, counted in the result."""
    given = call.need("axes") if axes is None else numbers(axes)
    for axis in sorted(axes_of(given, x.dim() + len(given))):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    """Axis i of the result is axis perm[i] of x; the order is reversed without `perm`."""
    return x.permute(call.get("perm", tuple(reversed(range(x.dim())))))


@operator("Expand", since=8)
def expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """x and a tensor of the given shape, broadcast against each other."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(numbers(shape))))


# --- pieces -------------------------------------------------------------------------------------------------------


@operator("Concat")
def concat(call: Call, *inputs: Tensor) -> Tensor:
    """The inputs one after the other along an axis; along axis 1 where an early model names none."""
    return torch.cat(inputs, axis_of(call.get("axis", 1), inputs[0].dim()))


@operator("Split")
def split(call: Call, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
    """Parts along an axis: of the given lengths, or as many equal ones as there are outputs."""
    axis = axis_of(call.get("axis", 0), x.dim())
    given = call.get("split") if lengths is None else numbers(lengths)
    return tuple(x.split(list(given or _equal_parts(call, x.shape[axis])), axis))


def _equal_parts(call: Call, length: int) -> list[int]:
    count = call.get("num_outputs", len(call.outputs))
    part = -(-length // count)
    last = length - part * (count - 1)
    if last < 0 or (last != part and call.version < 18):
        raise CannotRunError(f"{length} entries in {count} equal parts")
    return [part] * (count - 1) + [last]


@operator("Slice")
def slice_by_attributes(call: Call, x: Tensor) -> Tensor:
    """x[start:end] along each of some axes, all given by attributes."""
    starts = call.need("starts")
    return _slice(x, starts, call.need("ends"), call.get("axes", range(len(starts))), [1] * len(starts))


@operator("Slice", since=10)
def slice_(
    call: Call, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """x[start:end:step] along each of some axes: along the first ones without `axes`."""
    first = numbers(starts)
    along = list(range(len(first))) if axes is None else numbers(axes)
    return _slice(x, first, numbers(ends), along, [1] * len(first) if steps is None else numbers(steps))


def _slice(x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
    chosen = axes_of(axes, x.dim())
    for start, end, axis, step in zip(starts, ends, chosen, steps, strict=True):
        x = _slice_axis(x, axis, start, end, step)
    return x


def _slice_axis(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """x[start:end:step] along an axis, ends beyond the first and last entry cut off as ONNX does, not Python."""
    length = x.shape[axis]
    farthest = max(length, 1)  # steps beyond this find the first entry alone
    start, end = (bound + length if bound < 0 else bound for bound in (start, end))
    if step == 0:
        raise CannotRunError("a slice with step 0")
    if step > 0:
        entries = slice(min(max(start, 0), length), min(max(end, 0), length), min(step, farthest))
        before = (slice(None),) * axis
        return x[(*before, entries)]
    start, end = min(max(start, 0), length - 1), min(max(end, -1), length - 1)
    if start <= end:
        return x.narrow(axis, 0, 0)
    return x.index_select(axis, torch.arange(start, end, max(step, -farthest), device=x.device))


@operator("Tile")
def tile_axis(call: Call, x: Tensor, tiles: Tensor, axis: Tensor) -> Tensor:
    """x several times over along one axis."""
    repeats = [1] * x.dim()
    repeats[axis_of(int(axis), x.dim())] = int(tiles)
    return x.repeat(repeats)


@operator("Tile", since=6)
def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """x several times over along each axis."""
    return x.repeat(numbers(repeats))
