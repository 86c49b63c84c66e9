"""Where in the graph a node stands."""

from __future__ import annotations

from gnelint.ir.graph import Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function
from gnelint.lint.pattern import TRANSPARENT
from gnelint.ops import families

_ACTIVATIONS = families()["activation"] | families()["pointwise"]
_FOLLOWING_WALK = TRANSPARENT | families()["pooling"]


def between(facts: Facts, first: Node, last: Node, named: frozenset[str]) -> bool:
    """Whether one of the operations lies on a path from the first node to the last."""
    return any(node.op in named for node in facts.nodes_between(first, last))


def _followed_by(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    return any(consumer.op in named for consumer in facts.consumers_beyond(node, _FOLLOWING_WALK - named))


def _preceded_by(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    walk = _FOLLOWING_WALK - named
    pending = list(node.present_inputs)
    while pending:
        source = facts.graph.producers.get(pending.pop())
        if source is None:
            continue
        if source.op in named:
            return True
        if source.op in walk:
            pending.extend(source.present_inputs)
    return False


def _readers(facts: Facts, node: Node) -> float:
    return float(sum(len(facts.graph.consumers.get(output, ())) for output in node.outputs))


def _is_bent(facts: Facts, first: Node, last: Node) -> bool:
    """Whether an activation that is no straight line lies on a path from the first node to the last."""
    return any(node.op in _ACTIVATIONS and not is_straight(node) for node in facts.nodes_between(first, last))


def _reaches_alone(facts: Facts, first: Node, last: Node) -> bool:
    """Whether each value on the way from the first node to the last has one reader, and is no output."""
    node: Node | None = last
    while node is not None and node is not first and node.present_inputs:
        name = node.present_inputs[0]
        if len(facts.graph.consumers.get(name, ())) != 1 or name in facts.graph.outputs:
            return False
        node = facts.graph.producers.get(name)
    return node is first


def is_straight(node: Node) -> bool:
    """Whether an activation has one slope on both sides: then it is none."""
    return node.op == "leaky_relu" and node.attribute("alpha") == 1.0


def _cancels_bias(facts: Facts, norm: Node, layer: Node) -> bool:
    found = facts.cancelled_biases.get(layer.name)
    return found is not None and found.norm.name == norm.name


STRUCTURE = (
    function(
        "bound(n)",
        "truth",
        lambda facts, node: node is not None,
        "an optional statement of the pattern was found",
        takes_unknown=True,
    ),
    function("is_op(n, op)", "truth", lambda facts, node, named: node.op in named, "n is an op"),
    function("between(n, m, op)", "truth", between, "an op lies on a path from n to m"),
    function(
        "is_bent(n, m)",
        "truth",
        _is_bent,
        "an activation that is no straight line (a leaky ReLU of slope 1 is one) lies on a path from n to m",
    ),
    function(
        "reaches_alone(n, m)",
        "truth",
        _reaches_alone,
        "m reads first what n gives or what is made of it, and nothing else reads anything between: no shortcut, no "
        "other layer",
    ),
    function(
        "fused(n)",
        "truth",
        lambda facts, node: bool(node.sources),
        "n stands for several operations of the model, written out",
    ),
    function(
        "followed_by(n, op)",
        "truth",
        _followed_by,
        "an op is the next thing behind n, data movement and pooling passed over",
    ),
    function(
        "preceded_by(n, op)",
        "truth",
        _preceded_by,
        "an op is the last thing before n, data movement and pooling passed over",
    ),
    function(
        "cancels_bias(n, m)",
        "truth",
        _cancels_bias,
        "the normalisation n takes the bias of the layer m out again: it stays one number a channel on the way, and "
        "nothing else reads it or what is computed of it",
    ),
    function("readers(n)", "number", _readers, "how many inputs of other nodes read n"),
    function(
        "is_output(n)",
        "truth",
        Facts.is_output,
        "an output of the network is that of n, data movement and softmax passed over",
    ),
    function(
        "copy_of(n)",
        "text",
        lambda facts, node: facts.twins.get(node.name, "none"),
        "an earlier layer that reads the same and starts with the same numbers in weights of its own; or none",
    ),
    function(
        "layer(n)",
        "number",
        lambda facts, node: float(facts.depth(LAYERS)[node.name]),
        "number of linear layers on the longest path up to and with n",
    ),
    function(
        "depth(n, op)",
        "number",
        lambda facts, node, named: float(facts.depth(named)[node.name]),
        "number of ops on the longest path up to and with n",
    ),
)
