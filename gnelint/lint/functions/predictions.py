"""What the analysis predicts of nodes and blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gnelint.analysis.prediction import Block, NodePrediction
from gnelint.ir.graph import Node
from gnelint.lint.facts import LAYERS, NORMALIZATIONS, Facts, fan_in
from gnelint.lint.functions.averages import averaging
from gnelint.lint.functions.bounds import never_positive
from gnelint.lint.functions.logits import logit_variance
from gnelint.lint.functions.shapes import size
from gnelint.lint.functions.signature import Place, function, reading
from gnelint.lint.pattern import TRANSPARENT
from gnelint.theory.gaussian.special import normal_cdf


def _described(facts: Facts, place: Place) -> Any:
    """What a block says of itself, or the prediction of a node: they have fields in common."""
    return place if isinstance(place, Block) else facts.of(place)


def _relative_variance(described: NodePrediction | Block) -> float | None:
    if described.phi is None or described.phi_variance is None or described.phi**2 == 0:
        return None
    return described.phi_variance / described.phi**2


def _variance(predicted: NodePrediction) -> float | None:
    if predicted.mean is None or predicted.second_moment is None:
        return None
    return max(predicted.second_moment - predicted.mean**2, 0.0)


def _units(facts: Facts, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation of each unit's output, Gaussian by assumption.

    Units differ by their bias, and behind a normalisation by bias and scale; what a layer's units have in common is
    what the node's moments leave when those of its bias are taken out. Behind an average over positions it is what
    they have where positions agree, see `averages`.
    """
    predicted, bias = facts.of(node), node.parameters.get("bias")
    if predicted is None or predicted.mean is None:
        return None
    own = np.zeros(1) if bias is None else bias.array().reshape(-1).astype(np.float64)
    if node.op in NORMALIZATIONS:
        scale = node.parameters.get("scale")
        return own, np.ones(1) if scale is None else np.abs(scale.array().reshape(-1).astype(np.float64))
    variance = _variance(predicted)
    if variance is None:
        return None
    deviation = np.sqrt(np.maximum(np.full(1, variance - float(np.var(own))), 0.0) * averaging(facts, node))
    return own + (predicted.mean - float(np.mean(own))), deviation


def _above(units: tuple[np.ndarray, np.ndarray], bound: float) -> np.ndarray | None:
    """Of each unit: the probability that it is more than a bound."""
    centre, deviation = units[0] - bound, units[1]
    with np.errstate(all="ignore"):
        ratio: np.ndarray = np.where(deviation > 0, centre / deviation, np.sign(centre) * np.inf)
    return None if np.isnan(ratio).any() else normal_cdf(ratio)


def _positive(facts: Facts, node: Node) -> float | None:
    units = _units(facts, node)
    found = None if units is None else _above(units, 0.0)
    return None if found is None else float(np.mean(found))


def _shift(facts: Facts, first: Node, last: Node) -> float:
    """The single numbers that are added on the way from one node to another."""
    total, node = 0.0, facts.graph.producers.get(last.present_inputs[0]) if last.present_inputs else None
    while node is not None and node.name != first.name and node.op in TRANSPARENT | {"reshape", "bias"}:
        bias = node.parameters.get("bias")
        if node.op == "bias" and bias is not None and bias.size == 1 and bias.provenance == "data":
            total += float(np.asarray(bias.array()).reshape(-1)[0]) * float(node.attribute("factor"))
        node = facts.graph.producers.get(node.present_inputs[0]) if node.present_inputs else None
    return total


def _silent_units(facts: Facts, node: Node, behind: Node, bound: float) -> float | None:
    units, shift = _units(facts, node), _shift(facts, node, behind)
    if units is None:
        return None
    low, high = _slope_between(behind)
    above, beyond = _above(units, low - shift), _above(units, high - shift)
    if above is None or beyond is None:
        return None
    within = above - beyond if behind.op != "shrink" else 1.0 - (above - beyond)
    return float(np.mean(within < bound))


def _slope_between(node: Node) -> tuple[float, float]:
    """Between which numbers an activation has a slope; a shrinkage has none there, and one everywhere else."""
    if node.op == "shrink":
        return -float(node.attribute("lambd")), float(node.attribute("lambd"))
    if node.op == "thresholded_relu":
        return float(node.attribute("alpha")), math.inf
    if node.op == "clip":
        low, high = node.attribute("min"), node.attribute("max")
        return -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return 0.0, math.inf


_REACH = 4.0
"""Deviations from the mean that count as ever seen."""
_BENT = 0.05
"""The part of a softplus' slope by which that changes over a deviation, beta std / 4, from which on it is bent."""


def _is_straight(facts: Facts, node: Node) -> bool:
    """Whether a clamp or softplus between two layers is a straight line over all that the first of them gives."""
    source = facts.producer(node)
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    if source is None or source.op not in LAYERS or not readers or any(reader.op not in LAYERS for reader in readers):
        return False
    units = _units(facts, source)
    if units is None:
        return False
    centre, deviation = units
    if node.op == "softplus":
        beta = float(node.attribute("beta"))
        return beta <= 0.1 and bool((beta * (deviation + np.abs(centre)) < 4.0 * _BENT).all())
    low, high = _slope_between(node)
    return bool(((centre - _REACH * deviation > low) & (centre + _REACH * deviation < high)).all())


def _receives_gradient(facts: Facts, node: Node) -> bool | None:
    predicted = facts.of(node)
    if predicted is None:
        return False
    return None if predicted.gradient_log2 is None else predicted.gradient_log2 > -math.inf


def _entry_gradient(facts: Facts, node: Node) -> float | None:
    predicted, entries = facts.of(node), size(facts, node)
    if predicted is None or predicted.gradient_log2 is None or not entries:
        return None
    return (predicted.gradient_log2 - math.log2(entries)) / 2


def _interior_phi(facts: Facts, node: Node) -> float | None:
    inputs, statistics = fan_in(node), facts.weights(node)
    if inputs is None or statistics is None:
        predicted = facts.of(node)
        return None if predicted is None else predicted.phi
    return inputs * statistics.second_moment


def _behind(facts: Facts, node: Node) -> list[Node]:
    """The transparent nodes in a row right behind it."""
    found: list[Node] = []
    consumers = facts.graph.consumers.get(node.outputs[0], ())
    while len(consumers) == 1 and consumers[0].op in TRANSPARENT:
        found.append(consumers[0])
        consumers = facts.graph.consumers.get(consumers[0].outputs[0], ())
    return found


def _layer_gain(facts: Facts, first: Node, last: Node) -> float | None:
    """What both accounts of a layer agree on: the product of its phis, and the gradients at its ends."""
    weight, scales, activation = _interior_phi(facts, first), _scales(facts, first, last), facts.of(last)
    if weight is None or scales is None or activation is None or activation.phi is None:
        return None
    product = weight * scales * activation.phi
    before, behind = _gradient_at_input(facts, first), facts.of([last, *_behind(facts, last)][-1])
    if product <= 0 or before is None or behind is None or behind.gradient_log2 is None:
        return product
    if math.isinf(before) or math.isinf(behind.gradient_log2):
        return product
    bits = (math.log2(product), before - behind.gradient_log2)
    return 2.0 ** min(bits, key=abs) if bits[0] * bits[1] > 0 else 1.0


_KEPT = 1.0
"""Bits within which a chain counts as one that keeps the gradient: the gain fix solves it to a fiftieth of that."""


def _keeps_gradient(facts: Facts, node: Node) -> bool:
    """Whether the layers of a chain together are known to hand on the norm they get, whatever each of them does."""
    bits = facts.chain_bits.get(node.name)
    return bits is not None and abs(bits) <= _KEPT


def _gradient_at_input(facts: Facts, node: Node) -> float | None:
    value = node.inputs[0]
    if value is None or len(facts.graph.consumers[value]) > 1:
        return None
    if value == facts.prediction.gradient_at:
        return facts.prediction.gradient_log2
    producer = facts.graph.producers.get(value)
    predicted = None if producer is None else facts.of(producer)
    return None if predicted is None else predicted.gradient_log2


def _scales(facts: Facts, first: Node, last: Node) -> float | None:
    """Product of phi of the constant scalings between the two nodes and right behind the last."""
    found = [node for node in (*facts.nodes_between(first, last), *_behind(facts, last)) if node.op == "scale"]
    product = 1.0
    for node in found:
        predicted = facts.of(node)
        if predicted is None or predicted.phi is None:
            return None
        product *= predicted.phi
    return product


PREDICTIONS = (
    function("phi(p)", "number", reading(_described, lambda d: d.phi), "factor on the squared gradient norm"),
    function(
        "phi_variance(p)",
        "number",
        reading(_described, lambda d: d.phi_variance),
        "variance of the squared singular values of its Jacobian",
    ),
    function(
        "relative_variance(p)",
        "number",
        reading(_described, _relative_variance),
        "phi_variance / phi^2; adds up over depth",
    ),
    function(
        "interior_phi(n)",
        "number",
        _interior_phi,
        "phi of a linear map away from padded borders: fan_in(n) * weight_second_moment(n)",
    ),
    function(
        "scales(n, m)", "number", _scales, "product of phi of the constant scalings between n and m and right behind m"
    ),
    function(
        "layer_gain(n, m)",
        "number",
        _layer_gain,
        "factor on the squared gradient norm of a layer n and its activation m: the nearer to 1 of interior_phi(n) * "
        "scales(n, m) * phi(m) and of what the gradients at both ends say, 1 if one is above and one below",
    ),
    function(
        "keeps_gradient(n)",
        "truth",
        _keeps_gradient,
        "the layers of the chain that layer n is in, sums and fixed matrices behind them included, together multiply "
        "the squared gradient norm by 1/2 to 2",
    ),
    function("mean(n)", "number", reading(Facts.of, lambda p: p.mean), "E[x] of the node's output"),
    function("second_moment(n)", "number", reading(Facts.of, lambda p: p.second_moment), "E[x^2] of the node's output"),
    function("variance(n)", "number", reading(Facts.of, _variance), "E[x^2] - E[x]^2 of the node's output"),
    function(
        "input_mean(n)", "number", reading(Facts.input_moments, lambda m: m[0]), "E[x] of what the node reads first"
    ),
    function(
        "input_second_moment_at(n, x)",
        "number",
        lambda facts, node, place: None if (found := facts.input_moments(node, int(place))) is None else found[1],
        "E[x^2] of what the node reads at a place, counted from 0",
    ),
    function(
        "input_second_moment(n)",
        "number",
        reading(Facts.input_moments, lambda m: m[1]),
        "E[x^2] of what the node reads first",
    ),
    function(
        "positive(n)",
        "number",
        _positive,
        "P(x > 0) of the node's output, over its units with their biases, taken as Gaussian",
    ),
    function(
        "silent_units(n, m, bound)",
        "number",
        _silent_units,
        "fraction of n's units whose output, and what single numbers add to it before m reads it, lies where the "
        "activation m has a slope with a probability below bound",
    ),
    function(
        "is_straight(n)",
        "truth",
        _is_straight,
        "the clamp or softplus n between two layers bends nowhere over four deviations of what the first of them gives",
    ),
    function(
        "never_positive(n)",
        "number",
        never_positive,
        "fraction of the node's units whose output is 0 or less for every input, as far as a bound shows it",
    ),
    function(
        "logit_second_moment(n)",
        "number",
        logit_variance,
        "E[x^2] of what a softmax reads, alone or inside an attention; masks, constants and what its axis shares do "
        "not count",
    ),
    function(
        "gradient_log2(n)",
        "number",
        reading(Facts.of, lambda p: p.gradient_log2),
        "log2 of the squared gradient norm at the node's output, relative to the network's output",
    ),
    function(
        "entry_gradient_log2(n)",
        "number",
        _entry_gradient,
        "log2 of the gradient's root mean square entry there, for a gradient of norm 1 at the network's output",
    ),
    function(
        "weight_gradient_log2(n)",
        "number",
        lambda facts, node: facts.weight_gradients.get(node.name),
        "log2 of the squared norm of the weight's (or scale's) gradient, taken as independent over positions",
    ),
    function("receives_gradient(n)", "truth", _receives_gradient, "some gradient arrives at the node's output"),
    function(
        "basis(p)",
        "text",
        reading(_described, lambda d: d.basis),
        "exact, theorem, approximate, sampled or unmodelled",
    ),
    function(
        "assumption(p)",
        "text",
        reading(_described, lambda d: d.assumptions[0] if d.assumptions else None),
        "the first assumption that the numbers stand on, or why there are none",
    ),
    function(
        "error_bits(p)",
        "number",
        reading(_described, lambda d: d.error_bits),
        "bound on |log2(predicted / measured)|, for one draw of the weights",
    ),
)
