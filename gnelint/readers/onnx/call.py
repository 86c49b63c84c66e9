"""What lowerings read: one ONNX operation with its operands resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from gnelint.ir.graph import Parameter, Value
from gnelint.onnxfile.nodes import plain
from gnelint.onnxfile.scopes import Origin
from gnelint.readers.emitter import CannotLowerError, Shape
from gnelint.records import dataclass

Operand = Value | Parameter
"""A tensor: one that depends on the model's input, or a constant."""

_SMALL = 1 << 16
"""Entries of the largest constant that is read while lowering (shapes, axes, bounds)."""


@dataclass(frozen=True)
class OutputType:
    """What type inference knows of one output; `proto` is the full type where it is no tensor."""

    shape: Shape | None
    dtype: str | None
    proto: onnx.TypeProto | None = None


@dataclass(frozen=True)
class Call:
    """One ONNX operation.

    Attributes:
        op_type, domain, version: of the operator; "ai.onnx" is the domain "".
        inputs: operands in the operator's order, None for one left out.
        attributes: by name, references to a function's attributes resolved.
        outputs: inferred types, one for each output the node names.
        used: whether the node names this output and something may read it.
        output_names: of the outputs, "" for one left out.
    """

    op_type: str
    domain: str
    version: int
    inputs: tuple[Operand | None, ...]
    attributes: Mapping[str, onnx.AttributeProto]
    outputs: tuple[OutputType, ...]
    output_names: tuple[str, ...]
    origin: Origin

    def input(self, index: int) -> Operand | None:
        """The operand, None if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def need(self, index: int) -> Operand:
        """The operand.

        Raises:
            CannotLowerError: it is left out.
        """
        found = self.input(index)
        if found is None:
            raise CannotLowerError(f"input {index} is left out")
        return found

    def parameter(self, index: int, what: str) -> Parameter:
        """The constant operand.

        Raises:
            CannotLowerError: it is left out or depends on the model's input.
        """
        found = self.need(index)
        if not isinstance(found, Parameter):
            raise CannotLowerError(f"{what} depends on the model's input")
        return found

    def optional_parameter(self, index: int, what: str) -> Parameter | None:
        """The constant operand, None if it is left out."""
        return None if self.input(index) is None else self.parameter(index, what)

    def numbers(self, index: int, what: str) -> np.ndarray | None:
        """A small constant operand's numbers, None if it is left out."""
        found = self.optional_parameter(index, what)
        if found is None:
            return None
        if found.size > _SMALL:
            raise CannotLowerError(f"{what} has {found.size} entries")
        return found.array()

    def integers(self, index: int, what: str) -> tuple[int, ...] | None:
        """A small constant operand's numbers, flat."""
        found = self.numbers(index, what)
        return None if found is None else tuple(int(number) for number in found.reshape(-1))

    def scalar(self, index: int, what: str) -> float | None:
        """A constant operand's single number."""
        found = self.numbers(index, what)
        if found is None:
            return None
        if found.size != 1:
            raise CannotLowerError(f"{what} is not a single number")
        return float(found.reshape(-1)[0])

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute as Python's int, float, str or a tuple of these."""
        return plain(self.attributes[name]) if name in self.attributes else default

    def used(self, index: int) -> bool:
        """Whether the node names this output."""
        return index < len(self.output_names) and bool(self.output_names[index])

    @property
    def shape(self) -> Shape | None:
        """Of the first output."""
        return self.outputs[0].shape

    @property
    def dtype(self) -> str | None:
        """Of the first output."""
        return self.outputs[0].dtype
