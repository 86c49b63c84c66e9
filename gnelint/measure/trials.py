"""Planned fixes tried out: what measures worse is taken back, kind by kind, until the rest does not.

Fixes are planned in rounds and see what those before them did. So nothing is subtracted from a plan: what is taken back
is left out, and the rest is planned again.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gnelint.errors import UnmeasuredError
from gnelint.fixes.planning import FixOutcome, FixRequest
from gnelint.records import dataclass

if TYPE_CHECKING:
    from gnelint.measure.trial import Trial

SECONDS = 60.0
"""Time allowed for measuring a target unless the user says another."""
NO_TORCH = "PyTorch is not installed"
NO_TIME = "there was no time left to measure it"


@dataclass(frozen=True)
class TakenBack:
    """Edits of one kind that were planned and are not made, since the network measured worse with them.

    Attributes:
        kind: of the fix.
        rules: ids of those that asked for it.
        edits: how many there were.
        reasons: what was worse, a clause each.
    """

    kind: str
    rules: tuple[str, ...]
    edits: int
    reasons: tuple[str, ...]

    @property
    def text(self) -> str:
        """What was taken back and why, for people."""
        return f"{self.kind} ({', '.join(self.rules)}): {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Tried:
    """What is left of a plan.

    Attributes:
        plan: of what did not measure worse.
        trial: the measurement of that plan; of the whole first plan where nothing is left, None if there is none.
        taken_back: what is not made after all.
        unmeasured: why nothing was measured, None where it was.
    """

    plan: FixOutcome
    trial: Trial | None = None
    taken_back: tuple[TakenBack, ...] = ()
    unmeasured: str | None = None

    @property
    def worse(self) -> bool | None:
        """Whether nothing is left, since all that was planned measured worse; None if it was not measured."""
        return None if self.trial is None else bool(self.taken_back) and not self.plan.edits


def tried(plan: FixOutcome, again: Callable[[FixRequest], FixOutcome], measure: Callable[[FixOutcome], Trial]) -> Tried:
    """Measure a plan and take back what is worse.

    Args:
        plan: what is to be done.
        again: plans for the same network by other wishes.
        measure: runs the network before and after a plan; raises `UnmeasuredError`.
    """
    if not plan.edits:
        return Tried(plan)
    try:
        trial = measure(plan)
    except UnmeasuredError as error:
        return Tried(plan, unmeasured=error.problem)
    return _kind_by_kind(plan, trial, again, measure) if trial.harms else Tried(plan, trial)


def _kind_by_kind(
    whole: FixOutcome, trial: Trial, again: Callable[[FixRequest], FixOutcome], measure: Callable[[FixOutcome], Trial]
) -> Tried:
    """Add one kind after the other in the order of the plan, and keep what does not measure worse."""
    kinds = tuple(dict.fromkeys(edit.kind for edit in whole.edits))
    taken: dict[str, TakenBack] = {}
    kept: list[str] = []
    best: tuple[FixOutcome, Trial] | None = None
    for kind in kinds:
        others = {other: "not tried" for other in kinds if other != kind and other not in kept}
        plan = whole if not others else again(_without(whole, others))
        if not any(edit.kind == kind for edit in plan.edits):
            continue  # it only follows from what was taken back
        try:
            found = trial if plan is whole else measure(plan)
            reasons = found.harms
        except UnmeasuredError:
            reasons = (NO_TIME,)
        if reasons:
            taken[kind] = _taken_back(plan, kind, reasons)
        else:
            kept.append(kind)
            best = plan, found
    left = dict.fromkeys(taken, "taken back, since the network measures worse with it")
    left |= {kind: "taken back with what it follows from" for kind in kinds if kind not in kept and kind not in left}
    final = again(_without(whole, left))
    return Tried(final, trial if best is None else best[1], tuple(taken.values()))


def _without(plan: FixOutcome, kinds: Mapping[str, str]) -> FixRequest:
    return replace(plan.request, without=kinds)


def _taken_back(plan: FixOutcome, kind: str, reasons: tuple[str, ...]) -> TakenBack:
    edits = [edit for edit in plan.edits if edit.kind == kind]
    return TakenBack(kind, tuple(dict.fromkeys(edit.rule for edit in edits)), len(edits), reasons)


def has_torch() -> bool:
    """Whether torch can be imported, without importing it."""
    return importlib.util.find_spec("torch") is not None
