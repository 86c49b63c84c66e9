"""Markdown for a comment: the verdict first, no name is markup, and it fits."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from gnelint.lint.finding import Finding
from gnelint.lint.places import visible
from gnelint.output.json import document
from gnelint.output.markdown import LIMIT, render
from gnelint.output.report import Earlier, Unread
from gnelint.output.since import changes
from tests.builders import chain
from tests.output.reports import EVIL, checked, hostile, report, saying, vanishing
from tests.output.snapshots import assert_matches


def test_a_comment() -> None:
    bad, good = checked(vanishing(50), "models/bad.onnx", notes=("A note.",)), checked(chain(4, blocks=True), "ok.onnx")
    assert_matches("comment.md", render(report(bad, good, unread=(Unread("b.onnx", "b.onnx: no such file."),))))


def test_a_clean_run() -> None:
    assert render(report(checked(chain(4, blocks=True)))) == "### gnelint: no findings\n\n1 target checked.\n"


@pytest.mark.parametrize(("fail_on", "said"), [("error", "1 target of 1 fails."), ("never", "No target fails.")])
def test_the_verdict_is_that_of_the_exit_code(fail_on: str, said: str) -> None:
    assert said in render(report(checked(vanishing(), fail_on=fail_on)))


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def test_names_are_no_markup() -> None:
    text = render(report(hostile(), unread=(Unread(EVIL, EVIL),)))
    assert not any(char in text for char in "\033\r\x00\u202e")
    assert "\u2603" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(cells(row)) for row in rows] == [5] * 3
    fenced = re.compile(r"^~~~text\n.*?^~~~\n", re.MULTILINE | re.DOTALL)
    free = fenced.sub("", text)
    assert len(fenced.findall(text)) == 1
    assert re.findall(r"<[^>]*>", free) == ["<details>", "<summary>", "</summary>", "</details>"]
    assert re.findall(r"(?<!\\)[`*_\[\]~$]", free) == []
    for live in ("@octocat", "#1 ", "http://", "www.", "&amp;\n"):
        assert live not in free
    read = html.unescape(re.sub(r"\\([\\`*_{}\[\]|~])", r"\1", free)).replace("\u200b", "")
    assert read.count(visible(EVIL)) == 5


@pytest.mark.parametrize("count", [1, 40, 400])
def test_it_fits_into_a_comment(count: int) -> None:
    long = "|" * 2000
    targets = [
        saying(*(Finding(f"GNE{i}", "error", long, (long,)) for i in range(101, 140)), name=f"{index}.onnx")
        for index in range(count)
    ]
    unread = tuple(Unread("x", long) for _ in range(count))
    text = render(report(*targets, unread=unread))
    assert len(text) <= LIMIT
    shown = len(re.findall(r"^#### ", text, re.MULTILINE))
    left_out = re.search(r"no room here for (\d+) more", text)
    assert shown + (int(left_out[1]) if left_out else 0) == count


def test_targets_without_findings_are_folded() -> None:
    good = [checked(chain(2), f"models/{index}.onnx") for index in range(500)]
    text = render(report(*good, checked(vanishing(), "bad.onnx")))
    assert "Without findings: models/0-499.onnx." in text


def test_what_has_changed_since_an_earlier_report() -> None:
    before = [checked(chain(50, blocks=True), "same.onnx"), checked(chain(50, blocks=True), "worse.onnx")]
    before += [checked(vanishing(50), "better.onnx")]
    old = (Earlier("old", document([each.entry for each in before])),)
    after = report(
        checked(chain(50, blocks=True), "same.onnx"),
        checked(vanishing(50), "worse.onnx"),
        checked(chain(50, blocks=True), "better.onnx"),
        checked(vanishing(50), "new.onnx"),
    )
    text = render(replace(after, earlier=old))
    rows = [cells(line) for line in text.splitlines() if "→" in line or "(new)" in line]
    assert [row[0] for row in rows] == ["worse.onnx", "better.onnx", "new.onnx (new)"]
    assert rows[0][1:] == ["2^0.0 → 2^-100", rows[2][2], ""]
    assert rows[1][1:] == ["2^-100 → 2^0.0", "", rows[2][2]]
    assert rows[2][1] == "2^-100"
    assert "50 × GNE101" in rows[0][2]
    unchanged = replace(report(before[0]), earlier=old)
    assert "Nothing has changed since the earlier report." in render(unchanged)


def test_findings_alike_are_counted() -> None:
    one, two = ({"target": "a", "summary": {}, "findings": [{"rule": "R", "severity": "info"}] * n} for n in (1, 2))
    (change,) = changes({"targets": [one]}, [two])
    assert (len(change.new), len(change.gone), change.before) == (1, 0, None)
