"""The head of a chain: the last layer, behind which only the output lies.

Its gain multiplies the gradient of every other layer alike, so along the depth nothing depends on it; what depends on
it is how large the outputs are before anything is learnt. Where the layers before it pass the signal on again, outputs
that were next to nothing would start as large as the targets, as noise that has to be unlearnt first: autoencoders were
slower for it. So a head is never made larger, and smaller where the signal that now reaches it would make the outputs
larger than they were.

Source: measured (tests/benchmarks/harm.py); last layers that start at zero, arXiv 1901.09321.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace

from gnelint.analysis.propagation import Propagation
from gnelint.fixes.edits import EditTensor, Scale
from gnelint.ir.graph import Graph, Node
from gnelint.lint.chains import Layer
from gnelint.lint.pattern import TRANSPARENT
from gnelint.ops import families
from gnelint.records import dataclass

LEAST = 1.0 / 16.0
"""Mean square that the weights of a head may give the outputs, whatever it was: a squared error over targets of mean
square 1 then starts 6% above that of outputs of zero."""
_TO_OUTPUT = TRANSPARENT | {"softmax", "log_softmax"}


@dataclass(frozen=True)
class Head:
    """The last layer of a chain.

    Attributes:
        layer: up to the function that shapes the outputs (a sigmoid, a softmax), where there is one.
        most: mean square that its weights may give the outputs.
    """

    layer: Layer
    most: float


def heads_of(graph: Graph, runs: Iterable[Sequence[Layer]], tensors: Mapping[str, str]) -> dict[str, Head]:
    """The heads of runs, by the name of the layer.

    Args:
        graph: the network as it is: outputs are not to start larger than there.
        runs: of layers, each with all that follows it pointwise.
        tensors: the stored tensor that each layer's weight is proportional to, by the layer's name. A head has one of
            its own.
    """
    uses = Counter(tensors.values())
    found = [layer for run in runs if (layer := _head(graph, run)) is not None]
    layers = {layer.node.name: layer for layer in found if uses.get(tensors.get(layer.node.name, "")) == 1}
    if not layers:
        return {}
    propagation = Propagation(graph)
    heads = {}
    for node in graph.nodes:
        layer = layers.get(node.name)
        if layer is not None:
            heads[node.name] = Head(layer, max(energy(propagation, layer, tensors[node.name], {}), LEAST))
        propagation.step(node)
    return heads


def _head(graph: Graph, run: Sequence[Layer]) -> Layer | None:
    """The last layer of a run, if it is a head. One with the activation of the layers before it is one more of them."""
    functions, last = families()["activation"], run[-1]
    if not _only_output(graph, last.exit):
        return None
    first = next((place for place, node in enumerate(last.nodes) if node.op in functions), len(last.nodes))
    before = {node.op for layer in run[:-1] for node in layer.nodes if node.op in functions}
    shaping = {node.op for node in last.nodes[first:]} & functions
    if shaping and (not before or shaping & before):
        return None
    nodes = last.nodes[:first]
    return replace(last, nodes=nodes, exit=nodes[-1].outputs[0])


def _only_output(graph: Graph, value: str) -> bool:
    """Whether a value goes to the network's outputs and nowhere else, past data movement and softmax."""
    pending, arrived = [value], False
    while pending:
        name = pending.pop()
        arrived = arrived or name in graph.outputs
        readers = graph.consumers.get(name, ())
        if any(reader.op not in _TO_OUTPUT for reader in readers):
            return False
        pending.extend(output for reader in readers for output in reader.outputs)
    return arrived


def energy(propagation: Propagation, layer: Layer, tensor: str, logs: MutableMapping[str, float]) -> float:
    """Mean square that a layer's weights give its output, without its bias; 0 if it is not known.

    The output's is a s^2 + b for weights times s: two scales tell a.

    Args:
        propagation: all that comes before the layer has been stepped through.
        layer: whose output it is.
        tensor: that its weight is proportional to.
        logs: log2 of the factor on each stored tensor, by its name.
    """
    seconds = []
    for less in (0.0, 1.0):
        changed = ChainMap({tensor: logs.get(tensor, 0.0) - less}, logs)
        trial = propagation.trial([scaled(node, changed) for node in layer.nodes], None)
        if trial is None:
            return 0.0
        seconds.append(trial.moments[layer.exit].total_second)
    return max(seconds[0] - seconds[1], 0.0) * 4.0 / 3.0


def scaled(node: Node, logs: Mapping[str, float]) -> Node:
    """The node as it is with stored tensors times 2^log."""
    leaves = {leaf.name: leaf for parameter in node.parameters.values() for leaf in parameter.leaves}
    changed = {
        name: EditTensor(name, Scale(2.0 ** logs[name])).numbers(leaf.load())
        for name, leaf in leaves.items()
        if logs.get(name)
    }
    if not changed:
        return node
    return replace(node, parameters={role: p.with_stored(changed) for role, p in node.parameters.items()})
