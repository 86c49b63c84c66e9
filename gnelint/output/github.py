"""Annotations of GitHub Actions: workflow commands on standard output, which GitHub shows beside the code.

GitHub shows ten annotations of a level and step, and drops the others without a word. So findings that do not fit are
taken together: those of a place, else those of a target, else those of a rule; and the last annotation says what is
left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from gnelint.lint.severity import SEVERITIES
from gnelint.output.report import LONGEST, Checked, Report, relative, sentences
from gnelint.output.text import clipped, elide
from gnelint.records import dataclass
from gnelint.words import plural

LIMIT = 10
"""Annotations of a level that GitHub shows of a step (actions/toolkit, docs/problem-matchers.md)."""

_COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}
_Found = tuple[Checked, Mapping[str, Any]]
_Key = Callable[[Checked, Mapping[str, Any]], tuple[Any, ...]]


@dataclass(frozen=True)
class _Annotation:
    title: str
    lines: Sequence[str]
    properties: Mapping[str, str] = field(default_factory=dict)

    def command(self, name: str) -> str:
        properties = {**self.properties, "title": self.title}
        given = ",".join(f"{key}={_property(clipped(value, LONGEST))}" for key, value in properties.items())
        return f"::{name} {given}::{_data(chr(10).join(self.lines))}"


def render(report: Report) -> str:
    """An annotation for each group of findings and for what could not be checked, and a line that counts them."""
    lines = []
    for severity in SEVERITIES:
        unread = [
            _Annotation("gnelint", [clipped(each.reason, LONGEST)]) for each in report.unread if severity == "error"
        ]
        found = [(t, finding) for t in report.targets for finding in t.findings if finding["severity"] == severity]
        lines += [each.command(_COMMANDS[severity]) for each in _fitting(report, unread, found)]
    return "\n".join([*lines, _summary(report)]) + "\n"


def _fitting(report: Report, first: Sequence[_Annotation], found: Sequence[_Found]) -> list[_Annotation]:
    """The annotations of one severity, as finely as they fit."""
    made: list[_Annotation] = []
    for key in (_by_place, _by_target, _by_rule):
        groups: dict[tuple[Any, ...], list[_Found]] = {}
        for target, finding in found:
            groups.setdefault(key(target, finding), []).append((target, finding))
        made = [*first, *(_of_group(group, report) for group in groups.values())]
        if len(made) <= LIMIT:
            return made
    rest = made[LIMIT - 1 :]
    more = [f"{annotation.title}: {annotation.lines[0]}" for annotation in rest]
    return [
        *made[: LIMIT - 1],
        _Annotation(f"gnelint: {len(rest)} more", [elide(line, LONGEST // LIMIT) for line in more]),
    ]


def _by_place(target: Checked, finding: Mapping[str, Any]) -> tuple[Any, ...]:
    location = finding["location"]
    place = finding["nodes"] if location is None else (location["file"], location["line"])
    return (*_by_target(target, finding), *place)


def _by_target(target: Checked, finding: Mapping[str, Any]) -> tuple[Any, ...]:
    return target.entry["target"], finding["rule"]


def _by_rule(target: Checked, finding: Mapping[str, Any]) -> tuple[Any, ...]:
    return (finding["rule"],)


def _of_group(group: Sequence[_Found], report: Report) -> _Annotation:
    target = group[0][0]
    findings = [finding for _, finding in group]
    files = dict.fromkeys(each.entry["target"] for each, _ in group)
    place = f"{len(files)} targets, first {next(iter(files))}" if len(files) > 1 else next(iter(files))
    rule = findings[0]["rule"]
    lines = [
        *sentences(findings, target.entry["summary"]["trained"]),
        f"In {clipped(place, LONGEST)}. Why: gnelint rule {rule}",
    ]
    return _Annotation(report.title(rule), lines, _properties(target, findings, report.root))


def _properties(target: Checked, findings: Sequence[Mapping[str, Any]], root: Path) -> dict[str, str]:
    """File and line of the first finding in a source file; else the model's file, which has no lines."""
    location = next((finding["location"] for finding in findings if finding["location"] is not None), None)
    if location is None:
        return {"file": relative(target.file, root)} if target.file else {}
    line = {} if location["line"] is None else {"line": str(location["line"])}
    return {"file": relative(location["file"], root), **line}


def _summary(report: Report) -> str:
    counts = report.count()
    unread = f"; {plural(len(report.unread), 'target')} could not be checked" if report.unread else ""
    found = ", ".join(plural(counts[severity], severity) for severity in SEVERITIES)
    return f"gnelint: {found} in {plural(len(report.targets), 'target')}{unread}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
