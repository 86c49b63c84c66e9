"""Straight-through estimators, which frameworks write with a detached difference."""

from __future__ import annotations

from gnelint.ir.rewriter import Rewriter


def fuse_straight_through(rewriter: Rewriter) -> None:
    """Replace x + stop_gradient(z - x) by straight_through(z, x): the number is z, the gradient is that of x.

    Apart, z and x would count as independent in z - x, and the sum as larger than z.
    """
    for node in rewriter:
        if node.op != "add" or len(node.present_inputs) != 2:
            continue
        for x, other in (node.present_inputs, node.present_inputs[::-1]):
            stopped = rewriter.source(other, "stop_gradient")
            difference = None if stopped is None else rewriter.source(stopped.inputs[0], "sub")
            if difference is not None and rewriter.same(difference.inputs[1], x):
                rewriter.replace(node, "straight_through", (difference.inputs[0], x), "straight_through")
                break
