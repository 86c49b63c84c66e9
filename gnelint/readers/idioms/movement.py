"""Entries moved by cutting a value up and putting it together again."""

from __future__ import annotations

from gnelint.graph import Node
from gnelint.readers.idioms.rewriter import Rewriter


def fuse_rolls(rewriter: Rewriter) -> None:
    """Replace a roll written in slices, as ONNX, which has no such operator, must write it.

        roll by -k   concat(x[k:], x[:k]) along one axis

    Taken as two parts, what entries of the one share with entries of the other would be forgotten.
    """
    for node in rewriter:
        found = _rolled(rewriter, node) if node.op == "concat" and len(node.inputs) == 2 else None
        if found is not None:
            x, axis, shift = found
            rewriter.replace(node, "roll", (x,), "roll", {"axes": (axis,), "shifts": (shift,)})


def _rolled(rewriter: Rewriter, node: Node) -> tuple[str, int, int] | None:
    """The value whose two parts change places, the axis, and by how much."""
    last, first = (rewriter.source(name, "slice") for name in node.inputs)
    shape = rewriter.shape(node.outputs[0])
    if last is None or first is None or shape is None:
        return None
    x, axis = last.inputs[0], node.attribute("axis") % len(shape)
    size = shape[axis]
    if x is None or not rewriter.same(x, first.inputs[0]) or rewriter.shape(x) != shape or not isinstance(size, int):
        return None
    behind, before = (_range(part, axis, len(shape), size) for part in (last, first))
    if behind is None or before is None or behind[1] != size or before != (0, behind[0]):
        return None
    return x, axis, -behind[0] if 2 * behind[0] <= size else size - behind[0]


def _range(node: Node, axis: int, rank: int, size: int) -> tuple[int, int] | None:
    """The run of entries that a slice along this axis alone takes; None for any other slice."""
    axes, steps = node.attribute("axes"), node.attribute("steps")
    if len(axes) != 1 or axes[0] % rank != axis or steps[0] != 1:
        return None
    start, stop, _ = slice(node.attribute("starts")[0], node.attribute("ends")[0]).indices(size)
    return start, stop
