"""What was joined and is cut apart again, and what was computed twice to be compared with itself."""

from __future__ import annotations

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


def merge_repeated(rewriter: Rewriter) -> None:
    """Let a difference or quotient of one value computed twice read it once.

    Apart, both count as independent: x - x would have twice the variance of x, and pass a gradient on.
    """
    for node in rewriter:
        if node.op not in _COMPARES or len(node.present_inputs) != 2:
            continue
        first, second = node.present_inputs
        if first != second and _is_repeated(rewriter, first, second, {}):
            rewriter.replace(node, node.op, (first, first), node.source_op, node.attributes)


def _is_repeated(rewriter: Rewriter, first: str, second: str, seen: dict[tuple[str, str], bool]) -> bool:
    """Whether two values are computed alike, by the same tensors, and nothing is drawn on the way."""
    if first == second:
        return True
    if (first, second) not in seen:
        one, other = rewriter.producer(first), rewriter.producer(second)
        given, again = rewriter.value(first), rewriter.value(second)
        fits = (
            given.shape == again.shape is not None and given.dtype == again.dtype
        )  # of reshapes that is all that tells
        seen[first, second] = fits and one is not None and other is not None and _is_same(rewriter, one, other, seen)
    return seen[first, second]


def _is_same(rewriter: Rewriter, one: Node, other: Node, seen: dict[tuple[str, str], bool]) -> bool:
    alike = one.op == other.op and one.attributes == other.attributes
    if (
        not alike
        or not _holds_the_same(one, other)
        or _may_be_drawn(one)
        or len(one.outputs) != 1
        or len(one.inputs) != len(other.inputs)
    ):
        return False
    pairs = zip(one.inputs, other.inputs, strict=True)
    return bool(one.present_inputs) and all(
        a == b or (a is not None and b is not None and _is_repeated(rewriter, a, b, seen)) for a, b in pairs
    )


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
