"""Second moment normalisation: in the place of batch normalisations, and behind the layers of a chain that drifts."""

from __future__ import annotations

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, stored_layout
from gnelint.fixes.chains import chains_of
from gnelint.fixes.edits import CentreFilters, Edit, InsertSecondMoment, SecondMoment


@fix("smn")
class SecondMoments(Fix):
    """x / rms(x) in the place of (x - mean) / std: with filters that are centred in every pass a layer's output has
    mean zero (where its inputs share one mean), so both divide by the same, and phi of convolution, normalisation and
    activation is that of batch normalisation: phi(act) / Var(act), pi/(pi - 1) = 1.467 for a plain ReLU layer. No
    promise of 1: a shortcut tames it.

    Preconditions: a batch normalisation behind one convolution that nothing else reads, with a stored weight.

    Source: arXiv 2001.00254, section on second moment normalisation; theory of components, 5.2.
    """

    order = 40

    def plan(self, site: Site) -> Plan:
        edits: dict[str, Edit] = {}
        refused = []
        for finding in site.findings:
            layers = {name for name in finding.nodes if "weight" in site.graph.node(name).parameters}
            for name in finding.nodes:
                node = site.graph.node(name)
                if node.op == "batch_norm":
                    edits.setdefault(name, self.edit(finding, SecondMoment(name)))
                elif name in layers and stored_layout(node.parameters["weight"]) is not None:
                    edits.setdefault(name, self.edit(finding, CentreFilters(name)))
            if not any(name in edits for name in finding.nodes):
                refused.append(Refusal(finding, "the weights in front of it are not stored tensors"))
        return Plan(tuple(edits.values()), tuple(refused))


@fix("insert_smn")
class InsertedSecondMoments(Fix):
    """A second moment normalisation behind each layer of a chain without one: the signal is brought back to second
    moment 1 at every layer. The filters stay as they are, not centred, so phi of a layer follows no single formula: for
    ReLU 1.125 at the first, nearer 1.32 in depth (theory of components, 5.2).

    Preconditions: the second axis of the layers' outputs is the channels.

    Source: arXiv 2001.00254, section on second moment normalisation.
    """

    order = 40

    def plan(self, site: Site) -> Plan:
        edits: dict[str, Edit] = {}
        refused = []
        for finding in site.findings:
            for layer in chains_of(site.prediction, finding.nodes):
                value = layer.node.outputs[0]
                shape = site.graph.values[value].concrete_shape
                if layer.activation is None or shape is None:
                    continue
                if layer.node.op == "linear" and len(shape) != 2:
                    continue
                edits.setdefault(value, self.edit(finding, InsertSecondMoment(value, shape[1])))
            if not edits:
                refused.append(Refusal(finding, "no layer of it has its channels on the second axis"))
        return Plan(tuple(edits.values()), tuple(refused))
