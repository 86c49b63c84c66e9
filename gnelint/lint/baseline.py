"""Baselines: the findings of a day, written down, so that from then on only new ones count.

A finding is known again by its fingerprint (`fingerprint.py`); its nodes stand in the file for people. One that has
become more severe than it was is new.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from gnelint.errors import UsageError
from gnelint.files import locked, read_text, write_whole
from gnelint.lint.severity import SEVERITIES
from gnelint.records import dataclass

SCHEMA = "gnelint-baseline/1"
_NOT_ONE = "Write it again with --write-baseline, or name another file."


@dataclass(frozen=True)
class Compared:
    """The findings of a target that its baseline does not know, how many it knows, and how many of it are gone."""

    new: tuple[Mapping[str, Any], ...]
    known: int
    gone: int


@dataclass
class Baseline:
    """The known findings of each target, as (fingerprint, severity, rule, nodes) tables; targets by their path.

    Attributes:
        file: where it is.
        targets: as they were read.
        recorded: what this run found, to be written in place of what the file says of these targets.
    """

    file: Path
    targets: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    recorded: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)

    def compare(self, target: str, findings: Sequence[Mapping[str, Any]]) -> Compared:
        """Tell the new findings of a target from the known ones."""
        known: Counter[str] = Counter()
        worst: dict[str, int] = {}
        for entry in self.targets.get(self._key(target), ()):
            known[entry["fingerprint"]] += 1
            worst[entry["fingerprint"]] = SEVERITIES.index(entry["severity"])
        total = sum(known.values())
        new = []
        for finding in findings:
            mark = finding["fingerprint"]
            if known[mark] and SEVERITIES.index(finding["severity"]) >= worst[mark]:
                known[mark] -= 1
            else:
                new.append(finding)
        return Compared(tuple(new), len(findings) - len(new), total - (len(findings) - len(new)))

    def record(self, target: str, findings: Sequence[Mapping[str, Any]]) -> None:
        """Let these be the known findings of a target."""
        kept = ("rule", "severity", "fingerprint", "nodes")
        self.recorded[self._key(target)] = [{key: finding[key] for key in kept} for finding in findings]

    def _key(self, target: str) -> str:
        """Files by their path from the baseline's directory, so that it means the same wherever gnelint is run."""
        if not Path(target).exists():
            return target
        return Path(os.path.relpath(Path(target).resolve(), self.file.resolve().parent)).as_posix()

    def write(self) -> None:
        """Write what was recorded into the file, beside what others have written there by now.

        Raises:
            UsageError: it cannot be written, or is damaged by now.
        """
        try:
            with locked(self.file.parent):
                targets = {**read_baseline(self.file, missing_is_empty=True).targets, **self.recorded}
                data = {"schema": SCHEMA, "targets": dict(sorted(targets.items()))}
                write_whole(self.file, json.dumps(data, indent=1) + "\n")
        except OSError as error:
            problem = f"cannot be written ({error.strerror})"
            raise UsageError(str(self.file), problem, "Choose another file for --baseline.") from None


def read_baseline(path: Path, missing_is_empty: bool = False) -> Baseline:
    """Read a baseline.

    Args:
        path: the file.
        missing_is_empty: whether there may be no such file yet.

    Raises:
        UsageError: it is missing or is no baseline.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        if missing_is_empty:
            return Baseline(path)
        raise UsageError(str(path), "there is no such baseline", "Write it with --write-baseline.") from None
    except OSError as error:
        problem = f"the baseline cannot be read ({error.strerror})"
        raise UsageError(str(path), problem, "Check the path given to --baseline.") from None
    except UnicodeDecodeError:
        raise UsageError(str(path), "is no baseline of gnelint", _NOT_ONE) from None
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(str(path), f"the baseline is damaged ({error})", _NOT_ONE) from None
    if not isinstance(data, dict) or not str(data.get("schema", "")).startswith("gnelint-baseline/"):
        raise UsageError(str(path), "is no baseline of gnelint", _NOT_ONE)
    if data["schema"] != SCHEMA:
        problem = f"is a baseline of schema {data['schema']}, this gnelint reads {SCHEMA}"
        raise UsageError(str(path), problem, "Update gnelint.")
    targets = data.get("targets")
    if not isinstance(targets, dict) or not all(_is_known(entries) for entries in targets.values()):
        raise UsageError(str(path), "the baseline is damaged (a finding is not as gnelint writes it)", _NOT_ONE)
    return Baseline(path, targets)


def _is_known(entries: Any) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("fingerprint"), str) and entry.get("severity") in SEVERITIES
        for entry in entries
    )
