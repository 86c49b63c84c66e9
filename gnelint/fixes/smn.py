"""Second moment normalisation: in the place of batch normalisations, or new behind the layers of a chain."""

from __future__ import annotations

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix
from gnelint.fixes.chains import LINEAR
from gnelint.fixes.edits import CentreFilters, DropBias, Edit, InsertSecondMoment, SecondMoment
from gnelint.graph import Graph, Node
from gnelint.lint.finding import Finding
from gnelint.lint.pattern import TRANSPARENT


@fix("smn")
class SecondMomentNormalization(Fix):
    """y = gamma x / (rms + eps) + beta.

    Dividing by the second moment makes phi of layer and normalisation independent of the weights' scale: 1 with plain
    filters under ReLU, pi / (pi - 1) with filters that are centred in every pass, because the mean of the signal then
    carries no gradient. In the place of a batch normalisation the filters in front are centred (what it took out of the
    values is taken out of the weights: the same phi as before, no promise of 1) and lose a bias that it cancelled; in a
    chain without normalisation a new one is put behind each layer and the filters stay as they are.

    Preconditions: the layer in front has a constant weight and nothing else reads its output; channels lie on the
    second axis.

    Source: arXiv 2001.00254, section 4.3; theory of components, 5.2.
    """

    order = 20

    def plan(self, site: Site) -> Plan:
        edits: list[Edit] = []
        refused = []
        for finding in site.findings:
            nodes = [site.graph.node(name) for name in finding.nodes]
            norms = [node for node in nodes if node.op == "batch_norm"]
            made = [edit for norm in norms for edit in self._replaced(site.graph, finding, norm)]
            if not norms:
                made = [
                    edit for node in nodes if node.op in LINEAR for edit in self._inserted(site.graph, finding, node)
                ]
            edits += made
            if not made:
                refused.append(Refusal(finding, "no layer of it has a weight, channels and a single reader"))
        return Plan(tuple(edits), tuple(refused))

    def _replaced(self, graph: Graph, finding: Finding, norm: Node) -> list[Edit]:
        layer = _layer_before(graph, norm)
        if layer is None:
            return []
        actions = [SecondMoment(norm.name), CentreFilters(layer.name)]
        bias = [DropBias(layer.name)] if "bias" in layer.parameters else []
        return [self.edit(finding, action) for action in (*bias, *actions)]

    def _inserted(self, graph: Graph, finding: Finding, layer: Node) -> list[Edit]:
        value = graph.values[layer.outputs[0]]
        shape = value.concrete_shape
        if shape is None or len(shape) < 2 or (layer.op == "linear" and len(shape) != 2):
            return []
        return [self.edit(finding, InsertSecondMoment(value.name, shape[1]))]


def _layer_before(graph: Graph, norm: Node) -> Node | None:
    """The layer whose output, and nothing else, the normalisation reads."""
    value = norm.inputs[0]
    while value is not None and len(graph.consumers.get(value, ())) == 1:
        node = graph.producers.get(value)
        if node is None:
            return None
        if node.op in LINEAR:
            return node if "weight" in node.parameters else None
        if node.op not in TRANSPARENT:
            return None
        value = node.inputs[0]
    return None
