"""What a rule says about a place in a network: plain data, the shape of the JSON contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gnelint.lint.severity import Severity
from gnelint.records import dataclass

if TYPE_CHECKING:
    from gnelint.ir.graph import Location

Safety = Literal["preserving", "init", "retrain", "display"]
"""What a fix costs: nothing, the starting point, the trained weights; `display` is advice without an edit."""


@dataclass(frozen=True)
class PlannedEdit:
    """What `gnelint fix` would change.

    Attributes:
        subject: name of the tensor, node or value that is changed.
        what: what is done to it, a clause for people.
        factor: what it is multiplied by, None where that is not what is done.
        rule: id of the rule that the edit is made for.
    """

    subject: str
    what: str
    factor: float | None
    rule: str


@dataclass(frozen=True)
class Advice:
    """What would put a finding right.

    Attributes:
        kind: the fix's name.
        safety: what it costs.
        description: one clause for people.
        target: name of the node or block to change, None for the whole network.
        factor: what to multiply its weights by, where that is the fix.
        edits: what `gnelint fix` would change for it by default.
        reason: why `gnelint fix` would not put it right, a clause for people; None if it would, or was not asked.
    """

    kind: str
    safety: Safety
    description: str
    target: str | None = None
    factor: float | None = None
    edits: tuple[PlannedEdit, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Finding:
    """One place that a rule has something to say about.

    Attributes:
        rule: the rule's id.
        severity: how bad it is here.
        message: one sentence with the numbers.
        nodes: names of the nodes it is about, in the order of the pattern; empty for the whole network.
        block: name of the block that holds the first of them, None if there is none.
        location: where in the user's source, None if the model does not say.
        measured, expected: the number judged and what it should be, None if the rule states none or it is not known.
        fix: how to put it right, None if the rule knows no way.
        fingerprint: the same for the same rule at the same place, whatever the nodes are called.
    """

    rule: str
    severity: Severity
    message: str
    nodes: tuple[str, ...] = ()
    block: str | None = None
    location: Location | None = None
    measured: float | None = None
    expected: float | None = None
    fix: Advice | None = None
    fingerprint: str = ""

    @property
    def place(self) -> tuple[str, tuple[str, ...]]:
        """What rule speaks of which nodes: the same for as long as the nodes keep their names."""
        return self.rule, self.nodes
