"""The JSON Schema of configurations says what the reader of configurations takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import gnelint
from gnelint.errors import UsageError
from gnelint.settings.config import _CHOICES, _KEYS, _OVERRIDE_KEYS, _SUPPRESS_KEYS, _parse, read_config
from gnelint.settings.template import TEMPLATE

SCHEMA: dict[str, Any] = gnelint.config_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
README = Path(__file__).parents[2] / "gnelint" / "settings" / "README.md"


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_keys_and_choices_are_those_that_are_read() -> None:
    assert set(SCHEMA["properties"]) == set(_KEYS)
    assert set(SCHEMA["properties"]["overrides"]["items"]["properties"]) == set(_OVERRIDE_KEYS)
    assert set(SCHEMA["properties"]["suppress"]["items"]["properties"]) == set(_SUPPRESS_KEYS)
    assert {name: tuple(SCHEMA["$defs"][name]["enum"]) for name in _CHOICES} == _CHOICES


def written() -> list[str]:
    """Configurations that hold: all of the template said, and those of the documentation, without their prefix."""
    lines = [line.removeprefix("# ") for line in TEMPLATE.splitlines()]
    said = [line for line in lines if line.startswith(("[", '"')) or line.partition(" = ")[1]]
    shown = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    return ["\n".join(said), *(each.replace("tool.gnelint.", "").replace("[tool.gnelint]\n", "") for each in shown)]


@pytest.mark.parametrize("text", [*written(), ""])
def test_what_is_read_is_valid(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gnelint.toml"
    path.write_text(text)
    read_config(path)
    VALIDATOR.validate(_parse(path))


@pytest.mark.parametrize(
    "text",
    [
        "selekt = []",
        "select = 5",
        'select = [""]',
        'fail-on = "fatal"',
        'preview = "yes"',
        "params = 3",
        "params.GNE101.layers = []",
        "overrides = 1",
        "[[overrides]]\nignore = []",
        "[[suppress]]\nreason = 'x'",
        "[per-target-ignores]\n'*.onnx' = 'GNE1'",
    ],
)
def test_what_is_refused_is_not(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gnelint.toml"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_config(path)
    assert not VALIDATOR.is_valid(_parse(path))
