"""What a layer's weights and the parameters of any node are like."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gnelint.ir.graph import Derivation, Node, Parameter
from gnelint.lint.facts import LAYERS, Facts, fan_in, fan_out
from gnelint.lint.functions.signature import function, reading
from gnelint.theory.weights.rows import RowStatistics, hiding_rows
from gnelint.theory.weights.statistics import WeightStatistics


def _weight(facts: Facts, node: Node) -> Parameter | None:
    return facts.weight(node)


def _transform(parameter: Parameter) -> str:
    """How the numbers are computed; those that are drawn about trained ones are computed of these."""
    if parameter.transform == "random" and any(leaf.trainable for leaf in parameter.leaves):
        return "computed"
    return parameter.transform or "none"


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


_MOST_DRAWN = 1 << 22
"""Entries of the largest weight that is worked out once more without one of its tensors."""


def _drawn_part(facts: Facts, node: Node) -> float | None:
    """Mean square of what is drawn for a weight in every pass over that of the trained numbers which it is drawn about.

    The numbers are those that a tensor of the weight's shape adds: without it the weight is less by just that tensor.
    """
    weight = facts.weight(node)
    if weight is None or weight.transform != "random" or weight.size > _MOST_DRAWN:
        return None
    if not isinstance(weight.load, Derivation):
        return None
    whole = np.asarray(weight.load(), np.float64)
    for leaf in weight.leaves:
        if not leaf.trainable or leaf.shape != whole.shape:
            continue
        about = leaf.load()
        drawn = np.asarray(weight.load.evaluate({leaf.name: np.zeros_like(about)}), np.float64)
        size = float(np.mean(np.asarray(about, np.float64) ** 2))
        if size and np.allclose(whole - drawn, about, rtol=1e-3, atol=1e-3 * float(np.sqrt(np.mean(whole**2)))):
            return float(np.mean(drawn**2)) / size
    return None


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


def _spread_out(facts: Facts, node: Node) -> bool:
    weight = facts.weight(node)
    return weight is not None and sum(leaf.size for leaf in weight.leaves) < weight.size


def _is_placeholder(facts: Facts, node: Node) -> bool:
    return bool(node.missing_weights)


def _all_infinite(parameter: Parameter) -> bool:
    """Whether it is a bound or a start for maxima, not a weight: every entry is infinity."""
    return bool(np.isinf(np.asarray(parameter.load(), np.float64)).all())


_MULTIPLIES = frozenset({"weight", "recurrent"})
"""The roles of what is no bound, whatever its numbers are."""


def _nonfinite(facts: Facts, node: Node) -> str:
    found = [
        parameter.name
        for role, parameter in node.parameters.items()
        if "float" in parameter.dtype
        and not facts.is_finite(parameter)
        and (role in _MULTIPLIES or not _all_infinite(parameter))
        and not (node.op == "embedding" and hiding_rows(parameter) is not None)
    ]
    return ", ".join(dict.fromkeys(found)) or "none"


def _tied_to(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    weight = facts.weight(node)
    others = () if weight is None else facts.users[weight.name]
    return any(other.name != node.name and other.op in named for other in others)


_AT_FIRST = {"running_mean": 0.0, "running_var": 1.0, "running_second_moment": 1.0}
"""What running statistics are filled with when they are made."""


def _is_fresh(facts: Facts, node: Node) -> bool | None:
    known = [
        (facts.statistics(node.parameters[role]), value) for role, value in _AT_FIRST.items() if role in node.parameters
    ]
    if not known or any(found is None for found, _ in known):
        return None
    return all(found is not None and found.is_constant and found.mean == value for found, value in known)


def _iid_spread(rows: RowStatistics) -> float:
    return min(rows.rows, rows.columns) / max(rows.rows, rows.columns)


def _equal_members(facts: Facts, node: Node) -> float | None:
    """How many slices along its first axis a trained tensor read by products has, if all are equal."""
    value = node.parameters.get("value") if node.op == "constant" else None
    if value is None or not value.trainable or value.provenance != "data" or len(value.shape) < 3:
        return None
    if value.leaves != (value,):
        return None  # worked out from what is stored: a tensor that every sample of a batch is given, say
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    array = value.array()
    alike = bool(np.all(array == array[:1])) and bool(np.any(array != array.flat[0]))
    return float(len(array)) if alike and readers and all(reader.op == "matmul" for reader in readers) else 1.0


WEIGHTS = (
    function(
        "equal_members(n)",
        "number",
        _equal_members,
        "slices along the first axis of a trained tensor that products read, if all are equal; 1 if not",
    ),
    function("weight_mean(n)", "number", reading(Facts.weights, lambda s: s.mean), "average weight"),
    function(
        "weight_mean_sigmas(n)",
        "number",
        reading(Facts.weights, _mean_sigmas),
        "|average weight| in standard errors: weight_std(n) / sqrt(weight_size(n))",
    ),
    function("weight_std(n)", "number", reading(Facts.weights, lambda s: s.std), "standard deviation of the weights"),
    function("weight_variance(n)", "number", reading(Facts.weights, lambda s: s.variance), "variance of the weights"),
    function(
        "weight_second_moment(n)", "number", reading(Facts.weights, lambda s: s.second_moment), "average squared weight"
    ),
    function(
        "weight_kurtosis(n)",
        "number",
        reading(Facts.weights, lambda s: s.kurtosis),
        "kurtosis of the weights: 3 Gaussian, 1.8 uniform; unknown for a constant",
    ),
    function("weight_bound(n)", "number", reading(Facts.weights, _bound), "largest absolute weight"),
    function("weight_size(n)", "number", reading(Facts.weights, lambda s: float(s.size)), "number of weights"),
    function("weight_dtype(n)", "text", reading(_weight, lambda p: p.dtype), "type of the weights, such as float32"),
    function(
        "weight_transform(n)",
        "text",
        reading(_weight, _transform),
        "what the model computes the weights by: weight_norm, spectral_norm, weight_standardization, dequantize, "
        "random (drawn, of nothing trained), ..., or none",
    ),
    function(
        "duplicate_rows(n)",
        "number",
        reading(Facts.rows, lambda r: r.duplicate),
        "fraction of a layer's units that equal an earlier one, bias included but where all weights are one number",
    ),
    function(
        "spread_out(n)",
        "truth",
        _spread_out,
        "the weight of n is computed of fewer numbers than it has, by padding or repeating",
    ),
    function(
        "constant_rows(n)",
        "number",
        reading(Facts.rows, lambda r: r.constant),
        "fraction of a layer's units whose weights are all the same number",
    ),
    function(
        "zero_weights(n)",
        "number",
        reading(Facts.rows, lambda r: r.zero),
        "fraction of a layer's weights that are exactly 0",
    ),
    function(
        "row_mean_share(n)",
        "number",
        reading(Facts.rows, lambda r: r.mean_share),
        "part of the weights' energy in the units' means: 0 centred, 1/fan_in independent, 1 constant",
    ),
    function(
        "row_norm_spread(n)",
        "number",
        reading(Facts.rows, lambda r: r.norm_spread),
        "standard deviation over mean of the units' squared norms: 0 for normalised weights",
    ),
    function(
        "singular_spread(n)",
        "number",
        Facts.singular_spread,
        "relative variance of the weight matrix's squared singular values: 0 orthogonal, iid_spread(n) independent",
    ),
    function(
        "iid_spread(n)",
        "number",
        reading(Facts.rows, _iid_spread),
        "singular_spread of independent weights: the short side of the matrix over the long one",
    ),
    function(
        "is_placeholder(n)",
        "truth",
        _is_placeholder,
        "a weight of n is one repeated value, standing in for absent ones",
    ),
    function(
        "nonfinite(n)",
        "text",
        _nonfinite,
        "the parameters of n with entries, not all, that are infinite, or with some that are no number; or none",
    ),
    function(
        "is_trainable(n)",
        "truth",
        reading(_weight, lambda p: p.trainable),
        "training changes the weight of n (or its scale): not a buffer, a frozen parameter or a constant",
    ),
    function("tied_to(n, op)", "truth", _tied_to, "another node, an op, uses the same weight"),
    function(
        "fan_in(n)",
        "number",
        lambda facts, node: fan_in(node),
        "inputs that one output sums (groups and strides respected)",
    ),
    function(
        "fan_out(n)", "number", lambda facts, node: fan_out(node), "outputs that one input reaches (groups respected)"
    ),
    function(
        "shape_fan_in(n)",
        "number",
        _shape_fan(1),
        "fan_in as torch's initialisers count it: second size of the weight times taps",
    ),
    function(
        "shape_fan_out(n)",
        "number",
        _shape_fan(0),
        "fan_out as torch's initialisers count it: first size of the weight times taps",
    ),
    function(
        "has(n, role)",
        "truth",
        lambda facts, node, role: role in node.parameters,
        "the node has a parameter of this role",
    ),
    function("parameter_mean(n, role)", "number", _parameter(lambda s: s.mean), "average of a parameter's entries"),
    function(
        "parameter_std(n, role)", "number", _parameter(lambda s: s.std), "standard deviation of a parameter's entries"
    ),
    function("parameter_bound(n, role)", "number", _parameter(_bound), "largest absolute entry of a parameter"),
    function(
        "drawn_part(n)",
        "number",
        _drawn_part,
        "mean square of what is drawn for the weight of n in every pass over that of the trained numbers that it is "
        "added to; unknown elsewhere",
    ),
    function("is_fresh(n)", "truth", _is_fresh, "running statistics are as they are made: mean 0, variance 1"),
)
