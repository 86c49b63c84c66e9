"""gnelint's own rules: each file is well formed, and each speaks of its bad networks and of no good one."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import gnelint
from gnelint.app.checking import Analysis
from gnelint.app.rule_tests import Examples, is_exported
from gnelint.lint.rulefile import Rule, builtin_directory, load_rules
from tests import builders
from tests.builders import chain, graph, node, prediction
from tests.lint.test_reports import ALL as REPORTS
from tests.models import network, placement
from tests.sampling import is_sampled, slow_unless

RULES = load_rules().rules
FIRST = {"GNE101", "GNE102", "GNE202", "GNE401", "GNE501", "GNE502", "GNE901"}
EXAMPLES = Examples(load_rules(), RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: Path(rule.file).stem)
def test_file_is_as_rules_check_demands(rule: Rule) -> None:
    outcomes = [EXAMPLES.names(rule), EXAMPLES.demands(rule)]
    assert all(outcome.holds for outcome in outcomes), "\n".join(line for each in outcomes for line in each.lines)


def test_no_file_is_skipped() -> None:
    assert {Path(rule.file) for rule in RULES} == {*builtin_directory().glob("*.yaml")}


def test_there_are_as_many_as_promised() -> None:
    assert len(RULES) >= 40


def test_the_first_rules_are_there() -> None:
    assert all(rule.status == "stable" for rule in RULES if rule.id in FIRST)


@functools.cache
def checked(model: str) -> Analysis:
    module, inputs = network(model)
    return gnelint.check(module, inputs)


def named() -> dict[str, list[tuple[Rule, Mapping[str, Any]]]]:
    """The tests of all rules by network and mode, so that each is read once."""
    found: dict[str, list[tuple[Rule, Mapping[str, Any]]]] = defaultdict(list)
    for rule in RULES:
        for test in rule.tests:
            found[network_of(test)].append((rule, test))
    return found


def network_of(test: Mapping[str, Any]) -> str:
    return str(test["model"]) + " in eval mode" * (test.get("mode") == "eval")


NETWORKS = named()


EXPORTED = 16
"""Of about so many networks the quick run exports one."""


def examples_of_each() -> set[str]:
    """The first bad and the first good network of each rule; test_reports.py asks all rules about its good ones."""
    found: set[str] = set()
    for rule in RULES:
        for bad in (True, False):
            found.update([network_of(test) for test in rule.tests if (test.get("findings") != 0) is bad][:1])
    return found


QUICK = examples_of_each() - {report.good for report in REPORTS}
BOTH_WAYS = [
    *(pytest.param(model, False, id=f"{model}-torch", marks=slow_unless(model in QUICK)) for model in NETWORKS),
    *(
        pytest.param(model, True, id=f"{model}-onnx", marks=slow_unless(is_sampled(model, EXPORTED)))
        for model in NETWORKS
    ),
]


@pytest.mark.parametrize(("model", "exported"), BOTH_WAYS)
def test_networks_that_rules_name(model: str, exported: bool) -> None:
    examples = Examples(load_rules(), RULES)
    outcomes = [
        examples.run(rule, test, exported=exported)
        for rule, test in NETWORKS[model]
        if is_exported(test) or not exported
    ]
    assert all(outcome.holds for outcome in outcomes), "\n".join(line for each in outcomes for line in each.lines)


SIDE_BY_SIDE = {
    "a_bad": {"GNE101", "GNE501"},
    "a_double": {"GNE101", "GNE502"},
    "b_bad": {"GNE401"},
    "c_bad": {"GNE202", "GNE501"},
    "d_bad": {"GNE102", "GNE501"},
    "e_bad": {"GNE101", "GNE501"},
    "a_ok": set(),
    "b_ok": set(),
    "c_ok": set(),
}


@pytest.mark.parametrize("model", SIDE_BY_SIDE)
def test_the_side_by_side_networks(model: str) -> None:
    errors = {finding.rule for finding in checked(model).findings if finding.severity == "error"}
    assert errors == SIDE_BY_SIDE[model]


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("model", SIDE_BY_SIDE)
def test_the_side_by_side_networks_exported_to_onnx(model: str, dynamo: bool, tmp_path: Path) -> None:
    from tests.models import CASES
    from tests.models.export import export_onnx

    path = tmp_path / f"{model}.onnx"
    export_onnx(CASES[model], path, opset=18, training=True, dynamo=dynamo)
    errors = {finding.rule for finding in gnelint.check(path).findings if finding.severity == "error"}
    assert errors == SIDE_BY_SIDE[model]


def verdicts(result_of: object, *, stage: str = "auto") -> Counter[tuple[str, str]]:
    from gnelint.lint.engine import lint
    from gnelint.lint.selection import Settings

    # graphs made by hand have weights whose entries are all alike: rules that read entries are not asked
    asked = [rule for rule in RULES if rule.id in FIRST]
    found = lint(result_of, asked, Settings(stage=stage)).findings  # type: ignore[arg-type]
    return Counter((finding.rule, finding.severity) for finding in found)


def test_depth_decides_how_bad_a_gain_is() -> None:
    assert verdicts(chain(2, gain=0.25)) == {}
    assert verdicts(chain(5, gain=0.25))[("GNE101", "warning")] == 5
    assert verdicts(chain(12, gain=0.25))[("GNE101", "error")] == 12
    assert verdicts(chain(12, gain=4.0))[("GNE101", "error")] == 12
    assert verdicts(chain(100, gain=0.99)) == {}


def test_gains_that_cancel_are_no_finding() -> None:
    nodes, phi, weights, previous = [], {}, {}, "x"
    for index in range(40):
        fan_in, fan_out = (64, 16) if index % 2 else (16, 64)
        name, act = f"fc{index}", f"act{index}"
        nodes += [node(name, "linear", [previous], weight=(fan_out, fan_in)), node(act, "relu", [name])]
        weights[f"{name}.weight"] = builders.statistics(2.0 / fan_out)
        phi |= {name: 2.0 * fan_in / fan_out, act: 0.5}
        previous = act
    assert verdicts(prediction(graph(nodes), phi, weights=weights)) == {}


def test_a_scale_behind_the_activation_counts() -> None:
    nodes, phi, weights, previous = [], {}, {}, "x"
    for index in range(30):
        name, act, scale = f"fc{index}", f"act{index}", f"scale{index}"
        nodes += [
            node(name, "linear", [previous], weight=(64, 64)),
            node(act, "relu", [name]),
            node(scale, "scale", [act], factor=2.0**0.5),
        ]
        weights[f"{name}.weight"] = builders.statistics(1.0 / 64)
        phi |= {name: 1.0, act: 0.5, scale: 2.0}
        previous = scale
    assert verdicts(prediction(graph(nodes), phi, weights=weights)) == {}
    assert verdicts(prediction(graph(nodes), {**phi, **{f"scale{i}": 1.0 for i in range(30)}}, weights=weights))


@pytest.mark.parametrize("place", ["between", "behind"])
def test_a_normalization_puts_the_gain_right(place: str) -> None:
    nodes, phi, weights, previous = [], {}, {}, "x"
    for index in range(30):
        fc, norm, act = f"fc{index}", f"norm{index}", f"act{index}"
        order = [(norm, "batch_norm"), (act, "relu")] if place == "between" else [(act, "relu"), (norm, "batch_norm")]
        nodes.append(node(fc, "linear", [previous], weight=(64, 64)))
        for name, op in order:
            nodes.append(node(name, op, [nodes[-1].name], **({"training": True} if op == "batch_norm" else {})))
        weights[f"{fc}.weight"] = builders.statistics(0.01 / 64)
        phi |= {fc: 0.01, act: 0.5, norm: 200.0}
        previous = nodes[-1].name
    assert verdicts(prediction(graph(nodes), phi, weights=weights)) == {}


def test_branches_and_zero_weights_are_not_blamed_for_their_gain() -> None:
    assert ("GNE101", "error") not in verdicts(chain(30, gain=0.25, kinds={"*": "residual"}))
    nodes = [node("a", "linear", ["x"], weight=(8, 8)), node("r", "relu", ["a"])]
    zero = prediction(graph(nodes), {"a": 0.0, "r": 0.5}, weights={"a.weight": builders.statistics(0.0, bound=0.0)})
    assert verdicts(zero) == {}


def test_the_default_draw_is_told_by_its_statistics() -> None:
    def network(kurtosis: float, bound: float) -> Counter[tuple[str, str]]:
        drawn = {f"fc{i}.weight": builders.statistics(1 / (3 * 64), kurtosis=kurtosis, bound=bound) for i in range(20)}
        return verdicts(chain(20, gain=1 / 6, weights=drawn))

    assert network(1.8, 0.1249)[("GNE102", "error")] == 20
    assert network(1.8, 0.1249)[("GNE101", "error")] == 0
    assert network(3.0, 0.5)[("GNE101", "error")] == 20
    assert network(3.0, 0.5)[("GNE102", "error")] == 0


def test_a_bias_behind_an_average_is_judged_by_inputs_that_differ_as_a_whole() -> None:
    """Noise, on which phi is predicted, averages to nothing: no unit is positive there (measured: 0 of 512 inputs)."""
    torch.manual_seed(0)
    net = placement.excited_maps(width=4, bias=-0.4)
    report = gnelint.check(net, torch.randn(4, 3, 16, 16), select=["GNE113"])
    (finding,) = report.findings
    seen: list[float] = []
    net.get_submodule(finding.nodes[0].split(".")[0]).squeeze.register_forward_hook(
        lambda _module, _inputs, output: seen.append(float((output > 0).float().mean()))
    )
    net(torch.randn(512, 3, 1, 1).expand(-1, -1, 16, 16).contiguous())
    assert finding.measured == pytest.approx(seen[0], abs=0.1)
    assert "phi" not in finding.message  # a number of noise beside one of pictures


def test_trained_networks_get_no_finding_of_their_start() -> None:
    assert verdicts(chain(50, gain=0.25, trained=True)) == {}
    assert verdicts(chain(50, gain=0.25, trained=True), stage="init")


def test_sigmoids_are_blamed_in_depth_only() -> None:
    assert verdicts(chain(2, gain=0.05, activation="sigmoid")) == {}
    deep = verdicts(chain(10, gain=0.05, activation="sigmoid"))
    assert deep[("GNE202", "error")] == 10
    assert deep[("GNE101", "error")] == 0


def test_an_unmodelled_operation_is_named() -> None:
    made = graph([node("a", "linear", ["x"], weight=(8, 8)), node("odd", "unmodelled", ["a"])])
    for trained in (True, False, None):
        assert verdicts(prediction(made, {}, trained=trained, unmodelled=["odd"])) == {("GNE901", "warning"): 1}
