"""By how much averages over positions hide that whole inputs differ.

Inputs are taken as independent from position to position, so an average over N of them has a variance of 1/N of
theirs: what stands behind a pooled image or a mean over tokens seems to be the same for every input, up to biases.
Images are bright or dark as a whole, and words of a text belong to one subject: there the average has up to the
variance of a single position. A rule that blames what hardly varies must find it also if it varies by that much.
"""

from __future__ import annotations

from gnelint.ir.graph import Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.pattern import TRANSPARENT
from gnelint.ops import families

_POOLED = frozenset({"avg_pool", "global_avg_pool", "adaptive_avg_pool"})
_PASSED = (
    LAYERS
    | TRANSPARENT
    | families()["activation"]
    | {"reshape", "transpose", "bias", "scale"}
    | _POOLED
    | {"reduce_mean"}
)
"""What hands on, about as it is, how much more its input varies than is predicted."""


def averaging(facts: Facts, node: Node) -> float:
    """Product over the averages in front of a node of variance before over variance behind, 1 where there is none.

    Counted back to the next normalisation, sum of several values or input of the network.
    """
    known: dict[str, float] = facts.once(("averaging", None), dict)
    way: list[Node] = []
    current = facts.producer(node)
    while current is not None and current.op in _PASSED and current.name not in known:
        way.append(current)
        current = facts.producer(current)
    total = known.get(current.name, 1.0) if current is not None else 1.0
    for each in reversed(way):  # every node of a chain asks
        total = known[each.name] = total * (_lost(facts, each) if _averages_positions(facts, each) else 1.0)
    return total


def _lost(facts: Facts, node: Node) -> float:
    """What an average divides the variance by."""
    read, predicted = facts.input_moments(node), facts.of(node)
    if read is None or predicted is None or predicted.mean is None or predicted.second_moment is None:
        return 1.0
    left = predicted.second_moment - predicted.mean**2
    return max((read[1] - read[0] ** 2) / left, 1.0) if left > 0 else 1.0


def _averages_positions(facts: Facts, node: Node) -> bool:
    """Whether it takes means over positions of images or sequences, not over features."""
    if node.op in _POOLED:
        return True
    value = facts.graph.values.get(node.present_inputs[0])
    shape, source = None if value is None else value.concrete_shape, facts.producer(node)
    if node.op != "reduce_mean" or shape is None:
        return False
    features = facts.channel_axis(source) if source is not None else (1 if len(shape) > 3 else len(shape) - 1)
    return features not in {axis % len(shape) for axis in node.attribute("axes")}
