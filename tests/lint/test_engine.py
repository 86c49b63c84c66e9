"""Selection, stages, sums along paths, and what a finding says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gnelint.analysis.prediction import Block, Prediction
from gnelint.analysis.stage import Judgement
from gnelint.ir.graph import Location
from gnelint.lint.engine import lint
from gnelint.lint.finding import Advice
from gnelint.lint.rulefile import Rule, load_rule
from gnelint.lint.selection import Settings
from tests.builders import chain, graph, node, prediction

RULE = """\
schema: 1
id: {id}
name: some-rule
group: network
status: {status}
severity:
  - {{when: gain < 0.3, severity: error}}
  - {{when: gain < 0.9, severity: warning}}
stage: {stage}
summary: A rule.
pattern: |
  w = linear(x)
  a = activation(w)
params:
  least: {{default: 1.0, help: "gain from which on all is well"}}
let:
  gain: phi(w) * phi(a)
  bits: total(log2(gain))
when: gain < least
message: "{{w.name}} {{gain:.3g}} {{bits:.1f}}"
measured: gain
expected: 1
fix: {{kind: gain, target: w, factor: 1 / sqrt(gain), safety: init, title: "times {{factor:.3g}}"}}
explain: Text.
"""


def rule(tmp_path: Path, id_: str = "ACME001", stage: str = "init", status: str = "stable") -> Rule:
    path = tmp_path / f"{id_}.yaml"
    path.write_text(RULE.format(id=id_, stage=stage, status=status))
    loaded = load_rule(path)
    assert isinstance(loaded, Rule)
    return loaded


def test_what_a_finding_says(tmp_path: Path) -> None:
    result = lint(chain(3, gain=0.25, blocks=True), [rule(tmp_path)], Settings())
    assert [finding.nodes for finding in result.findings] == [("fc0", "act0"), ("fc1", "act1"), ("fc2", "act2")]
    finding = result.findings[1]
    assert finding.message == "fc1 0.25 -6.0"
    assert (finding.rule, finding.severity, finding.block) == ("ACME001", "error", "fc1 .. act1")
    assert (finding.measured, finding.expected) == (0.25, 1.0)
    assert finding.location == Location("model.py", 11)
    assert finding.fix == Advice("gain", "init", "times 2", "fc1", 2.0)


@pytest.mark.parametrize(("gain", "severity"), [(0.25, "error"), (0.5, "warning"), (0.95, None), (1.0, None)])
def test_the_first_severity_that_holds(tmp_path: Path, gain: float, severity: str | None) -> None:
    findings = lint(chain(1, gain=gain), [rule(tmp_path)], Settings()).findings
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_params_may_be_set(tmp_path: Path) -> None:
    settings = Settings(params={"ACME001": {"least": 0.1}})
    assert lint(chain(1, gain=0.25), [rule(tmp_path)], settings).findings == ()


def test_an_unknown_number_is_no_finding(tmp_path: Path) -> None:
    made = graph([node("w", "linear", ["x"], weight=(8, 8)), node("a", "relu", ["w"])])
    assert lint(prediction(made, {"w": None, "a": 0.5}), [rule(tmp_path)], Settings()).findings == ()


@pytest.mark.parametrize(
    ("trained", "stage", "runs", "reason"),
    [
        (False, "auto", True, None),
        (True, "auto", False, "look trained"),
        (None, "auto", False, "no weights to judge"),
        (True, "init", True, None),
        (None, "init", True, None),
        (False, "trained", False, "--stage trained"),
    ],
)
def test_stages(tmp_path: Path, trained: bool | None, stage: str, runs: bool, reason: str | None) -> None:
    rules = [rule(tmp_path), rule(tmp_path, "ACME002", "any")]
    result = lint(chain(1, gain=0.25, trained=trained), rules, Settings(stage=stage))  # type: ignore[arg-type]
    assert {finding.rule for finding in result.findings} == ({"ACME001", "ACME002"} if runs else {"ACME002"})
    assert len(result.skipped) == (not runs)
    if reason is not None:
        assert result.skipped[0].startswith("1 rule for untrained networks skipped: ")
        assert reason in result.skipped[0]


def test_weights_that_may_be_trained_are_not_judged_as_fresh(tmp_path: Path) -> None:
    unsure = replace(chain(1, gain=0.25), stage=Judgement("unsure", 4.0))
    result = lint(unsure, [rule(tmp_path)], Settings())
    assert result.findings == ()
    assert "not sure" in result.skipped[0]
    assert "--stage init" in result.skipped[0]
    assert lint(unsure, [rule(tmp_path)], Settings(stage="init")).findings


def test_placeholders_are_named_as_the_reason(tmp_path: Path) -> None:
    made = graph([node("w", "linear", ["x"], weight=(8, 8), provenance="placeholder"), node("a", "relu", ["w"])])
    result = lint(prediction(made, {}, trained=None), [rule(tmp_path)], Settings())
    assert "placeholders" in result.skipped[0]


def test_rules_over_blocks(tmp_path: Path) -> None:
    path = tmp_path / "rule.yaml"
    text = RULE.format(id="ACME003", stage="any", status="stable")
    text = text[: text.index("pattern")] + (
        'over: blocks\nlet: {gain: phi(block)}\nmessage: "{block.name} {block.kind} {total(1):.0f}"\nexplain: Text.\n'
    )
    path.write_text(text)
    loaded = load_rule(path)
    assert isinstance(loaded, Rule)
    made = graph([node("a", "linear", ["x"]), node("s", "add", ["a", "x"]), node("b", "linear", ["s"])])
    blocks = [
        Block("one", "residual", ("a", "s"), "x", "s:out", phi=0.2),
        Block("two", "serial", ("b",), "s:out", "b:out", phi=0.8),
        Block("three", "serial", (), "s:out", "elsewhere", phi=None),
    ]
    findings = lint(prediction(made, {}, blocks=blocks), [loaded], Settings()).findings
    assert [(f.message, f.severity, f.block) for f in findings] == [
        ("one residual 2", "error", "one"),
        ("two serial 2", "warning", "two"),
    ]


def residual(tmp_path: Path, run: str) -> Rule:
    path = tmp_path / "run.yaml"
    path.write_text(
        RULE.format(id="ACME004", stage="any", status="stable").replace(
            'message: "{w.name} {gain:.3g} {bits:.1f}"',
            f'run: {run}\nmessage: "{{w.name}} {{count():.0f}} {{product(gain):.3g}} {{highest(gain):.3g}}"',
        )
    )
    loaded = load_rule(path)
    assert isinstance(loaded, Rule)
    return loaded


def normalized_chain() -> Prediction:
    nodes, phi, previous = [], {}, "x"
    for index in range(4):
        names = [f"fc{index}", f"act{index}", f"norm{index}"]
        nodes += [
            node(names[0], "linear", [previous], weight=(8, 8)),
            node(names[1], "relu", [names[0]]),
            node(names[2], "layer_norm", [names[1]], axes=(1,)),
        ]
        phi |= {names[0]: 0.5 if index else 1.0, names[1]: 0.5, names[2]: 1.0}
        previous = names[2]
    return prediction(graph(nodes), phi)


APART = [("fc0 1 0.5 0.5", "warning", 2), *((f"fc{i} 1 0.25 0.25", "error", 2) for i in (1, 2, 3))]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("{}", APART),
        ("{findings: one}", APART),
        ("{ends_at: none}", [("fc0 4 0.00781 0.5", "warning", 2)]
         + [(f"fc{i} 4 0.00781 0.5", "error", 2) for i in (1, 2, 3)]),
        ("{ends_at: none, findings: one}", [("fc1 4 0.00781 0.5", "error", 8)]),
        ("{ends_at: relu, findings: one}", APART),
    ],
)  # fmt: skip
def test_runs_end_where_a_rule_says_and_may_be_one_finding(
    tmp_path: Path, run: str, expected: list[tuple[str, str, int]]
) -> None:
    findings = lint(normalized_chain(), [residual(tmp_path, run)], Settings()).findings
    assert [(f.message, f.severity, len(f.nodes)) for f in findings] == expected


def test_an_optional_node_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "optional.yaml"
    text = RULE.format(id="ACME005", stage="any", status="stable")
    text = text[: text.index("severity")] + (
        "severity: info\nstage: any\nsummary: A rule.\npattern: |\n  w = linear(x)\n  n = normalization?(w)\n"
        "  a = activation(n)\nlet: {own: 'choose(bound(n), phi(n), 8)', never: phi(n) > 100}\nwhen: not never\n"
        'message: "{w.name} {n.name} {own:.0f} {default(phi(n), 7):.0f}"\nexplain: Text.\n'
        'fix: {kind: x, target: n, safety: display, title: "of {n.op}"}\n'
    )
    path.write_text(text.replace("when: not never", "when: default(phi(n), 0) < 100"))
    loaded = load_rule(path)
    assert isinstance(loaded, Rule)
    nodes = [
        node("w", "linear", ["x"], weight=(8, 8)),
        node("n", "layer_norm", ["w"], axes=(1,)),
        node("a", "relu", ["n"]),
        node("v", "linear", ["a"], weight=(8, 8)),
        node("b", "relu", ["v"]),
    ]
    made = prediction(graph(nodes), {"n": 3.0})
    findings = lint(made, [loaded], Settings()).findings
    assert [f.message for f in findings] == ["w n 3 3", "v unknown 8 7"]
    assert [(f.fix.target, f.fix.description) for f in findings if f.fix] == [
        ("n", "of layer_norm"),
        (None, "of unknown"),
    ]
    assert [f.nodes for f in findings] == [("w", "n", "a"), ("v", "b")]
    path.write_text(text)
    strict = load_rule(path)
    assert isinstance(strict, Rule)
    assert [f.message for f in lint(made, [strict], Settings()).findings] == ["w n 3 3"]
