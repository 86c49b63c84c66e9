"""By how much a predicted size is more than any draw holds: averages that numbers make which nobody meets.

An average of squares is carried by the largest numbers there are. Behind an exponential of something wide those are so
rare that no batch has one: for x of mean m and deviation s the root mean square of exp(x) is exp(m + s^2), and what is
ever seen ends about exp(m + 4 s), or at what the bounds of x allow. Products multiply what is overstated, a value that
meets itself again and again (a triangular system solved by rows) does so over and over. Such an average is right as an
average and says nothing about what a step computes: an error must not rest on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.ops import families

_BOUNDED = families()["normalization"] | {"softmax", "sigmoid", "tanh", "log_softmax"}
"""Operations that give numbers of one size whatever they read."""
REACH = 4.0
"""Deviations from the mean that count as ever seen."""


def overstated(facts: Facts) -> Mapping[str, float]:
    """By value: log2 of the predicted root mean square over what is ever seen, where that is more than 0."""
    found: dict[str, float] = {}
    for node in facts.graph.nodes:
        bits = _bits(facts, node, found)
        if bits > 0:
            found.update(dict.fromkeys(node.outputs, bits))
    return found


def _bits(facts: Facts, node: Node, found: Mapping[str, float]) -> float:
    own = [found.get(name, 0.0) for name in node.present_inputs]
    predicted = facts.of(node)
    size = None if predicted is None else predicted.second_moment
    if node.op in _BOUNDED or size is None or not own:
        return 0.0
    if node.op == "exp":
        return max(0.5 * math.log2(size) - _seen(facts, node), 0.0) if 0 < size < math.inf else 0.0
    if node.op in ("mul", "matmul"):
        passed = sum(own) if len(own) > 1 else 2.0 * own[0]
    elif node.op == "pow":
        passed = own[0] * abs(float(node.attribute("exponent")))
    else:
        passed = own[-1] if node.op == "attention" else max(own)
    known = facts.ranges.get(node.outputs[0])
    bound = math.inf if known is None else max(abs(known.low), abs(known.high))
    if 0 < bound < math.inf and 0 < size < math.inf:
        passed = max(passed, 0.5 * math.log2(size) - math.log2(bound))
    return passed


def _seen(facts: Facts, node: Node) -> float:
    """log2 of the largest number that an exponential ever gives."""
    known, moments = facts.ranges.get(node.outputs[0]), facts.input_moments(node)
    highest = math.inf if known is None or known.high <= 0 else math.log2(known.high)
    if moments is None:
        return highest
    mean, second = moments
    return min(highest, (mean + REACH * math.sqrt(max(second - mean**2, 0.0))) / math.log(2))
