"""Configuration: `gnelint.toml`, or `[tool.gnelint]` in `pyproject.toml`. The command line wins over it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnelint.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FAIL_ON = ("error", "warning", "info", "never")
MODES = ("train", "eval")

_LISTS = ("select", "extend-select", "ignore", "rules")
_CHOICES: Mapping[str, tuple[str, ...]] = {"fail-on": FAIL_ON, "mode": MODES}
_KEYS = (*_LISTS, *_CHOICES, "params")


@dataclass(frozen=True)
class Config:
    """What a configuration file says; None and empty mean that it does not say.

    Attributes:
        select, extend_select, ignore: ids or prefixes of rules.
        rules: files and directories of more rules, relative ones taken from the configuration file's directory.
        fail_on, mode: as the options of the command line.
        params: values for the parameters of rules, by rule id.
        file: the file read, None if there is none.
    """

    select: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    rules: tuple[Path, ...] = ()
    fail_on: str | None = None
    mode: str | None = None
    params: Mapping[str, Mapping[str, float | str | bool]] = field(default_factory=dict)
    file: Path | None = None


def find_config(directory: Path) -> Config:
    """The configuration of the nearest directory, from this one upwards, that has one; an empty one if none has.

    Raises:
        UsageError: the file found cannot be read or is not valid.
    """
    for folder in (directory, *directory.parents):
        own = folder / "gnelint.toml"
        if own.is_file():
            return read_config(own)
        shared = folder / "pyproject.toml"
        if shared.is_file():
            table = _parse(shared).get("tool", {}).get("gnelint")
            if table is not None:
                return _config(table, shared, "tool.gnelint.")
    return Config()


def read_config(path: Path) -> Config:
    """The configuration in a file: the table `[tool.gnelint]` of a pyproject.toml, else the whole file.

    Raises:
        UsageError: the file cannot be read or is not valid.
    """
    data = _parse(path)
    if path.name == "pyproject.toml":
        return _config(data.get("tool", {}).get("gnelint", {}), path, "tool.gnelint.")
    return _config(data, path, "")


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", "Check the path given to --config.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(str(path), f"not valid TOML ({error})") from None


def _config(table: Any, path: Path, prefix: str) -> Config:
    if not isinstance(table, dict):
        raise UsageError(str(path), f"{prefix.rstrip('.')} must be a table")
    for key in table:
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            advice = f'Did you mean "{close[0]}"?' if close else f"Known keys: {', '.join(_KEYS)}."
            raise UsageError(str(path), f'unknown key "{prefix}{key}"', advice)
    lists = {key: _strings(table.get(key, []), path, prefix + key) for key in _LISTS}
    for key, choices in _CHOICES.items():
        if key in table and table[key] not in choices:
            raise UsageError(str(path), f"{prefix}{key} is {table[key]!r}", f"One of: {', '.join(choices)}.")
    return Config(
        select=lists["select"],
        extend_select=lists["extend-select"],
        ignore=lists["ignore"],
        rules=tuple(path.parent / entry for entry in lists["rules"]),
        fail_on=table.get("fail-on"),
        mode=table.get("mode"),
        params=_params(table.get("params", {}), path, prefix),
        file=path,
    )


def _strings(value: Any, path: Path, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise UsageError(str(path), f"{key} must be a list of texts", f'Write {key.rpartition(".")[2]} = ["GNE1"].')
    return tuple(value)


def _params(value: Any, path: Path, prefix: str) -> Mapping[str, Mapping[str, float | str | bool]]:
    scalar = (bool, int, float, str)
    if not isinstance(value, dict) or not all(
        isinstance(rule, dict) and all(isinstance(entry, scalar) for entry in rule.values()) for rule in value.values()
    ):
        raise UsageError(
            str(path), f"{prefix}params must hold one table a rule", "Write [params.GNE101], tolerance = 0.5 below it."
        )
    return value
