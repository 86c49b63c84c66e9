"""Which entries of the input outputs can depend on at all, along its axes: intervals, from the outputs back.

A convolution reads a window about each entry, a slice the entries that it takes; what works entry by entry reads the
same ones; causal attention reads the keys up to each query; of everything else it is said that it reads all. So an
interval is never too small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gnelint.analysis.axes.layout import Layout, label, sizes
from gnelint.analysis.axes.masks import is_causal
from gnelint.analysis.axes.walk import Axes
from gnelint.ir.graph import Graph, Node
from gnelint.ops import families

Interval = tuple[int, int]
"""The first and the last entry."""
Reads = dict[str, dict[int, Interval]]
"""By value and axis of the main input: the entries that outputs depend on."""

_FAMILIES = families()
_ENTRYWISE = (
    _FAMILIES["activation"]
    | _FAMILIES["pointwise"]
    | {"bias", "scale", "dropout", "stop_gradient", "straight_through", "identity", "transpose", "reshape", "linear"}
    | {"add", "sub", "mul", "div", "mean", "maximum", "minimum", "where", "concat", "expand", "embedding"}
)
"""Operations that read, along an axis which they keep whole, the entry that they give."""
_BY_CHANNEL = frozenset({"batch_norm"})
_WINDOWED = frozenset({"conv", "max_pool", "avg_pool", "lp_pool"})


def reach(graph: Graph, found: Axes, main: str) -> Mapping[int, Interval]:
    """By axis of the main input: the entries that some output can depend on; axes that cannot be followed are left out.

    Cost: one pass back over the graph.
    """
    reads: Reads = {}
    for name in graph.outputs:
        _add(reads, name, {axis: (0, size - 1) for axis, _, size in _places(found.layouts.get(name))})
    for node in reversed(graph.nodes):
        needed = any(name in reads or name in graph.outputs for name in node.outputs)
        for value in node.present_inputs if needed else ():
            _add(reads, value, dict(_read(found, node, value, reads)))
    return reads.get(main, {})


def _add(reads: Reads, name: str, more: Mapping[int, Interval]) -> None:
    own = reads.setdefault(name, {})
    for axis, (low, high) in more.items():
        before = own.get(axis, (low, high))
        own[axis] = (min(low, before[0]), max(high, before[1]))


def _places(layout: Layout | None) -> Iterator[tuple[int, int, int]]:
    """The axes of a value that are one axis of the input each: which, where, and of what size."""
    if layout is None:
        return
    for place, (axis, size) in enumerate(zip(layout, sizes(layout), strict=True)):
        own = axis[0][0] if len(axis) == 1 else label(axis)
        if own is not None:
            yield own, place, size


def _merged(layout: Layout | None) -> Iterator[tuple[int, int]]:
    """The axes of the input that a value holds whole, beside others in one of its own axes: which, of what size."""
    for axis in layout or ():
        held = [(own, size) for own, size in axis if own is not None and size > 1]
        if len(held) > 1 and len({own for own, _ in held}) == len(held):
            yield from held


def _read(found: Axes, node: Node, value: str, reads: Reads) -> Iterator[tuple[int, Interval]]:
    """What a node reads of a value for what is read of its output."""
    behind = found.layouts.get(node.outputs[0])
    given = {axis: (place, size) for axis, place, size in _places(behind)}
    needed, apart = reads.get(node.outputs[0], {}), dict(_merged(behind))
    for axis, place, size in _places(found.layouts.get(value)):
        interval = needed.get(axis)
        if interval is None and axis in given:
            interval = (0, given[axis][1] - 1)
        if node.op == "attention":
            from_end = len(found.layouts[value]) - place
            yield axis, _attended(node, value, from_end, size, interval, given.get(axis)) or (0, size - 1)
        elif axis in apart and node.op in _ENTRYWISE and apart[axis] == size:
            yield axis, needed.get(axis, (0, size - 1))
        else:
            yield axis, _before(node, place, size, interval, given.get(axis)) or (0, size - 1)
    for axis, size in _merged(found.layouts.get(value)):
        kept = node.op in _ENTRYWISE and size == (given[axis][1] if axis in given else apart.get(axis))
        yield axis, needed.get(axis, (0, size - 1)) if kept else (0, size - 1)


def _attended(
    node: Node, value: str, from_end: int, size: int, needed: Interval | None, given: tuple[int, int] | None
) -> Interval | None:
    """The entries that an attention reads along an axis of a value; None for all of them."""
    if needed is None or given is None or given[1] != size:
        return None
    if value in node.inputs[1:3] and from_end == 2:
        return (0, needed[1]) if is_causal(node) else None
    return needed if from_end > 1 else None


def _before(
    node: Node, place: int, size: int, needed: Interval | None, given: tuple[int, int] | None
) -> Interval | None:
    """The entries that a node reads for those that are needed of what it gives; None for all of them."""
    if size == 1 or node.op == "embedding":
        return needed if given is not None and given[1] == size else None
    if node.op == "slice" and place in node.attribute("axes"):
        at = node.attribute("axes").index(place)
        start, step = node.attribute("starts")[at], node.attribute("steps")[at]
        low, high = needed or (0, max(-(-(node.attribute("ends")[at] - start) // step) - 1, 0))
        return _within(start + low * step, start + high * step, size) if step > 0 <= start else None
    if needed is None or given is None:
        return None
    low, high = needed
    if node.op == "pad":
        ahead = node.attribute("pads")[place]
        return _within(low - ahead, high - ahead, size) if node.attribute("mode") == "constant" else None
    if node.op in _WINDOWED and place >= 2:
        return _window(node, place - 2, low, high, size)
    if given[1] != size or (node.op == "concat" and node.attribute("axis") == given[0]):
        return None
    kept = node.op in _ENTRYWISE or node.op in _BY_CHANNEL or _elsewhere(node, place)
    return (low, high) if kept else None


def _elsewhere(node: Node, place: int) -> bool:
    """Whether a normalisation or a slice works along other axes alone."""
    if node.op == "slice":
        return True
    return node.op in _FAMILIES["normalization"] and place not in (node.attributes.get("axes") or (place,))


def _window(node: Node, place: int, low: int, high: int, size: int) -> Interval | None:
    weight = node.parameters.get("weight")
    kernel = node.attributes.get("kernel") if weight is None else weight.shape[2:]
    strides, dilations, pads = (node.attributes.get(name) for name in ("strides", "dilations", "pads"))
    if not kernel or not strides or not pads or node.attributes.get("ceil_mode"):
        return None
    stride, dilation = strides[place], dilations[place] if dilations else 1
    return _within(low * stride - pads[place], high * stride - pads[place] + (kernel[place] - 1) * dilation, size)


def _within(low: int, high: int, size: int) -> Interval | None:
    """Cut at the ends; where nothing is left what is read is padding."""
    low, high = max(low, 0), min(high, size - 1)
    return (low, high) if low <= high else (0, 0)
