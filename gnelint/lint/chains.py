"""Chains: layers one behind the other without branches and normalisation, where the gains multiply."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gnelint.analysis.prediction import Prediction
from gnelint.ir.graph import Graph, Node
from gnelint.lint.pattern import TRANSPARENT
from gnelint.ops import families

LAYERS = frozenset({"linear", "conv", "conv_transpose"})
"""Operations that count as a layer when depth is counted: linear maps with a weight that mixes channels."""

_FOLLOWS = TRANSPARENT | families()["activation"]


@dataclass(frozen=True)
class Layer:
    """A weighted layer with what follows it pointwise.

    Attributes:
        node: the layer.
        entry: name of the value it reads.
        exit: name of the value behind its activation, and behind the sums and fixed matrices that follow.
        nodes: the layer and all that follows it up to there, in order.
    """

    node: Node
    entry: str
    exit: str
    nodes: tuple[Node, ...]

    @property
    def activation(self) -> Node | None:
        """The last activation among them, None if there is none."""
        return next((node for node in reversed(self.nodes) if node.op in families()["activation"]), None)


def _is_sum(graph: Graph, node: Node) -> bool:
    """Whether the node sums over positions or set elements in front of another layer.

    It hands the gradient to every one of them, and the layer before it makes up for their number. A sum over the
    samples, or one that is the network's output, is a loss or an energy.
    """
    rank = len(graph.values[node.outputs[0]].shape or ())
    return node.op == "reduce_sum" and rank > 1 and 0 not in _axes(graph, node) and _leads_to_layer(graph, node)


def _axes(graph: Graph, node: Node) -> tuple[int, ...]:
    shape = graph.values[node.inputs[0] or ""].shape or ()
    return tuple(axis % len(shape) for axis in node.attribute("axes") or range(len(shape)))


def _leads_to_layer(graph: Graph, node: Node) -> bool:
    value = node.outputs[0]
    while value not in graph.outputs:
        readers = graph.consumers.get(value, ())
        if any(_is_layer(reader) for reader in readers):
            return True
        if len(readers) != 1 or readers[0].op not in _FOLLOWS:
            return False
        value = readers[0].outputs[0]
    return False


def layers_outside_branches(prediction: Prediction) -> list[list[Layer]]:
    """The layers of serial blocks without normalisation, in runs that no other block interrupts."""
    runs: list[list[Layer]] = []
    open_run: list[Layer] = []
    end: str | None = None
    for block in prediction.blocks:
        nodes = [prediction.graph.node(name) for name in block.nodes]
        plain = block.kind == "serial" and not any(node.op in families()["normalization"] for node in nodes)
        if not plain or block.entry != end:
            runs.append(open_run)
            open_run = []
        if plain:
            open_run += [layer_of(prediction.graph, node) for node in nodes if _is_layer(node) and not _is_fixed(node)]
        end = block.exit
    return [run for run in (*runs, open_run) if run]


def _is_layer(node: Node) -> bool:
    return node.op in LAYERS and "weight" in node.parameters and node.inputs[0] is not None


def _is_fixed(node: Node) -> bool:
    """Whether the node is a matrix that is a part of the program, not a layer: an adjacency, a mask, a basis."""
    return _is_layer(node) and node.parameters["weight"].kind in ("buffer", "constant")


def layer_of(graph: Graph, node: Node) -> Layer:
    """The layer that a weighted node begins."""
    value = node.outputs[0]
    nodes = [node]
    while True:
        readers = graph.consumers.get(value, ())
        if len(readers) != 1 or value in graph.outputs or len(readers[0].outputs) != 1:
            break
        if readers[0].op not in _FOLLOWS and not _is_fixed(readers[0]) and not _is_sum(graph, readers[0]):
            break
        value = readers[0].outputs[0]
        nodes.append(readers[0])
    assert node.inputs[0] is not None
    return Layer(node, node.inputs[0], value, tuple(nodes))


def chain_bits(prediction: Prediction) -> dict[str, float]:
    """log2 of what all layers of a run together multiply the squared gradient norm by, for each layer of the run.

    What lies between the layers (a pooling) is left out; layers of a run that is not predicted throughout are missing.
    """
    found: dict[str, float] = {}
    for run in layers_outside_branches(prediction):
        bits = [_bits(prediction, layer) for layer in run]
        known = [value for value in bits if value is not None and math.isfinite(value)]
        if len(known) == len(run):
            found |= dict.fromkeys((layer.node.name for layer in run), math.fsum(known))
    return found


def _bits(prediction: Prediction, layer: Layer) -> float | None:
    """log2 of what a layer multiplies the squared gradient norm by; by its phis where others read its input too."""
    before, behind = (_gradient(prediction, value) for value in (layer.entry, layer.exit))
    if before is not None and behind is not None and len(prediction.graph.consumers[layer.entry]) == 1:
        return before - behind
    phis = [prediction.by_node[node.name].phi for node in layer.nodes if node.name in prediction.by_node]
    known = [phi for phi in phis if phi]
    return math.fsum(map(math.log2, known)) if len(known) == len(layer.nodes) else None


def _gradient(prediction: Prediction, value: str) -> float | None:
    if value == prediction.gradient_at:
        return prediction.gradient_log2
    producer = prediction.graph.producers.get(value)
    found = None if producer is None else prediction.by_node.get(producer.name)
    return None if found is None else found.gradient_log2


def runs_of(prediction: Prediction, names: Iterable[str]) -> list[list[Layer]]:
    """The runs of layers that one of the named nodes is in, or one that shares a tensor with a layer of theirs."""
    runs = layers_outside_branches(prediction)
    wanted = set(names)
    tensors: set[str] = set()
    count = -1
    while count < len(tensors):
        count = len(tensors)
        found = [run for run in runs if any(_belongs(layer.node, wanted, tensors) for layer in run)]
        tensors.update(leaf.name for run in found for layer in run for leaf in layer.node.parameters["weight"].leaves)
    return found


def _belongs(node: Node, names: set[str], tensors: set[str]) -> bool:
    return node.name in names or any(leaf.name in tensors for leaf in node.parameters["weight"].leaves)


def chains_of(prediction: Prediction, names: Iterable[str]) -> list[Layer]:
    """The layers of every chain that one of the named nodes is in."""
    return [layer for run in runs_of(prediction, names) for layer in run]
