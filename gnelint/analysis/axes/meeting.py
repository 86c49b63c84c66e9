"""What follows from where entries met: samples that meet, codes for samples, positions that see later ones."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gnelint.analysis.axes.layout import Layout, label, labels
from gnelint.analysis.axes.walk import Axes, Mixing
from gnelint.ir.graph import Graph, Node


def samples_that_meet(graph: Graph, found: Axes) -> Iterator[Mixing]:
    """Attention, recurrences, softmaxes and lengths that run along the samples of a batch.

    A length along the first axis is one over samples where the outputs have a row for each of them, and so is what
    moves entries of a sequence along it, unless attention or a recurrence runs there. For all others the
    axis of the samples is known where the outputs have a row for each of its entries and lack another axis, which a
    pooling or the last step took (and not the width of the input, which a layer takes), or where the network has
    numbers of its own for positions along the second axis and none for the first. Where a network gives its loss alone,
    softmaxes over the samples of rows of numbers are told.
    """
    tokens = not graph.values[graph.inputs[0]].is_floating if graph.inputs else False
    outputs = [found.layouts.get(name) for name in graph.outputs]
    heads = [layout for layout in outputs if layout]
    rowwise = len(heads) == len(outputs) and all(_is_row(layout) for layout in heads)
    if not tokens and (len(found.shape) == 2 or rowwise):
        yield from _softmaxes_of_rows(graph, found)
    yield from _softmaxes_of_losses(graph, found)
    if not heads or len(heads) < len(outputs):
        return
    if all(label(layout[0]) == 0 for layout in heads):
        yield from _lengths_over_samples(graph, found)
        yield from _moved_samples(found, tokens)
    if len(found.shape) < (2 if tokens else 3):
        return
    ahead = found.shape if tokens else found.shape[:-1]
    positions = [axis for axis, size in enumerate(ahead) if size > 1]
    coded = {each.axis for each in found.mixings if each.kind == "codes"}
    for mixing in found.mixings:
        if mixing.kind not in ("attention", "recurrent", "softmax", "product"):
            continue
        rows = all(label(layout[0]) == mixing.axis for layout in heads)
        kept = {label for layout in heads for label in labels(layout)}
        pooled = (
            rows and mixing.axis in positions and any(axis != mixing.axis and axis not in kept for axis in positions)
        )
        if pooled or (mixing.axis == 0 and 1 in coded and 0 not in coded and rows):
            yield mixing


def _is_row(layout: Layout) -> bool:
    """Whether an output is a row of numbers for each entry of the input's first axis, all others pooled."""
    return len(layout) == 2 and label(layout[0]) == 0 and labels(layout) == {0}


def _softmaxes_of_rows(graph: Graph, found: Axes) -> Iterator[Mixing]:
    """Softmaxes over the samples that are outputs, each with a row for each sample.

    Of images and sequences all outputs have such rows and no axis of positions: classes of whole samples.
    """
    for mixing in found.mixings:
        name = graph.node(mixing.node).outputs[0]
        if mixing.kind == "softmax" and mixing.axis == 0 and name in graph.outputs and not _is_table(graph, name):
            yield mixing


_TO_LOGARITHMS = frozenset({"bias", "clip", "gather", "reshape", "identity", "scale"})


def _softmaxes_of_losses(graph: Graph, found: Axes) -> Iterator[Mixing]:
    """Softmaxes over the samples whose logarithms make a loss, in a network that gives nothing but single numbers.

    Shares that weigh a sum over the first axis (instances of one bag) have no logarithms taken.
    """
    shapes = [graph.values[name].concrete_shape for name in graph.outputs]
    if any(shape is None or math.prod(shape) != 1 for shape in shapes):
        return
    for mixing in found.mixings:
        node = graph.node(mixing.node)
        if mixing.axis or node.op not in ("softmax", "log_softmax") or not _takes_logarithms(graph, node):
            continue
        layout = found.layouts.get(node.outputs[0]) or ()
        along = bool(layout) and int(node.attribute("axis")) % len(layout) == 0
        if along and _is_row(layout) and not _is_table(graph, node.outputs[0]):
            yield mixing


def _takes_logarithms(graph: Graph, node: Node) -> bool:
    """Whether a node is a log-softmax, or all that reads a softmax takes logarithms, smallest numbers added first."""
    readers = graph.consumers.get(node.outputs[0], ())
    return node.op == "log_softmax" or (
        bool(readers)
        and all(
            reader.op == "log" or (reader.op in _TO_LOGARITHMS and _takes_logarithms(graph, reader))
            for reader in readers
        )
    )


def _is_table(graph: Graph, value: str) -> bool:
    """Whether a value has as many columns as rows, as likenesses of samples have: each of both ways is right there."""
    shape = graph.values[value].concrete_shape
    return shape is not None and len(shape) > 1 and shape[0] == shape[1]


def _lengths_over_samples(graph: Graph, found: Axes) -> Iterator[Mixing]:
    """Where vectors are divided by their lengths along the samples alone, none of them a square of similarities."""
    for mixing in found.mixings:
        node = graph.node(mixing.node)
        if mixing.axis == 0 and node.op == "l2_normalize" and len(node.attribute("axes")) == 1:
            layout = found.layouts.get(node.present_inputs[0]) or ()
            if sum(0 in {label for label, _ in axis} for axis in layout) == 1:
                yield mixing


_ALONG = frozenset({"attention", "recurrent", "window", "statistic"})
"""What runs along positions: where any of it runs along the first axis, time stands there and not the samples."""


def _moved_samples(found: Axes, tokens: bool) -> Iterator[Mixing]:
    """Of sequences, samples first: what is turned round or shifted along the first axis and has positions, too."""
    along = {mixing.axis for mixing in found.mixings if mixing.kind in _ALONG}
    if len(found.shape) == (2 if tokens else 3) and 0 not in along:
        yield from (each for each in found.mixings if each.kind == "moved" and each.axis == 0)


def coded_samples(graph: Graph, found: Axes) -> Iterator[Mixing]:
    """Codes along the first axis alone, where attention and recurrences run along another one."""
    coded = {each.axis for each in found.mixings if each.kind == "codes"}
    along = {each.axis for each in found.mixings if each.kind in ("attention", "recurrent", "softmax")}
    if coded == {0} and along and 0 not in along:
        yield from (each for each in found.mixings if each.kind == "codes" and _differ(graph.node(each.node), found))


def _differ(node: Node, found: Axes) -> bool:
    """Whether a node's numbers differ between samples: a mask of lengths has a row for each, and where all are of one
    length, one row for all."""
    layout = found.layouts.get(node.outputs[0]) or ()
    for parameter in node.parameters.values():
        places = range(-1, -1 - min(len(layout), len(parameter.shape)), -1)
        along = [place for place in places if label(layout[place]) == 0 and parameter.shape[place] > 1]
        if parameter.provenance != "data" or any(np.ptp(parameter.array(), axis=place).any() for place in along):
            return True
    return False


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
                outside = mixing.kind == "attention" and node.present_inputs[1] not in behind
                yield from () if outside else ((mixing, cause),)  # an encoder's memory may be seen as a whole
        if cause is not None:
            behind.update(dict.fromkeys(node.outputs, cause))


def _meets_later(graph: Graph, found: Axes, node: Node, mixing: Mixing) -> bool:
    if mixing.causal is not False or mixing.kind in ("codes", "softmax", "product"):
        return False
    return all(found.holds(name, mixing.axis) for name in (node.outputs[0], *graph.outputs))
