"""Damaged and hostile files through check, every rendering and fix; what is no answer is counted and kept.

    python -m tests.fuzz [--cases 100000] [--seed 0] [-j 2] [--state fuzz.json] [--case K]

Case K of a seed is the same file wherever it is made. The run goes on where the state file says that it stopped, and
writes its figures there after every few hundred cases; `--case` writes one file and shows what becomes of it. A case
fails that ends in a traceback, in "gnelint itself failed" or in the end of its process, that takes more than 10 seconds
of computing or 1 GB, whose own bytes change, or whose fixed file cannot be read.
"""

from __future__ import annotations

import contextlib
import io
import resource
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from random import Random

from gnelint.app import batch
from gnelint.budget import MEMORY, Budget, hold
from gnelint.cli.check import FORMATS
from gnelint.errors import GnelintError
from gnelint.fixes import FixOptions
from gnelint.fixes.planning import FixRequest
from gnelint.lint.selection import selected_rules
from gnelint.output import html, text
from gnelint.output import json as json_report
from gnelint.output.report import Checked, Report, Unread
from gnelint.readers.target import Target
from gnelint.settings.jobs import Job
from gnelint.writers import rewriting
from tests.fuzz.campaign import Outcome, arguments, go_on, show
from tests.fuzz.mutations import mutated

SECONDS, BYTES = 10.0, 1_000_000_000


@dataclass(frozen=True)
class Case:
    """One file of a seed."""

    seed: int
    number: int

    def data(self) -> bytes:
        """Its bytes."""
        return mutated(Random(f"{self.seed}:{self.number}"))


def run(case: Case) -> Outcome:
    """One case in this process."""
    hold(Budget(MEMORY, 60.0))
    begun = time.process_time()
    wrong: list[str] = []
    data, fixed = case.data(), False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        job = Job(Target("model.onnx", "onnx", path=path))
        found = batch.answer(job)
        if isinstance(found, Checked):
            wrong += _shown(found)
            fixed, more = _fixed(job, path.with_name("fixed.onnx"))
            wrong += more
        elif "itself failed" in found.reason or "\n" in found.reason:
            wrong.append(f"{found.reason}\n{found.trace}")
        if path.read_bytes() != data:
            wrong.append("the file itself was changed")
    seconds = time.process_time() - begun
    if seconds > SECONDS:
        wrong.append(f"takes {seconds:.1f} s")
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > BYTES:
        wrong.append("takes more than 1 GB")
    return Outcome(case.number, "refused" if isinstance(found, Unread) else "checked", fixed, seconds, tuple(wrong))


def _shown(found: Checked) -> list[str]:
    rules = batch.rules_of(()).rules
    names = {rule.id: rule.name for rule in rules}
    document = json_report.document([found.entry], rules)
    report = Report((replace(found, selected=tuple(names)),), rules=rules)
    wrong = []
    for form in (*FORMATS, "html"):
        try:
            if form == "text":
                text.render(found.entry, names, found.notes, text.Style())
            elif form == "json":
                json_report.dumps(document)
            elif form == "html":
                html.render(document)
            else:
                import_module(f"gnelint.output.{form}").render(report)
        except Exception:
            wrong.append(f"as {form}: {traceback.format_exc()}")
    return wrong


def _fixed(job: Job, to: Path) -> tuple[bool, list[str]]:
    """Whether fix wrote a file, and what went wrong."""
    request = FixRequest(selected_rules(batch.rules_of(()), job.settings), job.settings, (), FixOptions(), True)
    try:
        rewriting.rewrite(rewriting.subject_of(job, False), request, to)
    except (GnelintError, MemoryError):
        return False, []
    except Exception:
        return False, [f"fix: {traceback.format_exc()}"]
    if not to.exists():
        return False, []
    again = batch.answer(replace(job, target=replace(job.target, path=to)))
    return True, [f"what fix wrote cannot be read: {again.reason}"] if isinstance(again, Unread) else []


def _lost(case: Case, code: int, place: str) -> Outcome:
    return Outcome(case.number, "lost", wrong=(f"the process ended with {code} at {place}",))


def main() -> int:
    """Run cases until there are as many as were asked for; 1 if one of them failed."""
    given = arguments(__doc__ or "", 100_000, Path("fuzz.json"))
    if given.case is not None:
        case = Case(given.seed, given.case)
        Path(f"case{case.number}.onnx").write_bytes(case.data())
        return show(run(case))
    return go_on(given, lambda number: Case(given.seed, number), _quiet, _lost)


def _quiet(case: Case) -> Outcome:
    with contextlib.redirect_stdout(io.StringIO()):
        return run(case)


if __name__ == "__main__":
    sys.exit(main())
