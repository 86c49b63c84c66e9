"""Along which axes a node mixes what it reads: samples that meet, positions that see later ones, axes torn apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gnelint.analysis.axes import shown, tears
from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function

_NONE = "none"
_SHIFTS = frozenset({"pad", "concat", "slice"})


def _sees_later(facts: Facts, node: Node) -> str:
    if _hides_past(node):
        return "its mask hides the earlier ones"
    found = facts.leaks.get(node.name)
    return _NONE if found is None else f"{found.node} before it hides them"


def _hides_past(node: Node) -> bool:
    """Whether a constant mask shows each entry later ones and hides all earlier ones."""
    mask = node.parameters.get("mask")
    seen = None if mask is None else shown(mask)
    if seen is None or len(seen) < 3:
        return False
    return bool(seen[np.triu_indices(len(seen), 1)].all()) and not bool(np.tril(seen, -1).any())


def _torn(facts: Facts, node: Node) -> float | None:
    """The size of an axis that a reshape gives, that what it reads has too, and that is cut out of others all the same.

    Shifting a row at a time (pad, reshape, slice) does that on purpose.
    """
    source = facts.producer(node)
    readers = [reader for name in node.outputs for reader in facts.graph.consumers.get(name, ())]
    if node.op != "reshape" or any(each is not None and each.op in _SHIFTS for each in (source, *readers)):
        return 0.0
    layout = facts.axes.layouts.get(node.present_inputs[0])
    before, after = facts.graph.values[node.present_inputs[0]].concrete_shape, facts.shape(node)
    if layout is None or before is None or after is None:
        return None
    return float(torn_axis(before, after)) if tears(layout, after) else 0.0


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
        and not _in_one(before, math.prod(after[:place]), size)
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


def _kept(before: Sequence[int], size: int, cuts: set[int]) -> bool:
    """Whether every axis of this size that is read is given on as it was: then another one is meant."""
    bounds = [math.prod(before[:place]) for place in range(len(before) + 1)]
    spans = zip(pairwise(bounds), before, strict=True)
    return all({start, end} <= cuts for (start, end), own in spans if own == size)


AXES = (
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
        "torn_axis(n)",
        "number",
        _torn,
        "size of an axis that the reshape n reads and gives, and whose entries it takes from several axes; 0 for none",
    ),
)
