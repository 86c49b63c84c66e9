"""Routers of mixtures of experts: which entries are among the largest of a row, and softmax over those alone."""

from __future__ import annotations

import math

import numpy as np

from gnelint.fusion.statistics import entries, reduced
from gnelint.ir.graph import Node
from gnelint.ir.rewriter import Rewriter, scalar

_HIDDEN = -1e3
"""A logit below this hides an entry: e^-1000 is 0 in every data type."""
_MOST = 1 << 24
"""Entries of the largest constant that is read to see what it hides or marks."""


def fuse_routing(rewriter: Rewriter) -> None:
    """Replace comparisons with the k-th largest value, and softmax behind a choice of the k largest.

    top_mask  x >= t or x < t (either side first), t the last of top_k(x)'s values
              1 scattered over 0 at the indices of top_k(x)
    softmax   of where(top_mask, x, -inf), or of -inf with top_k(x)'s values scattered to where they came from;
              softmax(x) times a top_mask of it, or its top_k scattered over 0: not renormalised;
              any of these divided by its row's sum: renormalised
    """
    for node in rewriter:
        if node.op == "compare":
            _mask(rewriter, node)
        elif node.op == "scatter":
            _scattered(rewriter, node)
        elif node.op == "mul":
            for gates, mask in (node.present_inputs, node.present_inputs[::-1]):
                if _keep(rewriter, node, gates, _mask_behind(rewriter, mask)):
                    break
        elif node.op == "div":
            _renormalise(rewriter, node)
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


def _mask_behind(rewriter: Rewriter, value: str | None) -> Node | None:
    """The mask of the largest that a value is, or a copy of in another type (which `source` does not look through)."""
    mask = rewriter.producer(value, "top_mask", "identity")
    while mask is not None and mask.op == "identity":
        mask = rewriter.producer(mask.inputs[0], "top_mask", "identity")
    return mask


def _scattered(rewriter: Rewriter, node: Node) -> None:
    """1 or the values themselves, written over zeros where the largest of a row stand."""
    base, indices, updates = node.present_inputs
    top = rewriter.producer(indices, "top_k")
    rank = rewriter.rank(base)
    if top is None or not rank or not top.attribute("largest") or not _is_number(rewriter, base, 0.0):
        return
    axis = _axis(rewriter, top)
    if node.attribute("axis") % rank != axis or rewriter.shape(indices) != rewriter.shape(updates):
        return
    if _is_number(rewriter, updates, 1.0):
        attributes = {"axis": axis, "k": top.attribute("k"), "largest": True, "hidden": False}
        rewriter.replace(node, "top_mask", (top.inputs[0],), "top_mask", attributes)
    elif rewriter.behind(updates) == top.outputs[0]:
        _keep(rewriter, node, top.inputs[0], top)


def _keep(rewriter: Rewriter, node: Node, gates: str | None, chosen: Node | None) -> bool:
    """Write `node` as the softmax that `gates` is, of which only the largest (a top_k or top_mask) are kept."""
    softmax = rewriter.source(gates, "softmax")
    if softmax is None or chosen is None or softmax.attribute("top") is not None or not chosen.attribute("largest"):
        return False
    rank = rewriter.rank(gates) or 1
    if rewriter.shape(node.outputs[0]) != rewriter.shape(gates) or _axis(rewriter, chosen) != _axis(rewriter, softmax):
        return False
    if chosen.op == "top_mask" and chosen.attribute("hidden"):
        return False
    if not any(rewriter.same(chosen.inputs[0], x) for x in (gates, softmax.inputs[0])):  # their order is the same
        return False
    attributes = {
        "axis": softmax.attribute("axis") % rank, "top": chosen.attribute("k"), "renormalised": False
    }  # fmt: skip
    rewriter.replace(node, "softmax", softmax.inputs, "top_softmax", attributes)
    return True


def _renormalise(rewriter: Rewriter, node: Node) -> None:
    gates, total = node.present_inputs
    softmax, found = rewriter.source(gates, "softmax"), reduced(rewriter, total)
    if softmax is None or found is None or softmax.attribute("renormalised"):
        return
    axis = _axis(rewriter, softmax)
    op, row = found
    count = entries(rewriter, gates, (axis,))
    whole = op == "reduce_mean" and count is not None and math.isclose(row.factor, count)
    if whole and row.axes == (axis,) and rewriter.same(row.x, gates):
        attributes = {"axis": axis, "top": softmax.attribute("top")}
        rewriter.replace(node, "softmax", softmax.inputs, "top_softmax", attributes)


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
    mask = _mask_behind(rewriter, condition)
    if mask is None or mask.attribute("axis") != axis:
        return None
    filler, x = (first, second) if mask.attribute("hidden") else (second, first)
    if not _hides(rewriter, filler) or not rewriter.same(mask.inputs[0], x):
        return None
    return x, mask.attribute("k")


def _hides(rewriter: Rewriter, value: str | None) -> bool:
    """Whether a constant hides every entry that takes it."""
    numbers = _constant(rewriter, value)
    return numbers is not None and bool(np.all(numbers < _HIDDEN))


def _is_number(rewriter: Rewriter, value: str | None, number: float) -> bool:
    """Whether a constant is this number everywhere."""
    numbers = _constant(rewriter, value)
    return numbers is not None and bool(np.all(numbers == number))


def _constant(rewriter: Rewriter, value: str | None) -> np.ndarray | None:
    """The numbers of a constant that can be read."""
    node = rewriter.source(value, "constant", "expand")
    if node is not None and node.op == "expand":
        node = rewriter.source(node.inputs[0], "constant")
    found = None if node is None else node.parameters["value"]
    if found is None or found.size > _MOST or found.provenance == "initializer":
        return None
    return np.asarray(found.array(), dtype=np.float64)
