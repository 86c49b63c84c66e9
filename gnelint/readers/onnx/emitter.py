"""What lowerings read and write: one ONNX operation with its operands resolved, and the canonical nodes it becomes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from gnelint.ir.graph import UNMODELLED, Dim, Graph, Location, Node, Parameter, Value
from gnelint.ir.vocabulary import VOCABULARY

Operand = Value | Parameter
"""A tensor: one that depends on the model's input, or a constant."""

Shape = tuple[Dim, ...]

_SMALL = 1 << 16
"""Entries of the largest constant that is read while lowering (shapes, axes, bounds)."""


class CannotLowerError(Exception):
    """A use of an operator that the vocabulary does not cover; it is emitted as `unmodelled`, the reason with it."""


@dataclass(frozen=True)
class OutputType:
    """What type inference knows of one output; `proto` is the full type where it is no tensor."""

    shape: Shape | None
    dtype: str | None
    proto: onnx.TypeProto | None = None


@dataclass(frozen=True)
class Origin:
    """Where a node stands in the model: its unique name, its module's qualified name and its source line."""

    name: str
    scope: str = ""
    location: Location | None = None


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
        if name not in self.attributes:
            return default
        value = helper.get_attribute_value(self.attributes[name])
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return value if isinstance(value, (int, float, str)) else tuple(value)

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


def concrete(operand: Operand) -> tuple[int, ...]:
    """The operand's sizes.

    Raises:
        CannotLowerError: one of them is not known.
    """
    if isinstance(operand, Parameter):
        return operand.shape
    shape = operand.concrete_shape
    if shape is None:
        raise CannotLowerError(f'the shape of "{operand.name}" is not known')
    return shape


def rank(operand: Operand) -> int:
    """Number of axes.

    Raises:
        CannotLowerError: it is not known.
    """
    if operand.shape is None:
        raise CannotLowerError(f'the rank of "{operand.name}" is not known')
    return len(operand.shape)


def axis_of(axis: int, axes: int) -> int:
    """The axis counted from 0.

    Raises:
        CannotLowerError: there is none of this number.
    """
    if not -axes <= axis < max(axes, 1):
        raise CannotLowerError(f"axis {axis} of a tensor with {axes} axes")
    return axis % axes if axes else 0


@dataclass
class Emitter:
    """Collects the canonical nodes of one graph.

    Attributes:
        training: whether normalisation uses batch statistics.
        nodes: in the order of the model.
        values: by name.
        notes: sentences for people, each once.
        subgraphs: bodies of control flow, by "node name/attribute".
        sequences: the tensors in each value that is a sequence of known ones.
    """

    training: bool = True
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    subgraphs: dict[str, Graph] = field(default_factory=dict)
    sequences: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _value_names: set[str] = field(default_factory=set)
    _counts: Counter[str] = field(default_factory=Counter)
    _pending: list[Node] = field(default_factory=list)
    _call: Call | None = None
    _serial: int = 0

    def add_input(self, value: Value) -> None:
        """Declare a value that the caller feeds."""
        self.values[value.name] = value
        self._value_names.add(value.name)

    @property
    def is_open(self) -> bool:
        """Whether an operation is being lowered."""
        return self._call is not None

    def begin(self, call: Call) -> None:
        """Start lowering an operation: what is emitted now stands for it."""
        self._call = call
        self._pending = []

    def emit(
        self,
        op: str,
        inputs: Sequence[Operand | None],
        shape: Shape | None,
        dtype: str | None = None,
        parameters: Mapping[str, Parameter | None] | None = None,
        **attributes: Any,
    ) -> Value:
        """Write one node with one output; its type is the first input's where none is given."""
        return self.emit_many(op, inputs, [(shape, dtype)], parameters, **attributes)[0]

    def emit_many(
        self,
        op: str,
        inputs: Sequence[Operand | None],
        outputs: Sequence[tuple[Shape | None, str | None]],
        parameters: Mapping[str, Parameter | None] | None = None,
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Write one node with several outputs."""
        call = self._call
        assert call is not None
        flows = [None if operand is None else self.flow(operand) for operand in inputs]
        first = next((flow.dtype for flow in flows if flow is not None), None)
        found = tuple(self._temporary(shape, dtype or first) for shape, dtype in outputs)
        self._pending.append(
            Node(
                name=op,
                op=op,
                inputs=tuple(None if flow is None else flow.name for flow in flows),
                outputs=tuple(value.name for value in found),
                parameters={role: given for role, given in (parameters or {}).items() if given is not None},
                attributes=attributes,
                source_op=call.op_type if not call.domain else f"{call.domain}.{call.op_type}",
                scope=call.origin.scope,
                location=call.origin.location,
            )
        )
        return found

    def unmodelled(self, call: Call, inputs: Sequence[Operand | None], reason: str) -> tuple[Value, ...]:
        """One node that says what could not be lowered; constants are its parameters."""
        for node in self._pending:
            for name in node.outputs:
                del self.values[name]
        self._pending = []
        flows = [operand if isinstance(operand, Value) else None for operand in inputs]
        constants = {f"input{i}": operand for i, operand in enumerate(inputs) if isinstance(operand, Parameter)}
        while flows and flows[-1] is None:
            flows.pop()
        found = tuple(self._temporary(output.shape, output.dtype) for output in call.outputs)
        self._pending.append(
            Node(
                name=UNMODELLED,
                op=UNMODELLED,
                inputs=tuple(None if flow is None else flow.name for flow in flows),
                outputs=tuple(value.name for value in found),
                parameters=constants,
                attributes={"reason": reason} if reason else {},
                source_op=call.op_type if not call.domain else f"{call.domain}.{call.op_type}",
                scope=call.origin.scope,
                location=call.origin.location,
            )
        )
        return found

    def sequence(self, call: Call, x: Value, parts: Sequence[Value]) -> Value:
        """A value that holds the parts of `x`, for whatever takes it as one; the vocabulary has no sequences."""
        output = call.outputs[0]
        found = self._temporary(output.shape, output.dtype)
        holder = Node(UNMODELLED, UNMODELLED, (x.name,), (found.name,), attributes={"reason": "a sequence of tensors"})
        origin = call.origin
        self._pending.insert(0, replace(holder, source_op=call.op_type, scope=origin.scope, location=origin.location))
        self.sequences[found.name] = tuple(parts)
        return found

    def without_unread_sequences(self, outputs: Collection[str]) -> tuple[Node, ...]:
        """The nodes without those that hold a sequence that nothing takes as one."""
        read = {name for node in self.nodes for name in node.present_inputs}.union(outputs)
        unread = {name for name in self.sequences if name not in read}
        for name in unread:
            del self.values[name]
        return tuple(node for node in self.nodes if unread.isdisjoint(node.outputs))

    def finish(self, results: Sequence[Operand | None], names: Sequence[str]) -> tuple[Operand | None, ...]:
        """Close the operation: its nodes and the values in `results` get their names.

        Args:
            results: its outputs, in order.
            names: what the model calls them.
        """
        call = self._call
        assert call is not None
        written = {name for node in self._pending for name in node.outputs}
        renamed: dict[str, str] = {}
        for result, name in zip(results, names, strict=False):
            if isinstance(result, Value) and result.name in written and result.name not in renamed:
                renamed[result.name] = self._unique(name or f"{call.origin.name}_unused", self._value_names)
        for node in self._pending:
            for name in node.outputs:
                if name not in renamed:
                    renamed[name] = self._unique(f"{call.origin.name}/{node.op}_output", self._value_names)
        main = _main(self._pending)
        for index, node in enumerate(self._pending):
            wanted = call.origin.name if index == main else f"{call.origin.name}/{node.op}"
            self.nodes.append(
                replace(
                    node,
                    name=self._unique(wanted, self._names),
                    inputs=tuple(None if name is None else renamed.get(name, name) for name in node.inputs),
                    outputs=tuple(renamed[name] for name in node.outputs),
                )
            )
        for old, new in renamed.items():
            self.values[new] = replace(self.values.pop(old), name=new)
        for old in renamed.keys() & self.sequences.keys():
            parts = self.sequences.pop(old)
            self.sequences[renamed[old]] = tuple(self.values[renamed.get(part.name, part.name)] for part in parts)
        self._pending, self._call = [], None
        return tuple(
            self.values[renamed[result.name]] if isinstance(result, Value) and result.name in renamed else result
            for result in results
        )

    def flow(self, operand: Operand) -> Value:
        """The operand as a value; a constant that has no parameter role becomes a `constant` node."""
        if isinstance(operand, Value):
            return operand
        return self.emit("constant", [], operand.shape, operand.dtype, {"value": operand})

    def reshape(self, x: Value, shape: Shape) -> Value:
        """`x` in another shape; itself if it has that shape."""
        return x if x.shape == shape else self.emit("reshape", [x], shape)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """`x` with its axes reordered; itself if they stay."""
        if tuple(perm) == tuple(range(len(perm))):
            return x
        assert x.shape is not None
        return self.emit("transpose", [x], tuple(x.shape[axis] for axis in perm), perm=tuple(perm))

    def expand(self, x: Value, shape: Shape | None) -> Value:
        """`x` broadcast to a shape; itself if it has that shape."""
        return x if shape is None or x.shape == shape else self.emit("expand", [x], shape)

    def _temporary(self, shape: Shape | None, dtype: str | None) -> Value:
        self._serial += 1
        value = Value(f"\0{self._serial}", shape, dtype)
        self.values[value.name] = value
        return value

    def _unique(self, wanted: str, taken: set[str]) -> str:
        name = wanted
        while name in taken:
            self._counts[wanted] += 1
            name = f"{wanted}_{self._counts[wanted]}"
        taken.add(name)
        return name


def _main(nodes: Sequence[Node]) -> int:
    """Which of an operation's nodes carries its name: the one with the weights, else the last."""
    for index, node in enumerate(nodes):
        family = VOCABULARY[node.op].family if node.op in VOCABULARY else ""
        if family in ("linear", "normalization", "recurrent") and node.op not in ("bias", "scale"):
            return index
    return len(nodes) - 1


def entries(shape: Sequence[Dim]) -> int | None:
    """Number of entries, None if a size is not known."""
    return math.prod(int(size) for size in shape) if all(isinstance(size, int) for size in shape) else None


Results = Sequence[Operand | None]
"""What a lowering returns: the operation's outputs in order."""

Lowering = Callable[[Call, Emitter], Results]
"""Writes the canonical nodes of one operation; raises CannotLowerError where the vocabulary has none for it."""
