"""Matrices that stand on the left of a product, A @ X, and mix positions: an adjacency, a mask, a basis.

A file of weights does not say what is trained. A matrix that multiplies the axis that no feature lies on is a part of
the program far more often than a layer: it counts as a constant, and nothing rescales it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gnelint.graph import Graph, Node, Parameter
from gnelint.vocabulary import families

_POINTWISE = families()["activation"] | {"identity", "dropout", "bias", "scale", "add", "sub", "mul", "div"}
_ON_FEATURES = frozenset({"linear", "layer_norm", "rms_norm"})
"""Operations along the last axis, where features lie."""
_MAX_STEPS = 200
"""Nodes looked at on the way to an operation that tells the axes apart."""
_MIN_ENTRIES = 9
"""Of a matrix that can be told from a draw: nine numbers of one sign are a draw once in 256."""


def with_mixing_constants(graph: Graph) -> Graph:
    """The graph with every matrix that mixes positions marked as a constant, at all places that read it."""
    found = {node.parameters["weight"].name for node in graph.nodes if _is_left(graph, node) and _mixes(graph, node)}
    if not found:
        return graph
    return replace(graph, nodes=tuple(_marked(node, found) for node in graph.nodes))


def _marked(node: Node, names: set[str]) -> Node:
    if not any(parameter.name in names for parameter in node.parameters.values()):
        return node
    parameters = {
        role: replace(parameter, kind="constant") if parameter.name in names else parameter
        for role, parameter in node.parameters.items()
    }
    return replace(node, parameters=parameters)


def _is_left(graph: Graph, node: Node) -> bool:
    """Whether the node is a square matrix on the left: a linear map between two exchanges of the last axes."""
    weight = node.parameters.get("weight")
    if node.op != "linear" or weight is None or not weight.trainable or weight.shape[0] != weight.shape[1]:
        return False
    before = graph.producers.get(node.inputs[0] or "")
    behind = graph.consumers.get(node.outputs[0], ())
    return before is not None and _exchanges(before) and bool(behind) and all(map(_exchanges, behind))


def _exchanges(node: Node) -> bool:
    perm = tuple(node.attribute("perm") or ()) if node.op == "transpose" else ()
    last = len(perm) - 1
    return last >= 1 and perm == (*range(last - 1), last, last - 1)


def _mixes(graph: Graph, node: Node) -> bool:
    return _across(graph, node, back=True) or _across(graph, node, back=False) or _is_no_draw(node.parameters["weight"])


def _across(graph: Graph, start: Node, back: bool) -> bool:
    """Whether what is before (or behind) works along the other one of the last two axes."""
    seen: set[tuple[str, bool]] = set()
    waiting = [(node, False) for node in _next(graph, start, back)]
    while waiting and len(seen) < _MAX_STEPS:
        node, exchanged = waiting.pop()
        if (node.name, exchanged) in seen:
            continue
        seen.add((node.name, exchanged))
        if node.op in _ON_FEATURES and exchanged:
            return True
        exchanged ^= _exchanges(node)
        if node.op in _POINTWISE | _ON_FEATURES or _exchanges(node):
            waiting += [(other, exchanged) for other in _next(graph, node, back)]
    return False


def _next(graph: Graph, node: Node, back: bool) -> Iterator[Node]:
    if not back:
        yield from (reader for name in node.outputs for reader in graph.consumers.get(name, ()))
        return
    yield from (graph.producers[name] for name in node.present_inputs if name in graph.producers)


def _is_no_draw(weight: Parameter) -> bool:
    """Whether the numbers show a structure that no initialiser gives: one sign, symmetry, zeros for the most part."""
    if weight.size < _MIN_ENTRIES or weight.provenance != "data":
        return False
    numbers = weight.array()
    return bool(np.all(numbers >= 0) or np.array_equal(numbers, numbers.T) or np.mean(numbers == 0) > 0.5)
