"""SARIF is valid, has what GitHub's code scanning asks for, and takes no name for markup."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gnelint.ir.graph import Location
from gnelint.lint.finding import Finding
from gnelint.output import sarif
from gnelint.output.report import Report, Unread
from tests.builders import chain
from tests.output.reports import EVIL, checked, hostile, report, saying, vanishing

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0-rtm.5.json").read_text())
VALIDATOR = jsonschema.Draft4Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


def rendered(of: Report) -> dict[str, Any]:
    """The one run of the log, which is valid."""
    log = json.loads(sarif.render(of))
    VALIDATOR.validate(log)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    for result in run["results"]:
        # docs.github.com, "SARIF support for code scanning": what is required, and what an upload is refused for
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"]
        assert result["partialFingerprints"]
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    for rule in run["tool"]["driver"]["rules"]:
        assert 0 < len(rule["shortDescription"]["text"]) <= 1024
        assert 0 < len(rule["fullDescription"]["text"]) <= 1024
        assert len(rule["name"]) <= 255
        assert rule["help"]["text"]
        assert len(rule["properties"]["tags"]) <= 10
    return run


def test_the_schema_refuses_what_is_wrong() -> None:
    log = json.loads(sarif.render(report(checked(vanishing()))))
    log["runs"][0]["results"][0]["level"] = "info"
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(log)


def test_a_run() -> None:
    run = rendered(report(checked(vanishing(), notes=("A note.",)), exit_code=1))
    assert run["tool"]["driver"]["name"] == "gnelint"
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (True, 1)
    assert [(said["level"], said["message"]["text"]) for said in invocation["toolExecutionNotifications"]] == [
        ("note", "A note.")
    ]
    first, last = run["results"][0], run["results"][-1]
    assert (first["ruleId"], first["level"], last["ruleId"]) == ("GNE101", "error", "GNE501")
    assert first["message"]["text"].startswith("fc0: The weights of this linear")
    assert "Fix: scale the weights" in first["message"]["text"]
    assert last["message"]["text"].startswith("whole network: ")
    assert first["locations"][0]["logicalLocations"] == [
        {"fullyQualifiedName": "fc0", "kind": "node"},
        {"fullyQualifiedName": "act0", "kind": "node"},
    ]
    assert first["properties"]["measured"] == pytest.approx(0.25)


def test_findings_are_at_their_lines_else_at_the_model() -> None:
    run = rendered(report(checked(vanishing())))
    first, last = run["results"][0], run["results"][-1]
    assert first["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "model.py", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 10},
    }
    assert first["analysisTarget"] == {"uri": "model.onnx", "uriBaseId": "%SRCROOT%"}
    # a model has no lines, and GitHub hashes none where none is given: our fingerprint tells the findings apart
    assert last["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "model.onnx", "uriBaseId": "%SRCROOT%"}
    }
    assert last["partialFingerprints"]["primaryLocationLineHash"] == last["partialFingerprints"]["gnelint/v1"]
    assert "primaryLocationLineHash" not in first["partialFingerprints"]
    assert "analysisTarget" not in last
    marks = [result["partialFingerprints"]["gnelint/v1"] for result in run["results"]]
    assert len(set(marks)) == len(marks)


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("/work/models/a b.onnx", "models/a%20b.onnx"),
        ("models/../x.onnx", "x.onnx"),
        ("/elsewhere/x.onnx", "file:///elsewhere/x.onnx"),
        ("../x.onnx", "file:///x.onnx"),
        ("C:\\nets\\ü.py", "file:///C:/nets/%C3%BC.py"),
        ("100%#?.onnx", "100%25%23%3F.onnx"),
        ("a\udcff.onnx", "a%FF.onnx"),
    ],
)
def test_addresses(file: str, uri: str) -> None:
    run = rendered(report(saying(Finding("GNE101", "error", "m", location=Location(file)))))
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_only_rules_that_ran_are_listed() -> None:
    run = rendered(report(checked(chain(4, blocks=True), ran=("GNE401", "GNE901"))))
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["GNE401", "GNE901"]
    assert run["results"] == []


def test_levels() -> None:
    severities = ("error", "warning", "info")
    run = rendered(report(saying(*(Finding("GNE901", severity, "m") for severity in severities))))
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note"]


def test_what_could_not_be_checked_makes_the_run_a_failed_one() -> None:
    run = rendered(report(checked(chain(2)), unread=(Unread("b.onnx", "b.onnx: no such file."),), exit_code=2))
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 2)
    assert invocation["toolExecutionNotifications"][0] == {
        "level": "error",
        "message": {"text": "b.onnx: no such file."},
    }


def test_names_are_no_links_and_no_placeholders() -> None:
    run = rendered(report(hostile(), unread=(Unread(EVIL, EVIL),)))
    text = run["results"][0]["message"]["text"]
    assert "\\[k](http://evil)" in text
    assert "{{0}}" in text
    assert not any(char in text for char in "\033\r\x00\u202e")
    said = [each["message"]["text"] for each in run["invocations"][0]["toolExecutionNotifications"]]
    assert all("\033" not in text and " {0}" not in text for text in said)


def test_no_more_results_than_github_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MAX_RESULTS", 3)
    findings = [Finding("GNE901", severity, "m") for severity in ("info", "warning", "error", "warning")]
    run = rendered(report(saying(*findings)))
    assert [result["level"] for result in run["results"]] == ["error", "warning", "warning"]
    assert "1 more findings" in run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]


def test_several_targets_are_one_run_with_the_same_bytes_each_time() -> None:
    both = report(checked(vanishing(3), "a.onnx"), checked(vanishing(3), "b.onnx"))
    assert len(rendered(both)["results"]) == 2 * len(rendered(replace(both, targets=both.targets[:1]))["results"])
    assert sarif.render(both) == sarif.render(both)
