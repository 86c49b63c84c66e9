"""The report in a notebook: whole HTML, no script, colour or address of its own, and names are text."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

from gnelint.lint.places import visible
from gnelint.output.notebook import render
from tests.builders import chain
from tests.output.reports import EVIL, RULES, Checked, checked, hostile, vanishing

NAMES = {rule.id: rule.name for rule in RULES.rules}
ALLOWED = {"div", "p", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre",
           "ul", "li", "svg", "line", "polyline", "small"}  # fmt: skip
"""Nothing that loads, runs, or styles anything else."""


TEXT = {"style", "class", "scope"}
DRAWING = {"role", "aria-label", "viewbox", "width", "height", "x1", "x2", "y1", "y2", "points", "fill", "stroke",
           "stroke-opacity", "stroke-width"}  # fmt: skip


class Reader(HTMLParser):
    """Tags in order, each closed by the one that it opened; the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        assert {name for name, _ in attrs} <= (DRAWING if tag in ("svg", "line", "polyline") else TEXT)
        assert all("url" not in (value or "") for _, value in attrs)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def read(of: Checked, notes: tuple[str, ...] = ()) -> Reader:
    return Reader(render(of.entry, NAMES, notes))


def test_a_network() -> None:
    found = read(checked(vanishing(50)), ("A note.",))
    assert (
        "model.onnx: The gradient vanishes: its squared norm at the input is 2^-100 of that at the output."
        in found.text
    )
    assert "51 errors, 0 warnings" in found.text
    head, first, second = found.rows
    assert head == ["severity", "rule", "where", "what", "fix"]
    assert first[:3] == ["error", "GNE101 gain-mismatch", "50 places: fc0-49"]
    assert first[4] == "scale the weights so that the layer keeps the norm (safe: this model is untrained)"
    assert (second[1], second[4]) == ("GNE501 vanishing-gradient", "")
    assert "46 more like these" in found.text
    assert "A note." in found.text


def test_no_findings_and_nothing_known() -> None:
    assert "No findings." in read(checked(chain(4, blocks=True))).text
    empty = dataclasses.replace(chain(1), nodes=(), blocks=(), gradient_log2=None)
    assert "not known" in read(checked(empty)).text


def test_it_has_no_colours_of_its_own() -> None:
    styles = ";".join(re.findall('style="(.*?)"', render(checked(vanishing()).entry, NAMES, ())))
    colours = {part for part in styles.split(";") if re.search("color|background|#|rgb", part)}
    # the lines of the table are seen on white and on black
    assert colours == {"border-bottom:1px solid rgba(128,128,128,0.4)", "background:none", "color:inherit"}


def test_names_are_text() -> None:
    of = hostile()
    found = read(of, (EVIL,))
    assert visible(EVIL) in found.text
    assert found.rows[1][3] == f"of {visible(EVIL)}"
    assert not any(char in found.text for char in "\033\r\x00\u202e")
    long = {**of.entry, "target": "n" * 100_000}
    assert len(render(long, NAMES, ("n" * 100_000,))) < 10_000


def test_the_chart_goes_from_the_input_to_the_output() -> None:
    made = render(checked(vanishing(50)).entry, NAMES, ())
    assert 'aria-label="Squared gradient norm over depth: 2^-100 at the input, 2^0.0 at the output"' in made
    points = [tuple(map(float, each.split(","))) for each in re.findall(r'points="([^"]*)"', made)[0].split()]
    assert (points[0][0], points[-1][0]) == (0.0, 640.0)
    heights = [y for _, y in points]
    assert heights == sorted(heights, reverse=True)
    assert 0 <= heights[-1] < heights[0] <= 110
