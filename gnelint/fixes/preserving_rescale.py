"""Scale moved between the layers of a trained network, the function staying as it is."""

from __future__ import annotations

import math
from collections import Counter

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, scalable
from gnelint.fixes.chains import Layer, layers_outside_branches
from gnelint.fixes.edits import Edit, EditTensor, Scale
from gnelint.graph import Graph, Parameter
from gnelint.lint.pattern import TRANSPARENT

HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu"})
_PASSES = TRANSPARENT - {"pad"}
"""Padding may put in another number than 0, which does not scale."""


@fix("preserving_rescale")
class PreservingRescale(Fix):
    """w_l -> c_l w_l and b_l -> (c_1 ... c_l) b_l with c_l = sqrt(G / phi_l), G the geometric mean of the phi_l.

    f(c x) = c f(x) for c > 0 (ReLU, leaky ReLU, PReLU), so what a layer multiplies the signal by, a later one can take
    back: the product of all c is 1, and the function stays the same to rounding. phi of a layer is multiplied by c^2,
    that of its activation stays, so every layer gets phi G and the product of the phis is what it was.

    Preconditions: layers one behind the other, each but the last with a positively homogeneous activation; weights and
    biases are stored tensors that nothing else uses.

    Source: arXiv 2001.00254, Theorem 4.1; arXiv 1506.02617 (rescaling symmetry).
    """

    order = 90

    def plan(self, site: Site) -> Plan:
        uses = Counter(
            leaf.name
            for node in site.graph.nodes
            for parameter in node.parameters.values()
            for leaf in parameter.leaves
        )
        edits: list[Edit] = []
        refused: list[Refusal] = []
        done: set[str] = set()
        runs = [part for run in layers_outside_branches(site.prediction) for part in _homogeneous(run)]
        for finding in site.findings:
            run = next((run for run in runs if any(layer.node.name in finding.nodes for layer in run)), None)
            if run is None or len(run) < 2:
                refused.append(Refusal(finding, "no homogeneous activation leads to another layer"))
                continue
            if run[0].node.name in done:
                continue
            done.add(run[0].node.name)
            actions = _moved(site, run, uses)
            if actions is None:
                refused.append(Refusal(finding, "a weight or bias of the chain is not a tensor of its own"))
            else:
                edits += [self.edit(finding, action) for action in actions]
        return Plan(tuple(edits), tuple(refused))


def _homogeneous(run: list[Layer]) -> list[list[Layer]]:
    """The run cut behind every layer with something on its way that is not positively homogeneous."""
    parts: list[list[Layer]] = [[]]
    for layer in run:
        if parts[-1] and parts[-1][-1].exit != layer.entry:
            parts.append([])
        parts[-1].append(layer)
        if any(node.op not in HOMOGENEOUS | _PASSES for node in layer.nodes[1:]):
            parts.append([])
    return [part for part in parts if part]


def _moved(site: Site, run: list[Layer], uses: Counter[str]) -> list[EditTensor] | None:
    logs = [_bits(site, layer) for layer in run]
    if any(bits is None for bits in logs):
        return None
    known = [bits for bits in logs if bits is not None]
    mean = math.fsum(known) / len(known)
    edits = []
    total = 0.0
    for index, (layer, bits) in enumerate(zip(run, known, strict=True)):
        log = (mean - bits) / 2
        total = 0.0 if index == len(run) - 1 else total + log
        weight = _own(layer.node.parameters["weight"], uses)
        if weight is None:
            return None
        edits.append(EditTensor(weight, Scale(2.0**log)))
        for parameter in _biases(site.graph, layer):
            bias = _own(parameter, uses)
            if bias is None:
                return None
            edits.append(EditTensor(bias, Scale(2.0**total)))
    return edits


def _bits(site: Site, layer: Layer) -> float | None:
    phis = [site.prediction.by_node[node.name].phi for node in layer.nodes if node.name in site.prediction.by_node]
    if len(phis) < len(layer.nodes) or any(not phi for phi in phis):
        return None
    return math.fsum(math.log2(phi) for phi in phis if phi)


def _own(parameter: Parameter, uses: Counter[str]) -> str | None:
    leaf = scalable(parameter)
    return leaf.name if leaf is not None and uses[leaf.name] == 1 else None


def _biases(graph: Graph, layer: Layer) -> list[Parameter]:
    return [node.parameters["bias"] for node in layer.nodes if "bias" in node.parameters]
