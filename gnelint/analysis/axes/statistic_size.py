"""How many values a statistic is of."""

from __future__ import annotations

import math

from gnelint.ir.graph import Graph, Node
from gnelint.ops import families

_NORMALIZATIONS = families()["normalization"]


def statistic_size(graph: Graph, node: Node) -> int | None:
    """How many values each statistic of a normalisation, or each row of a softmax, is taken over."""
    shape = graph.values[node.outputs[0]].concrete_shape
    if not shape or node.op == "local_response_norm":
        return None
    if node.op in ("softmax", "log_softmax"):
        return int(shape[node.attribute("axis")])
    if node.op not in _NORMALIZATIONS:
        return None
    if node.op in ("batch_norm", "second_moment_norm"):
        return math.prod(shape) // shape[1] if len(shape) > 1 and shape[1] else None
    if node.op == "instance_norm":
        return math.prod(shape[2:])
    if node.op == "group_norm":
        return math.prod(shape[1:]) // int(node.attribute("groups"))
    return math.prod(int(shape[axis]) for axis in node.attribute("axes"))
