"""How long the HTML report takes to be written and to be laid out, and how large it is.

    python -m tests.benchmarks.html_speed

Three pages: a ResNet-152, a transformer of 24 layers, and a graph of 5,000 nodes made by hand (that of lint_speed.py).
Writing is timed from the finished JSON report, in processor time, the best of five. In a headless Chromium each page is
opened, scrolled through from end to end, and its table sorted; the longest single layout and style pass of all is
read from the browser's own trace, in processor time.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

import gnelint
from gnelint.lint.engine import lint
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.output import html
from gnelint.output.entry import target
from gnelint.output.json import document
from tests.benchmarks import lint_speed
from tests.models import Case
from tests.models.resnet import Bottleneck, ResNet
from tests.models.transformer import gpt2
from tests.output.browser import chromium, opened

REPORTS = Path(__file__).resolve().parents[2] / "reports" / "benchmarks"
REPEATS = 5


@dataclass(frozen=True)
class Timing:
    """One page: layers, bytes, seconds to write it, and milliseconds of the browser's longest passes."""

    name: str
    layers: int
    size: int
    seconds: float
    layout_ms: float | None = None
    style_ms: float | None = None
    sort_ms: float | None = None


def reports() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The JSON report of each network."""
    rules = load_rules().rules
    cases = (
        Case("ResNet-152", lambda: ResNet(Bottleneck, (3, 8, 36, 3), classes=100), (2, 3, 64, 64)),
        Case("GPT-2, 24 layers", lambda: gpt2(depth=24), (2, 64), vocabulary=512),
    )
    for case in cases:
        checked = gnelint.check(case.module(), case.example_inputs())
        yield case.name, document([checked.to_dict()], rules)
    prediction = lint_speed.network(5000)
    yield "5,000 nodes", document([target(prediction, lint(prediction, rules, Settings()).findings)], rules)


def measured(name: str, report: Mapping[str, Any], browser: Browser | None) -> Timing:
    """The timings of one page."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        page = html.render(report)
        seconds.append(time.process_time() - start)
    written = Timing(name, len(report["targets"][0]["profile"]), len(page.encode()), round(min(seconds), 3))
    return written if browser is None else Timing(**{**asdict(written), **_in_browser(page, browser)})


def _in_browser(text: str, browser: Browser) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(text, encoding="utf-8")
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        browser.start_tracing(page=page, categories=["devtools.timeline"])
        page.goto(file.as_uri())
        page.evaluate(
            """async () => {
              const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
              const all = [document.scrollingElement, ...document.querySelectorAll(".scroll.layers")];
              for (const part of all) {
                for (let at = 0; at < part.scrollHeight; at += 400) { part.scrollTop = at; await frame(); }
              }
            }"""
        )
        sort = page.evaluate(
            """async () => {
              const start = performance.now();
              document.querySelectorAll("table.layers thead button")[4].click();
              await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
              return performance.now() - start;
            }"""
        )
        trace = json.loads(browser.stop_tracing())
        page.close()
    return {
        "layout_ms": _longest(trace, "Layout"),
        "style_ms": _longest(trace, "UpdateLayoutTree"),
        "sort_ms": round(sort, 1),
    }


def _longest(trace: Mapping[str, Any], name: str) -> float:
    found = (event.get("tdur", 0) for event in trace["traceEvents"] if event.get("name") == name)
    return round(max(found, default=0) / 1000, 1)


def main() -> None:
    """Measure, print and write the report."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    path = chromium()
    if path is None:
        found = [measured(name, report, None) for name, report in reports()]
    else:
        with opened(path) as browser:
            found = [measured(name, report, browser) for name, report in reports()]
    print(f"{'page':<18} {'layers':>6} {'kB':>6} {'written s':>9} {'layout ms':>9} {'style ms':>8} {'sort ms':>7}")
    for it in found:
        shown = ["?" if value is None else f"{value:.0f}" for value in (it.layout_ms, it.style_ms, it.sort_ms)]
        print(
            f"{it.name:<18} {it.layers:>6} {it.size / 1000:>6.0f} {it.seconds:>9.2f} "
            f"{shown[0]:>9} {shown[1]:>8} {shown[2]:>7}"
        )
    record = {"machine": platform.machine(), "python": platform.python_version(), "pages": [asdict(it) for it in found]}
    (REPORTS / "html_speed.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
