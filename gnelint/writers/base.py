"""What the writers share."""

from __future__ import annotations

from dataclasses import dataclass

from gnelint.fixes.edits import Edit


@dataclass(frozen=True)
class Unmade:
    """An edit that a writer could not make.

    Attributes:
        edit: it.
        reason: why, a clause for people.
    """

    edit: Edit
    reason: str


class CannotMakeError(Exception):
    """An edit that a writer cannot make; the message is why, a clause for people."""
