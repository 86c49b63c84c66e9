"""Second moments of the gradient backward: each component pulls them back from its outputs to its inputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from gnelint.analysis.forward import FAILURES, FORWARD, Forward, reason
from gnelint.analysis.prediction import Block
from gnelint.analysis.repeats import Meetings
from gnelint.analysis.sampling import Sampled
from gnelint.analysis.scaled import Scaled, at_exponent, unit
from gnelint.budget import at_node
from gnelint.components import Component
from gnelint.ir.graph import Graph, Node
from gnelint.records import replace
from gnelint.theory.fields.gradient import Gradient

MOST_HEADS = 64
"""Nodes one before the other that let no gradient through, behind each of which it is started anew."""


_LARGEST = 1e140
"""A phi above this has a square that floating point does not hold: no variance is told."""


def pulled_back(graph: Graph, forward: Forward, spent: bool = False) -> tuple[str, Mapping[str, Scaled]]:
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
    gradients = _pull_back(graph, forward, {k: unit(v, length) for k, v in start.items()}, spent=spent)
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
        again = _pull_back(graph, forward, {moved: unit(white, white.gradient.size)}, spent=spent)
        gradients = {**gradients, **again}
    return moved or "output", gradients


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
    forward: Forward,
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
        at_node(node.name, node.source_op or node.op, FORWARD + (1 - FORWARD) * done / len(graph.nodes))
        touched = [name for name in node.outputs if name in gradients or (name in unknown and name not in kept)]
        if not touched:
            continue
        _with_repeats(gradients, touched, meetings)
        component = forward.components.get(node.name)
        lost = component is None or any(name in unknown and name not in kept for name in node.outputs)
        at_ends = component.at_ends() if isinstance(component, Sampled) and arrived is not None else component
        pulled = None if lost or at_ends is None else pulled_through(node, at_ends, forward, gradients)
        if pulled is None:
            unknown.update(name for name in node.present_inputs if name in graph.gradient_values)
            continue
        together = forward.aligned.get(node.name) if forward.aligned is not None and arrived is None else None
        if together is not None and pulled[0] is not None:
            pulled[0] = replace(pulled[0], gradient=pulled[0].gradient.scaled(together))
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
        joined = meetings.joined(name, found.gradient, at_exponent(behind, found.exponent))
        gradients[name] = replace(found, gradient=joined)


def _inside(component: Sampled, gradients: Mapping[str, Scaled], node: Node) -> dict[str, Scaled]:
    """The gradients at the values inside of a region that has just been pulled back."""
    exponent = max(gradients[name].normalised().exponent for name in node.outputs if name in gradients)
    again = component.region.reread
    return {name: Scaled(g, exponent) for name, g in component.keep().items() if name not in gradients or name in again}


def with_own_phi(graph: Graph, forward: Forward, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """The blocks with phi of the whole of each, from a white cotangent of its own at its end.

    The multiplication theorem takes neighbours as independent; the components know better where a mask is passed on
    (the entries that a max pooling picks are those that the ReLU before it let through).
    """
    start: dict[str, Scaled] = {}
    for block in blocks:
        shape = graph.values[block.exit].concrete_shape
        if shape is not None and 0 not in shape and block.exit in graph.gradient_values and block.exit != block.entry:
            white = Scaled(Gradient.white(shape))
            start[block.exit] = unit(white, white.gradient.size)
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


def pulled_through(
    node: Node, component: Component, forward: Forward, gradients: Mapping[str, Scaled]
) -> list[Scaled | None] | None:
    """Gradients at the node's inputs; None if its component cannot say."""
    states = [None if name is None else forward.moments.get(name) for name in node.inputs]
    outputs = [forward.moments[name] for name in node.outputs]
    arrived = [gradients[name].normalised() if name in gradients else None for name in node.outputs]
    exponent = max(scaled.exponent for scaled in arrived if scaled is not None)
    cotangents = [None if scaled is None else at_exponent(scaled, exponent) for scaled in arrived]
    try:
        with np.errstate(all="ignore"):
            pulled = component.backward(states, outputs, cotangents)
    except FAILURES as error:
        forward.problems.setdefault(node.name, reason(error))
        return None
    if any(g is not None and not np.isfinite(g.energy).all() for g in pulled):
        forward.problems.setdefault(node.name, "the predicted gradient overflows")
        return None
    return [None if g is None else Scaled(g, exponent) for g in pulled]
