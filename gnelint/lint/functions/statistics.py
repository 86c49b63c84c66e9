"""What a value is set against: a statistic of itself that divides it, constants that are added, made weights."""

from __future__ import annotations

import math

import numpy as np

from gnelint.ir.graph import Graph, Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families

_REDUCTIONS = families()["reduction"]
_KEEPS_POWER = frozenset({"identity", "reshape", "expand", "transpose", "abs", "scale", "bias", "clip", "maximum"})
_CODES_PASS = frozenset({"identity", "dropout", "scale", "reshape", "expand", "slice", "transpose"})
_NEAREST = 12
_NEGLIGIBLE = 0.1
"""Numbers up to this are an epsilon that is added; a larger one changes the power."""


def _scale_degree(facts: Facts, node: Node) -> float | None:
    """1 minus (div) or plus (mul) the power of x in the statistic; None where the other one is no statistic of x."""
    if node.op not in ("div", "mul") or len(node.present_inputs) != 2:
        return None
    pairs = [node.present_inputs] if node.op == "div" else [node.present_inputs, node.present_inputs[::-1]]
    for x, statistic in pairs:
        power = _power(facts.graph, statistic, {x, *_centred(facts.graph, x)})
        if power is not None and power[1]:
            return 1.0 - power[0] if node.op == "div" else 1.0 + power[0]
    return None


def _centred(graph: Graph, value: str) -> set[str]:
    """What a value is without its mean: its own source, if it is x - mean(x)."""
    node = graph.producers.get(value)
    if node is None or node.op != "sub" or len(node.present_inputs) != 2:
        return set()
    x, mean = node.present_inputs
    reduced = graph.producers.get(mean)
    return {x} if reduced is not None and reduced.op == "reduce_mean" and reduced.present_inputs[:1] == (x,) else set()


def _power(graph: Graph, value: str, sources: set[str], nearest: int = _NEAREST) -> tuple[float, bool] | None:
    """The power of the sources in a value computed of them alone, and whether it is an average of squares or sizes.

    None where they are more than `nearest` operations away: a statistic stands right beside what it is of.
    """
    if value in sources:
        return 1.0, False
    if nearest == 0:
        return None
    node = graph.producers.get(value)
    if node is None or not node.present_inputs:
        return None
    inner = [_power(graph, name, sources, nearest - 1) for name in dict.fromkeys(node.present_inputs)]
    if any(found is None for found in inner):
        return None
    known = [found for found in inner if found is not None]
    power, averaged = known[0]
    if node.op in _REDUCTIONS:
        return power, averaged or power != 1.0 or node.op == "reduce_l2" or _sizes(graph, node)
    if node.op == "pow":
        return power * float(node.attribute("exponent")), averaged
    if node.op == "sqrt":
        return power / 2, averaged
    if node.op == "reciprocal":
        return -power, averaged
    if node.op == "mul":
        twice = len(node.present_inputs) / len(known)  # x * x
        return twice * sum(each for each, _ in known), any(each for _, each in known)
    if node.op == "sub" and _centred(graph, value) & sources:
        return power, averaged
    return (power, averaged) if node.op in _KEEPS_POWER and _is_small(node) else None


def _sizes(graph: Graph, node: Node) -> bool:
    source = graph.producers.get(node.present_inputs[0])
    return source is not None and source.op == "abs"


def _is_small(node: Node) -> bool:
    """Whether what is added is no more than an epsilon; what is multiplied may be any number."""
    bias = node.parameters.get("bias") if node.op == "bias" else None
    return bias is None or (bias.size == 1 and abs(float(bias.array().reshape(-1)[0])) <= _NEGLIGIBLE)


def _operand_share(facts: Facts, node: Node) -> float | None:
    """E x^2 of the first operand over the sum of all operands' and of the constants that are added."""
    moments = [facts.input_moments(node, place) for place in range(len(node.present_inputs))]
    if not moments or any(each is None for each in moments):
        return None
    energies = [each[1] for each in moments if each is not None]
    bias = node.parameters.get("bias") if node.op == "bias" else None
    if bias is not None:
        energies.append(float(np.mean(np.asarray(bias.array(), np.float64) ** 2)) * node.attribute("factor") ** 2)
    total = math.fsum(energies)
    return energies[0] / total if total > 0 else None


def _adds_codes(facts: Facts, node: Node) -> bool:
    """Whether the first operand is looked up in a table, and all others are, too, or constants.

    A branch that its tokens are added to, `x = branch(x) + x`, adds no codes to them.
    """
    first, *others = node.present_inputs
    return _is_code(facts.graph, first, _CODES_PASS | {"layer_norm"}) and all(
        _is_code(facts.graph, name, _CODES_PASS) for name in others
    )


def _is_code(graph: Graph, value: str, passes: frozenset[str]) -> bool:
    node = graph.producers.get(value)
    while node is not None and node.op in passes and node.present_inputs:
        node = graph.producers.get(node.present_inputs[0])
    return node is not None and node.op in ("embedding", "constant")


def _contracted(facts: Facts, node: Node) -> float | None:
    shape = facts.graph.values[node.present_inputs[0]].concrete_shape if node.op == "matmul" else None
    if not shape or len(shape) < 2:
        return None
    return float(shape[-2] if node.attribute("transpose_a") else shape[-1])


_AVERAGED_THROUGH = (
    frozenset({"transpose", "identity", "dropout", "reshape", "linear", "bias", "scale"})
    | families()["activation"]
    | families()["normalization"]
)
_NODES = 1024
"""Nodes of a graph up to which the product of its averages is taken."""


def _averages(facts: Facts, node: Node) -> list[np.ndarray]:
    """The fixed square matrices on the one way back from a layer, its own first, up to a sum or another input."""
    found: list[np.ndarray] = []
    step: Node | None = node
    while step is not None and step.op in _AVERAGED_THROUGH:
        weight = step.parameters.get("weight") if step.op == "linear" else None
        if weight is not None and not weight.trainable:
            fits = len(weight.shape) == 2 and weight.shape[0] == weight.shape[1] <= _NODES
            if not fits or (found and weight.shape != found[0].shape):
                break
            found.append(np.asarray(weight.array(), np.float64))
        step = facts.graph.producers.get(step.present_inputs[0])
    return found


def _own_share(facts: Facts, node: Node) -> float | None:
    """What the product of the averages leaves beside its first singular vector, of independent signals."""
    matrices = _averages(facts, node)
    if not matrices or min(float(matrix.min()) for matrix in matrices) < 0:
        return None  # an average has no negative weights
    product = matrices[0]
    for matrix in matrices[1:]:
        product = product @ matrix
    values = np.linalg.svd(product, compute_uv=False) ** 2
    return float(values[1:].sum() / values.sum()) if values.sum() > 0 else None


def _neighbours(node: Node) -> float | None:
    """How many entries a product with a fixed adjacency adds up on average; unknown of other layers."""
    weight = node.parameters["weight"]
    fits = len(weight.shape) == 2 and weight.shape[0] == weight.shape[1] <= _NODES
    if weight.trainable or weight.provenance != "data" or not fits:
        return None
    matrix = np.asarray(weight.array(), np.float64)
    return float(matrix.sum(axis=1).mean()) if np.isin(matrix, (0.0, 1.0)).all() else None


def _equal_nodes(facts: Facts, node: Node) -> float:
    """How many nodes get the very same numbers from a fixed average and are not told apart up to an output."""
    weight = node.parameters.get("weight") if node.op == "linear" else None
    square = weight is not None and len(weight.shape) == 2 and weight.shape[0] == weight.shape[1]
    if weight is None or weight.trainable or not square or not 1 < weight.shape[0] <= _NODES:
        return 0.0
    matrix = np.asarray(weight.array(), np.float64)
    if not matrix.any() or not np.allclose(matrix, matrix[:1], rtol=1e-6, atol=0.0):
        return 0.0
    pending, nodes = list(node.outputs), weight.shape[0]
    while pending:
        name = pending.pop()
        shape = facts.graph.values[name].concrete_shape
        if shape is None or nodes not in shape[1:]:
            return 0.0
        for reader in facts.graph.consumers.get(name, ()):
            added = reader.parameters.get("bias") if reader.op == "bias" else None
            if reader.op not in _AVERAGED_THROUGH or (added is not None and len(added.shape) > 1):
                return 0.0
            pending += reader.outputs
    return float(nodes)


def _entries_summed(facts: Facts, node: Node) -> float | None:
    if node.op == "transpose":
        source = facts.producer(node)
        return None if source is None or source.op != "linear" else _neighbours(source)
    read = node.inputs[0] if node.inputs else None
    before = None if read is None else facts.graph.values[read].concrete_shape
    after = facts.shape(node)
    return None if before is None or after is None or 0 in after else math.prod(before) / math.prod(after)


STATISTICS = (
    function(
        "averages(n)",
        "number",
        lambda facts, node: float(len(_averages(facts, node))),
        "how many fixed square matrices lie one behind the other up to the layer n, with no sum between",
    ),
    function(
        "own_share(n)",
        "number",
        _own_share,
        "share of independent signals that their product leaves beside its first singular vector",
    ),
    function(
        "equal_nodes(n)",
        "number",
        _equal_nodes,
        "nodes that the product n with a fixed matrix of equal rows gives the same numbers, with no way around to the "
        "outputs; 0 elsewhere",
    ),
    function(
        "entries_summed(n)",
        "number",
        _entries_summed,
        "how many entries each number of a sum is of; of the transposition behind a product with a fixed adjacency of "
        "zeros and ones, its neighbours",
    ),
    function(
        "scale_degree(n)",
        "number",
        _scale_degree,
        "where n divides or multiplies x by an average of squares (or sizes) of x itself: the power of x's scale that "
        "is left; 0 for a normalisation",
    ),
    function(
        "operand_share(n)",
        "number",
        _operand_share,
        "part of E[x^2] that the first operand of a sum brings, constants that are added counted",
    ),
    function(
        "adds_codes(n)", "truth", _adds_codes, "a sum adds nothing but constants and a table's rows to rows of a table"
    ),
    function("contracted(n)", "number", _contracted, "size of the axis that a matrix product sums over"),
)
