"""What the writers of both worlds have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field

from gnelint.fixes.edits import Edit
from gnelint.records import dataclass


@dataclass(frozen=True)
class Unmade:
    """An edit that a writer could not make, and why: a clause for people."""

    edit: Edit
    reason: str


def all_unmade(edits: Sequence[Edit], unmade: Sequence[Unmade]) -> bool:
    """Whether there were edits to make, and none of them could be made."""
    return 0 < len(edits) == len(unmade)


class CannotEditError(Exception):
    """Why an edit cannot be made in this model, a clause for people; the model is as it was before."""


@dataclass(frozen=True)
class Groups:
    """Edits that are made together or not at all.

    Attributes:
        edits: all that are to be made.
        check: whether one of them can be made by now; raises CannotEditError where not.
    """

    edits: Sequence[Edit]
    check: Callable[[Edit], None]
    _found: dict[str, str | None] = field(default_factory=dict)

    def admit(self, edit: Edit) -> None:
        """Whether this edit's group can be made, asked when the first of it is to be.

        Raises:
            CannotEditError: an edit of its group cannot be.
        """
        if not edit.group:
            return
        if edit.group not in self._found:
            self._found[edit.group] = self._reason(edit.group)
        reason = self._found[edit.group]
        if reason is not None:
            raise CannotEditError(reason)

    def _reason(self, group: str) -> str | None:
        try:
            for edit in self.edits:
                if edit.group == group:
                    self.check(edit)
        except CannotEditError as error:
            return str(error)
        return None
