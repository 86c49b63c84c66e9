"""The functions that expressions may call: the numbers of one prediction, and nothing else.

`rules/README.md` lists them for people who write rules; a test keeps both together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gnelint.graph import Node, Parameter
from gnelint.lint.columns import Column
from gnelint.lint.facts import LAYERS, NORMALIZATIONS, Facts, fan_in, fan_out
from gnelint.lint.kinds import Function, Kind
from gnelint.lint.pattern import TRANSPARENT
from gnelint.prediction import Block, NodePrediction
from gnelint.theory.rows import RowStatistics
from gnelint.theory.special import normal_cdf
from gnelint.theory.weights import WeightStatistics
from gnelint.vocabulary import families

_FOLLOWING_WALK = TRANSPARENT | families()["pooling"]

_Place = Node | Block


_KINDS: Mapping[str, Kind] = {
    "n": "node", "m": "node", "b": "block", "p": "place", "x": "number", "y": "number", "bound": "number", "c": "truth",
    "op": "operations", "kind": "block_kind", "role": "role", "key": "attribute", "text": "text",
}  # fmt: skip
"""What the arguments of a signature are, by their names."""


def _function(signature: str, result: Kind, call: Callable[..., Any], help: str, **more: bool) -> Function:
    """A function whose signature tells what its arguments are."""
    names = signature.partition("(")[2].rstrip(")")
    parameters = tuple(_KINDS[name.strip()] for name in names.split(",") if name.strip())
    return Function(signature, parameters, result, call, help, **more)


def _numbers(signature: str, call: Callable[..., Column], help: str, result: Kind = "number", **more: bool) -> Function:
    """A function that asks for no facts."""
    return _function(signature, result, call, help, numbers=True, **more)


# --- predictions -----------------------------------------------------------------------------------------


def _predicted(read: Callable[[NodePrediction], float | None]) -> Callable[[Facts, Node], float | None]:
    def call(facts: Facts, node: Node) -> float | None:
        predicted = facts.of(node)
        return None if predicted is None else read(predicted)

    return call


def _of_place(read: Callable[[Any], Any]) -> Callable[[Facts, _Place], Any]:
    """What a block says of itself, or a prediction of its node: both have the field."""

    def call(facts: Facts, place: _Place) -> Any:
        described = place if isinstance(place, Block) else facts.of(place)
        return None if described is None else read(described)

    return call


def _relative_variance(described: NodePrediction | Block) -> float | None:
    if described.phi is None or described.phi_variance is None or described.phi == 0:
        return None
    return described.phi_variance / described.phi**2


def _variance(predicted: NodePrediction) -> float | None:
    if predicted.mean is None or predicted.second_moment is None:
        return None
    return max(predicted.second_moment - predicted.mean**2, 0.0)


def _input_mean(facts: Facts, node: Node) -> float | None:
    read = facts.input_moments(node)
    return None if read is None else read[0]


def _input_second_moment(facts: Facts, node: Node) -> float | None:
    read = facts.input_moments(node)
    return None if read is None else read[1]


def _unit_inputs(facts: Facts, node: Node) -> np.ndarray | None:
    """Mean over standard deviation of each unit's output, Gaussian by assumption.

    Units differ by their bias, and behind a normalisation by bias and scale; what a layer's units have in common is
    what the node's moments leave when those of its bias are taken out.
    """
    predicted, bias = facts.of(node), node.parameters.get("bias")
    if predicted is None or predicted.mean is None:
        return None
    own = np.zeros(1) if bias is None else bias.array().reshape(-1).astype(np.float64)
    if node.op in NORMALIZATIONS:
        scale = node.parameters.get("scale")
        spread = np.ones(1) if scale is None else np.abs(scale.array().reshape(-1).astype(np.float64))
        centre = own
    else:
        variance = _variance(predicted)
        if variance is None:
            return None
        spread = np.sqrt(np.maximum(np.full(1, variance - float(np.var(own))), 0.0))
        centre = own + (predicted.mean - float(np.mean(own)))
    with np.errstate(all="ignore"):
        ratio: np.ndarray = np.where(spread > 0, centre / spread, np.sign(centre) * np.inf)
    return None if np.isnan(ratio).any() else ratio


def _positive(facts: Facts, node: Node) -> float | None:
    ratios = _unit_inputs(facts, node)
    return None if ratios is None else float(np.mean(normal_cdf(ratios)))


def _silent_units(facts: Facts, node: Node, bound: float) -> float | None:
    ratios = _unit_inputs(facts, node)
    return None if ratios is None else float(np.mean(normal_cdf(ratios) < bound))


def _receives_gradient(facts: Facts, node: Node) -> bool | None:
    predicted = facts.of(node)
    if predicted is None:
        return False
    return None if predicted.gradient_log2 is None else predicted.gradient_log2 > -math.inf


def _entry_gradient(facts: Facts, node: Node) -> float | None:
    predicted, size = facts.of(node), _size(facts, node)
    if predicted is None or predicted.gradient_log2 is None or not size:
        return None
    return (predicted.gradient_log2 - math.log2(size)) / 2


def _interior_phi(facts: Facts, node: Node) -> float | None:
    inputs, statistics = fan_in(node), facts.weights(node)
    if inputs is None or statistics is None:
        predicted = facts.of(node)
        return None if predicted is None else predicted.phi
    return inputs * statistics.second_moment


def _scales(facts: Facts, first: Node, last: Node) -> float | None:
    """Product of phi of the constant scalings between the two nodes and right behind the last."""
    graph = facts.graph
    found = [node for node in facts.nodes_between(first, last) if node.op == "scale"]
    consumers = graph.consumers.get(last.outputs[0], ())
    while len(consumers) == 1 and consumers[0].op in TRANSPARENT:
        if consumers[0].op == "scale":
            found.append(consumers[0])
        consumers = graph.consumers.get(consumers[0].outputs[0], ())
    product = 1.0
    for node in found:
        predicted = facts.of(node)
        if predicted is None or predicted.phi is None:
            return None
        product *= predicted.phi
    return product


def _logits(facts: Facts, node: Node) -> float | None:
    """E of a squared logit: of what a softmax reads, or d scale^2 E[q^2] E[k^2] in a fused attention."""
    if node.op in ("softmax", "log_softmax"):
        return _input_second_moment(facts, node)
    shape = None if node.op != "attention" else facts.graph.values[node.present_inputs[0]].concrete_shape
    query, key = facts.input_moments(node, 0), facts.input_moments(node, 1)
    if not shape or query is None or key is None:
        return None
    width = shape[-1] // (node.attribute("heads") or 1) if node.attribute("packed") else shape[-1]
    scale = node.attribute("scale")
    return width * (1.0 / width if scale is None else scale**2) * query[1] * key[1]


_PREDICTIONS = (
    _function("phi(p)", "number", _of_place(lambda d: d.phi), "factor on the squared gradient norm"),
    _function(
        "phi_variance(p)",
        "number",
        _of_place(lambda d: d.phi_variance),
        "variance of the squared singular values of its Jacobian",
    ),
    _function(
        "relative_variance(p)", "number", _of_place(_relative_variance), "phi_variance / phi^2; adds up over depth"
    ),
    _function(
        "interior_phi(n)",
        "number",
        _interior_phi,
        "phi of a linear map away from padded borders: fan_in(n) * weight_second_moment(n)",
    ),
    _function(
        "scales(n, m)", "number", _scales, "product of phi of the constant scalings between n and m and right behind m"
    ),
    _function("mean(n)", "number", _predicted(lambda p: p.mean), "E[x] of the node's output"),
    _function("second_moment(n)", "number", _predicted(lambda p: p.second_moment), "E[x^2] of the node's output"),
    _function("variance(n)", "number", _predicted(_variance), "E[x^2] - E[x]^2 of the node's output"),
    _function("input_mean(n)", "number", _input_mean, "E[x] of what the node reads first"),
    _function("input_second_moment(n)", "number", _input_second_moment, "E[x^2] of what the node reads first"),
    _function(
        "positive(n)",
        "number",
        _positive,
        "P(x > 0) of the node's output, over its units with their biases, taken as Gaussian",
    ),
    _function(
        "silent_units(n, bound)",
        "number",
        _silent_units,
        "fraction of the node's units whose output is positive with a probability below bound",
    ),
    _function(
        "logit_second_moment(n)", "number", _logits, "E[x^2] of what a softmax reads, alone or inside an attention"
    ),
    _function(
        "gradient_log2(n)",
        "number",
        _predicted(lambda p: p.gradient_log2),
        "log2 of the squared gradient norm at the node's output, relative to the network's output",
    ),
    _function(
        "entry_gradient_log2(n)",
        "number",
        _entry_gradient,
        "log2 of the gradient's root mean square entry there, for a gradient of norm 1 at the network's output",
    ),
    _function(
        "weight_gradient_log2(n)",
        "number",
        lambda facts, node: facts.weight_gradients.get(node.name),
        "log2 of the squared norm of the weight's (or scale's) gradient, taken as independent over positions",
    ),
    _function("receives_gradient(n)", "truth", _receives_gradient, "some gradient arrives at the node's output"),
    _function("basis(p)", "text", _of_place(lambda d: d.basis), "exact, theorem, approximate or unmodelled"),
    _function(
        "assumption(p)",
        "text",
        _of_place(lambda d: d.assumptions[0] if d.assumptions else None),
        "the first assumption that the numbers stand on, or why there are none",
    ),
    _function(
        "error_bits(p)",
        "number",
        _of_place(lambda d: d.error_bits),
        "bound on |log2(predicted / measured)|, for one draw of the weights",
    ),
)


# --- weights ---------------------------------------------------------------------------------------------


def _statistic(read: Callable[[WeightStatistics], float]) -> Callable[[Facts, Node], float | None]:
    def call(facts: Facts, node: Node) -> float | None:
        statistics = facts.weights(node)
        return None if statistics is None else read(statistics)

    return call


def _mean_sigmas(statistics: WeightStatistics) -> float:
    if statistics.variance == 0:
        return 0.0 if statistics.mean == 0 else math.inf
    return abs(statistics.mean) * math.sqrt(statistics.size / statistics.variance)


def _parameter(read: Callable[[WeightStatistics], float]) -> Callable[[Facts, Node, str], float | None]:
    def call(facts: Facts, node: Node, role: str) -> float | None:
        parameter = node.parameters.get(role)
        if parameter is None or parameter.provenance == "placeholder":
            return None
        statistics = facts.statistics(parameter)
        return None if statistics is None else read(statistics)

    return call


def _row(read: Callable[[RowStatistics], float]) -> Callable[[Facts, Node], float | None]:
    def call(facts: Facts, node: Node) -> float | None:
        rows = facts.rows(node)
        return None if rows is None else read(rows)

    return call


def _bound(statistics: WeightStatistics) -> float:
    return max(abs(statistics.minimum), abs(statistics.maximum))


def _shape_fan(taps_of: int) -> Callable[[Facts, Node], float | None]:
    """Fans as torch's initialisers take them from the weight's shape: axis 1 or axis 0 times the taps."""

    def call(facts: Facts, node: Node) -> float | None:
        weight = node.parameters.get("weight")
        if weight is None or node.op not in LAYERS or len(weight.shape) < 2:
            return None
        return float(weight.shape[taps_of] * math.prod(weight.shape[2:]))

    return call


def _weight_text(read: Callable[[Parameter], str]) -> Callable[[Facts, Node], str | None]:
    def call(facts: Facts, node: Node) -> str | None:
        parameter = facts.weight(node)
        return None if parameter is None else read(parameter)

    return call


def _is_placeholder(facts: Facts, node: Node) -> bool:
    return any(parameter.provenance == "placeholder" for parameter in node.parameters.values())


def _tied_to(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    weight = facts.weight(node)
    others = () if weight is None else facts.users[weight.name]
    return any(other.name != node.name and other.op in named for other in others)


def _is_fresh(facts: Facts, node: Node) -> bool | None:
    known = [
        facts.statistics(node.parameters[role])
        for role in ("running_mean", "running_var", "running_second_moment")
        if role in node.parameters
    ]
    if not known or any(found is None for found in known):
        return None
    return all(
        found is not None and found.is_constant and found.mean == (0.0 if role == "running_mean" else 1.0)
        for role, found in zip(
            (r for r in ("running_mean", "running_var", "running_second_moment") if r in node.parameters),
            known,
            strict=True,
        )
    )


def _iid_spread(facts: Facts, node: Node) -> float | None:
    rows = facts.rows(node)
    return None if rows is None else min(rows.rows, rows.columns) / max(rows.rows, rows.columns)


_WEIGHTS = (
    _function("weight_mean(n)", "number", _statistic(lambda s: s.mean), "average weight"),
    _function(
        "weight_mean_sigmas(n)",
        "number",
        _statistic(_mean_sigmas),
        "|average weight| in standard errors: weight_std(n) / sqrt(weight_size(n))",
    ),
    _function("weight_std(n)", "number", _statistic(lambda s: s.std), "standard deviation of the weights"),
    _function("weight_variance(n)", "number", _statistic(lambda s: s.variance), "variance of the weights"),
    _function("weight_second_moment(n)", "number", _statistic(lambda s: s.second_moment), "average squared weight"),
    _function(
        "weight_kurtosis(n)",
        "number",
        _statistic(lambda s: s.kurtosis),
        "kurtosis of the weights: 3 Gaussian, 1.8 uniform; unknown for a constant",
    ),
    _function("weight_bound(n)", "number", _statistic(_bound), "largest absolute weight"),
    _function("weight_size(n)", "number", _statistic(lambda s: float(s.size)), "number of weights"),
    _function("weight_dtype(n)", "text", _weight_text(lambda p: p.dtype), "type of the weights, such as float32"),
    _function(
        "weight_transform(n)",
        "text",
        _weight_text(lambda p: p.transform or "none"),
        "what the model computes the weights by: weight_norm, weight_standardization, dequantize, ..., or none",
    ),
    _function(
        "duplicate_rows(n)",
        "number",
        _row(lambda r: r.duplicate),
        "fraction of a layer's units that equal an earlier one, bias included",
    ),
    _function(
        "constant_rows(n)",
        "number",
        _row(lambda r: r.constant),
        "fraction of a layer's units whose weights are all the same number",
    ),
    _function("zero_weights(n)", "number", _row(lambda r: r.zero), "fraction of a layer's weights that are exactly 0"),
    _function(
        "row_mean_share(n)",
        "number",
        _row(lambda r: r.mean_share),
        "part of the weights' energy in the units' means: 0 centred, 1/fan_in independent, 1 constant",
    ),
    _function(
        "row_norm_spread(n)",
        "number",
        _row(lambda r: r.norm_spread),
        "standard deviation over mean of the units' squared norms: 0 for normalised weights",
    ),
    _function(
        "singular_spread(n)",
        "number",
        lambda facts, node: facts.singular_spread(node),
        "relative variance of the weight matrix's squared singular values: 0 orthogonal, iid_spread(n) independent",
    ),
    _function(
        "iid_spread(n)",
        "number",
        _iid_spread,
        "singular_spread of independent weights: the short side of the matrix over the long one",
    ),
    _function(
        "is_placeholder(n)",
        "truth",
        _is_placeholder,
        "a weight of n is one repeated value, standing in for absent ones",
    ),
    _function("tied_to(n, op)", "truth", _tied_to, "another node, an op, uses the same weight"),
    _function(
        "fan_in(n)",
        "number",
        lambda facts, node: fan_in(node),
        "inputs that one output sums (groups and strides respected)",
    ),
    _function(
        "fan_out(n)", "number", lambda facts, node: fan_out(node), "outputs that one input reaches (groups respected)"
    ),
    _function(
        "shape_fan_in(n)",
        "number",
        _shape_fan(1),
        "fan_in as torch's initialisers count it: second size of the weight times taps",
    ),
    _function(
        "shape_fan_out(n)",
        "number",
        _shape_fan(0),
        "fan_out as torch's initialisers count it: first size of the weight times taps",
    ),
    _function(
        "has(n, role)",
        "truth",
        lambda facts, node, role: role in node.parameters,
        "the node has a parameter of this role",
    ),
    _function("parameter_mean(n, role)", "number", _parameter(lambda s: s.mean), "average of a parameter's entries"),
    _function(
        "parameter_std(n, role)", "number", _parameter(lambda s: s.std), "standard deviation of a parameter's entries"
    ),
    _function("parameter_bound(n, role)", "number", _parameter(_bound), "largest absolute entry of a parameter"),
    _function("is_fresh(n)", "truth", _is_fresh, "running statistics are as they are made: mean 0, variance 1"),
)


# --- shapes and attributes -------------------------------------------------------------------------------


def _size(facts: Facts, node: Node) -> float | None:
    shape = facts.shape(node)
    return None if shape is None else float(math.prod(shape))


def _features(facts: Facts, node: Node) -> float | None:
    shape = facts.shape(node)
    return None if not shape else float(math.prod(shape[1:]))


def _positions(facts: Facts, node: Node) -> float | None:
    features, width = _features(facts, node), facts.width(node)
    return None if features is None or not width else features / width


def _batch(facts: Facts, node: Node) -> float | None:
    shape = facts.shape(node)
    return None if not shape else float(shape[0])


def _statistic_size(facts: Facts, node: Node) -> float | None:
    """Number of values behind one mean and variance of a normalisation."""
    shape = facts.shape(node)
    if shape is None or node.op not in NORMALIZATIONS or node.op == "local_response_norm":
        return None
    if node.op in ("batch_norm", "second_moment_norm"):
        return float(math.prod(shape) / shape[1]) if len(shape) > 1 and shape[1] else None
    if node.op == "instance_norm":
        return float(math.prod(shape[2:]))
    if node.op == "group_norm":
        return float(math.prod(shape[1:]) / node.attribute("groups"))
    return float(math.prod(shape[axis] for axis in node.attribute("axes")))


def _attribute(facts: Facts, node: Node, key: str) -> float | None:
    try:
        value = node.attribute(key)
    except KeyError:
        return None
    if isinstance(value, (tuple, list)):
        value = max(value, default=None) if all(isinstance(entry, (int, float)) for entry in value) else None
    return float(value) if isinstance(value, (bool, int, float)) else None


def _attribute_text(facts: Facts, node: Node, key: str) -> str | None:
    try:
        value = node.attribute(key)
    except KeyError:
        return None
    return value if isinstance(value, str) else None


def _dtype(facts: Facts, node: Node) -> str | None:
    value = facts.graph.values.get(node.outputs[0])
    return None if value is None else value.dtype


_SHAPES = (
    _function(
        "attribute(n, key)",
        "number",
        _attribute,
        "attribute of a node: a truth value is 1 or 0, of a list it is the largest entry",
    ),
    _function("attribute_text(n, key)", "text", _attribute_text, "attribute of a node that is a text"),
    _function("width(n)", "number", lambda facts, node: facts.width(node), "channels (features) of the node's output"),
    _function("positions(n)", "number", _positions, "pixels or tokens a sample of the node's output"),
    _function("features(n)", "number", _features, "entries a sample of the node's output: width times positions"),
    _function("batch(n)", "number", _batch, "samples in the node's output (its first dimension)"),
    _function("size(n)", "number", _size, "entries of the node's output"),
    _function(
        "statistic_size(n)", "number", _statistic_size, "number of values behind one statistic of a normalisation"
    ),
    _function(
        "has_shape(n)",
        "truth",
        lambda facts, node: facts.shape(node) is not None,
        "every dimension of the node's output is known",
    ),
    _function("dtype(n)", "text", _dtype, "type of the node's output, such as float16"),
)


# --- where in the graph ----------------------------------------------------------------------------------


def _between(facts: Facts, first: Node, last: Node, named: frozenset[str]) -> bool:
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


_STRUCTURE = (
    _function(
        "bound(n)",
        "truth",
        lambda facts, node: node is not None,
        "an optional statement of the pattern was found",
        takes_unknown=True,
    ),
    _function("is_op(n, op)", "truth", lambda facts, node, named: node.op in named, "n is an op"),
    _function("between(n, m, op)", "truth", _between, "an op lies on a path from n to m"),
    _function(
        "followed_by(n, op)",
        "truth",
        _followed_by,
        "an op is the next thing behind n, data movement and pooling passed over",
    ),
    _function(
        "preceded_by(n, op)",
        "truth",
        _preceded_by,
        "an op is the last thing before n, data movement and pooling passed over",
    ),
    _function("readers(n)", "number", _readers, "how many inputs of other nodes read n"),
    _function(
        "is_output(n)",
        "truth",
        lambda facts, node: facts.is_output(node),
        "an output of the network is that of n, data movement and softmax passed over",
    ),
    _function(
        "layer(n)",
        "number",
        lambda facts, node: float(facts.depth(LAYERS)[node.name]),
        "number of linear layers on the longest path up to and with n",
    ),
    _function(
        "depth(n, op)",
        "number",
        lambda facts, node, named: float(facts.depth(named)[node.name]),
        "number of ops on the longest path up to and with n",
    ),
)


# --- blocks ----------------------------------------------------------------------------------------------


def _block(facts: Facts, node: Node) -> int | None:
    block = facts.block(node)
    return None if block is None else facts.block_positions[block.name]


def _neighbour(step: int) -> Callable[[Facts, Block], int | None]:
    def call(facts: Facts, block: Block) -> int | None:
        position = facts.block_positions[block.name] + step
        return position if 0 <= position < len(facts.prediction.blocks) else None

    return call


def _in_block(facts: Facts, node: Node, kind: str) -> bool:
    block = facts.block(node)
    return block is not None and block.kind == kind


def _contains(facts: Facts, block: Block, named: frozenset[str]) -> bool:
    return any(facts.graph.node(name).op in named for name in block.nodes)


def _count_in(facts: Facts, block: Block, named: frozenset[str]) -> float:
    return float(sum(facts.graph.node(name).op in named for name in block.nodes))


def _is_join(facts: Facts, node: Node) -> bool:
    block = facts.block(node)
    return block is not None and block.kind == "residual" and block.join == node.name


def _on_shortcut(facts: Facts, node: Node) -> bool:
    block = facts.block(node)
    return block is not None and node.name in (block.shortcut or ())


def _last_in_branch(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    block = facts.in_branch(node)
    if block is None or block.join is None or node.op not in named:
        return False
    return not _between(facts, node, facts.graph.node(block.join), named)


def _first_in_branch(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    block = facts.in_branch(node)
    if block is None or node.op not in named:
        return False
    inside = facts.branch(block)
    pending, seen = list(node.present_inputs), set(node.present_inputs)
    while pending:
        source = facts.graph.producers.get(pending.pop())
        if source is None or source.name not in inside:
            continue
        if source.op in named:
            return False
        pending.extend(set(source.present_inputs) - seen)
        seen.update(source.present_inputs)
    return True


def _block_number(facts: Facts, place: _Place) -> float | None:
    block = facts.block(place)
    if block is None:
        return None
    before = facts.prediction.blocks[: facts.block_positions[block.name]]
    return 1.0 + sum(other.kind == block.kind for other in before)


def _stage(facts: Facts, place: _Place) -> float | None:
    block = facts.block(place)
    return None if block is None else float(facts.stages[block.name])


def _stage_size(facts: Facts, place: _Place) -> float | None:
    block = facts.block(place)
    return None if block is None else float(len(facts.stage_mates(block)))


def _at_stage_end(place_in: int) -> Callable[[Facts, _Place], bool | None]:
    def call(facts: Facts, place: _Place) -> bool | None:
        block = facts.block(place)
        return None if block is None else facts.stage_mates(block)[place_in].name == block.name

    return call


def _imbalance(facts: Facts, block: Block) -> float | None:
    known = [phi for phi in block.operand_phis if phi is not None]
    if len(known) < 2 or len(known) < len(block.operand_phis) or max(known) == 0:
        return None
    return max(known) / min(known) if min(known) > 0 else math.inf


def _narrowest(behind: bool) -> Callable[[Facts, _Place], float | None]:
    def call(facts: Facts, place: _Place) -> float | None:
        block = facts.block(place)
        if block is None:
            return None
        position = facts.block_positions[block.name]
        chosen = facts.cut_widths[position:] if behind else facts.cut_widths[:position]
        return min((width for width in chosen if width is not None), default=None)

    return call


_BLOCKS = (
    _function("block(n)", "block", _block, "the block that holds n"),
    _function("next(b)", "block", _neighbour(1), "the block behind b"),
    _function("previous(b)", "block", _neighbour(-1), "the block before b"),
    _function("in_block(n, kind)", "truth", _in_block, "n is in a block of this kind"),
    _function("contains(b, op)", "truth", _contains, "the block holds an op"),
    _function("count_in(b, op)", "number", _count_in, "how many of an op the block holds"),
    _function("branch_phi(b)", "number", lambda facts, block: block.branch_phi, "phi of what a shortcut is added to"),
    _function(
        "shortcut_phi(b)", "number", lambda facts, block: block.shortcut_phi, "phi of the shortcut: 1 for an identity"
    ),
    _function(
        "branch_imbalance(b)",
        "number",
        _imbalance,
        "largest over least phi of the branches that meet at the end of the block",
    ),
    _function("is_join(n)", "truth", _is_join, "n adds the branch of a residual block to its shortcut"),
    _function(
        "in_branch(n)",
        "truth",
        lambda facts, node: facts.in_branch(node) is not None,
        "n is in the branch of a residual block",
    ),
    _function("on_shortcut(n)", "truth", _on_shortcut, "n is on the shortcut of a residual or dense block"),
    _function(
        "first_in_branch(n, op)",
        "truth",
        _first_in_branch,
        "n is an op in the branch of a residual block, and none lies before it there",
    ),
    _function(
        "last_in_branch(n, op)",
        "truth",
        _last_in_branch,
        "n is an op in the branch of a residual block, and none lies behind it there",
    ),
    _function(
        "block_number(p)", "number", _block_number, "which of the blocks of its kind it is, counted from 1 at the input"
    ),
    _function("stage(p)", "number", _stage, "which row of blocks with outputs of one shape, counted from 1"),
    _function("stage_size(p)", "number", _stage_size, "blocks of its kind in its stage"),
    _function("first_in_stage(p)", "truth", _at_stage_end(0), "the first block of its kind in its stage"),
    _function("last_in_stage(p)", "truth", _at_stage_end(-1), "the last block of its kind in its stage"),
    _function(
        "narrowest_before(p)",
        "number",
        _narrowest(False),
        "least width that all of the gradient passes before this block",
    ),
    _function(
        "narrowest_behind(p)",
        "number",
        _narrowest(True),
        "least width that all of the gradient passes at the end of this block and behind it",
    ),
)


# --- the network -----------------------------------------------------------------------------------------


def _layers(facts: Facts) -> float:
    return float(max(facts.depth(LAYERS).values(), default=0))


def _occurrences(facts: Facts, named: frozenset[str]) -> float:
    return float(sum(node.op in named for node in facts.graph.nodes))


def _count_blocks(facts: Facts, kind: str) -> float:
    return float(sum(block.kind == kind for block in facts.prediction.blocks))


def _of_layers(reduce: Callable[[np.ndarray], Any]) -> Callable[[Facts], float | None]:
    return lambda facts: float(reduce(facts.layer_gradients)) if facts.layer_gradients.size else None


_NETWORK = (
    _function("layers()", "number", _layers, "number of linear layers on the network's longest path"),
    _function("occurrences(op)", "number", _occurrences, "how many of an op the network holds"),
    _function("blocks(kind)", "number", _count_blocks, "how many blocks of a kind there are"),
    _function(
        "network_log2()",
        "number",
        lambda facts: facts.prediction.gradient_log2,
        "log2 of the squared gradient norm at the network's input relative to its output",
    ),
    _function(
        "body_log2()",
        "number",
        lambda facts: facts.body_log2,
        "the same relative to the head's input (the last layer, where all of the gradient passes it, and pooling)",
    ),
    _function(
        "fluctuation_bits()",
        "number",
        lambda facts: facts.prediction.fluctuation_bits,
        "standard deviation of network_log2() from one draw of the weights to the next",
    ),
    _function(
        "weight_gradient_median()",
        "number",
        _of_layers(np.median),
        "median of weight_gradient_log2 over the linear layers",
    ),
    _function(
        "weight_gradient_spread()",
        "number",
        _of_layers(np.std),
        "standard deviation of weight_gradient_log2 over the linear layers",
    ),
    _function(
        "coverage()",
        "number",
        lambda facts: facts.prediction.coverage,
        "fraction of the nodes on a gradient path that are modelled",
    ),
    _function(
        "is_training()",
        "truth",
        lambda facts: facts.graph.training,
        "normalisation uses batch statistics (--mode train)",
    ),
    _function(
        "cotangent_moved()",
        "truth",
        lambda facts: facts.prediction.cotangent_at != "output",
        "the network's last layer is zero, so gradients are relative to its input",
    ),
    _function(
        "has_note(text)",
        "truth",
        lambda facts, text: any(text.lower() in note.lower() for note in facts.prediction.notes),
        "a note on how the model was read holds this text, such as 'folded normalisation'",
    ),
)


# --- numbers ---------------------------------------------------------------------------------------------


def _least(*columns: Column) -> Column:
    found: Column = np.min(np.stack(columns), axis=0)
    return found


def _largest(*columns: Column) -> Column:
    found: Column = np.max(np.stack(columns), axis=0)
    return found


def _default(x: Column, y: Column) -> Column:
    return np.where(np.isnan(x), y, x)


def _choose(condition: Column, x: Column, y: Column) -> Column:
    return np.where(np.isnan(condition), np.nan, np.where(condition == 1.0, x, y))


_NUMBERS = (
    _numbers("abs(x)", np.fabs, "absolute value"),
    _numbers("log2(x)", np.log2, "binary logarithm; -inf at 0, unknown below"),
    _numbers("exp2(x)", np.exp2, "2 to the power of x"),
    _numbers("sqrt(x)", np.sqrt, "square root; unknown below 0"),
    _numbers("min(x, y)", _least, "the least of two or more", variadic=True),
    _numbers("max(x, y)", _largest, "the largest of two or more", variadic=True),
    _numbers("default(x, y)", _default, "x, or y where x is not known"),
    _numbers("is_known(x)", lambda x: 1.0 - np.isnan(x), "x is known", result="truth"),
    _function("choose(c, x, y)", "number", _choose, "x where c holds, y where it does not", numbers=True),
)

SECTIONS: Mapping[str, tuple[Function, ...]] = {
    "Numbers": _NUMBERS,
    "Predictions": _PREDICTIONS,
    "Weights": _WEIGHTS,
    "Shapes and attributes": _SHAPES,
    "Where in the graph": _STRUCTURE,
    "Blocks": _BLOCKS,
    "The network": _NETWORK,
}
"""The functions as the documentation groups them."""

FUNCTIONS: Mapping[str, Function] = {
    function.signature.partition("(")[0]: function for section in SECTIONS.values() for function in section
}
