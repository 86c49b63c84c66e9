"""What mixes entries along axes: layers, windows, norms, reductions, recurrences, attention, products."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gnelint.analysis.axes.layout import Layout, common, label, resized, sizes
from gnelint.analysis.axes.masks import is_causal
from gnelint.analysis.axes.walk import Walk
from gnelint.ir.graph import Graph, Node
from gnelint.ops import families

_FAMILIES = families()


def _linear(walk: Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None:
        return None
    walk.meet(node, layout[-1], "layer")
    return (*layout[:-1], ((None, shape[-1]),))


def _windowed(walk: Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None or len(shape) != len(layout) or len(shape) < 3:
        return None
    if node.op in ("conv", "conv_transpose"):
        walk.meet(node, layout[1], "layer")
    found = [layout[0], layout[1] if shape[1] == sizes(layout)[1] and "weight" not in node.parameters else None]
    for place in range(2, len(shape)):
        if not _is_point(node, place - 2):
            walk.meet(node, layout[place], "window", _looks_back(walk.graph, node, place - 2, len(shape) - 2))
        found.append(resized(layout[place], shape[place]))
    return tuple(((None, shape[1]),) if axis is None else axis for axis in found)


def _is_point(node: Node, place: int) -> bool:
    """Whether a window is of one entry along an axis."""
    weight = node.parameters.get("weight")
    return weight is not None and node.op == "conv" and weight.shape[2 + place] == 1


def _looks_back(graph: Graph, node: Node, place: int, count: int) -> bool | None:
    """Whether a window ends at its own entry, being padded in front alone; None if it is not padded."""
    pads = node.attributes.get("pads")
    if node.op != "conv" or not pads or len(pads) != 2 * count:
        return None
    before, behind = pads[place], pads[count + place]
    source = graph.producers.get(node.present_inputs[0])
    if source is not None and source.op == "pad":
        own = source.attribute("pads")
        before, behind = before + own[2 + place], behind + own[len(own) // 2 + 2 + place]
    return None if before == behind == 0 else behind == 0


def _normalized(walk: Walk, node: Node) -> Layout | None:
    layout = walk.layout(node)
    if layout is None or node.op in ("batch_norm", "second_moment_norm", "local_response_norm"):
        return layout
    over = node.attributes.get("axes")
    chosen = range(2, len(layout)) if over is None else [axis % len(layout) for axis in over]
    for axis in chosen:
        walk.meet(node, layout[axis], "statistic")
    return layout


def _softmaxed(walk: Walk, node: Node) -> Layout | None:
    layout = walk.layout(node)
    if layout is None:
        return None
    axis = layout[node.attribute("axis") % len(layout)]
    others = [each for each in layout if each is not axis]
    if not any(label(axis) in {label for label, _ in each} for each in others):
        # a square of similarities has the axis twice: each entry has a row of its own
        walk.meet(node, axis, "softmax", None)
    return layout


def _reduced(walk: Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None:
        return None
    if node.op == "cumsum":
        walk.meet(node, layout[node.attribute("axis") % len(layout)], "recurrent", not node.attribute("reverse"))
        return layout
    over = {axis % len(layout) for axis in node.attribute("axes")}
    for axis in over:
        walk.meet(node, layout[axis], "statistic")
    if len(shape) == len(layout):
        return tuple(((None, 1),) if place in over else axis for place, axis in enumerate(layout))
    return tuple(axis for place, axis in enumerate(layout) if place not in over)


def _recurrent(walk: Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None or len(layout) != 3:
        return None
    walk.meet(node, layout[1], "recurrent", not node.attribute("reverse"))
    walk.meet(node, layout[2], "layer")
    return (layout[0], layout[1], ((None, shape[-1]),))


def _attended(walk: Walk, node: Node) -> Layout | None:
    query, key, shape = walk.layout(node), walk.layout(node, 1), walk.shape(node.outputs[0])
    if query is None or key is None or shape is None or len(query) != len(key):
        return None
    walk.meet(node, key[-2], "attention", is_causal(node))
    batch = [common((a, b)) for a, b in zip(query[:-2], key[:-2], strict=True)]
    if any(axis is None for axis in batch):
        return None
    # of learnt queries the keys know what the heads and samples are
    return (*(axis for axis in batch if axis is not None), query[-2], ((None, shape[-1]),))


def _product(walk: Walk, node: Node) -> Layout | None:
    a, b = walk.layout(node), walk.layout(node, 1)
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    a = (*a[:-2], a[-1], a[-2]) if node.attribute("transpose_a") else a
    b = (*b[:-2], b[-1], b[-2]) if node.attribute("transpose_b") else b
    for axis in {a[-1], b[-2]}:
        walk.meet(node, axis, "product", None)
    length = max(len(a), len(b)) - 2
    padded = [(((None, 1),),) * (length + 2 - len(each)) + each[:-2] for each in (a, b)]
    batch = [common(pair) for pair in zip(*padded, strict=True)]
    if any(axis is None for axis in batch):
        return None
    return (*(axis for axis in batch if axis is not None), a[-2], b[-1])


MIXING: Mapping[str, Callable[[Walk, Node], Layout | None]] = {
    **dict.fromkeys(_FAMILIES["normalization"], _normalized),
    **dict.fromkeys(_FAMILIES["reduction"], _reduced),
    **dict.fromkeys(_FAMILIES["recurrent"], _recurrent),
    **dict.fromkeys((*_FAMILIES["pooling"], "conv", "conv_transpose", "upsample"), _windowed),
    "linear": _linear,
    **dict.fromkeys(("softmax", "log_softmax"), _softmaxed),
    "attention": _attended,
    "matmul": _product,
}
"""Operations that meet entries along an axis."""
