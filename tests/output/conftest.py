"""The browser that the tests of pages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.output.browser import chromium, opened


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium on the path: Debian and Ubuntu have it as `apt-get install chromium`")
    with opened(path) as found:
        yield found
