"""Lowerings of activations, pointwise functions, normalisation, pooling, attention and quantisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gnelint.errors import UnreadableError
from gnelint.ir.graph import FLOATING, Parameter, Value
from gnelint.readers.emitter import CannotLowerError, Shape, axis_of, concrete, rank
from gnelint.readers.onnx.call import Call, Operand
from gnelint.readers.onnx.emitter import Emitter, Lowering, Results
from gnelint.readers.onnx.fold import computed, reshaped
from gnelint.readers.onnx.ops.linear import SHAPE_ADVICE, check_window, per_axis, same_pads

_HUGE = 1e30
"""Bounds beyond this are none: before opset 11 Clip had the largest float as its default."""


def _prelu(call: Call, em: Emitter) -> Results:
    slope = call.parameter(1, "the slope")
    x = em.flow(call.need(0))
    if slope.size == 1:
        slope = reshaped(slope, (1,))
    elif len(slope.shape) == rank(x) - 1 and slope.size == slope.shape[0]:
        slope = reshaped(slope, (slope.size,))
    return [em.emit("prelu", [x], call.shape, call.dtype, {"slope": slope})]


def _clip(call: Call, em: Emitter) -> Results:
    if call.version >= 11:
        if isinstance(call.input(1), Value) or isinstance(call.input(2), Value):
            return [_between(call, em)]
        low, high = call.scalar(1, "the lower bound"), call.scalar(2, "the upper bound")
    else:
        low, high = call.get("min"), call.get("max")
    return [clip(em, call.need(0), low, high, call.shape)]


def _between(call: Call, em: Emitter) -> Value:
    """A clip of which a bound is computed from the input: the larger, then the smaller of two values."""
    found = em.flow(call.need(0))
    for index, op in ((1, "maximum"), (2, "minimum")):
        bound = call.input(index)
        if bound is not None:
            found = _largest_or_least(em, op, [found, bound], call.shape)
    return found


def clip(em: Emitter, x: Operand, low: float | None, high: float | None, shape: Shape | None) -> Value:
    """min(max(x, low), high); with one bound at 0 it is the rectifier."""
    low = None if low is None or low <= -_HUGE else low
    high = None if high is None or high >= _HUGE else high
    if low == 0 and high is None:
        return em.emit("relu", [x], shape)
    if low is None and high is None:
        return em.emit("identity", [x], shape)
    return em.emit("clip", [x], shape, min=low, max=high)


def _extreme(op: str) -> Lowering:
    """Max and Min."""

    def lower(call: Call, em: Emitter) -> Results:
        return [_largest_or_least(em, op, [call.need(index) for index in range(len(call.inputs))], call.shape)]

    return lower


def _largest_or_least(em: Emitter, op: str, operands: Sequence[Operand], shape: Shape | None) -> Value:
    """The maximum or minimum of operands; of one value and plain numbers a bound."""
    flows = [operand for operand in operands if isinstance(operand, Value)]
    constants = [operand for operand in operands if isinstance(operand, Parameter)]
    if len(flows) == 1 and all(c.size == 1 and c.provenance == "data" for c in constants):
        bounds = [float(constant.array().reshape(-1)[0]) for constant in constants]
        x = em.expand(flows[0], shape)
        if op == "maximum":
            return clip(em, x, max(bounds, default=None), None, shape)
        return clip(em, x, None, min(bounds, default=None), shape)
    return em.emit(op, operands, shape)


def _softmax(op: str) -> Lowering:
    """Before opset 13 all axes from `axis` on were one."""

    def lower(call: Call, em: Emitter) -> Results:
        x = em.flow(call.need(0))
        axes = rank(x)
        axis = axis_of(call.get("axis", -1 if call.version >= 13 else 1), axes)
        if call.version >= 13 or axis == axes - 1 or all(n == 1 for n in (x.shape or ())[axis + 1 :]):
            return [em.emit(op, [x], call.shape, call.dtype, axis=axis)]
        shape = concrete(x)
        flat = em.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
        return [em.reshape(em.emit(op, [flat], flat.shape, axis=1), shape)]

    return lower


def _dropout(call: Call, em: Emitter) -> Results:
    ratio = call.scalar(1, "the ratio") if call.version >= 12 else call.get("ratio", 0.5)
    p = 0.5 if ratio is None else float(ratio)
    x = call.need(0)
    found: list[Operand | None] = [em.emit("dropout", [x], call.shape, call.dtype, p=p)]
    if call.used(1):
        found.append(em.emit("identity", [x], call.outputs[1].shape, "bool"))
    return found


# --- normalisation ------------------------------------------------------------------------------------------------


def _channels(call: Call, x: Value, parameters: Mapping[str, Parameter | None]) -> dict[str, Parameter | None]:
    """Parameters with one number a channel."""
    channels = (x.shape or (0, 0))[1] if rank(x) > 1 else 1
    found: dict[str, Parameter | None] = {}
    for role, parameter in parameters.items():
        if parameter is not None and isinstance(channels, int) and parameter.size != channels:
            raise UnreadableError(
                f'node "{call.origin.name}" ({call.op_type}) has {role} "{parameter.name}" of shape {parameter.shape} '
                f"for {channels} channels",
                SHAPE_ADVICE,
            )
        found[role] = None if parameter is None else reshaped(parameter, (parameter.size,))
    return found


def _batch_norm(call: Call, em: Emitter) -> Results:
    if call.version < 9 and call.get("spatial", 1) == 0:
        raise CannotLowerError("statistics for every activation (spatial=0)")
    x = em.flow(call.need(0))
    roles = ("scale", "bias", "running_mean", "running_var")
    parameters = {role: call.parameter(index + 1, role) for index, role in enumerate(roles)}
    y = em.emit(
        "batch_norm", [x], call.shape, call.dtype, _channels(call, x, parameters),
        epsilon=call.get("epsilon", 1e-5), training=em.training,
    )  # fmt: skip
    statistics = (parameters["running_mean"], parameters["running_var"])
    return [y, *statistics, *statistics]  # what training mode writes back: no part of the gradient's path


def _instance_norm(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    parameters = _channels(call, x, {"scale": call.parameter(1, "the scale"), "bias": call.parameter(2, "the bias")})
    return [em.emit("instance_norm", [x], call.shape, call.dtype, parameters, epsilon=call.get("epsilon", 1e-5))]


def _group_norm(call: Call, em: Emitter) -> Results:
    """Opset 18 has a scale for each group, later ones for each channel."""
    x = em.flow(call.need(0))
    groups = call.get("num_groups", 1)
    channels = concrete(x)[1]
    if groups < 1 or channels % groups:
        raise UnreadableError(
            f'node "{call.origin.name}" splits {channels} channels into {groups} groups', SHAPE_ADVICE
        )
    found: dict[str, Parameter | None] = {
        "scale": call.parameter(1, "the scale"),
        "bias": call.parameter(2, "the bias"),
    }
    if call.version < 21:
        found = {role: None if p is None else _repeated(p, channels // groups) for role, p in found.items()}
    parameters = _channels(call, x, found)
    attributes = {"groups": groups, "epsilon": call.get("epsilon", 1e-5)}
    return [em.emit("group_norm", [x], call.shape, call.dtype, parameters, **attributes)]


def _repeated(parameter: Parameter, times: int) -> Parameter:
    def run(arrays: Any) -> list[np.ndarray]:
        return [np.repeat(arrays[0], times)]

    name = f"{parameter.name} (per channel)"
    return computed(name, "Tile", (parameter,), (parameter.size * times,), parameter.dtype, run)


def _layer_norm(op: str, roles: tuple[str, ...]) -> Lowering:
    """LayerNormalization and RMSNormalization over the axes from `axis` on."""

    def lower(call: Call, em: Emitter) -> Results:
        x = em.flow(call.need(0))
        if any(call.used(index) for index in range(1, 3)):
            raise CannotLowerError("its statistics are used")
        axes = tuple(range(axis_of(call.get("axis", -1), rank(x)), rank(x)))
        parameters = {role: call.optional_parameter(index + 1, role) for index, role in enumerate(roles)}
        attributes = {"axes": axes, "epsilon": call.get("epsilon", 1e-5)}
        return [em.emit(op, [x], x.shape, call.dtype, parameters, **attributes)]

    return lower


def _lp_normalization(call: Call, em: Emitter) -> Results:
    if call.get("p", 2) != 2:
        raise CannotLowerError(f"p = {call.get('p')}")
    x = em.flow(call.need(0))
    return [em.emit("l2_normalize", [x], call.shape, call.dtype, axes=(axis_of(call.get("axis", -1), rank(x)),))]


def _mean_variance(call: Call, em: Emitter) -> Results:
    """(x - mean) / (std + 1e-9) over `axes`."""
    x = em.flow(call.need(0))
    axes = tuple(sorted(axis_of(axis, rank(x)) for axis in call.get("axes", (0, 2, 3))))
    space = tuple(range(2, rank(x)))
    if axes == (0, *space):
        return [em.emit("batch_norm", [x], call.shape, call.dtype, epsilon=1e-18, training=True)]
    if axes == space:
        return [em.emit("instance_norm", [x], call.shape, call.dtype, epsilon=1e-18)]
    raise CannotLowerError(f"axes {axes}")


# --- pooling ------------------------------------------------------------------------------------------------------


def _window(call: Call, x: Value) -> dict[str, Any]:
    """Kernel, strides, pads and dilations; `ceil_mode` shows as more padding at the end."""
    axes = rank(x) - 2
    kernel = per_axis(call, "kernel_shape", axes)
    strides, dilations = per_axis(call, "strides", axes), per_axis(call, "dilations", axes)
    pads = list(same_pads(call, concrete(x)[2:] if "auto_pad" in call.attributes else (), kernel, strides, dilations))
    if call.get("ceil_mode", 0) and call.shape is not None:
        for i, (size, count) in enumerate(zip(concrete(x)[2:], call.shape[2:], strict=True)):
            if isinstance(count, int):
                reach = (count - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
                pads[axes + i] = max(pads[axes + i], reach - size - pads[i])
    check_window(call, x, kernel, pads, dilations)
    return {"kernel": kernel, "strides": strides, "pads": tuple(pads), "dilations": dilations}


def _max_pool(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    window = _window(call, x)
    if not call.used(1):
        return [em.emit("max_pool", [x], call.shape, **window)]  # of x's type: quantised ones are carried as real
    outputs = [(output.shape, output.dtype) for output in call.outputs[:2]]
    return em.emit_many("max_pool", [x], outputs, **window)


def _avg_pool(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    counted = bool(call.get("count_include_pad", 0))
    return [em.emit("avg_pool", [x], call.shape, call.dtype, **_window(call, x), count_include_pad=counted)]


def _lp_pool(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    return [em.emit("lp_pool", [x], call.shape, call.dtype, **_window(call, x), p=call.get("p", 2))]


# --- attention ----------------------------------------------------------------------------------------------------


def _attention(call: Call, em: Emitter) -> Results:
    """Attention (opset 23): 3-D operands are packed, (B, T, H*d); cached keys and values come first in time."""
    query, key, value = (em.flow(call.need(index)) for index in range(3))
    if call.used(3):
        raise CannotLowerError("its logits are an output")
    windows = (call.get("left_window_size", -1), call.get("right_window_size", -1))
    if call.input(6) is not None or any(window is not None and window >= 0 for window in windows):
        raise CannotLowerError("sliding windows or ragged lengths")
    packed = rank(query) == 3
    heads, kv_heads = call.get("q_num_heads"), call.get("kv_num_heads")
    if (call.input(4) is None) != (call.input(5) is None) or (packed and (not heads or not kv_heads)):
        raise CannotLowerError("the number of heads or half of the cache is missing")
    present: list[Value | None] = [None, None]
    if packed and (call.input(4) is not None or call.used(1) or call.used(2)):
        key, value = (_heads(em, operand, kv_heads) for operand in (key, value))
        query, packed = _heads(em, query, heads), False
    if call.input(4) is not None:
        key, value = _continued(em, call.need(4), key), _continued(em, call.need(5), value)
    if call.used(1) or call.used(2):
        present = [em.emit("identity", [operand], operand.shape) for operand in (key, value)]
    mask = call.input(3)
    y = _attended(call, em, (query, key, value, None if mask is None else em.flow(mask)), packed, heads, kv_heads)
    return [y, *present]


def _attended(
    call: Call,
    em: Emitter,
    operands: tuple[Value, Value, Value, Value | None],
    packed: bool,
    heads: int | None,
    kv: int | None,
) -> Value:
    query, _, value, _ = operands
    attributes: dict[str, Any] = {
        "scale": call.get("scale"),
        "softcap": call.get("softcap", 0.0) or None,
        "causal": bool(call.get("is_causal", 0)),
        "packed": packed,
    }
    if packed:
        return em.emit("attention", operands, call.shape, call.dtype, **attributes, heads=heads, kv_heads=kv)
    shape = (*concrete(query)[:-1], concrete(value)[-1])
    y = em.emit("attention", operands, shape, call.dtype, **attributes)
    if call.shape is not None and len(call.shape) == 3:
        moved = em.transpose(y, (0, 2, 1, 3))
        return em.reshape(moved, call.shape)
    return y


def _heads(em: Emitter, x: Value, heads: int) -> Value:
    """(B, T, H*d) to (B, H, T, d)."""
    batch, time, width = concrete(x)
    return em.transpose(em.reshape(x, (batch, time, heads, width // heads)), (0, 2, 1, 3))


def _continued(em: Emitter, past: Operand, x: Value) -> Value:
    before, now = concrete(past), concrete(x)
    return em.emit("concat", [past, x], (*now[:2], before[2] + now[2], now[3]), axis=2)


# --- quantisation -------------------------------------------------------------------------------------------------


def _quantize(call: Call, em: Emitter) -> Results:
    """Read as the identity: training through it passes the gradient straight through."""
    em.notes["Quantisation of activations is read as the identity (straight-through gradient)."] = None
    x = em.flow(call.need(0))
    return [em.emit("identity", [x], call.shape, x.dtype if x.dtype in FLOATING else call.dtype)]


def _dequantize(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    if x.dtype not in FLOATING:
        raise CannotLowerError("its input is integers from elsewhere than a quantisation")
    return [em.emit("identity", [x], call.shape, call.dtype)]


def bias_then(op: str, **attributes: Any) -> Lowering:
    """An activation of com.microsoft that adds a bias first."""

    def lower(call: Call, em: Emitter) -> Results:
        x = em.flow(call.need(0))
        added = call.optional_parameter(1, "the bias")
        if added is not None:
            x = em.plus(x, added, x.shape)
        return [em.emit(op, [x], x.shape, **attributes)]

    return lower


def _complement_of_erf(call: Call, em: Emitter) -> Results:
    """1 - erf(x): not of the standard, but what tf2onnx leaves of Keras' GELU."""
    x = em.flow(call.need(0))
    return [em.plus(em.scale(em.emit("erf", [x], x.shape), -1.0), 1.0, x.shape)]


UNIT_OPS: Mapping[str, Lowering] = {
    "PRelu": _prelu,
    "Clip": _clip,
    "Max": _extreme("maximum"),
    "Min": _extreme("minimum"),
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "Dropout": _dropout,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm("layer_norm", ("scale", "bias")),
    "RMSNormalization": _layer_norm("rms_norm", ("scale",)),
    "SimplifiedLayerNormalization": _layer_norm("rms_norm", ("scale",)),
    "LpNormalization": _lp_normalization,
    "MeanVarianceNormalization": _mean_variance,
    "MaxPool": _max_pool,
    "AveragePool": _avg_pool,
    "LpPool": _lp_pool,
    "Attention": _attention,
    "Erfc": _complement_of_erf,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "com.microsoft.Gelu": bias_then("gelu"),
    "com.microsoft.BiasGelu": bias_then("gelu"),
    "com.microsoft.FastGelu": bias_then("gelu", approximate="tanh"),
}
