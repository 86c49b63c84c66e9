"""What moves axes: joins, transpositions, reshapes, slices, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from gnelint.analysis.axes.layout import Axis, Layout, common, label, plain, regrouped, resized, sizes
from gnelint.analysis.axes.walk import Walk
from gnelint.ir.graph import Node
from gnelint.ops import families

_FAMILIES = families()
_ENTRYWISE = (
    _FAMILIES["activation"] | _FAMILIES["pointwise"] | {"bias", "scale", "dropout", "stop_gradient", "straight_through"}
)
_JOINS = frozenset({"add", "sub", "mul", "div", "mean", "maximum", "minimum", "where", "compare", "logical"})


def _same(walk: Walk, node: Node) -> Layout | None:
    layout = walk.layout(node)
    if layout is not None and node.op in ("bias", "scale"):
        for parameter in node.parameters.values():
            _codes(walk, node, layout, parameter.shape)
    return layout


def _codes(walk: Walk, node: Node, layout: Layout, shape: tuple[int, ...]) -> None:
    """Numbers of its own along an axis that is not the last one: codes of positions."""
    for place, size in enumerate(reversed(shape)):
        if 0 < place < len(layout) and size > 1:
            walk.meet(node, layout[-1 - place], "codes")


def _joined(walk: Walk, node: Node) -> Layout | None:
    known = [walk.layouts.get(name) for name in node.present_inputs]
    if not known:
        return None
    found: list[Axis] = []
    whole = [layout for layout in known if layout is not None]
    if len(whole) < len(known):
        return None
    for place in range(1, max(map(len, whole)) + 1):
        parts = [layout[-place] for layout in whole if len(layout) >= place]
        axis = common(parts)
        if axis is None:
            return None
        found.insert(0, axis)
    return tuple(found)


def _transposed(walk: Walk, node: Node) -> Layout | None:
    layout = walk.layout(node)
    return None if layout is None else tuple(layout[axis] for axis in node.attribute("perm"))


def _reshaped(walk: Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    return None if layout is None or shape is None else regrouped(layout, shape)


def _cut(walk: Walk, node: Node) -> Layout | None:
    """Slices, parts, rows: another number of entries along axes, of the same axis of the input."""
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None or len(layout) != len(shape):
        return None
    return tuple(resized(axis, size) for axis, size in zip(layout, shape, strict=True))


def _shifted(walk: Walk, node: Node) -> Layout | None:
    layout = _cut(walk, node)
    for axis in node.attribute("axes") if layout is not None else ():
        walk.meet(node, layout[axis], "moved", None)  # type: ignore[index]
    return layout


def _tiled(walk: Walk, node: Node) -> Layout | None:
    """Whole repetitions: the copies count ahead of the entries."""
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None or len(layout) > len(shape):
        return None
    whole = (*((((None, 1),),) * (len(shape) - len(layout))), *layout)
    times = [size // own for size, own in zip(shape, sizes(whole), strict=True)]
    return tuple(((None, count), *axis) if count > 1 else axis for count, axis in zip(times, whole, strict=True))


def _gathered(walk: Walk, node: Node) -> Layout | None:
    return _cut(walk, node) if "indices" in node.parameters else None


def _concatenated(walk: Walk, node: Node) -> Layout | None:
    known = [walk.layouts.get(name) for name in node.present_inputs]
    shape = walk.shape(node.outputs[0])
    if shape is None or any(layout is None for layout in known):
        return None
    along = node.attribute("axis") % len(shape)
    whole = [layout for layout in known if layout is not None]
    found = []
    for axis, size in enumerate(shape):
        parts = [layout[axis] for layout in whole]
        if axis != along:
            shared = common(parts)
            if shared is None:
                return None
            found.append(shared)
            continue
        labels = {label(part) for part in parts} - {None}
        found.append(((labels.pop() if len(labels) == 1 else None, size),))
    return tuple(found)


def _expanded(walk: Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None:
        return None
    ahead = (((None, 1),),) * (len(shape) - len(layout))
    return tuple(
        axis if math.prod(own for _, own in axis) == size else ((None, size),)
        for axis, size in zip((*ahead, *layout), shape, strict=True)
    )


def _constant(walk: Walk, node: Node) -> Layout | None:
    shape = walk.shape(node.outputs[0])
    return None if shape is None else plain(shape)


def _embedded(walk: Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    return None if layout is None or shape is None else (*layout, ((None, shape[-1]),))


MOVING: Mapping[str, Callable[[Walk, Node], Layout | None]] = {
    **dict.fromkeys(_ENTRYWISE, _same),
    **dict.fromkeys(_JOINS, _joined),
    "identity": _same,
    "transpose": _transposed,
    "reshape": _reshaped,
    **dict.fromkeys(("slice", "split", "pad"), _cut),
    **dict.fromkeys(("flip", "roll"), _shifted),
    "tile": _tiled,
    "gather": _gathered,
    "concat": _concatenated,
    "expand": _expanded,
    "constant": _constant,
    "embedding": _embedded,
}
"""Operations that meet no entries along an axis."""
