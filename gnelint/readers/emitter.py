"""Where lowerings write: canonical nodes in order, named only once all of an operation is known.

A reader has values of its own (`V`), which depend on the model's input, and constants of its own (`C`), which do not.
What it can do with them is handed in by the methods that its emitter defines.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, overload

from gnelint.ir.graph import Dim, Parameter, Value
from gnelint.records import dataclass

Shape = tuple[Dim, ...]


class CannotLowerError(Exception):
    """A use of an operation that the vocabulary does not cover; it is emitted as `unmodelled`, the reason with it."""


class ConstantTensor(Protocol):
    """A tensor that does not depend on the model's input."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...


V = TypeVar("V", bound=Value)
C = TypeVar("C", bound=ConstantTensor)
Part = TypeVar("Part", bound="Value | ConstantTensor")


def with_entries(parts: Sequence[Part], axis: int) -> list[Part]:
    """Those of the parts of a concatenation that have an entry along the axis; the first if none has."""
    return [part for part in parts if part.shape is None or part.shape[axis] != 0] or list(parts[:1])


def shape_of(operand: Value | ConstantTensor) -> Shape:
    """The operand's sizes, symbolic ones by their names.

    Raises:
        CannotLowerError: not even their number is known.
    """
    if isinstance(operand, Value) and operand.shape is None:
        raise CannotLowerError(f'the rank of "{operand.name}" is not known')
    return operand.shape or ()


def rank(operand: Value | ConstantTensor) -> int:
    """Number of axes.

    Raises:
        CannotLowerError: it is not known.
    """
    return len(shape_of(operand))


def concrete(operand: Value | ConstantTensor) -> tuple[int, ...]:
    """The operand's sizes.

    Raises:
        CannotLowerError: one of them is not known.
    """
    if not isinstance(operand, Value):
        return operand.shape
    shape = operand.concrete_shape
    if shape is None:
        raise CannotLowerError(f'the shape of "{operand.name}" is not known')
    return shape


def axis_of(axis: int, axes: int) -> int:
    """The axis counted from 0.

    Raises:
        CannotLowerError: there is none of this number.
    """
    if not -axes <= axis < max(axes, 1):
        raise CannotLowerError(f"axis {axis} of a tensor with {axes} axes")
    return axis % axes if axes else 0


def entries(shape: Sequence[Dim]) -> int | None:
    """Number of entries, None if a size is not known."""
    return math.prod(int(size) for size in shape) if all(isinstance(size, int) for size in shape) else None


@dataclass(frozen=True)
class Draft:
    """A node without a name yet; the values it writes have temporary names."""

    op: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    attributes: Mapping[str, Any]


class Emitter(ABC, Generic[V, C]):
    """Collects the canonical nodes of one graph, an operation of the model at a time.

    Attributes:
        values: by name.
        notes: sentences for people, each once.
    """

    def __init__(self) -> None:
        self.values: dict[str, V] = {}
        self.notes: dict[str, None] = {}
        self._drafts: list[Draft] = []
        self._serial = 0

    # --- what a reader hands in ---------------------------------------------------------------------------------------

    @abstractmethod
    def value(self, name: str, shape: Shape | None, dtype: str | None) -> V:
        """A value of the reader's own kind."""

    @abstractmethod
    def parameter(self, constant: C | float, dtype: str | None = None) -> Parameter:
        """A constant as a node's parameter; a number of the program has the type `dtype` if that is a real one."""

    @abstractmethod
    def reshaped(self, constant: C, shape: tuple[int, ...]) -> C:
        """The same numbers in another shape."""

    @abstractmethod
    def permuted(self, constant: C, perm: Sequence[int]) -> C:
        """The same numbers with the axes in another order."""

    def compact(self, constant: C) -> C:
        """The numbers without the repetition that broadcasting would do by itself."""
        return constant

    def number(self, constant: C | float) -> float | None:
        """The value of a number that is written in the program, None for a tensor."""
        return float(constant) if isinstance(constant, (int, float)) else None

    def of_constants(self, op: str, a: C | float, b: C | float, shape: Shape | None) -> V | C:
        """ "add", "mul" or "div" of two constants that the reader has not folded."""
        return self.emit(op, [a, b], shape)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def new_value(self, shape: Shape | None, dtype: str | None) -> V:
        """A value under a temporary name that nothing has written yet."""
        self._serial += 1
        found = self.value(f"\0{self._serial}", shape, dtype)
        self.values[found.name] = found
        return found

    def emit(
        self,
        op: str,
        inputs: Sequence[V | C | float | None],
        shape: Shape | None,
        dtype: str | None = None,
        parameters: Mapping[str, Parameter | None] | None = None,
        **attributes: Any,
    ) -> V:
        """Write one node with one output; where no type is given, it is that of the first input that is floating, as
        the product of a mask and a number is a number, else the first input's."""
        return self.emit_many(op, inputs, [(shape, dtype)], parameters, **attributes)[0]

    def emit_many(
        self,
        op: str,
        inputs: Sequence[V | C | float | None],
        outputs: Sequence[tuple[Shape | None, str | None]],
        parameters: Mapping[str, Parameter | None] | None = None,
        **attributes: Any,
    ) -> tuple[V, ...]:
        """Write one node with several outputs."""
        flows = [None if operand is None else self.flow(operand) for operand in inputs]
        present = [flow for flow in flows if flow is not None]
        first = next((flow.dtype for flow in (*(each for each in present if each.is_floating), *present)), None)
        found = tuple(self.new_value(shape, dtype or first) for shape, dtype in outputs)
        self._drafts.append(
            Draft(
                op=op,
                inputs=tuple(None if flow is None else flow.name for flow in flows),
                outputs=tuple(value.name for value in found),
                parameters={role: given for role, given in (parameters or {}).items() if given is not None},
                attributes=attributes,
            )
        )
        return found

    def take(self) -> list[Draft]:
        """What has been written since the last time."""
        found, self._drafts = self._drafts, []
        return found

    def drop(self) -> None:
        """Forget what has been written since the last `take`."""
        for draft in self.take():
            for name in draft.outputs:
                del self.values[name]

    # --- operands in another form -------------------------------------------------------------------------------------

    def flow(self, operand: V | C | float) -> V:
        """The operand as a value; a constant that has no parameter role becomes a `constant` node."""
        if isinstance(operand, Value):
            return operand
        if isinstance(operand, (int, float)):
            stored = self.parameter(operand)
            return self.emit("constant", [], (), stored.dtype, {"value": stored})
        stored = self.parameter(self.compact(operand))
        return self.expand(self.emit("constant", [], stored.shape, stored.dtype, {"value": stored}), operand.shape)

    def expand(self, operand: V | C | float, shape: Shape | None) -> V:
        """The operand broadcast to a shape; itself if it has that shape."""
        flow = self.flow(operand)
        return flow if shape is None or flow.shape == shape else self.emit("expand", [flow], shape)

    @overload
    def reshape(self, operand: V, shape: Shape | None) -> V: ...
    @overload
    def reshape(self, operand: V | C, shape: Shape | None) -> V | C: ...
    def reshape(self, operand: V | C, shape: Shape | None) -> V | C:
        """The operand in another shape; itself if it has that shape."""
        if shape is None or operand.shape == shape:
            return operand
        if isinstance(operand, Value) or entries(shape) is None:
            return self.emit("reshape", [operand], shape)
        return self.reshaped(operand, tuple(int(size) for size in shape))

    @overload
    def transpose(self, operand: V, perm: Sequence[int]) -> V: ...
    @overload
    def transpose(self, operand: V | C, perm: Sequence[int]) -> V | C: ...
    def transpose(self, operand: V | C, perm: Sequence[int]) -> V | C:
        """The operand with its axes reordered; itself if they stay."""
        if tuple(perm) == tuple(range(len(perm))):
            return operand
        if not isinstance(operand, Value):
            return self.permuted(operand, perm)
        shape = shape_of(operand)
        return self.emit("transpose", [operand], tuple(shape[axis] for axis in perm), perm=tuple(perm))

    def slice(self, operand: V | C, axis: int, start: int, end: int, step: int = 1) -> V:
        """`start:end:step` along one axis; bounds are within the axis."""
        flow = self.flow(operand)
        shape = shape_of(flow)
        kept = (*shape[:axis], len(range(start, end, step)), *shape[axis + 1 :])
        return self.emit("slice", [flow], kept, axes=(axis,), starts=(start,), ends=(end,), steps=(step,))

    def concat(self, parts: Sequence[V], axis: int) -> V:
        """The parts one behind the other along an axis; those without an entry along it are none.

        Raises:
            CannotLowerError: their sizes along it are not known.
        """
        parts = with_entries(parts, axis)
        if len(parts) == 1:
            return parts[0]
        shape = shape_of(parts[0])
        sizes = [shape_of(part)[axis] for part in parts]
        if entries(sizes) is None:
            raise CannotLowerError("a size is symbolic")
        size = sum(int(size) for size in sizes)
        return self.emit("concat", parts, (*shape[:axis], size, *shape[axis + 1 :]), axis=axis)

    # --- with a constant ----------------------------------------------------------------------------------------------

    def scale(self, x: V, factor: float) -> V:
        """factor * x; x itself for 1."""
        return x if factor == 1 else self.emit("scale", [x], x.shape, factor=float(factor))

    def plus(self, x: V, constant: C | float, shape: Shape | None, factor: float = 1.0) -> V:
        """x + factor * constant, of the broadcast `shape`: a bias."""
        x = self.expand(x, shape)
        if isinstance(constant, (int, float)):
            bias = self.parameter(constant * factor, x.dtype)
            return x if constant == 0 else self.emit("bias", [x], shape, parameters={"bias": bias})
        attributes = {} if factor == 1 else {"factor": float(factor)}
        return self.emit("bias", [x], shape, None, {"bias": self.parameter(self.compact(constant))}, **attributes)

    def times(self, x: V, constant: C | float, shape: Shape | None, reciprocal: bool = False) -> V:
        """x * constant, or x / constant, of the broadcast `shape`; a number is the factor of a `scale`."""
        x = self.expand(x, shape)
        factor = self.number(constant)
        if factor is not None and not (reciprocal and factor == 0):
            factor = 1.0 / factor if reciprocal else factor
            return x if constant == 1 else self.emit("scale", [x], shape, factor=factor)
        stored = self.parameter(constant if isinstance(constant, (int, float)) else self.compact(constant))
        attributes = {"reciprocal": True} if reciprocal else {}
        return self.emit("scale", [x], shape, None, {"scale": stored}, **attributes)
