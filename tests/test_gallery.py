"""The gallery that README links to: complete, fresh, small, and the same on every machine."""

from __future__ import annotations

import re

import pytest

from gnelint.output.html import style
from tests.benchmarks.gallery import EXHIBITS, GALLERY, ROOT, Exhibit

REMEDY = "python -m tests.benchmarks.gallery --shot rewrites the gallery"


def test_the_index_leads_to_every_page() -> None:
    index = (GALLERY / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'href="([^"]+)"', index) == [f"{each.file}.html" for each in EXHIBITS], REMEDY
    assert {path.name for path in GALLERY.iterdir()} == {
        "index.html",
        "screenshot.png",
        *(f"{each.file}.html" for each in EXHIBITS),
    }


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda each: each.file)
def test_a_page(exhibit: Exhibit) -> None:
    path = GALLERY / f"{exhibit.file}.html"
    page = path.read_text(encoding="utf-8")
    assert style() in page, REMEDY
    assert path.stat().st_size < 500_000
    assert str(ROOT) not in page


def test_the_screenshot_is_small() -> None:
    assert (GALLERY / "screenshot.png").stat().st_size < 300_000
    assert "reports/gallery/screenshot.png" in (ROOT / "README.md").read_text(encoding="utf-8")
