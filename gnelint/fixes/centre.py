"""Weights whose mean is taken out."""

from __future__ import annotations

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, stored_layout, target_node
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
            node = target_node(site, finding)
            place = (
                None if node is None or "weight" not in node.parameters else stored_layout(node.parameters["weight"])
            )
            if node is None or place is None:
                refused.append(Refusal(finding, "its weight is not a stored tensor"))
            elif place[0].name not in done:
                done.add(place[0].name)
                kept = 1 if node.op == "conv_transpose" else 0
                edits.append(self.edit(finding, EditTensor(place[0].name, Centre(kept), place[1])))
        return Plan(tuple(edits), tuple(refused))
