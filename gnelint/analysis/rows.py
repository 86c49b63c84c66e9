"""Layers in a row: one layer's units are the next one's inputs, unit by unit."""

from __future__ import annotations

import math

from gnelint.ir.graph import Graph, Node
from gnelint.ops import VOCABULARY
from gnelint.records import dataclass

MOST_BETWEEN = 12
"""Nodes between two layers that are followed."""
GIVEN = ("buffer", "constant")
"""Kinds of tensors that training does not change."""
_UNIT_BY_UNIT = ("activation", "pointwise", "normalization", "pooling")
_MOVING = ("reshape", "transpose")
_PASSED = ("bias", "scale", "identity", "dropout", "reduce_mean", "pad", *_MOVING)


@dataclass(frozen=True)
class Behind:
    """The layer that reads another one's units.

    Attributes:
        node: the layer.
        between: what stands between the two, in order.
    """

    node: Node
    between: tuple[Node, ...]


def layer_behind(graph: Graph, node: Node) -> Behind | None:
    """The layer that reads a layer's units one by one, behind activations, normalisations, pooling and moves."""
    if not is_plain(node):
        return None
    units, current, between = node.parameters["weight"].shape[0], node, list[Node]()
    axis = _own_axis(graph, node, node.outputs[0])
    for _ in range(MOST_BETWEEN):
        readers = graph.consumers.get(current.outputs[0], ())
        if len({reader.name for reader in readers}) != 1:
            return None
        current = readers[0]
        if is_plain(current):
            weights = node.parameters["weight"], current.parameters["weight"]
            read = axis is None or axis == _own_axis(graph, current, current.present_inputs[0])
            fits = read and weights[1].shape[1] == units and weights[0].name != weights[1].name
            return Behind(current, tuple(between)) if fits else None
        family = VOCABULARY[current.op].family if current.op in VOCABULARY else ""
        if len(current.present_inputs) != 1 or (family not in _UNIT_BY_UNIT and current.op not in _PASSED):
            return None
        axis = _moved(graph, current, axis)
        between.append(current)
    return None


def _own_axis(graph: Graph, layer: Node, value: str) -> int | None:
    """The axis of a layer's units; None where the rank is not known."""
    shape = graph.values[value].shape
    return None if shape is None else 1 if layer.op == "conv" else len(shape) - 1


def _moved(graph: Graph, node: Node, axis: int | None) -> int | None:
    """Where a node puts the axis; None where that is not known."""
    if axis is None or node.op not in _MOVING:
        return axis
    if node.op == "transpose":
        return tuple(node.attribute("perm")).index(axis)
    before, after = (graph.values[name].concrete_shape for name in (node.present_inputs[0], node.outputs[0]))
    if before is None or after is None or axis >= len(before):  # an average may have taken axes away
        return None
    ahead = math.prod(before[:axis])
    places = [place for place, size in enumerate(after) if size == before[axis] and math.prod(after[:place]) == ahead]
    return places[0] if places else None


def is_plain(node: Node) -> bool:
    """A linear map or an ungrouped convolution with weights of its own that training changes."""
    weight = node.parameters.get("weight")
    if weight is None or node.op not in ("linear", "conv") or weight.provenance != "data":
        return False
    return weight.kind not in GIVEN and (node.op == "linear" or node.attribute("groups") == 1)
