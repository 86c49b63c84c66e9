"""JUnit XML, which every CI system shows as a table of tests: a suite for each target, a case for each rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from gnelint.lint.severity import reaches
from gnelint.output.report import LONGEST, Checked, Report, Unread, sentences
from gnelint.output.text import clipped, grouped, location_text

_SKIPPED = "judges untrained networks only"


def render(report: Report) -> str:
    """The run as JUnit XML. A rule fails where one of its findings is at or above the least severity that does."""
    suites = [*(_checked(target, report) for target in report.targets), *map(_unread, report.unread)]
    root = ElementTree.Element("testsuites", {"name": "gnelint", **_totals(suites)})
    root.extend(suites)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _checked(target: Checked, report: Report) -> ElementTree.Element:
    name = clipped(target.entry["target"], LONGEST)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for finding in target.findings:
        groups.setdefault(finding["rule"], []).append(finding)
    cases = []
    for rule in target.selected:
        case = ElementTree.Element("testcase", classname=name, name=report.title(rule))
        if rule in groups:
            _say(case, groups[rule], target)
        elif rule not in target.ran:
            ElementTree.SubElement(case, "skipped", message=_SKIPPED)
        cases.append(case)
    return _suite(name, cases)


def _say(case: ElementTree.Element, findings: Sequence[Mapping[str, Any]], target: Checked) -> None:
    """The findings of a rule, the ones that fail first; without any of those they are output of a passed case."""
    trained = target.entry["summary"]["trained"]
    groups = grouped(findings)
    worst = groups[0][0]["severity"]
    text = "\n".join(line for group in groups for line in _lines(group, trained))
    if reaches(worst, target.fail_on):
        message = next(sentences(groups[0], trained))
        ElementTree.SubElement(case, "failure", message=message, type=worst).text = text
    else:
        ElementTree.SubElement(case, "system-out").text = text


def _lines(group: Sequence[Mapping[str, Any]], trained: bool | None) -> Iterator[str]:
    for finding in group:
        place = finding["location"]
        at = "" if place is None else f" At {clipped(location_text(place), LONGEST)}."
        yield f"{finding['severity']}: {' '.join(sentences([finding], trained))}{at}"


def _unread(unread: Unread) -> ElementTree.Element:
    name = clipped(unread.target, LONGEST)
    case = ElementTree.Element("testcase", classname=name, name="can be checked")
    ElementTree.SubElement(case, "error", message=clipped(unread.reason, LONGEST), type="unreadable")
    return _suite(name, [case])


def _suite(name: str, cases: Sequence[ElementTree.Element]) -> ElementTree.Element:
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }
    suite = ElementTree.Element("testsuite", {"name": name, **{key: str(value) for key, value in counts.items()}})
    suite.extend(cases)
    return suite


def _totals(suites: Sequence[ElementTree.Element]) -> dict[str, str]:
    return {key: str(sum(int(suite.get(key, 0)) for suite in suites)) for key in ("tests", "failures", "errors")}
