"""Lowerings of recurrent layers: a node for each layer and direction, and cells as layers of one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gnelint.readers.emitter import CannotLowerError, Shape
from gnelint.readers.torch.constants import Constant
from gnelint.readers.torch.emitter import Call, Emitter, Flow, Operand, parameter

_ROLES = ("weight", "recurrent", "bias", "recurrent_bias")


def _is_zero(operand: Operand) -> bool:
    return isinstance(operand, Constant) and not bool(operand.compute({}).any())


def _layers(op: str, **attributes: Any) -> Callable[[Emitter, Call], Any]:
    """A stack of layers: results are the last layer's states over time and every layer's last state (and carry)."""

    def lower(em: Emitter, call: Call) -> Any:
        if "batch_sizes" in call.arguments:
            raise CannotLowerError("sequences of different lengths, packed")
        states = call["hx"] if op == "lstm" else [call["hx"]]
        weights, directions = call["params"], 2 if call["bidirectional"] else 1
        each = 4 if call["has_biases"] else 2
        if len(weights) != each * directions * int(call["num_layers"]):
            raise CannotLowerError("the hidden state is projected")
        x = em.flow(call["input"])
        if not call["batch_first"]:
            x = em.transpose(x, (1, 0, 2))
        known = [None if _is_zero(state) else em.flow(state) for state in states]
        lasts: list[list[Flow]] = [[] for _ in states]
        wants_carry = op == "lstm" and call.reads(2)
        for layer in range(int(call["num_layers"])):
            ys = []
            for direction in range(directions):
                place = layer * directions + direction
                own = dict(zip(_ROLES, map(parameter, weights[place * each : (place + 1) * each]), strict=False))
                first = [None if state is None else _row(em, state, place) for state in known]
                reverse = {**attributes, "reverse": bool(direction)}
                y, carry = _layer(em, op, [x, *first], own, wants_carry, reverse)
                ys.append(y)
                size = y.shape[1]
                if not isinstance(size, int):
                    raise CannotLowerError("the number of steps is symbolic")
                end = 0 if direction else size - 1
                row = (1, y.shape[0], y.shape[2])
                lasts[0].append(em.reshape(em.slice(y, 1, end, end + 1), row))
                if carry is not None:
                    lasts[1].append(em.reshape(carry, row))
            x = em.concat(ys, 2)
            if layer + 1 < int(call["num_layers"]) and call["dropout"] and call["train"]:
                x = em.emit("dropout", [x], x.shape, p=float(call["dropout"]))
        y = x if call["batch_first"] else em.transpose(x, (1, 0, 2))
        return (y, *(em.concat(rows, 0) if rows else None for rows in lasts))

    return lower


def _layer(
    em: Emitter, op: str, operands: Sequence[Flow | None], weights: Mapping[str, Any], carry: bool, attributes: Any
) -> tuple[Flow, Flow | None]:
    x = operands[0]
    assert x is not None
    hidden = weights["recurrent"].shape[1]
    outputs: list[tuple[Shape, str]] = [((*x.shape[:2], hidden), x.dtype)]
    if carry:
        outputs.append(((x.shape[0], hidden), x.dtype))
    found = em.emit_many(op, operands, outputs, weights, **attributes)
    return found[0], found[1] if carry else None


def _row(em: Emitter, states: Flow, index: int) -> Flow:
    """The state of one layer and direction."""
    return em.reshape(em.slice(states, 0, index, index + 1), states.shape[1:])


def _cell(op: str, **attributes: Any) -> Callable[[Emitter, Call], Any]:
    """One step: a layer over a sequence of one."""

    def lower(em: Emitter, call: Call) -> Any:
        states = call["hx"] if op == "lstm" else [call["hx"]]
        x = em.flow(call["input"])
        whole = em.reshape(x, (x.shape[0], 1, *x.shape[1:]))
        first = [None if _is_zero(state) else em.flow(state) for state in states]
        own = dict(zip(_ROLES, (parameter(call[name]) for name in ("w_ih", "w_hh", "b_ih", "b_hh")), strict=True))
        wants_carry = op == "lstm" and call.reads(1)
        y, carry = _layer(em, op, [whole, *first], own, wants_carry, attributes)
        last = em.reshape(y, call.shape)
        return (last, carry) if op == "lstm" else last

    return lower


RECURRENT_OPS: Mapping[str, Callable[[Emitter, Call], Any]] = {
    "lstm": _layers("lstm"),
    "gru": _layers("gru"),
    "rnn_tanh": _layers("rnn"),
    "rnn_relu": _layers("rnn", activation="relu"),
    "lstm_cell": _cell("lstm"),
    "gru_cell": _cell("gru"),
    "rnn_tanh_cell": _cell("rnn"),
    "rnn_relu_cell": _cell("rnn", activation="relu"),
}
