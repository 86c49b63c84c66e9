"""The functions that rule files may call, over the numbers of one prediction; rules/README.md lists them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from gnelint.graph import Node
from gnelint.lint.expression import Function
from gnelint.lint.pattern import TRANSPARENT
from gnelint.prediction import Block, NodePrediction, Prediction
from gnelint.theory.weights import WeightStatistics
from gnelint.vocabulary import families

LAYERS = frozenset({"linear", "conv", "conv_transpose"})
"""Operations that count as a layer when depth is counted: linear maps with a weight that mixes channels."""

_HEAD_WALK = TRANSPARENT | families()["pooling"] | {"reduce_mean", "reduce_sum", "reduce_max"}
_NORMALIZATION_WALK = TRANSPARENT | families()["pooling"]


@dataclass(frozen=True)
class Facts:
    """One prediction, with what several functions need computed once. Every number may be None: not known."""

    prediction: Prediction

    def of(self, node: Node) -> NodePrediction | None:
        """What is predicted for a node; None off the gradient path."""
        return self.prediction.by_node.get(node.name)

    def weights(self, node: Node) -> WeightStatistics | None:
        """Statistics of a node's weight, or of its scale if it is a normalisation."""
        parameter = node.parameters.get("weight") or node.parameters.get("scale")
        return None if parameter is None else self.prediction.weights.get(parameter.name)

    def consumers_beyond(self, node: Node, through: frozenset[str]) -> Iterator[Node]:
        """The nearest nodes downstream whose operation is not in `through`."""
        graph = self.prediction.graph
        pending, seen = [node], {node.name}
        while pending:
            for output in pending.pop().outputs:
                for consumer in graph.consumers.get(output, ()):
                    if consumer.name in seen:
                        continue
                    seen.add(consumer.name)
                    if consumer.op in through:
                        pending.append(consumer)
                    else:
                        yield consumer

    def nodes_between(self, first: Node, last: Node) -> Iterator[Node]:
        """The nodes on a path from `first` to `last`, both left out."""
        graph = self.prediction.graph
        start, stop = graph.positions[first.name], graph.positions[last.name]
        reached = {first.name}
        for node in graph.nodes[start + 1 : stop]:
            producers = (graph.producers.get(name) for name in node.present_inputs)
            if any(producer is not None and producer.name in reached for producer in producers):
                reached.add(node.name)
        needed = {last.name}
        for node in reversed(graph.nodes[start + 1 : stop]):
            readers = (reader for output in node.outputs for reader in graph.consumers.get(output, ()))
            if node.name in reached and any(reader.name in needed for reader in readers):
                needed.add(node.name)
                yield node

    @cached_property
    def layer_depth(self) -> Mapping[str, int]:
        """For each node, the number of layers on the longest path that ends with it."""
        graph = self.prediction.graph
        depth: dict[str, int] = {}
        for node in graph.nodes:
            producers = (graph.producers.get(name) for name in node.present_inputs)
            before = max((depth[producer.name] for producer in producers if producer is not None), default=0)
            depth[node.name] = before + (node.op in LAYERS)
        return depth

    @cached_property
    def body_log2(self) -> float | None:
        """See `body_log2` among the functions."""
        if self.prediction.gradient_log2 is None:
            return None
        heads = self._heads()
        if not all(self._on_main_path(head) for head in heads):
            return self.prediction.gradient_log2  # the last layer is in a branch: the shortcut carries the gradient
        references = [value for value in map(self._gradient_into_head, heads) if value is not None]
        return None if not references else self.prediction.gradient_log2 - max(references)

    def _on_main_path(self, node: Node) -> bool:
        block = self.prediction.block_of.get(node.name)
        return block is None or block.kind in ("serial", "parallel")

    def _heads(self) -> list[Node]:
        graph = self.prediction.graph
        leads_to_layer: set[str] = set()
        heads: list[Node] = []
        for node in reversed(graph.nodes):
            ahead = any(name in leads_to_layer for name in node.outputs)
            if node.op in LAYERS and not ahead:
                heads.append(node)
            if ahead or node.op in LAYERS:
                leads_to_layer.update(node.present_inputs)
        return heads

    def _gradient_into_head(self, head: Node) -> float | None:
        """log2 of the squared gradient norm before the head and the pooling in front of it; None if there is none."""
        graph = self.prediction.graph
        producer = graph.producers.get(head.present_inputs[0])
        while producer is not None and producer.op in _HEAD_WALK:
            producer = graph.producers.get(producer.present_inputs[0])
        predicted = None if producer is None else self.of(producer)
        if predicted is None or predicted.gradient_log2 is None or math.isinf(predicted.gradient_log2):
            return None
        return predicted.gradient_log2


def _predicted(read: Callable[[NodePrediction], float | None]) -> Callable[[Facts, Node], float | None]:
    def call(facts: Facts, node: Node) -> float | None:
        predicted = facts.of(node)
        return None if predicted is None else read(predicted)

    return call


def _statistic(read: Callable[[WeightStatistics], float]) -> Callable[[Facts, Node], float | None]:
    def call(facts: Facts, node: Node) -> float | None:
        statistics = facts.weights(node)
        return None if statistics is None or statistics.size == 0 else read(statistics)

    return call


def _phi(facts: Facts, place: Node | Block) -> float | None:
    if isinstance(place, Block):
        return place.phi
    predicted = facts.of(place)
    return None if predicted is None else predicted.phi


def _phi_variance(facts: Facts, place: Node | Block) -> float | None:
    if isinstance(place, Block):
        return place.phi_variance
    predicted = facts.of(place)
    return None if predicted is None else predicted.phi_variance


def _variance(predicted: NodePrediction) -> float | None:
    if predicted.mean is None or predicted.second_moment is None:
        return None
    return max(predicted.second_moment - predicted.mean**2, 0.0)


def _fan_in(facts: Facts, node: Node) -> float | None:
    """Inputs that one output sums. A strided transposed convolution reaches an output with one tap in stride^2."""
    weight = node.parameters.get("weight")
    if weight is None or node.op not in LAYERS or len(weight.shape) < 2:
        return None
    if node.op != "conv_transpose":
        return float(math.prod(weight.shape[1:]))
    taps = math.prod(weight.shape[2:]) / math.prod(node.attribute("strides"))
    return float(weight.shape[0] / node.attribute("groups") * taps)


def _fan_out(facts: Facts, node: Node) -> float | None:
    """Outputs that one input reaches, strides left out as initialisers do."""
    weight = node.parameters.get("weight")
    if weight is None or node.op not in LAYERS or len(weight.shape) < 2:
        return None
    if node.op == "conv_transpose":
        return float(math.prod(weight.shape[1:]))
    groups = node.attribute("groups") if node.op == "conv" else 1
    return float(weight.shape[0] / groups * math.prod(weight.shape[2:]))


def _interior_phi(facts: Facts, node: Node) -> float | None:
    fan_in, statistics = _fan_in(facts, node), facts.weights(node)
    if fan_in is None or statistics is None:
        return _phi(facts, node)
    return fan_in * statistics.second_moment


def _scales(facts: Facts, first: Node, last: Node) -> float | None:
    """Product of phi of the constant scalings between the two nodes and right behind the last."""
    graph = facts.prediction.graph
    found = [node for node in facts.nodes_between(first, last) if node.op == "scale"]
    consumers = graph.consumers.get(last.outputs[0], ())
    while len(consumers) == 1 and consumers[0].op in TRANSPARENT:
        if consumers[0].op == "scale":
            found.append(consumers[0])
        consumers = graph.consumers.get(consumers[0].outputs[0], ())
    product = 1.0
    for node in found:
        phi = _phi(facts, node)
        if phi is None:
            return None
        product *= phi
    return product


def _between(facts: Facts, first: Node, last: Node, named: frozenset[str]) -> bool:
    return any(node.op in named for node in facts.nodes_between(first, last))


def _followed_by(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    return any(consumer.op in named for consumer in facts.consumers_beyond(node, _NORMALIZATION_WALK - named))


def _is_op(facts: Facts, node: Node, named: frozenset[str]) -> bool:
    return node.op in named


def _basis(facts: Facts, node: Node) -> str | None:
    predicted = facts.of(node)
    return None if predicted is None else predicted.basis


def _in_block(facts: Facts, node: Node, kind: str) -> bool:
    block = facts.prediction.block_of.get(node.name)
    return block is not None and block.kind == kind


def _contains(facts: Facts, block: Block, named: frozenset[str]) -> bool:
    graph = facts.prediction.graph
    return any(graph.node(name).op in named for name in block.nodes)


def _count_in(facts: Facts, block: Block, named: frozenset[str]) -> float:
    graph = facts.prediction.graph
    return float(sum(graph.node(name).op in named for name in block.nodes))


def _is_placeholder(facts: Facts, node: Node) -> bool:
    return any(parameter.provenance == "placeholder" for parameter in node.parameters.values())


def _layers(facts: Facts) -> float:
    return float(max(facts.layer_depth.values(), default=0))


def _log2(facts: Facts, x: float) -> float:
    return -math.inf if x == 0.0 else math.log2(x)


_TABLE = (
    Function("abs(x)", ("number",), "number", lambda facts, x: abs(x), "absolute value"),
    Function("log2(x)", ("number",), "number", _log2, "binary logarithm; -inf at 0, unknown below"),
    Function("sqrt(x)", ("number",), "number", lambda facts, x: math.sqrt(x), "square root; unknown below 0"),
    Function("min(x, y)", ("number", "number"), "number", lambda facts, *x: min(x), "the least of two or more", True),
    Function("max(x, y)", ("number", "number"), "number", lambda facts, *x: max(x), "the largest of two or more", True),
    Function("phi(n)", ("place",), "number", _phi, "factor on the squared gradient norm of a node or block"),
    Function(
        "phi_variance(n)", ("place",), "number", _phi_variance, "spread of the squared singular values of its Jacobian"
    ),
    Function(
        "interior_phi(n)",
        ("node",),
        "number",
        _interior_phi,
        "phi of a linear map away from padded borders: fan_in(n) * weight_second_moment(n)",
    ),
    Function(
        "scales(a, b)",
        ("node", "node"),
        "number",
        _scales,
        "product of phi of the constant scalings between a and b and right behind b",
    ),
    Function("mean(n)", ("node",), "number", _predicted(lambda p: p.mean), "E[x] of the node's output"),
    Function(
        "second_moment(n)", ("node",), "number", _predicted(lambda p: p.second_moment), "E[x^2] of the node's output"
    ),
    Function("variance(n)", ("node",), "number", _predicted(_variance), "E[x^2] - E[x]^2 of the node's output"),
    Function(
        "gradient_log2(n)",
        ("node",),
        "number",
        _predicted(lambda p: p.gradient_log2),
        "log2 of the squared gradient norm at the node's output, relative to the network's output",
    ),
    Function("basis(n)", ("node",), "text", _basis, "exact, theorem, approximate or unmodelled"),
    Function("weight_mean(n)", ("node",), "number", _statistic(lambda s: s.mean), "average weight"),
    Function("weight_std(n)", ("node",), "number", _statistic(lambda s: s.std), "standard deviation of the weights"),
    Function("weight_variance(n)", ("node",), "number", _statistic(lambda s: s.variance), "variance of the weights"),
    Function(
        "weight_second_moment(n)", ("node",), "number", _statistic(lambda s: s.second_moment), "average squared weight"
    ),
    Function(
        "weight_kurtosis(n)",
        ("node",),
        "number",
        _statistic(lambda s: s.kurtosis),
        "kurtosis of the weights: 3 Gaussian, 1.8 uniform; unknown for a constant",
    ),
    Function(
        "weight_bound(n)",
        ("node",),
        "number",
        _statistic(lambda s: max(abs(s.minimum), abs(s.maximum))),
        "largest absolute weight",
    ),
    Function("weight_size(n)", ("node",), "number", _statistic(lambda s: float(s.size)), "number of weights"),
    Function("fan_in(n)", ("node",), "number", _fan_in, "inputs that one output sums (groups and strides respected)"),
    Function("fan_out(n)", ("node",), "number", _fan_out, "outputs that one input reaches (groups respected)"),
    Function(
        "layer(n)",
        ("node",),
        "number",
        lambda facts, node: float(facts.layer_depth[node.name]),
        "number of linear layers on the longest path up to and with n",
    ),
    Function("is_op(n, op)", ("node", "operations"), "truth", _is_op, "n is an op"),
    Function("is_placeholder(n)", ("node",), "truth", _is_placeholder, "a weight of n is one repeated value"),
    Function(
        "between(a, b, op)", ("node", "node", "operations"), "truth", _between, "an op lies on a path from a to b"
    ),
    Function(
        "followed_by(n, op)",
        ("node", "operations"),
        "truth",
        _followed_by,
        "an op is the next thing behind n, data movement and pooling passed over",
    ),
    Function("in_block(n, kind)", ("node", "text"), "truth", _in_block, "n is in a block of this kind"),
    Function(
        "branch_phi(b)", ("block",), "number", lambda facts, block: block.branch_phi, "phi of what a shortcut adds to"
    ),
    Function("contains(b, op)", ("block", "operations"), "truth", _contains, "the block holds an op"),
    Function("count_in(b, op)", ("block", "operations"), "number", _count_in, "how many of an op the block holds"),
    Function("layers()", (), "number", _layers, "number of linear layers on the network's longest path"),
    Function(
        "network_log2()",
        (),
        "number",
        lambda facts: facts.prediction.gradient_log2,
        "log2 of the squared gradient norm at the network's input relative to its output",
    ),
    Function(
        "body_log2()",
        (),
        "number",
        lambda facts: facts.body_log2,
        "the same relative to the head's input (the last layer, where all of the gradient passes it, and pooling)",
    ),
)

FUNCTIONS: Mapping[str, Function] = {function.signature.partition("(")[0]: function for function in _TABLE}
