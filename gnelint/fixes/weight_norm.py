"""The gains of weight-normalised and weight-standardised layers, for the activation behind."""

from __future__ import annotations

import math
from dataclasses import replace

from gnelint.fixes.base import Plan, Refusal, Site, fix, scalable, target_node, untrained
from gnelint.fixes.edits import Edit, InsertScale
from gnelint.fixes.gain import Gain
from gnelint.lint.finding import Finding


@fix("weight_norm")
class WeightNorm(Gain):
    """g -> g / sqrt(phi(w) phi(act)) for w = g v / ||v||: of a computed weight the scale of v does not matter, that of
    g does (arXiv 1602.07868), and the multiplication theorem wants phi(w) phi(act) = 1.

    A standardised weight whose gain is a number in the model's code has no tensor to scale: the layer's output is
    multiplied by the same factor, which its bias (zero at the start) joins in.

    Preconditions: the gain is a stored tensor, or the layer's bias is zero or absent.

    Source: theory 2.1 (arXiv 2001.00254); arXiv 1903.10520 (weight standardisation).
    """

    def plan(self, site: Site) -> Plan:
        stored: list[Finding] = []
        others: list[Finding] = []
        for finding in site.findings:
            node = target_node(site, finding)
            held = node is None or scalable(node.parameters["weight"]) is not None
            (stored if held else others).append(finding)
        plan = super().plan(replace(site, findings=tuple(stored))) if stored else Plan()
        edits: list[Edit] = []
        refused: list[Refusal] = []
        for finding in others:
            node = target_node(site, finding)
            assert node is not None
            bias = node.parameters.get("bias")
            if not finding.measured or finding.measured <= 0:
                refused.append(Refusal(finding, "by how much it is off is not known"))
            elif (reason := untrained(node.parameters["weight"])) is not None:
                refused.append(Refusal(finding, reason))
            elif bias is not None and bias.array().any():
                refused.append(Refusal(finding, "its gain is no stored tensor, and its bias is not zero"))
            else:
                action = InsertScale(node.outputs[0], 1.0 / math.sqrt(finding.measured))
                edits.append(self.edit(finding, action))
        return Plan((*plan.edits, *edits), (*plan.refused, *refused), plan.notes)
