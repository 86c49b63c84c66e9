"""Lowerings of convolutions, matrix products, and of sums and products that are biases and scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gnelint.errors import UnreadableError
from gnelint.ir.graph import Parameter, Value
from gnelint.onnxfile.file import MisfitError
from gnelint.readers import lowering
from gnelint.readers.emitter import CannotLowerError, concrete, rank
from gnelint.readers.onnx.call import Call, Operand
from gnelint.readers.onnx.emitter import Emitter, Lowering, Results
from gnelint.readers.onnx.fold import computed, reshaped
from gnelint.readers.onnx.gaps import too_long

SHAPE_ADVICE = "The file is damaged or was edited by hand; export the model again."


def same_pads(
    call: Call, space: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """Explicit begins then ends, with `auto_pad` resolved."""
    mode = call.get("auto_pad", "NOTSET")
    axes = len(kernel)
    if mode in ("NOTSET", ""):
        pads = tuple(call.get("pads") or (0,) * (2 * axes))
        if len(pads) != 2 * axes:
            raise UnreadableError(f'node "{call.origin.name}" has {len(pads)} pads for {axes} axes', SHAPE_ADVICE)
        return pads
    if mode == "VALID":
        return (0,) * (2 * axes)
    begins, ends = [], []
    for size, taps, stride, dilation in zip(space, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
        smaller, larger = total // 2, total - total // 2
        begins.append(smaller if mode == "SAME_UPPER" else larger)
        ends.append(larger if mode == "SAME_UPPER" else smaller)
    return (*begins, *ends)


def per_axis(call: Call, name: str, axes: int) -> tuple[int, ...]:
    """An attribute with one positive entry a spatial axis, ones if it is left out."""
    found = tuple(call.get(name) or (1,) * axes)
    if len(found) != axes or any(entry < 1 for entry in found):
        raise UnreadableError(f'node "{call.origin.name}" has {name} {found} for {axes} axes', SHAPE_ADVICE)
    return found


def check_window(call: Call, x: Value, kernel: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> None:
    """See to it that a window fits into the padded input at least once.

    Raises:
        MisfitError: it is longer. (onnx infers a size all the same: it rounds the division towards zero.)
    """
    found = None if x.shape is None else too_long(x.shape[2:], kernel, pads, dilations)
    if found is not None:
        axis, gap = found
        raise MisfitError(
            f'node "{call.origin.name}" ({call.op_type}) reads {gap.wanted} entries of axis {axis + 2} at once; its '
            f"input of shape {x.shape} has fewer, padding counted",
            "Give a longer shape by --input.",
            gap,
        )


def _wrong_weight(call: Call, weight: Parameter, wanted: str) -> UnreadableError:
    return UnreadableError(
        f'node "{call.origin.name}" ({call.op_type}) has weight "{weight.name}" of shape {weight.shape}; {wanted}',
        SHAPE_ADVICE,
    )


def _checked_bias(call: Call, bias: Parameter | None, channels: int) -> Parameter | None:
    if bias is not None and bias.size != channels:
        raise UnreadableError(
            f'node "{call.origin.name}" ({call.op_type}) has bias "{bias.name}" of shape {bias.shape} for {channels} '
            "channels",
            SHAPE_ADVICE,
        )
    return None if bias is None else reshaped(bias, (channels,))


def conv(call: Call, em: Emitter) -> Results:
    """Conv: the weight is (out, in/groups, *kernel) in ONNX too."""
    weight, bias = call.parameter(1, "the weight"), call.optional_parameter(2, "the bias")
    x = em.flow(call.need(0))
    axes = rank(x) - 2
    groups = call.get("group", 1)
    if len(weight.shape) != axes + 2 or axes < 1:
        raise _wrong_weight(call, weight, f"the input has {axes + 2} axes")
    channels = (x.shape or ())[1]
    if groups < 1 or weight.shape[0] % groups or (isinstance(channels, int) and weight.shape[1] * groups != channels):
        raise _wrong_weight(call, weight, f"the input has {channels} channels in {groups} groups")
    kernel = weight.shape[2:]
    if tuple(call.get("kernel_shape") or kernel) != kernel:
        raise _wrong_weight(call, weight, f"kernel_shape says {call.get('kernel_shape')}")
    strides, dilations = per_axis(call, "strides", axes), per_axis(call, "dilations", axes)
    pads = same_pads(call, concrete(x)[2:] if "auto_pad" in call.attributes else (), kernel, strides, dilations)
    check_window(call, x, kernel, pads, dilations)
    parameters = {"weight": weight, "bias": _checked_bias(call, bias, weight.shape[0])}
    return [
        em.emit(
            "conv",
            [x],
            call.shape,
            call.dtype,
            parameters,
            strides=strides,
            pads=pads,
            dilations=dilations,
            groups=groups,
        )
    ]


def conv_transpose(call: Call, em: Emitter) -> Results:
    """ConvTranspose: the weight is (in, out/groups, *kernel) in ONNX too; `output_shape` becomes pads."""
    weight, bias = call.parameter(1, "the weight"), call.optional_parameter(2, "the bias")
    x = em.flow(call.need(0))
    axes = rank(x) - 2
    groups = call.get("group", 1)
    channels = (x.shape or ())[1]
    if len(weight.shape) != axes + 2 or axes < 1 or groups < 1:
        raise _wrong_weight(call, weight, f"the input has {axes + 2} axes")
    if isinstance(channels, int) and weight.shape[0] != channels:
        raise _wrong_weight(call, weight, f"the input has {channels} channels")
    kernel = weight.shape[2:]
    strides, dilations = per_axis(call, "strides", axes), per_axis(call, "dilations", axes)
    added = tuple(call.get("output_padding") or (0,) * axes)
    wanted = call.get("output_shape")
    mode = call.get("auto_pad", "NOTSET")
    if wanted or mode.startswith("SAME"):
        space = concrete(x)[2:]
        sizes = tuple(wanted)[-axes:] if wanted else tuple(n * s for n, s in zip(space, strides, strict=True))
        pads, added = _pads_for_output(space, sizes, kernel, strides, dilations, added, mode)
    else:
        pads = same_pads(call, (), kernel, strides, dilations)
    parameters = {"weight": weight, "bias": _checked_bias(call, bias, weight.shape[1] * groups)}
    return [
        em.emit(
            "conv_transpose", [x], call.shape, call.dtype, parameters,
            strides=strides, pads=pads, dilations=dilations, groups=groups, output_padding=added,
        )
    ]  # fmt: skip


def _pads_for_output(
    space: Sequence[int], sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int], added: Sequence[int], mode: str,
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    begins, ends, extra = [], [], []
    for i, size in enumerate(sizes):
        total = strides[i] * (space[i] - 1) + added[i] + (kernel[i] - 1) * dilations[i] + 1 - size
        extra.append(added[i] + max(-total, 0))
        smaller, larger = max(total, 0) // 2, max(total, 0) - max(total, 0) // 2
        begins.append(smaller if mode == "SAME_UPPER" else larger)
        ends.append(larger if mode == "SAME_UPPER" else smaller)
    return (*begins, *ends), tuple(extra)


def gemm(call: Call, em: Emitter) -> Results:
    """alpha A' B' + beta C; with a constant factor it is a linear layer."""
    a, b, c = call.need(0), call.need(1), call.input(2)
    flip_a, flip_b = bool(call.get("transA", 0)), bool(call.get("transB", 0))
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if rank(a) != 2 or rank(b) != 2:
        raise CannotLowerError("an operand is no matrix")
    bias: Parameter | None = None
    if isinstance(a, Value) and isinstance(b, Parameter):
        weight = b if flip_b else b.permuted((1, 0))
        x = em.transpose(a, (1, 0)) if flip_a else a
        if isinstance((x.shape or ())[1], int) and weight.shape[1] != (x.shape or ())[1]:
            raise _wrong_weight(call, b, f"the input has {(x.shape or ())[1]} features")
        if isinstance(c, Parameter) and alpha == beta == 1 and c.shape in ((weight.shape[0],), (1, weight.shape[0])):
            bias, c = reshaped(c, (weight.shape[0],)), None
        y = lowering.linear(em, x, weight, bias)
    elif isinstance(a, Parameter) and isinstance(b, Value):
        weight = a.permuted((1, 0)) if flip_a else a
        y = em.transpose(lowering.linear(em, b if flip_b else em.transpose(b, (1, 0)), weight), (1, 0))
    else:
        attributes = {"transpose_a": flip_a, "transpose_b": flip_b, "factor": alpha}
        y = em.emit("matmul", [a, b], call.shape, call.dtype, **attributes)
        alpha = 1.0
    y = em.scale(y, alpha)
    return [y if c is None or beta == 0 else lowering.add(em, y, c, y.shape, beta)]


def matmul(call: Call, em: Emitter) -> Results:
    """A product with a constant matrix is a linear map; of two values it is a product of activations."""
    return [lowering.matmul(em, call.need(0), call.need(1), call.shape)]


# --- sums, differences, products and quotients --------------------------------------------------------------------


def _legacy(call: Call, operand: Operand, other: Operand) -> Operand:
    """Before opset 7 the second operand was aligned at `axis` instead of at the end."""
    axis = call.get("axis")
    if call.version >= 7 or axis is None or not call.get("broadcast", 0) or not isinstance(operand, Parameter):
        return operand
    behind = rank(other) - axis - len(operand.shape)
    return reshaped(operand, operand.shape + (1,) * max(behind, 0))


def add(call: Call, em: Emitter) -> Results:
    """Add."""
    a = call.need(0)
    return [lowering.add(em, a, _legacy(call, call.need(1), a), call.shape)]


def sub(call: Call, em: Emitter) -> Results:
    """Sub."""
    a = call.need(0)
    return [lowering.add(em, a, _legacy(call, call.need(1), a), call.shape, -1.0)]


def mul(call: Call, em: Emitter) -> Results:
    """Mul."""
    a = call.need(0)
    return [lowering.multiply(em, a, _legacy(call, call.need(1), a), call.shape)]


def div(call: Call, em: Emitter) -> Results:
    """Div."""
    a = call.need(0)
    return [lowering.divide(em, a, _legacy(call, call.need(1), a), call.shape)]


def variadic_sum(call: Call, em: Emitter) -> Results:
    """Sum: the values in one node, each constant a bias."""
    operands = [call.need(index) for index in range(len(call.inputs))]
    flows = [operand for operand in operands if isinstance(operand, Value)] or [em.flow(operands.pop())]
    if len(operands) == 1:
        return [em.emit("identity", flows, call.shape)]
    if len({flow.name for flow in flows}) == 1:
        y = em.scale(flows[0], float(len(flows)))
    else:
        y = em.emit("add", flows, tuple(np.broadcast_shapes(*(concrete(flow) for flow in flows))))
    for operand in operands:
        if isinstance(operand, Parameter):
            y = em.plus(y, operand, call.shape)
    return [em.expand(y, call.shape)]


def neg(call: Call, em: Emitter) -> Results:
    """Neg."""
    return [em.scale(em.flow(call.need(0)), -1.0)]


def trilu(call: Call, em: Emitter) -> Results:
    """Trilu: a product with a triangle of ones."""
    x = em.flow(call.need(0))
    diagonal = call.scalar(1, "the diagonal") or 0.0
    rows, columns = concrete(x)[-2:]
    if rows * columns > 1 << 24:
        raise CannotLowerError(f"a triangle of {rows} x {columns}")
    cut = np.triu if call.get("upper", 1) else np.tril

    def ones(_: Any) -> list[np.ndarray]:
        return [cut(np.ones((rows, columns), np.float32), int(diagonal))]

    mask = replace(computed(f"{call.origin.name}/mask", "Trilu", (), (rows, columns), "float32", ones), transform=None)
    return [em.times(x, mask, call.shape)]


def power(call: Call, em: Emitter) -> Results:
    """Pow with a constant exponent or a constant base: b^x = exp(x ln b)."""
    base = call.need(0)
    if isinstance(base, Parameter):
        value = em.number(base)
        if value is None:
            raise CannotLowerError("a base that is no number")
        return [lowering.power_of(em, value, em.flow(call.need(1)), call.shape, call.dtype)]
    exponent = call.scalar(1, "the exponent")
    return [em.emit("pow", [call.need(0)], call.shape, call.dtype, exponent=exponent)]


def einsum(call: Call, em: Emitter) -> Results:
    """Einsum."""
    operands = [call.need(index) for index in range(len(call.inputs))]
    return [lowering.einsum(em, call.get("equation", ""), operands)]


LINEAR_OPS: Mapping[str, Lowering] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Add": add,
    "Sum": variadic_sum,
    "Sub": sub,
    "Mul": mul,
    "Div": div,
    "Neg": neg,
    "Pow": power,
    "Trilu": trilu,
    "Einsum": einsum,
}
