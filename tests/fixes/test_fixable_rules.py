"""Every fixable rule on its bad networks, as torch and ONNX: silent after the fix, no new error, nothing more to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gnelint.fixes import fix_named
from gnelint.fixes.edits import applied
from gnelint.fixes.planning import FixOutcome, FixRequest, plan_fixes
from gnelint.ir.graph import Graph
from gnelint.lint.engine import lint
from gnelint.lint.rulefile import Rule, load_rules
from gnelint.lint.selection import Settings
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import read_module
from tests.models import network
from tests.models.export import write_onnx
from tests.sampling import is_sampled, slow_unless

RULES = load_rules().rules
FIXABLE = [rule for rule in RULES if rule.program.fix is not None and rule.program.fix.safety != "display"]
BAD = [
    (rule, test["model"], position == 0)
    for rule in FIXABLE
    for position, test in enumerate(
        test
        for test in rule.tests
        if test.get("after_fix") == 0 and test.get("mode", "train") == "train" and "input" not in test
    )
]
"""Rules with the networks that they fix, and whether a network is the first of its rule."""
EXPORTED = 8
"""Of about so many the quick run fixes one as ONNX."""


def graph_of(model: str) -> Graph:
    """The network read from torch."""
    module, inputs = network(model)
    return read_module(module, inputs, name=model)


def errors(fixed: FixOutcome, rule: Rule) -> set[str]:
    """Rules that find an error in the fixed network and none in the one before."""
    heard = [other for other in RULES if other.status in ("stable", rule.status)]
    found = [
        {finding.rule for finding in lint(state, heard, Settings(stage="init")).findings if finding.severity == "error"}
        for state in (fixed.before, fixed.after)
    ]
    return found[1] - found[0]


def check(graph: Graph, rule: Rule) -> None:
    """The rule speaks, its fix silences it, and there is nothing to fix in the fixed network."""
    request = FixRequest([rule], Settings(select=(rule.id,), stage="init"), unsafe=True)
    fixed = plan_fixes(graph, request)
    assert fixed.found
    assert fixed.edits
    assert not fixed.remaining, [left.reason for left in fixed.left]
    assert not errors(fixed, rule)
    again = plan_fixes(applied(graph, [edit.action for edit in fixed.edits]), request)
    assert not again.edits


def named(rule: Rule, model: str) -> str:
    return f"{rule.id}-{model}"


@pytest.mark.parametrize(
    ("rule", "model"),
    [pytest.param(rule, model, id=named(rule, model), marks=slow_unless(first)) for rule, model, first in BAD],
)
def test_torch(rule: Rule, model: str) -> None:
    check(graph_of(model), rule)


@pytest.mark.parametrize(
    ("rule", "model"),
    [
        pytest.param(rule, model, id=named(rule, model), marks=slow_unless(is_sampled(named(rule, model), EXPORTED)))
        for rule, model, _ in BAD
    ],
)
def test_onnx(rule: Rule, model: str, tmp_path: Path) -> None:
    module, inputs = network(model)
    path = tmp_path / "model.onnx"
    write_onnx(module.train(), inputs, path, opset=18, dynamo=False, fold=False)
    graph = read(path)
    if not lint(plan_fixes(graph, FixRequest([])).before, [rule], Settings(stage="init")).findings:
        pytest.skip("the export hides it")
    check(graph, rule)


def test_every_fixable_rule_has_a_fix_and_a_test() -> None:
    for rule in FIXABLE:
        assert rule.program.fix is not None
        assert fix_named(rule.program.fix.kind) is not None, rule.id
        bad = [test for test in rule.tests if test["findings"] and "todo" not in test]
        assert all(test.get("after_fix") in (0, test["findings"]) for test in bad), rule.id
        assert any(test["after_fix"] == 0 for test in bad), rule.id


def test_recurrent_weights_are_left_to_the_author_with_that_reason() -> None:
    rules = [rule for rule in RULES if rule.id == "GNE109"]
    request = FixRequest(rules, Settings(select=("GNE109",), stage="init"), unsafe=True)
    fixed = plan_fixes(graph_of("constant_memory(wrong=True)"), request)
    assert not fixed.edits
    (left,) = fixed.left
    assert "(lstm): initialise them in your code" in left.reason


@pytest.mark.parametrize("seed", [*range(1, 4), pytest.param(0, marks=pytest.mark.slow)])
def test_any_selection_of_fixes_leaves_nothing_to_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = ["d_bad", "shifted_mlp(weight_mean=4.0, bias=2.0)", "b_bad", "uneven_mlp"][seed]
    chosen = [rule for rule in FIXABLE if rng.random() < 0.6]
    graph = graph_of(model)
    request = FixRequest(chosen, Settings(select=tuple(rule.id for rule in chosen), stage="init"), unsafe=True)
    fixed = plan_fixes(graph, request)
    again = plan_fixes(applied(graph, [edit.action for edit in fixed.edits]), request)
    assert not again.edits
