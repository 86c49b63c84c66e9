"""SARIF 2.1.0 (OASIS), for code scanning and editors.

What GitHub's code scanning asks beyond the standard is kept to: every result has a physical location, and there are no
more results than are accepted. A finding in a model file has no region: a model has no lines, and for results without
lines GitHub takes the fingerprint that is given, where it hashes the line otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gnelint.lint.rulefile import Rule
from gnelint.lint.severity import SEVERITIES
from gnelint.output.explain import explanation, first_paragraph
from gnelint.output.report import LONGEST, Checked, Report, relative, sentences
from gnelint.output.text import clipped, elide
from gnelint.version import __version__

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_RESULTS = 25_000
"""GitHub refuses a file with more (docs.github.com, "SARIF results exceed limit")."""

_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_PROBLEMS = {"error": "error", "warning": "warning", "info": "recommendation"}
_DESCRIPTION = 1024
"""Characters that GitHub keeps of a description."""
_NODES = 100
_NAME = 1000
_ROOT = "%SRCROOT%"
_FAILED = 2


def render(report: Report) -> str:
    """The run as a SARIF log of one run."""
    ran = {rule for target in report.targets for rule in target.ran}
    rules = [rule for rule in report.rules if rule.id in ran]
    index = {rule.id: place for place, rule in enumerate(rules)}
    found = [(target, finding) for target in report.targets for finding in target.findings]
    if len(found) > MAX_RESULTS:
        found.sort(key=lambda each: SEVERITIES.index(each[1]["severity"]))
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "gnelint", "version": __version__, "rules": [_rule(rule) for rule in rules]}
                },
                "invocations": [_invocation(report, left_out=max(len(found) - MAX_RESULTS, 0))],
                "columnKind": "unicodeCodePoints",
                "results": [_result(*each, index, report.root) for each in found[:MAX_RESULTS]],
            }
        ],
    }
    return json.dumps(log, indent=1, allow_nan=False) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    severities = [severity for _, severity in rule.program.severities]
    worst = min(severities, key=SEVERITIES.index)
    text = explanation(rule)
    return {
        "id": rule.id,
        "name": rule.name,
        "shortDescription": {"text": elide(rule.summary, _DESCRIPTION)},
        "fullDescription": {"text": elide(first_paragraph(rule), _DESCRIPTION)},
        "help": {"text": text, "markdown": text},
        "defaultConfiguration": {"level": _LEVELS[worst]},
        "properties": {
            "tags": [rule.group, *(["preview"] if rule.status == "preview" else [])],
            "problem.severity": _PROBLEMS[worst],
        },
    }


def _invocation(report: Report, left_out: int) -> dict[str, Any]:
    said = [_notification("error", unread.reason) for unread in report.unread]
    if left_out:
        said.append(_notification("warning", f"{left_out} more findings, the least severe, are left out."))
    for target in report.targets:
        said += [_notification("note", note, _artifact(target, report.root)) for note in target.notes]
    return {
        "executionSuccessful": report.exit_code != _FAILED,
        "exitCode": report.exit_code,
        "toolExecutionNotifications": said,
    }


def _notification(level: str, text: str, location: Mapping[str, Any] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"level": level, "message": {"text": _message(clipped(text, LONGEST))}}
    return made if location is None else {**made, "locations": [{"physicalLocation": location}]}


def _result(target: Checked, finding: Mapping[str, Any], index: Mapping[str, int], root: Path) -> dict[str, Any]:
    artifact, source = _artifact(target, root), _source(finding["location"], root)
    marks = {"gnelint/v1": finding["fingerprint"]}
    if source is None:
        marks["primaryLocationLineHash"] = finding["fingerprint"]
    location: dict[str, Any] = {"logicalLocations": _logical(finding)}
    if source or artifact:
        location["physicalLocation"] = source or artifact
    made: dict[str, Any] = {
        "ruleId": finding["rule"],
        "ruleIndex": index[finding["rule"]],
        "level": _LEVELS[finding["severity"]],
        "message": {"text": _message("\n".join(sentences([finding], target.entry["summary"]["trained"])))},
        "locations": [location],
        "partialFingerprints": marks,
        "properties": {key: finding[key] for key in ("block", "measured", "expected", "fix")},
    }
    if source and artifact and source["artifactLocation"] != artifact["artifactLocation"]:
        made["analysisTarget"] = artifact["artifactLocation"]
    return made


def _logical(finding: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The nodes; for the whole network, the network."""
    nodes = [{"fullyQualifiedName": clipped(name, _NAME), "kind": "node"} for name in finding["nodes"][:_NODES]]
    return nodes or [{"name": "whole network", "kind": "network"}]


def _source(location: Mapping[str, Any] | None, root: Path) -> dict[str, Any] | None:
    if location is None:
        return None
    line = location["line"]
    region = {} if line is None else {"region": {"startLine": max(line, 1)}}
    return {"artifactLocation": _uri(location["file"], root), **region}


def _artifact(target: Checked, root: Path) -> dict[str, Any] | None:
    return {"artifactLocation": _uri(target.file, root)} if target.file else None


def _uri(file: str, root: Path) -> dict[str, str]:
    place = relative(file, root)
    drive = re.match("[A-Za-z]:/", place)
    if drive or place.startswith("/"):
        return {"uri": f"file://{'/' if drive else ''}{quote(place, safe='/:', errors='surrogateescape')}"}
    return {"uri": quote(place, errors="surrogateescape"), "uriBaseId": _ROOT}


def _message(text: str) -> str:
    """Text that has no links and no placeholders, whatever the names in it look like (SARIF 3.11.5 and 3.11.6)."""
    return re.sub(r"\{(\d+)\}", r"{{\1}}", re.sub(r"(?<!\\)\[(?=[^\]]*\]\()", r"\\[", text))
