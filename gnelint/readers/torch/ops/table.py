"""What each operation of a traced program becomes: one table from ATen's names to the vocabulary.

A lowering is a function of the emitter and the call; it returns the operand (or the tuple of operands) that stands for
the operation's result. Operations with the same meaning share one, whatever their overload: the table is keyed by the
bare name ("conv2d"), and arguments are taken by the names of ATen's schema. A use that the vocabulary cannot express
raises `CannotLowerError` and is reported as `unmodelled` by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gnelint.ops import VOCABULARY
from gnelint.ops.record import TorchForm
from gnelint.readers.emitter import CannotLowerError
from gnelint.readers.lowering import add, divide, multiply, power_of
from gnelint.readers.tables import once
from gnelint.readers.torch.constants import Constant
from gnelint.readers.torch.emitter import Call, Emitter, Flow, Operand, parameter
from gnelint.readers.torch.ops.complex import COMPLEX_OPS, OF_COMPLEX, each_part, length_of_parts, of_complex
from gnelint.readers.torch.ops.fourier import FOURIER_OPS
from gnelint.readers.torch.ops.linear import LINEAR_OPS
from gnelint.readers.torch.ops.normalization import NORMALIZATION_OPS
from gnelint.readers.torch.ops.pooling import POOLING_OPS
from gnelint.readers.torch.ops.recurrent import RECURRENT_OPS
from gnelint.readers.torch.ops.selection import SELECTION_OPS
from gnelint.readers.torch.ops.shape import SHAPE_OPS

Result = Operand | Sequence[Operand | None]
Lowering = Callable[[Emitter, Call], Result]


def _as_recorded(op: str, form: TorchForm) -> Lowering:
    """The operation with the arguments of the call, numbers in the type of their defaults, as its record says."""
    defaults = VOCABULARY[op].attributes

    def lower(em: Emitter, call: Call) -> Result:
        attributes: dict[str, Any] = dict(form.given)
        for ours, theirs in form.attributes.items():
            attributes[ours] = float(call[theirs]) if isinstance(defaults[ours], float) else call[theirs]
        found = em.emit(op, [call[name] for name in form.inputs], call.shape, call.dtype, **attributes)
        return found if len(call.outputs) == 1 else (found, *(None,) * (len(call.outputs) - 1))

    return lower


def _input(call: Call) -> Operand:
    found: Operand = call["self"] if "self" in call.arguments else call["input"]
    return found


def _prelu(em: Emitter, call: Call) -> Operand:
    slope, x = call["weight"], call["self"]
    if isinstance(slope, Constant) and len(slope.shape) == 1 and len(x.shape) > 2:
        slope = slope.reshaped((slope.shape[0], *(1,) * (len(x.shape) - 2)))  # along the channels, as numpy broadcasts
    return em.emit("prelu", [x], call.shape, parameters={"slope": parameter(slope)})


def _elu(em: Emitter, call: Call) -> Operand:
    alpha, scale, input_scale = (float(call[name]) for name in ("alpha", "scale", "input_scale"))
    if input_scale == 1 and scale == 1:
        return em.emit("elu", [call["self"]], call.shape, alpha=alpha)
    if input_scale == 1:
        return em.emit("selu", [call["self"]], call.shape, alpha=alpha, gamma=scale)
    if math.isclose(input_scale * alpha, scale):
        return em.emit("celu", [call["self"]], call.shape, alpha=alpha)
    raise CannotLowerError("an ELU with its own input scale")


def _threshold(em: Emitter, call: Call) -> Operand:
    threshold, value = float(call["threshold"]), float(call["value"])
    if value == 0 and threshold == 0:
        return em.emit("relu", [call["self"]], call.shape)
    if value == 0 and threshold > 0:
        return em.emit("thresholded_relu", [call["self"]], call.shape, alpha=threshold)
    raise CannotLowerError("a threshold that jumps to another value")


def _glu(em: Emitter, call: Call) -> Operand:
    x = em.flow(call["self"])
    axis = call["dim"] % len(x.shape)
    half = (call.shape, call.dtype)
    size = call.shape[axis]
    value, gate = em.emit_many("split", [x], (half, half), axis=axis, sizes=(size, size))
    return em.emit("mul", [value, em.emit("sigmoid", [gate], call.shape)], call.shape)


def _number_or_tensor(em: Emitter, operand: Any) -> Any:
    """A tensor that is a number of the program as that number."""
    number = em.number(operand) if isinstance(operand, Constant) else None
    return operand if number is None else number


def _clamp(em: Emitter, call: Call) -> Operand:
    low, high = call.get("min", call.get("min_val")), call.get("max", call.get("max_val"))
    low, high = (_number_or_tensor(em, bound) for bound in (low, high))
    if isinstance(low, (Flow, Constant)) or isinstance(high, (Flow, Constant)):
        return _clamp_to_tensors(em, call, low, high)
    low, high = (None if bound is None or math.isinf(bound) else float(bound) for bound in (low, high))
    if low is None and high is None:
        return em.emit("identity", [call["self"]], call.shape)
    return em.emit("clip", [call["self"]], call.shape, min=low, max=high)


def _clamp_to_tensors(em: Emitter, call: Call, low: Any, high: Any) -> Operand:
    found: Operand = call["self"]
    for op, bound in (("maximum", low), ("minimum", high)):
        if bound is not None:
            found = em.emit(op, [found, bound], call.shape)
    return found


def _rsqrt(em: Emitter, call: Call) -> Operand:
    return em.emit("reciprocal", [em.emit("sqrt", [call["self"]], call.shape)], call.shape)


def _pow(em: Emitter, call: Call) -> Operand:
    base, exponent = (_number_or_tensor(em, call[name]) for name in ("self", "exponent"))
    if isinstance(exponent, (Flow, Constant)):
        if isinstance(base, (int, float)):
            return power_of(em, base, em.flow(exponent), call.shape)
        raise CannotLowerError("a power whose exponent is a tensor")
    if exponent == 1:
        return em.emit("identity", [base], call.shape)
    return em.emit("pow", [base], call.shape, exponent=float(exponent))


def _exponential(base: float, shift: float = 0.0) -> Lowering:
    def lower(em: Emitter, call: Call) -> Operand:
        return em.plus(power_of(em, base, em.flow(call["self"]), call.shape, call.dtype), shift, call.shape)

    return lower


def _logarithm(base: float, shift: float = 0.0) -> Lowering:
    def lower(em: Emitter, call: Call) -> Operand:
        shifted = em.plus(em.flow(call["self"]), shift, call.shape)
        return em.scale(em.emit("log", [shifted], call.shape, call.dtype), 1.0 / math.log(base))

    return lower


def _add(em: Emitter, call: Call) -> Operand:
    return add(em, call["self"], call["other"], call.shape, float(call.get("alpha", 1)))


def _sub(em: Emitter, call: Call) -> Operand:
    return add(em, call["self"], call["other"], call.shape, -float(call.get("alpha", 1)))


def _rsub(em: Emitter, call: Call) -> Operand:
    return add(em, call["other"], call["self"], call.shape, -float(call.get("alpha", 1)))


def _mul(em: Emitter, call: Call) -> Operand:
    return multiply(em, call["self"], call["other"], call.shape)


def _div(em: Emitter, call: Call) -> Operand:
    quotient = divide(em, call["self"], call["other"], call.shape)
    kind = call.get("rounding_mode")
    return quotient if kind is None else em.emit("step", [quotient], call.shape, kind=kind)


def _neg(em: Emitter, call: Call) -> Operand:
    return em.scale(em.flow(call["self"]), -1.0)


def _addcmul(em: Emitter, call: Call) -> Operand:
    product = multiply(em, call["tensor1"], call["tensor2"], call.shape)
    return add(em, call["self"], product, call.shape, float(call["value"]))


def _addcdiv(em: Emitter, call: Call) -> Operand:
    quotient = divide(em, call["tensor1"], call["tensor2"], call.shape)
    return add(em, call["self"], quotient, call.shape, float(call["value"]))


def _lerp(em: Emitter, call: Call) -> Operand:
    start, weight = call["self"], call["weight"]
    if isinstance(weight, (int, float)):  # written out, the two ends are independent where they are
        ends = (em.scale(em.flow(start), 1.0 - weight), em.scale(em.flow(call["end"]), float(weight)))
        return add(em, *ends, call.shape)
    step = add(em, call["end"], start, call.shape, -1.0)
    return add(em, start, multiply(em, step, weight, call.shape), call.shape)


def _softmax(op: str) -> Lowering:
    def lower(em: Emitter, call: Call) -> Operand:
        axis = call["dim"] % max(len(call.shape), 1)
        return em.emit(op, [_input(call)], call.shape, call.dtype, axis=axis)

    return lower


def _detach(em: Emitter, call: Call) -> Operand:
    return em.emit("stop_gradient", [call["self"]], call.shape, call.dtype)


def _dropout(em: Emitter, call: Call) -> Result:
    x, p = _input(call), float(call["p"])
    if isinstance(x, Constant):
        found: Operand = x
    elif call.get("train", True) is False or p == 0:
        found = em.emit("identity", [x], call.shape)
    else:
        found = em.emit("dropout", [x], call.shape, p=p)
    return found if len(call.outputs) == 1 else (found, None)


def _attention(em: Emitter, call: Call) -> Operand:
    query, key, value, mask = (call[name] for name in ("query", "key", "value", "attn_mask"))
    attributes: dict[str, Any] = {"causal": bool(call["is_causal"])}
    if call.get("scale") is not None:
        attributes["scale"] = float(call["scale"])
    if len(query.shape) == 3:  # one head, which the vocabulary writes as packed
        attributes.update(packed=True, heads=1, kv_heads=1)
    elif call.get("enable_gqa") and len(query.shape) == 4:
        attributes.update(heads=query.shape[1], kv_heads=key.shape[1])
    if isinstance(mask, Constant) and mask.transform != "random":
        parameters = {"mask": mask.compact.parameter()}
        return em.emit("attention", [query, key, value], call.shape, parameters=parameters, **attributes)
    return em.emit("attention", [query, key, value, mask], call.shape, **attributes)


_OWN: Mapping[str, Lowering] = {
    **dict.fromkeys(("prelu", "_prelu_kernel"), _prelu),
    "elu": _elu,
    "threshold": _threshold,
    "glu": _glu,
    **dict.fromkeys(("clamp", "clip", "hardtanh", "clamp_min", "clamp_max"), _clamp),
    **dict.fromkeys(("softmax", "_softmax", "_safe_softmax"), _softmax("softmax")),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _softmax("log_softmax")),
    "scaled_dot_product_attention": _attention,
    "rsqrt": _rsqrt,
    "pow": _pow,
    "expm1": _exponential(math.e, -1.0),
    "exp2": _exponential(2.0),
    "log1p": _logarithm(math.e, 1.0),
    "log2": _logarithm(2.0),
    "log10": _logarithm(10.0),
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    **dict.fromkeys(("native_dropout", "dropout", "feature_dropout"), _dropout),
    "detach": _detach,
}

_OF_PARTS = {"reshape": each_part, "identity": each_part, "where": each_part, "abs": length_of_parts}
"""What complex tensors make of recorded operations."""


def _recorded(op: str, form: TorchForm) -> Lowering:
    lower = _as_recorded(op, form)
    if form.name in OF_COMPLEX:
        return of_complex(form.name, lower)
    return _OF_PARTS[op](lower) if op in _OF_PARTS else lower


LOWERINGS: Mapping[str, Lowering] = once(
    {form.name: _recorded(name, form) for name, record in VOCABULARY.items() for form in record.torch or ()},
    {name: of_complex(name, lower) if name in OF_COMPLEX else lower for name, lower in _OWN.items()},
    LINEAR_OPS,
    NORMALIZATION_OPS,
    POOLING_OPS,
    SHAPE_OPS,
    SELECTION_OPS,
    RECURRENT_OPS,
    COMPLEX_OPS,
    FOURIER_OPS,
)
"""The lowering of every operation that the vocabulary covers, by ATen's bare name.

An overload that means something else has an entry of its own ("max.other")."""

COMPLEX_AWARE = frozenset(
    {
        "permute",
        "transpose",
        "expand",
        "broadcast_to",
        "expand_as",
        "slice",
        "narrow",
        "select",
        "slice_scatter",
        "mT",
        "select_scatter",
        "copy",
        "cat",
        "concat",
        "stack",
        "roll",
        "flip",
        "matmul",
        "mm",
        "bmm",
        "mv",
        "dot",
        "einsum",
        "linear",
        "mean",
        "sum",
        *OF_COMPLEX,
        *COMPLEX_OPS,
        *FOURIER_OPS,
    }
).union(form.name for name in _OF_PARTS for form in VOCABULARY[name].torch or ())
"""Operations that are read where a complex tensor is among what they read."""
