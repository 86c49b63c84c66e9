"""Which entries of a value are minus infinity for every input: what constants, joins and choices hide.

A number that is added to minus infinity changes nothing, so hidden entries are followed through sums, views and joins,
entry by entry. A softmax or a logsumexp over a row of nothing else is 0/0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from gnelint.ir.graph import Graph, Node, Parameter

_ENTRIES = 1 << 18
"""Entries of a value up to which each is looked at."""
Hidden = np.ndarray


def hidden_entries(graph: Graph) -> Mapping[str, Hidden]:
    """By the name of a value that surely holds minus infinity: where it does. Values with no such entry are missing."""
    found: dict[str, Hidden] = {}
    for node in graph.nodes:
        follow = _FOLLOWED.get(node.op)
        shape = graph.values[node.outputs[0]].concrete_shape
        if follow is None or shape is None or math.prod(shape) > _ENTRIES:
            continue
        known = [None if name is None else found.get(name) for name in node.inputs]
        hidden = follow(graph, node, known, shape)
        if hidden is not None and hidden.any():
            found[node.outputs[0]] = hidden
    return found


def _infinite(parameter: Parameter | None, factor: float = 1.0) -> Hidden | None:
    """Where a stored tensor times a factor is minus infinity."""
    if parameter is None or parameter.provenance != "data" or parameter.size > _ENTRIES or parameter.dtype == "bool":
        return None
    array = np.asarray(parameter.array())
    return np.isneginf(np.asarray(array, np.float64) * factor) if array.dtype.kind not in "iub" else None


def _any(parts: list[Hidden | None], shape: tuple[int, ...]) -> Hidden | None:
    known = [np.broadcast_to(part, shape) for part in parts if part is not None]
    return np.logical_or.reduce(known) if known else None


def _bias(graph: Graph, node: Node, known: list[Hidden | None], shape: tuple[int, ...]) -> Hidden | None:
    return _any([known[0], _infinite(node.parameters.get("bias"), node.attribute("factor"))], shape)


def _scale(graph: Graph, node: Node, known: list[Hidden | None], shape: tuple[int, ...]) -> Hidden | None:
    return known[0] if "scale" not in node.parameters and node.attribute("factor") > 0 else None


def _where(graph: Graph, node: Node, known: list[Hidden | None], shape: tuple[int, ...]) -> Hidden | None:
    source = graph.producers.get(node.inputs[0] or "")
    chosen = source.parameters.get("value") if source is not None and source.op == "constant" else None
    if chosen is None or chosen.provenance != "data" or (known[1] is None and known[2] is None):
        return None
    branches = [np.zeros(shape, bool) if part is None else np.broadcast_to(part, shape) for part in known[1:3]]
    return np.where(np.broadcast_to(np.asarray(chosen.array(), bool), shape), *branches)


def _concat(graph: Graph, node: Node, known: list[Hidden | None], shape: tuple[int, ...]) -> Hidden | None:
    if all(part is None for part in known):
        return None
    shapes = [graph.values[name].concrete_shape for name in node.present_inputs]
    parts = [np.zeros(own or (), bool) if part is None else part for own, part in zip(shapes, known, strict=True)]
    return np.concatenate(parts, axis=node.attribute("axis")) if all(own is not None for own in shapes) else None


def _slice(graph: Graph, node: Node, known: list[Hidden | None], shape: tuple[int, ...]) -> Hidden | None:
    if known[0] is None:
        return None
    cut = [slice(None)] * known[0].ndim
    ends = (node.attribute(key) for key in ("axes", "starts", "ends", "steps"))
    for axis, start, end, step in zip(*ends, strict=True):
        cut[axis] = slice(start, end, step)
    taken = known[0][tuple(cut)]
    return taken if taken.shape == shape else None


def _extreme(graph: Graph, node: Node, known: list[Hidden | None], shape: tuple[int, ...]) -> Hidden | None:
    """The maximum along axes: minus infinity where every entry is."""
    if known[0] is None:
        return None
    return np.asarray(known[0].all(axis=tuple(node.attribute("axes")))).reshape(shape)


_Follow = Callable[[Graph, Node, list[Hidden | None], tuple[int, ...]], Hidden | None]
_FOLLOWED: Mapping[str, _Follow] = {
    "constant": lambda graph, node, known, shape: _infinite(node.parameters.get("value")),
    "bias": _bias,
    "scale": _scale,
    "add": lambda graph, node, known, shape: _any(known, shape),
    "sub": lambda graph, node, known, shape: _any(known[:1], shape),
    "where": _where,
    "concat": _concat,
    "slice": _slice,
    "reduce_max": _extreme,
    "identity": lambda graph, node, known, shape: known[0],
    "reshape": lambda graph, node, known, shape: None if known[0] is None else known[0].reshape(shape),
    "expand": lambda graph, node, known, shape: None if known[0] is None else np.broadcast_to(known[0], shape),
    "transpose": lambda graph, node, known, shape: (
        None if known[0] is None else known[0].transpose(node.attribute("perm"))
    ),
}
"""Operations through which hidden entries are followed; behind all others none is known."""
