"""Lowerings of operators on quantised tensors (the "QOperator" form): layers and sums of what the integers stand for.

A quantised tensor is carried as the real one, through whose rounding training passes the gradient straight; so
y = round(conv(x, w) / y_scale) is conv(x, (w - w_zero) w_scale) with the bias b x_scale w_scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gnelint.ir.graph import FLOATING, Parameter, Value
from gnelint.readers import lowering
from gnelint.readers.emitter import CannotLowerError, concrete
from gnelint.readers.onnx.call import Call, Operand
from gnelint.readers.onnx.emitter import Emitter, Lowering, Results
from gnelint.readers.onnx.fold import computed
from gnelint.readers.onnx.ops.linear import conv, gemm
from gnelint.readers.onnx.ops.units import UNIT_OPS

NOTE = "Quantisation of activations is read as the identity (straight-through gradient)."


def _real(call: Call, em: Emitter, index: int, axis: int = 0) -> Operand:
    """What the quantised operand stands for, its scale and zero point behind it; a constant has some along an axis."""
    found = call.need(index)
    if isinstance(found, Parameter):
        return _decoded(found, call.parameter(index + 1, "the scale"), call.optional_parameter(index + 2, "zero"), axis)
    x = em.flow(found)
    if x.dtype not in FLOATING:
        raise CannotLowerError("its input is integers from elsewhere than a quantisation")
    em.notes[NOTE] = None
    return x


def _decoded(codes: Parameter, scale: Parameter, zero: Parameter | None, axis: int) -> Parameter:
    """(codes - zero) scale."""
    along = [1] * len(codes.shape)
    each = codes.shape[axis] if -len(along) <= axis < len(along) else 1
    _check_of_axis(each, scale, zero)
    if each > 1 and max(scale.size, 1 if zero is None else zero.size) > 1:
        along[axis] = -1
    shape = tuple(along)

    def run(arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        stored, factor, offset = arrays
        assert stored is not None
        assert factor is not None
        numbers = np.asarray(stored).astype(np.float32)
        if offset is not None:
            numbers -= np.asarray(offset).astype(np.float32).reshape(shape)
        return [numbers * np.asarray(factor).astype(np.float32).reshape(shape)]

    return computed(codes.name, "DequantizeLinear", (codes, scale, zero), codes.shape, "float32", run)


def _check_of_axis(size: int, *given: Parameter | None) -> None:
    """Whether scales and zero points are one for all, or one for each entry of an axis of this size.

    Raises:
        CannotLowerError: one is neither.
    """
    if any(each is not None and each.size not in (1, size) for each in given):
        raise CannotLowerError("scales or zero points that are not of an axis")


def _as_real(call: Call, op_type: str, inputs: Sequence[Operand | None], dtype: str | None) -> Call:
    """The operation on real tensors."""
    outputs = tuple(replace(output, dtype=dtype) for output in call.outputs)
    return replace(call, op_type=op_type, domain="", inputs=tuple(inputs), outputs=outputs)


def _decoded_bias(codes: Parameter, left: Parameter, right: Parameter, factor: float = 1.0) -> Parameter:
    """factor x_scale w_scale codes: a bias of 32 bits, which has no scale of its own."""
    _check_of_axis(1, left)
    _check_of_axis(codes.size, right)

    def run(arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        stored, of_input, of_weight = (np.asarray(array) for array in arrays)
        found = factor * stored.astype(np.float64).reshape(-1) * of_input.reshape(-1) * of_weight.reshape(-1)
        return [found.reshape(stored.shape).astype(np.float32)]

    return computed(codes.name, "DequantizeLinear", (codes, left, right), codes.shape, "float32", run)


def _conv(call: Call, em: Emitter) -> Results:
    x, weight = _real(call, em, 0), _real(call, em, 3)
    if not isinstance(x, Value) or not isinstance(weight, Parameter):
        raise CannotLowerError("the weight depends on the model's input")
    bias = call.optional_parameter(8, "the bias")
    if bias is not None:
        bias = _decoded_bias(bias, call.parameter(1, "the scale"), call.parameter(4, "the scale"))
    return conv(_as_real(call, "Conv", (x, weight, bias), x.dtype), em)


def _matmul(call: Call, em: Emitter) -> Results:
    a, b = _real(call, em, 0, -2), _real(call, em, 3, -1)
    return [lowering.matmul(em, a, b, call.shape)]


def _gemm(call: Call, em: Emitter) -> Results:
    """ONNX Runtime's alpha A' B' + C on integers; C is added with the scale of the product."""
    a, b = _real(call, em, 0), _real(call, em, 3, 0 if call.get("transB", 0) else 1)
    bias = call.optional_parameter(6, "the bias")
    if bias is not None:
        scales = (call.parameter(1, "the scale"), call.parameter(4, "the scale"))
        bias = _decoded_bias(bias, *scales, call.get("alpha", 1.0))
    return gemm(_as_real(call, "Gemm", (a, b, bias), em.flow(a).dtype), em)


def _of_two(combine: Any) -> Lowering:
    """ONNX Runtime's sums and products: two operands, each with a scale and a zero point."""

    def lower(call: Call, em: Emitter) -> Results:
        a, b = _real(call, em, 0), _real(call, em, 3)
        return [combine(em, a, b, tuple(np.broadcast_shapes(concrete(a), concrete(b))))]

    return lower


def _of_one(op: str, **attributes: Any) -> Lowering:
    """An activation between two quantised tensors; an attribute comes with its name in ONNX and its default."""

    def lower(call: Call, em: Emitter) -> Results:
        x = em.flow(_real(call, em, 0))
        given = {ours: call.get(name, usual) for ours, (name, usual) in attributes.items()}
        return [em.emit(op, [x], x.shape, **given)]

    return lower


def _mean_of_positions(call: Call, em: Emitter) -> Results:
    x = em.flow(_real(call, em, 0))
    shape = concrete(x)
    if call.get("channels_last", 0) or len(shape) < 3:
        raise CannotLowerError("channels that are not the second axis")
    axes = tuple(range(2, len(shape)))
    return [em.emit("reduce_mean", [x], (*shape[:2], *(1 for _ in axes)), axes=axes, keepdims=True)]


def _softmax(call: Call, em: Emitter) -> Results:
    x = em.flow(_real(call, em, 0))
    real = _as_real(call, "Softmax", (x,), x.dtype)
    shaped = replace(real.outputs[0], shape=x.shape)
    return UNIT_OPS["Softmax"](replace(real, version=call.get("opset", 13), outputs=(shaped,)), em)


def _concat(call: Call, em: Emitter) -> Results:
    """Parts, each with a scale and a zero point behind it; the result's come first."""
    parts = [em.flow(_real(call, em, index)) for index in range(2, len(call.inputs), 3)]
    return [em.concat(parts, call.get("axis"))]


QUANTIZED_OPS: Mapping[str, Lowering] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "com.microsoft.QGemm": _gemm,
    "com.microsoft.QLinearAdd": _of_two(lowering.add),
    "com.microsoft.QLinearMul": _of_two(lowering.multiply),
    "com.microsoft.QLinearSigmoid": _of_one("sigmoid"),
    "com.microsoft.QLinearLeakyRelu": _of_one("leaky_relu", alpha=("alpha", 0.01)),
    "com.microsoft.QLinearSoftmax": _softmax,
    "com.microsoft.QLinearConcat": _concat,
    "com.microsoft.QLinearGlobalAveragePool": _mean_of_positions,
}
