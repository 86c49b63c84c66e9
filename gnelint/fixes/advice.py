"""What a finding advises is what `gnelint fix` does: the edits of its plan, told at the findings that they put right.

A rule knows what is wrong with a place, not what is right for it: that follows from all of the network, and the planner
finds it (`gnelint.fixes.planning`). So where findings ask for edits that would be made, the plan is made, and each
finding says what is changed at its place, or why nothing is. A network without such findings is not planned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gnelint.analysis.prediction import Prediction
from gnelint.fixes.edits import Edit, EditTensor, InsertScale, Scale
from gnelint.fixes.planning import FixOutcome, FixRequest, not_tried, plan_fixes, would_edit
from gnelint.lint.finding import Finding, PlannedEdit
from gnelint.lint.places import changes
from gnelint.records import dataclass


@dataclass(frozen=True)
class Advised:
    """The findings with the edits that would be made for them, and the plan that makes these, None for none."""

    findings: tuple[Finding, ...]
    plan: FixOutcome | None = None


def advised(prediction: Prediction, findings: Sequence[Finding], request: FixRequest) -> Advised:
    """What is advised of a network.

    Args:
        prediction: the network.
        findings: what is to be reported of it.
        request: what `gnelint fix` would be asked.
    """
    plan = plan_fixes(prediction.graph, request, prediction) if would_edit(prediction, findings, request) else None
    edits, refused = ((), not_tried(prediction, findings, request)) if plan is None else (plan.edits, plan.left)
    shares = _shares(prediction, findings, edits)
    left = {refusal.finding.place: refusal.reason for refusal in refused}
    told = (
        _with_advice(prediction, finding, share, left.get(finding.place), edits)
        for finding, share in zip(findings, shares, strict=True)
    )
    return Advised(tuple(told), plan if edits else None)


def _shares(prediction: Prediction, findings: Sequence[Finding], edits: Sequence[Edit]) -> list[list[Edit]]:
    """The edits that each finding is to tell; each edit is told by one at least.

    Those at its place: only those of its own kind of fix, if there are any. An edit at no finding's place (a layer that
    has to change because others do, a place that goes wrong once others are right) is told by what it is made for.
    """
    by_subject: dict[str, list[int]] = {}
    for index, edit in enumerate(edits):
        by_subject.setdefault(edit.action.subject, []).append(index)
    shares: list[list[Edit]] = []
    for finding in findings:
        own = _subjects(prediction, finding) if _has_edits(finding) else frozenset()
        here = [edits[index] for index in sorted(index for name in own for index in by_subject.get(name, ()))]
        of_kind = [edit for edit in here if finding.fix is not None and edit.kind == finding.fix.kind]
        shares.append(of_kind or here)
    told = {id(edit) for share in shares for edit in share}
    tellers = _tellers(findings)
    for edit in edits:
        if id(edit) not in told:
            kin = next(key for key in _kin(edit) if key in tellers)
            shares[tellers[kin]].append(edit)
    return shares


def _has_edits(finding: Finding) -> bool:
    return finding.fix is not None and finding.fix.safety != "display"


def _kin(edit: Edit) -> tuple[tuple[object, ...], ...]:
    """Which finding tells an edit: the one that it is made for, else the first of its rule, else the first of all."""
    return (edit.rule, edit.nodes), (edit.rule,), ()


def _tellers(findings: Sequence[Finding]) -> dict[tuple[object, ...], int]:
    """The first finding that has edits, at each place, of each rule, and of all."""
    found: dict[tuple[object, ...], int] = {}
    for index, finding in enumerate(findings):
        if _has_edits(finding):
            for key in (finding.place, (finding.rule,), ()):
                found.setdefault(key, index)
    return found


def _subjects(prediction: Prediction, finding: Finding) -> frozenset[str]:
    """Names of the nodes of a finding, of what they compute, and of the tensors that they use."""
    nodes = [prediction.graph.node(name) for name in finding.nodes]
    tensors = (leaf.name for node in nodes for parameter in node.parameters.values() for leaf in parameter.leaves)
    return frozenset((*finding.nodes, *(value for node in nodes for value in node.outputs), *tensors))


def _with_advice(
    prediction: Prediction, finding: Finding, share: Sequence[Edit], reason: str | None, made: Sequence[Edit]
) -> Finding:
    fix = finding.fix
    if fix is None or not _has_edits(finding):
        return finding
    edits = tuple(PlannedEdit(edit.action.subject, edit.action.what, _factor(edit), edit.rule) for edit in share)
    if edits:
        description = "; ".join(changes([vars(edit) for edit in edits]))
        others = tuple(dict.fromkeys(edit.rule for edit in edits if edit.rule != finding.rule))
        if len(others) == len({edit.rule for edit in edits}):
            description += f", for {' and '.join(others)}"
        factor = _on_target(prediction, fix.target, share)
        return replace(finding, fix=replace(fix, description=description, factor=factor, edits=edits, reason=reason))
    if reason is None:
        rules = " and ".join(dict.fromkeys(edit.rule for edit in made))
        return replace(finding, fix=replace(fix, description=f"nothing more: what is done for {rules} puts it right"))
    return replace(finding, fix=replace(fix, reason=reason))


def _factor(edit: Edit) -> float | None:
    action = edit.action
    if isinstance(action, EditTensor) and isinstance(action.change, Scale):
        return action.change.factor
    return action.factor if isinstance(action, InsertScale) else None


def _on_target(prediction: Prediction, target: str | None, share: Sequence[Edit]) -> float | None:
    """What the weight that a fix is to change is multiplied by, None where it is not scaled."""
    if target is None or target not in prediction.graph.positions:
        return None
    weight = prediction.graph.node(target).parameters.get("weight")
    stored = {leaf.name for leaf in weight.leaves} if weight is not None else set()
    factors = [factor for edit in share if edit.action.subject in stored and (factor := _factor(edit)) is not None]
    return math.prod(factors) if factors else None
