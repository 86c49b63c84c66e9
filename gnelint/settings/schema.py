"""The JSON Schema of configuration files, which ships beside this module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def config_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of gnelint.toml and of `[tool.gnelint]`, for editors."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("config.schema.json").read_text(encoding="utf-8"))
    return found
