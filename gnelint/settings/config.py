"""Configuration: `gnelint.toml`, or `[tool.gnelint]` in `pyproject.toml`. The command line wins over it.

As with ruff, the file nearest to a target, in its directory or one above it, is the target's configuration, else the
one nearest to the working directory; files are not merged, and paths and globs in one are taken from where it is.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gnelint.errors import UsageError
from gnelint.files import read_text
from gnelint.lint.losses import LOSSES
from gnelint.lint.severity import FAIL_ON
from gnelint.records import dataclass
from gnelint.words import close

MAX_CONFIG = 1 << 20
"""Bytes of the largest configuration."""
MAX_NUMBER = 1e300

MODES = ("train", "eval")
STAGES = ("auto", "init", "trained")

Params = Mapping[str, Mapping[str, float | str | bool]]

_SELECTORS = ("select", "extend-select", "ignore")
_CHOICES: Mapping[str, tuple[str, ...]] = {"fail-on": FAIL_ON, "mode": MODES, "stage": STAGES, "loss": LOSSES}
_PATHS = ("baseline", "cache-dir")
_KEYS = (
    *_SELECTORS, "rules", "preview", *_CHOICES, *_PATHS, "params", "per-target-ignores", "overrides", "suppress",
)  # fmt: skip
_OVERRIDE_KEYS = ("targets", *_SELECTORS, *_CHOICES, "params")
_SUPPRESS_KEYS = ("rules", "nodes", "targets", "reason")


@dataclass(frozen=True)
class Choices:
    """What may be said of all targets of a file and again of some; None and empty mean that it is not said.

    Attributes:
        select, extend_select, ignore: ids or prefixes of rules.
        fail_on, mode, stage, loss: as the options of the command line.
        params: values for the parameters of rules, by rule id.
    """

    select: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: str | None = None
    mode: str | None = None
    stage: str | None = None
    loss: str | None = None
    params: Params = field(default_factory=dict)


@dataclass(frozen=True)
class Override(Choices):
    """What holds for some targets: `extend_select`, `ignore` and `params` add to what the file says, the rest replaces.

    Attributes:
        targets: globs.
        never: ids or prefixes of rules that do not run there, whatever selects them (`per-target-ignores`).
    """

    targets: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accepted:
    """Findings that are accepted: of these rules, at these nodes of these targets (globs; none: everywhere)."""

    rules: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Config(Choices):
    """What a configuration file says.

    Attributes:
        rules: files and directories of more rules.
        preview: whether rules run that are not yet stable.
        baseline, cache_dir: where they are.
        overrides: what else holds for some targets; later ones win.
        suppress: findings that are accepted.
        file: the file read, None if there is none.
    """

    rules: tuple[Path, ...] = ()
    preview: bool | None = None
    baseline: Path | None = None
    cache_dir: Path | None = None
    overrides: tuple[Override, ...] = ()
    suppress: tuple[Accepted, ...] = ()
    file: Path | None = None

    def silenced(self, here: Sequence[Override]) -> str:
        """What the file keeps a reader of the report from seeing, as a sentence; "" for nothing.

        Args:
            here: the overrides that hold for the target.
        """
        said: list[Choices] = [self, *here]
        ignored = {rule for each in said for rule in each.ignore} | {rule for each in here for rule in each.never}
        chosen = next((each.select for each in reversed(said) if each.select), ("ALL",))
        never = next((each.fail_on for each in reversed(said) if each.fail_on is not None), "") == "never"
        parts = [
            *([f"runs only {', '.join(chosen)}"] if "ALL" not in map(str.upper, chosen) else []),
            *([f"ignores {', '.join(sorted(ignored))}"] if ignored else []),
            *(["lets nothing fail (fail-on)"] if never else []),
        ]
        return f"{self.file}: this configuration {' and '.join(parts)}." if parts else ""

    def applies(self, targets: Sequence[str], target: str) -> bool:
        """Whether one of these globs of the file means a target.

        A file is meant by its path from the configuration's directory or by its name alone, `package.module:name` as
        it is written; a Python file's attribute does not count.
        """
        place, _, attribute = target.rpartition(":")
        if attribute and place and not place.endswith(".py") and not Path(target).exists():
            return any(fnmatchcase(target, pattern) for pattern in targets)
        path = Path(place if place.endswith(".py") else target).resolve()
        base = glob.escape(str(Path.cwd() if self.file is None else self.file.resolve().parent))
        return any(_matches(pattern, base, path) for pattern in targets)


def _matches(pattern: str, base: str, path: Path) -> bool:
    wanted = f"{base}/{pattern}"
    return fnmatchcase(path.name, pattern) or any(
        fnmatchcase(str(path), each) for each in (wanted, wanted.replace("**/", ""))
    )


def find_config(directory: Path) -> Config:
    """The configuration of the nearest directory, from this one upwards, that has one; an empty one if none has.

    Raises:
        UsageError: the file found cannot be read or is not valid.
    """
    for place in filter(Path.is_file, places(directory)):
        if place.name == "gnelint.toml":
            return read_config(place)
        table = _own_table(place)
        if table is not None:
            return _config(table, place, "tool.gnelint.")
    return Config()


def places(directory: Path) -> Iterator[Path]:
    """Where the configuration of a directory may stand, the nearest place first."""
    for folder in (directory, *directory.parents):
        yield from (folder / "gnelint.toml", folder / "pyproject.toml")


def read_config(path: Path) -> Config:
    """The configuration in a file: the table `[tool.gnelint]` of a pyproject.toml, else the whole file.

    Raises:
        UsageError: the file cannot be read or is not valid.
    """
    if path.name == "pyproject.toml":
        return _config(_own_table(path) or {}, path, "tool.gnelint.")
    return _config(_parse(path), path, "")


def _own_table(path: Path) -> Any:
    """The table `[tool.gnelint]` of a pyproject.toml, None if it has none."""
    tools = _parse(path).get("tool", {})
    if not isinstance(tools, dict):
        raise UsageError(str(path), "tool must be a table", "Write [tool.gnelint].")
    return tools.get("gnelint")


def _parse(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):  # imported here: most folders hold no configuration
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(read_text(path, MAX_CONFIG))
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", "Check the path given to --config.") from None
    except (ValueError, RecursionError) as error:  # TOML's own, no UTF-8, numbers of thousands of digits
        raise UsageError(str(path), f"not valid TOML ({error})") from None


def _config(table: Any, path: Path, prefix: str) -> Config:
    faults: list[UsageError] = []
    read = _Table(table, path, prefix, _KEYS, faults)
    ignores = read.tables_of_selectors("per-target-ignores")
    config = Config(
        **read.choices(),
        rules=tuple(read.inside(entry, "rules") for entry in read.texts("rules")),
        preview=read.switch("preview"),
        baseline=read.path("baseline"),
        cache_dir=read.path("cache-dir"),
        overrides=(
            *(Override(targets=(targets,), never=rules) for targets, rules in ignores.items()),
            *map(_override, read.tables("overrides", _OVERRIDE_KEYS)),
        ),
        suppress=tuple(map(_accepted, read.tables("suppress", _SUPPRESS_KEYS))),
        file=path,
    )
    if faults:
        raise together(faults, path)
    return config


def together(faults: Sequence[UsageError], path: Path) -> UsageError:
    """All that is wrong with a file in one error: whoever mends it wants to do so once."""
    if len(faults) == 1:
        return faults[0]
    told = " ".join(f"({at}) {str(fault).removeprefix(f'{path}: ')}" for at, fault in enumerate(faults, start=1))
    return UsageError(str(path), f"{len(faults)} things are wrong: {told}")


def _override(read: _Table) -> Override:
    return Override(**read.choices(), targets=read.texts("targets", required=True))


def _accepted(read: _Table) -> Accepted:
    return Accepted(
        rules=read.selectors("rules", required=True),
        nodes=read.texts("nodes"),
        targets=read.texts("targets"),
        reason=read.text("reason"),
    )


class _Table:
    """A table of the file whose keys are known. What is wrong is kept, with file and key, and counts as unsaid."""

    def __init__(self, table: Any, file: Path, prefix: str, keys: Sequence[str], faults: list[UsageError]) -> None:
        self._file = file
        self._prefix = prefix
        self._faults = faults
        if not isinstance(table, dict):
            self._fault(prefix.rstrip("."), "must be a table")
            table = {}
        for key in table:
            if key not in keys:
                meant = close(key, keys)
                advice = f'Did you mean "{meant[0]}"?' if meant else f"Known keys: {', '.join(keys)}."
                if (prefix, key) == ("", "tool"):
                    advice = "In a file of its own keys stand at the top; [tool.gnelint] belongs into a pyproject.toml."
                faults.append(UsageError(str(file), f'unknown key "{prefix}{key}"', advice))
        self._table: dict[str, Any] = table

    def _fault(self, key: str, problem: str, advice: str = "") -> None:
        self._faults.append(UsageError(str(self._file), f"{key} {problem}", advice))

    def texts(self, key: str, required: bool = False) -> tuple[str, ...]:
        """A list of texts, empty if the key is not there."""
        return self._texts(self._table.get(key, []), self._prefix + key, "*", required)

    def selectors(self, key: str, required: bool = False) -> tuple[str, ...]:
        """A list of ids or prefixes of rules."""
        return self._texts(self._table.get(key, []), self._prefix + key, "GNE1", required)

    def _texts(self, value: Any, key: str, example: str, required: bool) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
            self._fault(key, "must be a list of texts", f'Write {key.rpartition(".")[2]} = ["{example}"].')
            return ()
        if required and not value:
            self._fault(key, "is missing or empty", f'Write {key.rpartition(".")[2]} = ["{example}"].')
        return tuple(value)

    def choices(self) -> dict[str, Any]:
        """The fields of `Choices`."""
        return {
            **{key.replace("-", "_"): self.selectors(key) for key in _SELECTORS},
            **{key.replace("-", "_"): self.choice(key) for key in _CHOICES},
            "params": self.params(),
        }

    def text(self, key: str) -> str:
        """A text, "" if the key is not there."""
        value = self._table.get(key, "")
        if not isinstance(value, str):
            self._fault(self._prefix + key, "must be a text")
            return ""
        return value

    def path(self, key: str) -> Path | None:
        """A path from the directory of the file."""
        return self.inside(text, key) if (text := self.text(key)) else None

    def inside(self, text: str, key: str) -> Path:
        """A path that the file names. It stays in the file's directory: whoever wrote it need not be who runs it."""
        found = self._file.parent / text
        try:
            stays = found.resolve().is_relative_to(self._file.parent.resolve())
        except (OSError, RuntimeError, ValueError):  # a circle of links, a zero byte
            stays = False
        if not stays:
            advice = f"Move it there, or name it on the command line with --{key}."
            self._fault(self._prefix + key, f'names "{text}" outside of the file\'s own directory; refused', advice)
        return found

    def switch(self, key: str) -> bool | None:
        """True or false, None if the key is not there."""
        value = self._table.get(key)
        if value is not None and not isinstance(value, bool):
            self._fault(self._prefix + key, f"is {value!r}", "Write true or false.")
            return None
        return value

    def choice(self, key: str) -> str | None:
        """One of few texts, None if the key is not there."""
        value = self._table.get(key)
        if value is not None and value not in _CHOICES[key]:
            self._fault(self._prefix + key, f"is {value!r}", f"One of: {', '.join(_CHOICES[key])}.")
            return None
        return value

    def params(self) -> Params:
        """Tables of numbers, texts and switches by rule id."""
        value = self._table.get("params", {})
        scalar = (bool, int, float, str)
        if not isinstance(value, dict) or not all(
            isinstance(rule, dict) and all(isinstance(entry, scalar) for entry in rule.values())
            for rule in value.values()
        ):
            advice = "Write [params.GNE101], tolerance = 0.5 below it."
            self._fault(f"{self._prefix}params", "must hold one table a rule", advice)
            return {}
        for rule, entries in value.items():
            for name, entry in entries.items():
                if isinstance(entry, (int, float)) and not abs(entry) <= MAX_NUMBER:
                    problem = "is no number, or larger than any that is compared with it"
                    self._fault(f"{self._prefix}params.{rule}.{name}", problem)
        return value

    def tables_of_selectors(self, key: str) -> Mapping[str, tuple[str, ...]]:
        """Lists of ids or prefixes of rules, by glob."""
        value = self._table.get(key, {})
        if not isinstance(value, dict):
            self._fault(self._prefix + key, "must be a table", f'Write [{key}], "old/*.onnx" = ["GNE1"] below it.')
            return {}
        return {
            name: self._texts(rules, f'{self._prefix}{key}."{name}"', "GNE1", False) for name, rules in value.items()
        }

    def tables(self, key: str, keys: Sequence[str]) -> list[_Table]:
        """Tables of the same kind, one after the other."""
        value = self._table.get(key, [])
        if not isinstance(value, list):
            self._fault(self._prefix + key, "must be a list of tables", f"Write [[{self._prefix}{key}]].")
            return []
        names = (f"{self._prefix}{key}[{i}]." for i in range(len(value)))
        found = [_Table(table, self._file, name, keys, self._faults) for table, name in zip(value, names, strict=True)]
        return [table for table, given in zip(found, value, strict=True) if isinstance(given, dict)]
