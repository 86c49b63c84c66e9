"""A whole run of `gnelint check`, as its renderings for programs get it: the JSON report, and what is beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnelint.lint.severity import SEVERITIES, reaches
from gnelint.lint.suppression import Verdict
from gnelint.output.text import clipped, fix_text, places
from gnelint.records import dataclass

if TYPE_CHECKING:
    from gnelint.lint.rulefile import Rule

_PLACES = 120
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")
LONGEST = 2000
"""Characters of a message: enough for every rule's, and names of any length do not drown what else is said."""


@dataclass(frozen=True)
class Checked:
    """A target that was checked: plain data, so that a process can hand it over and a cache keep it.

    Attributes:
        entry: its entry in the JSON report.
        notes: sentences for people.
        selected, ran: ids of the rules that were asked for, and of those that applied.
        file: the model or Python file, "" if it is not known.
        fail_on: the least severity that counts as a failure.
        verdicts: what became of each suppression.
        warning: what went wrong beside the check, "" if nothing did.
    """

    entry: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    selected: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    file: str = ""
    fail_on: str = "error"
    verdicts: tuple[Verdict, ...] = ()
    warning: str = ""

    @property
    def findings(self) -> Sequence[Mapping[str, Any]]:
        """Its findings."""
        found: Sequence[Mapping[str, Any]] = self.entry["findings"]
        return found

    @property
    def fails(self) -> bool:
        """Whether a finding counts as a failure."""
        return any(reaches(finding["severity"], self.fail_on) for finding in self.findings)


@dataclass(frozen=True)
class Unread:
    """A target, or what was meant to be one, that could not be checked, and why; `trace` is for those who ask."""

    target: str
    reason: str
    trace: str = ""


@dataclass(frozen=True)
class Earlier:
    """The JSON report of an earlier run, and the name that it goes by."""

    name: str
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """A run.

    Attributes:
        targets: what was checked, in order.
        unread: what could not be.
        rules: all rules that were asked for, by id.
        root: the directory from which paths are given.
        exit_code: of the run.
        earlier: reports that this one is compared with, the oldest first.
    """

    targets: tuple[Checked, ...]
    unread: tuple[Unread, ...] = ()
    rules: tuple[Rule, ...] = ()
    root: Path = Path()
    exit_code: int = 0
    earlier: tuple[Earlier, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether a target has a finding that counts as a failure."""
        return any(target.fails for target in self.targets)

    def title(self, rule_id: str) -> str:
        """A rule's id and name."""
        return " ".join([rule_id, *(rule.name for rule in self.rules if rule.id == rule_id)])

    def count(self) -> dict[str, int]:
        """How many findings there are of each severity."""
        severities = [finding["severity"] for target in self.targets for finding in target.findings]
        return {severity: severities.count(severity) for severity in SEVERITIES}


def relative(file: str, root: Path) -> str:
    """A path as it is from the root, with slashes; whole where it lies outside. No file need exist."""
    if os.name != "nt" and _WINDOWS.match(file):  # a model may have been exported elsewhere
        return file.replace("\\", "/")
    path = Path(os.path.normpath(root / file))
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def sentences(group: Sequence[Mapping[str, Any]], trained: bool | None) -> Iterator[str]:
    """What is to be said of the findings of one rule: where, what and how to mend it."""
    first = group[0]
    yield f"{clipped(places(group, _PLACES), LONGEST)}: {clipped(first['message'], LONGEST)}"
    fix = fix_text(group, trained)
    if fix:
        yield f"Fix: {clipped(fix, LONGEST)}."
