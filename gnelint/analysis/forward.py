"""Moments forward: each component maps those of its inputs to those of its outputs."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import field

import numpy as np

from gnelint.analysis.correlation import CORRELATED
from gnelint.analysis.fallback import Fallback
from gnelint.analysis.held import held
from gnelint.analysis.repeats import Repeats
from gnelint.budget import at_node
from gnelint.components import Component, NotModelledError, component_class
from gnelint.ir.graph import Graph, Node
from gnelint.records import dataclass, replace
from gnelint.theory.fields.log_norm import gaussian_noise
from gnelint.theory.fields.moments import Moments

FORWARD = 0.5
"""Share of the work that is over once the moments are known, as those who wait are told."""

FAILURES = (ArithmeticError, LookupError, TypeError, ValueError, AssertionError, MemoryError)
"""What a component may raise on a shape or attribute that no reader should have let through: the rest is analysed."""

_BYTES = 255 / 2, (256**2 - 1) / 12
"""Mean and variance of bytes that are all as likely, which images of integers are taken for."""


class _OverflowError(NotModelledError):
    """Numbers that leave double precision: draws of them would leave single precision long before."""


@dataclass
class Forward:
    """What the forward pass found.

    Attributes:
        moments: of every value whose moments are known.
        components: of every node that one models.
        problems: why a node is not modelled, by its name.
        repeats: the residual branches that hold the same numbers; None where nobody asks.
        aligned: what layers that were trained together multiply the gradient by beyond what each does, by name; None
            where they are not trained.
    """

    moments: MutableMapping[str, Moments] = field(default_factory=dict)
    components: dict[str, Component] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    repeats: Repeats | None = None
    aligned: Mapping[str, float] | None = None


def reason(error: BaseException) -> str:
    """Why a node is not modelled, for people."""
    return (
        str(error)
        if isinstance(error, NotModelledError)
        else f"could not be analysed ({type(error).__name__}: {error})"
    )


def walked(sampled: Fallback, numbers: bool, repeats: Repeats) -> Forward:
    """Moments of every value; with `numbers` False only which nodes have a component."""
    found = replace(with_inputs(sampled.graph) if numbers else Forward(), repeats=repeats)
    return _walk(sampled, numbers, found, sampled.graph.nodes[::-1])


def walked_again(sampled: Fallback, names: frozenset[str], before: Forward) -> Forward:
    """The same for a graph that has changed at the nodes of these names, and behind them: a deep network with a node
    in every layer that cannot be pulled back is not walked from its input for each."""
    graph = sampled.graph
    nodes = {node.name for node in graph.nodes}
    values = {*graph.inputs, *(name for node in graph.nodes for name in node.outputs)}
    found = Forward(
        {name: x for name, x in before.moments.items() if name in values},
        {name: component for name, component in before.components.items() if name in nodes},
        {name: problem for name, problem in before.problems.items() if name in nodes},
        before.repeats,
        before.aligned,
    )
    return _walk(sampled, True, found, _again(graph, names, found, ()))


def _walk(sampled: Fallback, numbers: bool, found: Forward, waiting: Sequence[Node]) -> Forward:
    """Moments of what these nodes write, the last of which is walked first."""
    on_path = {node.name for node in sampled.graph.gradient_nodes}
    pending = list(waiting)
    while pending:
        node = pending.pop()
        at_node(node.name, node.source_op or node.op, FORWARD * (1 - len(pending) / len(sampled.graph.nodes)))
        try:
            apply(sampled.graph, node, found, numbers, sampled.component(node))
            outputs = [found.moments[name] for name in node.outputs if name in found.moments]
            if not outputs or node.name not in on_path or not sampled.doubts(node, outputs):
                continue
            again = sampled.failed([node.name], CORRELATED)
        except FAILURES as error:
            if node.name not in on_path:
                continue
            if isinstance(error, (_OverflowError, OverflowError)):
                sampled.leave(node.name, "draws overflow sooner")
            again = sampled.failed(sampled.missing(node, found.moments) or [node.name], reason(error))
            if again is None:
                found.problems[node.name] = sampled.refusal(node.name, reason(error))
        if again is not None:
            pending = _again(sampled.graph, again, found, pending)
            on_path = {node.name for node in sampled.graph.gradient_nodes}
    return found


def _again(graph: Graph, names: frozenset[str], found: Forward, pending: Sequence[Node]) -> list[Node]:
    """The nodes to be walked, the last first, once those of these names are as if they had not been."""
    waiting = names | {node.name for node in pending}
    nodes = [node for node in graph.nodes if node.name in waiting]
    for node in nodes:
        found.components.pop(node.name, None)
        found.problems.pop(node.name, None)
        for name in node.outputs:
            found.moments.pop(name, None)
    return nodes[::-1]


def with_inputs(graph: Graph) -> Forward:
    """Moments of the network's inputs: numbers N(0, 1), bytes that are all as likely."""
    found = Forward()
    for name in graph.inputs:
        value = graph.values[name]
        if value.is_floating and value.concrete_shape is not None:
            drawn = Moments.uniform(value.concrete_shape, 0.0, 1.0)
            found.moments[name] = replace(drawn, log_norm_variance=gaussian_noise(drawn))
        elif value.dtype == "uint8" and value.concrete_shape is not None and graph.starts_at_integers:
            found.moments[name] = Moments.uniform(value.concrete_shape, *_BYTES)
    return found


def apply(graph: Graph, node: Node, found: Forward, numbers: bool, sampled: Component | None = None) -> None:
    """Moments of a node's outputs, into `found`; nothing where something before it is not known.

    Args:
        graph: that the node is of.
        node: whose inputs have been walked.
        found: what is known, and becomes so.
        numbers: False asks for its component alone.
        sampled: its component, where draws stand for a formula.

    Raises:
        NotModelledError: no component models it here.
    """
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
    results = tuple(_as_read(graph, name, held(graph, name, y)) for name, y in zip(node.outputs, results, strict=True))
    found.components[node.name] = component
    found.moments.update(zip(node.outputs, results, strict=True))


def _as_read(graph: Graph, name: str, x: Moments) -> Moments:
    """A value that several nodes read by its name: what comes of it one way is correlated with what comes another."""
    if name not in graph.gradient_values or len(graph.consumers.get(name, ())) < 2:
        return x
    return replace(x, channel_correlation=x.channel_correlation.read_by_several(name, x.levelled > 0.0))


def said_of_inputs(graph: Graph, forward: Forward) -> list[str]:
    """Notes on inputs whose numbers are not known."""
    return [*_random_phases(graph, forward), *_unknown_integers(graph, forward)]


def _random_phases(graph: Graph, forward: Forward) -> list[str]:
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


def _unknown_integers(graph: Graph, forward: Forward) -> list[str]:
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
