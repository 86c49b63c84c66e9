"""Quantised tensors and products of them. Products are exact: integers held in float64, rounded half to even."""

from __future__ import annotations

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.quantized import (
    along_channels,
    dequantized,
    dynamically_quantized,
    expanded,
    integer_product,
    of_columns,
    of_rows,
    quantized,
    shifted,
)
from gnelint.measure.onnx_on_torch.standard import run_standard
from gnelint.measure.onnx_on_torch.table import Datum, operator


@operator("QuantizeLinear")
@operator("QuantizeLinear", domain="com.microsoft")
def quantize_linear(call: Call, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Datum:
    """saturate(round(x / scale) + zero point)."""
    code = call.get("output_dtype", 0)
    unsaid = call.dtype(code) if code else torch.uint8
    dtype = unsaid if zero_point is None else zero_point.dtype
    precision = call.get("precision", 0)
    divided_in = call.dtype(precision) if precision else scale.dtype
    axis, block = call.get("axis", 1), call.get("block_size", 0)
    ratio = (x.to(divided_in) / expanded(scale, x, axis, block).to(divided_in)).to(_wide(divided_in))
    zero = None if zero_point is None else expanded(zero_point, x, axis, block)
    if dtype.is_floating_point:
        moved = ratio if zero is None else ratio + zero.to(ratio.dtype)
        return run_standard(call, "CastLike", moved, ratio.new_empty(0, dtype=dtype))
    return quantized(ratio, zero, dtype)


@operator("DequantizeLinear")
@operator("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(call: Call, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """(x - zero point) scale."""
    axis, block = call.get("axis", 1), call.get("block_size", 0)
    code = call.get("output_dtype", 0)
    dtype = call.dtype(code) if code else scale.dtype
    zero = None if zero_point is None else expanded(zero_point, x, axis, block)
    wide = _wide(scale.dtype)
    return dequantized(x, expanded(scale, x, axis, block).to(wide), zero).to(dtype)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x in 8 bits over its own range, widened to hold 0; the scale; the zero point."""
    return dynamically_quantized(x)


@operator("QLinearMatMul")
def q_linear_matmul(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """A B of quantised matrices, quantised; A's scale may be of each row, B's of each column."""
    product = integer_product(a, b, a_zero, b_zero)
    scale = of_rows(a_scale, a).double() * of_columns(b_scale, b).double() / y_scale.double()
    return quantized(product * scale, y_zero, y_zero.dtype)


@operator("MatMulInteger")
def matmul_integer(
    call: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """A B in integers of 32 bits."""
    return integer_product(a, b, a_zero, b_zero).to(torch.int64).to(torch.int32)


@operator("QLinearConv")
def q_linear_conv(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    b: Tensor | None = None,
) -> Tensor:
    """The convolution of a quantised tensor, quantised; w's scale may be of each output channel."""
    bias = None if b is None else b.to(torch.float64)
    total = run_standard(call, "Conv", shifted(x, x_zero), shifted(w, along_channels(w_zero, w.dim(), 0)), bias)
    scale = x_scale.double() * along_channels(w_scale.double(), total.dim(), 1) / y_scale.double()
    return quantized(total * scale, y_zero, y_zero.dtype)


@operator("ConvInteger")
def conv_integer(
    call: Call, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """A convolution in integers of 32 bits."""
    zero = None if w_zero is None else along_channels(w_zero, w.dim(), 0)
    total: Tensor = run_standard(call, "Conv", shifted(x, x_zero), shifted(w, zero))
    return total.to(torch.int64).to(torch.int32)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which what comes of a scale of this type is rounded or multiplied."""
    return dtype if dtype is torch.float64 else torch.float32
