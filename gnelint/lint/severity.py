"""How bad a finding is. Imports nothing, so that the command line's help costs nothing."""

from __future__ import annotations

from typing import Literal, cast

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""Most severe first."""

FailOn = Literal["error", "warning", "info", "never"]

FAIL_ON: tuple[FailOn, ...] = (*SEVERITIES, "never")
"""The least severity that counts as a failure; no finding reaches "never"."""


def reaches(severity: str, least: str) -> bool:
    """Whether a finding of a severity is a failure where `least` is the least one that is."""
    return least != "never" and FAIL_ON.index(cast(FailOn, severity)) <= FAIL_ON.index(cast(FailOn, least))
