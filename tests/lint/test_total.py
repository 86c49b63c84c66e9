"""A network whose total is out of range is never passed over in silence, whichever rules are selected or ignored."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from torch import nn

import gnelint
from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.app.checking import Analysis, check_prediction
from gnelint.lint.explaining import unexplained
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import load_rules
from gnelint.lint.running import Run
from gnelint.lint.selection import Settings, selected_rules, unselected_rules
from gnelint.lint.total import JUDGES
from gnelint.output import html, json, markdown, notebook, text
from gnelint.output.report import Checked, Report
from gnelint.readers.torch.reader import read_module
from tests.models import network

KNOWN = load_rules()
RULES = tuple(rule for rule in KNOWN.rules if rule.status == "stable")
FAST = ("c_bad", "gates", "leaky_mlp(slope=0.01, a=2.2360679)", "silent_layers(bias=-5.0)", "uneven_mlp")


def out_of_range() -> list[object]:
    """The bad networks of the rules of whose total GNE501 or GNE502 is known to speak."""
    names = {
        test["model"]
        for rule in RULES
        for test in rule.tests
        if test["findings"] and {rule.id, *test.get("others", ())} & {*JUDGES} and test.get("mode", "train") == "train"
    }
    return [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in sorted(names)]


@functools.lru_cache(maxsize=1)
def predicted(name: str) -> Prediction:
    module, inputs = network(name)
    return analyse(read_module(module, inputs, name=name))


@functools.lru_cache(maxsize=1)
def found(name: str) -> dict[str, list[Finding]]:
    """What each rule says of a network by itself."""
    run = Run(predicted(name))
    return {rule.id: run.findings(rule, {}) for rule in RULES}


def checked(name: str, settings: Settings) -> Analysis:
    rules, others = selected_rules(KNOWN, settings), unselected_rules(KNOWN, settings)
    return check_prediction(predicted(name), rules, settings, others=others)


@pytest.mark.parametrize("name", out_of_range())
def test_ignoring_a_rule_leaves_a_finding(name: str) -> None:
    yields = {rule.id: rule.explained_by for rule in RULES}
    if name not in FAST and not any(found(name)[judge] for judge in JUDGES):
        pytest.skip("its total is within range: a rule's `others` may speak, and need not")
    assert any(found(name)[judge] for judge in JUDGES)
    for ignored in RULES:
        others = [finding for rule, each in found(name).items() if rule != ignored.id for finding in each]
        assert unexplained(predicted(name).graph, others, yields), ignored.id


@pytest.mark.parametrize("name", out_of_range())
def test_a_rule_that_is_selected_alone_speaks_for_itself(name: str) -> None:
    alone = {rule.id: checked(name, Settings(select=(rule.id,))).findings for rule in RULES if found(name)[rule.id]}
    assert {rule: [finding.nodes for finding in findings] for rule, findings in alone.items()} == {
        rule: [finding.nodes for finding in found(name)[rule]] for rule in alone
    }


def fan_out(*widths: int) -> nn.Module:
    """Layers drawn by the fan-out mode, with ReLU."""
    layers: list[nn.Module] = []
    for before, behind in pairwise(widths):
        layer = nn.Linear(before, behind)
        nn.init.normal_(layer.weight)
        layer.weight.data *= (2.0 / behind) ** 0.5 / layer.weight.data.square().mean().sqrt()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("chosen", "rules"),
    [({}, {"GNE103"}), ({"ignore": ("GNE103",)}, {"GNE101"}), ({"select": ("GNE101",)}, {"GNE101"})],
)
def test_a_general_rule_speaks_where_the_special_one_was_not_asked(
    chosen: Mapping[str, tuple[str, ...]], rules: set[str]
) -> None:
    """Five layers lose 11 bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = fan_out(1, 16, 64, 256, 1024, 2048)
    findings = gnelint.check(module, torch.randn(8, 1), **chosen).findings
    assert {finding.rule for finding in findings} == rules
    assert len(findings) == 4  # the gradient at the input trains nothing
    assert all(finding.fix is not None and finding.fix.edits for finding in findings)


def said(analysis: Analysis) -> dict[str, str]:
    """What each report for people says of a network."""
    entry = analysis.to_dict()
    return {
        "text": text.render(entry, {}, (), text.Style(table=False)),
        "notebook": notebook.render(entry, {}, ()),
        "markdown": markdown.render(Report((Checked(entry),), rules=RULES)),
        "html": html.render(json.document([entry], RULES)),
    }


@pytest.mark.parametrize("select", ["GNE902", "GNE409"])
def test_without_findings_the_total_is_told(select: str) -> None:
    name = "silent_layers(bias=-5.0)"
    analysis = checked(name, Settings(select=(select,)))
    assert analysis.findings == ()
    speaking = [rule for rule, findings in found(name).items() if findings]
    beyond = analysis.to_dict()["summary"]["out_of_range"]
    assert beyond["rule"] == "GNE501"
    assert {"GNE204", "GNE501"} <= {*beyond["not_selected"]} <= {*speaking}
    for kind, report in said(analysis).items():
        words = " ".join(report.split())
        assert "GNE501" in words, kind
        assert f"2^{beyond['gradient_log2']:.0f}" in words, kind
        assert "No findings." not in words, kind
    assert "The gradient vanishes" in said(analysis)["html"]


def test_what_is_accepted_is_told_too() -> None:
    from gnelint.lint.suppression import Suppression

    analysis = check_prediction(predicted("silent_layers(bias=-5.0)"), RULES, Settings(), [Suppression(("ALL",))])
    assert "out of range, 2^-" in text.render(analysis.to_dict(), {}, (), text.Style()).replace("\n", " ")


def test_a_total_within_range_is_not_spoken_of() -> None:
    analysis = checked("silent_layers", Settings(select=("GNE902",)))
    assert analysis.to_dict()["summary"]["out_of_range"] is None
    assert "No findings." in said(analysis)["text"]
