"""Many targets, one after the other or in several processes, with the same answers in the same order.

What is done with each is a function of its job; files are worked on in processes that the system holds to a budget.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gnelint.app.cache import Cache, Visit, key_of
from gnelint.budget import (
    TORCH_MEMORY,
    TORCH_SECONDS,
    Budget,
    Tell,
    budget_of,
    heard_by,
    hold,
    ran_out,
    too_much_memory,
)
from gnelint.errors import DefectError, GnelintError, ModelError
from gnelint.files import sha256
from gnelint.lint.baseline import Baseline
from gnelint.lint.rulefile import RuleSet, load_rules
from gnelint.lint.selection import selected_rules, unselected_rules
from gnelint.lint.suppression import Verdict
from gnelint.output.json import counts
from gnelint.output.report import Checked, Unread
from gnelint.readers.reading import open_target
from gnelint.readers.target import source_file
from gnelint.records import dataclass
from gnelint.settings.jobs import Job

if TYPE_CHECKING:
    from gnelint.app.workers import Silent

Backend = Literal["processes", "ray"]
"""What runs the processes: this machine, or a Ray cluster."""

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What work on a file may cost unless the user says so.

    Attributes:
        times: the time of a check.
        more: than that, and than a check's memory.
    """

    times: float = 1.0
    more: Budget = Budget(0.0, 0.0)

    def of(self, job: Job) -> Budget | None:
        """For one job; the user's own code may cost what it likes unless something else was said."""
        if job.target.kind == "python":
            return Budget(job.memory or math.inf, job.seconds or math.inf) if job.memory or job.seconds else None
        assert job.target.path is not None
        with_torch = job.target.kind == "pt2" or "torch" in sys.modules
        found = budget_of(job.target.path, with_torch=with_torch, memory=job.memory, seconds=job.seconds)
        memory = job.memory or found.memory + self.more.memory
        return Budget(memory, job.seconds or self.times * found.seconds + self.more.seconds)


CHECK = Cost()
_ROUNDS = 10.0
"""Checks that fixing a network may take: each round of edits is one."""
_MEASURED = 600.0
"""Seconds of probes."""


def fixing(measured: float | None) -> Cost:
    """What fixing a file may cost, where what is written is measured for so many seconds; None for not."""
    if measured is None:
        return Cost(_ROUNDS)
    return Cost(_ROUNDS, Budget(TORCH_MEMORY, TORCH_SECONDS + (os.cpu_count() or 1) * measured))


def measuring(files: Sequence[Path], steps: int) -> Cost:
    """What running models may cost: what a network computes takes any memory, and training for steps any time."""
    more = sum(budget_of(path, with_torch=True, memory=None, seconds=None).seconds for path in files[1:])
    return Cost(_ROUNDS, Budget(math.inf, math.inf if steps else _MEASURED + _ROUNDS * more))


def answers(
    jobs: Sequence[Job], processes: int, backend: Backend = "processes", tell: Tell | None = None
) -> Generator[Checked | Unread, None, None]:
    """What a check says of each job, in order; the arguments are those of `done`."""
    if backend == "ray":
        from gnelint.app import cluster

        yield from cluster.answers(partial(_bounded, _cached, CHECK), _gone, jobs)
        return
    yield from done(_cached, CHECK, jobs, processes, tell)


def done(
    work: Callable[[Job], T],
    cost: Cost,
    jobs: Sequence[Job],
    processes: int = 1,
    tell: Tell | None = None,
    *,
    quiet: bool = True,
) -> Generator[T | Unread, None, None]:
    """What `work` makes of each job, in order.

    Files are worked on in processes of their own, whose end is an answer. What runs code of the user's anyway does so
    here, unless more than one process was asked for.

    Args:
        work: what is done; a function that other processes can be handed.
        cost: what it may cost.
        jobs: with what.
        processes: at most so many at once; a cluster takes as many as it has processors.
        tell: hears where in the target the work is, if that can be known.
        quiet: let all that is written to standard error on files go nowhere, not only the last words of libraries.
    """
    from gnelint.app.workers import Workers  # slow to import, and what has no targets needs none

    here = [_works_here(job, processes) for job in jobs]
    others = [job for job, is_here in zip(jobs, here, strict=True) if not is_here]
    own_code = any(job.target.kind == "python" for job in others)
    silent: Silent = "nothing" if own_code else "all" if quiet else "libraries"
    workers = Workers(partial(_bounded, work, cost), partial(_lost, cost), processes, silent)
    with closing(workers.answers(others, tell)) as found:
        for job, is_here in zip(jobs, here, strict=True):
            with heard_by(tell):
                known = attempted(work, job) if is_here else next(found)
            yield known


def _works_here(job: Job, processes: int) -> bool:
    """Whether a target is read in this process."""
    return job.target.kind == "python" and processes == 1


def answer(job: Job) -> Checked | Unread:
    """Check one target; one that cannot be checked is an answer too."""
    return attempted(_cached, job)


def attempted(work: Callable[[Job], T], job: Job) -> T | Unread:
    """What is made of one target; that nothing can be made of it is an answer too."""
    try:
        return work(job)
    except GnelintError as error:
        return _unread(job, error)
    except MemoryError:
        return _unread(job, ModelError(job.target.text, *too_much_memory()))
    except Exception as error:  # a defect of gnelint must not take the other targets with it
        if ran_out(error):
            return _unread(job, ModelError(job.target.text, *too_much_memory()))
        return _unread(job, DefectError(job.target.text, error))


def _unread(job: Job, error: GnelintError) -> Unread:
    return Unread(job.target.text, str(error), traceback.format_exc())


def _bounded(work: Callable[[Job], T], cost: Cost, job: Job) -> T | Unread:
    """The same in a process that the system holds to a budget."""
    budget = cost.of(job)
    if budget is not None:
        hold(budget)
    return attempted(work, job)


def _lost(cost: Cost, job: Job, code: int, place: str) -> Unread:
    """The answer for a target whose process is gone."""
    budget = cost.of(job)
    cause = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
    where = f" at {place}" if place else ""
    if budget is not None and cause == "SIGXCPU":
        problem = f"takes more than the {budget.seconds:.3g} s of computing that it may have; stopped{where}"
        advice = "Allow more with --timeout, if you trust it."
    elif cause == "SIGBUS":  # of a page of a mapped file that is no longer there
        problem = f"was cut short while it was read{where}"
        advice = "Check it again once it is written whole."
    else:
        tight = budget is not None and math.isfinite(budget.memory) and (code > 0 or cause in ("SIGKILL", "SIGABRT"))
        doubt = f"; out of memory? It may have {budget.memory / 1e9:.3g} GB" if tight and budget is not None else ""
        problem = f"ended the process that was reading it{where} ({cause}{doubt})"
        advice = "Check it with onnx.checker: it may be damaged." + " Or allow more with --max-memory." * tight
    return Unread(job.target.text, str(ModelError(job.target.text, problem, advice)))


def _gone(job: Job, problem: str) -> Unread:
    """The answer for a target whose process on a cluster is gone."""
    said = f"ended the process of the cluster that was reading it ({problem})"
    return Unread(job.target.text, str(ModelError(job.target.text, said, "Check it without --backend to see where.")))


def against(baseline: Baseline, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry of a target with the findings that its baseline does not know."""
    found = baseline.compare(entry["target"], entry["findings"])
    known = {"known": found.known, "gone": found.gone}
    summary = {**entry["summary"], **counts(found.new), "baseline": known}
    return {**entry, "summary": summary, "findings": list(found.new)}


@functools.lru_cache(maxsize=8)
def rules_of(paths: tuple[Path, ...]) -> RuleSet:
    """The rules, read once a process and not once a target."""
    return load_rules(paths)


def _cached(job: Job) -> Checked:
    model = job.target.path if job.target.kind in ("onnx", "pt2") else None
    if job.cache_dir is None or job.target.kind != "onnx" or model is None:
        return _checked(job, sha256(model) if model is not None and job.hashed else None)[0]
    visit = Visit(model)
    digest = sha256(model)
    options = (job.target.text, job.inputs, job.training, job.settings, job.suppressions, job.sampling)
    key = key_of(digest, [rule.file for rule in rules_of(job.rules).rules], options)
    cache = Cache(job.cache_dir)
    if key is None:
        return _checked(job, digest)[0]
    record = cache.find(key, model)
    if record is not None:
        known = tuple(Verdict(**verdict) for verdict in record["verdicts"])
        return _shaped(job, record["entry"], tuple(record["notes"]), tuple(record["ran"]), known)
    found, data_files = _checked(job, digest)
    verdicts = [asdict(one) for one in found.verdicts]
    kept = {"entry": found.entry, "notes": found.notes, "verdicts": verdicts, "ran": found.ran}
    try:
        cache.store(key, visit, data_files, kept)
    except OSError as error:
        problem = f"{job.cache_dir}: the cache cannot be written ({error.strerror})."
        return replace(found, warning=f"{problem} Add --no-cache, or --cache-dir.")
    return found


def _checked(job: Job, digest: str | None) -> tuple[Checked, Sequence[str]]:
    """The answer worked out, and the files with external weights that it depends on.

    Args:
        digest: the hash of the model file's bytes, None where there is no such file.
    """
    from gnelint.app.checking import check_graph
    from gnelint.app.sampling import sampler_of

    known = rules_of(job.rules)
    rules, others = selected_rules(known, job.settings), unselected_rules(known, job.settings)
    read = open_target(job.target, training=job.training, inputs=job.inputs)
    sampler = sampler_of(read) if job.sampling else None
    checked = check_graph(read.graph, rules, job.settings, job.suppressions, others, sampler)
    result = replace(checked, sha256=digest)
    ran = tuple(rule.id for rule in result.rules)
    found = _shaped(job, result.to_dict(), result.notes, ran, result.verdicts)
    return found, read.graph.data_files


def _shaped(
    job: Job, entry: Mapping[str, Any], notes: tuple[str, ...], ran: tuple[str, ...], verdicts: tuple[Verdict, ...]
) -> Checked:
    """The answer to a job, with what the job says of itself."""
    selected = tuple(rule.id for rule in selected_rules(rules_of(job.rules), job.settings))
    return Checked(entry, notes, selected, ran, source_file(job.target), job.fail_on, verdicts)
