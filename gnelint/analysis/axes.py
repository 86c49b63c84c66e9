"""Where the axes of the network's input are in each value, and which nodes mix the entries along one of them.

An axis of a value is written as factors in row-major order, each of which belongs to an axis of the input or to none
(channels that a layer makes). Transpositions, reshapes, products and sums move factors; a layer over an axis ends it.
So it is known of attention, a recurrence or a softmax whether it runs along the samples or along the positions, however
often they were swapped and merged on the way. A value whose axes cannot be followed has none: nothing is said of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.ops import families

Factor = tuple[int | None, int]
"""The input's axis that it belongs to, None for no axis of the input, and its size."""
Axis = tuple[Factor, ...]
Layout = tuple[Axis, ...]

Kind = Literal["attention", "recurrent", "softmax", "product", "layer", "statistic", "window", "codes"]


@dataclass(frozen=True)
class Mixing:
    """A node at which entries along an axis of the input meet.

    Attributes:
        node: its name.
        axis: of the network's main input.
        kind: attention, recurrence, softmax; a product or a layer that sums over the axis; a mean or a norm; a window.
            "codes" mixes nothing: the node has numbers of its own for each entry along the axis.
        causal: whether an entry meets earlier ones alone; None where that is not known.
    """

    node: str
    axis: int
    kind: Kind
    causal: bool | None = False


@dataclass(frozen=True)
class Axes:
    """What is known of the axes.

    Attributes:
        layouts: of each value that could be followed.
        mixings: in topological order.
        shape: of the main input, its width or channels among it; empty where it is not known.
    """

    layouts: Mapping[str, Layout]
    mixings: tuple[Mixing, ...]
    shape: tuple[int, ...]

    def holds(self, value: str, axis: int) -> bool | None:
        """Whether a value still has an entry for each entry of the input's axis; None where it was not followed."""
        layout = self.layouts.get(value)
        return None if layout is None else axis in _labels(layout)


_FAMILIES = families()
_ENTRYWISE = (
    _FAMILIES["activation"] | _FAMILIES["pointwise"] | {"bias", "scale", "dropout", "stop_gradient", "straight_through"}
)
_JOINS = frozenset({"add", "sub", "mul", "div", "mean", "maximum", "minimum", "where", "compare", "logical"})


def axes(graph: Graph) -> Axes:
    """Follow the axes of the main input; one pass."""
    main = _main_input(graph)
    walk = _Walk(graph, {}, [])
    shape: tuple[int, ...] = ()
    if main is not None:
        shape = graph.values[main].concrete_shape or ()
        for name in graph.inputs:
            walk.layouts.update(_start(graph, name, name == main, shape[0] if shape else None))
        for node in graph.nodes:
            walk.enter(node)
    return Axes({name: found for name, found in walk.layouts.items() if found is not None}, tuple(walk.mixings), shape)


def _main_input(graph: Graph) -> str | None:
    """The input of the network that its gradient is taken at, or that its first table looks up."""
    name = graph.gradient_source
    while name is not None and name not in graph.inputs:
        node = graph.producers.get(name)
        name = node.present_inputs[0] if node is not None and node.present_inputs else None
    return name


def _start(graph: Graph, name: str, is_main: bool, samples: int | None) -> dict[str, Layout | None]:
    shape = graph.values[name].concrete_shape
    if shape is None:
        return {}
    if is_main:
        return {name: tuple(((axis, size),) for axis, size in enumerate(shape))}
    known = bool(shape) and shape[0] == samples
    return {name: tuple(((0 if axis == 0 and known else None, size),) for axis, size in enumerate(shape))}


def _labels(layout: Layout) -> set[int]:
    return {label for axis in layout for label, size in axis if label is not None and size > 1}


def _label(axis: Axis) -> int | None:
    """The one axis of the input that an axis of a value is; None for none or several."""
    held = {label for label, size in axis if size > 1}
    return next(iter(held)) if len(held) == 1 else None


@dataclass
class _Walk:
    """The pass over the graph."""

    graph: Graph
    layouts: dict[str, Layout | None]
    mixings: list[Mixing]

    def enter(self, node: Node) -> None:
        rule = _RULES.get(node.op)
        if rule is None and node.op in _ENTRYWISE:
            rule = _same
        if rule is None and node.op in _JOINS:
            rule = _joined
        if rule is None and node.op in _FAMILIES["normalization"]:
            rule = _normalized
        if rule is None and node.op in _FAMILIES["reduction"]:
            rule = _reduced
        if rule is None and node.op in _FAMILIES["recurrent"]:
            rule = _recurrent
        if rule is None and (node.op in _FAMILIES["pooling"] or node.op in ("conv", "conv_transpose", "upsample")):
            rule = _windowed
        found = None if rule is None else rule(self, node)
        for name in node.outputs:
            shape = self.shape(name)
            fits = found is not None and shape is not None and _sizes(found) == shape
            self.layouts[name] = found if fits else None

    def shape(self, name: str | None) -> tuple[int, ...] | None:
        value = None if name is None else self.graph.values.get(name)
        return None if value is None else value.concrete_shape

    def layout(self, node: Node, place: int = 0) -> Layout | None:
        inputs = node.present_inputs
        return self.layouts.get(inputs[place]) if place < len(inputs) else None

    def meet(self, node: Node, axis: Axis, kind: Kind, causal: bool | None = False) -> None:
        for label in {label for label, size in axis if label is not None and size > 1}:
            self.mixings.append(Mixing(node.name, label, kind, causal))


def _sizes(layout: Layout) -> tuple[int, ...]:
    return tuple(math.prod(size for _, size in axis) for axis in layout)


def _plain(shape: Sequence[int]) -> Layout:
    return tuple(((None, size),) for size in shape)


def statistic_size(graph: Graph, node: Node) -> int | None:
    """How many values each statistic of a normalisation, or each row of a softmax, is taken over."""
    shape = graph.values[node.outputs[0]].concrete_shape
    if not shape or node.op == "local_response_norm":
        return None
    if node.op in ("softmax", "log_softmax"):
        return int(shape[node.attribute("axis")])
    if node.op not in _FAMILIES["normalization"]:
        return None
    if node.op in ("batch_norm", "second_moment_norm"):
        return math.prod(shape) // shape[1] if len(shape) > 1 and shape[1] else None
    if node.op == "instance_norm":
        return math.prod(shape[2:])
    if node.op == "group_norm":
        return math.prod(shape[1:]) // int(node.attribute("groups"))
    return math.prod(int(shape[axis]) for axis in node.attribute("axes"))


# --- what moves axes -------------------------------------------------------------------------------------


def _same(walk: _Walk, node: Node) -> Layout | None:
    layout = walk.layout(node)
    if layout is not None and node.op in ("bias", "scale"):
        for parameter in node.parameters.values():
            _codes(walk, node, layout, parameter.shape)
    return layout


def _codes(walk: _Walk, node: Node, layout: Layout, shape: tuple[int, ...]) -> None:
    """Numbers of its own along an axis that is not the last one: codes of positions."""
    for place, size in enumerate(reversed(shape)):
        if 0 < place < len(layout) and size > 1:
            walk.meet(node, layout[-1 - place], "codes")


def _joined(walk: _Walk, node: Node) -> Layout | None:
    known = [walk.layouts.get(name) for name in node.present_inputs]
    if not known:
        return None
    found: list[Axis] = []
    whole = [layout for layout in known if layout is not None]
    if len(whole) < len(known):
        return None
    for place in range(1, max(map(len, whole)) + 1):
        parts = [layout[-place] for layout in whole if len(layout) >= place]
        axis = _common(parts)
        if axis is None:
            return None
        found.insert(0, axis)
    return tuple(found)


def _common(parts: Sequence[Axis]) -> Axis | None:
    """One axis for all operands: of those that are not broadcast, the same axis of the input or none."""
    wide = [part for part in parts if math.prod(size for _, size in part) > 1]
    if not wide:
        return parts[0]
    labelled = [part for part in wide if any(label is not None for label, _ in part)]
    first = (labelled or wide)[0]
    return first if all(part == first for part in labelled) else None


def _transposed(walk: _Walk, node: Node) -> Layout | None:
    layout = walk.layout(node)
    return None if layout is None else tuple(layout[axis] for axis in node.attribute("perm"))


def _reshaped(walk: _Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    return None if layout is None or shape is None else regrouped(layout, shape)


def regrouped(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The factors in another grouping; None where one would have to be cut and cannot."""
    factors = [factor for axis in layout for factor in axis if factor[1] > 1]
    found: list[Axis] = []
    for size in shape:
        axis: list[Factor] = []
        left = size
        while left > 1:
            if not factors:
                return None
            label, own = factors.pop(0)
            taken = math.gcd(left, own) if left % own else own
            if taken == 1 or (taken < own and left != taken):
                return None
            axis.append((label, taken))
            left //= taken
            if taken < own:
                factors.insert(0, (label, own // taken))
        found.append(tuple(axis) or ((None, size),))
    return tuple(found)


def tears(layout: Layout, shape: Sequence[int]) -> bool:
    """Whether a reshape puts a part of an axis of the input together with something else."""
    ahead = 1
    for factor in (factor for axis in layout for factor in axis):
        start, end = ahead, ahead * factor[1]
        ahead = end
        if factor[0] is None:
            continue
        begin = 1
        for size in shape:
            first, last = begin, begin * size
            begin = last
            meets = max(first, start) < min(last, end)
            if meets and not (start <= first and last <= end) and not (first <= start and end <= last):
                return True
    return False


def _cut(walk: _Walk, node: Node) -> Layout | None:
    """Slices, parts, rows: another number of entries along axes, of the same axis of the input."""
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None or len(layout) != len(shape):
        return None
    return tuple(_resized(axis, size) for axis, size in zip(layout, shape, strict=True))


def _resized(axis: Axis, size: int) -> Axis:
    if math.prod(own for _, own in axis) == size:
        return axis
    return ((_label(axis), size),)


def _gathered(walk: _Walk, node: Node) -> Layout | None:
    return _cut(walk, node) if "indices" in node.parameters else None


def _concatenated(walk: _Walk, node: Node) -> Layout | None:
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
            common = _common(parts)
            if common is None:
                return None
            found.append(common)
            continue
        labels = {_label(part) for part in parts} - {None}
        found.append(((labels.pop() if len(labels) == 1 else None, size),))
    return tuple(found)


def _expanded(walk: _Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None:
        return None
    ahead = (((None, 1),),) * (len(shape) - len(layout))
    return tuple(
        axis if math.prod(own for _, own in axis) == size else ((None, size),)
        for axis, size in zip((*ahead, *layout), shape, strict=True)
    )


def _constant(walk: _Walk, node: Node) -> Layout | None:
    shape = walk.shape(node.outputs[0])
    return None if shape is None else _plain(shape)


def _embedded(walk: _Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    return None if layout is None or shape is None else (*layout, ((None, shape[-1]),))


# --- what mixes along them -------------------------------------------------------------------------------


def _linear(walk: _Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None:
        return None
    walk.meet(node, layout[-1], "layer")
    return (*layout[:-1], ((None, shape[-1]),))


def _windowed(walk: _Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None or len(shape) != len(layout) or len(shape) < 3:
        return None
    if node.op in ("conv", "conv_transpose"):
        walk.meet(node, layout[1], "layer")
    found = [layout[0], layout[1] if shape[1] == _sizes(layout)[1] and "weight" not in node.parameters else None]
    for place in range(2, len(shape)):
        if not _is_point(node, place - 2):
            walk.meet(node, layout[place], "window", _looks_back(walk.graph, node, place - 2, len(shape) - 2))
        found.append(_resized(layout[place], shape[place]))
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


def _normalized(walk: _Walk, node: Node) -> Layout | None:
    layout = walk.layout(node)
    if layout is None or node.op in ("batch_norm", "second_moment_norm", "local_response_norm"):
        return layout
    over = node.attributes.get("axes")
    chosen = range(2, len(layout)) if over is None else [axis % len(layout) for axis in over]
    for axis in chosen:
        walk.meet(node, layout[axis], "statistic")
    return layout


def _softmaxed(walk: _Walk, node: Node) -> Layout | None:
    layout = walk.layout(node)
    if layout is None:
        return None
    axis = layout[node.attribute("axis") % len(layout)]
    others = [each for each in layout if each is not axis]
    if not any(_label(axis) in {label for label, _ in each} for each in others):
        # a square of similarities has the axis twice: each entry has a row of its own
        walk.meet(node, axis, "softmax", None)
    return layout


def _reduced(walk: _Walk, node: Node) -> Layout | None:
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


def _recurrent(walk: _Walk, node: Node) -> Layout | None:
    layout, shape = walk.layout(node), walk.shape(node.outputs[0])
    if layout is None or shape is None or len(layout) != 3:
        return None
    walk.meet(node, layout[1], "recurrent", not node.attribute("reverse"))
    walk.meet(node, layout[2], "layer")
    return (layout[0], layout[1], ((None, shape[-1]),))


def _attended(walk: _Walk, node: Node) -> Layout | None:
    query, key, shape = walk.layout(node), walk.layout(node, 1), walk.shape(node.outputs[0])
    if query is None or key is None or shape is None or len(query) != len(key):
        return None
    walk.meet(node, key[-2], "attention", _causal(node))
    batch = [_common((a, b)) for a, b in zip(query[:-2], key[:-2], strict=True)]
    if any(axis is None for axis in batch):
        return None
    return (*query[:-1], ((None, shape[-1]),))


def _causal(node: Node) -> bool | None:
    if node.attribute("causal"):
        return True
    mask = node.parameters.get("mask")
    if mask is None:
        return False if len(node.present_inputs) == 3 else None
    seen = shown(mask)
    return None if seen is None else not bool(np.triu(seen, 1).any())


def shown(mask: Parameter) -> np.ndarray | None:
    """Which keys a query sees by a constant mask, over all heads and samples; None if it is no square."""
    if mask.provenance != "data" or len(mask.shape) < 2 or mask.shape[-1] != mask.shape[-2]:
        return None
    array = mask.array()
    seen = array if array.dtype == bool else np.asarray(array, np.float64) > -1e3
    return np.asarray(seen.reshape(-1, *mask.shape[-2:]).any(axis=0))


def _product(walk: _Walk, node: Node) -> Layout | None:
    a, b = walk.layout(node), walk.layout(node, 1)
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    a = (*a[:-2], a[-1], a[-2]) if node.attribute("transpose_a") else a
    b = (*b[:-2], b[-1], b[-2]) if node.attribute("transpose_b") else b
    for axis in {a[-1], b[-2]}:
        walk.meet(node, axis, "product", None)
    length = max(len(a), len(b)) - 2
    padded = [(((None, 1),),) * (length + 2 - len(each)) + each[:-2] for each in (a, b)]
    batch = [_common(pair) for pair in zip(*padded, strict=True)]
    if any(axis is None for axis in batch):
        return None
    return (*(axis for axis in batch if axis is not None), a[-2], b[-1])


_RULES: Mapping[str, Callable[[_Walk, Node], Layout | None]] = {
    "identity": _same,
    "transpose": _transposed,
    "reshape": _reshaped,
    **dict.fromkeys(("slice", "split", "pad", "flip", "roll"), _cut),
    "gather": _gathered,
    "concat": _concatenated,
    "expand": _expanded,
    "constant": _constant,
    "embedding": _embedded,
    "linear": _linear,
    **dict.fromkeys(("softmax", "log_softmax"), _softmaxed),
    "attention": _attended,
    "matmul": _product,
}


# --- what follows ----------------------------------------------------------------------------------------


def samples_that_meet(graph: Graph, found: Axes) -> Iterator[Mixing]:
    """Attention, recurrences and softmaxes that run along the samples of a batch.

    The axis of the samples is known where the outputs have a row for each of its entries and lack another axis, which a
    pooling or the last step took (and not the width of the input, which a layer takes), or where the network has
    numbers of its own for positions along the second axis and none for the first.
    """
    tokens = not graph.values[graph.inputs[0]].is_floating if graph.inputs else False
    if len(found.shape) < (2 if tokens else 3):
        return
    outputs = [found.layouts.get(name) for name in graph.outputs]
    heads = [layout for layout in outputs if layout]
    if not heads or len(heads) < len(outputs):
        return
    ahead = found.shape if tokens else found.shape[:-1]
    positions = [axis for axis, size in enumerate(ahead) if size > 1]
    coded = {each.axis for each in found.mixings if each.kind == "codes"}
    for mixing in found.mixings:
        if mixing.kind not in ("attention", "recurrent", "softmax", "product"):
            continue
        rows = all(_label(layout[0]) == mixing.axis for layout in heads)
        kept = {label for layout in heads for label in _labels(layout)}
        pooled = (
            rows and mixing.axis in positions and any(axis != mixing.axis and axis not in kept for axis in positions)
        )
        if pooled or (mixing.axis == 0 and 1 in coded and 0 not in coded and rows):
            yield mixing


def leaks(graph: Graph, found: Axes) -> Iterator[tuple[Mixing, Mixing]]:
    """Nodes behind a causal attention at which positions meet later ones, though the output has a row for each."""
    behind: dict[str, Mixing] = {}
    by_node: dict[str, list[Mixing]] = {}
    for mixing in found.mixings:
        by_node.setdefault(mixing.node, []).append(mixing)
    for node in graph.nodes:
        cause = next((behind[name] for name in node.present_inputs if name in behind), None)
        for mixing in by_node.get(node.name, ()):
            if mixing.kind == "attention" and mixing.causal and cause is None:
                cause = mixing
            elif cause is not None and mixing.axis == cause.axis and _meets_later(graph, found, node, mixing):
                yield mixing, cause
        if cause is not None:
            behind.update(dict.fromkeys(node.outputs, cause))


def _meets_later(graph: Graph, found: Axes, node: Node, mixing: Mixing) -> bool:
    if mixing.causal is not False or mixing.kind in ("codes", "softmax", "product"):
        return False
    return all(found.holds(name, mixing.axis) for name in (node.outputs[0], *graph.outputs))
