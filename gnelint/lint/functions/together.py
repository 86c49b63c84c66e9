"""What is put together across samples or positions by views, joins, divisions and gates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gnelint.analysis.axes.layout import label
from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families

_MOVES = frozenset({"identity", "reshape", "expand", "transpose"})
_POINTWISE = families()["activation"] | {"identity", "bias", "scale", "dropout"}
_REDUCES = frozenset({"reduce_max", "reduce_sum", "reduce_l2", "reduce_mean"})
_GUARDS = frozenset({"identity", "expand", "reshape", "bias", "clip", "pow", "sqrt", "abs", "scale"})
_ROUNDS = frozenset({"step", "straight_through", "clip"})
_CLASSES = 3


def _merged_samples(facts: Facts, node: Node) -> float:
    """How many rows that belong to different samples a view puts side by side into one.

    Parts that were joined along the batch lie behind each other: a view as (batch, parts) pairs neighbours.
    """
    batch = facts.axes.shape[0] if facts.axes.shape else 0
    if node.op != "reshape" or batch < 2:
        return 0.0
    before, after = facts.graph.values[node.present_inputs[0]].concrete_shape, facts.shape(node)
    if not before or not after or len(before) < 2:
        return 0.0
    source = facts.source_beyond(facts.producer(node), _POINTWISE, alone=True)
    if source is not None and source.op == "concat" and source.attribute("axis") == 0:
        parts = [facts.graph.values[name].concrete_shape for name in source.present_inputs]
        joined = len(parts) > 1 and all(part is not None and part[0] == batch for part in parts)
        ahead = {math.prod(after[:place]) for place in range(1, len(after) + 1)}
        if joined and before[0] == batch * len(parts) == after[0] * len(parts) and before[0] not in ahead:
            return float(len(parts))
    layout = facts.axes.layouts.get(node.present_inputs[0])
    own = layout is not None and label(layout[0]) == 0 and before[0] == batch
    own = own and math.prod(before[1:]) % after[-1] != 0  # else each row lies within one sample
    cut = any(math.prod(after[:place]) == batch for place in range(1, len(after) + 1))
    return batch / after[0] if own and not cut and after[0] < batch and batch % after[0] == 0 else 0.0


def _divided_by_batch(facts: Facts, node: Node) -> bool:
    """Whether what layers give is divided by its own maximum, sum or length over all samples, and not rounded then; or
    a sum over positions by the sum of a mask over all samples."""
    if node.op == "l2_normalize":
        return node.present_inputs[0] in facts.learnt_values and _over_all(
            facts, node.present_inputs[0], node.attribute("axes"), node.outputs[0]
        )
    if node.op != "div" or len(node.present_inputs) != 2 or node.present_inputs[0] not in facts.learnt_values:
        return False
    statistic = facts.source_beyond(facts.producer(node, 1), _GUARDS, alone=True)
    if statistic is None or statistic.op not in _REDUCES:
        return False
    read = statistic.present_inputs[0]
    if not _is_made_of(facts, read, node.present_inputs[0]) and not _is_mask_of(facts, read, node):
        return False
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    whole = _over_all(facts, read, statistic.attribute("axes"), node.outputs[0])
    return whole and not any(reader.op in _ROUNDS for reader in readers)


def _over_all(facts: Facts, read: str, axes: Sequence[int], given: str) -> bool:
    """Whether a statistic is over samples and features at once, where what it is used for has rows for samples."""
    layout, rows = facts.axes.layouts.get(read), facts.axes.layouts.get(given)
    if not layout or not rows or len(layout) < 2 or label(layout[0]) != 0 or label(rows[0]) != 0:
        return False
    return {0, 1} <= {axis % len(layout) for axis in axes}


def _is_made_of(facts: Facts, read: str, value: str) -> bool:
    """Whether sizes or squares of a value are what is read."""
    while read != value:
        source = facts.graph.producers.get(read)
        if source is None or source.op not in ("abs", "pow", "mul", "identity"):
            return False
        read = source.present_inputs[0]
    return True


def _is_mask_of(facts: Facts, read: str, node: Node) -> bool:
    """Whether what is divided is a sum over positions of a product with what is read, an input or made of one."""
    total = facts.source_beyond(facts.producer(node), _MOVES, alone=True)
    product = facts.producer(total) if total is not None and total.op == "reduce_sum" else total
    if product is None or product.op not in ("mul", "matmul") or read in facts.learnt_values:
        return False
    return any(_beyond_moves(facts, name) == _beyond_moves(facts, read) for name in product.present_inputs)


def _beyond_moves(facts: Facts, name: str) -> str:
    source = facts.graph.producers.get(name)
    while source is not None and source.op in _MOVES:
        name = source.present_inputs[0]
        source = facts.graph.producers.get(name)
    return name


def _gated_by_later(facts: Facts, node: Node) -> float:
    """Of a product of two parts of one value that were cut along positions: how many positions lie between."""
    if node.op != "mul" or len(set(node.present_inputs)) != 2:
        return 0.0
    cuts = [_cut(facts, name) for name in node.present_inputs]
    if any(cut is None for cut in cuts):
        return 0.0
    (one, axis, start), (other, place, end) = (cut for cut in cuts if cut is not None)
    layout = facts.axes.layouts.get(one)
    if one != other or axis != place or layout is None or label(layout[axis]) in (None, 0):
        return 0.0
    return float(abs(start - end))


def _cut(facts: Facts, name: str) -> tuple[str, int, int] | None:
    """The value that one was cut out of, activations passed over; the axis, and where the part begins."""
    node = facts.graph.producers.get(name)
    while node is not None and node.op in _POINTWISE and len(node.present_inputs) == 1:
        name = node.present_inputs[0]
        node = facts.graph.producers.get(name)
    if node is None or node.op not in ("split", "slice"):
        return None
    rank = len(facts.graph.values[node.present_inputs[0]].concrete_shape or ())
    if node.op == "split":
        sizes, at = node.attribute("sizes"), node.outputs.index(name)
        return node.present_inputs[0], node.attribute("axis") % max(rank, 1), sum(sizes[:at])
    if len(node.attribute("axes")) != 1 or node.attribute("steps")[0] != 1:
        return None
    return node.present_inputs[0], node.attribute("axes")[0] % max(rank, 1), node.attribute("starts")[0]


def _over_positions(facts: Facts, node: Node) -> bool:
    """Whether the one output is a softmax along positions of what a layer gives for each class."""
    shape = facts.shape(node)
    if node.op not in ("softmax", "log_softmax") or facts.graph.outputs != (node.outputs[0],) or not shape:
        return False
    axis = node.attribute("axis") % len(shape)
    source = facts.source_beyond(facts.producer(node), ("scale", "bias", "identity", "dropout"))
    layout = facts.axes.layouts.get(node.present_inputs[0])
    if source is None or layout is None or label(layout[axis]) in (None, 0):
        return False
    if source.op == "conv":  # of images the classes are the second axis, and shares along one of the others are odd
        return len(shape) > 3 and axis > 1 and shape[1] >= _CLASSES
    return source.op == "linear" and len(shape) == 3 and axis == 1 and shape[-1] >= _CLASSES


def _shares_elsewhere(facts: Facts, node: Node) -> bool:
    """Whether shares along one axis weigh coordinates that are summed along another one, or values that are summed over
    the samples, or over features that all have one share."""
    shape, name = facts.shape(node), node.outputs[0]
    if node.op != "softmax" or not shape:
        return False
    axis = node.attribute("axis") % len(shape)
    readers = facts.graph.consumers.get(name, ())
    while len(readers) == 1 and readers[0].op in _MOVES - {"transpose"}:
        after = facts.shape(readers[0])
        if after is None or after[: len(shape)] != shape:
            return False
        name = readers[0].outputs[0]
        readers = facts.graph.consumers.get(name, ())
    sums = [_weighed(facts, reader) for reader in readers]
    return bool(sums) and all(each is not None and each != axis for each in sums)


def _weighed(facts: Facts, node: Node) -> int | None:
    """The axis along which fixed coordinates, or values that layers give, times something are summed; None of other
    nodes."""
    if node.op == "mul":
        return _summed_values(facts, node)
    table = node.parameters.get("scale") if node.op == "scale" else None
    shape, readers = facts.shape(node), facts.graph.consumers.get(node.outputs[0], ())
    if table is None or table.trainable or table.size < _CLASSES or not shape or len(readers) != 1:
        return None
    axes = tuple(readers[0].attribute("axes")) if readers[0].op == "reduce_sum" else ()
    place = axes[0] % len(shape) - (len(shape) - len(table.shape)) if len(axes) == 1 else -1
    return axes[0] % len(shape) if place >= 0 and table.shape[place] > 1 else None


def _summed_values(facts: Facts, node: Node) -> int | None:
    """The axis of samples, or one along which a factor is one number, along which alone a product is summed."""
    shape, readers = facts.shape(node), facts.graph.consumers.get(node.outputs[0], ())
    if not shape or len(readers) != 1 or readers[0].op != "reduce_sum" or len(readers[0].attribute("axes")) != 1:
        return None
    axis, layout = readers[0].attribute("axes")[0] % len(shape), facts.axes.layouts.get(node.outputs[0])
    if layout is None or shape[axis] == 1:
        return None
    factors = [facts.graph.values[name].concrete_shape for name in node.present_inputs]
    one = any(own is not None and len(own) == len(shape) and own[axis] == 1 for own in factors)
    return axis if one or label(layout[axis]) == 0 else None


def _own_likeness(facts: Facts, node: Node) -> bool:
    """Whether the logarithms of shares are taken of all rows of one value set against all, with nothing hidden."""
    shape = facts.shape(node)
    if node.op != "log_softmax" or "mask" in node.parameters or not shape or len(shape) != 2 or shape[0] != shape[1]:
        return False
    source = facts.source_beyond(facts.producer(node), ("scale", "identity"))
    return source is not None and is_own_product(facts, source)


def is_own_product(facts: Facts, node: Node) -> bool:
    """Whether a matrix product is that of a value with its own transpose."""
    if node.op != "matmul" or len(node.present_inputs) != 2:
        return False
    first, second = (_untransposed(facts, name) for name in node.present_inputs)
    shape = facts.shape(node)
    return first == second and bool(shape) and shape is not None and len(shape) > 1 and shape[-1] == shape[-2] > 1


def _untransposed(facts: Facts, name: str) -> str:
    node = facts.graph.producers.get(name)
    while node is not None and (node.op in ("transpose", "identity") or (node.op == "scale" and not node.parameters)):
        name = node.present_inputs[0]
        node = facts.graph.producers.get(name)
    return name


def _own_distances(facts: Facts, node: Node, deepest: int = 10) -> bool:
    """Whether a root reads squared distances of rows to themselves: lengths less a product with its own transpose."""
    source, clamped = facts.producer(node), False
    while (
        source is not None and source.op in ("relu", "clip", "identity") and "aten.relu" not in (source.source_op or "")
    ):
        clamped, source = True, facts.producer(source)
    return node.op == "sqrt" and clamped and source is not None and _holds_own_product(facts, source, deepest)


def _holds_own_product(facts: Facts, node: Node, deepest: int) -> bool:
    if is_own_product(facts, node):
        return True
    if node.op not in ("add", "sub", "bias", "scale", "expand", "reshape") or not deepest:
        return False
    sources = [facts.graph.producers.get(name) for name in node.present_inputs]
    return any(source is not None and _holds_own_product(facts, source, deepest - 1) for source in sources)


def _late_frame(facts: Facts, node: Node) -> float:
    """How many later positions a convolution over time sees that is padded at the end alone, for all of its kernel."""
    frame = facts.producer(node)
    if node.op != "conv" or frame is None or frame.op != "pad" or len(facts.shape(node) or ()) != 3:
        return 0.0
    pads, reach = frame.attribute("pads"), (node.parameters["weight"].shape[-1] - 1) * node.attribute("dilations")[0]
    ahead, behind = pads[len(pads) // 2 - 1], pads[-1]
    alone = ahead == 0 and behind == reach and set(node.attribute("pads")) == {0} and node.attribute("strides")[0] == 1
    return float(behind) if alone and reach > 1 else 0.0


_PRODUCTS = frozenset({"aten.prod.dim_int", "aten.prod.default", "aten.cumprod.default", "ReduceProd", "CumProd"})


def _multiplied_along(facts: Facts, node: Node) -> bool:
    """Whether all that reads a share, or 1 less it, multiplies it along an axis."""
    readers = facts.consumers_beyond(node, frozenset({"scale", "bias", "reshape", "identity", "transpose", "expand"}))
    return bool(found := list(readers)) and all(reader.source_op in _PRODUCTS for reader in found)


def _product_bits(facts: Facts, node: Node) -> float | None:
    """log2 of a product of so many numbers of the mean that is predicted, of those before the last of a running one."""
    read = facts.input_moments(node) if node.present_inputs else None
    value = facts.graph.values.get(node.present_inputs[0]) if node.present_inputs else None
    before, after = None if value is None else value.concrete_shape, facts.shape(node)
    known = facts.ranges.get(node.present_inputs[0]) if node.present_inputs else None
    if read is None or not before or after is None or known is None or known.low < 0 or known.high > 1 or read[0] <= 0:
        return None
    count = math.prod(before) / max(math.prod(after), 1) if before != after else min(before[1:], default=1)
    return float(count * np.log2(read[0]))


TOGETHER = (
    function(
        "merged_samples(n)",
        "number",
        _merged_samples,
        "rows of different samples that the reshape n puts side by side into one row",
    ),
    function(
        "divided_by_batch(n)",
        "truth",
        _divided_by_batch,
        "n divides what layers give by its own maximum, sum or length over all samples of the batch, or a sum over "
        "positions by that of a mask over all samples",
    ),
    function(
        "gated_by_later(n)",
        "number",
        _gated_by_later,
        "the product n is of two parts of one value that were cut along its positions: how far they lie apart",
    ),
    function(
        "over_positions(n)",
        "truth",
        _over_positions,
        "the softmax n is the network's one output, and runs along positions where a layer gives scores of classes",
    ),
    function(
        "shares_elsewhere(n)",
        "truth",
        _shares_elsewhere,
        "the shares of the softmax n weigh coordinates or values that are summed along another axis than the softmax's",
    ),
    function(
        "own_likeness(n)",
        "truth",
        _own_likeness,
        "n takes logarithms of shares of a product of all rows with themselves, with nothing hidden",
    ),
    function(
        "own_distances(n)",
        "truth",
        _own_distances,
        "the root n reads clamped squared distances made of a product of a value with its own transpose",
    ),
    function(
        "late_frame(n)",
        "number",
        _late_frame,
        "later positions that the convolution n over time sees, padded at the end alone for all of its kernel",
    ),
    function(
        "multiplied_along(n)",
        "truth",
        _multiplied_along,
        "all that reads the share n, or 1 less it, multiplies it along an axis (prod, cumprod)",
    ),
    function(
        "product_bits(n)",
        "number",
        _product_bits,
        "log2 of the product of as many numbers, of the mean that is predicted, as n multiplies; of numbers between 0 "
        "and 1",
    ),
)
