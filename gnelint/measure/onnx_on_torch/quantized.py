"""Arithmetic of quantised tensors, shared by ONNX's operators and ONNX Runtime's own."""

from __future__ import annotations

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.table import CannotRunError


def expanded(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point of the whole tensor, of an axis or of blocks along it, as it broadcasts against x."""
    if block:
        if parameter.dim() != x.dim():
            raise CannotRunError(f"blocks of rank {parameter.dim()} for a tensor of rank {x.dim()}")
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1 and parameter.dim() <= 1:
        return parameter.reshape(())
    if parameter.dim() != 1 or not -x.dim() <= axis < x.dim() or parameter.shape[0] != x.shape[axis]:
        raise CannotRunError(f"scales of shape {tuple(parameter.shape)} for axis {axis} of {tuple(x.shape)}")
    return along_channels(parameter, x.dim(), axis)


def along_channels(parameter: Tensor, rank: int, axis: int) -> Tensor:
    """A scale, zero point or bias of the whole tensor or of an axis, as it broadcasts against a tensor of this rank."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return parameter.reshape(shape)


def quantized(ratio: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What is left of a value over its scale in a type: rounded half to even, moved by the zero point, bounded."""
    if dtype.is_floating_point:
        raise CannotRunError(f"a product in {dtype}")
    bounds = torch.iinfo(dtype)
    whole = ratio.round()
    if zero_point is not None:
        whole = whole + zero_point.to(torch.int64)
    return whole.clamp(bounds.min, bounds.max).to(torch.int64).to(dtype)


def dequantized(x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """(x - zero point) scale, in the scale's type."""
    if x.is_floating_point():
        value = x.to(scale.dtype)
        return (value if zero_point is None else value - zero_point.to(scale.dtype)) * scale
    whole = x.to(torch.int64)
    return (whole if zero_point is None else whole - zero_point.to(torch.int64)).to(scale.dtype) * scale


def shifted(x: Tensor, zero_point: Tensor | None) -> Tensor:
    """x - zero point in float64, which holds sums of such products exactly."""
    value = x.to(torch.float64)
    return value if zero_point is None else value - zero_point.to(torch.float64)


def dynamically_quantized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x in 8 bits without a sign, its scale and zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    width = (high - low) / 255
    scale = torch.where(width == 0, torch.ones_like(width), width)
    zero_point = quantized(-low / scale, None, torch.uint8)
    return quantized(x / scale, zero_point, torch.uint8), scale, zero_point


def integer_product(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    """A B of integers, exact in float64; A's zero point may be of each row, B's of each column."""
    left = shifted(a, None if a_zero is None else of_rows(a_zero, a))
    right = shifted(b, None if b_zero is None else of_columns(b_zero, b))
    return left @ right


def of_rows(x: Tensor, a: Tensor) -> Tensor:
    """A scale or zero point of A, of all of it or of each row, as it multiplies A or the product."""
    if x.numel() == 1:
        return x.reshape(())
    if x.dim() == 1:
        if x.shape[0] != a.shape[-2]:
            raise CannotRunError(f"{x.shape[0]} zero points or scales for {a.shape[-2]} rows")
        return x[:, None]
    return x


def of_columns(x: Tensor, b: Tensor) -> Tensor:
    """A scale or zero point of B, of all of it or of each column, as it multiplies B or the product."""
    if x.numel() == 1:
        return x.reshape(())
    if x.shape[-1] != b.shape[-1]:
        raise CannotRunError(f"{x.shape[-1]} zero points or scales for {b.shape[-1]} columns")
    return x
