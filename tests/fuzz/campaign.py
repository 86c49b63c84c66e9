"""A run of many cases: what became of them is counted in a file, from which a later run goes on."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gnelint.app.workers import Workers

C = TypeVar("C")
CHUNK = 400


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "checked" or "refused", whether fix wrote a file, and what went wrong."""

    number: int
    kind: str
    fixed: bool = False
    seconds: float = 0.0
    wrong: tuple[str, ...] = ()


def arguments(about: str, cases: int, state: Path) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("--state", type=Path, default=state)
    parser.add_argument("--case", type=int, help="show one case")
    return parser.parse_args()


def show(outcome: Outcome) -> int:
    """What became of one case, for people; 1 if it failed."""
    print(outcome.kind, f"{outcome.seconds:.1f} s", *outcome.wrong, sep="\n")
    return int(bool(outcome.wrong))


def go_on(
    given: argparse.Namespace,
    case: Callable[[int], C],
    run: Callable[[C], Outcome],
    lost: Callable[[C, int, str], Outcome],
) -> int:
    """Run cases until there are as many as were asked for; 1 if one of them failed.

    Args:
        given: the command line.
        case: the case of a number.
        run: what a process does with a case.
        lost: what became of a case whose process is gone.
    """
    state = _state(given.state, given.seed)
    workers = Workers(run, lost, given.jobs, "all")
    while state["cases"] < given.cases:
        numbers = range(state["cases"], min(state["cases"] + CHUNK, given.cases))
        kinds: Counter[str] = Counter()
        for outcome in workers.answers([case(number) for number in numbers]):
            kinds.update([outcome.kind, *(["fixed"] if outcome.fixed else [])])
            state["slowest"] = round(max(state["slowest"], outcome.seconds), 2)
            state["failures"] += [f"case {outcome.number}: {wrong}" for wrong in outcome.wrong]
        for kind, count in kinds.items():
            state[kind] += count
        state["cases"] = numbers.stop
        given.state.write_text(json.dumps(state, indent=1) + "\n")
        print(f"{state['cases']} cases, {len(state['failures'])} failures", file=sys.stderr, flush=True)
    return int(bool(state["failures"]))


def _state(path: Path, seed: int) -> dict[str, Any]:
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["seed"] == seed:
            return found
    return {"seed": seed, "cases": 0, "checked": 0, "refused": 0, "lost": 0, "fixed": 0, "slowest": 0.0, "failures": []}
