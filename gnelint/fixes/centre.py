"""Weights whose mean is taken out."""

from __future__ import annotations

from gnelint.fixes.base import NO_TENSOR, Fix, Plan, Refusal, Site, filters_axis, fix, target_weight
from gnelint.fixes.edits import Centre, Edit, EditTensor


@fix("centre")
class CentreWeights(Fix):
    """w -> w - E w over each filter: a constant input gives no output, so the means do not add up over the fan-in.

    The second moment of the weights falls by the squared means; where that moves the gain, the gain's own rule asks
    for its fix afterwards.

    Preconditions: the weight is a stored tensor, or one with its axes in another order.

    Source: arXiv 2001.00254, section 4.3 (centred weights for second moment normalisation).
    """

    order = 30

    def plan(self, site: Site) -> Plan:
        edits: list[Edit] = []
        refused = []
        done: set[str] = set()
        for finding in site.findings:
            found = target_weight(site, finding)
            if found is None:
                refused.append(Refusal(finding, NO_TENSOR))
                continue
            node, tensor, order = found
            if tensor not in done:
                done.add(tensor)
                edits.append(self.edit(finding, EditTensor(tensor, Centre(filters_axis(node)), order)))
        return Plan(tuple(edits), tuple(refused))
