"""Which axis of a query and of a key an attention's products run along."""

from __future__ import annotations

import math

from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families

_SAME = (
    frozenset(
        {"identity", "scale", "bias", "dropout", "add", "sub", "mul", "layer_norm", "rms_norm", "l2_normalize", "rope"}
    )
    | families()["activation"]
)
"""Operations that leave axes where they are; of several operands the first is followed."""
_STEPS = 256


def _unturned_keys(facts: Facts, node: Node) -> bool:
    """Whether the products of an attention set a query's features against a key's positions."""
    if node.op != "attention" or len(node.present_inputs) < 2:
        return False
    query, key = node.present_inputs[:2]
    return _are_features(facts, query, -1) is True and _are_features(facts, key, -1) is False


def _are_features(facts: Facts, value: str, axis: int) -> bool | None:
    """Whether an axis holds what a layer gives of each position; False where it counts positions, None if unknown."""
    shape = facts.graph.values[value].concrete_shape
    if shape is None:
        return None
    axis %= len(shape)
    for _ in range(_STEPS):
        node, shape = facts.graph.producers.get(value), facts.graph.values[value].concrete_shape
        if shape is None:
            return None
        if node is None:
            return False if 0 < axis < len(shape) - 1 and len(shape) == 3 else None
        if node.op in ("linear", "embedding") and axis == len(shape) - 1:
            return True
        if node.op == "embedding":
            return False if axis > 0 else None
        if node.op == "transpose":
            axis = node.attribute("perm")[axis]
        elif node.op == "reshape":
            before = facts.graph.values[node.present_inputs[0]].concrete_shape
            found = None if before is None else _source_axis(before, shape, axis)
            if found is None:
                return None
            axis = found
        elif node.op not in _SAME and node.op not in ("linear", "slice", "split"):
            return None
        value = node.present_inputs[0]
        if node.op in _SAME and facts.graph.values[value].concrete_shape != shape:
            return None  # broadcast
    return None


def _source_axis(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis in front of a reshape that an axis behind it is all or a part of."""
    step, end = math.prod(after[axis + 1 :]), math.prod(after[axis:])
    for index in range(len(before)):
        own, whole = math.prod(before[index + 1 :]), math.prod(before[index:])
        if own <= step and end <= whole and before[index] > 1:
            return index
    return None


KEYS = (
    function(
        "unturned_keys(n)",
        "truth",
        _unturned_keys,
        "the attention n sets the features of a query against the positions of a key, not against its features",
    ),
)
