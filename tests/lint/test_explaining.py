"""Which finding explains another: only what was found counts, and at every place of a finding one is left."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnelint.errors import RuleError
from gnelint.lint.engine import lint, lint_and_suppress
from gnelint.lint.explaining import cycle, unexplained
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import Rule, load_rule, load_rules
from gnelint.lint.selection import Settings
from gnelint.lint.suppression import Suppression
from tests.builders import chain, graph, node

NAMES = ("fc0", "act0", "fc1", "act1", "bare")
GRAPH = graph(
    [
        node("fc0", "linear", ["x"], weight=(8, 8)),
        node("act0", "relu", ["fc0"]),
        node("fc1", "linear", ["act0"], weight=(8, 8)),
        node("act1", "relu", ["fc1"]),
        node("bare", "tanh", ["act1"]),
    ]
)


def found(rule: str, *nodes: str) -> Finding:
    return Finding(rule, "error", "", nodes)


@pytest.mark.parametrize(
    ("speaks", "place", "left_out"),
    [
        ([found("B", "fc0", "act0")], ("fc0", "act0"), True),
        ([found("B", "fc0")], ("fc0", "act0"), True),  # the layer is what counts, not its activation
        ([found("B", "act0")], ("fc0", "act0"), False),
        ([found("B", "fc0")], ("fc0", "fc1"), False),  # all of the place
        ([found("B", "fc0"), found("B", "fc1")], ("fc0", "fc1"), True),
        ([found("B", "fc0"), found("C", "fc1")], ("fc0", "fc1"), True),
        ([found("D", "fc0")], ("fc0",), False),  # no rule that it yields to
        ([found("B", "fc1", "bare")], ("bare",), True),
        ([found("B")], ("fc0", "act0"), True),  # about the whole network
        ([found("B")], (), True),
        ([found("B", *NAMES)], (), False),
        ([], ("fc0",), False),
    ],
)
def test_what_is_left_out(speaks: list[Finding], place: tuple[str, ...], left_out: bool) -> None:
    asked = found("A", *place)
    left = unexplained(GRAPH, [asked, *speaks], {"A": ("B", "C")})
    assert left == ([] if left_out else [asked]) + speaks


RULES = "ABCDE"


@given(
    st.lists(st.builds(found, st.sampled_from(RULES), st.sampled_from(NAMES)), max_size=8),
    st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda pair: pair[0] < pair[1])),
)
def test_something_is_left_wherever_something_was_found(findings: list[Finding], pairs: set[tuple[int, int]]) -> None:
    yields = {rule: [RULES[j] for i, j in pairs if RULES[i] == rule] for rule in RULES}
    left = unexplained(GRAPH, findings, yields)
    assert {name for finding in left for name in finding.nodes} == {name for each in findings for name in each.nodes}


def test_circles() -> None:
    assert cycle({"A": ["B"], "B": ["C", "D"], "C": ["X"]}) == ()
    loop = cycle({"A": ["B"], "B": ["D", "C"], "C": ["B"]})
    assert sorted(loop) == ["B", "C"]
    assert cycle({"A": ["A"]}) == ("A",)


TEXT = """\
schema: 1
id: {id}
name: test
group: initialization
status: stable
severity: warning
stage: any
summary: A test.
pattern: |
  w = linear(x)
when: phi(w) < {below}
{more}message: "{{w.name}}"
explain: Text.
"""


def write(folder: Path, id: str, below: float, more: str = "") -> Path:
    path = folder / f"{id}.yaml"
    path.write_text(TEXT.format(id=id, below=below, more=more))
    return path


def rules(folder: Path, *yields: str) -> list[Rule]:
    """ACME001 speaks of every layer and yields; ACME002 speaks of every layer; ACME003 of none."""
    more = f"explained_by: [{', '.join(yields)}]\n"
    paths = [write(folder, "ACME001", 9, more), write(folder, "ACME002", 9), write(folder, "ACME003", 0)]
    return [rule for path in paths if isinstance(rule := load_rule(path), Rule)]


def said(rules: list[Rule]) -> set[str]:
    return {finding.rule for finding in lint(chain(2), rules, Settings()).findings}


def test_only_rules_that_run_and_speak_explain(tmp_path: Path) -> None:
    general, special, silent = rules(tmp_path, "ACME002", "ACME003")
    assert said([general, special, silent]) == {"ACME002"}
    assert said([general, silent]) == {"ACME001"}
    assert said([general]) == {"ACME001"}


def test_what_was_accepted_explains(tmp_path: Path) -> None:
    accepted = [Suppression(("ACME002",))]
    _, left = lint_and_suppress(chain(2), rules(tmp_path, "ACME002"), Settings(), accepted)
    assert (left.findings, left.count) == ((), 2)


def test_rules_may_not_yield_in_a_circle(tmp_path: Path) -> None:
    for one, other in pairwise(["ACME001", "ACME002", "ACME001"]):
        write(tmp_path, one, 9, f"explained_by: [{other}]\n")
    with pytest.raises(RuleError, match=r"ACME001.*ACME002.*ACME001 yield in a circle"):
        load_rules([tmp_path])


def test_gnelints_own_rules_yield_to_rules_that_exist() -> None:
    known = load_rules()
    assert [other for rule in known.rules for other in rule.explained_by if known.get(other) is None] == []
