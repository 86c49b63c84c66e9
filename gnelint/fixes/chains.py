"""Chains: layers one behind the other without branches and normalisation, where the gains multiply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gnelint.graph import Graph, Node
from gnelint.lint.facts import LAYERS
from gnelint.lint.pattern import TRANSPARENT
from gnelint.prediction import Prediction
from gnelint.vocabulary import families

_FOLLOWS = TRANSPARENT | families()["activation"]


@dataclass(frozen=True)
class Layer:
    """A weighted layer with what follows it pointwise.

    Attributes:
        node: the layer.
        entry: name of the value it reads.
        exit: name of the value behind its activation.
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
            open_run += [layer_of(prediction.graph, node) for node in nodes if _is_layer(node)]
        end = block.exit
    return [run for run in (*runs, open_run) if run]


def _is_layer(node: Node) -> bool:
    return node.op in LAYERS and "weight" in node.parameters and node.inputs[0] is not None


def layer_of(graph: Graph, node: Node) -> Layer:
    """The layer that a weighted node begins."""
    value = node.outputs[0]
    nodes = [node]
    while True:
        readers = graph.consumers.get(value, ())
        if len(readers) != 1 or readers[0].op not in _FOLLOWS or value in graph.outputs or len(readers[0].outputs) != 1:
            break
        value = readers[0].outputs[0]
        nodes.append(readers[0])
    assert node.inputs[0] is not None
    return Layer(node, node.inputs[0], value, tuple(nodes))


def runs_of(prediction: Prediction, names: Iterable[str]) -> list[list[Layer]]:
    """The runs of layers that one of the named nodes is in."""
    wanted = set(names)
    return [run for run in layers_outside_branches(prediction) if any(layer.node.name in wanted for layer in run)]


def chains_of(prediction: Prediction, names: Iterable[str]) -> list[Layer]:
    """The layers of every chain that one of the named nodes is in."""
    return [layer for run in runs_of(prediction, names) for layer in run]
