"""Scale moved between the layers of a trained network, the function staying as it is."""

from __future__ import annotations

import math

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, scalable
from gnelint.fixes.edits import Edit, EditTensor, Scale
from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.lint.chains import Layer, layers_outside_branches
from gnelint.lint.pattern import TRANSPARENT

HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu"})
_PASSES = TRANSPARENT - {"pad"}
"""Padding may put in another number than 0, which does not scale."""
_ROUNDS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operations that are read as the identity, but round to steps of a size of their own."""


@fix("preserving_rescale")
class PreservingRescale(Fix):
    """w_l -> c_l w_l and b_l -> (c_1 ... c_l) b_l with c_l = sqrt(G / phi_l), G the geometric mean of the phi_l.

    f(c x) = c f(x) for c > 0 (ReLU, leaky ReLU, PReLU), so what a layer multiplies the signal by, a later one can take
    back: the product of all c is 1, and the function stays the same to rounding. phi of a layer is multiplied by c^2,
    that of its activation stays, so every layer gets phi G and the product of the phis is what it was.

    Preconditions: layers one behind the other, each but the last with a positively homogeneous activation; what goes
    from one to the next is no output and nothing else reads it; weights and biases are stored tensors that nothing else
    uses. All tensors of a chain are changed or none.

    Source: theory 2.1 (arXiv 2001.00254); arXiv 1506.02617 (rescaling symmetry).
    """

    order = 90

    def plan(self, site: Site) -> Plan:
        edits: list[Edit] = []
        refused: list[Refusal] = []
        done: set[str] = set()
        runs = [part for run in layers_outside_branches(site.prediction) for part in _homogeneous(site.graph, run)]
        for finding in site.findings:
            run = next((run for run in runs if any(layer.node.name in finding.nodes for layer in run)), None)
            if run is None or len(run) < 2:
                refused.append(Refusal(finding, "no homogeneous activation leads to another layer"))
                continue
            if run[0].node.name in done:
                continue
            done.add(run[0].node.name)
            actions = _moved(site, run)
            if actions is None:
                refused.append(Refusal(finding, "a weight or bias of the chain is not a trained tensor of its own"))
            else:
                edits += [self.edit(finding, action, f"scale from {run[0].node.name}") for action in actions]
        return Plan(tuple(edits), tuple(refused))


def _homogeneous(graph: Graph, run: list[Layer]) -> list[list[Layer]]:
    """The run cut behind every layer with something on its way that is not positively homogeneous, or is read too."""
    parts: list[list[Layer]] = [[]]
    for layer in run:
        if parts[-1] and parts[-1][-1].exit != layer.entry:
            parts.append([])
        parts[-1].append(layer)
        seen = layer.exit in graph.outputs or len(graph.consumers.get(layer.exit, ())) != 1
        if seen or not all(lets_scale_through(node) for node in layer.nodes[1:]):
            parts.append([])
    return [part for part in parts if part]


def lets_scale_through(node: Node) -> bool:
    """Whether f(c x) = c f(x) for c > 0 once the biases are multiplied by c as well."""
    if node.op == "dropout":
        return not node.attribute("alpha")  # alpha dropout puts a number of its own in
    return node.op in HOMOGENEOUS | _PASSES and node.source_op not in _ROUNDS


def _moved(site: Site, run: list[Layer]) -> list[EditTensor] | None:
    logs = [_bits(site, layer) for layer in run]
    if any(bits is None for bits in logs):
        return None
    shares = _shares([bits for bits in logs if bits is not None], [layer.node.parameters["weight"] for layer in run])
    edits = []
    total = 0.0
    for layer, log in zip(run, shares, strict=True):
        total += log
        weight = _own(site.graph, layer.node.parameters["weight"])
        if weight is None:
            return None
        edits.append(EditTensor(weight, Scale(2.0**log)))
        for parameter in _biases(layer):
            bias = _own(site.graph, parameter)
            if bias is None:
                return None
            edits.append(EditTensor(bias, Scale(2.0**total)))
    return edits


def _shares(bits: list[float], weights: list[Parameter]) -> list[float]:
    """log2 of what each layer is multiplied by, of sum 0: powers of two, which round nothing, in narrow types."""
    mean = math.fsum(bits) / len(bits)
    shares = [(mean - each) / 2 for each in bits[:-1]]
    if any(weight.dtype not in ("float32", "float64") for weight in weights):
        shares = [float(round(share)) for share in shares]
    return [*shares, -math.fsum(shares)]


def _bits(site: Site, layer: Layer) -> float | None:
    phis = [site.prediction.by_node[node.name].phi for node in layer.nodes if node.name in site.prediction.by_node]
    if len(phis) < len(layer.nodes) or any(not phi for phi in phis):
        return None
    return math.fsum(math.log2(phi) for phi in phis if phi)


def _own(graph: Graph, parameter: Parameter) -> str | None:
    leaf = scalable(parameter) if parameter.trainable else None
    if leaf is None or leaf.name in graph.returned or len(graph.uses[leaf.name]) != 1:
        return None
    return leaf.name


def _biases(layer: Layer) -> list[Parameter]:
    return [node.parameters["bias"] for node in layer.nodes if "bias" in node.parameters]
