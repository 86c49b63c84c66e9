"""The JSON Schema accepts every report that gnelint makes, and refuses one with anything wrong in it."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import gnelint as api
from gnelint.analysis.stage import Judgement
from gnelint.ir.graph import Location
from gnelint.lint.finding import Advice, Finding
from gnelint.measure.training import Step, TrainingRun
from gnelint.measure.verify import Verification
from gnelint.output.entry import target
from gnelint.output.json import document, dumps, statistics
from gnelint.output.verify_json import document as verify_document
from tests.builders import chain
from tests.command import gnelint
from tests.models import CASES
from tests.output.test_verify_reports import verified
from tests.test_cli import write_mlp

VALIDATOR = jsonschema.Draft202012Validator(api.report_schema())
CHOSEN = ("params", "options")
"""Objects that hold what rules and users choose."""

OPEN = ("", "targets", "summary", "profile", "blocks", "versions", "references", *CHOSEN)
"""Objects that may hold more keys than the schema names, by the key that they or their list stand under."""

ADDED = {
    "": {"rules", "versions"},
    "targets": {"inputs", "sha256", "notes", "options", "rules_ran", "init_code"},
    "summary": {"gradient_log2", "out_of_range"},
    "fix": {"edits", "reason"},
    "verification": {"worse"},
    "profile": {"family", "gradient_log2", "basis", "assumptions", "inputs", "weights"},
    "weights": {"histogram"},
    "blocks": {"branch_phi", "shortcut_phi", "join"},
}
"""Keys that came to these objects after the first reports of the schema, which are valid still."""

FOUND = Finding(
    "GNE101",
    "error",
    "message",
    ("fc0", "act0"),
    "fc0 .. act0",
    Location("model.py", 3),
    0.25,
    1.0,
    Advice("gain", "init", "scale by 2", "fc0", 2.0),
    "0123456789abcdef",
)


def valid(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    VALIDATOR.validate(found)
    return found


def checked() -> dict[str, Any]:
    entry = target(chain(2, gain=0.25, blocks=True), [FOUND])
    entry["summary"]["baseline"] = {"known": 3, "gone": 0}
    return json.loads(dumps(document([entry])))  # type: ignore[no-any-return]


def measured() -> dict[str, Any]:
    run = TrainingRun((Step(2.0, {"fc0": -1.0}),), "random classes")
    before = verified(chain(2, gain=0.25, blocks=True), training=run)
    return json.loads(dumps(verify_document(Verification(before, verified(chain(2, blocks=True))), [FOUND])))  # type: ignore[no-any-return]


def counted() -> dict[str, Any]:
    return json.loads(dumps(statistics(checked()["targets"], {"GNE101": "gain-mismatch"})))  # type: ignore[no-any-return]


REPORTS = pytest.mark.parametrize("report", [checked(), measured(), counted()], ids=["check", "verify", "statistics"])


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(api.report_schema())


@REPORTS
def test_a_report_is_valid(report: dict[str, Any]) -> None:
    VALIDATOR.validate(report)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to everything in a report; of a list, its first element stands for the others."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def at(report: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        report = report[key]
    return report


def kind(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def under(path: tuple[Any, ...]) -> str:
    """The key that the object at this path, or the list it is in, stands under."""
    return next((key for key in reversed(path) if isinstance(key, str)), "")


def free(path: tuple[Any, ...]) -> bool:
    """Whether a key may be missing: what could not be measured is, and a node that nothing is known of."""
    owner = under(path[:-1])
    measured = owner in ("measured", "interval", "weight_gradients_log2", "versions", *CHOSEN)
    return measured or path[-1] in ("transfer", "arxiv", "url") or path[-1] in ADDED.get(owner, ())


@REPORTS
def test_no_key_may_be_missing(report: dict[str, Any]) -> None:
    for path in places(report):
        if isinstance(path[-1], str) and not free(path) and path != ("verification",) and path != ("statistics",):
            damaged = copy.deepcopy(report)
            del at(damaged, path[:-1])[path[-1]]
            assert not VALIDATOR.is_valid(damaged), path


@REPORTS
@pytest.mark.parametrize("wrong", [{"wrong": True}, [[]], True, "", -1, "NaN"], ids=repr)
def test_no_value_may_be_of_another_kind(report: dict[str, Any], wrong: Any) -> None:
    kept = []
    for path in places(report):
        old = at(report, path)
        if kind(old) == kind(wrong) or (old is None and not isinstance(wrong, (dict, list))):
            continue  # what is null here may be something else elsewhere
        if under(path[:-1]) in CHOSEN or path[-4:-1:2] == ("inputs", "shape"):
            continue  # a rule's parameter may be of any kind, and a size that nothing fixes is a name
        damaged = copy.deepcopy(report)
        at(damaged, path[:-1])[path[-1]] = wrong
        if VALIDATOR.is_valid(damaged):
            kept.append(path)
    assert kept == []


@REPORTS
def test_unknown_keys_are_refused_where_none_are_announced(report: dict[str, Any]) -> None:
    for path in ((), *places(report)):
        if not isinstance(at(report, path), dict):
            continue
        extended = copy.deepcopy(report)
        at(extended, path)["more"] = "anything"
        assert VALIDATOR.is_valid(extended) == (under(path) in OPEN), path


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("schema",), "gnelint/2"),
        (("targets", 0, "source"), "tensorflow"),
        (("targets", 0, "mode"), "test"),
        (("targets", 0, "summary", "coverage"), 1.5),
        (("targets", 0, "summary", "nodes"), 1.5),
        (("targets", 0, "summary", "gradient_ratio"), -1.0),
        (("targets", 0, "profile", 0, "shape"), [4, "batch"]),
        (("targets", 0, "profile", 0, "second_moment"), -0.5),
        (("targets", 0, "blocks", 0, "kind"), "loop"),
        (("targets", 0, "blocks", 0, "basis"), "guessed"),
        (("targets", 0, "findings", 0, "rule"), "gain-mismatch"),
        (("targets", 0, "findings", 0, "severity"), "fatal"),
        (("targets", 0, "findings", 0, "location", "line"), 0),
        (("targets", 0, "findings", 0, "fix", "safety"), "safe"),
        (("targets", 0, "findings", 0, "fingerprint"), ""),
    ],
)
def test_values_that_mean_nothing_are_refused(path: tuple[Any, ...], wrong: Any) -> None:
    report = checked()
    at(report, path[:-1])[path[-1]] = wrong
    assert not VALIDATOR.is_valid(report)


LARGE = ("densenet121", "vit", "gpt2")


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_small", "d_bad", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)],
)
def test_reports_of_networks_are_valid(name: str) -> None:
    found = api.check(CASES[name].module(), CASES[name].example_inputs(), preview=True)
    valid(dumps(document([found.to_dict()])))


def test_reports_of_the_command_line_are_valid(tmp_path: Path) -> None:
    write_mlp(tmp_path / "bad.onnx", depth=24, gain=0.5, width=32)
    write_mlp(tmp_path / "good.onnx", depth=24, width=32)
    bad = ("check", "bad.onnx", "--format", "json")
    gnelint("check", "bad.onnx", "--baseline", "base.json", "--write-baseline", cwd=tmp_path)
    for options in (
        (),
        ("good.onnx", "nothing.onnx"),
        ("--statistics",),
        ("--baseline", "base.json"),
        ("--mode", "eval"),
    ):
        valid(gnelint(*bad, *options, cwd=tmp_path).stdout)
    only = valid(gnelint("check", "nothing.onnx", "--format", "json", cwd=tmp_path).stdout)
    assert only["targets"] == []


def test_reports_of_measurements_are_valid(tmp_path: Path) -> None:
    for name, gain in (("bad.onnx", 0.5), ("good.onnx", 1.0)):
        write_mlp(tmp_path / name, depth=6, gain=gain, width=32)
    result = gnelint(
        "verify", "bad.onnx", "good.onnx", "--train", "2", "--format", "json", "--device", "cpu", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert valid(result.stdout)["verification"]["fixed_is_worse"] is False


def test_reports_of_extremes_are_valid() -> None:
    made = chain(3, gain=0.25)
    for bits in (-math.inf, -5000.0, 5000.0, math.nan):
        nodes = tuple(dataclasses.replace(node, gradient_log2=bits, shape=None) for node in made.nodes)
        extreme = dataclasses.replace(made, nodes=nodes, blocks=(), gradient_log2=bits, stage=Judgement())
        valid(dumps(document([target(extreme, [dataclasses.replace(FOUND, location=None, fix=None, nodes=())])])))
    valid(dumps(verify_document(Verification(verified(chain(700, gain=0.25, blocks=True))))))
