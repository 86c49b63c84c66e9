"""Quantised operators of com.microsoft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.contrib import DOMAIN
from gnelint.measure.onnx_on_torch.contrib_attention import self_attention
from gnelint.measure.onnx_on_torch.quantization import q_linear_conv
from gnelint.measure.onnx_on_torch.quantized import (
    dequantized,
    dynamically_quantized,
    integer_product,
    of_columns,
    of_rows,
    quantized,
)
from gnelint.measure.onnx_on_torch.recurrent import run_lstm
from gnelint.measure.onnx_on_torch.standard import run_standard
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

# --- floating by quantised ----------------------------------------------------------------------------------------


@operator("MatMulNBits", domain=DOMAIN)
def matmul_n_bits(
    call: Call,
    a: Tensor,
    b: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    groups: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A W^T + bias, W (N, K) unpacked from integers of a few bits, with a scale and zero point for each block."""
    bits, rows, columns, block = (int(call.get("bits", 4)), *(call.need(name) for name in ("N", "K", "block_size")))
    if groups is not None or call.get("weight_prepacked", 0) or not b.numel():
        raise CannotRunError("group indices, a weight in another layout or none at all")
    blocks = -(-columns // block)
    whole = _unpacked(b.reshape(rows, blocks, -1), bits)
    shape = (rows, blocks, 1)
    if zero_points is None:
        zero = torch.full((1, 1, 1), 2 ** (bits - 1), device=a.device)
    elif zero_points.dtype is torch.uint8:
        zero = _unpacked(zero_points.reshape(rows, -1), bits)[:, :blocks].reshape(shape)
    else:
        zero = zero_points.reshape(shape)
    w = (whole.to(a.dtype) - zero.to(a.dtype)) * scales.reshape(shape)
    y = a @ w.flatten(1)[:, :columns].T
    return y if bias is None else y + bias


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """The last axis with each byte taken apart, lower bits first."""
    if bits not in (2, 4, 8):
        raise CannotRunError(f"weights of {bits} bits")
    shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


@operator("GatherBlockQuantized", domain=DOMAIN)
def gather_block_quantized(
    call: Call, data: Tensor, indices: Tensor, scales: Tensor, zero_points: Tensor | None = None
) -> Tensor:
    """Rows of a table of a few bits per number, with a scale and zero point for each block of a row."""
    bits, block = int(call.get("bits", 4)), int(call.get("block_size", 128))
    last = call.get("quantize_axis", 1) % data.dim() == data.dim() - 1
    if data.dtype is not torch.uint8 or call.get("gather_axis", 0) or not last:
        raise CannotRunError("a table that is not packed in bytes, or blocks across rows")
    rows = indices.long()
    whole = _unpacked(data[rows], bits)
    scale = scales[rows]
    if zero_points is None:
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        zero = _unpacked(zero_points[rows], bits)[..., : scale.shape[-1]].to(scale.dtype)
    scale, zero = (x.repeat_interleave(block, -1)[..., : whole.shape[-1]] for x in (scale, zero))
    return (whole.to(scale.dtype) - zero) * scale


@operator("DynamicQuantizeMatMul", domain=DOMAIN)
def dynamic_quantize_matmul(
    call: Call, a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """A B + bias, A quantised to 8 bits first."""
    whole, scale, zero = dynamically_quantized(a)
    y = _floating_product(whole, b, scale, b_scale, zero, b_zero)
    return y if bias is None else y + bias


@operator("MatMulIntegerToFloat", domain=DOMAIN)
def matmul_integer_to_float(
    call: Call,
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Tensor | None = None,
    b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A B + bias of quantised matrices."""
    y = _floating_product(a, b, a_scale, b_scale, a_zero, b_zero)
    return y if bias is None else y + bias


@operator("QAttention", domain=DOMAIN)
def q_attention(
    call: Call,
    x: Tensor,
    w: Tensor,
    b: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    mask: Tensor | None = None,
    x_zero: Tensor | None = None,
    w_zero: Tensor | None = None,
    past: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention whose projection x W + b is a product of quantised matrices."""
    return self_attention(call, _floating_product(x, w, x_scale, w_scale, x_zero, w_zero) + b, mask, past)


@operator("DynamicQuantizeLSTM", domain=DOMAIN)
def dynamic_quantize_lstm(call: Call, x: Tensor, w: Tensor, r: Tensor, *more: Any) -> tuple[Tensor, ...]:
    """LSTM with quantised weights; x and each h are quantised to 8 bits before they are multiplied by them.

    The range of h is that of the whole batch; ONNX Runtime takes it over the part of the batch that a thread has.
    """
    *rest, w_scale, w_zero, r_scale, r_zero = more
    w, r = _weights_of_gates(w, w_scale, w_zero), _weights_of_gates(r, r_scale, r_zero)
    return run_lstm(call, (_in_8_bits(x), w, r, *rest), _in_8_bits)


def _weights_of_gates(w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """(directions, gates, inputs) from quantised (directions, inputs, gates)."""
    each = (w.shape[0], 1, -1)
    return dequantized(w, scale.reshape(each), zero.reshape(each)).mT


def _in_8_bits(x: Tensor) -> Tensor:
    """x as it is after its quantisation to 8 bits."""
    return dequantized(*dynamically_quantized(x))


def _floating_product(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, a_zero: Tensor | None, b_zero: Tensor | None
) -> Tensor:
    scale = of_rows(a_scale, a).double() * of_columns(b_scale, b).double()
    return (integer_product(a, b, a_zero, b_zero) * scale).to(a_scale.dtype)


# --- quantised results --------------------------------------------------------------------------------------------


@operator("QGemm", domain=DOMAIN)
def q_gemm(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    c: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero: Tensor | None = None,
) -> Tensor:
    """alpha (A B + C) of quantised matrices, C in units of the product; floating if there is no scale of the result."""
    left, right = a.T if call.get("transA", 0) else a, b.T if call.get("transB", 0) else b
    total = integer_product(left, right, a_zero, b_zero)
    if c is not None:
        total = total + c.double()
    value = total * (call.get("alpha", 1.0) * a_scale.double() * of_columns(b_scale, right).double())
    if y_scale is None or y_zero is None:
        return value.to(a_scale.dtype)
    return quantized(value / y_scale.double(), y_zero, y_zero.dtype)


@operator("QLinearConv", domain=DOMAIN)
def q_linear_conv_of_layout(call: Call, x: Tensor, *others: Any) -> Tensor:
    """QLinearConv, also of a tensor with channels last."""
    if not call.get("channels_last", 0):
        return q_linear_conv(call, x, *others)
    y: Tensor = q_linear_conv(call, x.movedim(-1, 1), *others)
    return y.movedim(1, -1)


@operator("QLinearAdd", domain=DOMAIN)
def q_linear_add(call: Call, *operands: Any) -> Tensor:
    """A + B of quantised tensors."""
    return _combined(torch.add, *operands)


@operator("QLinearMul", domain=DOMAIN)
def q_linear_mul(call: Call, *operands: Any) -> Tensor:
    """A B entry by entry of quantised tensors."""
    return _combined(torch.mul, *operands)


def _combined(
    function: Callable[[Tensor, Tensor], Tensor],
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor | None,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor | None,
    c_scale: Tensor,
    c_zero: Tensor | None = None,
) -> Tensor:
    return _written(function(_read(a, a_scale, a_zero), _read(b, b_scale, b_zero)), c_scale, c_zero, a.dtype)


@operator("QLinearSigmoid", domain=DOMAIN)
def q_linear_sigmoid(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None
) -> Tensor:
    """sigmoid(x) of a quantised tensor."""
    return _written(torch.sigmoid(_read(x, x_scale, x_zero)), y_scale, y_zero, x.dtype)


@operator("QLinearLeakyRelu", domain=DOMAIN)
def q_linear_leaky_relu(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None
) -> Tensor:
    """LeakyRelu of a quantised tensor."""
    value = torch.nn.functional.leaky_relu(_read(x, x_scale, x_zero), call.get("alpha", 0.01))
    return _written(value, y_scale, y_zero, x.dtype)


@operator("QLinearSoftmax", domain=DOMAIN)
def q_linear_softmax(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None
) -> Tensor:
    """softmax of a quantised tensor; over all axes from one on before opset 13."""
    value, axis = _read(x, x_scale, x_zero), call.get("axis", -1)
    rows = value.flatten(axis) if call.need("opset") < 13 else value
    y = rows.softmax(axis if rows is value else -1).reshape(x.shape)
    return _written(y, y_scale, y_zero, x.dtype)


@operator("QLinearWhere", domain=DOMAIN)
def q_linear_where(
    call: Call,
    condition: Tensor,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    y: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    z_scale: Tensor,
    z_zero: Tensor,
) -> Tensor:
    """Entries of one quantised tensor or of another."""
    value = torch.where(condition, _read(x, x_scale, x_zero), _read(y, y_scale, y_zero))
    return _written(value, z_scale, z_zero, x.dtype)


@operator("QLinearConcat", domain=DOMAIN)
def q_linear_concat(call: Call, y_scale: Tensor, y_zero: Tensor, *inputs: Tensor) -> Tensor:
    """Quantised tensors beside each other, each given with its scale and zero point."""
    parts = [_read(*inputs[first : first + 3]) for first in range(0, len(inputs), 3)]
    return _written(torch.cat(parts, call.need("axis")), y_scale, y_zero, y_zero.dtype)


@operator("QLinearGlobalAveragePool", domain=DOMAIN)
def q_linear_global_average_pool(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor
) -> Tensor:
    """The mean over the spatial axes of a quantised tensor."""
    axes = list(range(1, x.dim() - 1) if call.get("channels_last", 0) else range(2, x.dim()))
    return _written(_read(x, x_scale, x_zero).mean(axes, keepdim=True), y_scale, y_zero, x.dtype)


@operator("QLinearAveragePool", domain=DOMAIN)
def q_linear_average_pool(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None
) -> Tensor:
    """AveragePool of a quantised tensor."""
    last = bool(call.get("channels_last", 0))
    value = _read(x, x_scale, x_zero)
    pooled: Tensor = run_standard(call, "AveragePool", value.movedim(-1, 1) if last else value)
    return _written(pooled.movedim(1, -1) if last else pooled, y_scale, y_zero, x.dtype)


def _read(x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    return dequantized(x, scale.double().reshape(()), None if zero_point is None else zero_point.reshape(()))


def _written(value: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    zero = None if zero_point is None else zero_point.reshape(())
    return quantized(value / scale.double().reshape(()), zero, dtype)
