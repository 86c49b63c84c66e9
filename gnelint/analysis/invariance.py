"""Where a softmax or a normalisation takes out what it reads: what is the same all along its axis, or its own mean.

softmax(z + c) = softmax(z), and a normalisation that subtracts the mean gives the same for x + c: the derivative for c
is zero, exactly. The mean of what such a normalisation gives is its shift, and shares add up to 1, whatever the input.
"""

from __future__ import annotations

from collections.abc import Iterator

from gnelint.ir.graph import Graph, Node

_SHARES = frozenset({"softmax", "log_softmax"})
_CENTRING = frozenset({"layer_norm", "instance_norm"})
_MEANS = frozenset({"reduce_mean", "reduce_sum", "global_avg_pool", "adaptive_avg_pool"})


def taken_out(graph: Graph) -> Iterator[tuple[tuple[str, int], str]]:
    """Operands of sums, as a node's name and a place, that a softmax or norm behind takes out; and its name."""
    for node in graph.nodes:
        axes = _axes(graph, node)
        if axes:
            yield from ((operand, node.name) for operand in _same_along(graph, node.present_inputs[0], axes))


def is_fixed(graph: Graph, node: Node) -> bool:
    """Whether a node gives the same for every input: the mean of what has a given mean, or the sum of shares."""
    over = _over(graph, node)
    value = node.present_inputs[0] if over else None
    while value is not None and over:
        source = graph.producers.get(value)
        if source is None:
            return False
        if source.op in _CENTRING or source.op == "softmax":
            taken = _axes(graph, source)
            return bool(taken) and taken <= over and not _uneven(source)
        if source.op not in ("bias", "identity") or (source.op == "bias" and not source.parameters):
            return False
        value = source.present_inputs[0]
    return False


def _uneven(node: Node) -> bool:
    """Whether a normalisation has a scale for each of the entries that it takes the mean of."""
    return node.op == "layer_norm" and "scale" in node.parameters


def _rank(graph: Graph, value: str) -> int:
    return len(graph.values[value].concrete_shape or ())


def _axes(graph: Graph, node: Node) -> frozenset[int]:
    """The axes that a softmax or a centring normalisation goes along, counted from the last, which is -1."""
    rank = _rank(graph, node.outputs[0])
    if not rank:
        return frozenset()
    if node.op in _SHARES:
        return frozenset({int(node.attribute("axis")) % rank - rank})
    if node.op == "layer_norm":
        return frozenset(int(axis) % rank - rank for axis in node.attribute("axes"))
    return frozenset(range(2 - rank, 0)) if node.op == "instance_norm" else frozenset()


def _over(graph: Graph, node: Node) -> frozenset[int]:
    """The axes that a mean or sum is taken over, counted from the last."""
    if node.op not in _MEANS or not node.present_inputs:
        return frozenset()
    rank = _rank(graph, node.present_inputs[0])
    if node.op.startswith("reduce"):
        return frozenset(int(axis) % rank - rank for axis in node.attribute("axes")) if rank else frozenset()
    to_one = node.op == "global_avg_pool" or all(size == 1 for size in node.attribute("output_size"))
    return frozenset(range(2 - rank, 0)) if to_one else frozenset()


def _same_along(graph: Graph, value: str, axes: frozenset[int]) -> Iterator[tuple[str, int]]:
    """Operands of the sum that is a value which are broadcast along the axes; what others read too is not followed."""
    node = graph.producers.get(value)
    if node is None or len(graph.consumers.get(value, ())) != 1 or value in graph.outputs:
        return
    if node.op in ("bias", "identity") or (node.op == "scale" and not node.parameters):
        yield from _same_along(graph, node.present_inputs[0], axes)
    if node.op not in ("add", "sub"):
        return
    for place, name in enumerate(node.present_inputs):
        shape = graph.values[name].concrete_shape
        if shape is None:
            continue
        if all(-axis > len(shape) or shape[axis] == 1 for axis in axes) and _is_wide(graph, value, axes):
            yield node.name, place
        else:
            yield from _same_along(graph, name, axes)


def _is_wide(graph: Graph, value: str, axes: frozenset[int]) -> bool:
    shape = graph.values[value].concrete_shape or ()
    return any(-axis <= len(shape) and shape[axis] > 1 for axis in axes)
