"""Shapes and attributes."""

from __future__ import annotations

import math

import numpy as np

from gnelint.analysis.axes.statistic_size import statistic_size
from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families


def size(facts: Facts, node: Node) -> float | None:
    """Entries of the node's output."""
    shape = facts.shape(node)
    return None if shape is None else float(math.prod(shape))


def _features(facts: Facts, node: Node) -> float | None:
    shape = facts.shape(node)
    return None if not shape else float(math.prod(shape[1:]))


def _positions(facts: Facts, node: Node) -> float | None:
    features, width = _features(facts, node), facts.width(node)
    return None if features is None or not width else features / width


def _batch(facts: Facts, node: Node) -> float | None:
    shape = facts.shape(node)
    return None if not shape else float(shape[0])


def _statistic_size(facts: Facts, node: Node) -> float | None:
    """Number of values behind one mean and variance of a normalisation."""
    found = statistic_size(facts.graph, node)
    return None if found is None else float(found)


def _attribute(facts: Facts, node: Node, key: str) -> float | None:
    try:
        value = node.attribute(key)
    except KeyError:
        return None
    if isinstance(value, (tuple, list)):
        value = max(value, default=None) if all(isinstance(entry, (int, float)) for entry in value) else None
    return float(value) if isinstance(value, (bool, int, float)) else None


def _attribute_text(facts: Facts, node: Node, key: str) -> str | None:
    try:
        value = node.attribute(key)
    except KeyError:
        return None
    return value if isinstance(value, str) else None


def _dtype(facts: Facts, node: Node) -> str | None:
    value = facts.graph.values.get(node.outputs[0])
    return None if value is None else value.dtype


def _input_dtype(facts: Facts, node: Node) -> str | None:
    value = facts.graph.values.get(node.present_inputs[0]) if node.present_inputs else None
    return None if value is None else value.dtype


def _idle_taps(facts: Facts, node: Node) -> float | None:
    """The share of a convolution's taps that meet nothing but padding, at every place where it is put."""
    if node.op != "conv":
        return None
    before, after = facts.graph.values[node.present_inputs[0]].concrete_shape, facts.shape(node)
    weight = node.parameters["weight"]
    if not before or not after or len(weight.shape) != len(before):
        return None
    rank, met = len(before) - 2, 1.0
    for axis in range(rank):
        starts = np.arange(after[2 + axis]) * node.attribute("strides")[axis] - node.attribute("pads")[axis]
        places = starts[:, None] + np.arange(weight.shape[2 + axis]) * node.attribute("dilations")[axis]
        met *= np.mean(((places >= 0) & (places < before[2 + axis])).any(axis=0))
    return 1.0 - float(met)


_STRAIGHT = frozenset({"bias", "identity", "dropout", "batch_norm"})


def _windows_in_row(facts: Facts, node: Node) -> float:
    """How many convolutions over windows stand in a row with this one, with nothing between that bends.

    A window reads all channels of as many entries along each axis, and of more than one: what splits a filter into its
    parts (by channels, by axes, by a projection) has none.
    """
    if not _is_window(node):
        return 0.0
    before, step = 0, _straight_before(facts, node)
    while step is not None and _is_window(step):
        before, step = before + 1, _straight_before(facts, step)
    behind, step = 0, _straight_behind(facts, node)
    while step is not None and _is_window(step):
        behind, step = behind + 1, _straight_behind(facts, step)
    return float(before + 1 + behind)


def _is_window(node: Node) -> bool:
    if node.op != "conv" or node.attribute("groups") != 1:
        return False
    kernel = set(node.parameters["weight"].shape[2:])
    return len(kernel) == 1 and max(kernel) > 1


def _straight_before(facts: Facts, node: Node) -> Node | None:
    source = facts.producer(node)
    while source is not None and source.op in _STRAIGHT and _is_read_once(facts, source):
        source = facts.producer(source)
    return source if source is not None and _is_read_once(facts, source) else None


def _straight_behind(facts: Facts, node: Node) -> Node | None:
    while _is_read_once(facts, node):
        (node,) = facts.graph.consumers[node.outputs[0]]
        if node.op not in _STRAIGHT:
            return node
    return None


def _is_read_once(facts: Facts, node: Node) -> bool:
    name = node.outputs[0]
    return len(facts.graph.consumers.get(name, ())) == 1 and name not in facts.graph.outputs


_WEIGHED = families()["recurrent"] | {"linear", "conv"}
_CARRIES = frozenset({"identity", "reshape", "transpose", "expand"})


def _raw_numbers(facts: Facts, node: Node) -> str:
    """The input of whole numbers that a layer multiplies its weights with, as they are."""
    if node.op not in _WEIGHED or not any(parameter.trainable for parameter in node.parameters.values()):
        return "none"
    name = node.present_inputs[0]
    source = facts.graph.producers.get(name)
    while source is not None and source.op in _CARRIES:
        name = source.present_inputs[0]
        source = facts.graph.producers.get(name)
    dtype = facts.graph.values[name].dtype or ""
    return name if name in facts.graph.inputs and "int" in dtype else "none"


SHAPES = (
    function(
        "raw_numbers(n)",
        "text",
        _raw_numbers,
        "the input of whole numbers that the layer n multiplies its weights with as they are; or none",
    ),
    function(
        "windows_in_row(n)",
        "number",
        _windows_in_row,
        "how many convolutions over all channels, in windows as long along each axis and larger than a point, stand in "
        "a row with n and have no activation between them; 0 of other nodes",
    ),
    function(
        "idle_taps(n)",
        "number",
        _idle_taps,
        "share of the weights of the convolution n that meet nothing but padding, wherever it is put",
    ),
    function(
        "attribute(n, key)",
        "number",
        _attribute,
        "attribute of a node: a truth value is 1 or 0, of a list it is the largest entry",
    ),
    function("attribute_text(n, key)", "text", _attribute_text, "attribute of a node that is a text"),
    function("width(n)", "number", Facts.width, "channels (features) of the node's output"),
    function("positions(n)", "number", _positions, "pixels or tokens a sample of the node's output"),
    function("features(n)", "number", _features, "entries a sample of the node's output: width times positions"),
    function("batch(n)", "number", _batch, "samples in the node's output (its first dimension)"),
    function("size(n)", "number", size, "entries of the node's output"),
    function(
        "statistic_size(n)",
        "number",
        _statistic_size,
        "number of values behind one statistic of a normalisation, or in a row of a softmax",
    ),
    function(
        "has_shape(n)",
        "truth",
        lambda facts, node: facts.shape(node) is not None,
        "every dimension of the node's output is known",
    ),
    function("input_dtype(n)", "text", _input_dtype, "type of what the node reads first"),
    function("dtype(n)", "text", _dtype, "type of the node's output, such as float16"),
)
