"""Resampling on a regular grid, one axis after the other: Resize and Upsample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.sampling import cubic
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator
from gnelint.records import dataclass

_FEW_TAPS = 4
"""Up to so many entries are read one by one; a wider kernel is a matrix."""


@dataclass(frozen=True)
class _Method:
    """How places in the output become entries of the input; the fields are the operator's attributes."""

    mode: str
    coordinates: str = "asymmetric"
    rounding: str = "simple"
    a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0


@dataclass(frozen=True)
class _Axis:
    """An axis that is resized.

    Attributes:
        index: of the axis.
        size, length: before and after.
        scale: of lengths.
        target: the length that scale and size call for, which may be fractional.
        start, end: the part of the input that tf_crop_and_resize reads, from 0 to 1.
    """

    index: int
    size: int
    length: int
    scale: float
    target: float
    start: float = 0.0
    end: float = 1.0

    @property
    def is_kept(self) -> bool:
        """Whether the axis stays as it is."""
        return self.scale == 1 and self.length == self.size and (self.start, self.end) == (0, 1)


@operator("Upsample")
def upsample_2d(call: Call, x: Tensor) -> Tensor:
    """Images enlarged by height_scale and width_scale."""
    return _upsampled(call, x, [1.0, 1.0, call.need("height_scale"), call.need("width_scale")])


@operator("Upsample", since=7)
def upsample_by_attribute(call: Call, x: Tensor) -> Tensor:
    """Each axis enlarged by its entry of the attribute scales."""
    return _upsampled(call, x, call.need("scales"))


@operator("Upsample", since=9)
@operator("Resize", since=10)
def resize_by_scales(call: Call, x: Tensor, scales: Tensor) -> Tensor:
    """Each axis resized by its entry of the input scales."""
    return _upsampled(call, x, scales.tolist())


@operator("Resize", since=11)
def resize(
    call: Call, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """Each axis resized by its entry of scales, or to its entry of sizes."""
    axes = tuple(axis % x.dim() for axis in call.get("axes") or range(x.dim()))
    if scales is not None and scales.numel():
        resized = [_scaled(axis, x.shape[axis], scale) for axis, scale in zip(axes, scales.tolist(), strict=True)]
    elif sizes is not None and sizes.numel():
        policy = str(call.get("keep_aspect_ratio_policy", "stretch"))
        resized = _sized(axes, [x.shape[axis] for axis in axes], sizes.tolist(), policy)
    else:
        raise CannotRunError("neither scales nor sizes")
    method = _Method(
        call.get("mode"),
        call.get("coordinate_transformation_mode"),
        call.get("nearest_mode"),
        call.get("cubic_coeff_a"),
        bool(call.get("exclude_outside")),
        bool(call.get("antialias", 0)),
        call.get("extrapolation_value"),
    )
    if method.coordinates == "tf_crop_and_resize":
        if roi is None or roi.numel() != 2 * len(axes):
            raise CannotRunError("tf_crop_and_resize without a start and an end per axis")
        starts, ends = roi.reshape(2, -1).tolist()
        resized = [
            _Axis(axis.index, axis.size, axis.length, axis.scale, axis.target, start, end)
            for axis, start, end in zip(resized, starts, ends, strict=True)
        ]
    return _resized(x, resized, method)


def _upsampled(call: Call, x: Tensor, scales: Sequence[float]) -> Tensor:
    """As Resize up to opset 10 and Upsample define it: x_original = x_resized / scale."""
    if len(scales) != x.dim():
        raise CannotRunError(f"{len(scales)} scales for {x.dim()} axes")
    mode = {"bilinear": "linear"}.get(call.get("mode"), call.get("mode"))
    if mode not in ("nearest", "linear"):
        raise CannotRunError(f'mode "{mode}"')
    return _resized(x, [_scaled(axis, x.shape[axis], scale) for axis, scale in enumerate(scales)], _Method(mode))


def _scaled(index: int, size: int, scale: float) -> _Axis:
    # Runtimes multiply in float32, where 10 times 0.7 is 7 and not 6.99.
    scale = _float32(scale)
    target = _float32(scale * size)
    return _Axis(index, size, math.floor(target), scale, target)


def _sized(axes: Sequence[int], sizes: Sequence[int], wanted: Sequence[int], policy: str) -> list[_Axis]:
    """Axes resized to the lengths that are wanted, or as near as one scale for all comes to them."""
    scales = [length / size for length, size in zip(wanted, sizes, strict=True)]
    if policy == "stretch":
        return [
            _Axis(axis, size, length, _float32(scale), float(length))
            for axis, size, length, scale in zip(axes, sizes, wanted, scales, strict=True)
        ]
    if policy not in ("not_larger", "not_smaller"):
        raise CannotRunError(f'keep_aspect_ratio_policy "{policy}"')
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [
        _Axis(axis, size, math.floor(scale * size + 0.5), _float32(scale), scale * size)
        for axis, size in zip(axes, sizes, strict=True)
    ]


def _resized(x: Tensor, axes: Sequence[_Axis], method: _Method) -> Tensor:
    axes = [axis for axis in axes if not axis.is_kept]
    if method.mode == "nearest":
        for axis in axes:
            x = _nearest(x, axis, method)
        return x
    if method.mode not in ("linear", "cubic"):
        raise CannotRunError(f'mode "{method.mode}"')
    wide = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float64
    y = x.to(wide)
    for axis in axes:
        y = _interpolated(y, axis, method)
    if x.is_floating_point():
        return y.to(x.dtype)
    return y.round().clamp(torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max).to(x.dtype)


def _nearest(x: Tensor, axis: _Axis, method: _Method) -> Tensor:
    """The entry nearest to each place."""
    if method.antialias:
        raise CannotRunError("antialias of the nearest entry")
    places = _places(axis, method)
    index = _rounded(places, axis, method.rounding).to(torch.int64).clamp(0, axis.size - 1)
    return _extrapolated(x.index_select(axis.index, index.to(x.device)), places, axis, method)


def _rounded(places: Tensor, axis: _Axis, rounding: str) -> Tensor:
    if rounding == "simple":  # before opset 11, as ONNX Runtime has it
        return places.ceil() if axis.scale < 1 else places.floor()
    if rounding == "floor":
        return places.floor()
    if rounding == "ceil":
        return places.ceil()
    if rounding == "round_prefer_floor":
        return (places - 0.5).ceil()
    if rounding == "round_prefer_ceil":
        return (places + 0.5).floor()
    raise CannotRunError(f'nearest_mode "{rounding}"')


def _interpolated(x: Tensor, axis: _Axis, method: _Method) -> Tensor:
    """Weighted sums of the entries around each place."""
    places = _places(axis, method)
    index, weights = _weights(places, axis, method)
    index, weights = index.to(x.device), weights.to(x)
    if index.shape[1] <= _FEW_TAPS:
        shape = [-1] + [1] * (x.dim() - 1 - axis.index)
        parts = [
            x.index_select(axis.index, at) * weight.reshape(shape)
            for at, weight in zip(index.unbind(1), weights.unbind(1), strict=True)
        ]
        y = torch.stack(parts).sum(0) if len(parts) > 2 else parts[0] + parts[1]
    else:
        matrix = weights.new_zeros(axis.length, axis.size).scatter_add(1, index, weights)
        y = (x.movedim(axis.index, -1) @ matrix.T).movedim(-1, axis.index)
    return _extrapolated(y, places, axis, method)


def _weights(places: Tensor, axis: _Axis, method: _Method) -> tuple[Tensor, Tensor]:
    """Indices and weights of the entries that each place reads: (places, entries)."""
    shrink = min(axis.scale, 1.0) if method.antialias else 1.0
    reach = 1 if method.mode == "linear" else 2
    first = math.floor(-reach / shrink) + 1
    low = places.floor()
    index = low.unsqueeze(1) + torch.arange(first, 2 - first)
    distance = shrink * (index - places.unsqueeze(1))
    weights = (1 - distance.abs()).clamp(min=0) if method.mode == "linear" else cubic(distance, method.a)
    if method.exclude_outside:
        weights = weights * ((index >= 0) & (index < axis.size))
    if method.exclude_outside or method.antialias:
        total = weights.sum(1, keepdim=True)
        weights = weights / torch.where(total == 0, torch.ones_like(total), total)
    return index.to(torch.int64).clamp(0, axis.size - 1), weights


def _places(axis: _Axis, method: _Method) -> Tensor:
    """Where each entry of the output lies in the input, in float32, so that ties fall as they do in runtimes."""
    x = torch.arange(axis.length, dtype=torch.float32)
    last = axis.size - 1
    match method.coordinates:
        case "asymmetric":
            return x / axis.scale
        case "half_pixel":
            return (x + 0.5) / axis.scale - 0.5
        case "pytorch_half_pixel":
            return (x + 0.5) / axis.scale - 0.5 if axis.length > 1 else torch.zeros_like(x)
        case "half_pixel_symmetric":
            return axis.size / 2 * (1 - axis.length / axis.target) + (x + 0.5) / axis.scale - 0.5
        case "tf_half_pixel_for_nn":
            return (x + 0.5) / axis.scale
        case "align_corners":
            return x * last / (axis.target - 1) if axis.length > 1 else torch.zeros_like(x)
        case "tf_crop_and_resize":
            if axis.length > 1:
                return axis.start * last + x * (axis.end - axis.start) * last / (axis.target - 1)
            return torch.full_like(x, 0.5 * (axis.start + axis.end) * last)
    raise CannotRunError(f'coordinate_transformation_mode "{method.coordinates}"')


def _extrapolated(y: Tensor, places: Tensor, axis: _Axis, method: _Method) -> Tensor:
    """tf_crop_and_resize writes a constant where it would read outside the input."""
    outside = (places < 0) | (places > axis.size - 1)
    if method.coordinates != "tf_crop_and_resize" or not outside.any():
        return y
    shape = [-1] + [1] * (y.dim() - 1 - axis.index)
    return torch.where(outside.to(y.device).reshape(shape), torch.full_like(y, method.extrapolation), y)


def _float32(number: float) -> float:
    return float(torch.tensor(number, dtype=torch.float32))
