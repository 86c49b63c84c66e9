"""Biases dropped that the next normalisation takes out again."""

from __future__ import annotations

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix
from gnelint.fixes.edits import DropBias, Edit
from gnelint.lint.facts import LAYERS


@fix("redundant_bias")
class RedundantBias(Fix):
    """n(w x + b) = n(w x) where n subtracts the mean of each channel's values: the bias goes.

    Preconditions: the normalisation uses the statistics of the batch, so the function is kept in training; the running
    mean that it stores is not moved by b, so for evaluation its mean must be: where it is used (a normalisation read
    with running statistics), the rule does not speak. Scalings between keep b constant a channel; a slice or a
    rearrangement does not hinder.

    Source: arXiv 1502.03167, section 3.2.
    """

    order = 10

    def plan(self, site: Site) -> Plan:
        edits: list[Edit] = []
        refused = []
        for finding in site.findings:
            biased = [node for name in finding.nodes if "bias" in (node := site.graph.node(name)).parameters]
            layers = [node for node in biased if node.op in LAYERS]
            edits += [self.edit(finding, DropBias(node.name)) for node in layers]
            if not layers:
                refused.append(Refusal(finding, "no layer of it has a bias"))
        return Plan(tuple(edits), tuple(refused))
