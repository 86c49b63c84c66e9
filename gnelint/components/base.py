"""What a component is, and the registry that finds one for a node.

A component knows three things about an operation: what it does to moments (forward), what its transposed Jacobian
does to the second moments of a gradient (backward), and from the latter phi(J J^T) for each input, with the variance of
the spectrum where theory has one. It sees shapes, parameters and attributes, never a framework.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, Literal, TypeVar

from gnelint.components.composed import moments_of, pulled_back, trace_of
from gnelint.ir.graph import Node
from gnelint.ops import VOCABULARY
from gnelint.ops.record import Scalar
from gnelint.records import dataclass, replace
from gnelint.theory.fields.channel_correlation import Ahead
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.spectrum import PLAIN, Structure

Basis = Literal["exact", "theorem", "approximate", "sampled", "unmodelled"]
"""What a number stands on, strongest first."""


Inputs = Sequence[Moments | None]
"""Moments of the inputs; None where one is left out or carries no gradient (indices, masks)."""
Cotangents = Sequence[Gradient | None]
"""Gradients at the outputs; None where none arrives."""
Gradients = tuple[Gradient | None, ...]
"""Gradients at the inputs; None where none is asked for."""


def first_input(inputs: Inputs) -> Moments:
    """The first input, of a component that nothing is asked of without its moments."""
    x = inputs[0]
    assert x is not None
    return x


class NotModelledError(ValueError):
    """This use of an operation is outside what its component models; the message says why, for people."""


@dataclass(frozen=True)
class Component(ABC):
    """One operation of a graph. A subclass adds formulas, no fields, and so needs no decorator of its own but
    `component`.

    Attributes:
        node: the node with its attributes and parameters.
        input_shapes: the shape of each input, symbolic dimensions filled in; None for an input left out.
        output_shapes: the shape of each output.
    """

    node: Node
    input_shapes: tuple[tuple[int, ...] | None, ...]
    output_shapes: tuple[tuple[int, ...], ...]

    basis: ClassVar[Basis] = "exact"
    assumptions: ClassVar[tuple[str, ...]] = ()
    model_error_bits: ClassVar[float | None] = None
    """Standard deviation in bits of log2(predicted / measured) of the squared norm of a gradient that has passed here,
    beyond the fluctuation from draw to draw: what the formulas leave out, as found on the networks of
    tests/models. By basis if None."""

    fixed_phi_variance: ClassVar[float | None] = None
    fixed_structure: ClassVar[Structure] = PLAIN
    """`phi_variance` and `structure` of those that have the same for all inputs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The first output's shape."""
        return self.output_shapes[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The first input's shape."""
        shape = self.input_shapes[0]
        assert shape is not None
        return shape

    @abstractmethod
    def forward(self, inputs: Inputs) -> tuple[Moments, ...]:
        """Moments of every output.

        Args:
            inputs: moments of the inputs; None where the input is left out or carries no gradient (indices, masks).

        Raises:
            NotModelledError: this use is outside of the model.
        """

    @abstractmethod
    def backward(self, inputs: Inputs, outputs: Sequence[Moments], cotangents: Cotangents) -> Gradients:
        """The gradient's second moments at every input, for cotangents at the outputs (None: no gradient arrives)."""

    def phis(self, inputs: Inputs, outputs: Sequence[Moments]) -> tuple[float | None, ...]:
        """phi(J J^T) with respect to each input, for the isotropic cotangent on all outputs together."""
        cotangents = [Gradient.white(shape) for shape in self.output_shapes]
        length = sum(cotangent.size for cotangent in cotangents)
        gradients = self.backward(inputs, outputs, cotangents)
        return tuple(None if g is None else g.total / length if length else 0.0 for g in gradients)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        """tr((J J^T)^2)/m - phi^2 of the Jacobian with respect to all inputs; None where no formula is known."""
        return self.fixed_phi_variance

    def model_error_bits_of(self, index: int) -> float | None:
        """`model_error_bits` of the gradient at one input."""
        return self.model_error_bits

    def structure(self, inputs: Inputs, outputs: Sequence[Moments]) -> Structure:
        """What the spectrum of a chain must know of this map beyond its variance."""
        return self.fixed_structure


class OneOutput(Component):
    """A component with one output."""

    @abstractmethod
    def joined(self, inputs: Inputs) -> Moments:
        """Moments of the output."""

    @abstractmethod
    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        """Gradient at every input, for this one at the output."""

    def forward(self, inputs: Inputs) -> tuple[Moments, ...]:
        trace = trace_of(self, inputs)
        if trace is None:
            y = self.joined(inputs)
            return (y if y.trace is None else replace(y, trace=None),)  # moved as it is: the trace is another node's
        if not trace.composed:
            try:
                return (replace(self.joined(inputs), trace=trace),)
            except NotModelledError:
                trace.composed = True
        known = moments_of(trace)
        if known is None:
            raise NotModelledError(f"{self.node.op} of a value that may leave the range where its average is finite")
        return (known,)

    def backward(self, inputs: Inputs, outputs: Sequence[Moments], cotangents: Cotangents) -> Gradients:
        g = cotangents[0]
        if g is None:
            return (None,) * len(inputs)
        y = outputs[0]
        composed = y.trace is not None and (y.trace.composed or g.rays)
        return pulled_back(self, inputs, y, g) if composed else self.parted(inputs, y, g)

    def phis(self, inputs: Inputs, outputs: Sequence[Moments]) -> tuple[float | None, ...]:
        y = outputs[0]
        if y.trace is None or not y.trace.composed:
            return super().phis(inputs, outputs)
        gradients = pulled_back(self, inputs, y, Gradient.white(self.shape), alone=True)
        return tuple(None if g is None else g.total / max(y.size, 1) for g in gradients)


class Opaque(OneOutput):
    """A component through which no gradient passes."""

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        return (None,) * len(inputs)


class Unary(OneOutput):
    """A component with one input and one output that both carry the gradient."""

    @abstractmethod
    def map(self, x: Moments) -> Moments:
        """Moments of the output."""

    @abstractmethod
    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        """Gradient at the input."""

    def ahead(self, x: Moments, y: Moments, behind: Ahead) -> tuple[Ahead, float]:
        """What normalisations make of correlations at the input, for what they make of them at the output, and the
        share of the gradient that is lost here to what they gained (theory 5.11)."""
        return (behind if x.variance_of_variance else behind.scaled(1.0)), 0.0

    def joined(self, inputs: Inputs) -> Moments:
        x = first_input(inputs)
        y = self.map(x)
        return replace(y, parted=x.parted) if x.parted and not y.parted else y

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        x = first_input(inputs)
        found = self.pull(x, y, g)
        ahead, lost = self.ahead(x, y, g.ahead)
        found = replace(found.scaled(1.0 - lost) if lost else found, ahead=ahead)
        return (found, *(None,) * (len(inputs) - 1))


T = TypeVar("T")


class Remembered(Generic[T]):
    """What a component has found for the values it met, by their identity: every pass over the graph asks for the same
    ones."""

    def __init__(self) -> None:
        self._known: list[tuple[tuple[object, ...], T]] = []

    def of(self, values: Sequence[object], find: Callable[[], T]) -> T:
        """What is known for these values; else what `find` returns."""
        for known, found in self._known:
            if len(known) == len(values) and all(a is b for a, b in zip(known, values, strict=True)):
                return found
        found = find()
        self._known.append((tuple(values), found))
        return found


_REGISTRY: dict[str | type, type[Component]] = {}

C = TypeVar("C", bound=type[Component])


def component(*ops: str | type[Scalar]) -> Callable[[C], C]:
    """Class decorator: this class models these canonical operations, or all that have a function of this kind and no
    class of their own."""

    def register(cls: C) -> C:
        for op in ops:
            if op in _REGISTRY:
                raise ValueError(f"{op} has two components: {_REGISTRY[op].__name__} and {cls.__name__}")
            _REGISTRY[op] = cls
        return cls

    return register


def registered(op: str) -> type[Component] | None:
    """The class that models this operation among those that are imported, None if there is none."""
    kind = type(VOCABULARY[op].function) if op in VOCABULARY else None
    return _REGISTRY.get(op) or (None if kind is None else _REGISTRY.get(kind))
