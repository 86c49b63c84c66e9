"""Entries that a constant mask hides before data is moved: they are hidden behind it.

Windows of attention are masked where they stick out, on slices of the scores that are then written back. In front of
the softmax it is one mask of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gnelint.fusion.hiding import LARGEST_MASK, constant_choice
from gnelint.fusion.parts import rejoined
from gnelint.ir.graph import Node, Parameter, Value
from gnelint.ir.rewriter import Rewriter
from gnelint.records import dataclass


@dataclass(frozen=True)
class _Masked:
    """A value some entries of which a constant hides.

    Attributes:
        plain: the value as it was before.
        hidden: where it is hidden; of the value's rank.
        filler: the number that hides.
    """

    plain: str
    hidden: np.ndarray
    filler: float


def hide_behind_moves(rewriter: Rewriter) -> None:
    """Move where(mask, -inf, x) with a constant mask behind slices, views and joins of what was one value, and into a
    mask behind it."""
    for node in rewriter:
        if node.op == "where":
            _merge(rewriter, node)
        elif node.op in _MOVES and len(node.outputs) == 1:
            _move(rewriter, node)


def _merge(rewriter: Rewriter, node: Node) -> None:
    """One mask of two, where one hides in what the other leaves."""
    outer = _masked(rewriter, node.outputs[0])
    inner = None if outer is None else _masked(rewriter, outer.plain)
    if outer is not None and inner is not None:
        both = _Masked(inner.plain, outer.hidden | inner.hidden, max(outer.filler, inner.filler))
        _hide(rewriter, node, both)


def _move(rewriter: Rewriter, node: Node) -> None:
    shape = rewriter.value(node.outputs[0]).concrete_shape
    found = [_masked(rewriter, value) for value in node.present_inputs]
    masked = [each for each in found if each is not None]
    shapes = [rewriter.value(value).concrete_shape for value in node.present_inputs]
    if shape is None or not masked or np.prod(shape) > LARGEST_MASK or None in shapes:
        return
    sizes = [own for own in shapes if own is not None]
    hidden = [
        np.broadcast_to(False if each is None else each.hidden, own) for each, own in zip(found, sizes, strict=True)
    ]
    moved = _compact(_MOVES[node.op](node, hidden, shape))
    inputs = tuple(v if each is None else each.plain for v, each in zip(node.present_inputs, found, strict=True))
    op, attributes = node.op, node.attributes
    if op == "concat":
        whole = rejoined(rewriter, inputs, node.attribute("axis"))
        if whole is None:
            return
        inputs, attributes = (whole[0],), whole[1]
        op = "slice" if attributes else "identity"
    plain = replace(rewriter.value(node.outputs[0]), name=f"{node.outputs[0]}/shown")
    made = Node(f"{node.name}/shown", op, inputs, (plain.name,), attributes=attributes)
    rewriter.insert(replace(made, source_op=node.source_op, sources=(node.name,)), plain, node)
    _hide(rewriter, node, _Masked(plain.name, moved, max(each.filler for each in masked)))


def _masked(rewriter: Rewriter, value: str) -> _Masked | None:
    node = rewriter.source(value, "where")
    found = None if node is None else constant_choice(rewriter, node)
    rank = rewriter.rank(value)
    if found is None or rank is None:
        return None
    x, _, seen, numbers = found
    return _Masked(x, ~seen.reshape((1,) * (rank - seen.ndim) + seen.shape), float(numbers.max()))


def _hide(rewriter: Rewriter, node: Node, masked: _Masked) -> None:
    """Let a node choose between the filler and the plain value."""
    hidden = _constant(rewriter, node, "hidden", masked.hidden)
    filler = _constant(rewriter, node, "filler", np.float32(masked.filler))
    rewriter.replace(node, "where", (hidden, filler, masked.plain), "moved_mask")


def _constant(rewriter: Rewriter, node: Node, role: str, numbers: np.ndarray | np.float32) -> str:
    array = np.asarray(numbers)
    number = Parameter(f"{node.name}/{role}", array.shape, str(array.dtype), lambda: array, kind="constant")
    value = Value(f"{node.outputs[0]}/{role}", array.shape, number.dtype)
    made = replace(
        node,
        name=number.name,
        op="constant",
        inputs=(),
        outputs=(value.name,),
        attributes={},
        parameters={"value": number},
        source_op="moved_mask",
    )
    rewriter.insert(made, value, node)
    return value.name


def _compact(mask: np.ndarray) -> np.ndarray:
    """The mask with one entry along each axis that it is the same along."""
    for axis in range(mask.ndim):
        first = mask.take([0], axis) if mask.shape[axis] else mask
        if mask.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, mask.shape), mask):
            mask = first
    return np.ascontiguousarray(mask)


def _slice(node: Node, hidden: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    cut = [slice(None)] * hidden[0].ndim
    ends = (node.attribute(key) for key in ("axes", "starts", "ends", "steps"))
    for axis, start, end, step in zip(*ends, strict=True):
        cut[axis] = slice(start, end, step)
    return hidden[0][tuple(cut)].reshape(shape)


_MOVES: Mapping[str, Callable[[Node, Sequence[np.ndarray], tuple[int, ...]], np.ndarray]] = {
    "slice": _slice,
    "concat": lambda node, hidden, shape: np.concatenate(hidden, node.attribute("axis")).reshape(shape),
    "reshape": lambda node, hidden, shape: hidden[0].reshape(shape),
    "transpose": lambda node, hidden, shape: hidden[0].transpose(node.attribute("perm")).reshape(shape),
}
"""By the operation: where its output is hidden, of where its inputs are."""
