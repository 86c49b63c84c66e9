"""The analysis: moments forward, second moments of the gradient backward, over any directed acyclic graph.

1. Every floating input is taken as N(0, 1), bytes that are cast to numbers as all as likely; a component maps its
   inputs' moments to its outputs'.
2. An isotropic cotangent is placed at the outputs; a component pulls it back to its inputs. Gradients that meet at a
   value add up (theory 4.1). This is the multiplication and the addition theorem in one pass.
3. What a node does by itself, phi(J J^T), is measured on a white cotangent of its own.

Nothing is guessed: behind an operation that no component models, moments are not known, and in front of it gradients
are not. Time is linear in the graph; weights are read a few megabytes at a time.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import field

import numpy as np

from gnelint.analysis.batch_first import batch_first
from gnelint.analysis.blocks import NodeSpectrum, find_blocks
from gnelint.analysis.correlation import CORRELATED, correlated_joins
from gnelint.analysis.fallback import Fallback
from gnelint.analysis.prediction import Block, NodePrediction, Prediction
from gnelint.analysis.repeats import Meetings, Repeats
from gnelint.analysis.sampling import ASSUMED_BITS, MakeSampler, Sampled
from gnelint.analysis.stage import Judgement, judge
from gnelint.analysis.uncertainty import GradientErrors, gradient_errors
from gnelint.analysis.unrolled import unrolled_steps
from gnelint.budget import at_node
from gnelint.components import Component, NotModelledError, component_class
from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.records import dataclass, replace
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.log_norm import gaussian_noise
from gnelint.theory.fields.moments import Moments
from gnelint.theory.weights.statistics import WeightStatistics, weight_statistics

MOST_HEADS = 64
"""Nodes one before the other that let no gradient through, behind each of which it is started anew."""
PLACEHOLDERS = (
    "The weights are placeholders (one repeated value), so there is no initialisation to judge: the structure was "
    "read, no number is predicted."
)

_FORWARD = 0.5
"""Share of the work that is over once the moments are known, as those who wait are told."""
_LARGEST = 1e140
"""A phi above this has a square that floating point does not hold: no variance is told."""

_FAILURES = (ArithmeticError, LookupError, TypeError, ValueError, AssertionError, MemoryError)
"""What a component may raise on a shape or attribute that no reader should have let through: the rest is analysed."""


def _reason(error: BaseException) -> str:
    """Why a node is not modelled, for people."""
    return (
        str(error)
        if isinstance(error, NotModelledError)
        else f"could not be analysed ({type(error).__name__}: {error})"
    )


@dataclass(frozen=True)
class Scaled:
    """A gradient times 2^exponent: a deep network's gradient leaves the range of a double."""

    gradient: Gradient
    exponent: float = 0.0

    @property
    def log2(self) -> float:
        """log2 of the squared norm; -inf for zero."""
        total = self.gradient.total
        return math.log2(total) + self.exponent if total > 0 else -math.inf

    def normalised(self) -> Scaled:
        """With the largest energy near 1."""
        largest = float(self.gradient.energy.max(initial=0.0))
        if largest == 0.0 or not math.isfinite(largest) or 1e-60 < largest < 1e60:
            return self
        shift = math.floor(math.log2(largest))
        return Scaled(self.gradient.scaled(2.0**-shift), self.exponent + shift)

    def spent(self) -> Scaled:
        """For whoever asks for its size and how alike it is, and pulls it back no more: where it has many cells, their
        average in place of each, which takes no memory."""
        return Scaled(self.gradient.levelled(), self.exponent) if self.gradient.energy.size > _MANY_CELLS else self

    def plus(self, other: Scaled) -> Scaled:
        """The sum of two uncorrelated gradients."""
        high, low = (self, other) if self.exponent >= other.exponent else (other, self)
        scaled = low.gradient.scaled(2.0 ** max(low.exponent - high.exponent, -1000.0))
        return Scaled(high.gradient.plus(scaled), high.exponent)


_MANY_CELLS = 1 << 12


class _OverflowError(NotModelledError):
    """Numbers that leave double precision: draws of them would leave single precision long before."""


@dataclass
class _Forward:
    """What the forward pass found.

    Attributes:
        moments: of every value whose moments are known.
        components: of every node that one models.
        problems: why a node is not modelled, by its name.
        repeats: the residual branches that hold the same numbers; None where nobody asks.
    """

    moments: MutableMapping[str, Moments] = field(default_factory=dict)
    components: dict[str, Component] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    repeats: Repeats | None = None


def analyse(graph: Graph, sampler: MakeSampler | None = None) -> Prediction:
    """Predict what every node and block of the graph does to the gradient.

    Never raises for a graph that the readers made: what cannot be predicted is None, with the reason in the node's
    assumptions.

    Args:
        graph: the network.
        sampler: what runs the parts of it that no formula describes; None leaves them out.
    """
    numbers = not _has_placeholders(graph)
    weights = _weight_statistics(graph)
    turned = batch_first(graph)
    sampled = Fallback(turned.graph, turned.sampler(sampler) if numbers and sampler is not None else None)
    forward = _forward(sampled, numbers, Repeats(sampled.graph, weights))
    cotangent_at, gradients = _backward(sampled.graph, forward, spent=True) if numbers else ("output", {})
    while (again := sampled.failed(forward.problems)) is not None:  # what a component could not pull back
        forward = _walked_again(sampled, again, forward)
        cotangent_at, gradients = _backward(sampled.graph, forward, spent=True)
    spectra = _spectra(sampled.graph, forward) if numbers else {}
    errors = _gradient_errors(sampled.graph, forward, gradients, spectra, cotangent_at, unrolled_steps(turned.graph))
    spectra = {name: _with_weak(spectrum, errors.weak.get(name, ())) for name, spectrum in spectra.items()}
    blocks = find_blocks(sampled.graph, spectra, forward.problems)
    if numbers:
        blocks = _with_own_phi(sampled.graph, forward, blocks)
    blocks = tuple(sampled.whole(_with_error(block, errors)) for block in blocks)
    forward, spectra, errors = _opened(sampled, forward, spectra, errors)
    nodes = tuple(_node_prediction(graph, node, forward, gradients, spectra, errors) for node in graph.gradient_nodes)
    at = graph.gradient_source
    reached = gradients.get(at) if at is not None else None
    modelled = sum(1 for node in graph.gradient_nodes if node.name not in forward.problems)
    error = errors.gradients.get(at) if at is not None and reached is not None else None
    notes = [*graph.notes, *_random_phases(graph, forward), *_unknown_integers(graph, forward), *sampled.notes()]
    if not numbers:
        notes.append(PLACEHOLDERS)
    return Prediction(
        graph=graph,
        nodes=nodes,
        blocks=blocks,
        coverage=modelled / len(nodes) if nodes else 1.0,
        stage=judge(graph, weights) if numbers else Judgement(),
        gradient_log2=None if reached is None else reached.log2,
        gradient_at=at,
        cotangent_at=cotangent_at,
        error_bits=None if error is None else error.bound,
        fluctuation_bits=None if error is None else error.fluctuation,
        weights=weights,
        notes=tuple(notes),
        sampler=sampler,
    )


def _random_phases(graph: Graph, forward: _Forward) -> list[str]:
    """A note for each input whose numbers are not known and whose sines are taken all the same."""
    sources = {
        _first_source(graph, node)
        for node in graph.nodes
        if node.op in ("sin", "cos") and node.outputs[0] in forward.moments and node.inputs[0] not in forward.moments
    }
    return [
        f'The numbers of input "{name}" are not known: their sines and cosines were taken at random phases.'
        for name in graph.inputs
        if name in sources
    ]


def _reads_unknown_integers(graph: Graph, node: Node, states: Sequence[Moments | None]) -> bool:
    """Whether a node casts integers of the input, of which nothing is known, where the network starts."""
    first = node.inputs[0] if node.inputs else None
    unknown = first is not None and states[0] is None and not graph.values[first].is_floating
    return unknown and graph.starts_at_integers and not graph.cast_values.isdisjoint(node.outputs)


def _unknown_integers(graph: Graph, forward: _Forward) -> list[str]:
    """A note where the network starts at integers that nothing is known of."""
    source = graph.gradient_source
    if source is None or not graph.starts_at_integers or source in forward.moments:
        return []
    name = _first_source(graph, graph.producers[source])
    return [f'The numbers of input "{name}", which are integers, are not known, nor what is computed of them.']


def _first_source(graph: Graph, node: Node) -> str | None:
    """The input of the network that the first operands of a node come from."""
    value = node.inputs[0]
    while value is not None and value in graph.producers:
        value = next(iter(graph.producers[value].inputs), None)
    return value


class Propagation:
    """The two passes of `analyse` node by node, for who changes nodes on the way: a fix that looks for a scale.

    Attributes:
        graph: what is walked; its nodes may be replaced by others with the same inputs and outputs.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._forward = _with_inputs(graph)

    def step(self, node: Node) -> None:
        """The moments of the node's outputs, where they can be predicted; nodes are to come in topological order."""
        with suppress(*_FAILURES):
            _apply(self.graph, node, self._forward, True)

    def trial(self, nodes: Sequence[Node], cotangent: Scaled | None) -> Trial | None:
        """What nodes in a row, the first input of each the output of the one before, would do here.

        Args:
            nodes: all that comes before them has been stepped through.
            cotangent: the gradient at the end of the row; None for a white one.

        Returns:
            None where something is not modelled or no gradient passes.
        """
        moments: dict[str, Moments] = {}
        found = _Forward(ChainMap(moments, self._forward.moments))
        for node in nodes:
            with suppress(*_FAILURES):
                _apply(self.graph, node, found, True)
            if node.outputs[0] not in moments:
                return None
        end = nodes[-1].outputs[0]
        gradients = {end: cotangent or Scaled(Gradient.white(moments[end].shape))}
        for node in reversed(nodes):
            pulled = _pulled(node, found.components[node.name], found, gradients)
            if pulled is None or pulled[0] is None or node.inputs[0] is None:
                return None
            gradients[node.inputs[0]] = pulled[0]
        arrived = gradients[nodes[0].inputs[0] or end].log2
        bits = arrived - gradients[end].log2 if arrived > -math.inf else -math.inf
        return Trial(bits, moments) if math.isfinite(bits) else None

    def second_moment(self, value: str) -> float | None:
        """E x^2 of a value that has been reached, None if it is not known."""
        found = self._forward.moments.get(value)
        return None if found is None else found.total_second

    def gradients(self) -> Mapping[str, Scaled]:
        """The gradient at every value that one reaches, once all nodes have been stepped through."""
        return _backward(self.graph, self._forward)[1]


@dataclass(frozen=True)
class Trial:
    """What some nodes in a row would do.

    Attributes:
        bits: log2 of what they multiply the squared gradient norm by.
        moments: of their outputs.
    """

    bits: float
    moments: Mapping[str, Moments]


# --- forward ---------------------------------------------------------------------------------------------


def _forward(sampled: Fallback, numbers: bool, repeats: Repeats) -> _Forward:
    """Moments of every value; with `numbers` False only which nodes have a component."""
    found = replace(_with_inputs(sampled.graph) if numbers else _Forward(), repeats=repeats)
    return _walk(sampled, numbers, found, sampled.graph.nodes[::-1])


def _walked_again(sampled: Fallback, names: frozenset[str], before: _Forward) -> _Forward:
    """The same for a graph that has changed at the nodes of these names, and behind them: a deep network with a node
    in every layer that cannot be pulled back is not walked from its input for each."""
    graph = sampled.graph
    nodes = {node.name for node in graph.nodes}
    values = {*graph.inputs, *(name for node in graph.nodes for name in node.outputs)}
    found = _Forward(
        {name: x for name, x in before.moments.items() if name in values},
        {name: component for name, component in before.components.items() if name in nodes},
        {name: problem for name, problem in before.problems.items() if name in nodes},
        before.repeats,
    )
    return _walk(sampled, True, found, _again(graph, names, found, ()))


def _walk(sampled: Fallback, numbers: bool, found: _Forward, waiting: Sequence[Node]) -> _Forward:
    """Moments of what these nodes write, the last of which is walked first."""
    on_path = {node.name for node in sampled.graph.gradient_nodes}
    pending = list(waiting)
    while pending:
        node = pending.pop()
        at_node(node.name, node.source_op or node.op, _FORWARD * (1 - len(pending) / len(sampled.graph.nodes)))
        try:
            _apply(sampled.graph, node, found, numbers, sampled.component(node))
            outputs = [found.moments[name] for name in node.outputs if name in found.moments]
            if not outputs or node.name not in on_path or not sampled.doubts(node, outputs):
                continue
            again = sampled.failed([node.name], CORRELATED)
        except _FAILURES as error:
            if node.name not in on_path:
                continue
            if isinstance(error, (_OverflowError, OverflowError)):
                sampled.leave(node.name, "draws overflow sooner")
            again = sampled.failed(sampled.missing(node, found.moments) or [node.name], _reason(error))
            if again is None:
                found.problems[node.name] = sampled.refusal(node.name, _reason(error))
        if again is not None:
            pending = _again(sampled.graph, again, found, pending)
            on_path = {node.name for node in sampled.graph.gradient_nodes}
    return found


def _again(graph: Graph, names: frozenset[str], found: _Forward, pending: Sequence[Node]) -> list[Node]:
    """The nodes to be walked, the last first, once those of these names are as if they had not been."""
    waiting = names | {node.name for node in pending}
    nodes = [node for node in graph.nodes if node.name in waiting]
    for node in nodes:
        found.components.pop(node.name, None)
        found.problems.pop(node.name, None)
        for name in node.outputs:
            found.moments.pop(name, None)
    return nodes[::-1]


_BYTES = 255 / 2, (256**2 - 1) / 12
"""Mean and variance of bytes that are all as likely, which images of integers are taken for."""


def _with_inputs(graph: Graph) -> _Forward:
    found = _Forward()
    for name in graph.inputs:
        value = graph.values[name]
        if value.is_floating and value.concrete_shape is not None:
            drawn = Moments.uniform(value.concrete_shape, 0.0, 1.0)
            found.moments[name] = replace(drawn, log_norm_variance=gaussian_noise(drawn))
        elif value.dtype == "uint8" and value.concrete_shape is not None and graph.starts_at_integers:
            found.moments[name] = Moments.uniform(value.concrete_shape, *_BYTES)
    return found


def _apply(graph: Graph, node: Node, found: _Forward, numbers: bool, sampled: Component | None = None) -> None:
    cls = component_class(node.op)
    if cls is None and sampled is None:
        raise NotModelledError(f"no component models {node.source_op or node.op}")
    outputs = [graph.values[name].concrete_shape for name in node.outputs]
    inputs = [None if name is None else graph.values[name].concrete_shape for name in node.inputs]
    if any(shape is None for shape in outputs) or any(
        shape is None for shape, name in zip(inputs, node.inputs, strict=True) if name is not None
    ):
        raise NotModelledError("a shape is not known")
    component = sampled
    if component is None:
        assert cls is not None
        component = cls(node, tuple(inputs), tuple(shape for shape in outputs if shape is not None))
    if not numbers:
        found.components[node.name] = component
        return
    states = [None if name is None else found.moments.get(name) for name in node.inputs]
    waiting = any(
        state is None and name in graph.gradient_values for name, state in zip(node.inputs, states, strict=True)
    )
    if waiting or _reads_unknown_integers(graph, node, states):
        return  # something before this node is not modelled; the node itself is not to blame
    with np.errstate(all="ignore"):
        results = component.forward(states)
    for name, moments in zip(node.outputs, results, strict=True):
        if not (np.isfinite(moments.mean).all() and np.isfinite(moments.variance).all()):
            raise _OverflowError("the predicted moments overflow")
        if moments.shape != graph.values[name].concrete_shape:
            raise NotModelledError(
                f"has the shape {graph.values[name].concrete_shape}, where its component finds {moments.shape}"
            )
    if found.repeats is not None and sampled is None:
        results = tuple(found.repeats.joined(node.name, y, found.moments) for y in results)
    results = tuple(_as_read(graph, name, y) for name, y in zip(node.outputs, results, strict=True))
    found.components[node.name] = component
    found.moments.update(zip(node.outputs, results, strict=True))


def _as_read(graph: Graph, name: str, x: Moments) -> Moments:
    """A value that several nodes read by its name: what comes of it one way is correlated with what comes another."""
    if name not in graph.gradient_values or len(graph.consumers.get(name, ())) < 2:
        return x
    return replace(x, channel_correlation=x.channel_correlation.read_by_several(name, x.levelled > 0.0))


# --- backward --------------------------------------------------------------------------------------------


def _backward(graph: Graph, forward: _Forward, spent: bool = False) -> tuple[str, Mapping[str, Scaled]]:
    """Gradients at every value that one reaches, `spent` or whole, and the value at which the cotangent stands."""
    start = {
        name: Scaled(Gradient.white(shape))
        for name in graph.outputs
        if name in graph.gradient_values and (shape := graph.values[name].concrete_shape) is not None
    }
    shapes = (graph.values[name].concrete_shape for name in graph.moving_outputs)
    length = graph.returned_entries + sum(math.prod(shape) for shape in shapes if shape is not None)
    length = length or sum(scaled.gradient.size for scaled in start.values())  # of a network that lets nothing back
    if length == 0 or not start:
        return "output", {}
    gradients = _pull_back(graph, forward, {k: _unit(v, length) for k, v in start.items()}, spent=spent)
    at = graph.gradient_source
    moved: str | None = None
    for _ in range(MOST_HEADS):
        if at is None or at not in gradients or gradients[at].log2 > -math.inf:
            break
        head = _blocking_node(graph, gradients, before=moved)
        if head is None:
            break
        moved = head
        shape = graph.values[moved].concrete_shape
        assert shape is not None
        white = Scaled(Gradient.white(shape))
        again = _pull_back(graph, forward, {moved: _unit(white, white.gradient.size)}, spent=spent)
        gradients = {**gradients, **again}
    return moved or "output", gradients


def _unit(scaled: Scaled, length: int) -> Scaled:
    """A cotangent whose squared norm is its share of 1."""
    return Scaled(scaled.gradient, scaled.exponent - math.log2(length))


def _blocking_node(graph: Graph, gradients: Mapping[str, Scaled], before: str | None) -> str | None:
    """The input of the last node that lets no gradient at all through, where all of the gradient had to pass.

    That is a zero-initialised head: the gradient arrives at its output, and at no value before it.
    """
    limit = (
        len(graph.nodes)
        if before is None
        else graph.positions[graph.producers[before].name]
        if before in graph.producers
        else 0
    )
    for node in graph.nodes[:limit]:  # the first with a gradient: of all others behind it one is alive before them
        if any(name in gradients and gradients[name].log2 > -math.inf for name in node.outputs):
            dead = (n for n in node.present_inputs if n in gradients and gradients[n].log2 == -math.inf)
            return next(dead, None)
    return None


def _pull_back(
    graph: Graph,
    forward: _Forward,
    start: Mapping[str, Scaled],
    arrived: dict[str, Scaled] | None = None,
    wanted: Collection[str] | None = None,
    spent: bool = False,
) -> dict[str, Scaled]:
    """The gradients that reach each value from those in `start`.

    With `arrived`, what comes to a value of `start` is collected there and goes no further. With `wanted`, others are
    forgotten once they have been pulled back: those of a large network take as much memory as its moments. With `spent`
    no more of the rest is kept then than their sizes.
    """
    gradients = dict(start)
    kept = start if arrived is not None else {}
    meetings = forward.repeats.backward() if forward.repeats is not None and arrived is None else None
    unknown: set[str] = set()  # values some of whose gradient comes through something that is not modelled
    for done, node in enumerate(reversed(graph.nodes)):
        at_node(node.name, node.source_op or node.op, _FORWARD + (1 - _FORWARD) * done / len(graph.nodes))
        touched = [name for name in node.outputs if name in gradients or (name in unknown and name not in kept)]
        if not touched:
            continue
        _with_repeats(gradients, touched, meetings)
        component = forward.components.get(node.name)
        lost = component is None or any(name in unknown and name not in kept for name in node.outputs)
        at_ends = component.at_ends() if isinstance(component, Sampled) and arrived is not None else component
        pulled = None if lost or at_ends is None else _pulled(node, at_ends, forward, gradients)
        if pulled is None:
            unknown.update(name for name in node.present_inputs if name in graph.gradient_values)
            continue
        for name, gradient in zip(node.inputs, pulled, strict=True):
            if name is None or gradient is None or name not in graph.gradient_values:
                continue
            found = gradients if name not in kept or arrived is None else arrived
            found[name] = found[name].plus(gradient) if name in found else gradient
        if isinstance(component, Sampled) and arrived is None:
            gradients.update(_inside(component, gradients, node))
        for name in touched:
            if wanted is not None and name not in wanted:
                gradients.pop(name, None)
            elif spent and name in gradients:
                gradients[name] = gradients[name].spent()
    _with_repeats(gradients, graph.inputs, meetings)
    for name in unknown:
        (gradients if name not in kept or arrived is None else arrived).pop(name, None)
    return gradients


def _with_repeats(gradients: dict[str, Scaled], names: Iterable[str], meetings: Meetings | None) -> None:
    """Add to what has arrived at forks what branches that hold the same numbers have in common."""
    if meetings is None:
        return
    for name in names:
        again = meetings.read_again(name)
        if again != 1.0 and name in gradients:
            gradients[name] = replace(gradients[name], gradient=gradients[name].gradient.scaled(again))
        exit = meetings.exit_of(name)
        found, behind = gradients.get(name), None if exit is None else gradients.get(exit)
        if found is None or behind is None or not -math.inf < behind.log2 < math.inf:
            continue
        joined = meetings.joined(name, found.gradient, _at_exponent(behind, found.exponent))
        gradients[name] = replace(found, gradient=joined)


def _inside(component: Sampled, gradients: Mapping[str, Scaled], node: Node) -> dict[str, Scaled]:
    """The gradients at the values inside of a region that has just been pulled back."""
    exponent = max(gradients[name].normalised().exponent for name in node.outputs if name in gradients)
    again = component.region.reread
    return {name: Scaled(g, exponent) for name, g in component.keep().items() if name not in gradients or name in again}


def _with_own_phi(graph: Graph, forward: _Forward, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """The blocks with phi of the whole of each, from a white cotangent of its own at its end.

    The multiplication theorem takes neighbours as independent; the components know better where a mask is passed on
    (the entries that a max pooling picks are those that the ReLU before it let through).
    """
    start: dict[str, Scaled] = {}
    for block in blocks:
        shape = graph.values[block.exit].concrete_shape
        if shape is not None and 0 not in shape and block.exit in graph.gradient_values and block.exit != block.entry:
            white = Scaled(Gradient.white(shape))
            start[block.exit] = _unit(white, white.gradient.size)
    arrived: dict[str, Scaled] = {}
    gradients = _pull_back(graph, forward, start, arrived, {block.entry for block in blocks})
    found = []
    for block in blocks:
        reached = (arrived if block.entry in start else gradients).get(block.entry)
        known = block.phi is not None and block.exit in start and reached is not None
        found.append(_at_phi(block, reached) if known and reached is not None else block)
    return tuple(found)


def _at_phi(block: Block, reached: Scaled) -> Block:
    phi = 2.0 ** min(reached.log2, 1023.0)
    if block.phi_variance is None or not block.phi:
        return replace(block, phi=phi)
    ratio = phi / block.phi
    known = ratio * max(phi, 1.0) < _LARGEST
    return replace(block, phi=phi, phi_variance=block.phi_variance * ratio**2 if known else None)


def _pulled(
    node: Node, component: Component, forward: _Forward, gradients: Mapping[str, Scaled]
) -> list[Scaled | None] | None:
    """Gradients at the node's inputs; None if its component cannot say."""
    states = [None if name is None else forward.moments.get(name) for name in node.inputs]
    outputs = [forward.moments[name] for name in node.outputs]
    arrived = [gradients[name].normalised() if name in gradients else None for name in node.outputs]
    exponent = max(scaled.exponent for scaled in arrived if scaled is not None)
    cotangents = [None if scaled is None else _at_exponent(scaled, exponent) for scaled in arrived]
    try:
        with np.errstate(all="ignore"):
            pulled = component.backward(states, outputs, cotangents)
    except _FAILURES as error:
        forward.problems.setdefault(node.name, _reason(error))
        return None
    if any(g is not None and not np.isfinite(g.energy).all() for g in pulled):
        forward.problems.setdefault(node.name, "the predicted gradient overflows")
        return None
    return [None if g is None else Scaled(g, exponent) for g in pulled]


def _at_exponent(scaled: Scaled, exponent: float) -> Gradient:
    if scaled.exponent == exponent:
        return scaled.gradient
    return scaled.gradient.scaled(2.0 ** max(scaled.exponent - exponent, -1000.0))


# --- what is said of nodes and weights -------------------------------------------------------------------


def _opened(
    sampled: Fallback, forward: _Forward, spectra: Mapping[str, NodeSpectrum], errors: GradientErrors
) -> tuple[_Forward, dict[str, NodeSpectrum], GradientErrors]:
    """What was found of regions as what their nodes are said to do: phi by their own formulas, where they have some,
    on the moments that were measured."""
    moments, spectra, gradients = dict(forward.moments), dict(spectra), dict(errors.gradients)
    for name, region in sampled.regions.items():
        component = forward.components.get(name)
        whole = spectra.pop(name, None)
        if not isinstance(component, Sampled):
            continue
        for value in component.inner:
            if value not in moments:
                with suppress(*_FAILURES):
                    moments[value] = component.inner[value]
        met = [gradients[value] for value in region.outputs if value in gradients]
        error = max(met, key=lambda each: each.bound, default=None)
        if error is not None:
            assumed = region.assumed_bits()
            for value, bits in component.inner_bits.items():
                variance = error.variance + assumed.get(value, ASSUMED_BITS) ** 2 + bits**2
                gradients.setdefault(value, replace(error, variance=variance))
        for node in region.nodes:
            own = whole if len(region.nodes) == 1 else _own_spectrum(sampled.original, node, moments)
            spectra[node.name] = own or NodeSpectrum((), None, component.basis, component.assumptions)
    return replace(forward, moments=moments), spectra, replace(errors, gradients=gradients)


def _own_spectrum(graph: Graph, node: Node, moments: MutableMapping[str, Moments]) -> NodeSpectrum | None:
    """What a node of a region does by itself; None where no formula says so."""
    found = _Forward(ChainMap({}, moments))
    with suppress(*_FAILURES), np.errstate(all="ignore"):
        _apply(graph, node, found, True)
        component = found.components[node.name]
        states = [None if name is None else moments.get(name) for name in node.inputs]
        phis = component.phis(states, [found.moments[name] for name in node.outputs])
        if all(phi is None or math.isfinite(phi) for phi in phis):
            return NodeSpectrum(phis, None, Sampled.basis, Sampled.assumptions)
    return None


def _node_prediction(
    graph: Graph,
    node: Node,
    forward: _Forward,
    gradients: Mapping[str, Scaled],
    spectra: Mapping[str, NodeSpectrum],
    errors: GradientErrors,
) -> NodePrediction:
    output = next(name for name in node.outputs if name in graph.gradient_values)
    problem = forward.problems.get(node.name)
    moments = forward.moments.get(output)
    reached = gradients.get(output)
    error = errors.gradients.get(output)
    spectrum = spectra.get(node.name)
    phis = [] if spectrum is None else [phi for phi in spectrum.phis if phi is not None]
    return NodePrediction(
        node,
        output,
        graph.values[output].concrete_shape,
        mean=None if moments is None else moments.total_mean,
        second_moment=None if moments is None else moments.total_second,
        phi=math.fsum(phis) if phis else None,
        phi_variance=None if spectrum is None else spectrum.variance,
        gradient_log2=None if reached is None else reached.log2,
        error_bits=None if reached is None or error is None else error.bound,
        basis="unmodelled" if problem is not None else "exact" if spectrum is None else spectrum.basis,
        assumptions=(problem,) if problem is not None else () if spectrum is None else spectrum.assumptions,
    )


def _gradient_errors(
    graph: Graph,
    forward: _Forward,
    gradients: Mapping[str, Scaled],
    spectra: Mapping[str, NodeSpectrum],
    cotangent_at: str,
    steps: Mapping[str, int],
) -> GradientErrors:
    start = graph.outputs if cotangent_at == "output" else (*graph.outputs, cotangent_at)
    logs = {name: (scaled.gradient, scaled.log2) for name, scaled in gradients.items() if name in forward.moments}
    with np.errstate(all="ignore"):
        repeated = {} if forward.repeats is None else forward.repeats.bits
        return gradient_errors(graph, forward.components, forward.moments, spectra, logs, start, repeated, steps)


def _with_weak(spectrum: NodeSpectrum, weak: tuple[str, ...]) -> NodeSpectrum:
    return replace(spectrum, assumptions=(*spectrum.assumptions, *weak)) if weak else spectrum


def _with_error(block: Block, errors: GradientErrors) -> Block:
    """The block with the part of the error that arises between its exit and its entry."""
    before, behind = errors.gradients.get(block.entry), errors.gradients.get(block.exit)
    if block.phi is None or before is None or behind is None:
        return block
    return replace(block, error_bits=before.since(behind).bound)


def _spectra(graph: Graph, forward: _Forward) -> dict[str, NodeSpectrum]:
    """What each node does by itself, for the nodes whose moments are known."""
    found: dict[str, NodeSpectrum] = {}
    correlated = correlated_joins(graph)
    for node in graph.gradient_nodes:
        component = forward.components.get(node.name)
        if component is None:
            continue
        states = [None if name is None else forward.moments.get(name) for name in node.inputs]
        outputs = [forward.moments[name] for name in node.outputs]
        try:
            with np.errstate(all="ignore"):
                phis = component.phis(states, outputs)
                variance = component.phi_variance(states, outputs)
                structure = component.structure(states, outputs)
        except _FAILURES as error:
            forward.problems.setdefault(node.name, _reason(error))
            continue
        if any(phi is not None and not math.isfinite(phi) for phi in phis):
            continue
        if variance is not None and not math.isfinite(variance):
            variance = None
        basis, assumptions = component.basis, component.assumptions
        if node.name in correlated:
            basis, assumptions = "approximate", (*assumptions, CORRELATED)
        found[node.name] = NodeSpectrum(phis, variance, basis, assumptions, structure)
    return found


def _judged_parameters(graph: Graph) -> dict[str, Parameter]:
    """Weights of linear maps and scales of normalisations, by name."""
    found: dict[str, Parameter] = {}
    for node in graph.nodes:
        for role in ("weight", "scale"):
            parameter = node.parameters.get(role)
            if parameter is not None:
                found.setdefault(parameter.name, parameter)
    return found


def _weight_statistics(graph: Graph) -> dict[str, WeightStatistics]:
    return {name: weight_statistics(parameter) for name, parameter in _judged_parameters(graph).items()}


def _has_placeholders(graph: Graph) -> bool:
    return any(node.missing_weights for node in graph.gradient_nodes)
