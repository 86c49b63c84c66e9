"""Many targets checked, one after the other or in several processes, with the same answers in the same order."""

from __future__ import annotations

import functools
import gc
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gnelint.app.cache import Cache, Visit, key_of
from gnelint.errors import DefectError, GnelintError, ModelError
from gnelint.files import sha256
from gnelint.lint.baseline import Baseline
from gnelint.lint.rulefile import RuleSet, load_rules
from gnelint.lint.selection import selected_rules, unselected_rules
from gnelint.lint.suppression import Verdict
from gnelint.output.json import counts
from gnelint.output.report import Checked, Unread
from gnelint.readers.reading import read_target
from gnelint.readers.target import source_file
from gnelint.settings.jobs import Job


def answers(jobs: Sequence[Job], processes: int) -> Iterator[Checked | Unread]:
    """The answer to each job, in order."""
    if processes == 1 or len(jobs) < 2:
        yield from map(answer, jobs)
        return
    yield from _in_processes(jobs, min(processes, len(jobs)))


def _in_processes(jobs: Sequence[Job], processes: int) -> Iterator[Checked | Unread]:
    import multiprocessing  # slow to import, and most runs are of one target
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # a process of its own start, not a fork: the libraries that a model's code loads have threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, gc.set_threshold, (100_000, 50, 50)) as pool:
        futures = [pool.submit(answer, job) for job in jobs]
        for job, future in zip(jobs, futures, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool as error:  # one that is ended from outside takes the others with it
                problem = "a process ended before it was checked (out of memory?)"
                advice = "Check it with fewer processes, or with -j 1."
                target = job.target.text
                yield Unread(target, str(ModelError(target, problem, advice)), f"{error}\n")


def answer(job: Job) -> Checked | Unread:
    """Check one target; one that cannot be checked is an answer too."""
    try:
        return _cached(job)
    except GnelintError as error:
        return Unread(job.target.text, str(error), traceback.format_exc())
    except Exception as error:  # a defect of gnelint must not take the other targets with it
        return Unread(job.target.text, str(DefectError(job.target.text, error)), traceback.format_exc())


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
        return _checked(job, None if model is None else sha256(model))[0]
    visit = Visit(model)
    digest = sha256(model)
    options = (job.target.text, job.inputs, job.training, job.settings, job.suppressions)
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

    known = rules_of(job.rules)
    rules, others = selected_rules(known, job.settings), unselected_rules(known, job.settings)
    graph = read_target(job.target, training=job.training, inputs=job.inputs)
    result = replace(check_graph(graph, rules, job.settings, job.suppressions, others), sha256=digest)
    ran = tuple(rule.id for rule in result.rules)
    found = _shaped(job, result.to_dict(), result.notes, ran, result.verdicts)
    return found, graph.data_files


def _shaped(
    job: Job, entry: Mapping[str, Any], notes: tuple[str, ...], ran: tuple[str, ...], verdicts: tuple[Verdict, ...]
) -> Checked:
    """The answer to a job, with what the job says of itself."""
    selected = tuple(rule.id for rule in selected_rules(rules_of(job.rules), job.settings))
    return Checked(entry, notes, selected, ran, source_file(job.target), job.fail_on, verdicts)
