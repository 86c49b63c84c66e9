"""Gaussian weights exchanged for orthogonal ones of the same scale."""

from __future__ import annotations

from typing import cast

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, stored_layout, target_node
from gnelint.fixes.chains import chains_of
from gnelint.fixes.edits import Draw, Edit, EditTensor, Redraw


@fix("orthogonal")
class OrthogonalWeights(Fix):
    """w -> Haar orthogonal with the same E w^2, for every layer of the chain: phi stays, its variance goes.

    The variance of a chain's spectrum adds up layer by layer (multiplication theorem for the variance); a Gaussian
    matrix brings phi^2 fan_out / fan_in a layer, an orthogonal one none. Convolutions are drawn as delta-orthogonal
    where the user says so, else as orthogonal matrices of (filters, everything else).

    Preconditions: the weight is a stored tensor, or one with its axes in another order.

    Source: arXiv 1312.6120; arXiv 1806.05393; arXiv 2001.00254, Theorem 4.1.
    """

    order = 40

    def plan(self, site: Site) -> Plan:
        edits: list[Edit] = []
        refused = []
        done: set[str] = set()
        for finding in site.findings:
            node = target_node(site, finding)
            layers = [layer.node for layer in chains_of(site.prediction, [] if node is None else [node.name])]
            places = [(layer, stored_layout(layer.parameters["weight"])) for layer in layers]
            drawn = [(layer, place) for layer, place in places if place is not None]
            if not drawn:
                refused.append(Refusal(finding, "no weight of its chain is a stored tensor"))
            for layer, (leaf, order) in drawn:
                if leaf.name in done:
                    continue
                done.add(leaf.name)
                second = site.prediction.weights[layer.parameters["weight"].name].second_moment
                draw = cast(Draw, site.options.draw if site.options.draw != "normal" else None) or "orthogonal"
                kept = 1 if layer.op == "conv_transpose" else 0
                redraw = Redraw(draw, second, site.options.seed + len(done), kept)
                edits.append(self.edit(finding, EditTensor(leaf.name, redraw, order)))
        return Plan(tuple(edits), tuple(refused))
