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


_WAYS = frozenset({"reshape", "identity", "expand", "clip"})


def _exponent(facts: Facts, node: Node | None) -> tuple[str, float] | None:
    """The value v and the factor a of exp(a v), and of its square; None of anything else."""
    power = 1.0
    while node is not None and (node.op in _WAYS or node.op in ("pow", "mul")):
        if node.op == "pow":
            power *= float(node.attribute("exponent"))
        elif node.op == "mul":
            if len(node.present_inputs) != 2 or len(set(node.present_inputs)) != 1:
                return None
            power *= 2.0
        node = facts.producer(node)
    if node is None or node.op != "exp":
        return None
    name, factor = _unscaled(facts, node.present_inputs[0])
    return name, power * factor


def _unscaled(facts: Facts, name: str) -> tuple[str, float]:
    """A value before fixed factors, and their product."""
    factor, node = 1.0, facts.graph.producers.get(name)
    while node is not None and (node.op in _WAYS or (node.op == "scale" and "scale" not in node.parameters)):
        factor *= node.attribute("factor") if node.op == "scale" else 1.0
        name = node.present_inputs[0]
        node = facts.graph.producers.get(name)
    return name, factor


def _other_deviation(facts: Facts, node: Node) -> str:
    """What the divergence of a normal law holds in the place of the square of what multiplies its noise, a clause."""
    drawn = _exponent(facts, _factor_of_noise(facts, node))
    if drawn is None or drawn[1] <= 0.0 or drawn[0] not in facts.learnt_values:
        return _NONE
    value, deviation = drawn
    for terms in _sums_with(facts, value):
        exponents = [found[1] for each in terms if (found := _exponent(facts, each)) is not None and found[0] == value]
        rising = [each for each in exponents if each > 0.0]
        if any(math.isclose(each, 2.0 * deviation) for each in rising):
            return _NONE
        if rising:
            return f"holds {_power(rising[0])} where that is {_power(2.0 * deviation)}"
        if any(each.op == "pow" and _unscaled(facts, each.present_inputs[0])[0] == value for each in terms):
            return f"holds v^2 where that is {_power(2.0 * deviation)}"
    return _NONE


def _power(factor: float) -> str:
    return "exp(v)" if factor == 1.0 else f"exp({factor:g} v)"


def _factor_of_noise(facts: Facts, node: Node) -> Node | None:
    """What gives the number that a node multiplies Gaussian noise of this pass by."""
    noise = node.parameters.get("scale") if node.op == "scale" else None
    if noise is not None and noise.name.startswith(("randn", "normal")):
        return facts.producer(node)
    if node.op != "mul" or len(node.present_inputs) != 2:
        return None
    first, second = (facts.producer(node, place) for place in range(2))
    for drawn, factor in ((first, second), (second, first)):
        if drawn is not None and drawn.source_op.startswith("RandomNormal"):
            return factor
    return None


def _sums_with(facts: Facts, value: str) -> Iterator[list[Node]]:
    """The terms of each sum that has a value as it is, times a fixed factor at most, for one of them."""
    start, through = list(facts.graph.consumers.get(value, ())), _MOVES | {"scale"}
    seen: set[str] = set()
    while start:
        node = start.pop()
        fixed = node.op in through and "scale" not in node.parameters
        if node.name in seen or not (fixed or node.op in ("add", "sub")):
            continue
        seen.add(node.name)
        above = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
        if node.op in ("add", "sub") and not any(reader.op in ("add", "sub") for reader in above):
            yield list(_summands(facts, node))
        start += above


def _summands(facts: Facts, node: Node, left: int = _DEEPEST) -> Iterator[Node]:
    """The nodes that give what a sum adds up, fixed factors taken off."""
    for place in range(len(node.present_inputs)):
        source = facts.producer(node, place)
        while source is not None and source.op in _MOVES | {"scale"} and "scale" not in source.parameters:
            source = facts.producer(source)
        if source is not None and source.op in ("add", "sub") and left:
            yield from _summands(facts, source, left - 1)
        elif source is not None:
            yield source


def _eased_by_error(facts: Facts, node: Node) -> bool:
    """Whether an error L is multiplied by a power above 1 of exp(-L), the probability of what is right."""
    if node.op != "mul" or len(node.present_inputs) != 2:
        return False
    for factor, error in (node.present_inputs, node.present_inputs[::-1]):
        power = facts.graph.producers.get(_unscaled(facts, factor)[0])
        if power is None or power.op != "pow" or float(power.attribute("exponent")) <= 1.0:
            continue
        share = facts.source_beyond(facts.producer(power), tuple(_WAYS))
        if share is not None and _is_share_of(facts, share, error):
            return True
    return False


def _is_share_of(facts: Facts, share: Node, error: str) -> bool:
    """Whether one is exp(-L) and the other L, or a positive multiple, or one p and the other a multiple of log p."""
    bare, sign = _unscaled(facts, error)
    if share.op == "exp":
        source, factor = _unscaled(facts, share.present_inputs[0])
        return source == bare and (factor * sign < 0.0 or _is_logarithm(facts, bare))
    logarithm = facts.graph.producers.get(bare)
    if logarithm is None or logarithm.op != "log":
        return False
    source, factor = _unscaled(facts, logarithm.present_inputs[0])
    return source in share.outputs and factor > 0.0


def _is_logarithm(facts: Facts, name: str) -> bool:
    node = facts.graph.producers.get(name)
    while node is not None and node.op in _WAYS | {"gather", "gather_elements", "slice"}:
        node = facts.producer(node)
    return node is not None and node.op in ("log_softmax", "log_sigmoid")


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


_ERRORS = frozenset({"pow", "abs", "smooth_l1", "huber"})


def _scored_as_one(facts: Facts, node: Node) -> float:
    """How many units of a layer an error of the loss reads the mean or sum of, and nothing else; 0 of other nodes."""
    layer, read = facts.producer(node), facts.graph.values.get(node.present_inputs[0]) if node.present_inputs else None
    shape = None if read is None else read.concrete_shape
    if (
        layer is None
        or layer.op != "linear"
        or not shape
        or len(shape) != 2
        or not layer.parameters["weight"].trainable
    ):
        return 0.0
    axes = {axis % 2 for axis in node.attribute("axes") or ()}
    alone = len(facts.graph.consumers.get(layer.outputs[0], ())) == 1
    outputs = [facts.graph.values[name].concrete_shape for name in facts.graph.outputs]
    if axes != {1} or not alone or any(each not in ((), (1,)) for each in outputs):
        return 0.0
    readers = list(facts.consumers_beyond(node, _MOVES | {"scale", "sub"}))
    return float(shape[1]) if readers and all(reader.op in _ERRORS for reader in readers) else 0.0


TERMS = (
    function(
        "scored_as_one(n)",
        "number",
        _scored_as_one,
        "units of a layer of which errors of the loss that the network gives read the mean or sum n, and nothing else; "
        "0 of other nodes",
    ),
    function(
        "other_deviation(n)",
        "text",
        _other_deviation,
        "of noise that n multiplies by exp(a v), what the sum with v among its terms has for the square of that, a "
        "clause; or none",
    ),
    function(
        "eased_by_error(n)",
        "truth",
        _eased_by_error,
        "n multiplies an error by a power above 1 of the probability that goes with it",
    ),
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
