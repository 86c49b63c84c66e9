"""Along which axes a node mixes what it reads: samples that meet, positions that see later ones, axes torn apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

from gnelint.analysis.axes.following import main_input
from gnelint.analysis.axes.layout import Axis, label, sizes, tears
from gnelint.analysis.axes.masks import shown
from gnelint.analysis.axes.reach import reach
from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function

_NONE = "none"
_LONG = 16
"""Entries from which on an axis counts as one of positions."""
_NORMALISES = frozenset({"div", "pow", "abs", "reduce_l2"})
_KEEPS_ONE = frozenset({"identity", "expand", "reshape", "scale", "bias"})
"""What makes one number of one number."""


def _sees_later(facts: Facts, node: Node) -> str:
    if _hides_past(node):
        return "its mask hides the earlier ones"
    if _shows_next(node) and _names_words(facts):
        return "its mask hides all of them but the next"
    found = facts.leaks.get(node.name)
    return _NONE if found is None else f"{found.node} before it hides them"


def _hides_past(node: Node) -> bool:
    """Whether a constant mask shows each entry later ones and hides all earlier ones."""
    mask = node.parameters.get("mask")
    seen = None if mask is None else shown(mask)
    if seen is None or len(seen) < 3:
        return False
    return bool(seen[np.triu_indices(len(seen), 1)].all()) and not bool(np.tril(seen, -1).any())


def _shows_next(node: Node) -> bool:
    """Whether a constant mask shows each entry all earlier ones, itself, and one later one."""
    mask = node.parameters.get("mask")
    seen = None if mask is None else shown(mask)
    return seen is not None and len(seen) > 3 and np.array_equal(seen, np.tri(len(seen), k=1, dtype=np.bool_))


def _names_words(facts: Facts) -> bool:
    """Whether the output has a score for each row of a table that an input is looked up in, at each position."""
    shapes = [facts.graph.values[name].concrete_shape for name in facts.graph.outputs]
    tables = {node.parameters["weight"].shape[0] for node in facts.graph.nodes if node.op == "embedding"}
    return any(shape is not None and len(shape) == 3 and shape[-1] in tables for shape in shapes)


def _torn(facts: Facts, node: Node) -> float | None:
    """The size of an axis that a reshape gives, that what it reads has too, and that is cut out of others all the same.

    Shifting a row at a time (pad, reshape, slice) does that on purpose.
    """
    if node.op != "reshape" or _is_padded(facts, node):
        return 0.0
    layout = facts.axes.layouts.get(node.present_inputs[0])
    before, after = facts.graph.values[node.present_inputs[0]].concrete_shape, facts.shape(node)
    if layout is None or before is None or after is None:
        return None
    if any(_shifts(reader, before, after) for name in node.outputs for reader in facts.graph.consumers.get(name, ())):
        return 0.0
    if not tears(layout, after):
        return 0.0
    factors = [size for axis in layout for _, size in axis]  # what was joined before, as samples and steps
    return float(torn_axis(before, after) or torn_axis(factors, after))


def _shifts(reader: Node, before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether what reads a reshape cuts or fills it along one of the axes that it took apart, not among features."""
    cut = [after[axis] for axis in reader.attribute("axes")] if reader.op == "slice" else []
    return reader.op == "pad" or any(size in before for size in cut)


def _pixels_by_view(facts: Facts, node: Node) -> float:
    """By how much a view makes pictures larger out of channels (or smaller, below 1); 0 for any other reshape."""
    layout = facts.axes.layouts.get(node.present_inputs[0]) if node.op == "reshape" else None
    after = facts.shape(node)
    if layout is None or after is None or len(layout) != 4 or len(after) != 4:
        return 0.0
    before = sizes(layout)
    pictures = [label(axis) for axis in layout[2:]]
    rows, columns = after[2] / before[2], after[3] / before[3]
    kept = before[0] == after[0] and None not in pictures and pictures[0] != pictures[1]
    return rows if kept and rows == columns != 1.0 and before[1] == after[1] * rows * columns else 0.0


def _is_padded(facts: Facts, node: Node) -> bool:
    """Whether what a reshape reads is a slice, or was padded, perhaps by joining constants to it."""
    source = facts.producer(node)
    if source is None or source.op != "concat":
        return source is not None and source.op in ("pad", "slice")
    return any(name not in facts.graph.gradient_values for name in source.present_inputs)


def torn_axis(before: Sequence[int], after: Sequence[int]) -> int:
    """The largest size on both sides whose entries a reshape takes from several axes; 0 if there is none.

    Axes line up where the sizes ahead of both have the same product.
    """
    starts = {(math.prod(before[:place]), size) for place, size in enumerate(before)}
    cuts = {math.prod(after[:place]) for place in range(len(after) + 1)}
    found = [
        size
        for place, size in enumerate(after)
        if size > 1
        and size in before
        and (math.prod(after[:place]), size) not in starts
        and not _whole(before, math.prod(after[:place]), size)
        and (not _in_one(before, math.prod(after[:place]), size) or _is_swap(before, after))
        and not _kept(before, size, cuts)
    ]
    return max(found, default=0)


def _whole(before: Sequence[int], ahead: int, size: int) -> bool:
    """Whether an axis of what is given is several whole axes of what is read."""
    bounds = {math.prod(before[:place]) for place in range(len(before) + 1)}
    return ahead in bounds and ahead * size in bounds


def _in_one(before: Sequence[int], ahead: int, size: int) -> bool:
    """Whether it is a part of one axis of what is read."""
    bounds = [math.prod(before[:place]) for place in range(len(before) + 1)]
    return any(start <= ahead and ahead * size <= end for start, end in pairwise(bounds))


def _is_swap(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether every axis that is given has the size of whole axes that are read, each taken once, out of order."""
    if not after:
        return all(size == 1 for size in before)
    for count in range(1, len(before) + 1):
        for chosen in combinations(range(len(before)), count):
            if math.prod(before[place] for place in chosen) == after[0]:
                left = [size for place, size in enumerate(before) if place not in chosen]
                if _is_swap(left, after[1:]):
                    return True
    return False


def _kept(before: Sequence[int], size: int, cuts: set[int]) -> bool:
    """Whether every axis of this size that is read is given on as it was: then another one is meant."""
    bounds = [math.prod(before[:place]) for place in range(len(before) + 1)]
    spans = zip(pairwise(bounds), before, strict=True)
    return all({start, end} <= cuts for (start, end), own in spans if own == size)


def _mixes_in_batch(facts: Facts, node: Node) -> str:
    """What is made of samples and features at once and taken from each entry, or added to each."""
    if node.op not in ("add", "sub") or len(node.present_inputs) != 2:
        return _NONE
    if _subtracts_batch_mean(facts, node):
        return "takes a mean over samples and features from each entry"
    rows = facts.axes.layouts.get(node.outputs[0])
    if not rows or label(rows[0]) != 0 or sizes(rows)[0] < 2:
        return _NONE
    for name in node.present_inputs:
        shape = facts.graph.values[name].concrete_shape
        if shape is not None and math.prod(shape) == 1 and name in facts.learnt_values and _is_total(facts, name):
            return "has one number for all samples, a sum over samples and features, beside what each sample has"
    return _NONE


def _is_total(facts: Facts, name: str) -> bool:
    """Whether a number is a sum or mean over samples and features of what layers give, scaled and shifted perhaps.

    Features may have been added up before, as the logarithms of a flow's scales are.
    """
    maker = facts.graph.producers.get(name)
    if maker is not None and maker.op == "scale" and not maker.parameters and maker.attribute("factor") == 0:
        return False  # so that unused layers get gradients
    source = facts.source_beyond(facts.graph.producers.get(name), _KEEPS_ONE)
    if source is None:
        return False
    if source.op == "matmul":
        return any(each.node == source.name and each.axis == 0 for each in facts.axes.mixings)
    layout = facts.axes.layouts.get(source.present_inputs[0]) if source.op in ("reduce_sum", "reduce_mean") else None
    several = len(layout or ()) > 1 or source.op == "reduce_sum"  # a loss may add a mean of its samples' numbers
    return bool(layout) and several and any(label(axis) == 0 for axis in layout or ())


def _subtracts_batch_mean(facts: Facts, node: Node) -> bool:
    """Whether a mean over samples and features is taken from each entry, and no normalisation follows."""
    if node.op != "sub" or len(node.present_inputs) != 2:
        return False
    mean = facts.source_beyond(facts.producer(node, 1), ("identity", "expand", "reshape"))
    if mean is None or mean.op != "reduce_mean":
        return False
    layout, over = facts.axes.layouts.get(mean.present_inputs[0]), mean.attribute("axes")
    whole = facts.axes.layouts.get(node.outputs[0])
    if layout is None or not whole or len(layout) < 2:
        return False
    samples = {axis for axis in over if layout[axis % len(layout)] == whole[0] and axis % len(layout) == 0}
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    squared = any(reader.op == "mul" and len(set(reader.present_inputs)) == 1 for reader in readers)
    return bool(samples) and len(over) > 1 and not squared and not any(each.op in _NORMALISES for each in readers)


def _crosses_samples(facts: Facts, node: Node) -> bool:
    """Whether operands of different rank both hold the samples, at different places: (n, 1) with (n,) gives (n, n).

    Where an axis was put in on purpose (a reshape right before) each sample is set against each other one.
    """
    if node.op not in ("add", "sub", "mul", "div") or len(node.present_inputs) != 2:
        return False
    operands = [_unexpanded(facts, name) for name in node.present_inputs]
    found = [(facts.axes.layouts.get(name), facts.graph.producers.get(name)) for name in operands]
    if any(layout is None for layout, _ in found):
        return False
    (low, _), (high, maker) = sorted(found, key=lambda each: len(each[0] or ()))
    if not low or not high or len(low) == len(high) or (maker is not None and maker.op == "reshape"):
        return False
    places = [
        [len(each) - at for at, axis in enumerate(each) if (0, math.prod(s for _, s in axis)) in axis]
        for each in (low, high)
    ]
    shape = facts.shape(node)
    return bool(shape) and len(places[0]) == len(places[1]) == 1 and places[0] != places[1] and max(shape or (0,)) > 1


def _pairs_others(facts: Facts, node: Node) -> bool:
    """Whether operands hold the samples along the same axis in different order: 0 1 2 0 1 2 beside 0 0 1 1 2 2.

    As many copies as there are samples are all pairs of them, which somebody wanted.
    """
    if node.op not in ("add", "sub", "mul", "div", "concat") or len(node.present_inputs) < 2:
        return False
    if any(_is_fixed_part(facts, name) for name in node.present_inputs):
        return False
    found = [facts.axes.layouts.get(_unexpanded(facts, name)) for name in node.present_inputs]
    known = [layout for layout in found if layout is not None]
    if len(known) < len(found) or len({len(layout) for layout in known}) > 1:
        return False
    joined = node.attribute("axis") % len(known[0]) if node.op == "concat" else None
    for place, parts in enumerate(zip(*known, strict=True)):
        orders = {_order(part) for part in parts}
        if place != joined and len(orders) > 1 and None not in orders:
            return True
    return False


_THROUGH = frozenset({"tile", "reshape", "identity", "bias", "scale", "expand", "transpose"})
"""What leaves alike what is the same for all samples."""


def _is_fixed_part(facts: Facts, value: str) -> bool:
    """Whether a value is the same for all samples though it was joined to what is not: a class token cut out again."""
    node = facts.source_beyond(facts.graph.producers.get(value), _THROUGH)
    if node is None or node.op != "slice" or len(node.attribute("axes")) != 1:
        return False
    axis, start, end = (node.attribute(name)[0] for name in ("axes", "starts", "ends"))
    joined = facts.source_beyond(facts.producer(node), ("bias", "scale", "identity", "dropout"))
    if joined is None or joined.op != "concat" or joined.attribute("axis") != axis:
        return False
    begin = 0
    for name in joined.present_inputs:
        shape = facts.graph.values[name].concrete_shape
        if shape is None:
            return False
        if begin <= start and end <= begin + shape[axis]:
            return name not in facts.graph.gradient_values
        begin += shape[axis]
    return False


def _order(axis: Axis) -> tuple[int, int] | None:
    """How many copies or positions stand ahead of the samples along an axis, and behind; None where they are alone, not
    there, or as many."""
    place = next((at for at, (label, size) in enumerate(axis) if label == 0 and size > 1), None)
    if place is None:
        return None
    ahead, behind = (math.prod(size for _, size in part) for part in (axis[:place], axis[place + 1 :]))
    return None if ahead * behind in (1, axis[place][1]) else (ahead, behind)


def _read_share(facts: Facts) -> float:
    """The least share of the main input's entries, along an axis that is not the samples', that outputs depend on."""
    main = main_input(facts.graph)
    if main is None or not facts.axes.shape:
        return 1.0
    found = reach(facts.graph, facts.axes, main)
    shares = (
        (high - low + 1) / facts.axes.shape[axis]
        for axis, (low, high) in found.items()
        if axis and facts.axes.shape[axis] >= _LONG
    )
    return min(shares, default=1.0)


def _unexpanded(facts: Facts, name: str) -> str:
    """What is broadcast, where a loss writes that out."""
    maker = facts.graph.producers.get(name)
    return maker.present_inputs[0] if maker is not None and maker.op == "expand" else name


AXES = (
    function(
        "subtracts_batch_mean(n)",
        "truth",
        _subtracts_batch_mean,
        "the difference n takes a mean over samples and features from each entry, and is not normalised",
    ),
    function(
        "mixes_in_batch(n)",
        "text",
        _mixes_in_batch,
        "what the sum n does with a number made of samples and features at once (a mean that it takes from each entry "
        "and that is not normalised with, a total that it adds), a clause; or none",
    ),
    function(
        "crosses_samples(n)",
        "truth",
        _crosses_samples,
        "operands of n of different rank hold the samples at different places, so that each meets each other one",
    ),
    function(
        "pairs_others(n)",
        "truth",
        _pairs_others,
        "operands of n hold copies of the samples along one axis in different order: others are set beside each",
    ),
    function(
        "read_share()",
        "number",
        _read_share,
        "least share of the entries of the main input along an axis of 16 and more that outputs can depend on",
    ),
    function(
        "codes_samples(n)",
        "truth",
        lambda facts, node: node.name in facts.sample_codes,
        "n adds numbers of its own for each sample of the batch, and attention runs along another axis that has none",
    ),
    function(
        "samples_meet(n)",
        "truth",
        lambda facts, node: node.name in facts.sample_mixings,
        "n is an attention, recurrence, softmax or product along the axis that the outputs show to be the samples'",
    ),
    function(
        "sees_later(n)",
        "text",
        _sees_later,
        "why positions should not see later ones at n, where they do: a constant mask that hides the earlier ones, or "
        "a causal attention before n in a network with an output for each position; or none",
    ),
    function(
        "pixels_by_view(n)",
        "number",
        _pixels_by_view,
        "by how much the reshape n makes pictures larger out of their channels, or smaller (below 1); 0 for any other",
    ),
    function(
        "torn_axis(n)",
        "number",
        _torn,
        "size of an axis that the reshape n reads and gives, and whose entries it takes from several axes; 0 for none",
    ),
)
