"""Weights drawn again where the old numbers cannot be used: zero, constant, or the same in every unit."""

from __future__ import annotations

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, stored_layout, target_node
from gnelint.fixes.chains import layers_outside_branches
from gnelint.fixes.edits import Edit, EditTensor, Redraw, Scale, with_tensors
from gnelint.fixes.gain import equalised
from gnelint.graph import Graph, Node
from gnelint.prediction import Prediction


@fix("redraw")
class RedrawWeights(Fix):
    """w ~ N(0, s^2) independently (or as the user asks, orthogonal), with s such that phi(w) phi(act) = 1.

    Equal units get equal gradients and stay equal; a layer of zeros passes no gradient on. A layer in a chain gets the
    scale that keeps the gradient's norm through its activation, any other one s^2 = 1 / fan_in, which keeps it through
    the layer itself.

    Preconditions: the weight is a stored tensor, or one with its axes in another order.

    Source: arXiv 2001.00254, Table 2; arXiv 1502.01852.
    """

    order = 30

    def plan(self, site: Site) -> Plan:
        edits: list[Edit] = []
        refused = []
        graph, done = site.graph, set[str]()
        for finding in site.findings:
            node = target_node(site, finding)
            place = (
                None if node is None or "weight" not in node.parameters else stored_layout(node.parameters["weight"])
            )
            if node is None or place is None:
                refused.append(Refusal(finding, "its weight is not a stored tensor"))
                continue
            tensor = place[0].name
            if tensor in done:
                continue
            done.add(tensor)
            kept = 1 if node.op == "conv_transpose" else 0
            draw = site.options.draw or "normal"
            action = EditTensor(tensor, Redraw(draw, 1.0 / fan_in(node), site.options.seed + len(done), kept), place[1])
            edits.append(self.edit(finding, action))
            graph = with_tensors(graph, [action])
            factor = _to_the_activation(site.prediction, graph, node, tensor)
            if factor != 1.0:
                scale = EditTensor(tensor, Scale(factor))
                edits.append(self.edit(finding, scale))
                graph = with_tensors(graph, [scale])
        return Plan(tuple(edits), tuple(refused))


def fan_in(node: Node) -> int:
    """Number of inputs that each output of a linear map is a sum of."""
    weight = node.parameters["weight"]
    if node.op == "conv_transpose":
        return max(weight.size // weight.shape[1] // int(node.attribute("groups")), 1)
    return max(weight.size // weight.shape[0], 1)


def _to_the_activation(prediction: Prediction, graph: Graph, node: Node, tensor: str) -> float:
    layers = [layer for run in layers_outside_branches(prediction) for layer in run if layer.node.name == node.name]
    return equalised(graph, layers, {node.name: tensor})[tensor] if layers else 1.0
