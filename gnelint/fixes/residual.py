"""Residual branches made small enough for the depth, and what is around them given gain 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from gnelint.analysis.prediction import Block, Prediction
from gnelint.analysis.propagation import analyse
from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, scalable, stored_layout, untrained
from gnelint.fixes.edits import Edit, EditTensor, Fill, InsertScale, Scale, with_tensors
from gnelint.fixes.gain import equalised, in_step, own_weights
from gnelint.fixes.heads import heads_of
from gnelint.ir.graph import Node
from gnelint.lint.chains import layer_of, layers_outside_branches
from gnelint.lint.facts import LAYERS
from gnelint.lint.finding import Finding
from gnelint.ops import families

MAX_SWEEPS = 4
CLOSE = 0.05
"""Bits that a branch may be off."""


@fix("residual")
class BranchScale(Fix):
    """Each of the m weights in each of L branches by (L^-p / phi(branch))^(1/(2m)), so that phi(branch) = L^-p.

    The addition theorem gives a block phi = 1 + phi(branch), so L blocks multiply the squared gradient norm by
    (1 + L^-p)^L, which tends to 1 for p > 1. With a branch of phi 1 that is the factor L^(-p/(2m)). Where the sum is
    scaled, s (x + F(x)), the branch gets what s leaves it: phi(branch) = 1/s^2 - 1. Stem and weighted shortcuts get
    gain 1 as the layers of a chain do, a head is only made smaller.

    A tensor that several branches use, or one branch several times, gets one factor: the average in log2 of what its
    uses need. What is read elsewhere too, or not trained, is left out, and the branch's other weights do its part.

    Preconditions: branches without normalisation, whose weights are stored tensors; phi of the branch is predicted.

    Source: theory 2.1, theory 2.2 and theory 6.5 (arXiv 2001.00254).
    """

    order = 70
    evens = True

    def groups(self, site: Site) -> list[tuple[Finding, ...]]:
        return [site.findings]

    def plan(self, site: Site) -> Plan:
        blocks = _unnormalised(site.prediction)
        least = -site.options.power * math.log2(len(blocks)) if blocks else 0.0
        asked = {finding.fix.target: finding for finding in site.findings if finding.fix is not None}
        branches = {node.name for block in blocks for node in _weighted(site.prediction, block)}
        tensors = {_key(block): _own_weights(site.prediction, block, branches) for block in blocks}
        refused = [
            Refusal(finding, _why_not(site.prediction, block))
            for block in blocks
            if (finding := asked.get(block.name)) is not None and not tensors[_key(block)]
        ]
        logs = _branch_logs(site.prediction, tensors, least)
        graph = with_tensors(site.graph, [EditTensor(name, Scale(2.0**log)) for name, log in logs.items()])
        around = [layer for run in layers_outside_branches(site.prediction) for layer in run if in_step(run) is None]
        around += [
            layer_of(site.graph, site.graph.node(name))
            for block in blocks
            for name in block.shortcut or ()
            if site.graph.node(name).op in LAYERS
        ]
        held = own_weights(site.graph, around)
        heads = heads_of(site.graph, layers_outside_branches(site.prediction), held)
        factors = equalised(graph, [layer for layer in around if layer.node.name in held], held, heads=heads)
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


def _key(block: Block) -> str:
    return block.join or block.name


def _own_weights(prediction: Prediction, block: Block, branches: Set[str]) -> tuple[str, ...]:
    """The trained tensors of a branch's weights that only branches use, once for each use.

    Args:
        branches: names of the weighted layers of all branches.
    """
    users = prediction.graph.users
    found = [scalable(node.parameters["weight"]) for node in _weighted(prediction, block)]
    return tuple(tensor.name for tensor in found if tensor is not None and users[tensor.name] <= branches)


def _why_not(prediction: Prediction, block: Block) -> str:
    """Why none of a branch's weights is scaled."""
    weights = [node.parameters["weight"] for node in _weighted(prediction, block)]
    reasons = [reason for reason in map(untrained, weights) if reason is not None]
    if reasons:
        return reasons[0]
    if any(scalable(weight) is not None for weight in weights):
        return "the weights of its branch are used outside of branches too, where the factor would be wrong"
    return "the weights of its branch are not stored tensors"


def _branch_logs(prediction: Prediction, tensors: Mapping[str, tuple[str, ...]], least: float) -> dict[str, float]:
    """log2 of each branch weight's factor, in a few rounds where activations are not homogeneous."""
    logs = {name: 0.0 for names in tensors.values() for name in names}
    found = prediction
    for _ in range(MAX_SWEEPS):
        steps = _steps(found, tensors, least)
        if max(steps.values(), default=0.0) <= CLOSE / 2:
            break
        for name, step in steps.items():
            logs[name] -= max(step, 0.0)
        edits = [EditTensor(name, Scale(2.0**log)) for name, log in logs.items()]
        found = analyse(with_tensors(prediction.graph, edits), prediction.sampler)
    return {name: log for name, log in logs.items() if log}


def _steps(prediction: Prediction, tensors: Mapping[str, tuple[str, ...]], least: float) -> dict[str, float]:
    """How many bits of scale each tensor is too large by, averaged over the branches that use it."""
    wanted: dict[str, list[float]] = {}
    for block in _unnormalised(prediction):
        names = tensors.get(_key(block), ())
        if not block.branch_phi or not math.isfinite(block.branch_phi):
            continue
        bits = math.log2(block.branch_phi) - _target(prediction, block, least)
        for name in names:
            wanted.setdefault(name, []).append(bits / (2 * len(names)))
    return {name: math.fsum(bits) / len(bits) for name, bits in wanted.items()}


class _OfNodes(Fix):
    order = 60
    role = "scale"
    ops: Sequence[str] = ()

    def groups(self, site: Site) -> list[tuple[Finding, ...]]:
        return [site.findings]

    def nodes(self, site: Site, names: Sequence[str]) -> list[Node]:
        """The nodes among those of a finding that the fix is about."""
        found = [site.graph.node(name) for name in names]
        return [node for node in found if node.op in self.ops and self.role in node.parameters]


@fix("zero_scale")
class ZeroScale(_OfNodes):
    """gamma -> 0 of the last normalisation in each branch: every block starts as the identity, phi = 1 + 0.

    Preconditions: the scale is a stored tensor; the branch is not switched off already by another zero (with two of
    them neither ever gets a gradient), and the shortcut passes a gradient.

    Source: arXiv 1706.02677, section 5.1; the addition theorem (theory 2.2, arXiv 2001.00254).
    """

    ops = tuple(families()["normalization"])

    def plan(self, site: Site) -> Plan:
        dead = [Refusal(finding, reason) for finding in site.findings if (reason := _dead(site, finding)) is not None]
        left = {refusal.finding.place for refusal in dead}
        alive = tuple(finding for finding in site.findings if finding.place not in left)
        plan = _filled(self, replace(site, findings=alive), 0.0)
        return replace(plan, refused=(*dead, *plan.refused))


def _dead(site: Site, finding: Finding) -> str | None:
    """Why a branch that a finding is about must not be switched off."""
    found = (site.prediction.block_of.get(name) for name in finding.nodes)
    blocks = [block for block in found if block is not None and block.kind == "residual"]
    if any(block.branch_phi == 0 for block in blocks):
        return "its branch is switched off already: with a second zero it would never get a gradient"
    if any(block.shortcut_phi == 0 for block in blocks):
        return "the shortcut passes no gradient, and the branch would not either"
    return None


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
    users = site.graph.users
    named = {node.name for finding in site.findings for node in fix.nodes(site, finding.nodes)}
    for finding in site.findings:
        scales = [node.parameters["scale"] for node in fix.nodes(site, finding.nodes)]
        places = [stored_layout(scale) for scale in scales]
        stored = [place[0].name for place in places if place is not None]
        if len(stored) < len(places) or not places:
            reasons = [reason for reason in map(untrained, scales) if reason is not None]
            refused.append(Refusal(finding, reasons[0] if reasons else "its scale is not a stored tensor"))
        elif any(not users[name] <= named for name in stored):
            refused.append(Refusal(finding, "its scale is used in other places too, where it would be wrong"))
        else:
            for name in stored:
                edits.setdefault(name, fix.edit(finding, EditTensor(name, Fill(value))))
    return Plan(tuple(edits.values()), tuple(refused))


@fix("scale")
class WeightScale(_OfNodes):
    """The weights of a finding's layers by the factor that its rule gives: phi of a layer is quadratic in its scale.

    For the N branches that write a residual stream that is 1/sqrt(N): phi of a block becomes 1 + phi(branch)/N. Where
    something else reads the weight too (an embedding that the logits are tied to), the layer's output is scaled.

    Preconditions: the weight is a stored tensor, or computed in proportion to one.

    Source: the initialisation of GPT-2; the addition theorem (theory 2.2, arXiv 2001.00254).
    """

    role = "weight"
    ops = tuple(LAYERS)

    def plan(self, site: Site) -> Plan:
        edits: dict[str, Edit] = {}
        refused = []
        users = site.graph.users
        named = {node.name for finding in site.findings for node in self.nodes(site, finding.nodes)}
        for finding in site.findings:
            factor = finding.fix.factor if finding.fix is not None else None
            nodes = self.nodes(site, finding.nodes)
            tensors = [scalable(node.parameters["weight"]) for node in nodes]
            if not factor or not nodes or None in tensors:
                reasons = [reason for node in nodes if (reason := untrained(node.parameters["weight"])) is not None]
                otherwise = "the weight is not a stored tensor that could be scaled"
                refused.append(Refusal(finding, reasons[0] if reasons else otherwise))
                continue
            for node, tensor in zip(nodes, tensors, strict=True):
                assert tensor is not None
                own = users[tensor.name] <= named
                action = EditTensor(tensor.name, Scale(factor)) if own else InsertScale(node.outputs[0], factor)
                edits.setdefault(action.subject, self.edit(finding, action))
        return Plan(tuple(edits.values()), tuple(refused))
