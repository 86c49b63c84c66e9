"""The terms of a loss that the network itself gives: how each is summed over samples, and with which sign."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gnelint.analysis.axes.layout import labels
from gnelint.ir.graph import Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function
from gnelint.records import dataclass

_NONE = "none"
_MOVES = frozenset({"reshape", "identity", "bias", "transpose", "expand"})
_FEWEST = 8
"""Samples from which on a sum over them is something else than a mean."""
_DEEPEST = 32


@dataclass(frozen=True)
class _Term:
    """What a loss adds up.

    Attributes:
        node: that gives its entries.
        factor: by which each entry is multiplied, but for means over samples.
        reduced: node that puts its samples together, None if nothing does.
        averaged: whether that is a mean.
    """

    node: Node
    factor: float
    reduced: Node | None = None
    averaged: bool = False


def _terms(facts: Facts, value: str, factor: float, reduced: Node | None, averaged: bool, left: int) -> Iterator[_Term]:
    """The terms of a value, sums, means and fixed factors taken apart."""
    node = facts.graph.producers.get(value)
    if node is None or not left:
        return
    if node.op in ("add", "sub"):
        for place, name in enumerate(node.present_inputs):
            sign = -1.0 if node.op == "sub" and place else 1.0
            yield from _terms(facts, name, sign * factor, reduced, averaged, left - 1)
    elif node.op in _MOVES or (node.op == "scale" and "scale" not in node.parameters):
        own = node.attribute("factor") if node.op == "scale" else 1.0
        yield from _terms(facts, node.present_inputs[0], factor * own, reduced, averaged, left - 1)
    elif node.op in ("reduce_sum", "reduce_mean"):
        layout = facts.axes.layouts.get(node.present_inputs[0])
        axes = [layout[axis] for axis in node.attribute("axes")] if layout is not None else []
        means = node.op == "reduce_mean"
        if means:
            count = math.prod(size for axis in axes for label, size in axis if label != 0)
            factor /= max(count, 1)
        if 0 in labels(tuple(axes)):
            reduced, averaged = node, means
        yield from _terms(facts, node.present_inputs[0], factor, reduced, averaged, left - 1)
    else:
        yield _Term(node, factor, reduced, averaged)


def _of_loss(facts: Facts, node: Node) -> tuple[_Term, ...]:
    """The learnt terms of a sum that is an output of one number."""
    is_sum = node.op in ("add", "sub") and facts.shape(node) in ((), (1,))
    if not is_sum or node.outputs[0] not in facts.graph.outputs:
        return ()
    found = facts.once(("terms", node.name), lambda: tuple(_terms(facts, node.outputs[0], 1.0, None, False, _DEEPEST)))
    return tuple(each for each in found if each.node.outputs[0] in facts.learnt_values)


def _uneven_terms(facts: Facts, node: Node) -> str:
    """Which sum over the samples stands beside which mean, with nothing that makes up for their number."""
    samples = facts.axes.shape[0] if facts.axes.shape else 0
    terms = [each for each in _of_loss(facts, node) if each.reduced is not None and each.factor]
    if samples < _FEWEST:
        return _NONE
    for summed in terms:
        for mean in terms:
            apart = not summed.averaged and mean.averaged and abs(summed.factor) > 0.2 * abs(mean.factor)
            if apart and summed.reduced is not None and mean.reduced is not None:
                return f"{summed.reduced.name} is a sum over all samples and {mean.reduced.name} a mean over them"
    return _NONE


def _falls_forever(facts: Facts, node: Node) -> str:
    """The exponential of what layers give that is taken away from a loss to which squares are added."""
    terms = _of_loss(facts, node)
    if not any(each.node.op in ("pow", "abs") and each.factor > 0.0 for each in terms):
        return _NONE
    taken = [each.node for each in terms if each.node.op == "exp" and each.factor < 0.0]
    free = [each for each in taken if math.isinf(_largest(facts, each))]
    return free[0].name if free else _NONE


def _largest(facts: Facts, node: Node) -> float:
    known = facts.ranges.get(node.present_inputs[0])
    return math.inf if known is None else known.high


_OF_DRAW = frozenset({"add", "sub", "mul", "scale", "bias", "reshape", "identity", "expand", "constant"})


def _detached_draw(facts: Facts, node: Node) -> bool:
    """Whether what is drawn about a mean that layers give (mean + deviation * noise) is detached for layers to read."""
    if node.op != "stop_gradient" or node.present_inputs[0] not in facts.learnt_values:
        return False
    waiting, drawn = [node.present_inputs[0]], False
    while waiting:
        source = facts.graph.producers.get(waiting.pop())
        if source is None or source.op not in _OF_DRAW:
            continue
        drawn = drawn or any(each.transform == "random" for each in source.parameters.values())
        waiting += source.present_inputs
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    layers = [reader.parameters.get("weight") for reader in readers if reader.op in LAYERS]
    return drawn and any(weight is not None and weight.trainable for weight in layers)


TERMS = (
    function(
        "detached_draw(n)",
        "truth",
        _detached_draw,
        "n detaches what is drawn about a mean that layers give, before trained layers read it",
    ),
    function(
        "uneven_terms(n)",
        "text",
        _uneven_terms,
        "n is a loss of several terms that the network gives: which of them is a sum over the samples beside another's "
        "mean over them, a clause; or none",
    ),
    function(
        "falls_forever(n)",
        "text",
        _falls_forever,
        "n is a loss that the network gives: the exponential of what layers give that is taken away from it, where "
        "squares are added to it; or none",
    ),
)
