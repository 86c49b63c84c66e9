"""What is done along positions where layers take features, and what bends nothing on the way."""

from __future__ import annotations

from gnelint.analysis.axes.layout import label
from gnelint.ir.graph import Graph, Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families

_RECURRENT = families()["recurrent"]
_EACH = frozenset({"identity", "bias", "scale", "dropout"}) | families()["activation"]
"""What leaves every entry in its place."""
_ALONG = frozenset({"attention", "recurrent", "codes"})
"""What shows an axis to be one of positions."""
_BENDS_NOTHING = (
    families()["shape"]
    | LAYERS
    | {"add", "sub", "mul", "matmul", "scale", "bias", "concat", "reduce_sum", "reduce_mean", "batch_norm", "constant"}
)
_NONE = "none"
_POOLS = frozenset({"reduce_mean", "reduce_sum", "reduce_max"})
_JOINS = frozenset({"add", "mul", "matmul"})


def _lengths_elsewhere(facts: Facts, node: Node) -> bool:
    """Whether vectors are divided by their length along positions, and what reads them sums over their features."""
    layout = facts.axes.layouts.get(node.outputs[0])
    if node.op != "l2_normalize" or layout is None or len(layout) < 3 or len(node.attribute("axes")) != 1:
        return False
    axis = node.attribute("axes")[0] % len(layout)
    last = len(layout) - 1
    positions = axis != last and label(layout[axis]) not in (None, 0) and label(layout[last]) != label(layout[axis])
    return positions and node.present_inputs[0] in facts.learnt_values and _reads_features(facts, node.outputs[0])


def _reads_features(facts: Facts, value: str) -> bool:
    """Whether all that reads a value sums over its last axis; the sum of a shortcut is left out."""
    readers = [reader for reader in facts.graph.consumers.get(value, ()) if reader.op != "add"]
    return bool(readers) and all(_sums_last(facts, reader, value) for reader in readers)


def _sums_last(facts: Facts, node: Node, value: str) -> bool:
    if node.op in _EACH and node.present_inputs == (value,):
        return _reads_features(facts, node.outputs[0])
    if node.op in ("linear", "layer_norm", "rms_norm") or node.op in _RECURRENT:
        return node.present_inputs[0] == value
    if node.op == "attention":
        return value in node.present_inputs[:2]
    if node.op == "transpose":
        order, last = node.attribute("perm"), len(node.attribute("perm")) - 1
        readers = facts.graph.consumers.get(node.outputs[0], ())
        swapped = order[-2:] == (last, last - 1)
        of_product = bool(readers) and all(_is_operand(reader, node.outputs[0], 1) for reader in readers)
        return of_product if swapped else order[-1] == last and _reads_features(facts, node.outputs[0])
    return _is_operand(node, value, 0)


def _is_operand(node: Node, value: str, place: int) -> bool:
    plain = node.op == "matmul" and not node.attribute("transpose_a") and not node.attribute("transpose_b")
    return plain and len(node.present_inputs) == 2 and node.present_inputs[place] == value


def _normalised_steps(facts: Facts, node: Node) -> float:
    """How many positions a batch normalisation gives a mean, a deviation and a scale each, before a layer that takes
    the features of each position; 0 of others."""
    layout, shape = facts.axes.layouts.get(node.outputs[0]), facts.shape(node)
    if node.op != "batch_norm" or layout is None or shape is None or len(layout) != 3 or shape[2] < 2:
        return 0.0
    axis = label(layout[1])
    shown = {mixing.axis for mixing in facts.axes.mixings if mixing.kind in _ALONG}
    if axis in (None, 0) or axis not in shown or not _reads_features(facts, node.outputs[0]):
        return 0.0
    return float(shape[1])


def _pooled_features(facts: Facts, node: Node) -> float:
    """How many features a mean, sum or maximum puts together, of a value whose positions the next layer takes for its
    inputs, or whose mean is an output; 0 of others."""
    source = facts.source_beyond(facts.producer(node), ("scale", "identity"))
    if node.op not in _POOLS or (source is not None and source.op in ("mul", "pow")):
        return 0.0  # the sum of a product is one of two vectors, whose score a layer may read
    read, shape = node.present_inputs[0], facts.shape(node)
    layout, before = facts.axes.layouts.get(read), facts.graph.values[read].concrete_shape
    if layout is None or before is None or len(layout) != 3 or len(shape or ()) != 2:
        return 0.0
    over = [axis % 3 for axis in node.attribute("axes")]
    if len(over) != 1 or not over[0] or label(layout[0]) != 0 or read not in facts.learnt_values:
        return 0.0
    of_layer = label(layout[over[0]]) is None and label(layout[3 - over[0]]) not in (None, 0)
    return float(before[over[0]]) if of_layer and _pooled_into(facts, node) != _NONE else 0.0


def _pooled_into(facts: Facts, node: Node) -> str:
    """What becomes of the number that a mean or maximum leaves of each position's features."""
    if node.op in _POOLS and _reads_features(facts, node.outputs[0]):
        return "the layer behind takes positions for features"
    layer = facts.source_beyond(facts.producer(node), ("identity", "reshape", "transpose"), alone=True)
    averaged = node.op in ("reduce_mean", "reduce_sum") and layer is not None and layer.op == "linear"
    if averaged and node.outputs[0] in facts.graph.outputs:
        return "that is the output: all units of the layer in front give what one would give"
    return _NONE


def _straight_layers(facts: Facts) -> float:
    """Trained layers on the longest path of a network in which nothing between them bends, but sums or products with
    what no layer gives join them; 0 where something bends."""
    graph = facts.graph
    ahead = _before_layers(graph)
    between = [node for node in graph.nodes if ahead.intersection(node.outputs) and _is_behind(facts, node)]
    if any(not _is_straight(facts, node) for node in between) or not any(node.op in _JOINS for node in between):
        return 0.0
    depth: dict[str, int] = {}
    for node in graph.nodes:
        so_far = max((depth[name] for name in node.present_inputs if name in depth), default=0)
        depth.update(dict.fromkeys(node.outputs, so_far + _is_trained_layer(node)))
    return float(max(depth.values(), default=0))


def _is_trained_layer(node: Node) -> bool:
    weight = node.parameters.get("weight") if node.op in LAYERS else None
    return weight is not None and weight.trainable


def _before_layers(graph: Graph) -> set[str]:
    """Values that a trained layer lies behind."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if _is_trained_layer(node) or found.intersection(node.outputs):
            found.update(node.present_inputs)
    return found


def _is_behind(facts: Facts, node: Node) -> bool:
    return node.outputs[0] in facts.learnt_values


def _is_straight(facts: Facts, node: Node) -> bool:
    learnt = sum(name in facts.learnt_values for name in node.present_inputs)
    return node.op in _BENDS_NOTHING and (node.op not in ("mul", "matmul") or learnt < 2)


FEATURES = (
    function(
        "lengths_elsewhere(n)",
        "truth",
        _lengths_elsewhere,
        "n divides vectors by their length along positions, and all that reads them sums over their features",
    ),
    function(
        "normalised_steps(n)",
        "number",
        _normalised_steps,
        "positions each of which the batch normalisation n gives a mean and a scale, before layers that take features; "
        "0 of others",
    ),
    function(
        "pooled_features(n)",
        "number",
        _pooled_features,
        "features that the mean, sum or maximum n puts together, of a value of positions and features, where what "
        "reads it takes the positions for features, or where the mean of a layer's units is an output; 0 of others",
    ),
    function(
        "pooled_into(n)",
        "text",
        _pooled_into,
        "what becomes of the number that n, a mean, sum or maximum, leaves of each position's features, a clause; or "
        "none",
    ),
    function(
        "straight_layers()",
        "number",
        _straight_layers,
        "trained layers on the longest path of a network that has sums or products with inputs between them, and "
        "nothing that bends; 0 of others",
    ),
)
