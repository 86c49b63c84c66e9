"""What the network's output is to the loss behind it: what the user says it is, or the softmax that the network has."""

from __future__ import annotations

import math

from gnelint.analysis.ranges import cosine_bound
from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.lint.losses import OWN

_NONE = "none"
_NOISE = ("randn", "normal")
"""How what torch draws from a Gaussian is called."""
_PASSES = frozenset({"identity", "reshape", "transpose", "slice", "dropout"})
_SQUASHING = frozenset({"softmax", "sigmoid", "hardsigmoid", "tanh", "relu", "clip", "softplus"})
_LOGARITHMS = frozenset({"log_softmax", "log", "log_sigmoid"})


def _gives_output(facts: Facts, node: Node, through: frozenset[str] = _PASSES) -> bool:
    """Whether an output of the network is what the node gives, moved at most, or what else is passed."""
    pending = list(node.outputs)
    while pending:
        name = pending.pop()
        if name in facts.graph.outputs:
            return True
        pending += [
            out for reader in facts.graph.consumers.get(name, ()) if reader.op in through for out in reader.outputs
        ]
    return False


def _gives_loss(facts: Facts, node: Node) -> bool:
    """Whether a network that gives nothing but single numbers takes logarithms of shares: those of its own loss."""
    shapes = [facts.graph.values[name].concrete_shape for name in facts.graph.outputs]
    return node.op == "log_softmax" and bool(shapes) and all(shape in ((), (1,)) for shape in shapes)


def _misfit(facts: Facts, node: Node) -> str:
    """Why what the node that the output comes from gives is not what the loss takes, and what to do."""
    wants, does = OWN.get(facts.loss or "", ("", ""))
    if not wants or node.op in _PASSES or not _gives_output(facts, node):
        return _NONE
    shape = facts.shape(node)
    if facts.loss == "cross_entropy" and shape is not None and len(shape) > 1 and shape[1] == 1:
        return "cross_entropy of one class is 0 whatever it is: give an output for each, or take bce_with_logits"
    unfit = (
        f"{facts.loss} takes {wants} and applies {does}: give it those, and apply {node.op} where predictions are read"
    )
    if wants == "logits":
        # log-softmax of log-probabilities changes nothing
        squashed = node.op in _SQUASHING and not (facts.loss == "cross_entropy" and node.op == "log_softmax")
        squashed = squashed or (facts.loss == "bce_with_logits" and node.op in _LOGARITHMS)
        return unfit if squashed else _NONE
    if wants == "log-probabilities":
        fits = node.op in _LOGARITHMS
    else:
        known = facts.ranges.get(node.outputs[0])
        fits = known is None or (known.low >= 0.0 and known.high <= 1.0)
    return _NONE if fits else unfit


_REGRESSIONS = frozenset({"mse", "l1"})


_LOWEST = {"gelu": -0.17, "silu": -0.28, "mish": -0.31, "hardswish": -0.375}
"""The least that smooth rectifiers give."""


def _regression_fault(facts: Facts, node: Node) -> str:
    """What stands between the last layer and a loss of distances that has no business there."""
    source = facts.producer(node) if node.present_inputs else None
    behind = source is not None and source.op in ("linear", "conv", "bias", "conv_transpose")
    if facts.loss not in _REGRESSIONS or not behind or not _gives_output(facts, node):
        return _NONE
    if node.op == "relu":
        return "sets what is negative to zero: there no gradient passes, and no output ever falls below zero"
    if node.op in _LOWEST:
        return f"gives nothing below {_LOWEST[node.op]}, and is nearly flat there"
    if node.op == "batch_norm" and node.attribute("training"):
        return "takes the batch's mean and deviation out: what is predicted for one sample depends on the others"
    return _NONE


def _takes_probabilities(facts: Facts, node: Node) -> bool:
    """Whether a divergence is written out in which probabilities stand for their logarithms: p log p - p q."""
    if node.op != "sub" or len(node.present_inputs) != 2:
        return False
    own, product = (facts.graph.producers.get(name) for name in node.present_inputs)
    if own is None or product is None or product.op != "mul" or own.op not in ("where", "mul"):
        return False
    for place, target in enumerate(product.present_inputs):
        given = facts.ranges.get(product.present_inputs[1 - place])
        if given is None or not (given.low >= 0.0 and given.high == 1.0):
            continue
        if any(_is_logarithm_of(facts, reader, target) for reader in facts.graph.consumers.get(target, ())):
            return True
    return False


def _is_logarithm_of(facts: Facts, node: Node, target: str) -> bool:
    """Whether a product multiplies a value by its own logarithm."""
    if node.op != "mul":
        return False
    for name in node.present_inputs:
        source, of = facts.graph.producers.get(name), facts.graph.producers.get(target)
        if source is None or name == target or source.op not in ("log", "log_softmax") or not source.present_inputs:
            continue
        if source.present_inputs[0] == target or (of is not None and source.present_inputs == of.present_inputs):
            return True
    return False


_ON_THE_WAY = frozenset({"reshape", "identity", "scale", "where", "reduce_sum", "reduce_mean", "div"})
"""Operations of a loss between the entry of the right class and its average."""
_IS_TAKEN = {"softmax": "probabilities", "linear": "logits"}


def _bare_likelihood(facts: Facts, node: Node) -> str:
    """What a loss takes the entries of the right classes from, negates and averages, where that is no logarithm."""
    source = facts.source_beyond(facts.producer(node), ("reshape", "identity")) if node.op == "gather" else None
    if source is None or source.op not in _IS_TAKEN:
        return "none"
    sign, value = 1.0, node.outputs[0]
    while value not in facts.graph.outputs:
        readers = facts.graph.consumers.get(value, ())
        if len(readers) != 1 or readers[0].op not in _ON_THE_WAY:
            return "none"
        sign, value = sign * float(readers[0].attributes.get("factor", 1.0)), readers[0].outputs[0]
    alone = facts.graph.values[value].concrete_shape == () and len(facts.graph.outputs) == 1
    return _IS_TAKEN[source.op] if sign < 0.0 and alone else "none"


def _noise_floor(facts: Facts, node: Node) -> float | None:
    """The least that noise drawn in forward is multiplied by, where layers decide on it."""
    noise = node.parameters.get("scale")
    if node.op != "scale" or noise is None or not noise.name.startswith(_NOISE):
        return None
    known = facts.ranges.get(node.present_inputs[0])
    return None if known is None or node.present_inputs[0] not in facts.learnt_values else known.low


def _entries(facts: Facts, node: Node) -> int | None:
    shape = facts.shape(node)
    return None if not shape else shape[node.attribute("axis") if node.op in ("softmax", "log_softmax") else -1]


def _least_loss(facts: Facts, node: Node) -> float | None:
    """The cross entropy that bounded logits cannot fall below, over that of a guess: ln(1 + (n-1) e^-width) / ln n."""
    read = node.present_inputs[0] if node.op in ("softmax", "log_softmax") else node.outputs[0]
    known, classes = facts.ranges.get(read), _entries(facts, node)
    if known is None or _is_rescaled(facts, read) or not classes or classes < 2 or math.isinf(known.high - known.low):
        return None
    width = known.high - known.low
    if _cosines(facts, node) is not None:
        width = known.high * classes / (classes - 1)  # of so many directions no two can lie further apart
    return math.log1p((classes - 1) * math.exp(-width)) / math.log(classes)


def _is_rescaled(facts: Facts, value: str) -> bool:
    """Whether a trained number multiplies a value: bounds that it sets at the start do not last."""
    node = facts.graph.producers.get(value)
    while node is not None and node.op in ("scale", "bias", "identity"):
        scale = node.parameters.get("scale")
        if scale is not None and scale.size == 1 and scale.trainable:
            return True
        node = facts.producer(node)
    return False


def _cosines(facts: Facts, node: Node) -> float | None:
    """The factor of the cosines that the node gives, or that the softmax which it is reads."""
    source = facts.producer(node) if node.op in ("softmax", "log_softmax") else node
    return None if source is None else cosine_bound(facts.graph, source)


def _cosine_factor(facts: Facts, node: Node) -> float | None:
    """The trained number that cosines are multiplied with, before they are taken (a product) or behind it (a scale)."""
    if node.op == "matmul":
        return cosine_bound(facts.graph, node) if _learns_temperature(facts, node) else None
    scale, product = node.parameters.get("scale"), facts.producer(node)
    if node.op != "scale" or scale is None or scale.size != 1 or not scale.trainable or scale.provenance != "data":
        return None
    bound = None if product is None or product.op != "matmul" else cosine_bound(facts.graph, product)
    number = abs(float(scale.array().reshape(-1)[0]))
    if bound is None or not number:
        return None
    return bound * (1 / number if node.attribute("reciprocal") else number) * abs(float(node.attribute("factor")))


def _learns_temperature(facts: Facts, node: Node) -> bool:
    """Whether a trained number scales the cosines: they are logits then, whatever reads them."""
    pending, found = list(node.present_inputs), False
    while pending:
        source = facts.graph.producers.get(pending.pop())
        if source is not None and source.op in ("scale", "transpose", "identity"):
            scale = source.parameters.get("scale")
            found = found or (scale is not None and scale.size == 1 and scale.trainable)
            pending += source.present_inputs
    return found


HEAD = (
    function("loss()", "text", lambda facts: facts.loss or _NONE, "what stands behind the output (--loss); or none"),
    function(
        "gives_output(n)",
        "truth",
        _gives_output,
        "an output of the network is what n gives, data movement passed over (softmax not)",
    ),
    function(
        "ends_in_output(n)",
        "truth",
        lambda facts, node: _gives_output(facts, node, _PASSES | {"scale", "bias"}),
        "an output of the network is what n gives, moved, shifted and scaled at most",
    ),
    function(
        "gives_loss(n)",
        "truth",
        _gives_loss,
        "n takes the logarithms of shares of a loss that the network itself gives: all its outputs are single numbers",
    ),
    function(
        "misfit(n)", "text", _misfit, "why what n gives as the network's output is not what the loss takes; or none"
    ),
    function(
        "regression_fault(n)",
        "text",
        _regression_fault,
        "what n, between the last layer and a loss of distances (mse, l1), does to what is predicted; or none",
    ),
    function(
        "takes_probabilities(n)",
        "truth",
        _takes_probabilities,
        "n is the difference in a divergence that is written out (kl_div), given probabilities for their logarithms",
    ),
    function(
        "bare_likelihood(n)",
        "text",
        _bare_likelihood,
        "what the loss that the network gives takes the entries of the right classes from at n, negated: "
        "probabilities, logits; or none, as where they are logarithms of probabilities",
    ),
    function(
        "noise_floor(n)",
        "number",
        _noise_floor,
        "the least that Gaussian noise drawn in forward is multiplied by at n, where layers decide on the factor",
    ),
    function(
        "cosine_factor(n)",
        "number",
        _cosine_factor,
        "the trained number that scales the cosines which the product n gives, or which the scale n reads; unknown "
        "where they have none",
    ),
    function(
        "least_loss(n)",
        "number",
        _least_loss,
        "the lowest cross entropy that bounded logits can reach, as a share of a guess's; unknown without bounds. Of a "
        "softmax it is about what that reads, else about what n gives",
    ),
)
