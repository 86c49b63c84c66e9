"""Lowerings of convolutions, matrix products, and of sums and products that are biases and scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gnelint.ir.graph import Parameter, Value
from gnelint.onnxfile.file import MisfitError, UnreadableError
from gnelint.readers.onnx.emitter import (
    Call,
    CannotLowerError,
    Emitter,
    Lowering,
    Operand,
    Results,
    Shape,
    concrete,
    rank,
)
from gnelint.readers.onnx.fold import computed, literal, reshaped

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
    axes = len(kernel)
    for i, size in enumerate((x.shape or ())[2:]):
        reach = (kernel[i] - 1) * dilations[i] + 1
        if isinstance(size, int) and reach > size + pads[i] + pads[axes + i]:
            raise MisfitError(
                f'node "{call.origin.name}" ({call.op_type}) reads {reach} entries of axis {i + 2} at once; its input '
                f"of shape {x.shape} has fewer, padding counted",
                "Give a longer shape by --input.",
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


def linear(em: Emitter, x: Value, weight: Parameter, bias: Parameter | None = None) -> Value:
    """A linear map on the last axis; the weight is (out, in)."""
    if x.shape is None:
        raise CannotLowerError(f'the rank of "{x.name}" is not known')
    return em.emit("linear", [x], (*x.shape[:-1], weight.shape[0]), parameters={"weight": weight, "bias": bias})


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
        y = linear(em, x, weight, bias)
    elif isinstance(a, Parameter) and isinstance(b, Value):
        weight = a.permuted((1, 0)) if flip_a else a
        y = em.transpose(linear(em, b if flip_b else em.transpose(b, (1, 0)), weight), (1, 0))
    else:
        attributes = {"transpose_a": flip_a, "transpose_b": flip_b, "factor": alpha}
        y = em.emit("matmul", [a, b], call.shape, call.dtype, **attributes)
        alpha = 1.0
    if alpha != 1:
        y = em.emit("scale", [y], y.shape, factor=alpha)
    if c is None or beta == 0:
        return [y]
    if isinstance(c, Parameter):
        return [em.emit("bias", [y], y.shape, parameters={"bias": c}, **({} if beta == 1 else {"factor": beta}))]
    return [em.emit("add", [y, c if beta == 1 else em.emit("scale", [c], c.shape, factor=beta)], y.shape)]


def matmul(call: Call, em: Emitter) -> Results:
    """A product with a constant matrix is a linear map; of two values it is a product of activations."""
    return [product(em, call.need(0), call.need(1), call.shape)]


def product(em: Emitter, a: Operand, b: Operand, shape: Shape | None) -> Value:
    """numpy.matmul of two operands."""
    if isinstance(a, Value) and isinstance(b, Parameter):
        found = _times_constant(em, a, b, shape)
        if found is not None:
            return found
    if isinstance(a, Parameter) and isinstance(b, Value) and len(a.shape) == 2 and rank(b) >= 2:
        swap = (*range(rank(b) - 2), rank(b) - 1, rank(b) - 2)
        return em.transpose(linear(em, em.transpose(b, swap), a), swap)
    if rank(a) == 1 or rank(b) == 1:
        left, right = em.flow(a), em.flow(b)
        if rank(a) == 1:
            left = em.reshape(left, (1, *concrete(left)))
        if rank(b) == 1:
            right = em.reshape(right, (*concrete(right), 1))
        batch = np.broadcast_shapes(concrete(left)[:-2], concrete(right)[:-2])
        y = em.emit("matmul", [left, right], (*batch, concrete(left)[-2], concrete(right)[-1]))
        return y if shape is None else em.reshape(y, shape)
    return em.emit("matmul", [a, b], shape)


def _times_constant(em: Emitter, x: Value, weight: Parameter, shape: Shape | None) -> Value | None:
    """x @ weight as a linear map; None if the weight is a stack of different matrices."""
    if any(size != 1 for size in weight.shape[:-2]):
        return None
    matrix = reshaped(weight, weight.shape[-2:] if len(weight.shape) > 1 else (*weight.shape, 1))
    y = linear(em, x, matrix.permuted((1, 0)))
    return y if shape is None else em.reshape(y, shape)


# --- sums, differences, products and quotients --------------------------------------------------------------------


def number(parameter: Parameter) -> float | None:
    """The value of a constant without axes that is written in the model, None for a tensor."""
    if parameter.shape != () or parameter.provenance != "data":
        return None
    value = parameter.array()
    if value.dtype.kind == "c" or value.dtype == object:
        return None
    return float(value)


def _legacy(call: Call, operand: Operand, other: Operand) -> Operand:
    """Before opset 7 the second operand was aligned at `axis` instead of at the end."""
    axis = call.get("axis")
    if call.version >= 7 or axis is None or not call.get("broadcast", 0) or not isinstance(operand, Parameter):
        return operand
    behind = rank(other) - axis - len(operand.shape)
    return reshaped(operand, operand.shape + (1,) * max(behind, 0))


def add(call: Call, em: Emitter) -> Results:
    """Add."""
    a, b = call.need(0), call.need(1)
    return [total(em, [a, _legacy(call, b, a)], call.shape)]


def variadic_sum(call: Call, em: Emitter) -> Results:
    """Sum."""
    return [total(em, [call.need(index) for index in range(len(call.inputs))], call.shape)]


def total(em: Emitter, operands: Sequence[Operand], shape: Shape | None) -> Value:
    """The sum; constants are biases, a value added to itself is scaled."""
    flows = [operand for operand in operands if isinstance(operand, Value)]
    constants = [operand for operand in operands if isinstance(operand, Parameter)]
    if len(flows) == 1:
        y = flows[0]
    elif len({flow.name for flow in flows}) == 1:
        y = em.emit("scale", [flows[0]], flows[0].shape, factor=float(len(flows)))
    else:
        y = em.emit("add", flows, shape if not constants else _joint(flows))
    for constant in constants:
        y = bias(em, y, constant, shape)
    return em.expand(y, shape) if constants or len(flows) > 1 else em.emit("identity", [y], shape)


def _joint(flows: Sequence[Value]) -> Shape:
    return tuple(np.broadcast_shapes(*(concrete(flow) for flow in flows)))


def bias(em: Emitter, x: Value, constant: Parameter, shape: Shape | None, factor: float = 1.0) -> Value:
    """x + factor * constant; `shape` is the result's."""
    x = em.expand(x, shape)
    attributes: dict[str, Any] = {} if factor == 1 else {"factor": factor}
    return em.emit("bias", [x], shape, parameters={"bias": constant}, **attributes)


def scale(em: Emitter, x: Value, constant: Parameter, shape: Shape | None, reciprocal: bool = False) -> Value:
    """x * constant or x / constant; a plain number becomes the factor."""
    x = em.expand(x, shape)
    factor = number(constant)
    if factor is None or (reciprocal and factor == 0):
        attributes: dict[str, Any] = {"reciprocal": True} if reciprocal else {}
        return em.emit("scale", [x], shape, parameters={"scale": constant}, **attributes)
    return em.emit("scale", [x], shape, factor=1.0 / factor if reciprocal else factor)


def sub(call: Call, em: Emitter) -> Results:
    """Sub."""
    a = call.need(0)
    b = _legacy(call, call.need(1), a)
    if isinstance(a, Value) and isinstance(b, Parameter):
        return [bias(em, a, b, call.shape, -1.0)]
    if isinstance(b, Value) and isinstance(a, Parameter):
        return [bias(em, em.emit("scale", [b], b.shape, factor=-1.0), a, call.shape)]
    return [em.emit("sub", [a, b], call.shape)]


def mul(call: Call, em: Emitter) -> Results:
    """Mul; the square of a value is a power, no product of two."""
    a = call.need(0)
    b = _legacy(call, call.need(1), a)
    if isinstance(a, Value) and isinstance(b, Parameter):
        return [scale(em, a, b, call.shape)]
    if isinstance(b, Value) and isinstance(a, Parameter):
        return [scale(em, b, a, call.shape)]
    if isinstance(a, Value) and isinstance(b, Value) and a.name == b.name:
        return [em.emit("pow", [a], call.shape, exponent=2.0)]
    return [em.emit("mul", [a, b], call.shape)]


def div(call: Call, em: Emitter) -> Results:
    """Div."""
    a = call.need(0)
    b = _legacy(call, call.need(1), a)
    if isinstance(a, Value) and isinstance(b, Parameter):
        return [scale(em, a, b, call.shape, reciprocal=True)]
    if isinstance(b, Value) and isinstance(a, Parameter):
        inverse = em.emit("reciprocal", [b], b.shape)
        return [inverse if number(a) == 1 else scale(em, inverse, a, call.shape)]
    return [em.emit("div", [a, b], call.shape)]


def neg(call: Call, em: Emitter) -> Results:
    """Neg."""
    return [em.emit("scale", [call.need(0)], call.shape, factor=-1.0)]


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
    return [em.emit("scale", [x], call.shape, parameters={"scale": mask})]


def power(call: Call, em: Emitter) -> Results:
    """Pow with a constant exponent or a constant base: b^x = exp(x ln b)."""
    base = call.need(0)
    if isinstance(base, Parameter):
        value = number(base)
        if value is None or value <= 0:
            raise CannotLowerError("a base that is no positive number")
        x = em.flow(call.need(1))
        scaled = em.emit("scale", [x], x.shape, factor=math.log(value))
        return [em.emit("exp", [scaled], call.shape, call.dtype)]
    exponent = call.scalar(1, "the exponent")
    return [em.emit("pow", [call.need(0)], call.shape, call.dtype, exponent=exponent)]


def einsum(call: Call, em: Emitter) -> Results:
    """Einsum of one operand that is moved or summed, or of two that are multiplied as matrices."""
    equation = call.get("equation", "").replace(" ", "")
    if "." in equation:
        raise CannotLowerError("an equation with an ellipsis")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    operands = [call.need(index) for index in range(len(call.inputs))]
    if len(terms) != len(operands) or any(
        len(set(t)) != len(t) or len(t) != rank(o) for t, o in zip(terms, operands, strict=True)
    ):
        raise CannotLowerError(f"the equation {equation}")
    size = {letter: n for t, o in zip(terms, operands, strict=True) for letter, n in zip(t, concrete(o), strict=True)}
    if len(operands) == 1:
        return [_moved(em, em.flow(operands[0]), terms[0], out)]
    if len(operands) != 2:
        raise CannotLowerError(f"{len(operands)} operands")
    return [_contracted(em, operands, terms, out, size)]


def _moved(em: Emitter, x: Value, letters: str, out: str) -> Value:
    kept = "".join(letter for letter in letters if letter in out)
    if set(out) - set(letters):
        raise CannotLowerError(f"the equation {letters}->{out}")
    if kept != letters:
        axes = tuple(axis for axis, letter in enumerate(letters) if letter not in out)
        shape = tuple(n for axis, n in enumerate(concrete(x)) if axis not in axes)
        x = em.emit("reduce_sum", [x], shape, axes=axes, keepdims=False)
    return em.transpose(x, tuple(kept.index(letter) for letter in out))


def _contracted(
    em: Emitter, operands: Sequence[Operand], terms: Sequence[str], out: str, size: Mapping[str, int]
) -> Value:
    a, b = terms
    batch = [letter for letter in out if letter in a and letter in b]
    summed = [letter for letter in a if letter in b and letter not in out]
    free_a = [letter for letter in out if letter in a and letter not in b]
    free_b = [letter for letter in out if letter in b and letter not in a]
    if set(a + b) != set(batch + summed + free_a + free_b) or set(out) - set(a + b):
        raise CannotLowerError("a letter that only one operand has is summed")
    n_sum, n_a, n_b = (math.prod(size[letter] for letter in letters) for letters in (summed, free_a, free_b))
    lead = tuple(size[letter] for letter in batch)
    first = _arranged(em, operands[0], a, [*batch, *free_a, *summed], (*lead, n_a, n_sum))
    second = _arranged(em, operands[1], b, [*batch, *summed, *free_b], (*lead, n_sum, n_b))
    y = product(em, first, second, (*lead, n_a, n_b))
    written = [*batch, *free_a, *free_b]
    y = em.reshape(y, tuple(size[letter] for letter in written))
    return em.transpose(y, tuple(written.index(letter) for letter in out))


def _arranged(em: Emitter, operand: Operand, letters: str, wanted: Sequence[str], shape: tuple[int, ...]) -> Operand:
    perm = tuple(letters.index(letter) for letter in wanted)
    if isinstance(operand, Parameter):
        return reshaped(operand.permuted(perm), shape)
    return em.reshape(em.transpose(operand, perm), shape)


def scalar_parameter(name: str, value: float) -> Parameter:
    """A plain number as a constant."""
    return literal(name, np.array(value, np.float32))


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
