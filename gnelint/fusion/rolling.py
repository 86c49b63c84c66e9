"""Rolls, which exporters write as two slices laid side by side in the other order."""

from __future__ import annotations

from gnelint.ir.graph import Node
from gnelint.ir.rewriter import Rewriter


def fuse_rolls(rewriter: Rewriter) -> None:
    """Replace concat(x[k:], x[:k]) along one axis by roll(x, -k).

    Apart, the two slices' gradients count as uncorrelated where they meet again at x: a gradient that is constant over
    positions (behind a mean over tokens) would lose a part of itself at every shifted window.
    """
    for node in rewriter:
        if node.op == "concat" and len(node.present_inputs) == 2:
            _roll(rewriter, node)


def _roll(rewriter: Rewriter, node: Node) -> None:
    tail, head = (rewriter.source(name, "slice") for name in node.present_inputs)
    if tail is None or head is None or not rewriter.same(tail.inputs[0], head.inputs[0]):
        return
    x, shape = tail.inputs[0], rewriter.shape(tail.inputs[0])
    if shape is None:
        return
    axis = node.attribute("axis") % len(shape)
    size = shape[axis]
    if not isinstance(size, int):
        return
    after, before = _range(tail, axis, size, len(shape)), _range(head, axis, size, len(shape))
    if after is None or before is None:
        return
    cut = before[1]
    if before[0] == 0 and after == (cut, size) and 0 < cut < size:
        shift = -cut if 2 * cut <= size else size - cut
        rewriter.replace(node, "roll", (x,), "roll", {"axes": (axis,), "shifts": (shift,)})


def _range(node: Node, axis: int, size: int, rank: int) -> tuple[int, int] | None:
    """First index and end of a slice along this axis alone, every index of it; None for any other slice."""
    (own, *others), (start, *_), (end, *_), (step, *_) = (
        node.attribute(name) for name in ("axes", "starts", "ends", "steps")
    )
    if others or own % rank != axis or step != 1:
        return None
    first, last, _ = slice(start, end).indices(size)
    return first, last
