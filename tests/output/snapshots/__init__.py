"""Expected reports. To change them: UPDATE_SNAPSHOTS=1 python -m pytest tests/output, then read the diff."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent


def assert_matches(name: str, report: str) -> None:
    """Hold a report against the committed one of this name."""
    path = FOLDER / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(report)
    assert report == path.read_text(), f"{path} differs; UPDATE_SNAPSHOTS=1 rewrites it"
