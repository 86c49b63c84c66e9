"""Rolls and circular paddings, which exporters write as slices of one value laid side by side."""

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
    after, before = index_range(tail, axis, size, len(shape)), index_range(head, axis, size, len(shape))
    if after is None or before is None:
        return
    cut = before[1]
    if before[0] == 0 and after == (cut, size) and 0 < cut < size:
        shift = -cut if 2 * cut <= size else size - cut
        rewriter.replace(node, "roll", (x,), "roll", {"axes": (axis,), "shifts": (shift,)})


def fuse_circular_pads(rewriter: Rewriter) -> None:
    """Replace concat(x[n-k:], x, x[:m]) along one axis by x padded with copies from its other end.

    Apart, what the slices leave out would have to be kept index by index, and the three gradients would count as
    uncorrelated where they meet again at x.
    """
    for node in rewriter:
        if node.op == "concat" and len(node.present_inputs) in (2, 3):
            _circular_pad(rewriter, node)


def _circular_pad(rewriter: Rewriter, node: Node) -> None:
    parts = node.present_inputs
    places = [(None, *parts), (*parts, None)] if len(parts) == 2 else [parts]
    for before, x, after in places:
        shape = rewriter.shape(x)
        axis = node.attribute("axis") % max(len(shape or ()), 1)
        size = shape[axis] if shape else None
        if shape is None or not isinstance(size, int):
            continue
        head = (size, size) if before is None else _copied(rewriter, before, x, axis, size, len(shape))
        tail = (0, 0) if after is None else _copied(rewriter, after, x, axis, size, len(shape))
        if head is not None and tail is not None and head[1] == size and tail[0] == 0:
            pads = [0] * (2 * len(shape))
            pads[axis], pads[len(shape) + axis] = size - head[0], tail[1]
            rewriter.replace(node, "pad", (x,), "circular_pad", {"pads": tuple(pads), "mode": "wrap", "value": 0.0})
            return


def _copied(rewriter: Rewriter, part: str, x: str, axis: int, size: int, rank: int) -> tuple[int, int] | None:
    """Which indices of x along an axis a part is a copy of; None if it is something else."""
    node = rewriter.source(part, "slice")
    return None if node is None or not rewriter.same(node.inputs[0], x) else index_range(node, axis, size, rank)


def index_range(node: Node, axis: int, size: int, rank: int) -> tuple[int, int] | None:
    """First index and end of a slice along this axis alone, every index of it; None for any other slice."""
    (own, *others), (start, *_), (end, *_), (step, *_) = (
        node.attribute(name) for name in ("axes", "starts", "ends", "steps")
    )
    if others or own % rank != axis or step != 1:
        return None
    first, last, _ = slice(start, end).indices(size)
    return first, last
