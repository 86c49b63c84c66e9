"""Control flow: If, Loop, Scan and SequenceMap."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, Datum, operator

_MAX_ITERATIONS = 1_000_000
"""A loop that runs longer is taken for an endless one."""


@operator("If")
def if_(call: Call, condition: Tensor) -> tuple[Datum, ...]:
    """The outputs of one branch or of the other."""
    return call.run_body("then_branch" if bool(condition) else "else_branch", ())


@operator("Loop")
def loop(
    call: Call, trip_count: Tensor | None = None, condition: Tensor | None = None, *initial: Datum
) -> tuple[Datum, ...]:
    """Carried values after the last iteration, then what each iteration gives, stacked."""
    body: onnx.GraphProto = call.need("body")
    limit = None if trip_count is None else int(trip_count)
    going = condition is None or bool(condition)
    carried: Sequence[Datum] = initial
    collected: list[list[Tensor]] = [[] for _ in body.output[1 + len(initial) :]]
    iteration = 0
    while going and (limit is None or iteration < limit):
        if iteration == _MAX_ITERATIONS:
            raise CannotRunError(f"a loop of more than {_MAX_ITERATIONS} iterations")
        counter = _scalar(call, body.input[0], iteration)
        results = call.run_body("body", (counter, _scalar(call, body.input[1], True), *carried))
        going = bool(results[0])  # as ONNX Runtime has it, also where the loop was given no condition
        carried = results[1 : 1 + len(initial)]
        _collect(collected, results[1 + len(initial) :])
        iteration += 1
    infos = body.output[1 + len(initial) :]
    return (*carried, *(_stacked(call, parts, info) for parts, info in zip(collected, infos, strict=True)))


@operator("Scan", since=9)
def scan(call: Call, *inputs: Tensor) -> tuple[Datum, ...]:
    """The last states, then what each step gives, stacked along each output's axis."""
    body: onnx.GraphProto = call.need("body")
    count = int(call.need("num_scan_inputs"))
    states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    infos = body.output[len(states) :]
    axes = call.get("scan_input_axes") or (0,) * count
    backward = call.get("scan_input_directions") or (0,) * count
    steps = [_steps(x, axis, bool(back)) for x, axis, back in zip(scanned, axes, backward, strict=True)]
    last, collected = _scan(call, states, steps, len(infos))
    outputs = []
    out_axes = call.get("scan_output_axes") or (0,) * len(infos)
    out_backward = call.get("scan_output_directions") or (0,) * len(infos)
    for parts, info, axis, back in zip(collected, infos, out_axes, out_backward, strict=True):
        stacked = _stacked(call, parts[::-1] if back else parts, info)
        outputs.append(stacked.movedim(0, axis))
    return (*last, *outputs)


@operator("Scan", since=8)
def scan_batched(call: Call, lengths: Tensor | None, *inputs: Tensor) -> tuple[Datum, ...]:
    """Scan over the second axis for each entry of the batch, steps after a sequence's end filled with 0."""
    body: onnx.GraphProto = call.need("body")
    count = int(call.need("num_scan_inputs"))
    states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    infos = body.output[len(states) :]
    backward = call.get("directions") or (0,) * count
    batch, longest = scanned[0].shape[:2]
    ends = [longest] * batch if lengths is None else lengths.tolist()
    runs = []
    for entry, end in enumerate(ends):
        steps = [_steps(x[entry, :end], 0, bool(back)) for x, back in zip(scanned, backward, strict=True)]
        last, collected = _scan(call, [state[entry] for state in states], steps, len(infos))
        stacked = (_stacked(call, parts, info) for parts, info in zip(collected, infos, strict=True))
        runs.append((*last, *(_filled(part, longest) for part in stacked)))
    return tuple(torch.stack(parts) for parts in zip(*runs, strict=True))


@operator("SequenceMap")
def sequence_map(call: Call, first: list[Datum], *others: Datum) -> tuple[Datum, ...]:
    """The body's outputs for each entry of the first sequence; other sequences go along, tensors stay the same."""
    body: onnx.GraphProto = call.need("body")
    collected: list[list[Datum]] = [[] for _ in body.output]
    for index, entry in enumerate(first):
        given = [other[index] if isinstance(other, list) else other for other in others]
        _collect(collected, call.run_body("body", (entry, *given)))
    return tuple(collected)


def _scalar(call: Call, info: onnx.ValueInfoProto, value: int | bool) -> Tensor:
    """The counter or condition of a loop: a scalar, or one entry where the body declares that."""
    dtype = torch.bool if isinstance(value, bool) else torch.int64
    return torch.full((1,) * len(info.type.tensor_type.shape.dim), value, dtype=dtype, device=call.device)


def _collect(collected: Sequence[list[Datum]], results: Sequence[Datum]) -> None:
    for parts, result in zip(collected, results, strict=True):
        parts.append(result)


def _steps(x: Tensor, axis: int, backward: bool) -> Sequence[Tensor]:
    parts: tuple[Tensor, ...] = x.unbind(axis)
    return parts[::-1] if backward else parts


def _scan(
    call: Call, states: Sequence[Tensor], steps: Sequence[Sequence[Tensor]], outputs: int
) -> tuple[Sequence[Tensor], list[list[Tensor]]]:
    """The last states and, for each scan output, what the steps gave."""
    collected: list[list[Tensor]] = [[] for _ in range(outputs)]
    for slices in zip(*steps, strict=True):
        results = call.run_body("body", (*states, *slices))
        states = results[: len(states)]
        _collect(collected, results[len(states) :])
    return states, collected


def _stacked(call: Call, parts: Sequence[Tensor], info: onnx.ValueInfoProto) -> Tensor:
    """Results of the iterations along a new first axis; empty after none, if the body declares the shape."""
    if parts:
        return torch.stack(list(parts))
    declared = info.type.tensor_type
    dims = declared.shape.dim
    if not declared.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        raise CannotRunError(f'no iteration, and the shape of "{info.name}" is unknown')
    return torch.empty((0, *(dim.dim_value for dim in dims)), dtype=call.dtype(declared.elem_type), device=call.device)


def _filled(x: Tensor, length: int) -> Tensor:
    """x with zeros appended along the first axis."""
    return torch.cat([x, x.new_zeros((length - x.shape[0], *x.shape[1:]))])
