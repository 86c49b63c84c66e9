"""Weights and biases put where an initialiser should have put them: centred, drawn again, zero."""

from __future__ import annotations

import math
from collections.abc import Callable

from gnelint.components import component_class
from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, seed_of, stored_layout, untrained
from gnelint.fixes.edits import Centre, Change, EditTensor, Fill, Redraw
from gnelint.ir.graph import Graph, Node
from gnelint.lint.chains import layer_of
from gnelint.lint.facts import LAYERS, fan_in, unit_axis
from gnelint.lint.finding import Finding
from gnelint.theory.fields.moments import Moments

NOT_STORED = "its weight is not a stored tensor that could be changed"


class _OfWeights(Fix):
    """A change of every layer's weight that a finding names."""

    order = 20

    def change(self, site: Site, node: Node, tensor: str) -> Change:
        """What becomes of the weight of a layer."""
        raise NotImplementedError

    def plan(self, site: Site) -> Plan:
        return _of_nodes(self, site, lambda node: node.op in LAYERS, "weight", self.change, NOT_STORED)


def _of_nodes(
    fix: Fix,
    site: Site,
    wanted: Callable[[Node], bool],
    role: str,
    change: Callable[[Site, Node, str], Change],
    otherwise: str,
) -> Plan:
    edits: dict[str, tuple[EditTensor, int]] = {}
    refused = []
    users = site.graph.users
    alike = {node.name for node in site.graph.nodes if wanted(node) and role in node.parameters}
    for index, finding in enumerate(site.findings):
        nodes = [site.graph.node(name) for name in finding.nodes if name in alike]
        places = [(node, stored_layout(node.parameters[role])) for node in nodes]
        reasons = [reason for node in nodes if (reason := untrained(node.parameters[role])) is not None]
        if not places:
            refused.append(Refusal(finding, _not_drawn(site, finding)))
        elif any(place is None for _, place in places):
            refused.append(Refusal(finding, reasons[0] if reasons else otherwise))
        elif any(place is not None and not users[place[0].name] <= alike for _, place in places):
            refused.append(Refusal(finding, "something else reads the tensor too, where it would be wrong"))
        else:
            for node, place in places:
                assert place is not None
                name = place[0].name
                if name not in edits:
                    edits[name] = (EditTensor(name, change(site, node, name), place[1]), index)
    return Plan(tuple(fix.edit(site.findings[index], action) for action, index in edits.values()), tuple(refused))


def _not_drawn(site: Site, finding: Finding) -> str:
    operations = " or ".join(dict.fromkeys(site.graph.node(name).op for name in finding.nodes))
    return f"fix does not change the tensors of a node of this kind ({operations}): initialise them in your code"


def needed_second_moment(graph: Graph, node: Node) -> float:
    """E w^2 with which the layer and the activation behind it keep the gradient of N(0, 1) pre-activations.

    1 / (fan_in E f'(z)^2): He's for ReLU (arXiv 1502.01852), by quadrature or in closed form for the rest.
    """
    activation = layer_of(graph, node).activation
    cls = None if activation is None or activation.parameters else component_class(activation.op)
    phi = None
    if cls is not None and activation is not None:
        component = cls(activation, ((1, 1),), ((1, 1),))
        x = Moments.uniform((1, 1), 0.0, 1.0)
        (phi,) = component.phis([x], component.forward([x]))
    return 1.0 / (max(fan_in(node) or 1.0, 1.0) * (phi or 1.0))


@fix("centre")
class CentreWeights(_OfWeights):
    """w -> w - E w, filter by filter: a mean common to a filter adds a direction of energy fan_in E[w]^2 that all
    outputs follow, and phi of what is left is that of the draw.

    Preconditions: the weight is a stored tensor.

    Source: theory 5.3.
    """

    def change(self, site: Site, node: Node, tensor: str) -> Change:
        return Centre(unit_axis(node))


@fix("draw")
class Draw(_OfWeights):
    """w -> a new draw with E w^2 = 1 / (fan_in phi(act)), so that phi(w) phi(act) = 1: for weights that are no draw at
    all (zeros, equal units). For a weight that several layers use, the geometric mean of what each needs.

    Preconditions: the weight is a stored tensor.

    Source: theory 2.1 and theory 6.1 (arXiv 1502.01852, arXiv 2001.00254).
    """

    def change(self, site: Site, node: Node, tensor: str) -> Change:
        users = [site.graph.node(name) for name in site.graph.users[tensor]]
        second = math.exp(math.fsum(math.log(needed_second_moment(site.graph, user)) for user in users) / len(users))
        return Redraw(site.options.draw or "normal", second, seed_of(site.options, tensor), unit_axis(node))


@fix("orthogonal")
class Orthogonal(_OfWeights):
    """w -> a Haar orthogonal matrix with the E w^2 that it has: phi stays, and its singular values are all the same, so
    that the weights add nothing to the variance of the spectrum.

    Preconditions: the weight is a stored tensor.

    Source: arXiv 1312.6120; theory 3.1 and 6.2.
    """

    def change(self, site: Site, node: Node, tensor: str) -> Change:
        second = site.prediction.weights[node.parameters["weight"].name].second_moment
        draw = site.options.draw if site.options.draw == "delta_orthogonal" else "orthogonal"
        return Redraw(draw, second, seed_of(site.options, tensor), unit_axis(node))


@fix("zero_bias")
class ZeroBias(Fix):
    """b -> 0: the units are positive with probability 1/2 again, which the gain of rectifiers is made for.

    Preconditions: the bias is a stored tensor.

    Source: theory 3.3 (phi of ReLU is P(x > 0)).
    """

    order = 20

    def plan(self, site: Site) -> Plan:
        return _of_nodes(self, site, _any, "bias", _zero, "its bias is not a stored tensor")


def _any(node: Node) -> bool:
    return True


def _zero(site: Site, node: Node, tensor: str) -> Change:
    return Fill(0.0)
