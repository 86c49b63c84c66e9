"""Euclidean lengths written out: the magnitude of a spectrum, the distance of two points."""

from __future__ import annotations

from gnelint.ir.graph import Node
from gnelint.ir.rewriter import Rewriter


def fuse_lengths(rewriter: Rewriter) -> None:
    """Replace sqrt(sum(x * x)) by the norm of x.

    Taken one by one, a root near zero and a square have derivatives without bounds; their product is x / |x|, a unit
    vector. What normalisations are made of must be taken before.
    """
    for node in rewriter:
        if node.op == "sqrt" or (node.op == "pow" and node.attribute("exponent") == 0.5):
            _length(rewriter, node)


def _length(rewriter: Rewriter, node: Node) -> None:
    total = rewriter.source(node.inputs[0], "reduce_sum")
    x = None if total is None else _squared(rewriter, total.inputs[0])
    if total is not None and x is not None:
        attributes = {name: total.attribute(name) for name in ("axes", "keepdims")}
        rewriter.replace(node, "reduce_l2", (x,), "length", {**attributes, "exposed": True})


def _squared(rewriter: Rewriter, value: str | None) -> str | None:
    """What a value is the square of."""
    square = rewriter.source(value, "pow", "mul")
    if square is None:
        return None
    if square.op == "pow":
        return square.inputs[0] if square.attribute("exponent") == 2.0 else None
    return square.inputs[0] if square.inputs[0] == square.inputs[1] else None
