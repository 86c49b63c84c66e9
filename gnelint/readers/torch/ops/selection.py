"""Lowerings of what chooses entries: the largest of a row, comparisons, one-hot codes and scattered updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gnelint.readers.emitter import CannotLowerError
from gnelint.readers.lowering import compare
from gnelint.readers.torch.constants import Constant
from gnelint.readers.torch.emitter import Call, Emitter, Flow, Operand


def _top_k(em: Emitter, call: Call) -> Any:
    x = em.flow(call["self"])
    if not isinstance(call["k"], int) or any(output is None for output in call.outputs):
        raise CannotLowerError("the number of entries is symbolic")
    outputs = [output for output in call.outputs if output is not None]
    axis = call["dim"] % max(len(x.shape), 1)
    return em.emit_many("top_k", [x], outputs, axis=axis, k=call["k"], largest=bool(call["largest"]))


def _compare(kind: str) -> Callable[[Emitter, Call], Operand]:
    def lower(em: Emitter, call: Call) -> Operand:
        return compare(em, kind, call["self"], call["other"], call.shape)

    return lower


def _logical(kind: str) -> Callable[[Emitter, Call], Operand]:
    def lower(em: Emitter, call: Call) -> Operand:
        if call.dtype != "bool":
            raise CannotLowerError("the bits of integers")
        masks = [call["self"]] if kind == "not" else [call["self"], call["other"]]
        return em.emit("logical", masks, call.shape, call.dtype, kind=kind)

    return lower


def _one_hot(em: Emitter, call: Call) -> Operand:
    return em.emit("one_hot", [call["self"]], call.shape, call.dtype, axis=len(call.shape) - 1)


def _scatter(em: Emitter, call: Call) -> Operand:
    if call.get("reduce") is not None:
        raise CannotLowerError("a scatter that reduces")
    x, index = em.flow(call["self"]), em.flow(call["index"])
    updates = call["src"] if "src" in call.arguments else call["value"]
    if not isinstance(updates, (Flow, Constant)):
        updates = em.expand(em.flow(updates), index.shape)
    return em.emit("scatter", [x, index, updates], call.shape, call.dtype, axis=call["dim"] % len(call.shape))


SELECTION_OPS: Mapping[str, Callable[[Emitter, Call], Any]] = {
    "topk": _top_k,
    **{kind: _compare(kind) for kind in ("lt", "le", "gt", "ge")},
    **{f"{prefix}_{kind}": _logical(kind) for kind in ("not", "and", "or", "xor") for prefix in ("bitwise", "logical")},
    "one_hot": _one_hot,
    "scatter": _scatter,
}
