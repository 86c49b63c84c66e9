"""The JSON contract: every key, no number that JSON does not have, the same bytes each time."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from gnelint.ir.graph import Location
from gnelint.lint.finding import Advice, Finding
from gnelint.lint.rulefile import load_rules
from gnelint.output.entry import Circumstances, target
from gnelint.output.json import document, dumps, number
from tests.builders import chain
from tests.output.snapshots import assert_matches

FINDINGS = (
    Finding(
        "GNE101",
        "error",
        "message",
        ("fc0", "act0"),
        "fc0 .. act0",
        Location("model.py", 3),
        0.25,
        1.0,
        Advice("gain", "init", "scale by 2", "fc0", 2.0),
    ),
    Finding("GNE901", "warning", "message", fix=Advice("none", "display", "advice")),
    Finding("GNE901", "info", "message", measured=math.nan),
)


def keys(entry: dict[str, Any]) -> list[str]:
    return list(entry)


def test_the_contract_key_by_key() -> None:
    entry = target(chain(2, gain=0.25, blocks=True), FINDINGS)
    assert keys(document([entry])) == ["schema", "version", "targets", "rules", "versions"]
    assert keys(entry) == [
        "target", "source", "mode", "summary", "profile", "blocks", "findings", "inputs", "sha256", "notes", "options",
        "rules_ran", "init_code",
    ]  # fmt: skip
    assert keys(entry["summary"]) == [
        "nodes", "parameters", "blocks", "coverage", "trained", "stage", "gradient_ratio", "gradient_log2",
        "error_bits", "fluctuation_bits", "cotangent_at", "errors", "warnings", "infos", "fixable", "suppressed",
        "baseline", "out_of_range",
    ]  # fmt: skip
    assert keys(entry["profile"][0]) == [
        "name", "op", "family", "output", "shape", "mean", "second_moment", "phi", "phi_variance", "gradient_norm2",
        "gradient_log2", "error_bits", "basis", "assumptions", "inputs", "weights",
    ]  # fmt: skip
    assert keys(entry["blocks"][0]) == [
        "name", "kind", "nodes", "side", "phi", "phi_variance", "error_bits", "branch_phi", "shortcut_phi", "join",
        "basis", "assumptions",
    ]  # fmt: skip
    assert keys(entry["findings"][0]) == [
        "rule", "severity", "message", "nodes", "block", "location", "measured", "expected", "fix", "fingerprint",
    ]  # fmt: skip
    assert keys(entry["findings"][0]["fix"]) == ["kind", "safety", "description", "edits", "reason"]
    assert entry["findings"][0]["location"] == {"file": "model.py", "line": 3}


def test_the_numbers() -> None:
    prediction = dataclasses.replace(chain(2, gain=0.25, blocks=True), error_bits=0.5, fluctuation_bits=0.25)
    summary = target(prediction, FINDINGS)["summary"]
    assert summary == {
        "nodes": 4, "parameters": 2 * 64 * 64, "blocks": 2, "coverage": 1.0, "trained": False,
        "stage": {"verdict": "fresh", "reason": None, "log_odds": 0.0, "evidence": []},
        "gradient_ratio": 0.0625, "gradient_log2": -4.0, "error_bits": 0.5, "fluctuation_bits": 0.25,
        "cotangent_at": "output",
        "errors": 1, "warnings": 1, "infos": 1, "fixable": 1, "suppressed": 0, "baseline": None,
        "out_of_range": None,
    }  # fmt: skip


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_null(value: float | None) -> None:
    assert number(value) is None


def test_extremes_stay_valid_json() -> None:
    prediction = chain(3, gain=0.25)
    for bits in (-math.inf, -5000.0, 5000.0, math.nan):
        nodes = tuple(dataclasses.replace(node, gradient_log2=bits, mean=math.inf) for node in prediction.nodes)
        extreme = dataclasses.replace(prediction, nodes=nodes, gradient_log2=bits)
        text = dumps(document([target(extreme, FINDINGS)]))
        json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in the report"))


def test_snapshot() -> None:
    made = document([target(chain(2, gain=0.25, blocks=True), FINDINGS)])
    assert list(made.pop("versions")) == ["gnelint", "python", "numpy", "onnx"]
    assert_matches("chain.json", dumps(made))


def test_how_it_came_about() -> None:
    rules = load_rules().rules
    made = Circumstances(("a note",), ("GNE101", "GNE102"), {"stage": "auto"}, sha256="ab" * 32)
    report = document([target(chain(2), FINDINGS[:1], made=made)], rules)
    entry = report["targets"][0]
    assert [entry[key] for key in ("notes", "rules_ran", "options", "sha256")] == [
        ["a note"], ["GNE101", "GNE102"], {"stage": "auto"}, "ab" * 32,
    ]  # fmt: skip
    assert [rule["id"] for rule in report["rules"]] == ["GNE101", "GNE102"]
    spoke, silent = report["rules"]
    assert spoke["explanation"].startswith("## What it checks")
    assert spoke["params"]["tolerance"] == 0.25
    assert (silent["explanation"], silent["references"]) == (None, [])


def test_edges_and_weights() -> None:
    first, second, *_ = target(chain(2), ())["profile"]
    assert (first["inputs"], second["inputs"]) == ([], ["fc0"])
    assert first["weights"][0]["name"] == "fc0.weight"
    assert first["weights"][0]["gain"] == pytest.approx(2**0.5)
    assert second["weights"] == []
