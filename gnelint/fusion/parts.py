"""What was joined and is cut apart again, and what was computed twice to be compared with itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gnelint.fusion.rolling import index_range
from gnelint.ir.graph import Node
from gnelint.ir.rewriter import Rewriter

_COMPARES = frozenset({"sub", "div"})


def take_parts(rewriter: Rewriter) -> None:
    """Replace a slice that lies within one part of a concatenation by that part, or a slice of it.

    A stacked recurrent layer joins the last states of all its layers, of which most models read one: the others get no
    gradient, where a slice of the whole would share out its own among them.
    """
    for node in rewriter:
        joined = rewriter.source(node.inputs[0], "concat") if node.op == "slice" else None
        if joined is not None:
            _take_part(rewriter, node, joined)


def _take_part(rewriter: Rewriter, node: Node, joined: Node) -> None:
    rank = rewriter.rank(joined.outputs[0])
    if not rank:
        return
    axis, begin = joined.attribute("axis") % rank, 0
    sizes = [(rewriter.shape(name) or ("?",) * rank)[axis] for name in joined.present_inputs]
    known = [size for size in sizes if isinstance(size, int)]
    cut = index_range(node, axis, sum(known), rank) if len(known) == len(sizes) else None
    if cut is None:
        return
    for part, size in zip(joined.present_inputs, known, strict=True):
        if begin <= cut[0] and cut[1] <= begin + size:
            own = {**node.attributes, "starts": (cut[0] - begin,), "ends": (cut[1] - begin,)}
            whole = cut == (begin, begin + size)
            rewriter.replace(node, "identity" if whole else "slice", (part,), "part", {} if whole else own)
            return
        begin += size


def rejoin_parts(rewriter: Rewriter) -> None:
    """Replace the join of slices of one value that follow on each other by that value, or by a slice of it.

    What is written to a part of a tensor leaves such joins, once it is known to change nothing.
    """
    for node in rewriter:
        if node.op != "concat" or len(node.present_inputs) < 2:
            continue
        found = rejoined(rewriter, node.present_inputs, node.attribute("axis"))
        if found is not None:
            x, bounds = found
            rewriter.replace(node, "slice" if bounds else "identity", (x,), "rejoined", bounds)


def rejoined(rewriter: Rewriter, values: Sequence[str], axis: int) -> tuple[str, Mapping[str, Any]] | None:
    """The value of which these are slices along an axis that follow on each other, and the bounds of what they cover,
    as a slice has them; none where it is all of it."""
    parts = [node for value in values if (node := rewriter.source(value, "slice")) is not None]
    x = parts[0].inputs[0] if len(parts) == len(values) else None
    shape = rewriter.shape(x)
    size = shape[axis % len(shape)] if shape else None
    if x is None or not shape or not isinstance(size, int):
        return None
    axis %= len(shape)
    cuts: list[tuple[int, int]] = []
    for part in parts:
        cut = index_range(part, axis, size, len(shape))
        if cut is None or (cuts and cut[0] != cuts[-1][1]) or not _is_one(rewriter, part.present_inputs[0], x):
            return None
        cuts.append(cut)
    first, last = cuts[0][0], cuts[-1][1]
    whole = (first, last) == (0, size)
    return x, {} if whole else {"axes": (axis,), "starts": (first,), "ends": (last,), "steps": (1,)}


def _is_one(rewriter: Rewriter, first: str, second: str) -> bool:
    return rewriter.same(first, second) or _is_repeated(rewriter, first, second)


def merge_repeated(rewriter: Rewriter) -> None:
    """Let a difference or quotient of one value computed twice read it once.

    Apart, both count as independent: x - x would have twice the variance of x, and pass a gradient on.
    """
    for node in rewriter:
        if node.op not in _COMPARES or len(node.present_inputs) != 2:
            continue
        first, second = node.present_inputs
        if first != second and _is_repeated(rewriter, first, second):
            rewriter.replace(node, node.op, (first, first), node.source_op, node.attributes)


def _is_repeated(rewriter: Rewriter, first: str, second: str) -> bool:
    """Whether two values are computed alike, by the same tensors, and nothing is drawn on the way."""
    waiting, seen = [(first, second)], set[tuple[str, str]]()
    while waiting:
        pair = waiting.pop()
        if pair[0] == pair[1] or pair in seen:
            continue
        seen.add(pair)
        one, other = map(rewriter.producer, pair)
        if one is None or other is None or not _fits(rewriter, *pair) or not _is_same(one, other):
            return False
        for a, b in zip(one.inputs, other.inputs, strict=True):
            if a is None or b is None:
                if a is not b:
                    return False
                continue
            waiting.append((a, b))
    return True


def _fits(rewriter: Rewriter, first: str, second: str) -> bool:
    """Whether two values have one shape and type: of reshapes that is all that tells."""
    one, other = rewriter.value(first), rewriter.value(second)
    return one.shape == other.shape is not None and one.dtype == other.dtype


def _is_same(one: Node, other: Node) -> bool:
    """Whether two nodes compute the same of the same."""
    forms = [(node.op, node.attributes, len(node.outputs), len(node.inputs)) for node in (one, other)]
    reads = bool(one.present_inputs) and len(one.outputs) == 1
    return forms[0] == forms[1] and reads and _holds_the_same(one, other) and not _may_be_drawn(one)


def _holds_the_same(one: Node, other: Node) -> bool:
    """Whether two nodes have the same tensors: of those that a reader has made (a Fourier matrix and its imaginary
    part) names do not tell."""
    return one.parameters == other.parameters and all(
        own.law is not None or own.load is again.load or np.array_equal(own.array(), again.array())
        for own, again in zip(one.parameters.values(), other.parameters.values(), strict=True)
    )


def _may_be_drawn(node: Node) -> bool:
    drops = node.op == "unmodelled" or (node.op == "dropout" and node.attribute("p") > 0)
    return drops or any(parameter.transform == "random" for parameter in node.parameters.values())
