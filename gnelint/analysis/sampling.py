"""Regions that no formula describes, run on draws of their inputs: what the analysis asks of who can run them.

The analysis runs nothing itself. It is handed a `Sampler`, which draws the inputs of a region from their moments, sends
cotangents with given second moments back, and says what it finds as moments and gradients again. Source: theory 7.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import ClassVar, Protocol

from gnelint.components import component_class
from gnelint.components.base import Basis, Component, Cotangents, Gradients, Inputs, NotModelledError
from gnelint.ir.graph import Node
from gnelint.ops import families
from gnelint.records import dataclass
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments

SAMPLED = "run on draws of its inputs from their moments; what the inputs have in common is left out"
ASSUMED_BITS = 0.1
"""Bits of error beyond the estimate's own: inputs were drawn Gaussian, or as a rectifier leaves them. What they have in
common comes in once more at each normalisation, which divides by it (20 to 40 of them: 0.7 to 1.2 bits as measured)."""
_NORMALISATIONS = families()["normalization"]


class NotSampledError(NotModelledError):
    """A region cannot be run; the message says why, for people."""


@dataclass(frozen=True)
class Region:
    """Nodes that are run together.

    Attributes:
        seeds: names of those that have no formula.
        nodes: all of them, in topological order.
        inputs: values that depend on the network's floating inputs and are drawn.
        outputs: values of that kind that are read outside.
    """

    seeds: tuple[str, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def reread(self) -> frozenset[str]:
        """Outputs that are read inside as well: what arrives at them is not all of their gradient."""
        return frozenset(self.outputs) & frozenset(name for node in self.nodes for name in node.present_inputs)

    @property
    def written(self) -> frozenset[str]:
        """Every value that its nodes write."""
        return frozenset(name for node in self.nodes for name in node.outputs)

    def assumed_bits(self) -> Mapping[str, float]:
        """Bits of error of the gradient at each value, for what is left out of the draws."""
        behind: dict[str, int] = {}
        for node in reversed(self.nodes):
            count = max((behind.get(name, 0) for name in node.outputs), default=0) + (node.op in _NORMALISATIONS)
            behind.update({name: max(count, behind.get(name, 0)) for name in node.present_inputs})
        return {name: ASSUMED_BITS * math.sqrt(max(count, 1)) for name, count in behind.items()}

    @property
    def has_formulas(self) -> bool:
        """Whether each node has one; they leave out what is common to several, and would be believed without a run."""
        return all(component_class(node.op) is not None for node in self.nodes)

    @property
    def seed(self) -> Node:
        """The first node that has no formula."""
        return next(node for node in self.nodes if node.name in self.seeds)


@dataclass(frozen=True)
class Pulled:
    """What cotangents at a region's outputs become.

    Attributes:
        gradients: at its inputs, and at the values in it that the sampler sees.
        error_bits: standard deviation of one run's squared norm at the inputs from that, in bits.
        inner_bits: of the squared norm at each value inside.
    """

    gradients: Mapping[str, Gradient]
    error_bits: float
    inner_bits: Mapping[str, float] = field(default_factory=dict)


class Draws(Protocol):
    """A region with draws of its inputs."""

    @property
    def moments(self) -> Mapping[str, Moments]:
        """Of its outputs, and of the values in it that the sampler sees."""

    def pulled(self, cotangents: Mapping[str, Gradient], *, inside: bool = True) -> Pulled:
        """Send cotangents back.

        Args:
            cotangents: at the outputs.
            inside: whether the gradients at the values inside are wanted too, which cost as much again.
        """


class Sampler(Protocol):
    """Runs regions of one network."""

    def shows(self, value: str) -> bool:
        """Whether a value of the graph can be put in and read off."""

    def draws(self, region: Region, inputs: Mapping[str, Moments]) -> Draws:
        """A region on draws of its inputs.

        Raises:
            NotSampledError: it cannot be run.
        """


MakeSampler = Callable[[], Sampler]
"""Asked for only where something has no formula: what runs a network is slow to load."""


@dataclass(frozen=True)
class Sampled(Component):
    """A region as one node of the graph.

        energy -> E of the squared Jacobian's transpose on it, over draws of inputs and cotangents

    Source: theory 7.3.

    Attributes:
        region: what is run.
        sampler: what runs it.
    """

    region: Region
    sampler: Sampler
    _found: list[Draws] = field(default_factory=list, compare=False)
    _last: list[Pulled] = field(default_factory=list, compare=False)
    _own: list[Pulled] = field(default_factory=list, compare=False)

    basis: ClassVar[Basis] = "sampled"
    assumptions: ClassVar[tuple[str, ...]] = (SAMPLED,)

    def forward(self, inputs: Inputs) -> tuple[Moments, ...]:
        known = {name: x for name, x in zip(self.region.inputs, inputs, strict=True) if x is not None}
        if len(known) < len(self.region.inputs):
            raise NotSampledError("the moments of one of its inputs are not known")
        draws = self.sampler.draws(self.region, known)
        self._found[:] = [draws]
        return tuple(draws.moments[name] for name in self.region.outputs)

    def backward(self, inputs: Inputs, outputs: Sequence[Moments], cotangents: Cotangents) -> Gradients:
        return self.pulled(cotangents, inside=True)

    def phis(self, inputs: Inputs, outputs: Sequence[Moments]) -> tuple[float | None, ...]:
        return self.at_ends().phis(inputs, outputs)

    def at_ends(self) -> Component:
        """What stands for it where nobody asks what is inside."""
        return _AtEnds(self.node, self.input_shapes, self.output_shapes, self)

    def pulled(self, cotangents: Cotangents, *, inside: bool) -> Gradients:
        """The gradients at its inputs, with or without those inside."""
        arrived = {name: g for name, g in zip(self.region.outputs, cotangents, strict=True) if g is not None}
        found = self._found[0].pulled(arrived, inside=inside)
        if inside:
            self._last[:] = [found]
        return tuple(found.gradients.get(name) for name in self.region.inputs)

    def keep(self) -> Mapping[str, Gradient]:
        """Take what was last sent back for the network's own gradient; returns it at the values inside."""
        self._own[:] = self._last
        return {name: g for found in self._own for name, g in found.gradients.items() if name in self.region.written}

    @property
    def inner_bits(self) -> Mapping[str, float]:
        """Standard deviations in bits of one run's squared norms of the network's gradient at the values inside."""
        return {name: bits for found in self._own for name, bits in found.inner_bits.items()}

    @property
    def inner(self) -> Mapping[str, Moments]:
        """The moments of the values inside that the sampler sees."""
        return self._found[0].moments

    def model_error_bits_of(self, index: int) -> float | None:
        assumed = self.region.assumed_bits().get(self.region.inputs[index], ASSUMED_BITS)
        return math.hypot(assumed, max((found.error_bits for found in self._own), default=0.0))


@dataclass(frozen=True)
class _AtEnds(Component):
    """A region between its inputs and its outputs.

    Attributes:
        whole: the region.
    """

    whole: Sampled

    basis: ClassVar[Basis] = Sampled.basis
    assumptions: ClassVar[tuple[str, ...]] = Sampled.assumptions

    def forward(self, inputs: Inputs) -> tuple[Moments, ...]:
        return self.whole.forward(inputs)

    def backward(self, inputs: Inputs, outputs: Sequence[Moments], cotangents: Cotangents) -> Gradients:
        return self.whole.pulled(cotangents, inside=False)
