"""Routers of mixtures of experts: which entries are among the largest of a row, and softmax over those alone."""

from __future__ import annotations

import numpy as np

from gnelint.graph import Node
from gnelint.readers.idioms.rewriter import Rewriter, scalar

_HIDDEN = -1e3
"""A logit below this hides an entry: e^-1000 is 0 in every data type."""
_MOST = 1 << 24
"""Entries of the largest constant that is read to see whether it hides."""


def fuse_routing(rewriter: Rewriter) -> None:
    """Replace comparisons with the k-th largest value, and softmax behind a choice of the k largest.

    top_mask  x >= t or x < t (either side first), t the last of top_k(x)'s values
    softmax   of where(top_mask, x, -inf), or of -inf with top_k(x)'s values scattered to where they came from
    """
    for node in rewriter:
        if node.op == "compare":
            _mask(rewriter, node)
        elif node.op == "softmax" and node.attribute("top") is None:
            found = _chosen(rewriter, node)
            if found is not None:
                x, top = found
                attributes = {"axis": node.attribute("axis"), "top": top}
                rewriter.replace(node, "softmax", (x,), "top_softmax", attributes)


def _mask(rewriter: Rewriter, node: Node) -> None:
    first, second = node.present_inputs
    for x, threshold, below in ((first, second, ("lt",)), (second, first, ("gt",))):
        top = _least(rewriter, threshold)
        if top is None or not rewriter.same(top.inputs[0], x):
            continue
        among = ("ge",) if below == ("lt",) else ("le",)
        kind = node.attribute("kind")
        if kind not in (*below, *among):  # x > t leaves the k-th itself out
            continue
        attributes = {
            "axis": _axis(rewriter, top), "k": top.attribute("k"), "largest": True, "hidden": kind in below
        }  # fmt: skip
        rewriter.replace(node, "top_mask", (x,), "top_mask", attributes)
        return


def _axis(rewriter: Rewriter, node: Node) -> int:
    axis = int(node.attribute("axis"))
    rank = rewriter.rank(node.inputs[0])
    return axis % rank if rank else axis


def _least(rewriter: Rewriter, value: str | None) -> Node | None:
    """The top_k of the largest whose smallest value this is."""
    node = rewriter.source(value, "slice", "reduce_min", "gather", "reshape", "expand", "top_k")
    while node is not None and node.op in ("reshape", "expand"):
        node = rewriter.source(node.inputs[0], "slice", "reduce_min", "gather", "top_k")
    if node is None:
        return None
    top = node if node.op == "top_k" else rewriter.source(node.inputs[0], "top_k")
    if (
        top is None
        or not top.attribute("largest")
        or top.outputs[0] != rewriter.behind(value if node.op == "top_k" else node.inputs[0])
    ):
        return None
    axis, last = _axis(rewriter, top), top.attribute("k") - 1
    if node.op == "top_k":
        return top if last == 0 else None
    if node.op == "reduce_min":
        return top if [a % (rewriter.rank(top.inputs[0]) or 1) for a in node.attribute("axes")] == [axis] else None
    if node.op == "slice":
        exact = (tuple(node.attribute("axes")), tuple(node.attribute("starts"))) == ((axis,), (last,))
        return top if exact else None
    indices = node.parameters.get("indices")
    picked = None if indices is None else scalar(indices)
    return top if picked is not None and node.attribute("axis") == axis and picked in (last, -1.0) else None


def _chosen(rewriter: Rewriter, node: Node) -> tuple[str, int] | None:
    """(x, k) if the softmax of `node` sees the k largest of x alone."""
    rank = rewriter.rank(node.inputs[0])
    choice = rewriter.source(node.inputs[0], "where", "scatter")
    if rank is None or choice is None:
        return None
    axis = node.attribute("axis") % rank
    if choice.op == "scatter":
        base, indices, updates = choice.present_inputs
        top = rewriter.source(updates, "top_k")
        fits = (
            top is not None
            and choice.attribute("axis") % rank == _axis(rewriter, top) == axis
            and rewriter.behind(updates) == top.outputs[0]
            and rewriter.source(indices, "top_k") is top
            and top.attribute("largest")
            and _hides(rewriter, base)
        )
        return (top.inputs[0], top.attribute("k")) if fits and top is not None and top.inputs[0] is not None else None
    condition, first, second = choice.present_inputs
    mask = rewriter.producer(condition, "top_mask", "identity")
    while mask is not None and mask.op == "identity":  # a condition is no floating value, which `source` looks through
        mask = rewriter.producer(mask.inputs[0], "top_mask", "identity")
    if mask is None or mask.attribute("axis") != axis:
        return None
    filler, x = (first, second) if mask.attribute("hidden") else (second, first)
    if not _hides(rewriter, filler) or not rewriter.same(mask.inputs[0], x):
        return None
    return x, mask.attribute("k")


def _hides(rewriter: Rewriter, value: str | None) -> bool:
    """Whether a constant hides every entry that takes it."""
    node = rewriter.source(value, "constant", "expand")
    if node is not None and node.op == "expand":
        node = rewriter.source(node.inputs[0], "constant")
    filler = None if node is None else node.parameters["value"]
    if filler is None or filler.size > _MOST or filler.provenance == "initializer":
        return False
    return bool(np.all(np.asarray(filler.array(), dtype=np.float64) < _HIDDEN))
