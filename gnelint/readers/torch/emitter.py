"""What lowerings of a traced program read and write: its operations and operands, and the nodes they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from gnelint.ir.graph import Parameter, Value
from gnelint.readers import emitter
from gnelint.readers.emitter import CannotLowerError, Shape
from gnelint.readers.torch.constants import Constant, derived, scalar
from gnelint.records import dataclass


@dataclass(frozen=True)
class Flow(Value):
    """A tensor that depends on the network's input; tracing knows its type and the number of its axes."""

    shape: Shape
    dtype: str


Operand = Flow | Constant
"""A tensor operand of a traced operation."""


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
        if name not in self.arguments:
            raise CannotLowerError(f"this form of the operation has no {name}")
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

    def reads(self, index: int) -> bool:
        """Whether anything uses this output of an operation with several."""
        return any(user.args[1] == index and len(user.users) > 0 for user in self.node.users)


class Emitter(emitter.Emitter[Flow, Constant]):
    """Collects the canonical nodes of a traced program; a product with a random mask is dropout."""

    def value(self, name: str, shape: Shape | None, dtype: str | None) -> Flow:
        assert shape is not None
        assert dtype is not None
        return Flow(name, shape, dtype)

    def parameter(self, constant: Constant | float, dtype: str | None = None) -> Parameter:
        if isinstance(constant, Constant):
            return constant.parameter()
        is_real = dtype is not None and dtype.startswith(("float", "bfloat"))
        return scalar(float(constant), dtype if dtype is not None and is_real else "float32").parameter()

    def reshaped(self, constant: Constant, shape: tuple[int, ...]) -> Constant:
        return constant.reshaped(shape)

    def permuted(self, constant: Constant, perm: Sequence[int]) -> Constant:
        return constant.transposed(tuple(perm))

    def compact(self, constant: Constant) -> Constant:
        return constant.compact

    def number(self, constant: Constant | float) -> float | None:
        """The value of a number that is written in the program, as a tensor without axes, too; None for a tensor."""
        if not isinstance(constant, Constant):
            return float(constant)
        written = constant.kind == "constant" and constant.provenance == "data" and constant.mask is None
        if constant.shape != () or not written or constant.dtype.startswith("complex"):
            return None
        return float(constant.compute({}))

    def of_constants(self, op: str, a: Constant | float, b: Constant | float, shape: Shape | None) -> Constant:
        return derived({"add": torch.add, "mul": torch.mul, "div": torch.div}[op], a, b)

    def plus(self, x: Flow, constant: Constant | float, shape: Shape | None, factor: float = 1.0) -> Flow:
        if isinstance(constant, Constant) and constant.mask is not None and constant.mask.paired:
            # alpha dropout's shift: neutral, as its mask is
            return self.emit("identity", [self.expand(x, shape)], shape)
        return super().plus(x, constant, shape, factor)

    def times(self, x: Flow, constant: Constant | float, shape: Shape | None, reciprocal: bool = False) -> Flow:
        mask = constant.mask if isinstance(constant, Constant) and not reciprocal else None
        if mask is None or not (mask.is_dropout or mask.removes):
            return super().times(x, constant, shape, reciprocal)
        assert isinstance(constant, Constant)
        x = self.expand(x, shape)
        alike = _shared_axes(x, constant.compact.shape)
        if mask.is_dropout and (mask.paired or all(x.shape[axis] == 1 for axis in alike)):
            return self.emit("dropout", [x], shape, p=1.0 - mask.kept, alpha=mask.paired)
        # one number for many entries (stochastic depth) is no noise that averages out behind the next layer
        dropped = self.emit("dropout", [x], x.shape, p=1.0 - mask.kept, inverted=False, alike=alike)
        return self.scale(dropped, mask.factor)


def _shared_axes(x: Flow, mask: Shape) -> tuple[int, ...]:
    """Axes of x but the first along which a mask of this shape has one number."""
    first = len(x.shape) - len(mask)
    return tuple(axis for axis in range(1, len(x.shape)) if axis < first or mask[axis - first] == 1)


def parameter(operand: Any) -> Parameter | None:
    """The operand as a node's parameter; None for one that is left out.

    Raises:
        CannotLowerError: it depends on the network's input.
    """
    if operand is None:
        return None
    if not isinstance(operand, Constant):
        raise CannotLowerError("the weight depends on the network's input")
    return operand.parameter()
