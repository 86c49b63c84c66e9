"""Biases that the normalisation behind their layer takes out again: where this holds exactly, and nowhere else.

A bias is taken out where it is one number for all that a statistic of the normalisation averages, in training and, once
it has left the running mean, in evaluation. What lies between layer and normalisation therefore has to keep it one
number a channel, and nothing else may read it or anything computed of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from gnelint.ir.graph import Dim, Graph, Node, Parameter
from gnelint.records import dataclass

Shape = tuple[Dim, ...]

_BIAS_AXIS = {"linear": -1, "conv": 1, "conv_transpose": 1}
"""The axis of a layer's output along which its bias varies."""
_ROUNDS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operations that are read as the identity, but round: what they give is not shifted by what is added before."""


@dataclass(frozen=True)
class CancelledBias:
    """A bias that a normalisation takes out.

    Attributes:
        layer: a linear layer or convolution with a bias.
        norm: the normalisation.
        scalings: the constant scalings between them, in order; each has one number a channel, or one.
    """

    layer: Node
    norm: Node
    scalings: tuple[Node, ...] = ()

    @property
    def bias(self) -> Parameter:
        """The bias itself."""
        return self.layer.parameters["bias"]

    @property
    def mean(self) -> Parameter | None:
        """The running mean that the normalisation stores, None if it stores none."""
        return self.norm.parameters.get("running_mean")

    def amounts(self) -> np.ndarray:
        """What the bias is where the normalisation reads it, one number a channel, in double precision."""
        found = _flat(self.bias)
        for node in self.scalings:
            found = found * float(node.attribute("factor"))
            if "scale" in node.parameters:
                scale = _flat(node.parameters["scale"])
                found = found / scale if node.attribute("reciprocal") else found * scale
        return found

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the stored tensors that this rests on: were one of them another, the running mean would be too."""
        parameters = [self.bias, *(p for node in self.scalings for p in node.parameters.values())]
        parameters += [] if self.mean is None else [self.mean]
        return tuple(dict.fromkeys(leaf.name for parameter in parameters for leaf in parameter.leaves))


def _flat(parameter: Parameter) -> np.ndarray:
    return parameter.array().astype(np.float64).reshape(-1)


def cancelled_biases(graph: Graph) -> Mapping[str, CancelledBias]:
    """The biases that a normalisation takes out wherever they are used, by the names of their layers.

    Not those of layers whose bias something else reads: another layer without a normalisation, an output, the loss; nor
    frozen ones and buffers; nor, in a module, those in front of one normalisation that runs behind several layers: its
    running mean holds no one bias.
    """
    pinned = {*graph.outputs, *graph.captured}
    found = {node.name: taken for node in graph.nodes if (taken := _taken_out(graph, node, pinned)) is not None}
    while True:
        kept = {name: taken for name, taken in found.items() if _without_effect(graph, taken, found)}
        if len(kept) == len(found):
            return kept
        found = kept


def _without_effect(graph: Graph, taken: CancelledBias, found: Mapping[str, CancelledBias]) -> bool:
    """Whether all that reads the bias, and in a module all that reads the running mean, is in step with it."""
    for leaf in taken.bias.leaves:
        if leaf.size == taken.bias.size:
            users = graph.uses.get(leaf.name, ())
            if leaf.name in graph.returned or any(role != "bias" or node.name not in found for node, role in users):
                return False
    if graph.source == "onnx" or taken.mean is None:
        return True  # a file can give each normalisation a running mean of its own
    if any(leaf.name in graph.returned for leaf in taken.mean.leaves):
        return False
    means = [use for leaf in taken.mean.leaves for use in graph.uses.get(leaf.name, ())]
    if len(means) == 1:
        return True
    by_norm = {other.norm.name: other for other in found.values()}
    if any(role != "running_mean" or node.name not in by_norm for node, role in means):
        return False
    others = [by_norm[node.name] for node, _ in means]
    return all(other.tensors == taken.tensors and np.array_equal(other.amounts(), taken.amounts()) for other in others)


# From the layer to the normalisation ------------------------------------------------------------------------------


def _taken_out(graph: Graph, layer: Node, pinned: set[str]) -> CancelledBias | None:
    """The bias of a layer if all that comes of its output, step by step, is what a normalisation takes it out of."""
    bias, shape = layer.parameters.get("bias"), graph.values[layer.outputs[0]].shape
    if layer.op not in _BIAS_AXIS or bias is None or not bias.trainable or shape is None or len(shape) < 2:
        return None
    if bias.provenance == "data" and not bias.array().any():
        return None  # what the fix leaves in a module
    axis = _BIAS_AXIS[layer.op] % len(shape)
    if not (bias.size == shape[axis] == max(bias.shape, default=0)):
        return None
    value = layer.outputs[0]
    scalings: list[Node] = []
    while True:
        readers = graph.consumers.get(value, ())
        if value in pinned or len(readers) != 1:
            return None
        node = readers[0]
        if node.op in _SUBTRACTS:
            fits = axis == 1 and _SUBTRACTS[node.op](graph, node)
            return CancelledBias(layer, node, tuple(scalings)) if fits else None
        before, after = graph.values[value].shape, graph.values[node.outputs[0]].shape
        step = _STEPS.get(node.op)
        if step is None or before is None or after is None or len(node.outputs) != 1:
            return None
        if not graph.values[node.outputs[0]].is_floating:
            return None
        moved = step(node, axis, before, after)
        if moved is None:
            return None
        axis, value = moved, node.outputs[0]
        if node.op == "scale":
            scalings.append(node)


def _channels_alone(graph: Graph, node: Node) -> bool:
    """Whether the group normalisation has one channel a group."""
    shape = graph.values[node.inputs[0] or ""].shape
    return shape is not None and len(shape) > 1 and bool(shape[1] == node.attribute("groups"))


def _stands_alone(graph: Graph, node: Node) -> bool:
    """Whether evaluation is known: a module that writes its normalisation out may keep statistics that none can see."""
    return graph.source == "onnx" or node.source_op.startswith("aten.")


_SUBTRACTS: Mapping[str, Callable[[Graph, Node], bool]] = {
    "batch_norm": lambda graph, node: bool(node.attribute("training")) and _stands_alone(graph, node),
    "instance_norm": _stands_alone,
    "group_norm": lambda graph, node: _channels_alone(graph, node) and _stands_alone(graph, node),
}
"""The normalisations that subtract the mean of each channel (axis 1) from it, and when they do."""

# The steps between: each gives the axis along which the bias lies behind it, None where it is no one number a channel


def _same(node: Node, axis: int, before: Shape, after: Shape) -> int | None:
    return axis if before == after and node.source_op not in _ROUNDS else None


def _dropout(node: Node, axis: int, before: Shape, after: Shape) -> int | None:
    """In training it takes the bias out of some entries and not of others."""
    return axis if node.attribute("p") == 0 else None


def _scale(node: Node, axis: int, before: Shape, after: Shape) -> int | None:
    """A scaling a channel scales the bias; one a position makes it vary."""
    scale = node.parameters.get("scale")
    if scale is None:
        return _same(node, axis, before, after)
    aligned = (1,) * (len(before) - len(scale.shape)) + scale.shape
    if scale.provenance != "data" or len(aligned) != len(before) or scale.size != aligned[axis]:
        return None
    if node.attribute("reciprocal") and not np.all(scale.array()):
        return None
    return _same(node, axis, before, after)


def _transpose(node: Node, axis: int, before: Shape, after: Shape) -> int | None:
    order: Sequence[int] = node.attribute("perm")
    return list(order).index(axis)


def _reshape(node: Node, axis: int, before: Shape, after: Shape) -> int | None:
    """The axis that has as many entries in front of it, in it and behind it; a symbolic size equals itself alone."""
    for place, size in enumerate(after):
        if size != before[axis] or not isinstance(size, int):
            continue
        if _as_many(before[:axis], after[:place]) or _as_many(before[axis + 1 :], after[place + 1 :]):
            return place
    return None


def _as_many(first: Shape, second: Shape) -> bool:
    """Whether two rows of axes hold equally many entries; then so do the other axes of a reshaped tensor."""
    if first == second:
        return True
    one, other = ([size for size in shape if isinstance(size, int)] for shape in (first, second))
    return len(one) == len(first) and len(other) == len(second) and prod(one) == prod(other)


def _elsewhere(node: Node, axis: int, before: Shape, after: Shape) -> int | None:
    """Entries chosen or moved along other axes than that of the bias."""
    axes = node.attribute("axes")
    return axis if axes and axis not in {each % len(before) for each in axes} else None


def _pad(node: Node, axis: int, before: Shape, after: Shape) -> int | None:
    """Padding with what the channel holds keeps it one number; padding with zeros, or with another one, does not."""
    pads = node.attribute("pads")
    moved = pads[axis] or pads[axis + len(before)]
    return axis if node.attribute("mode") in ("reflect", "edge", "wrap") and not moved else None


_STEPS: Mapping[str, Callable[[Node, int, Shape, Shape], int | None]] = {
    "identity": _same,
    "bias": _same,
    "dropout": _dropout,
    "scale": _scale,
    "transpose": _transpose,
    "reshape": _reshape,
    "slice": _elsewhere,
    "flip": _elsewhere,
    "roll": _elsewhere,
    "pad": _pad,
}
