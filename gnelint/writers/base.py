"""What the writers of both worlds have in common."""

from __future__ import annotations

from dataclasses import dataclass

from gnelint.fixes.edits import Edit


@dataclass(frozen=True)
class Unmade:
    """An edit that a writer could not make, and why: a clause for people."""

    edit: Edit
    reason: str


class CannotEditError(Exception):
    """Why an edit cannot be made in this model, a clause for people; the model is as it was before."""
