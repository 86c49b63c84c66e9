"""Annotations fit GitHub's limit, lose nothing silently, and are one command a line whatever names hold."""

from __future__ import annotations

import re

import pytest

from gnelint.ir.graph import Location
from gnelint.lint.finding import Finding
from gnelint.lint.severity import Severity
from gnelint.output.github import LIMIT, render
from gnelint.output.report import Report, Unread
from tests.builders import chain
from tests.output.reports import EVIL, checked, hostile, report, saying, vanishing

COMMAND = re.compile(r"::(?P<level>error|warning|notice) (?P<properties>[^:]*)::(?P<data>.*)")


def decoded(text: str) -> str:
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, char)
    return text


def annotations(of: Report) -> list[dict[str, str]]:
    """The commands as the runner reads them: properties, level and message; behind them a line that is none."""
    *lines, summary = render(of).splitlines()
    assert summary.startswith("gnelint: ")
    found = []
    for line in lines:
        match = COMMAND.fullmatch(line)
        assert match is not None, line
        pairs = (part.split("=", 1) for part in match["properties"].split(","))
        properties = {key: decoded(value) for key, value in pairs}
        found.append({"level": match["level"], "message": decoded(match["data"]), **properties})
    for level in ("error", "warning", "notice"):
        assert sum(each["level"] == level for each in found) <= LIMIT
    return found


def summary(of: Report) -> str:
    return render(of).splitlines()[-1]


def finding(index: int, rule: str = "GNE101", severity: Severity = "error", line: int | None = None) -> Finding:
    location = None if line is None else Location("/work/net.py", line)
    return Finding(rule, severity, f"message {index}", (f"fc{index}",), location=location)


def test_few_findings_have_an_annotation_each() -> None:
    found = annotations(report(saying(finding(0, line=3), finding(1, line=4), finding(2))))
    assert [(each["file"], each.get("line"), each["title"]) for each in found] == [
        ("net.py", "3", "GNE101 gain-mismatch"),
        ("net.py", "4", "GNE101 gain-mismatch"),
        ("model.onnx", None, "GNE101 gain-mismatch"),
    ]
    assert found[0]["message"] == "fc0: message 0\nIn model.onnx. Why: gnelint rule GNE101"
    assert summary(report(saying(finding(0)))) == "gnelint: 1 error, 0 warnings, 0 infos in 1 target"


def test_findings_of_one_line_are_one_annotation() -> None:
    (found,) = annotations(report(saying(*(finding(index, line=3) for index in range(50)))))
    assert found["message"].startswith("50 places: fc0-49: message 0")


def test_many_places_become_one_annotation_for_each_rule() -> None:
    found = annotations(report(checked(vanishing())))
    assert [each["title"] for each in found] == ["GNE101 gain-mismatch", "GNE501 vanishing-gradient"]
    assert found[0]["message"].startswith("30 places: fc0-29: ")
    assert (
        "\nFix: scale the weights so that the layer keeps the norm (safe: this model is untrained)."
        in found[0]["message"]
    )
    assert (found[0]["file"], found[0]["line"]) == ("model.py", "10")


def test_many_targets_become_one_annotation_for_each_rule() -> None:
    found = annotations(report(*(checked(vanishing(), f"{index}.onnx") for index in range(12))))
    assert [each["title"] for each in found] == ["GNE101 gain-mismatch", "GNE501 vanishing-gradient"]
    assert "In 12 targets, first 0.onnx" in found[0]["message"]


def test_the_last_annotation_says_what_is_left() -> None:
    rules = [f"GNE1{index:02}" for index in range(1, 15)]
    found = annotations(report(saying(*(finding(index, rule) for index, rule in enumerate(rules)))))
    assert len(found) == LIMIT
    assert found[-1]["title"] == "gnelint: 5 more"
    assert len(found[-1]["message"].splitlines()) == 5


def test_levels_have_limits_of_their_own() -> None:
    severities: tuple[Severity, ...] = ("error", "warning", "info")
    found = annotations(report(saying(*(finding(i, f"GNE10{i}", severity=s) for i in range(9) for s in severities))))
    assert [each["level"] for each in found] == ["error"] * 9 + ["warning"] * 9 + ["notice"] * 9


def test_what_could_not_be_checked_is_an_error() -> None:
    of = report(checked(chain(2)), unread=(Unread("b.onnx", "b.onnx: no such file."),))
    assert annotations(of) == [{"level": "error", "message": "b.onnx: no such file.", "title": "gnelint"}]
    assert summary(of).endswith("in 1 target; 1 target could not be checked")
    many = report(unread=tuple(Unread(f"{index}.onnx", f"{index}.onnx: none.") for index in range(30)))
    assert annotations(many)[-1]["title"] == "gnelint: 21 more"


def test_names_are_no_commands() -> None:
    of = report(hostile(), unread=(Unread(EVIL, EVIL),))
    unread, found = annotations(of)
    assert r"\r\n::error::x | `a`" in unread["message"]
    assert r"\r\n::error::x | `a`" in found["file"]
    assert found["title"] == "GNE101 gain-mismatch"
    assert not any(char in render(of) for char in "\033\r\x00\u202e")
    assert "::" not in summary(of)


@pytest.mark.parametrize("long", ["n" * 100_000, "1.a" * 50_000, "\x00" * 100_000])
def test_names_of_any_length(long: str) -> None:
    findings = [Finding("GNE101", "error", long, (f"{long}{index}",)) for index in range(20)]
    (found,) = annotations(report(saying(*findings, name=long)))
    assert len(found["message"]) < 8000
