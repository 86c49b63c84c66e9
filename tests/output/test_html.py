"""The HTML report without a browser: what is in the page, whatever the network is called and is like."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gnelint.lint.finding import Advice, Finding
from gnelint.lint.places import alike
from gnelint.measure.verify import Verification
from gnelint.output import verify_json
from gnelint.output.html import render
from gnelint.output.html.findings import markup
from gnelint.output.html.network import Network
from gnelint.output.html.words import bits_text, decimal, number, short
from gnelint.output.json import dumps
from gnelint.output.report import Earlier
from tests.builders import chain, graph, node, prediction
from tests.command import gnelint
from tests.output.pages import HOSTILE, report, residual, vanishing
from tests.output.test_verify_reports import verified
from tests.test_cli import one_line, write_mlp

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Checked(HTMLParser):
    """Every element is closed, ids are unique, links into the page lead somewhere, nothing is fetched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert {link[1:] for link in self.links if link.startswith("#")} <= set(self.ids)
        assert self.handlers == []
        assert not self.tags & {"img", "iframe", "link", "object", "embed", "base"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links |= {found["href"] or ""} if "href" in found else set()
        self.handlers += [name for name in found if name.startswith("on") or name in ("style", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def said(page: str) -> str:
    return " ".join(" ".join(Checked(page).text).split())


def test_the_first_screen() -> None:
    text = said(render(report(vanishing())))
    assert "The gradient vanishes" in text
    assert "A gradient of norm 1 at the output reaches the input with norm 8.9 × 10 −16" in text
    assert "Its square is divided by 4 at each of 50 blocks with weights, on average." in text
    assert "Block furthest from 1 ×0.25" in text
    assert "gnelint fix would mend 50 findings scale the weights so that the layer keeps the norm" in text
    assert "gnelint fix model0.onnx -o fixed.onnx" in text


def test_a_healthy_network() -> None:
    page = render(report(chain(12, blocks=True)))
    text = said(page)
    assert "The gradient survives" in text
    assert "change nothing" in text
    assert "No rule found anything." in text
    assert re.search(r"[0-9]+ rules passed", text)
    assert 'class="icon bad"' not in page


def test_the_same_report_gives_the_same_bytes() -> None:
    first = report(vanishing(), residual())
    assert render(first) == render(json.loads(dumps(report(vanishing(), residual()))))


def test_every_layer_has_its_numbers_and_their_basis() -> None:
    made = report(residual(3))
    page = render(made)
    rows = re.findall(r"<tr(?: class=\"off\")?><td>[0-9]+</td>.*?</tr>", page)
    assert len(rows) == len(made["targets"][0]["profile"]) == 16
    cells = re.findall(r"<td>(.*?)</td>", rows[0])
    assert cells[1:3] == ["linear", "4×8"]
    assert cells[-2:] == ["Gaussian", "exact"]


def test_long_runs_are_folded_and_open_to_nodes() -> None:
    page = render(report(residual(12)))
    assert "12 × residual" in page
    assert page.count('<details class="run">') == 1
    assert page.count('class="nodes"') == 13
    assert "layer3.fc1" in page


def test_runs() -> None:
    def periods(*kinds: str) -> list[tuple[int, int, int]]:
        nodes = [node(f"n{at}", kind, ["x" if at == 0 else f"n{at - 1}"]) for at, kind in enumerate(kinds)]
        made = report(replace(prediction(graph(nodes), {each.name: 1.0 for each in nodes}), blocks=()))
        return list(Network(made["targets"][0], "t", {}).runs)

    assert periods("relu", "relu", "relu", "relu", "tanh") == [(0, 4, 1), (4, 5, 1)]
    assert periods("relu", "tanh") * 2 == [(0, 1, 1), (1, 2, 1)] * 2
    assert periods("gelu", "relu", "tanh", "relu", "tanh", "gelu") == [(0, 1, 1), (1, 5, 2), (5, 6, 1)]
    assert [stop - start for start, stop, _ in periods(*["relu", "relu", "tanh"] * 2)] == [1] * 6


def test_a_network_too_large_to_be_drawn_node_by_node() -> None:
    page = render(report(residual(400), findings=()))
    assert 'class="nodes"' not in page
    assert "too large to be drawn node by node" in page
    assert page.count("<tbody") == 21


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_text(name: str) -> None:
    names = [f"{name}{at}" for at in range(3)]
    finding = Finding("GNE101", "error", f"message of {name}", (names[0],), name, fix=Advice("gain", "init", name))
    network = residual(3, names=names)
    network = replace(network, graph=replace(network.graph, name=name))
    made = report(network, findings=(finding,))
    made["targets"][0]["target"] = name
    made["targets"][0]["notes"] = [name]
    page = render(made)
    page.encode()
    text = "".join(Checked(page).text)
    assert page.count("<script>") == 1
    for control in "\u202e\u2066\x00\x1b\ud800":
        assert control not in page
    whole = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in names[0])
    assert whole in text
    assert len(page) < 250_000


def test_what_is_not_known_is_said() -> None:
    network = chain(3, blocks=True, unmodelled=["fc1"])
    blocks = tuple(replace(block, phi=None, basis="unmodelled") for block in network.blocks)
    nodes = tuple(replace(each, phi=None, gradient_log2=None, shape=None, second_moment=None) for each in network.nodes)
    page = render(report(replace(network, nodes=nodes, blocks=blocks, gradient_log2=None), findings=()))
    text = said(page)
    assert "What becomes of the gradient is not known" in text
    assert "33.3% of the nodes" not in text
    assert 'class="chip pu"' in page
    assert "None" not in text
    assert "nan" not in text.lower().split()


def test_no_gradient_at_all() -> None:
    network = chain(3, blocks=True)
    nodes = tuple(replace(each, gradient_log2=-math.inf) for each in network.nodes)
    page = render(report(replace(network, nodes=nodes, gradient_log2=-math.inf), findings=()))
    assert "No gradient arrives at the input" in page
    assert 'class="lost"' in page
    assert "−∞" in page


def test_a_network_without_anything() -> None:
    empty = prediction(graph([node("shape", "reshape", ["x"])]), {})
    page = render(report(replace(empty, nodes=(), blocks=(), gradient_log2=None), findings=()))
    assert "There is no layer on a gradient's path." in said(page)


def test_gradients_beyond_a_double() -> None:
    page = render(report(chain(1200, gain=0.5, blocks=True), findings=()))
    assert "2<sup>−1200</sup>" in page


def test_before_and_after() -> None:
    text = said(render(report(vanishing(), chain(50, blocks=True))))
    assert "2 networks" in text
    assert "Better: the gradient norms along the depth are more equal than they were" in text
    assert "GNE101 gain-mismatch" in text
    worse = said(render(report(vanishing()), [Earlier("old", report(chain(50, blocks=True)))]))
    assert "Worse: the gradient norms along the depth are less equal than they were" in worse
    assert 'class="earlier"' in render(report(vanishing()), [Earlier("old", report(chain(50, blocks=True)))])


def test_an_earlier_report_without_the_newer_keys() -> None:
    old = json.loads(dumps(report(chain(50, blocks=True))))
    for key in ("rules", "versions"):
        del old[key]
    for entry in old["targets"]:
        for key in ("notes", "inputs", "options", "rules_ran", "sha256"):
            del entry[key]
        for each in entry["profile"]:
            for key in ("family", "gradient_log2", "basis", "assumptions", "inputs", "weights"):
                del each[key]
    assert "Worse" in render(report(vanishing()), [Earlier("old", old)])
    assert "The gradient" in said(render(old))


def test_models_over_time() -> None:
    """Of several earlier reports each network of the last one is shown through all of them."""
    steps = [report(vanishing()), report(chain(50, blocks=True), vanishing()), report(vanishing())]
    for step in steps:
        for entry, name in zip(step["targets"], ("a.onnx", "b.onnx"), strict=False):
            entry["target"] = name
    page = render(steps[2], [Earlier("monday", steps[0]), Earlier("tuesday", steps[1])])
    table = page[page.index("Over time") : page.index("</section>", page.index("Over time"))]
    assert re.findall(r"<bdi>(.*?)</bdi>", table) == ["monday", "tuesday", "now", "a.onnx"]
    heights = [float(y) for y in re.findall(r'cy="(.*?)"', table)]
    assert heights[0] == heights[2] < heights[1]  # the smaller its spread the lower it stands
    assert table.count("1 error") == 2
    both = render(steps[1], [Earlier("monday", steps[0]), Earlier("wednesday", steps[2])])
    assert both.count("not in it") == 2
    assert "Over time" not in render(steps[1], [Earlier("monday", steps[0])])


def test_measured_points_lie_over_the_line() -> None:
    made = verify_json.document(Verification(verified(chain(30, blocks=True), doubled="fc7")))
    page = render(made)
    text = said(page)
    assert page.count('class="measured"') == 30 * 2 + 2
    assert "Measured by autograd" in text
    assert "29 of 30 blocks as predicted" in text
    assert "measured φ 2 (1.98 to 2.02), differs" in text
    assert "agrees" in text


def test_the_tolerance_is_the_one_that_was_chosen() -> None:
    made = report(chain(4, gain=0.125, blocks=True), findings=())
    assert "The gradient survives" in render(made)
    changed: dict[str, Any] = copy.deepcopy(made)
    changed["targets"][0]["options"] = {"params": {"GNE501": {"notice": 5}}}
    assert "The gradient shrinks on its way to the input" in render(changed)
    changed["rules"] = [rule for rule in made["rules"] if rule["id"] != "GNE501"]
    assert "predicted, but not judged" in render(changed)


def test_markdown_of_rules_is_no_way_in() -> None:
    shown = markup("## A\n<img src=x onerror=1> [x](javascript:alert(1)) ![](https://example.org/x.png) `a<b`")
    assert "<img" not in shown
    assert 'href="javascript' not in shown
    assert "<h5>A</h5>" in shown
    assert "<code>a&lt;b</code>" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (-0.0, "0"), (0.00012345, "1.23e−4"), (-5e-324, "−4.94e−324"), (1e300, "1e300"), (2.0, "2"),
     (1234567.0, "1.23e6"), (0.0005, "5e−4"), (1e-10, "1e−10"), (1e-100, "1e−100"), (None, "")],
)  # fmt: skip
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_words() -> None:
    assert [bits_text(bits) for bits in (-0.04, 0.0, -102.4, 9.96, None)] == ["0.0", "0.0", "−102", "10.0", "unknown"]
    assert str(decimal(-1.0)) == "0.5"
    assert str(decimal(-100.0)).replace("\xa0", " ") == "7.9 × 10<sup>−31</sup>"
    assert short("a" * 100, 11) == "aaaaa…aaaaa"
    assert alike(["by 2.1", "by 1.9", "to zero"]) == ["by 1.9 to 2.1", "to zero"]


# the command line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mlp(tmp_path / "bad.onnx", gain=0.5, depth=24, width=32)
    write_mlp(tmp_path / "good.onnx", depth=24, width=32)
    return tmp_path


def test_check_writes_the_page_and_what_is_compared(folder: Path) -> None:
    gnelint("check", "bad.onnx", "--format", "json", "-o", "old.json", cwd=folder)
    arguments = ("check", "good.onnx", "--html", "page.html", "--compare", "old.json", "--node-data", "nodes.json")
    result = gnelint(*arguments, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "Better:" in page
    entry = json.loads(gnelint("check", "good.onnx", "--format", "json", cwd=folder).stdout)["targets"][0]
    assert entry["sha256"] in page
    nodes = json.loads((folder / "nodes.json").read_text())
    phi = {each["output"]: each["phi"] for each in entry["profile"]}
    assert {name: round(2 ** value["value"], 2) for name, value in nodes["results"].items()} == {
        name: round(value, 2) for name, value in phi.items()
    }
    assert [each["value"] for each in nodes["thresholds"]] == sorted(each["value"] for each in nodes["thresholds"])
    gnelint("check", "good.onnx", "--html", "again.html", "--compare", "old.json", "--no-cache", cwd=folder)
    assert (folder / "again.html").read_text(encoding="utf-8") == page


def test_two_targets_stand_side_by_side(folder: Path) -> None:
    assert gnelint("check", "bad.onnx", "good.onnx", "-q", "--html", "page.html", cwd=folder).returncode == 1
    assert "more equal than they were" in (folder / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "old.json: is not JSON"),
        ("[" * 100_000, "old.json: is not JSON"),
        ("[]", "is no report of gnelint check"),
        ('{"schema": "gnelint/2", "targets": []}', "schema is not as it should be"),
        ('{"schema": "gnelint/1", "targets": [{"target": 3}]}', "targets.0"),
        (None, "old.json: cannot be read"),
    ],
)
def test_what_is_no_report(folder: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (folder / "old.json").write_text(text)
    result = gnelint("check", "good.onnx", "-q", "--html", "page.html", "--compare", "old.json", cwd=folder)
    assert result.returncode == 2
    one_line(result.stderr, problem)
    assert not (folder / "page.html").exists()


def test_options_that_make_no_sense(folder: Path) -> None:
    one_line(gnelint("check", "good.onnx", "-q", "--compare", "old.json", cwd=folder).stderr, "Add --html FILE, or")
    both = gnelint("check", "bad.onnx", "good.onnx", "-q", "--node-data", "n.json", cwd=folder)
    assert both.returncode == 2
    one_line(both.stderr, "is for a single ONNX file")
    nowhere = gnelint("check", "good.onnx", "-q", "--html", "missing/page.html", cwd=folder)
    assert nowhere.returncode == 2
    one_line(nowhere.stderr, "missing/page.html: cannot be written", "--html")
