"""Biases set to zero."""

from __future__ import annotations

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, target_node, users
from gnelint.fixes.edits import Edit, EditTensor, Fill


@fix("zero_bias")
class ZeroBias(Fix):
    """b -> 0: the activation's input is centred again, so P(x > 0) is 1/2 and phi(act) is what the weights were made
    for.

    Preconditions: the bias is a stored tensor that no other parameter shares.

    Source: arXiv 1502.01852, section 2.2 (biases start at zero).
    """

    order = 30

    def plan(self, site: Site) -> Plan:
        edits: list[Edit] = []
        refused = []
        for finding in site.findings:
            node = target_node(site, finding)
            bias = None if node is None else node.parameters.get("bias")
            if bias is None or len(bias.leaves) != 1 or bias.provenance != "data":
                refused.append(Refusal(finding, "its bias is not a stored tensor"))
            elif len(users(site.graph, bias.leaves[0].name)) > 1:
                refused.append(Refusal(finding, "other layers share its bias"))
            else:
                edits.append(self.edit(finding, EditTensor(bias.leaves[0].name, Fill(0.0))))
        return Plan(tuple(edits), tuple(refused))
