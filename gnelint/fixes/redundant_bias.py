"""Biases dropped that the next normalisation takes out again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix
from gnelint.fixes.edits import DropBias, Edit, EditTensor, Fill, Subtract
from gnelint.ir.graph import Parameter
from gnelint.lint.cancelled import CancelledBias, cancelled_biases
from gnelint.lint.finding import Finding


@fix("redundant_bias")
class RedundantBias(Fix):
    """n(w x + b) = n(w x) where n subtracts the mean of each channel's values: the bias goes.

    With the statistics of the batch the mean takes b along; the running mean that n stores held b, so b (times the
    scalings in between) is subtracted from it, and the function is kept in training and in evaluation alike.

    In an ONNX file the operand goes. In a module or an exported program the parameter stays, at zero: the names in the
    state dict stay, and an old checkpoint, which brings the old bias and the old mean, still loads and computes what it
    did.

    Preconditions: those of `cancelled_biases`; what cannot be kept (numbers that the caller may feed, a running mean
    that is returned) the writer refuses, both changes together.

    Source: arXiv 1502.03167, section 3.2.
    """

    order = 10

    def plan(self, site: Site) -> Plan:
        cancelled = cancelled_biases(site.graph)
        edits: list[Edit] = []
        refused = []
        done: set[str] = set()
        for finding in site.findings:
            made: list[Edit] = []
            for taken in (cancelled[name] for name in finding.nodes if name in cancelled):
                if site.graph.source == "onnx":
                    made.append(self.edit(finding, _dropped(taken)))
                else:
                    made += self._zeroed(finding, taken, done)
            edits += made
            if not made:
                refused.append(Refusal(finding, "no layer of it has a bias of its own that a normalisation takes out"))
        return Plan(tuple(edits), tuple(refused))

    def _zeroed(self, finding: Finding, taken: CancelledBias, done: set[str]) -> Iterator[Edit]:
        """The bias at zero and the running mean without it; each tensor once, however often its layer runs."""
        bias, mean = _zero_at(taken.bias), taken.mean
        if bias is None or (mean is not None and mean.leaves != (mean,)):
            return
        actions = [EditTensor(bias, Fill(0.0))]
        if mean is not None:
            amounts = tuple(taken.amounts().tolist())
            actions.append(EditTensor(mean.name, Subtract(amounts, f"the bias of {taken.layer.name}")))
        for action in actions:
            if action.tensor not in done:
                done.add(action.tensor)
                yield self.edit(finding, action, f"bias {bias}")


def _dropped(taken: CancelledBias) -> DropBias:
    amounts = taken.amounts()
    if taken.mean is None or not amounts.any():
        return DropBias(taken.layer.name)
    return DropBias(taken.layer.name, taken.norm.name, tuple(amounts.tolist()), taken.tensors)


def _zero_at(bias: Parameter) -> str | None:
    """The stored tensor that makes the bias zero where it is zero itself, None if there is none."""
    for leaf in bias.leaves:
        if leaf.size == bias.size:
            nothing = bias.with_stored({leaf.name: np.zeros_like(leaf.load())})
            if not nothing.array().any():
                return leaf.name
    return None
