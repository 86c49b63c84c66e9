"""Euclidean lengths written out: the magnitude of a spectrum, the distance of two points."""

from __future__ import annotations

from gnelint.fusion.statistics import plus_epsilon
from gnelint.ir.graph import Node
from gnelint.ir.rewriter import Rewriter


def fuse_lengths(rewriter: Rewriter) -> None:
    """Replace sqrt(sum(x * x)) by the norm of x, and sqrt(a * a + b * b + c), c >= 0, by hypot(a, b).

    Taken one by one, a root near zero and a square have derivatives without bounds; their product is x / |x|, a unit
    vector. What normalisations are made of must be taken before.
    """
    for node in rewriter:
        if node.op == "sqrt" or (node.op == "pow" and node.attribute("exponent") == 0.5):
            _along_axes(rewriter, node)
            _of_several(rewriter, node)


def _along_axes(rewriter: Rewriter, node: Node) -> None:
    total = rewriter.source(node.inputs[0], "reduce_sum")
    x = None if total is None else _squared(rewriter, total.inputs[0])
    if total is not None and x is not None:
        attributes = {name: total.attribute(name) for name in ("axes", "keepdims")}
        rewriter.replace(node, "reduce_l2", (x,), "length", {**attributes, "exposed": True})


def _of_several(rewriter: Rewriter, node: Node) -> None:
    inside = plus_epsilon(rewriter, node.inputs[0])
    if inside is None or inside[0] is None or rewriter.source(node.inputs[0], "clip") is not None:
        return
    operands, shape = _summed_squares(rewriter, inside[0]), rewriter.shape(node.outputs[0])
    if operands is None or len(operands) < 2 or any(rewriter.shape(name) != shape for name in operands):
        return
    if all(map(rewriter.is_floating, operands)):
        rewriter.replace(node, "hypot", tuple(operands), "hypot", {"added": inside[1]})


def _summed_squares(rewriter: Rewriter, value: str) -> list[str] | None:
    """The values whose squares a sum is made of, each once; None where anything else is added."""
    node = rewriter.source(value, "add")
    if node is None:
        x = _squared(rewriter, value)
        return None if x is None else [x]
    found: list[str] = []
    for name in node.present_inputs:
        part = _summed_squares(rewriter, name)
        if part is None:
            return None
        found += part
    return found if len(set(found)) == len(found) else None


def _squared(rewriter: Rewriter, value: str | None) -> str | None:
    """What a value is the square of."""
    square = rewriter.source(value, "pow", "mul")
    if square is None:
        return None
    if square.op == "pow":
        return square.inputs[0] if square.attribute("exponent") == 2.0 else None
    return square.inputs[0] if square.inputs[0] == square.inputs[1] else None
