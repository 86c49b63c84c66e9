"""Findings into edits: which fixes are made, in which order, until there is nothing more to fix.

Everything happens on the graph. After each kind of fix the edited graph is predicted and linted again, so that a fix
sees what those before it did, and what no edit puts right is known before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, replace

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.fixes import FixOptions, Refusal, Site, fix_named
from gnelint.fixes.base import Fix, Plan
from gnelint.fixes.edits import Edit, EditTensor, applied
from gnelint.ir.graph import Graph
from gnelint.lint.engine import lint_and_suppress
from gnelint.lint.facts import Facts
from gnelint.lint.finding import Finding, Safety
from gnelint.lint.rulefile import Rule
from gnelint.lint.selection import Settings, Stage
from gnelint.lint.suppression import Suppression
from gnelint.records import dataclass

MAX_ROUNDS = 30
"""Kinds of fixes made one after the other; a network that still has findings then is left as it is."""

WORSE = 1.0
"""Bits by which a fix that evens the gradient out may take it further from where it should be."""
Place = tuple[str, tuple[str, ...]]
"""Of a finding: the rule and the nodes."""

UNSAFE = "it changes the architecture: --unsafe-fixes makes it, and the network must be trained again"
TRAINED = "it changes where training starts, and the weights look trained: --unsafe-fixes makes it"
UNSURE = (
    "it changes where training starts, and whether the weights are trained is not sure: --stage init makes it, if they "
    "are not"
)
ADVICE = "there is no edit for it, only advice"
CHOICE = "an info is edited where its rule is selected by its id"


@dataclass(frozen=True)
class FixOutcome:
    """What is to be done to one network.

    Attributes:
        before, after: the predictions of the network as it is and as it will be.
        found, remaining: the findings of each.
        edits: in the order in which they are to be made; none if nothing can be done.
        left: the remaining findings with the reason why each is not fixed.
        request: what was asked for, with the stage that the weights showed.
        notes: what one would not expect of the edits.
    """

    before: Prediction
    after: Prediction
    found: tuple[Finding, ...]
    remaining: tuple[Finding, ...]
    edits: tuple[Edit, ...]
    left: tuple[Refusal, ...]
    request: FixRequest
    notes: tuple[str, ...] = ()

    @property
    def same_function(self) -> bool:
        """Whether every edit promises that the network computes what it did."""
        return all(edit.safety == "preserving" for edit in self.edits)


def same_program(edits: Sequence[Edit]) -> bool:
    """Whether the edits change numbers in tensors alone, and no layer."""
    return all(isinstance(edit.action, EditTensor) for edit in edits)


@dataclass(frozen=True)
class FixRequest:
    """What may be done, and by whose rules.

    Attributes:
        rules, settings, suppressions: what findings there are.
        options: the user's choices about fixes.
        unsafe: make fixes after which the network must be trained again.
        without: kinds of fixes that are not made, each with the reason, a clause for people.
    """

    rules: Sequence[Rule]
    settings: Settings = field(default_factory=Settings)
    suppressions: Sequence[Suppression] = ()
    options: FixOptions = field(default_factory=FixOptions)
    unsafe: bool = False
    without: Mapping[str, str] = field(default_factory=dict)

    def asked(self, finding: Finding) -> bool:
        """Whether it is to be fixed: an info is a choice, which is made only where its rule is selected by its id."""
        return finding.severity != "info" or finding.rule in (*self.settings.select, *self.settings.extend_select)

    def findings(self, prediction: Prediction) -> tuple[Finding, ...]:
        """What the rules say that nothing suppresses."""
        return lint_and_suppress(prediction, self.rules, self.settings, self.suppressions)[1].findings


def would_edit(prediction: Prediction, findings: Sequence[Finding], request: FixRequest) -> bool:
    """Whether one of the findings has a fix that would be tried."""
    return _next_fix(_State(prediction, tuple(findings)), _allowed(prediction, request), request) is not None


def not_tried(prediction: Prediction, findings: Sequence[Finding], request: FixRequest) -> tuple[Refusal, ...]:
    """Why each finding is left where none of them has a fix that would be tried."""
    allowed = _allowed(prediction, request)
    return tuple(_left(finding, {}, allowed, request, prediction) for finding in findings)


def plan_fixes(graph: Graph, request: FixRequest, before: Prediction | None = None) -> FixOutcome:
    """Plan the edits of one network. Nothing is written, and the graph is left as it is.

    Args:
        graph: the network.
        request: what may be done.
        before: what was predicted of it, None if that is to be done.
    """
    before = before or analyse(graph)
    if request.settings.stage == "auto" and before.stage.verdict != "none":
        # edits change how the weights look; what the network was when the user brought it counts
        stage: Stage = "init" if before.stage.verdict == "fresh" else "trained"
        request = replace(request, settings=replace(request.settings, stage=stage))
    found = request.findings(before)
    allowed = _allowed(before, request)
    state = _State(before, found)
    for _ in range(MAX_ROUNDS):
        chosen = _next_fix(state, allowed, request)
        if chosen is None:
            break
        state = _made(state, chosen, allowed, request)
    left = tuple(_left(finding, state.refused, allowed, request, before) for finding in state.findings)
    return FixOutcome(before, state.prediction, found, state.findings, state.edits, left, request, state.notes)


@dataclass(frozen=True)
class _State:
    """The network in between; `refused` is why places are left, by `Finding.place`."""

    prediction: Prediction
    findings: tuple[Finding, ...]
    edits: tuple[Edit, ...] = ()
    refused: Mapping[Place, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _allowed(prediction: Prediction, request: FixRequest) -> frozenset[Safety]:
    if request.unsafe:
        return frozenset({"preserving", "init", "retrain"})
    fresh = request.settings.stage == "init" or prediction.trained is False
    return frozenset({"preserving", "init"} if fresh else {"preserving"})


def _open(state: _State, allowed: Collection[Safety], request: FixRequest) -> list[Finding]:
    return [
        finding
        for finding in state.findings
        if finding.fix is not None
        and finding.fix.safety in allowed
        and finding.fix.kind not in request.without
        and finding.place not in state.refused
        and request.asked(finding)
    ]


def _next_fix(state: _State, allowed: Collection[Safety], request: FixRequest) -> Fix | None:
    fixes = [fix_named(finding.fix.kind) for finding in _open(state, allowed, request) if finding.fix is not None]
    return min((fix for fix in fixes if fix is not None), key=lambda fix: fix.order, default=None)


def _made(state: _State, fix: Fix, allowed: Collection[Safety], request: FixRequest) -> _State:
    """The state after one kind of fix. What it was asked for and did not put right is not asked of it again."""
    asked = tuple(
        finding
        for finding in _open(state, allowed, request)
        if finding.fix is not None and finding.fix.kind == fix.kind
    )
    site = Site(state.prediction, asked, request.options)
    refused = dict(state.refused)
    while site.findings:
        plan = _planned(fix, site)
        refused |= {refusal.finding.place: refusal.reason for refusal in plan.refused}
        if not plan.edits:
            break
        graph = applied(state.prediction.graph, [edit.action for edit in plan.edits])
        prediction = analyse(graph, state.prediction.sampler)
        findings = request.findings(prediction)
        notes = tuple(dict.fromkeys((*state.notes, *plan.notes)))
        found = _State(prediction, findings, (*state.edits, *plan.edits), refused, notes)
        failed = _failed(fix, site, state.findings, found, _open(found, allowed, request))
        if not failed:
            return found
        for finding in site.findings:
            if finding.place in failed:
                refused.setdefault(finding.place, failed[finding.place])
        site = replace(site, findings=tuple(finding for finding in site.findings if finding.place not in failed))
    refused |= {finding.place: refused.get(finding.place, "no edit helps it") for finding in asked}
    return replace(state, refused=refused)


def _planned(fix: Fix, site: Site) -> Plan:
    try:
        return fix.plan(site)
    except OverflowError as error:  # half precision holds no number above 65504
        return Plan((), tuple(Refusal(finding, str(error)) for finding in site.findings))


def _failed(
    fix: Fix,
    site: Site,
    known: Sequence[Finding],
    found: _State,
    pending: Collection[Finding],
) -> dict[Place, str]:
    """The findings whose edits are not to be made, with the reason: a fix that does not do what it is for is none.

    Args:
        fix: what was planned.
        site: for which findings.
        known: all findings of the network as it is.
        found: the network as it would be.
        pending: what would be fixed next: a finding may come to light behind one that is put right.
    """
    tried = [finding for finding in site.findings if finding.place not in found.refused]
    reason = _worse(site.prediction, found.prediction, fix.evens)
    if reason is not None:
        return {finding.place: reason for finding in site.findings}
    rules = {finding.rule for finding in tried}
    asked = {finding.place for finding in tried}
    others = {finding.place for finding in (*known, *pending)} - asked
    bad = [finding for finding in found.findings if finding.rule in rules and finding.place not in others]
    touched = {name for finding in bad for name in finding.nodes}
    failed: dict[Place, str] = {}
    for group in fix.groups(site):
        if bad and any(not touched.isdisjoint(finding.nodes) for finding in group):
            failed |= {finding.place: f"the edit ({fix.kind}) would not be enough" for finding in group}
    if bad and not failed:
        failed = {finding.place: f"the edit ({fix.kind}) would put it elsewhere" for finding in tried}
    return failed


def _worse(before: Prediction, after: Prediction, evens: bool) -> str | None:
    """Why a network is worse off, by the gradient at its input; None where it is not.

    How even the gradient is shows between the input and the last layer's: the gain of a head takes from all alike.
    """
    old, new = before.gradient_log2, after.gradient_log2
    if old is None or math.isinf(old):
        return None
    if new is None or math.isinf(new):
        return "after it no gradient would reach the input"
    bodies = Facts(before).body_log2, Facts(after).body_log2
    for was, now in ((old, new), bodies) if evens else ():
        if was is not None and now is not None and abs(now) <= abs(was) + WORSE:
            return None
    return f"the squared gradient norm at the input would go from 2^{old:.1f} to 2^{new:.1f}" if evens else None


def _left(
    finding: Finding,
    refused: Mapping[Place, str],
    allowed: Collection[Safety],
    request: FixRequest,
    before: Prediction,
) -> Refusal:
    """A finding that remains, with the reason."""
    fix = finding.fix
    if finding.place in refused:
        return Refusal(finding, refused[finding.place])
    if fix is not None and fix.kind in request.without and request.asked(finding):
        return Refusal(finding, request.without[fix.kind])
    if fix is None or fix.safety == "display" or fix_named(fix.kind) is None:
        return Refusal(finding, ADVICE)
    if fix.safety not in allowed:
        of_start = {"trained": TRAINED, "unsure": UNSURE}.get(before.stage.verdict, UNSAFE)
        return Refusal(finding, of_start if fix.safety == "init" else UNSAFE)
    if not request.asked(finding):
        return Refusal(finding, CHOICE, choice=True)
    return Refusal(finding, f"{MAX_ROUNDS} rounds of fixes did not settle it")
