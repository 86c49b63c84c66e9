"""The pass that follows the axes of the main input through the graph."""

from __future__ import annotations

from gnelint.analysis.axes.layout import Layout, sizes
from gnelint.analysis.axes.mixing import MIXING
from gnelint.analysis.axes.moving import MOVING
from gnelint.analysis.axes.walk import Axes, Walk
from gnelint.ir.graph import Graph, Node

_RULES = {**MOVING, **MIXING}


def axes(graph: Graph) -> Axes:
    """Follow the axes of the main input; one pass."""
    main = main_input(graph)
    walk = Walk(graph, {}, [])
    shape: tuple[int, ...] = ()
    if main is not None:
        shape = graph.values[main].concrete_shape or ()
        for name in graph.inputs:
            walk.layouts.update(_start(graph, name, name == main, shape[0] if shape else None))
        for node in graph.nodes:
            _enter(walk, node)
    return Axes({name: found for name, found in walk.layouts.items() if found is not None}, tuple(walk.mixings), shape)


def _enter(walk: Walk, node: Node) -> None:
    rule = _RULES.get(node.op)
    found = None if rule is None else rule(walk, node)
    for name in node.outputs:
        shape = walk.shape(name)
        fits = found is not None and shape is not None and sizes(found) == shape
        walk.layouts[name] = found if fits else None


def main_input(graph: Graph) -> str | None:
    """The input of the network that its gradient is taken at, or that its first table looks up."""
    name = graph.gradient_source
    while name is not None and name not in graph.inputs:
        node = graph.producers.get(name)
        name = node.present_inputs[0] if node is not None and node.present_inputs else None
    return name


def _start(graph: Graph, name: str, is_main: bool, samples: int | None) -> dict[str, Layout | None]:
    shape = graph.values[name].concrete_shape
    if shape is None:
        return {}
    if is_main:
        return {name: tuple(((axis, size),) for axis, size in enumerate(shape))}
    known = bool(shape) and shape[0] == samples
    return {name: tuple(((0 if axis == 0 and known else None, size),) for axis, size in enumerate(shape))}
