"""Shares of edges: numbers along the edges of a graph that are divided by the sum of a group of them.

Sums by a fixed index are products with a matrix of zeros and ones, one row for each group and a one for each edge.
"""

from __future__ import annotations

import numpy as np

from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function

_MOST = 1 << 22
_MOVES = frozenset({"transpose", "reshape", "identity", "dropout", "expand"})
_TO_SUM = _MOVES | {"bias", "scale", "gather", "slice", "clip"}
"""What stands between a sum over groups and the edges that are divided by it: each edge picks that of its group."""
_TO_USE = _MOVES | {"mul"}
"""What stands between the shares and the sum over edges that they weigh."""


def _groups(facts: Facts, node: Node | None) -> np.ndarray | None:
    """Of each edge, the group to whose sum a fixed product adds it; None where it is no such sum."""
    weight = node.parameters.get("weight") if node is not None and node.op == "linear" else None
    if weight is None or weight.trainable or len(weight.shape) != 2 or weight.size > _MOST:
        return None
    rows = np.asarray(weight.array(), np.float64)
    one_each = ((rows == 0.0) | (rows == 1.0)).all() and (rows.sum(axis=0) == 1.0).all()
    return np.argmax(rows, axis=0) if one_each and (rows.sum(axis=1) > 1.0).any() else None


def _shared_otherwise(facts: Facts, node: Node) -> bool:
    """Whether edges are divided by the sum of one group of them, and the shares weigh a sum over another.

    Several edges of a node add up to 1 only if both are the node that they lead to.
    """
    if node.op != "div" or len(node.present_inputs) != 2:
        return False
    total = facts.source_beyond(facts.producer(node, 1), _TO_SUM)
    divided = _groups(facts, total)
    if total is None or divided is None:
        return False
    shared = facts.source_beyond(facts.producer(total), _MOVES)
    if shared is None or shared is not facts.source_beyond(facts.producer(node), _MOVES):
        return False
    weighed = [_groups(facts, each) for each in facts.consumers_beyond(node, _TO_USE)]
    return any(
        each is not None and each.shape == divided.shape and not np.array_equal(each, divided) for each in weighed
    )


EDGES = (
    function(
        "shared_otherwise(n)",
        "truth",
        _shared_otherwise,
        "n divides edges by the sum of a group of them, and the shares weigh a sum over other groups",
    ),
)
