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
            return bool(taken) and taken <= over and not _uneven(source) and not _drops(source)
        if source.op not in ("bias", "identity") or (source.op == "bias" and not source.parameters):
            return False
        value = source.present_inputs[0]
    return False


def _uneven(node: Node) -> bool:
    """Whether a normalisation has a scale for each of the entries that it takes the mean of."""
    return node.op == "layer_norm" and "scale" in node.parameters


def _drops(node: Node) -> bool:
    """Whether the shares left of the largest few do not add up to 1 again."""
    return node.op == "softmax" and node.attribute("top") is not None and not node.attribute("renormalised")


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
    """Operands of the sum that is a value which are broadcast along the axes; what others read too is not followed.

    A layer along another axis is such a sum too, of what its parts of the input give: those that were repeated along
    the axes before they were joined.
    """
    waiting = [(value, axes)]
    while waiting:
        name, along = waiting.pop()
        node = graph.producers.get(name)
        if node is None or len(graph.consumers.get(name, ())) != 1 or name in graph.outputs:
            continue
        operand, before = _linear_in(graph, node, along)
        if operand is not None and before:
            waiting.append((operand, before))
        elif node.op == "concat" and int(node.attribute("axis")) % _rank(graph, name) - _rank(graph, name) not in along:
            waiting += [(each, along) for each in node.present_inputs]
        elif node.op in ("expand", "tile") and _is_repeated(graph, node, along):
            yield node.name, 0
        elif node.op in ("add", "sub"):
            for place, each in enumerate(node.present_inputs):
                if graph.values[each].concrete_shape is None:
                    continue
                if _is_one_along(graph, each, along) and _is_wide(graph, name, along):
                    yield node.name, place
                else:
                    waiting.append((each, along))


def _is_repeated(graph: Graph, node: Node, axes: frozenset[int]) -> bool:
    return _is_one_along(graph, node.present_inputs[0], axes) and _is_wide(graph, node.outputs[0], axes)


def _is_one_along(graph: Graph, value: str, axes: frozenset[int]) -> bool:
    shape = graph.values[value].concrete_shape
    return shape is not None and all(-axis > len(shape) or shape[axis] == 1 for axis in axes)


def _linear_in(graph: Graph, node: Node, axes: frozenset[int]) -> tuple[str | None, frozenset[int]]:
    """The operand that a node is a linear map of, the same one all along the axes, and where these lie in it."""
    operand = node.present_inputs[0] if node.present_inputs else None
    if node.op in ("bias", "identity") or (node.op == "scale" and not node.parameters):
        return operand, axes
    if node.op == "linear" and -1 not in axes:
        return operand, axes
    if node.op == "reshape":
        return operand, _before_reshape(graph, node, axes)
    if node.op == "slice" and operand is not None:
        rank = _rank(graph, operand)
        return operand, axes if axes.isdisjoint(
            int(axis) % rank - rank for axis in node.attribute("axes")
        ) else frozenset()
    if node.op == "transpose":
        order = node.attribute("perm")
        return operand, frozenset(int(order[axis]) - len(order) for axis in axes)
    if node.op in ("reduce_sum", "reduce_mean") and operand is not None:
        rank = _rank(graph, operand)
        kept = [
            place - rank
            for place in range(rank)
            if node.attribute("keepdims") or place - rank not in _over(graph, node)
        ]
        found = frozenset(kept[axis] for axis in axes if -axis <= len(kept))
        return operand, found if len(found) == len(axes) and not found & _over(graph, node) else frozenset()
    if node.op == "matmul" and len(node.present_inputs) == 2 and axes in ({-1}, {-2}):
        place = 1 if axes == {-1} else 0
        turned = bool(node.attribute("transpose_b" if place else "transpose_a"))
        return node.present_inputs[place], frozenset({-1 if turned != bool(place) else -2})
    return None, frozenset()


def _before_reshape(graph: Graph, node: Node, axes: frozenset[int]) -> frozenset[int]:
    """The axes in what a reshape reads that does no more than put in or take out axes of size 1; none if it does."""
    before, after = (graph.values[name].concrete_shape for name in (node.present_inputs[0], node.outputs[0]))
    if before is None or after is None or [n for n in before if n != 1] != [n for n in after if n != 1]:
        return frozenset()
    wide = [[place for place, size in enumerate(shape) if size != 1] for shape in (before, after)]
    moved = {there - len(after): here - len(before) for here, there in zip(*wide, strict=True)}
    return frozenset(moved[axis] for axis in axes) if axes <= moved.keys() else frozenset()


def _is_wide(graph: Graph, value: str, axes: frozenset[int]) -> bool:
    shape = graph.values[value].concrete_shape or ()
    return any(-axis <= len(shape) and shape[axis] > 1 for axis in axes)
