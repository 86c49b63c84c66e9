"""Lowerings of what chooses entries: the largest of a row, comparisons, one-hot codes and scattered updates."""

from __future__ import annotations

from collections.abc import Mapping

from gnelint.ir.graph import Parameter
from gnelint.readers.emitter import CannotLowerError, axis_of, rank
from gnelint.readers.lowering import compare
from gnelint.readers.onnx.call import Call, Operand
from gnelint.readers.onnx.emitter import Emitter, Lowering, Results


def _top_k(call: Call, em: Emitter) -> Results:
    x = em.flow(call.need(0))
    k = call.get("k") if call.version < 10 else next(iter(call.integers(1, "the number of entries") or ()), None)
    if k is None:
        raise CannotLowerError("the number of entries is not known")
    outputs = [(output.shape, output.dtype) for output in call.outputs]
    axis = axis_of(call.get("axis", -1), rank(x))
    return em.emit_many("top_k", [x], outputs, axis=axis, k=int(k), largest=bool(call.get("largest", 1)))


def _compare(kind: str) -> Lowering:
    def lower(call: Call, em: Emitter) -> Results:
        one, other = (_undecided(em, call.need(index)) for index in range(2))
        return [compare(em, kind, one, other, call.shape)]

    return lower


def _undecided(em: Emitter, side: Operand) -> Operand:
    """Noise as a value, as what it decides is drawn anew in every pass."""
    return em.flow(side) if isinstance(side, Parameter) and side.transform == "random" else side


def _logical(kind: str) -> Lowering:
    def lower(call: Call, em: Emitter) -> Results:
        masks = [call.need(index) for index in range(len(call.inputs))]
        return [em.emit("logical", masks, call.shape, call.dtype, kind=kind)]

    return lower


def _one_hot(call: Call, em: Emitter) -> Results:
    values = call.numbers(2, "the values")
    if values is None or tuple(values.reshape(-1)) != (0, 1) or call.shape is None:
        raise CannotLowerError("a one-hot code of other numbers than 0 and 1")
    axis = axis_of(call.get("axis", -1), len(call.shape))
    return [em.emit("one_hot", [call.need(0)], call.shape, call.dtype, axis=axis)]


def _scatter(call: Call, em: Emitter) -> Results:
    if call.get("reduction", "none") != "none":
        raise CannotLowerError("a scatter that reduces")
    operands = [call.need(index) for index in range(3)]
    axis = axis_of(call.get("axis", 0), rank(operands[0]))
    return [em.emit("scatter", operands, call.shape, call.dtype, axis=axis)]


def _hardmax(call: Call, em: Emitter) -> Results:
    """1 at the largest of a row; before opset 13 all axes from `axis` on were one row."""
    x = em.flow(call.need(0))
    axis = axis_of(call.get("axis", -1 if call.version >= 13 else 1), rank(x))
    if call.version < 13 and axis != rank(x) - 1:
        raise CannotLowerError("rows of several axes")
    return [em.emit("top_mask", [x], call.shape, call.dtype, axis=axis, k=1)]


SELECTION_OPS: Mapping[str, Lowering] = {
    "TopK": _top_k,
    "Less": _compare("lt"),
    "LessOrEqual": _compare("le"),
    "Greater": _compare("gt"),
    "GreaterOrEqual": _compare("ge"),
    **{kind.capitalize(): _logical(kind) for kind in ("not", "and", "or", "xor")},
    "OneHot": _one_hot,
    "Hardmax": _hardmax,
    "ScatterElements": _scatter,
    "Scatter": _scatter,
}
