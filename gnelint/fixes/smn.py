"""Second moment normalisation: in the place of batch normalisations, and behind the layers of a chain that drifts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, stored_layout
from gnelint.fixes.edits import CentreFilters, Edit, InsertSecondMoment, SecondMoment, applied
from gnelint.ir.graph import Graph, Node
from gnelint.lint.chains import chains_of
from gnelint.ops import families


@fix("smn")
class SecondMoments(Fix):
    """x / rms(x) in the place of (x - mean) / std: with filters that are centred in every pass a layer's output has
    mean zero (where its inputs share one mean), so both divide by the same, and phi of convolution, normalisation and
    activation is that of batch normalisation: phi(act) / Var(act), pi/(pi - 1) = 1.467 for a plain ReLU layer. No
    promise of 1: a shortcut tames it.

    Preconditions: a batch normalisation behind one convolution that nothing else reads, with a stored weight. Where the
    one cannot be exchanged the other stays as it is: centred filters alone save nothing.

    Source: theory 3.5 and theory 5.2 (arXiv 2001.00254).
    """

    order = 40

    def plan(self, site: Site) -> Plan:
        edits: dict[str, Edit] = {}
        refused = []
        for finding in site.findings:
            layers = {name for name in finding.nodes if "weight" in site.graph.node(name).parameters}
            for name in finding.nodes:
                node = site.graph.node(name)
                if node.op == "batch_norm":
                    edits.setdefault(name, self.edit(finding, SecondMoment(name), f"normalisation {name}"))
                elif name in layers and stored_layout(node.parameters["weight"]) is not None:
                    norms = [reader.name for reader in _readers(site.graph, node) if reader.op == "batch_norm"]
                    group = f"normalisation {norms[0]}" if norms else ""
                    edits.setdefault(name, self.edit(finding, CentreFilters(name), group))
            if not any(name in edits for name in finding.nodes):
                refused.append(Refusal(finding, "the weights in front of it are not stored tensors"))
        return Plan(_told(site.graph, edits, "filters centred"), tuple(refused))


def _readers(graph: Graph, node: Node) -> Sequence[Node]:
    return graph.consumers.get(node.outputs[0], ())


def _told(graph: Graph, edits: Mapping[str, Edit], filters: str) -> tuple[Edit, ...]:
    """The edits, each normalisation with the phi that it, its layer and the activation behind will have together."""
    actions = [edit.action for edit in edits.values()]
    if not actions:
        return ()
    after = analyse(applied(graph, actions))
    found = []
    for edit in edits.values():
        action = edit.action
        if isinstance(action, (SecondMoment, InsertSecondMoment)):
            name = action.node if isinstance(action, SecondMoment) else f"{action.value}/second_moment_norm"
            phi = _layer_phi(after, name)
            note = filters if phi is None else f"{filters}: phi of the layer becomes {phi:.3g}"
            edit = replace(edit, action=replace(action, note=note))
        found.append(edit)
    return tuple(found)


def _layer_phi(prediction: Prediction, name: str) -> float | None:
    """phi of a normalisation, the layer in front and the activation behind; None where one of them is not known."""
    graph = prediction.graph
    node = graph.node(name)
    parts = [node]
    before = graph.producers.get(node.inputs[0] or "")
    if before is not None:
        parts.append(before)
    readers = _readers(graph, node)
    if len(readers) == 1 and readers[0].op in families()["activation"]:
        parts.append(readers[0])
    phis = [prediction.by_node[part.name].phi for part in parts if part.name in prediction.by_node]
    known = [phi for phi in phis if phi is not None]
    return math.prod(known) if len(known) == len(parts) else None


@fix("insert_smn")
class InsertedSecondMoments(Fix):
    """A second moment normalisation behind each layer of a chain without one: the signal is brought back to second
    moment 1 at every layer. The filters stay as they are, not centred, so phi of a layer follows no single formula: for
    ReLU 1.125 at the first, nearer 1.32 in depth (theory 5.2).

    Preconditions: the second axis of the layers' outputs is the channels.

    Source: theory 3.5 (arXiv 2001.00254).
    """

    order = 40

    def plan(self, site: Site) -> Plan:
        edits: dict[str, Edit] = {}
        refused = []
        for finding in site.findings:
            for layer in chains_of(site.prediction, finding.nodes):
                value = layer.node.outputs[0]
                shape = site.graph.values[value].concrete_shape
                if layer.activation is None or shape is None:
                    continue
                if layer.node.op == "linear" and len(shape) != 2:
                    continue
                edits.setdefault(value, self.edit(finding, InsertSecondMoment(value, shape[1])))
            if not edits:
                refused.append(Refusal(finding, "no layer of it has its channels on the second axis"))
        return Plan(_told(site.graph, edits, "filters not centred"), tuple(refused))
