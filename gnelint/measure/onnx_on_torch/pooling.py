"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator
from gnelint.measure.onnx_on_torch.windows import Windows, pad_spatial, per_axis, read_windows

_MAX_POOLS: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """The largest entry of each window; the second output says where it is in the flattened input."""
    sizes = x.shape[2:]
    windows, _ = _pool_windows(call, x)
    values = x if x.is_floating_point() else x.to(torch.float32)  # holds every int8 and uint8
    padded = pad_spatial(values, windows.begins, windows.ends, -math.inf)
    pool = _MAX_POOLS[windows.rank]
    found = pool(padded, windows.kernel, windows.strides, 0, windows.dilations, False, call.used(1))
    if not call.used(1):
        return found.to(x.dtype)
    y, index = found
    places = _unravelled(index, padded.shape[2:])
    inside = [
        (place - begin).clamp(0, size - 1) for place, begin, size in zip(places, windows.begins, sizes, strict=True)
    ]
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *[1] * len(sizes))
    flat = _ravelled(inside, sizes, column_major=bool(call.get("storage_order")))
    return y.to(x.dtype), planes * math.prod(sizes) + flat


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    """The mean over each window, of the input's entries or, by count_include_pad, of those in the pads as well."""
    sizes = x.shape[2:]
    windows, given = _pool_windows(call, x)
    wide = torch.promote_types(x.dtype, torch.float32)
    values = x.to(wide) if windows.rank == 3 else x  # on the CPU torch has no kernel for float16 in 3-D
    y = _means(pad_spatial(values, windows.begins, windows.ends), windows)
    if not any(windows.begins) and not any(windows.ends):
        return y.to(x.dtype)
    for axis, length in enumerate(y.shape[2:]):
        before, behind = (given.begins[axis], given.ends[axis]) if call.get("count_include_pad") else (0, 0)
        starts = torch.arange(length, device=x.device) * windows.strides[axis] - windows.begins[axis]
        entries = starts.unsqueeze(1) + torch.arange(windows.kernel[axis], device=x.device) * windows.dilations[axis]
        counts = ((entries >= -before) & (entries < sizes[axis] + behind)).sum(1).to(wide)
        y = y * (windows.kernel[axis] / counts).reshape(-1, *[1] * (windows.rank - 1 - axis))
    return y.to(x.dtype)


@operator("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    """The p-norm of each window."""
    windows, _ = _pool_windows(call, x)
    seen = _windowed(pad_spatial(x, windows.begins, windows.ends), windows)
    return torch.linalg.vector_norm(seen, float(call.get("p")), dim=tuple(range(-windows.rank, 0)))


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    """The mean over the spatial axes."""
    return x.mean(_spatial(x), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    """The largest entry over the spatial axes; among equal ones the gradient goes to one."""
    return x.flatten(2).max(2).values.reshape(*x.shape[:2], *[1] * len(_spatial(x)))


@operator("GlobalLpPool")
def global_lp_pool(call: Call, x: Tensor) -> Tensor:
    """The p-norm over the spatial axes."""
    return torch.linalg.vector_norm(x, float(call.get("p")), dim=_spatial(x), keepdim=True)


@operator("MaxUnpool", since=9)
def max_unpool(call: Call, x: Tensor, index: Tensor, output_shape: Tensor | None = None) -> Tensor:
    """Puts the entries where MaxPool found them, 0 elsewhere."""
    rank = x.dim() - 2
    kernel, strides = call.need("kernel_shape"), per_axis(call, "strides", rank, 1)
    pads = per_axis(call, "pads", 2 * rank, 0)
    sizes = tuple(
        (x.shape[2 + axis] - 1) * strides[axis] - pads[axis] - pads[rank + axis] + kernel[axis] for axis in range(rank)
    )
    wanted = sizes if output_shape is None else tuple(output_shape.tolist())[2:]
    if wanted != sizes and not _points_into(index, sizes):
        # What torch exports points into the shape that is asked for; the standard's own example into the inferred one.
        sizes = wanted
    flat = x.new_zeros(x.numel() and math.prod(x.shape[:2]) * math.prod(sizes))
    y = flat.scatter(0, index.flatten(), x.flatten()).reshape(*x.shape[:2], *sizes)
    return pad_spatial(y, [0] * rank, [asked - size for asked, size in zip(wanted, sizes, strict=True)])


def _points_into(index: Tensor, sizes: Sequence[int]) -> bool:
    """Whether the indices of each plane (n, c) of MaxPool's second output lie in that plane, of these sizes."""
    planes = index.flatten(0, 1).flatten(1)
    numbers = torch.arange(len(planes), device=index.device).unsqueeze(1)
    return bool((planes.div(math.prod(sizes), rounding_mode="floor") == numbers).all())


@operator("MaxRoiPool")
def max_roi_pool(call: Call, x: Tensor, rois: Tensor) -> Tensor:
    """The largest entry of each bin of each region (n, x1, y1, x2, y2), bins cut at whole entries; 0 for none."""
    height, width = x.shape[2:]
    pooled = tuple(call.need("pooled_shape"))
    scaled = rois[:, 1:].to(torch.float32) * call.get("spatial_scale")
    corners = (scaled.sign() * (scaled.abs() + 0.5).floor()).to(torch.int64).tolist()  # halves away from 0
    found = []
    for image, (left, top, right, bottom) in zip(rois[:, 0].to(torch.int64).tolist(), corners, strict=True):
        right, bottom = max(right, left), max(bottom, top)
        if min(right, bottom) < 0 or left >= width or top >= height:
            found.append(x.new_zeros(x.shape[1], *pooled))
            continue
        region = pad_spatial(x[image], (-top, -left), (bottom + 1 - height, right + 1 - width), -math.inf)
        found.append(F.adaptive_max_pool2d(region, pooled))
    if not found:
        return x.new_zeros(0, x.shape[1], *pooled)
    y = torch.stack(found)
    return torch.where(y.isneginf(), torch.zeros_like(y), y)


def _pool_windows(call: Call, x: Tensor) -> tuple[Windows, Windows]:
    """A pooling's windows over an input that is padded for all of them, and with the pads that were given."""
    given = read_windows(call, x.shape[2:], call.need("kernel_shape"))
    lengths = given.lengths(x.shape[2:], ceil=bool(call.get("ceil_mode")))
    if min(lengths) < 1:
        raise CannotRunError(f"windows of {given.spans} over an input of {tuple(x.shape[2:])}")
    return given.reaching(x.shape[2:], lengths), given


def _means(x: Tensor, windows: Windows) -> Tensor:
    """The mean over each window of a padded input."""
    if max(windows.dilations) == 1:
        return _AVERAGE_POOLS[windows.rank](x, windows.kernel, windows.strides)
    for axis, (span, stride, step) in enumerate(zip(windows.spans, windows.strides, windows.dilations, strict=True)):
        x = x.unfold(2 + axis, span, stride)[..., ::step].mean(-1)
    return x


def _windowed(x: Tensor, windows: Windows) -> Tensor:
    """A view of a padded input: (n, c, *windows, *kernel)."""
    for axis, (span, stride) in enumerate(zip(windows.spans, windows.strides, strict=True)):
        x = x.unfold(2 + axis, span, stride)
    return x[(..., *[slice(None, None, step) for step in windows.dilations])]


def _unravelled(index: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Coordinates of the entries at these places of a flattened tensor."""
    places: list[Tensor] = []
    for size in reversed(sizes):
        places.insert(0, index % size)
        index = index.div(size, rounding_mode="floor")
    return places


def _ravelled(places: Sequence[Tensor], sizes: Sequence[int], column_major: bool) -> Tensor:
    """Places in the flattened tensor, the last axis fastest, or the first."""
    pairs = list(zip(places, sizes, strict=True))
    flat = torch.zeros_like(places[0])
    for place, size in reversed(pairs) if column_major else pairs:
        flat = flat * size + place
    return flat


def _spatial(x: Tensor) -> tuple[int, ...]:
    if x.dim() < 3:
        raise CannotRunError("an input without spatial axes")
    return tuple(range(2, x.dim()))
