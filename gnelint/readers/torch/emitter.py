"""Where the lowering table writes: canonical operations in order, named only once all of them are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from gnelint.ir.graph import Dim, Parameter
from gnelint.readers.torch.constants import Constant, scalar

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Flow:
    """A tensor that depends on the network's input; `index` identifies it among the emitter's values."""

    index: int
    shape: Shape
    dtype: str


Operand = Flow | Constant
"""A tensor operand of a traced operation."""


class CannotLowerError(Exception):
    """A use of an operation that the vocabulary does not cover; the driver emits it as `unmodelled`."""


@dataclass(frozen=True)
class Draft:
    """A node without a name yet; inputs and outputs are indices of values."""

    op: str
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    parameters: Mapping[str, Parameter]
    attributes: Mapping[str, Any]
    origin: fx.Node


@dataclass(frozen=True)
class Call:
    """One traced operation with its arguments by the names of its schema.

    Attributes:
        node: the fx node it comes from.
        arguments: operands (`Flow`, `Constant`), lists of them, and plain numbers, strings and None.
        outputs: shape and type of every tensor it returns; None for what is no tensor.
    """

    node: fx.Node
    arguments: Mapping[str, Any]
    outputs: tuple[tuple[Shape, str] | None, ...]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument, or `default` where the schema has none of that name."""
        return self.arguments.get(name, default)

    @property
    def shape(self) -> Shape:
        """Shape of the first output."""
        return self._first[0]

    @property
    def dtype(self) -> str:
        """Type of the first output."""
        return self._first[1]

    @property
    def _first(self) -> tuple[Shape, str]:
        if not self.outputs or self.outputs[0] is None:
            raise CannotLowerError("the operation returns no tensor")
        return self.outputs[0]


@dataclass
class Emitter:
    """Collects drafts; `origin` is the traced operation that is being lowered."""

    drafts: list[Draft] = field(default_factory=list)
    values: list[tuple[Shape, str]] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    origin: fx.Node | None = None

    def value(self, shape: Shape, dtype: str) -> Flow:
        """A new value that nothing has written yet."""
        self.values.append((shape, dtype))
        return Flow(len(self.values) - 1, shape, dtype)

    def emit(
        self,
        op: str,
        inputs: Sequence[Operand | float | None],
        shape: Shape,
        dtype: str | None = None,
        parameters: Mapping[str, Parameter | None] | None = None,
        **attributes: Any,
    ) -> Flow:
        """Write one node with one output; its type is the first input's where none is given."""
        flows = [None if operand is None else self.flow(operand) for operand in inputs]
        if dtype is None:
            dtype = next(flow.dtype for flow in flows if flow is not None)
        output = self.value(shape, dtype)
        self._append(op, flows, (output,), parameters, attributes)
        return output

    def emit_many(
        self,
        op: str,
        inputs: Sequence[Operand | None],
        outputs: Sequence[tuple[Shape, str]],
        parameters: Mapping[str, Parameter | None] | None = None,
        **attributes: Any,
    ) -> tuple[Flow, ...]:
        """Write one node with several outputs."""
        flows = [None if operand is None else self.flow(operand) for operand in inputs]
        written = tuple(self.value(*output) for output in outputs)
        self._append(op, flows, written, parameters, attributes)
        return written

    def _append(
        self,
        op: str,
        flows: Sequence[Flow | None],
        outputs: tuple[Flow, ...],
        parameters: Mapping[str, Parameter | None] | None,
        attributes: Mapping[str, Any],
    ) -> None:
        assert self.origin is not None
        self.drafts.append(
            Draft(
                op=op,
                inputs=tuple(None if flow is None else flow.index for flow in flows),
                outputs=tuple(flow.index for flow in outputs),
                parameters={role: found for role, found in (parameters or {}).items() if found is not None},
                attributes=attributes,
                origin=self.origin,
            )
        )

    def flow(self, operand: Operand | float) -> Flow:
        """The operand as a value; a constant that has no parameter role becomes a `constant` node."""
        if isinstance(operand, Flow):
            return operand
        if not isinstance(operand, Constant):
            operand = scalar(float(operand), "float32")
        compact = operand.compact
        found = self.value(compact.shape, compact.dtype)
        self._append("constant", (), (found,), {"value": compact.parameter()}, {})
        return found if compact.shape == operand.shape else self.emit("expand", [found], operand.shape)

    def reshape(self, operand: Operand, shape: Shape) -> Operand:
        """The operand in another shape; itself if it has that shape."""
        if operand.shape == shape:
            return operand
        if isinstance(operand, Constant):
            if all(isinstance(size, int) for size in shape):
                return operand.reshaped(tuple(int(size) for size in shape))
            operand = self.flow(operand)
        return self.emit("reshape", [operand], shape)

    def expand(self, operand: Operand, shape: Shape) -> Flow:
        """The operand broadcast to `shape`; itself if it has that shape."""
        flow = self.flow(operand)
        return flow if flow.shape == shape else self.emit("expand", [flow], shape)

    def transpose(self, operand: Operand, perm: Sequence[int]) -> Flow:
        """The operand with its axes reordered."""
        flow = self.flow(operand)
        return self.emit("transpose", [flow], tuple(flow.shape[axis] for axis in perm), perm=tuple(perm))

    def slice(self, operand: Operand, axis: int, start: int, end: int, step: int = 1) -> Flow:
        """`start:end:step` along one axis; bounds are within the axis."""
        flow = self.flow(operand)
        shape = (*flow.shape[:axis], len(range(start, end, step)), *flow.shape[axis + 1 :])
        return self.emit("slice", [flow], shape, axes=(axis,), starts=(start,), ends=(end,), steps=(step,))


def parameter(operand: Any, permutation: tuple[int, ...] | None = None) -> Parameter | None:
    """The operand as a node's parameter; None for one that is left out.

    Raises:
        CannotLowerError: it depends on the network's input.
    """
    if operand is None:
        return None
    if not isinstance(operand, Constant):
        raise CannotLowerError("the weight depends on the network's input")
    return operand.parameter(permutation)
