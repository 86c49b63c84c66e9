"""How far the input of an operation is from what its constants ask for, which tells sizes that the file leaves open."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from gnelint.ir.graph import Dim, Parameter, Value
from gnelint.onnxfile.file import Gap
from gnelint.readers.emitter import CannotLowerError
from gnelint.readers.onnx.call import Call, Operand


def gap(call: Call) -> Gap | None:
    """Of an operation that does not fit the shapes of its inputs; None where its constants tell no size."""
    find = _GAPS.get(call.op_type)
    if find is None or call.domain:
        return None
    try:
        found = find(call)
    except (CannotLowerError, IndexError, ValueError):  # another misfit than that of one size
        return None
    return None if found is None or found.entries == found.wanted else found


def _value(operand: Operand | None) -> tuple[int, ...] | None:
    return operand.concrete_shape if isinstance(operand, Value) else None


def _constant(operand: Operand | None) -> tuple[int, ...] | None:
    return operand.shape if isinstance(operand, Parameter) else None


def _product(call: Call) -> Gap | None:
    """A matrix product with a constant on either side."""
    contracted = (-2 if call.get("transA", 0) else -1, -1 if call.get("transB", 0) else -2)
    for place in (0, 1):
        value, weight = _value(call.input(place)), _constant(call.input(1 - place))
        if value and weight:
            return Gap(value[contracted[place]], weight[contracted[1 - place]])
    return None


def _entrywise(call: Call) -> Gap | None:
    """A constant laid over a value, from the last axes on."""
    values = [value for value in map(_value, call.inputs) if value]
    constants = [constant for constant in map(_constant, call.inputs) if constant]
    pairs = [
        (size, wanted)
        for value, constant in product(values, constants)
        for size, wanted in zip(reversed(value), reversed(constant), strict=False)
        if 1 not in (size, wanted) and size != wanted
    ]
    return Gap(*pairs[0], others=len(pairs) - 1) if pairs else None


def _convolution(call: Call) -> Gap | None:
    """The input's channels, and a window that is longer than the input."""
    value, weight = _value(call.input(0)), _constant(call.input(1))
    if not value or not weight:
        return None
    if call.op_type == "ConvTranspose":
        return Gap(value[1], weight[0])
    channels = weight[1] * int(call.get("group", 1))
    return _window(call, value, weight[2:]) if value[1] == channels else Gap(value[1], channels)


def _pooling(call: Call) -> Gap | None:
    value = _value(call.input(0))
    return _window(call, value, call.get("kernel_shape", ())) if value else None


def _window(call: Call, value: tuple[int, ...], kernel: Sequence[int]) -> Gap | None:
    """The first axis along which a window is longer than the padded input."""
    axes = len(kernel)
    pads, dilations = call.get("pads") or (0,) * 2 * axes, call.get("dilations") or (1,) * axes
    found = too_long(value[2:], kernel, pads, dilations)
    return None if found is None else found[1]


def too_long(
    sizes: Sequence[Dim], kernel: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> tuple[int, Gap] | None:
    """The first spatial axis along which a window is longer than the padded input, and by how much."""
    axes = len(kernel)
    for axis, size in enumerate(sizes):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        if isinstance(size, int) and reach > size + pads[axis] + pads[axes + axis]:
            return axis, Gap(size + pads[axis] + pads[axes + axis], reach, exact=False)
    return None


def _features(call: Call) -> Gap | None:
    """What a recurrent layer reads at a step."""
    value, weight = _value(call.input(0)), _constant(call.input(1))
    return Gap(value[2], weight[2]) if value and weight else None


def _reshape(call: Call) -> Gap | None:
    """The entries of all of a tensor, of a sample where the batch is what is left over."""
    value, sizes = _value(call.input(0)), call.integers(1, "the shape")
    if not value or not sizes or call.get("allowzero", 0):
        return None
    kept = [value[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    wanted = math.prod(size for size in kept if size != -1)
    return Gap(math.prod(value[1:]), wanted) if kept[0] == -1 else Gap(math.prod(value), wanted)


def _parts(call: Call) -> Gap | None:
    """The lengths that a tensor is split into."""
    value, lengths = _value(call.input(0)), call.integers(1, "the lengths") or call.get("split")
    return Gap(value[int(call.get("axis", 0))], sum(lengths)) if value and lengths else None


_GAPS: Mapping[str, Callable[[Call], Gap | None]] = {
    **dict.fromkeys(("MatMul", "Gemm"), _product),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max", "Min", "Where"), _entrywise),
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolution),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pooling),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _features),
    "Reshape": _reshape,
    "Split": _parts,
}
