"""The HTML report in a headless Chromium, at both widths and in both themes; skipped where there is none."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, Page

from gnelint.lint.finding import Finding
from gnelint.measure.verify import Verification
from gnelint.output import verify_json
from gnelint.output.html import render
from tests.builders import chain
from tests.output.pages import HOSTILE, report, residual, vanishing
from tests.output.test_verify_reports import verified

SCREENS = [(width, theme) for width in (1280, 390) for theme in ("light", "dark")]
HEIGHT = 900


def _measured() -> dict[str, Any]:
    pair = Verification(verified(chain(30, gain=0.25, blocks=True)), verified(chain(30, blocks=True), doubled="fc7"))
    return verify_json.document(pair)


CODE = 'def init_weights(model):\n    """<b>It is</b> </script> text."""\n'


def _with_code() -> dict[str, Any]:
    made = report(vanishing())
    made["targets"][0]["init_code"] = CODE
    return made


def _pictured() -> dict[str, Any]:
    finding = Finding("GNE101", "error", "too small", ("fc0",))
    made = report(vanishing(), findings=[finding])
    (weight,) = made["targets"][0]["profile"][0]["weights"]
    weight["histogram"] = {"low": -0.4, "high": 0.4, "counts": [1, 5, 4, 2]}
    weight["std"] = 0.125
    return made


REPORTS = {
    "vanishing": lambda: report(vanishing()),
    "residual": lambda: report(residual()),
    "hostile": lambda: report(residual(6, names=HOSTILE)),
    "measured": _measured,
    "many": lambda: report(vanishing(), residual(2), residual(3)),
    "with code": _with_code,
    "pictured": _pictured,
}


@functools.cache
def written(name: str) -> str:
    return render(REPORTS[name]())


@contextlib.contextmanager
def shown(
    browser: Browser, folder: Path, name: str, *, width: int = 1280, theme: str = "light", scripts: bool = True
) -> Iterator[Page]:
    """The page, opened; at the end nothing was fetched, and the console is empty."""
    file = folder / f"{name}.html"
    file.write_text(written(name), encoding="utf-8")
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT}, color_scheme=theme, java_script_enabled=scripts
    )
    context.set_default_timeout(10_000)
    page = context.new_page()
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append("dialog"))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    yield page
    assert problems == []
    assert [url for url in requests if url != file.as_uri()] == []
    context.close()


def too_wide(page: Page) -> int:
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


@pytest.mark.parametrize("name", ["vanishing", "residual", "hostile", "measured", "many"])
@pytest.mark.parametrize(("width", "theme"), SCREENS)
def test_it_fits_the_screen(browser: Browser, tmp_path: Path, name: str, width: int, theme: str) -> None:
    with shown(browser, tmp_path, name, width=width, theme=theme) as page:
        assert too_wide(page) == 0
        unfold(page)
        assert too_wide(page) == 0
        assert page.locator("h1").bounding_box()["y"] < HEIGHT / 2


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser: Browser, tmp_path: Path, theme: str) -> None:
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for large text."""
    with shown(browser, tmp_path, "measured", theme=theme) as page:
        unfold(page)
        faint = page.evaluate(CONTRAST)
        assert faint == []


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const parts = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => parts(colour).slice(0, 3).map((part) => {
    const value = part / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  }).reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (parts(colour)[3] > 250) return colour;
    }
    return "white";
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("title, script, [hidden]")) continue;
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700);
    if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) {
      faint.add(`${element.tagName} ${element.getAttribute("class")}: ${element.textContent.slice(0, 20)}`);
    }
  }
  return [...faint];
}"""


def names(page: Page) -> list[str]:
    found: list[str] = page.locator("table.layers tbody tr th a").all_inner_texts()
    return found


def test_sorting(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "vanishing") as page:
        first = names(page)
        assert len(first) == 100
        heading = page.get_by_role("button", name="gradient", exact=True)
        numbers = (
            "[...document.querySelectorAll('table.layers tbody tr')]"
            ".map((row) => parseFloat(row.cells[6].textContent.replace('−', '-')))"
        )
        heading.click()
        assert page.locator('th[aria-sort="ascending"]').inner_text().strip().startswith("gradient")
        rising = page.evaluate(numbers)
        assert rising == sorted(rising)
        assert min(rising) < -95
        heading.click()
        falling = page.evaluate(numbers)
        assert falling == sorted(falling, reverse=True)
        page.get_by_role("button", name="w std").press("Enter")  # by keyboard; layers without weights come last
        cells = page.locator("table.layers tbody tr td:nth-child(11)").all_inner_texts()
        assert cells == [*(cell for cell in cells if cell), *[""] * 50]
        page.get_by_role("button", name="#").click()
        assert names(page) == first


def test_filtering(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "residual") as page:
        assert page.locator("form.filter output").inner_text() == "61 layers"
        page.get_by_label("Name").fill("LAYER3.")
        assert names(page) == ["layer3.norm", "layer3.fc1", "layer3.act", "layer3.fc2", "layer3.add"]
        page.get_by_label("Operation").select_option("linear")
        assert names(page) == ["layer3.fc1", "layer3.fc2"]
        assert page.locator("form.filter output").inner_text() == "2 of 61 layers"
        page.get_by_label("only what changes the gradient").check()
        assert names(page) == []
        page.get_by_label("Name").fill("")
        page.get_by_label("Operation").select_option("")
        page.get_by_label("only what changes the gradient").uncheck()
        assert len(names(page)) == 61


def test_folding_and_going_to_a_block(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "residual") as page:
        block = page.locator("#t0b5")
        assert not block.is_visible()
        page.get_by_text("12 × residual").click()
        assert block.is_visible()
        page.get_by_text("12 × residual").click()
        assert not block.is_visible()
        page.locator('.hits a[href="#t0b5"]').click()
        block.locator("svg.nodes").wait_for()
        assert block.locator("svg.nodes").get_by_text("fc1", exact=True).is_visible()


def test_pointing_at_the_chart(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "vanishing") as page:
        tip = page.locator("#tip")
        assert not tip.is_visible()
        page.locator('.hits a[href="#t0b24"]').hover()
        assert "25. ⁨fc24 .. act24⁩" in tip.inner_text()
        assert "φ 0.25" in tip.inner_text()
        page.locator(".brand").hover()
        assert not tip.is_visible()


def test_the_chart_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "vanishing") as page:
        tip = page.locator("#tip")
        page.locator(".hits a").first.focus()
        for key, name in (("ArrowRight", "2. "), ("End", "50. "), ("ArrowLeft", "49. "), ("Home", "1. ")):
            page.keyboard.press(key)
            assert tip.inner_text().startswith(name)
        assert page.locator(".hits a:not([tabindex])").count() == 1
        page.keyboard.press("Escape")
        assert not tip.is_visible()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        page.locator("#t0b49[open]").wait_for()


def test_what_a_screen_reader_is_told(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "vanishing") as page:
        figure = page.get_by_role("figure")
        assert figure.get_attribute("aria-label").startswith("Squared gradient norm over 50 blocks")
        session = page.context.new_cdp_session(page)
        roles = [each.get("role", {}).get("value") for each in session.send("Accessibility.getFullAXTree")["nodes"]]
        assert roles.count("columnheader") >= 15
        assert roles.count("row") > 20
        assert {"main", "banner", "contentinfo", "navigation", "search", "table"} <= set(roles)
        unnamed = page.evaluate(
            "[...document.querySelectorAll('a, button, input, select, summary, [role=img], [role=region]')]"
            ".filter((each) => !(each.textContent.trim() || each.ariaLabel || each.labels?.length)).length"
        )
        assert unnamed == 0


def test_the_code_is_copied_or_marked(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "with code") as page:
        page.get_by_text("The fix as code").click()
        page.get_by_role("button", name="Copy").click()
        page.get_by_role("button", name=re.compile("Copied|Marked")).wait_for()
        assert page.evaluate("getSelection().toString()") == CODE.rstrip()
        assert page.locator(".code script, .code b").count() == 0


def test_the_chart_is_saved_as_a_drawing_of_its_own(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "residual") as page:
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as SVG").click()
        assert download.value.suggested_filename == "model0.onnx.svg"
        text = Path(download.value.path()).read_text(encoding="utf-8")
    drawing = ElementTree.fromstring(text)
    svg = "{http://www.w3.org/2000/svg}"
    assert drawing.tag == f"{svg}svg"
    shown_texts = ["".join(each.itertext()) for each in drawing.iter(f"{svg}text")]
    assert {"squared gradient norm, log2 (output = 0)", "input", "output"} <= set(shown_texts)
    known = {mark.get("id") for marks in drawing.iter(f"{svg}defs") for mark in marks}
    assert {each.get("href", "#")[1:] for each in drawing.iter(f"{svg}use")} <= known
    assert "var(" not in text
    assert all(line.get("stroke") != "none" for line in drawing.iter(f"{svg}path") if line.get("class") == "line")


def test_the_weights_of_a_finding_are_pictured(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "pictured") as page:
        page.get_by_text("The weight", exact=True).click()
        figure = page.get_by_role("figure", name="Histogram of fc0.weight from −0.4 to 0.4, standard deviation 0.125")
        assert figure.is_visible()
        assert figure.locator("rect").count() == 4


def test_of_many_networks_the_findings_are_in_sight(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "many", width=390) as page:
        heading = page.locator("table.list thead th", has_text="findings").bounding_box()
        assert heading["x"] + heading["width"] <= 390
        cells = page.locator("table.list tbody td:nth-child(2)").all_inner_texts()
        assert cells == ["51", "0", "0"]


def test_without_javascript(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "residual", scripts=False) as page:
        assert page.locator("table.layers tbody tr").count() == 61
        assert page.locator("form.filter").is_hidden()
        assert page.locator(".chart .plots .measured, .chart .plots .p4").first.is_visible()
        page.get_by_text("12 × residual").click()
        assert page.locator("#t0b5").is_visible()


def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "hostile") as page:
        unfold(page)
        assert page.title() == "model0.onnx · gnelint"
        assert page.locator("table.layers script, table.layers img").count() == 0
        shown_names = page.locator("table.layers tbody").inner_text()
        assert HOSTILE[0] in shown_names
        assert "\\u202eright to left" in shown_names
        assert HOSTILE[4] in shown_names
        assert HOSTILE[5] in shown_names


def test_print(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, tmp_path, "vanishing") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.locator(".top").is_hidden()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("table.layers tbody tr").last.is_visible()
        region = page.locator(".scroll.layers")
        assert region.evaluate("(each) => each.scrollHeight - each.clientHeight") <= 1
