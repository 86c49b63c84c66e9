"""What a finding advises is what `gnelint fix` does, to the digit, in every report."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import pytest

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.app.checking import Analysis, check_prediction
from gnelint.fixes.advice import Advised, advised
from gnelint.fixes.planning import FixOutcome, FixRequest, plan_fixes
from gnelint.lint.places import changes
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.output import fix_json, fix_text, html, json, text
from gnelint.readers.torch.reader import read_module
from gnelint.writers.rewriting import Rewritten
from tests.models import network

RULES = tuple(rule for rule in load_rules().rules if rule.status == "stable")
FAST = {
    "widening_mlp(init='he_out', doublings=5)",  # gain
    "normed_weights(g=1.0, depth=6)",  # weight_norm
    "symmetric_mlp(fill='copied')",  # draw
    "token_mlp(head_std=1.0)",  # scale
    "shifted_mlp(bias=2.0, depth=3)",  # zero_bias
    "conditioned_mlp",  # orthogonal
    "normalized_convs(bias=True)",  # redundant_bias
    "skipinit",  # residual
}
"""One for each kind of fix that is made by default."""
NUMBER = re.compile(r"multiply (\S+(?:, \S+)*|[0-9]+ tensors) by ([0-9.e+-]+)(?: to ([0-9.e+-]+))?")


def networks() -> list[object]:
    """The bad networks of all rules that have a fix."""
    names = {
        test["model"]
        for rule in RULES
        for test in rule.tests
        if test["findings"] and rule.program.fix is not None and test.get("mode", "train") == "train"
    }
    return [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in sorted(names)]


@functools.lru_cache(maxsize=1)
def predicted(name: str) -> Prediction:
    module, inputs = network(name)
    return analyse(read_module(module, inputs, name=name))


def both(name: str) -> tuple[Analysis, FixOutcome]:
    prediction = predicted(name)
    return check_prediction(prediction, RULES, Settings()), plan_fixes(prediction.graph, FixRequest(RULES, Settings()))


@pytest.mark.parametrize("name", networks())
def test_advice_is_the_plan(name: str) -> None:
    checked, plan = both(name)
    made = [(edit.action.subject, edit.action.what, edit.rule) for edit in plan.edits]
    told = {
        (edit.subject, edit.what, edit.rule)
        for finding in checked.findings
        if finding.fix is not None
        for edit in finding.fix.edits
    }
    assert told == {*made}
    left = {refusal.finding.place: refusal.reason for refusal in plan.left}
    for finding in checked.findings:
        fix = finding.fix
        if fix is None or fix.safety == "display":
            assert fix is None or not fix.edits
        elif plan.edits:
            assert fix.edits or fix.reason or fix.description.startswith("nothing more")
            assert fix.reason == left.get(finding.place)
    reports_agree(checked, plan)


def reports_agree(checked: Analysis, plan: FixOutcome) -> None:
    """Text, page and the list of edits give the same clauses."""
    entry = checked.to_dict()
    done = fix_json.entry(Rewritten("x", plan, (), None, plan.after, plan.remaining))
    page = html.render(json.document([entry], RULES))
    shown = " ".join(text.render(entry, {}, (), text.Style(table=False)).split())
    diff = " ".join(fix_text.render(done, {}, whole=False, dry=True).split())
    for group in text.grouped(entry["findings"]):
        edits = [edit for finding in group if finding["fix"] is not None for edit in finding["fix"]["edits"]]
        for clause in changes(edits)[:3]:
            assert clause in shown
            assert clause in page
    for rule in {edit["rule"] for edit in done["edits"]}:
        for low, high in ranges(changes(edit for edit in done["edits"] if edit["rule"] == rule)):
            assert f"multiply by {low} to {high}" in diff if high else f"multiply by {low}" in diff


def ranges(clauses: list[str]) -> list[tuple[str, str]]:
    return [(found[2], found[3] or "") for clause in clauses if (found := NUMBER.fullmatch(clause))]


def edit(subject: str, what: str) -> Mapping[str, Any]:
    return {"subject": subject, "what": what}


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([edit("0.weight", "multiply by 2.01")], ["multiply 0.weight by 2.01"]),
        (
            [edit("0.weight", "multiply by 2.01"), edit("2.weight", "multiply by 1.98"), edit("0.bias", "set to 0")],
            ["multiply 0,2.weight by 1.98 to 2.01", "set 0.bias to 0"],
        ),
        ([edit("fc", "tanh in its place"), edit("fc", "tanh in its place")], ["fc: tanh in its place"]),
        ([edit("a", "multiply by 1e-05"), edit("a", "multiply by 3")], ["multiply a by 1e-05 to 3"]),
    ],
)
def test_changes_in_words(edits: list[Mapping[str, Any]], said: list[str]) -> None:
    assert changes(edits) == said


def test_a_network_without_edits_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> FixOutcome:
        raise AssertionError("planned")

    monkeypatch.setattr("gnelint.fixes.advice.plan_fixes", never)
    prediction = predicted("silent_layers(bias=-5.0)")
    findings = check_prediction(prediction, RULES, Settings()).findings
    assert findings
    assert advised(prediction, findings, FixRequest(RULES, Settings())) == Advised(findings)
