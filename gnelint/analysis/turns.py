"""Values whose batch is not their first axis, and how they lie once it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from gnelint.analysis.sampling import Draws, MakeSampler, Pulled, Region, Sampler
from gnelint.ir.graph import Graph
from gnelint.records import cached_property, dataclass
from gnelint.theory.fields.field import Field
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments

F = TypeVar("F", bound=Field)
Shape = tuple[int, ...]


class StuckError(Exception):
    """A node cannot read a value that has its batch elsewhere."""


@dataclass(frozen=True)
class Turn:
    """Where a value has its batch, and how its axes lie once it comes first.

    Attributes:
        shape: the value's own.
        axis: the axis that is the batch, or that it is merged into.
        before: what is merged with it there and changes more slowly.
        after: what changes faster.
    """

    shape: Shape
    axis: int = 0
    before: int = 1
    after: int = 1

    @property
    def plain(self) -> bool:
        """Whether the batch comes first already."""
        return self.axis == 0 and self.before == self.after == 1

    @property
    def alone(self) -> bool:
        """Whether the batch has an axis to itself."""
        return self.before == self.after == 1

    def stands_as(self, other: Turn) -> bool:
        """Whether another value of as many axes has its batch at the same place."""
        mine, others = ((turn.axis, turn.before, turn.after, len(turn.shape)) for turn in (self, other))
        return mine == others

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.shape[self.axis] // (self.before * self.after)

    @cached_property
    def _parts(self) -> list[Shape]:
        """The sizes that each axis is made of."""
        parts: list[Shape] = [(size,) for size in self.shape]
        outer, inner = (() if size == 1 else (size,) for size in (self.before, self.after))
        parts[self.axis] = (*outer, self.batch, *inner)
        return parts

    @property
    def split(self) -> Shape:
        """The shape with an axis for each of those sizes."""
        return tuple(size for part in self._parts for size in part)

    @cached_property
    def turned(self) -> Shape:
        """The shape with the batch in front; what it was merged with has an axis of its own."""
        return tuple(self.split[index] for index in self.order(range(len(self.shape))))

    def order(self, axes: Iterable[int]) -> list[int]:
        """The axes of `split`: the batch first, then those of these axes of the value in turn."""
        starts = [sum(map(len, self._parts[:index])) for index in range(len(self.shape))]
        batch = starts[self.axis] + (self.before > 1)
        places = [starts[axis] + k for axis in axes for k in range(len(self._parts[axis]))]
        return [batch, *(place for place in places if place != batch)]

    def axis_of(self, axis: int) -> int:
        """Where an axis of the value is once the batch comes first.

        Raises:
            StuckError: it is the batch's.
        """
        axis %= len(self.shape)
        if axis == self.axis:
            raise StuckError
        return axis + 1 if axis < self.axis else axis + (self.before > 1) + (self.after > 1)

    def forth(self, field: F) -> F:
        """What is known of the value, batch first."""
        return field.reshaped(self.split).permuted(self.order(range(len(self.shape))))

    def back(self, field: F) -> F:
        """What is known of the value as it lies."""
        order = self.order(range(len(self.shape)))
        return field.permuted([order.index(place) for place in range(len(order))]).reshaped(self.shape)

    def moved(self, shape: Sequence[int]) -> Turn:
        """Of the same entries in another shape.

        Raises:
            StuckError: the batch is cut up.
        """
        stride = self.after * math.prod(self.shape[self.axis + 1 :])
        inner = 1
        found: list[Turn] = []
        for axis in reversed(range(len(shape))):
            after, left = divmod(stride, inner)
            if not left and not (inner * shape[axis]) % (stride * self.batch):
                found.append(Turn(tuple(shape), axis, inner * shape[axis] // (stride * self.batch), after))
            inner *= shape[axis]
        if not found:
            raise StuckError
        return min(found, key=lambda turn: turn.before * turn.after)


@dataclass(frozen=True)
class Turned:
    """A network with the batch of every value in front.

    Attributes:
        graph: the network; nodes and values have the names that they had.
        turns: of the values whose axes lie otherwise than in the network as it was.
    """

    graph: Graph
    turns: Mapping[str, Turn]

    def sampler(self, make: MakeSampler) -> MakeSampler:
        """What runs parts of the network as it was, for who analyses this one."""
        return (lambda: _TurningSampler(make(), self)) if self.turns else make

    def forth(self, fields: Mapping[str, F]) -> dict[str, F]:
        """What is known of values, as it is of these."""
        return {name: self.turns[name].forth(x) if name in self.turns else x for name, x in fields.items()}

    def back(self, fields: Mapping[str, F]) -> dict[str, F]:
        """What is known of these values, as it is of those of the network as it was."""
        return {name: self.turns[name].back(x) if name in self.turns else x for name, x in fields.items()}


@dataclass(frozen=True)
class _TurningSampler:
    """A sampler of the network as it was, asked about the turned one."""

    sampler: Sampler
    turned: Turned

    def shows(self, value: str) -> bool:
        return self.sampler.shows(value)

    def draws(self, region: Region, inputs: Mapping[str, Moments]) -> Draws:
        return _TurningDraws(self.sampler.draws(region, self.turned.back(inputs)), self.turned)


@dataclass(frozen=True)
class _TurningDraws:
    """Draws of a region of the network as it was."""

    draws: Draws
    turned: Turned

    @property
    def moments(self) -> Mapping[str, Moments]:
        return self.turned.forth(self.draws.moments)

    def pulled(self, cotangents: Mapping[str, Gradient], *, inside: bool = True) -> Pulled:
        found = self.draws.pulled(self.turned.back(cotangents), inside=inside)
        return replace(found, gradients=self.turned.forth(found.gradients))
