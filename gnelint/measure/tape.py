"""One forward pass that autograd recorded, and the passes over it that measure Jacobians.

A block lies between two values that all of the gradient passes. So one backward pass measures every block by itself:
where the gradient reaches the end of a block, its norm belongs to the block behind, and a fresh probe takes its place.
One forward pass with tangents, exchanged at the same places, gives the second products.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from gnelint.analysis.prediction import Block
from gnelint.ir.graph import Graph, Node
from gnelint.measure.program import Program, trainable
from gnelint.records import dataclass

_RESCALE_BITS = 60.0
"""A cotangent whose squared norm has left 2^-60 .. 2^60 of its start is scaled back: float32 ends at 2^-149."""


@dataclass(frozen=True)
class BlockSample:
    """What one probe says of a block.

    Attributes:
        phi: ||J^T g||^2 / m.
        square: ||J J^T g||^2 / m; None where it was not asked for.
    """

    phi: float
    square: float | None = None


@dataclass(frozen=True)
class ChainSample:
    """What one probe at the output says of the whole network.

    Attributes:
        gradients: log2 of the squared gradient norm at each value, relative to the cotangent's; -inf for zero, NaN
            and inf where it is no number.
        parameters: the same of the gradient with respect to each weight.
        zeros: entries of each weight's gradient that are exactly zero; all of them where no gradient arrives.
        infinite: names of the weights whose gradient is infinite or no number somewhere.
    """

    gradients: Mapping[str, float]
    parameters: Mapping[str, float]
    zeros: Mapping[str, int] = field(default_factory=dict)
    infinite: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Moments:
    """E[x] and E[x^2] over a value's whole tensor."""

    mean: float
    second_moment: float


@dataclass
class _Pass:
    """What the hooks do, and what they have found, during one pass over the tape."""

    kind: Literal["blocks", "nodes", "chain"]
    generator: torch.Generator
    norms: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    zeros: dict[str, int] = field(default_factory=dict)
    cotangents: dict[str, Tensor] = field(default_factory=dict)
    shift: float = 0.0
    shifts: dict[str, float] = field(default_factory=dict)
    keep: bool = False


class Tape:
    """A forward pass of a network with every value on a gradient path recorded.

    Attributes:
        moments: of every value on a gradient path.
    """

    def __init__(
        self,
        program: Program,
        feeds: Mapping[str, Any],
        blocks: Sequence[Block],
        cotangent_at: str | None,
        *,
        parameters: bool | frozenset[str] = True,
        clock: Callable[[], None] = lambda: None,
    ) -> None:
        """Run the network forward.

        Args:
            program: the network.
            feeds: a batch for its inputs.
            blocks: to be measured, in topological order; those without an entry or exit of their own are passed over.
            cotangent_at: value at which the network's own gradient starts; None for the outputs.
            parameters: whether gradients of the weights are wanted, or the names of those whose is.
            clock: is called at every value, on the way back as well; what it raises ends the run.

        Raises:
            ModelError: the network cannot be run.
        """
        self.moments: dict[str, Moments] = {}
        self._clock = clock
        self._program = program
        self._graph: Graph = program.graph
        self._feeds = feeds
        self._on_path = self._graph.gradient_values
        self.blocks = tuple(block for block in blocks if self._is_measurable(block))
        self._entries = {block.entry: block for block in self.blocks}
        self._exits = {block.exit: block for block in self.blocks}
        self._sources = (cotangent_at,) if cotangent_at is not None else self._graph.moving_outputs
        self._values: dict[str, Tensor] = {}
        self._roots: list[Tensor] = []
        self._sizes: dict[str, int] = {}
        self._pass: _Pass | None = None
        self._readers = _readers(self._graph)
        self._wanted = self._asked(parameters)
        program.ask_gradients(self._wanted)
        with recording():
            program.run(feeds, self._record)

    def _asked(self, parameters: bool | frozenset[str]) -> frozenset[str]:
        if isinstance(parameters, frozenset):
            return parameters
        return trainable(self._graph) if parameters else frozenset()

    def _is_measurable(self, block: Block) -> bool:
        return block.entry != block.exit and block.entry in self._on_path and block.exit in self._on_path

    def _record(self, name: str, tensor: Tensor) -> Tensor:
        """Put hooks on a value of the gradient path; a path begins where nothing before asks for a gradient."""
        self._clock()
        if name not in self._on_path:
            return tensor
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_(True)
            self._roots.append(tensor)
        tensor = tensor.view_as(tensor)  # of its own: an identity hands on the very tensor that it was given
        tensor.register_hook(lambda gradient: self._met(name, gradient))
        self.moments[name] = _moments(tensor.detach())
        self._sizes[name] = tensor.numel()
        if name in self._entries or name in self._sources or name in self._graph.outputs:
            self._values[name] = tensor
        return tensor

    def _met(self, name: str, gradient: Tensor) -> Tensor | None:
        """What happens when the gradient reaches a value."""
        self._clock()
        current = self._pass
        if current is None:
            return None
        if current.kind == "chain":
            return self._met_on_chain(current, name, gradient)
        if current.kind == "nodes":
            current.norms[name] = squared_norm(gradient)
            return rademacher(gradient, current.generator)
        if name in self._entries:
            current.norms[name] = squared_norm(gradient)
            if current.keep:
                current.cotangents[name] = gradient.detach()
        return rademacher(gradient, current.generator) if name in self._exits else None

    def _met_on_chain(self, current: _Pass, name: str, gradient: Tensor) -> Tensor | None:
        norm2 = squared_norm(gradient)
        current.norms[name] = log2(norm2) + current.shift
        current.shifts[name] = current.shift
        bits = log2(norm2 / gradient.numel()) if norm2 > 0 else 0.0
        if name not in self._entries or abs(bits) < _RESCALE_BITS or not math.isfinite(bits):
            return None
        half = round(bits / 2)
        current.shift += 2.0 * half
        current.shifts[name] = current.shift
        return gradient * 2.0**-half

    @property
    def layer_outputs(self) -> tuple[str, ...]:
        """What layers with weights or scales write, on a gradient path."""
        layers = [node for node in self._graph.gradient_nodes if {"weight", "scale"} & node.parameters.keys()]
        return tuple(node.outputs[0] for node in layers if node.outputs[0] in self._sizes)

    @property
    def weight_sizes(self) -> Mapping[str, int]:
        """Entries of each weight whose gradient is wanted, by its name."""
        return {name: leaf.numel() for name, leaf in self._program.leaves.items() if name in self._wanted}

    @property
    def output_scales(self) -> Mapping[str, float]:
        """log2 of the mean square of each output on a gradient path; -inf for zero, NaN for what is no number."""
        known = [name for name in self._graph.outputs if name in self.moments]
        return {name: log2(self.moments[name].second_moment) for name in known}

    def block_samples(self, generator: torch.Generator, *, squares: bool) -> dict[str, BlockSample]:
        """Send one probe through every block.

        Args:
            generator: of the probes, on the device of the run.
            squares: whether to multiply by J as well, by a forward pass with tangents.

        Returns:
            By the block's name; blocks that no gradient comes through are missing.

        Raises:
            NotImplementedError: `squares`, and an operation has no forward-mode derivative; the message names it.
        """
        current = _Pass("blocks", generator, keep=squares)
        sources = [self._values[name] for name in self._graph.outputs if name in self._values]
        ends = [self._values[name] for name in self._entries if name in self._values]
        self._backward(current, sources, ends[:1] or self._roots)
        found = current.norms
        second = self._tangents(current.cotangents) if squares else {}
        samples: dict[str, BlockSample] = {}
        for block in self.blocks:
            if block.entry in found and block.exit in self._sizes:
                m = self._sizes[block.exit]
                square = second.get(block.name)
                samples[block.name] = BlockSample(found[block.entry] / m, None if square is None else square / m)
        return samples

    def node_samples(self, generator: torch.Generator) -> dict[str, float]:
        """Send one probe through every node by itself.

        Returns:
            ||J^T g||^2 / m by the node's name, for the nodes whose inputs nothing else reads.
        """
        current = _Pass("nodes", generator)
        sources = [self._values[name] for name in self._graph.outputs if name in self._values]
        self._backward(current, sources, self._roots)
        found: dict[str, float] = {}
        for node in self._graph.gradient_nodes:
            inputs, output = own_inputs(self._graph, node), node.outputs[0]
            if inputs and output in self._sizes and all(name in current.norms for name in inputs):
                found[node.name] = math.fsum(current.norms[name] for name in inputs) / self._sizes[output]
        return found

    def chain_sample(self, generator: torch.Generator, *, at_outputs: bool = False) -> ChainSample:
        """Send one probe from the output back to the inputs and the weights.

        Args:
            generator: of the probe, on the device of the run.
            at_outputs: from the network's own outputs, wherever the cotangent of the tape was placed.
        """
        current = _Pass("chain", generator)

        def met(name: str, gradient: Tensor) -> None:
            current.weights[name] = log2(squared_norm(gradient))
            current.zeros[name] = gradient.numel() - int(torch.count_nonzero(gradient))

        sources = self._graph.moving_outputs if at_outputs else self._sources
        with hooked_weights(self._program, self._wanted, met):
            probes = self._backward(current, [self._values[name] for name in sources if name in self._values])
        start = log2(sum(squared_norm(probe) for probe in probes) + self._beside(sources))
        norms = {name: found - start for name, found in current.norms.items()}
        parameters = {
            name: found + shift - start
            for name, found in current.weights.items()
            if (shift := self._shift_of(name, current)) is not None
        }
        return ChainSample(
            norms,
            parameters,
            {name: current.zeros.get(name, size) for name, size in self.weight_sizes.items()},
            frozenset(name for name, found in current.weights.items() if math.isnan(found) or found == math.inf),
        )

    def _beside(self, sources: Sequence[str]) -> int:
        """Squared norm of the cotangents at outputs that are computed of trained tensors alone."""
        shapes = (self._graph.values[name].concrete_shape for name in sources if name not in self._on_path)
        returned = 0 if sources != self._graph.moving_outputs else self._graph.returned_entries
        return returned + sum(math.prod(shape) for shape in shapes if shape is not None)

    def _shift_of(self, parameter: str, current: _Pass) -> float | None:
        """By how much the gradient of a weight was scaled; None for one that was used at places that differ in it."""
        outputs = self._readers.get(parameter, ())
        shifts = {current.shifts[name] for name in outputs if name in current.shifts}
        return shifts.pop() if len(shifts) == 1 else None

    def _backward(
        self, current: _Pass, sources: Sequence[Tensor], ends: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Send fresh probes back from the sources to these values; to the inputs and the weights for None."""
        sources = [source for source in sources if source.requires_grad]
        probes = [rademacher(source, current.generator) for source in sources]
        if not sources or (ends is not None and not ends):
            return probes
        self._pass = current
        try:
            with recording():
                if ends is None:
                    torch.autograd.backward(sources, probes, retain_graph=True)
                else:
                    torch.autograd.grad(sources, ends, probes, retain_graph=True, allow_unused=True)
        finally:
            self._pass = None
            for tensor in (*self._roots, *self._program.updated):
                tensor.grad = None
        return probes

    def _tangents(self, cotangents: Mapping[str, Tensor]) -> dict[str, float]:
        """||J u||^2 of every block for the u at its entry, in one forward pass."""
        found: dict[str, float] = {}

        def exchange(name: str, tensor: Tensor) -> Tensor:
            if name in self._exits:
                primal, tangent = forward_ad.unpack_dual(tensor)
                if tangent is not None:
                    found[self._exits[name].name] = squared_norm(tangent)
                tensor = primal
            if name in self._entries and name in cotangents:
                primal = forward_ad.unpack_dual(tensor).primal
                return forward_ad.make_dual(primal.detach(), cotangents[name].to(primal.dtype))
            return tensor

        with recording(), torch.no_grad(), forward_ad.dual_level():
            self._program.run(self._feeds, exchange)
        return found


@contextlib.contextmanager
def hooked_weights(program: Program, names: frozenset[str], met: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show the whole gradient of each of these weights, once a backward pass has gathered it."""
    handles = [
        leaf.register_hook(partial(met, name))
        for name, leaf in program.leaves.items()
        if name in names and leaf.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def own_inputs(graph: Graph, node: Node) -> tuple[str, ...]:
    """The values on a gradient path that only this node reads; () if one of its inputs is read by others too, or if
    the gradient arrives at more than one output."""
    inputs = tuple(name for name in dict.fromkeys(node.present_inputs) if name in graph.gradient_values)
    shared = any(len(graph.consumers[name]) != node.present_inputs.count(name) for name in inputs)
    returned = any(name in graph.outputs for name in inputs)
    outputs = sum(name in graph.gradient_values for name in node.outputs)
    return () if shared or returned or outputs != 1 or node.outputs[0] not in graph.gradient_values else inputs


def _readers(graph: Graph) -> dict[str, list[str]]:
    """The values whose nodes use each parameter."""
    found: dict[str, list[str]] = {}
    for node in graph.gradient_nodes:
        for parameter in node.parameters.values():
            found.setdefault(parameter.name, []).extend(node.outputs)
    return found


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Operations in the form in which they can be measured.

    The fused attention kernels of torch have no forward-mode derivative; the plain one has. On GPUs cuDNN would round
    float32 to 19 bits and pick algorithms that do not repeat; it is told not to.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    try:
        with sdpa_kernel(SDPBackend.MATH), exact:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent signs of the shape, type and place of a tensor: of all probes with E[g g^T] = 1 the least noisy."""
    signs = torch.empty(like.shape, dtype=torch.int8, device=like.device).random_(0, 2, generator=generator)
    return signs.to(like.dtype).mul_(2).sub_(1)


def squared_norm(tensor: Tensor) -> float:
    """The sum of squares, in double precision."""
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64).square())


def _moments(tensor: Tensor) -> Moments:
    if tensor.numel() == 0:
        return Moments(0.0, 0.0)
    return Moments(float(tensor.mean(dtype=torch.float64)), squared_norm(tensor) / tensor.numel())


def log2(value: float) -> float:
    """-inf for zero, NaN for what is no number."""
    return math.log2(value) if value > 0 else math.nan if math.isnan(value) else -math.inf
