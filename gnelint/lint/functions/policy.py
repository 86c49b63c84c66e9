"""Losses of actors and critics: what weighs the logarithms of the chosen actions' probabilities."""

from __future__ import annotations

import math

from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function

_MOVES = frozenset({"reshape", "slice", "identity", "transpose", "scale", "bias"})
_PICKS = _MOVES | {"mul", "reduce_sum", "gather", "gather_elements"}
"""How the number of the action that was chosen is taken out of those of all actions."""


def _is_of_policy(facts: Facts, name: str) -> bool:
    """Whether a value is picked out of a log-softmax."""
    pending, seen = [name], {name}
    while pending:
        node = facts.graph.producers.get(pending.pop())
        if node is not None and node.op == "log_softmax":
            return True
        if node is not None and node.op in _PICKS:
            pending += [each for each in node.present_inputs if each not in seen]
            seen.update(node.present_inputs)
    return False


def _critic(facts: Facts, name: str) -> Node | None:
    """The layer of one unit whose result is taken from a return, where the gradient passes the difference."""
    difference = facts.source_beyond(facts.graph.producers.get(name), _MOVES)
    if difference is None or difference.op != "sub":
        return None
    for place in (1, 0):
        layer = facts.source_beyond(facts.producer(difference, place), _MOVES)
        weight = layer.parameters.get("weight") if layer is not None and layer.op == "linear" else None
        if weight is not None and weight.trainable and weight.shape[0] == 1:
            return layer
    return None


def _is_fitted(facts: Facts, layer: Node) -> bool:
    """Whether a layer's result is compared with something and the difference squared."""
    differences = [each for each in facts.consumers_beyond(layer, _MOVES) if each.op == "sub"]
    readers = [reader for each in differences for reader in facts.consumers_beyond(each, _MOVES)]
    return any(
        (each.op == "pow" and float(each.attribute("exponent")) == 2.0)
        or (each.op == "mul" and len(set(each.present_inputs)) == 1)
        for each in readers
    )


def _moved_critic(facts: Facts, node: Node) -> str:
    """The critic that a policy's loss moves: what the product of log-probabilities and advantages is made of."""
    if node.op != "mul" or len(node.present_inputs) != 2:
        return ""
    for name, other in (node.present_inputs, node.present_inputs[::-1]):
        critic = _critic(facts, other) if _is_of_policy(facts, name) else None
        if critic is not None and _is_fitted(facts, critic):
            return critic.name
    return ""


_AROUND_ONE = (0.0, 1.0)
"""Between these lies the lower bound of a ratio that is clipped around 1."""


def _likelihood_sign(facts: Facts, name: str, sign: float = 1.0) -> float:
    """1 of the logarithm of a chosen action's probability that layers give, -1 of its negative, 0 of anything else."""
    node = facts.graph.producers.get(name)
    while node is not None and node.op in _MOVES | {"reduce_sum", "gather", "gather_elements"}:
        if node.op == "scale" and "scale" not in node.parameters:
            sign = math.copysign(sign, sign * node.attribute("factor"))
        name = node.present_inputs[0]
        node = facts.graph.producers.get(name)
    if node is not None and node.op == "mul":  # by the one hot code of what was chosen
        return max((_likelihood_sign(facts, each, sign) for each in node.present_inputs), key=abs)
    is_logarithm = node is not None and (node.op == "log_softmax" or _is_less_its_sum(facts, node))
    return sign if is_logarithm and name in facts.learnt_values else 0.0


def _is_less_its_sum(facts: Facts, node: Node) -> bool:
    """Whether a log-softmax is written out: values less the logarithm of the sum of their exponentials."""
    taken = facts.producer(node, 1) if node.op == "sub" else None
    logs = [taken] if taken is None or taken.op != "add" else [facts.producer(taken, place) for place in range(2)]
    for each in logs:
        total = facts.producer(each) if each is not None and each.op == "log" else None
        powers = facts.producer(total) if total is not None and total.op == "reduce_sum" else None
        if powers is not None and powers.op == "exp":
            return True
    return False


def _turned_ratio(facts: Facts, node: Node) -> bool:
    """Whether an exponential that is clipped around 1 falls with the probability that layers give the chosen action."""
    difference = facts.producer(node) if node.op == "exp" else None
    if difference is None or difference.op != "sub" or len(difference.present_inputs) != 2:
        return False
    old, new = (_likelihood_sign(facts, name) for name in difference.present_inputs)
    if (old != 0.0) == (new != 0.0) or new - old <= 0.0:
        return False
    readers = facts.graph.consumers.get(node.outputs[0], ())
    return any(_clips_around_one(reader) for reader in readers) and any(reader.op == "mul" for reader in readers)


def _clips_around_one(node: Node) -> bool:
    low, high = (node.attribute("min"), node.attribute("max")) if node.op == "clip" else (None, None)
    return low is not None and high is not None and _AROUND_ONE[0] < low < _AROUND_ONE[1] < high


POLICY = (
    function(
        "turned_ratio(n)",
        "truth",
        _turned_ratio,
        "the exponential n, clipped around 1 and multiplied, falls with the probability that layers give a choice",
    ),
    function(
        "moved_critic(n)",
        "text",
        _moved_critic,
        "the layer that gives the values which the product n of log-probabilities and advantages moves, and a squared "
        "error fits; empty elsewhere",
    ),
)
