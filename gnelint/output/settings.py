"""What `gnelint check --show-settings` prints: what holds for a target, and where it was said."""

from __future__ import annotations

from collections.abc import Iterator

from gnelint.lint.places import folded
from gnelint.lint.rulefile import Rule
from gnelint.output.text import printable, wrapped
from gnelint.settings.jobs import Job


def render(job: Job, rules: tuple[Rule, ...]) -> str:
    """The settings of one target, in 80 columns.

    Args:
        job: the target and what was chosen for it.
        rules: those that it runs.
    """
    lines = [printable(job.target.text)]
    for name, value in _entries(job, rules):
        first, *more = wrapped(printable(value), " " * 16)
        lines += [f"  {name:<12}  {first.strip()}", *more]
    return "\n".join(lines) + "\n"


def _entries(job: Job, rules: tuple[Rule, ...]) -> Iterator[tuple[str, str]]:
    settings = job.settings
    yield "settings", "none" if job.config is None else str(job.config)
    yield "rules", f"{len(rules)}: {', '.join(folded([rule.id for rule in rules]))}"
    if job.rules:
        yield "rule files", ", ".join(map(str, job.rules))
    yield "preview", "yes" if settings.preview else "no"
    for rule, values in settings.params.items():
        yield "parameters", f"{rule}: {', '.join(f'{name} = {value}' for name, value in values.items())}"
    yield "mode", "train" if job.training else "eval"
    yield "stage", settings.stage
    yield "loss", job.settings.loss or "not said"
    yield "fail on", job.fail_on
    yield "baseline", "none" if job.baseline is None else str(job.baseline)
    yield "cache", "none" if job.cache_dir is None else str(job.cache_dir)
    for accepted in job.suppressions:
        nodes = ", ".join(accepted.nodes) or "every place"
        yield "suppressed", f"{', '.join(accepted.rules)} at {nodes} ({accepted.source})"
