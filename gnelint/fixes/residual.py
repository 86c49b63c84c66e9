"""Residual branches made small enough for the depth, and what is around them given gain 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gnelint.analysis import analyse
from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, scalable, stored_layout
from gnelint.fixes.chains import layer_of, layers_outside_branches
from gnelint.fixes.edits import Edit, EditTensor, Fill, Scale, with_tensors
from gnelint.fixes.gain import equalised, scalable_weights
from gnelint.graph import Node
from gnelint.lint.facts import LAYERS
from gnelint.prediction import Block, Prediction
from gnelint.vocabulary import families

MAX_SWEEPS = 4
CLOSE = 0.05
"""Bits that a branch may be off."""


@fix("residual")
class BranchScale(Fix):
    """Each of the m weights in each of L branches by (L^-p / phi(branch))^(1/(2m)), so that phi(branch) = L^-p.

    The addition theorem gives a block phi = 1 + phi(branch), so L blocks multiply the squared gradient norm by
    (1 + L^-p)^L, which tends to 1 for p > 1. With a branch of phi 1 that is the factor L^(-p/(2m)). Where the sum is
    scaled, s (x + F(x)), the branch gets what s leaves it: phi(branch) = 1/s^2 - 1. Stem, head and weighted shortcuts
    get gain 1 as the layers of a chain do.

    Preconditions: branches without normalisation, whose weights are stored tensors; phi of the branch is predicted.

    Source: arXiv 2001.00254, Theorems 4.1 and 4.2; theory of components, 6.5.
    """

    order = 70

    def plan(self, site: Site) -> Plan:
        blocks = _unnormalised(site.prediction)
        least = -site.options.power * math.log2(len(blocks)) if blocks else 0.0
        asked = {finding.fix.target: finding for finding in site.findings if finding.fix is not None}
        tensors: dict[str, tuple[str, ...]] = {}
        for block in blocks:
            found = [scalable(node.parameters["weight"]) for node in _weighted(site.prediction, block)]
            if found and all(tensor is not None for tensor in found):
                tensors[block.join or block.name] = tuple(dict.fromkeys(t.name for t in found if t is not None))
        refused = [
            Refusal(finding, "the weights of its branch are not stored tensors")
            for block in blocks
            if (finding := asked.get(block.name)) is not None and (block.join or block.name) not in tensors
        ]
        logs = _branch_logs(site.prediction, tensors, least)
        graph = with_tensors(site.graph, [EditTensor(name, Scale(2.0**log)) for name, log in logs.items()])
        around = [layer for run in layers_outside_branches(site.prediction) for layer in run]
        around += [
            layer_of(site.graph, site.graph.node(name))
            for block in blocks
            for name in block.shortcut or ()
            if site.graph.node(name).op in LAYERS
        ]
        held = {
            node: tensor
            for node, tensor in scalable_weights(around).items()
            if tensor not in {name for names in tensors.values() for name in names}
        }
        factors = equalised(graph, [layer for layer in around if layer.node.name in held], held)
        scales = {**{name: 2.0**log for name, log in logs.items()}, **factors}
        first = site.findings[0]
        edits = tuple(
            self.edit(first, EditTensor(name, Scale(factor)))
            for name, factor in scales.items()
            if abs(math.log2(factor)) > 1e-6
        )
        return Plan(edits, tuple(refused))


def _unnormalised(prediction: Prediction) -> list[Block]:
    return [
        block
        for block in prediction.blocks
        if block.kind == "residual"
        and _weighted(prediction, block)
        and not any(prediction.graph.node(name).op in families()["normalization"] for name in block.nodes)
    ]


def _weighted(prediction: Prediction, block: Block) -> list[Node]:
    """The weighted layers of a block's branch."""
    nodes = [prediction.graph.node(name) for name in block.nodes if name not in (block.shortcut or ())]
    return [node for node in nodes if node.op in LAYERS and "weight" in node.parameters]


def _target(prediction: Prediction, block: Block, least: float) -> float:
    """log2 of the branch's phi at which the block keeps the norm, `least` where the shortcut alone keeps it."""
    kept = 1.0
    for name in block.nodes[block.nodes.index(block.join) + 1 :] if block.join is not None else ():
        predicted = prediction.by_node.get(name)
        if predicted is not None and predicted.node.op == "scale" and predicted.phi is not None:
            kept *= predicted.phi
    left = 1.0 / kept - (block.shortcut_phi or 0.0) if kept > 0 else 0.0
    return max(math.log2(left), least) if left > 0 else least


def _branch_logs(prediction: Prediction, tensors: dict[str, tuple[str, ...]], least: float) -> dict[str, float]:
    """log2 of each branch weight's factor, in a few rounds where activations are not homogeneous."""
    logs = {name: 0.0 for names in tensors.values() for name in names}
    found = prediction
    for _ in range(MAX_SWEEPS):
        off = 0.0
        for block in _unnormalised(found):
            names = tensors.get(block.join or block.name, ())
            if not names or not block.branch_phi or not math.isfinite(block.branch_phi):
                continue
            bits = math.log2(block.branch_phi) - _target(found, block, least)
            if bits > CLOSE:
                off = max(off, bits)
                for name in names:
                    logs[name] -= bits / (2 * len(names))
        if off == 0.0:
            break
        edits = [EditTensor(name, Scale(2.0**log)) for name, log in logs.items()]
        found = analyse(with_tensors(prediction.graph, edits))
    return {name: log for name, log in logs.items() if log}


class _OfNodes(Fix):
    order = 60
    role = "scale"
    ops: Sequence[str] = ()

    def nodes(self, site: Site, names: Sequence[str]) -> list[Node]:
        """The nodes among those of a finding that the fix is about."""
        found = [site.graph.node(name) for name in names]
        return [node for node in found if node.op in self.ops and self.role in node.parameters]


@fix("zero_scale")
class ZeroScale(_OfNodes):
    """gamma -> 0 of the last normalisation in each branch: every block starts as the identity, phi = 1 + 0.

    Preconditions: the scale is a stored tensor.

    Source: arXiv 1706.02677, section 5.1; the addition theorem (arXiv 2001.00254, Theorem 4.2).
    """

    ops = tuple(families()["normalization"])

    def plan(self, site: Site) -> Plan:
        return _filled(self, site, 0.0)


@fix("branch_scale")
class LearntScale(_OfNodes):
    """A learnt scale at the end of each of L branches to 1/sqrt(L): phi of a block is 1 + 1/L, the product at most e.

    Preconditions: the scale is a stored tensor.

    Source: arXiv 2103.17239 (LayerScale), arXiv 2002.10444 (SkipInit); the addition theorem.
    """

    ops = ("scale",)

    def plan(self, site: Site) -> Plan:
        count = sum(len(self.nodes(site, finding.nodes)) for finding in site.findings)
        return _filled(self, site, 1.0 / math.sqrt(max(count, 1)))


def _filled(fix: _OfNodes, site: Site, value: float) -> Plan:
    edits: dict[str, Edit] = {}
    refused = []
    for finding in site.findings:
        places = [stored_layout(node.parameters["scale"]) for node in fix.nodes(site, finding.nodes)]
        for place in places:
            if place is not None:
                edits.setdefault(place[0].name, fix.edit(finding, EditTensor(place[0].name, Fill(value))))
        if not places or None in places:
            refused.append(Refusal(finding, "its scale is not a stored tensor"))
    return Plan(tuple(edits.values()), tuple(refused))


@fix("scale")
class WeightScale(_OfNodes):
    """The weights of a finding's layers by the factor that its rule gives: phi of a layer is quadratic in its scale.

    For the N branches that write a residual stream that is 1/sqrt(N): phi of a block becomes 1 + phi(branch)/N.

    Preconditions: the weight is a stored tensor, or computed in proportion to one.

    Source: the initialisation of GPT-2; the addition theorem (arXiv 2001.00254, Theorem 4.2).
    """

    role = "weight"
    ops = tuple(LAYERS)

    def plan(self, site: Site) -> Plan:
        edits: dict[str, Edit] = {}
        refused = []
        for finding in site.findings:
            factor = finding.fix.factor if finding.fix is not None else None
            found = [scalable(node.parameters["weight"]) for node in self.nodes(site, finding.nodes)]
            for tensor in found:
                if tensor is not None and factor:
                    edits.setdefault(tensor.name, self.edit(finding, EditTensor(tensor.name, Scale(factor))))
            if not found or None in found or not factor:
                refused.append(Refusal(finding, "the weight is not a stored tensor that could be scaled"))
        return Plan(tuple(edits.values()), tuple(refused))
