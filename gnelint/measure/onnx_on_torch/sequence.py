"""Sequences and optionals: a sequence is a list, an empty optional is None."""

from __future__ import annotations

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.axes import axis_of, numbers
from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, Datum, operator


@operator("SequenceConstruct", since=11)
def sequence_construct(call: Call, *inputs: Datum) -> list[Datum]:
    """The inputs as a sequence."""
    return list(inputs)


@operator("SequenceEmpty", since=11)
def sequence_empty(call: Call) -> list[Datum]:
    """A sequence of nothing."""
    return []


@operator("SequenceAt", since=11)
def sequence_at(call: Call, sequence: list[Datum], position: Tensor) -> Datum:
    """The entry at a position, counted from the back if negative."""
    return sequence[_position(position, len(sequence), len(sequence) - 1)]


@operator("SequenceInsert", since=11)
def sequence_insert(call: Call, sequence: list[Datum], entry: Datum, position: Tensor | None = None) -> list[Datum]:
    """The sequence with an entry before the one at a position, or at the end."""
    length = len(sequence)
    place = length if position is None else _position(position, length, length)
    return [*sequence[:place], entry, *sequence[place:]]


@operator("SequenceErase", since=11)
def sequence_erase(call: Call, sequence: list[Datum], position: Tensor | None = None) -> list[Datum]:
    """The sequence without the entry at a position, or without the last one."""
    length = len(sequence)
    place = length - 1 if position is None else _position(position, length, length - 1)
    return [*sequence[:place], *sequence[place + 1 :]]


@operator("SequenceLength", since=11)
def sequence_length(call: Call, sequence: list[Datum]) -> Tensor:
    """The number of entries."""
    return torch.tensor(len(sequence), dtype=torch.int64, device=call.device)


@operator("SplitToSequence", since=11)
def split_to_sequence(call: Call, x: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
    """Parts along an axis: single entries, parts of one length with a shorter last one, or of given lengths."""
    axis = axis_of(call.get("axis"), x.dim())
    if lengths is None:
        entries = x.unbind(axis)
        return [entry.unsqueeze(axis) for entry in entries] if call.get("keepdims") else list(entries)
    given = numbers(lengths)
    if lengths.dim() == 0:
        given = _chunks(x.shape[axis], given[0])
    return list(x.split(given, axis)) if given else []


def _chunks(length: int, chunk: int) -> list[int]:
    if chunk < 1:
        raise CannotRunError(f"parts of length {chunk}")
    return [min(chunk, length - start) for start in range(0, length, chunk)]


@operator("ConcatFromSequence", since=11)
def concat_from_sequence(call: Call, sequence: list[Tensor]) -> Tensor:
    """The entries one after the other along an axis, or along a new one."""
    if not sequence:
        raise CannotRunError("an empty sequence")
    if call.get("new_axis"):
        return torch.stack(sequence, axis_of(call.need("axis"), sequence[0].dim() + 1))
    return torch.cat(sequence, axis_of(call.need("axis"), sequence[0].dim()))


@operator("Optional", since=15)
def optional(call: Call, element: Datum = None) -> Datum:
    """The input, or nothing."""
    return element


@operator("OptionalHasElement", since=15)
def optional_has_element(call: Call, element: Datum = None) -> Tensor:
    """Whether there is something."""
    return torch.tensor(element is not None, device=call.device)


@operator("OptionalGetElement", since=15)
def optional_get_element(call: Call, element: Datum) -> Datum:
    """What is there."""
    if element is None:
        raise CannotRunError("an empty optional")
    return element


def _position(position: Tensor, length: int, last: int) -> int:
    """A position counted from the front; a negative one counts from the back."""
    found = int(position)
    if not -length <= found <= last:
        raise CannotRunError(f"position {found} in a sequence of {length}")
    return found + length if found < 0 else found
