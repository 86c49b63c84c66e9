"""Lowerings of LSTM, GRU and RNN: a node for each direction. Rows of the weights are brought into the vocabulary's
order of gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gnelint.errors import UnreadableError
from gnelint.ir.graph import Parameter, Value
from gnelint.onnxfile.file import MisfitError
from gnelint.readers.emitter import CannotLowerError, Shape, concrete
from gnelint.readers.onnx.call import Call, Operand
from gnelint.readers.onnx.emitter import Emitter, Lowering, Results
from gnelint.readers.onnx.fold import computed
from gnelint.readers.onnx.gaps import gap
from gnelint.readers.onnx.ops.linear import SHAPE_ADVICE

_GATES = {"lstm": (0, 2, 3, 1), "gru": (1, 0, 2), "rnn": (0,)}
"""Where the vocabulary's gates stand: LSTM stores input, output, forget, cell; GRU update, reset, hidden."""

_PEEPHOLES = (0, 2, 1)
"""Where those of the input, forget and output gate stand."""

ROUNDED_NOTE = "Rounding to 8 bits on the way into recurrent layers is left out."
LENGTHS_NOTE = "Lengths of sequences that inputs decide are taken to be whole: no step is left out."

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _recurrent(op: str, activations: Sequence[str]) -> Lowering:
    """One operator; `activations` are those of the cell that has a component."""

    def lower(call: Call, em: Emitter) -> Results:
        direction = call.get("direction", "forward")
        if direction not in _DIRECTIONS:
            raise CannotLowerError(f"the direction {direction}")
        reverses = _DIRECTIONS[direction]
        _check_features(call)
        attributes = _attributes(call, op, _activations(call, activations, len(reverses)))
        x = em.flow(call.need(0))
        batch_first = bool(call.get("layout", 0))
        if not batch_first:
            x = em.transpose(x, (1, 0, 2))
        batch, steps, _ = concrete(x)
        _check_lengths(call, steps, em)
        weights = [_weights(call, op, place, len(reverses)) for place in range(len(reverses))]
        hidden = int(weights[0]["recurrent"].shape[1])
        wanted = (len(reverses), batch, hidden)
        states = [_states(call, em, index, batch_first, wanted) for index in ((5, 6) if op == "lstm" else (5,))]
        outputs: list[tuple[Shape, str | None]] = [((batch, steps, hidden), call.dtype)]
        if op == "lstm" and call.used(2):
            outputs.append(((batch, hidden), call.dtype))
        ys, lasts, carries = [], [], []
        for place, (reverse, own) in enumerate(zip(reverses, weights, strict=True)):
            first = [None if state is None else _row(em, state, place, (batch, hidden)) for state in states]
            found = em.emit_many(op, [x, *first], outputs, own, reverse=reverse, **attributes)
            ys.append(em.reshape(found[0], (batch, steps, 1, hidden)))
            if call.used(1):
                end = 0 if reverse else steps - 1
                lasts.append(em.slice(found[0], 1, end, end + 1))
            carries += [em.reshape(carry, (batch, 1, hidden)) for carry in found[1:]]
        y = em.concat(ys, 2)
        whole = y if batch_first else em.transpose(y, (1, 2, 0, 3))
        final = [em.concat(parts, 1) if parts else None for parts in (lasts, carries)]
        if not batch_first:
            final = [None if state is None else em.transpose(state, (1, 0, 2)) for state in final]
        return [whole, *final[: 2 if op == "lstm" else 1]]

    return lower


def _activations(call: Call, known: Sequence[str], directions: int) -> tuple[str, ...]:
    """Those of one direction.

    Raises:
        CannotLowerError: they are not what the component models.
    """
    named = call.get("activations")
    if not named:
        return tuple(known)
    each = len(known)
    if len(named) != each * directions or any(named[:each] != named[k : k + each] for k in range(0, len(named), each)):
        raise CannotLowerError(f"the activations {', '.join(named)}")
    found = tuple(name.lower() for name in named[:each])
    if found != tuple(name.lower() for name in known) and not (each == 1 and found == ("relu",)):
        raise CannotLowerError(f"the activations {', '.join(named)}")
    return found


def _attributes(call: Call, op: str, activations: tuple[str, ...]) -> dict[str, Any]:
    if call.get("clip") is not None:
        raise CannotLowerError("pre-activations are clipped")
    if op == "lstm":
        return {"coupled": bool(call.get("input_forget", 0))}
    if op == "gru":
        return {"reset_after": bool(call.get("linear_before_reset", 0))}
    return {"activation": activations[0].lower()}


def _check_features(call: Call) -> None:
    """See to it that the weight takes what is read at a step: onnx's own rules do not look at it.

    Raises:
        MisfitError: it takes another number of features.
    """
    weight = call.input(1)
    found = gap(call)
    if found is not None and weight is not None:
        raise MisfitError(
            f'node "{call.origin.name}" ({call.op_type}) reads {found.entries} features at a step; its weight '
            f'"{weight.name}" of shape {weight.shape} takes {found.wanted}',
            "Check the shapes, or fix symbolic sizes with --input.",
            found,
        )


def _check_lengths(call: Call, steps: int, em: Emitter) -> None:
    if isinstance(call.input(4), Value):
        em.notes[LENGTHS_NOTE] = None
        return
    lengths = call.integers(4, "the lengths of the sequences")
    if lengths is not None and any(length != steps for length in lengths):
        raise CannotLowerError("sequences of different lengths")


def _weights(call: Call, op: str, place: int, directions: int) -> dict[str, Parameter]:
    """The parameters of one direction, by role.

    Raises:
        UnreadableError: their shapes do not fit.
    """
    weight, recurrent = call.parameter(1, "the weight"), call.parameter(2, "the recurrent weight")
    bias = call.optional_parameter(3, "the bias")
    gates = len(_GATES[op])
    hidden = recurrent.shape[-1] if recurrent.shape else 0
    rows = gates * hidden
    inner = concrete(call.need(0))[2]
    wanted = {"W": (directions, rows, inner), "R": (directions, rows, hidden), "B": (directions, 2 * rows)}
    for name, stored in (("W", weight), ("R", recurrent), ("B", bias)):
        if stored is not None and stored.shape != wanted[name]:
            raise UnreadableError(
                f'node "{call.origin.name}" ({call.op_type}) has {name} "{stored.name}" of shape {stored.shape}; '
                f"{wanted[name]} is needed",
                SHAPE_ADVICE,
            )
    found = {"weight": _ordered(weight, op, place, 0), "recurrent": _ordered(recurrent, op, place, 0)}
    if bias is not None:
        found["bias"], found["recurrent_bias"] = _ordered(bias, op, place, 0), _ordered(bias, op, place, rows)
    peephole = call.optional_parameter(7, "the peephole weights") if op == "lstm" else None
    if peephole is not None and np.any(peephole.array()):
        run = partial(_pick, place=place, start=0, rows=3 * hidden, order=_PEEPHOLES)
        found["peephole"] = computed(
            f"{peephole.name}[{place}]", "Slice", (peephole,), (3 * hidden,), peephole.dtype, run
        )
    return found


def _ordered(stored: Parameter, op: str, place: int, start: int) -> Parameter:
    """One direction's rows from `start` on, the gates in the vocabulary's order."""
    order = _GATES[op]
    rows = stored.shape[1] // (1 if len(stored.shape) == 3 else 2)
    shape = (rows, *stored.shape[2:])
    run = partial(_pick, place=place, start=start, rows=rows, order=order)
    name = stored.name if stored.shape[0] == 1 and len(stored.shape) == 3 else f"{stored.name}[{place}, {start}:]"
    return computed(name, "Slice", (stored,), shape, stored.dtype, run)


def _pick(arrays: Any, place: int, start: int, rows: int, order: Sequence[int]) -> list[np.ndarray]:
    part = arrays[0][place, start : start + rows]
    blocks = part.reshape(len(order), -1, *part.shape[1:])
    return [blocks[list(order)].reshape(part.shape)]


def _states(call: Call, em: Emitter, index: int, batch_first: bool, wanted: tuple[int, ...]) -> Value | None:
    """Initial states as (direction, batch, hidden); None where they are left out or 0.

    Raises:
        MisfitError: they are of other sizes: onnx's own rules do not look at them.
    """
    state: Operand | None = call.input(index)
    if state is None or (isinstance(state, Parameter) and not np.any(state.array())):
        return None
    found = em.flow(state)
    found = em.transpose(found, (1, 0, 2)) if batch_first else found
    if concrete(found) != wanted:
        raise MisfitError(
            f'node "{call.origin.name}" ({call.op_type}) starts from states of the sizes {concrete(found)}; {wanted} '
            "are needed",
            "Fix symbolic sizes with --input.",
        )
    return found


def _row(em: Emitter, states: Value, place: int, shape: tuple[int, int]) -> Value:
    """The state of one direction."""
    return em.reshape(em.slice(states, 0, place, place + 1) if concrete(states)[0] > 1 else states, shape)


_LSTM = _recurrent("lstm", ("Sigmoid", "Tanh", "Tanh"))


def _quantized_lstm(call: Call, em: Emitter) -> Results:
    """ONNX Runtime's LSTM of weights in 8 bits: what they stand for, met by inputs and states as they are."""
    w, r = (_decoded(call, index) for index in (1, 2))
    em.notes[ROUNDED_NOTE] = None
    kind = em.flow(call.need(0)).dtype
    outputs = tuple(replace(output, dtype=kind) for output in call.outputs)
    inputs = (call.input(0), w, r, *call.inputs[3:8])
    return _LSTM(replace(call, op_type="LSTM", domain="", inputs=inputs, outputs=outputs), em)


def _decoded(call: Call, index: int) -> Parameter:
    """(direction, gate, input) from the codes (direction, input, gate), each direction or gate with a scale."""
    codes = call.parameter(index, "the weight")
    scale, zero = (call.parameter(2 * index + place, "the scale") for place in (6, 7))
    if len(codes.shape) != 3:
        raise CannotLowerError("a weight of another rank")
    directions, inner, rows = codes.shape

    def run(arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        stored, factor, offset = (np.asarray(array) for array in arrays)
        each = (directions, 1, -1)
        numbers = (stored.astype(factor.dtype) - offset.astype(factor.dtype).reshape(each)) * factor.reshape(each)
        return [np.ascontiguousarray(numbers.transpose(0, 2, 1))]

    shape = (directions, rows, inner)
    return computed(codes.name, "DequantizeLinear", (codes, scale, zero), shape, scale.dtype, run)


RECURRENT_OPS: Mapping[str, Lowering] = {
    "com.microsoft.DynamicQuantizeLSTM": _quantized_lstm,
    "LSTM": _LSTM,
    "GRU": _recurrent("gru", ("Sigmoid", "Tanh")),
    "RNN": _recurrent("rnn", ("Tanh",)),
}
