"""Along which axes a value is the same: slots, queries or members that start alike and that nothing tells apart.

What is repeated along an axis, or stored with equal slices, stays equal along it through every operation that treats
the entries of the axis alike; for ever, since their gradients are equal too. A softmax along such an axis gives all
entries the same share, whatever it reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.ops import families

_FAMILIES = families()
_ALIKE = _FAMILIES["activation"] | _FAMILIES["pointwise"] | {"identity", "softmax", "log_softmax", "stop_gradient"}
_PAIRS = frozenset({"add", "sub", "mul", "div", "maximum", "minimum", "where", "bias", "scale"})
_ENTRIES = 1 << 16
"""Numbers of a constant that are looked at."""

Axes = frozenset[int]
"""Counted from the last, which is -1."""


def equal_axes(graph: Graph) -> Mapping[str, Axes]:
    """By value: the axes of two entries or more along which it is the same for every input; one pass."""
    found: dict[str, Axes] = {}
    for node in graph.nodes:
        axes = _axes(graph, node, found)
        if axes:
            found.update(dict.fromkeys(node.outputs, axes))
    return found


def _axes(graph: Graph, node: Node, found: Mapping[str, Axes]) -> Axes:
    shape = _shape(graph, node.outputs[0])
    if not shape:
        return frozenset()
    own = [found.get(name, frozenset()) for name in node.present_inputs]
    if node.op == "constant":
        return _of(node.parameters.get("value"))
    if node.op == "expand" or node.op in _PAIRS:
        return _broadcast(graph, node, found, shape)
    if node.op in _ALIKE:
        return own[0]
    if node.op == "linear":
        return own[0] - {-1}
    if node.op == "matmul":
        rows, columns = (
            frozenset(axes - {-1} if place == 0 else axes - {-2}) for place, axes in enumerate((own[0], own[-1]))
        )
        plain = not (node.attribute("transpose_a") or node.attribute("transpose_b")) and len(own) == 2
        outer = {axis for axis in rows & columns if axis < -2}
        return frozenset(outer | (rows & {-2}) | (columns & {-1})) if plain else frozenset()
    if node.op == "transpose":
        perm, rank = node.attribute("perm"), len(shape)
        return frozenset(perm.index(axis % rank) - rank for axis in own[0])
    if node.op == "reshape":
        return _reshaped(_shape(graph, node.present_inputs[0]), shape, own[0])
    return frozenset()


def _shape(graph: Graph, name: str) -> tuple[int, ...] | None:
    value = graph.values.get(name)
    return None if value is None else value.concrete_shape


def _of(parameter: Parameter | None) -> Axes:
    if parameter is None or parameter.provenance != "data" or not 1 < parameter.size <= _ENTRIES:
        return frozenset()
    array = np.asarray(parameter.array())
    return frozenset(
        axis
        for axis in range(-array.ndim, 0)
        if array.shape[axis] > 1 and bool((array == np.take(array, [0], axis=axis)).all())
    )


def _broadcast(graph: Graph, node: Node, found: Mapping[str, Axes], shape: tuple[int, ...]) -> Axes:
    operands = [(_shape(graph, name), found.get(name, frozenset())) for name in node.present_inputs]
    operands += [(parameter.shape, _of(parameter)) for parameter in node.parameters.values()]
    return frozenset(
        axis
        for axis in range(-len(shape), 0)
        if shape[axis] > 1
        and all(own is not None and (-axis > len(own) or own[axis] == 1 or axis in axes) for own, axes in operands)
    )


def _reshaped(before: tuple[int, ...] | None, after: tuple[int, ...], axes: Axes) -> Axes:
    """Past axes of one entry that come or go, and axes that stay whole."""
    if before is None:
        return frozenset()
    ends = {math.prod(after[place:]): place - len(after) for place in range(len(after)) if after[place] > 1}
    kept = ((axis, ends.get(math.prod(before[axis:]))) for axis in axes)
    return frozenset(place for axis, place in kept if place is not None and after[place] == before[axis])
