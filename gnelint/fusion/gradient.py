"""Straight-through estimators, which frameworks write with a detached difference."""

from __future__ import annotations

from collections import deque

from gnelint.ir.rewriter import Rewriter

_STEPS = frozenset({"compare", "logical", "one_hot", "step", "top_mask"})
"""Operations whose derivative is zero."""

_MOST_ROUNDED = 32
"""Nodes of which a rounded number is made at most."""


def fuse_straight_through(rewriter: Rewriter) -> None:
    """Replace x + stop_gradient(z - x) by straight_through(z, x): the number is z, the gradient is that of x.

    Apart, z and x would count as independent in z - x, and the sum as larger than z. ONNX has no word for the detached
    difference: in a file x + (z - x) is one where z has been rounded, which is written so for no other reason.
    """
    for node in rewriter:
        if node.op != "add" or len(node.present_inputs) != 2:
            continue
        for x, other in (node.present_inputs, node.present_inputs[::-1]):
            stopped = rewriter.source(other, "stop_gradient")
            inner = other if stopped is None and rewriter.source_world == "onnx" else None
            difference = rewriter.source(inner if stopped is None else stopped.inputs[0], "sub")
            if difference is None or not rewriter.same(difference.inputs[1], x):
                continue
            if stopped is not None or _is_rounded(rewriter, difference.inputs[0], x):
                rewriter.replace(node, "straight_through", (difference.inputs[0], x), "straight_through")
                break


def _is_rounded(rewriter: Rewriter, value: str | None, x: str) -> bool:
    """Whether a step, or integers that the network computes, make a value, on the way from x or beside it."""
    waiting, seen = deque([value]), 0
    while waiting and seen < _MOST_ROUNDED:
        node = None if rewriter.same(name := waiting.popleft(), x) else rewriter.producer(name)
        if node is None:
            continue
        computed = [name for name in node.present_inputs if rewriter.producer(name) is not None]
        if node.op in _STEPS or any(not rewriter.is_floating(name) for name in computed):
            return True
        waiting += computed
        seen += 1
    return False
