"""Chains: layers one behind the other without normalisation, where the gains multiply.

A concatenation does not end a chain: what joins there keeps its own second moment, and the squared norm of the gradient
in front of it is the sum of what its operands get. Where every layer keeps the norm, so does the block (theory 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from gnelint.analysis.prediction import Block, Prediction
from gnelint.ir.graph import Graph, Node
from gnelint.lint.pattern import TRANSPARENT
from gnelint.ops import families
from gnelint.records import dataclass

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
    return _runs(prediction, lambda graph, block: block.kind == "serial" and not _normalises(graph, block))


def layers_of_chains(prediction: Prediction) -> list[list[Layer]]:
    """The same where blocks whose branches nothing but concatenations join do not interrupt a run.

    The layers of a run are in topological order; those of two branches of one block lie side by side.
    """
    return _runs(prediction, is_plain)


def is_plain(graph: Graph, block: Block) -> bool:
    """Whether the block has no normalisation, and no branches but those that a concatenation joins."""
    if block.kind not in ("serial", "dense", "parallel") or _normalises(graph, block):
        return False
    values = {block.entry, *(name for node in block.nodes for name in graph.node(node).outputs)}
    nodes = (graph.node(name) for name in block.nodes)
    return all(node.op == "concat" or len(values.intersection(node.present_inputs)) < 2 for node in nodes)


def _normalises(graph: Graph, block: Block) -> bool:
    return any(graph.node(name).op in families()["normalization"] for name in block.nodes)


def _runs(prediction: Prediction, belongs: Callable[[Graph, Block], bool]) -> list[list[Layer]]:
    runs: list[list[Layer]] = []
    open_run: list[Layer] = []
    end: str | None = None
    for block in prediction.blocks:
        nodes = [prediction.graph.node(name) for name in block.nodes]
        plain = belongs(prediction.graph, block)
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
    """log2 of what the layers of a run together multiply the squared gradient norm by, for each layer of the run.

    What lies between the layers (a pooling) is left out; layers of a run that is not predicted throughout are missing.
    Of layers side by side those count that lie on the longest path through the layer.
    """
    found: dict[str, float] = {}
    for run in layers_of_chains(prediction):
        bits = {layer.node.name: _bits(prediction, layer) for layer in run}
        known = {name: value for name, value in bits.items() if value is not None and math.isfinite(value)}
        if len(known) == len(run):
            found |= _along_paths(prediction.graph, run, known)
    return found


def _along_paths(graph: Graph, run: Sequence[Layer], bits: Mapping[str, float]) -> dict[str, float]:
    """The sum over the longest path through each layer."""
    first, last = graph.positions[run[0].node.name], max(graph.positions[layer.nodes[-1].name] for layer in run)
    nodes = graph.nodes[first : last + 1]
    before = _reached(nodes, bits, lambda node: node.present_inputs, lambda node: node.outputs)
    behind = _reached(tuple(reversed(nodes)), bits, lambda node: node.outputs, lambda node: node.present_inputs)
    return {name: before[name].bits + behind[name].bits - own for name, own in bits.items()}


class _Path(NamedTuple):
    """How many layers a path meets, and what they do together: the order is by the first."""

    layers: int = 0
    bits: float = 0.0


def _reached(
    nodes: Sequence[Node],
    bits: Mapping[str, float],
    comes_from: Callable[[Node], Iterable[str]],
    leads_to: Callable[[Node], Iterable[str]],
) -> dict[str, _Path]:
    """The longest path that ends with each of the layers, itself included."""
    at: dict[str, _Path] = {}
    found: dict[str, _Path] = {}
    for node in nodes:
        path = max((at[name] for name in comes_from(node) if name in at), default=_Path())
        if node.name in bits:
            path = found[node.name] = _Path(path.layers + 1, path.bits + bits[node.name])
        for name in leads_to(node):
            at[name] = max(path, at.get(name, path))
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
    runs = layers_of_chains(prediction)
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
