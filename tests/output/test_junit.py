"""JUnit XML: what fails, what passes and what was skipped, whatever characters names hold."""

from __future__ import annotations

from xml.etree import ElementTree

from gnelint.lint.finding import Finding
from gnelint.lint.severity import Severity
from gnelint.output.junit import render
from gnelint.output.report import Report, Unread
from tests.builders import chain
from tests.output.reports import EVIL, SPEAKING, checked, hostile, report, saying, vanishing


def suites(of: Report) -> list[ElementTree.Element]:
    """The suites, whose counts are those of their cases."""
    root = ElementTree.fromstring(render(of))
    assert root.tag == "testsuites"
    for suite in root:
        assert int(suite.attrib["tests"]) == len(suite)
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[count]) == len(suite.findall(f"testcase/{tag}"))
    for count in ("tests", "failures", "errors"):
        assert int(root.attrib[count]) == sum(int(suite.attrib[count]) for suite in root)
    return list(root)


def case(suite: ElementTree.Element, rule: str) -> ElementTree.Element:
    (found,) = [each for each in suite if each.attrib["name"].startswith(rule)]
    return found


def test_a_case_for_each_rule() -> None:
    first, second = suites(report(checked(vanishing(), "a.onnx"), checked(chain(4, blocks=True), "b.onnx")))
    assert (first.attrib["name"], first.attrib["failures"], second.attrib["failures"]) == ("a.onnx", "2", "0")
    assert len(first) == len(second) == len(SPEAKING)
    found = case(first, "GNE101")
    assert (found.attrib["classname"], found.attrib["name"]) == ("a.onnx", "GNE101 gain-mismatch")
    failure = found.find("failure")
    assert failure is not None
    assert failure.attrib["type"] == "error"
    assert failure.attrib["message"].startswith("30 places: fc0-29: The weights")
    lines = (failure.text or "").splitlines()
    assert len(lines) == 30
    assert lines[3].startswith("error: fc3: The weights")
    assert lines[3].endswith("At model.py:13.")
    assert list(case(second, "GNE101")) == []


def test_the_least_severity_that_fails() -> None:
    severities: tuple[Severity, ...] = ("info", "warning", "error")
    findings = [Finding(rule, severity, "m") for rule, severity in zip(SPEAKING, severities, strict=False)]
    failures = {}
    for fail_on in ("error", "warning", "info", "never"):
        (suite,) = suites(report(saying(*findings, fail_on=fail_on)))
        failures[fail_on] = [each.attrib["name"][:6] for each in suite if each.find("failure") is not None]
        said = [each.attrib["name"][:6] for each in suite if each.find("system-out") is not None]
        assert sorted(failures[fail_on] + said) == sorted(SPEAKING[:3])
    assert failures == {"error": ["GNE202"], "warning": ["GNE102", "GNE202"], "info": [*SPEAKING[:3]], "never": []}


def test_rules_that_do_not_apply_are_skipped() -> None:
    (suite,) = suites(report(checked(chain(2), ran=("GNE401", "GNE901"))))
    assert suite.attrib["skipped"] == str(len(SPEAKING) - 2)
    assert case(suite, "GNE101").find("skipped") is not None
    assert list(case(suite, "GNE401")) == []


def test_what_could_not_be_checked_is_an_error() -> None:
    _, suite = suites(report(checked(chain(2)), unread=(Unread("b.onnx", "b.onnx: no such file."),)))
    assert (suite.attrib["name"], suite.attrib["errors"]) == ("b.onnx", "1")
    error = suite.find("testcase/error")
    assert error is not None
    assert error.attrib["message"] == "b.onnx: no such file."


def test_names_are_text() -> None:
    of = report(hostile(), unread=(Unread(EVIL, EVIL),))
    text = render(of)
    assert not any(char in text for char in "\033\r\x00\u202e")
    first, _ = suites(of)
    failure = case(first, "GNE101").find("failure")
    assert failure is not None
    assert "<script>alert(1)</script>" in failure.attrib["message"]
    assert "]]>" in (failure.text or "")
