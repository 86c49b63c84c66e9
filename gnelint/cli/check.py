"""`gnelint check`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gnelint.cli import options
from gnelint.cli.run import Run, job_options
from gnelint.cli.terminal import (
    EXIT_CLEAN,
    EXIT_FAILED,
    EXIT_FINDINGS,
    complain,
    give_up,
    in_colour,
    show_progress,
    write,
)
from gnelint.errors import DefectError, GnelintError, UsageError
from gnelint.lint.severity import FAIL_ON
from gnelint.words import plural

if TYPE_CHECKING:
    from gnelint.lint.baseline import Baseline
    from gnelint.lint.rulefile import Rule
    from gnelint.output.report import Checked, Earlier, Report, Unread
    from gnelint.settings.jobs import Job

FORMATS = ("text", "json", "jsonl", "sarif", "github", "junit", "markdown")


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@options.inputs
@options.weights
@options.meta
@options.mode
@options.selection("run")
@options.rules
@click.option("--preview", is_flag=True, help="Run rules that are not yet stable, too.")
@click.option("--format", "--output-format", type=click.Choice(FORMATS), default="text", help="How to report [text].")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the report to this file.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page to look at, too.")
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="OLD.json",
    multiple=True,
    help="Say what has changed since this report, in --html or markdown. Several, the oldest first: a page shows all.",
)
@click.option(
    "--node-data", type=click.Path(path_type=Path), metavar="FILE", help="Write each node's phi for Model Explorer."
)
@click.option(
    "--fail-on",
    type=click.Choice(FAIL_ON),
    help="Least severity that makes the exit code 1 [error].",
)
@options.stage
@options.loss
@click.option("--baseline", type=click.Path(path_type=Path), help="Report only what is not in this file of findings.")
@click.option("--write-baseline", is_flag=True, help="Write what is found to the baseline instead of reporting it.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, metavar="N", help="Check so many targets at once [1].")
@click.option(
    "--backend",
    type=click.Choice(("processes", "ray")),
    default="processes",
    help="Check in processes of this machine, or on the Ray cluster that is there [processes].",
)
@options.memory
@options.timeout("20, and 24 for each MB")
@click.option(
    "--no-sampling", "sampling", is_flag=True, flag_value=False, default=True, help="Run nothing: formulas alone."
)
@click.option("--no-cache", "cache", is_flag=True, flag_value=False, default=True, help="Work every answer out again.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where answers are kept [.gnelint_cache].")
@click.option("--fix", is_flag=True, help="Fix the files first, as `gnelint fix --in-place` does; report what is left.")
@click.option("--watch", is_flag=True, help="Check again whenever the targets or their configuration change.")
@click.option("--show-settings", is_flag=True, help="Show what holds for each target, and check nothing.")
@click.option("--statistics", is_flag=True, help="Show how often each rule spoke, and no more.")
@click.option("-q", "--quiet", is_flag=True, help="Leave the table of blocks out; say nothing of clean targets.")
@click.option("-v", "--verbose", is_flag=True, help="Show every block, and tracebacks.")
@options.config
@click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever is found.")
@click.pass_context
def check(context: click.Context, /, targets: tuple[str, ...], **given: Any) -> None:
    """Analyse and lint models without running them.

    TARGET is an .onnx or .pt2 file, a directory or glob of these (nothing in a file is run); package.module:name or
    path/file.py:name, whose code is run (a module, a module class, or a function that returns one, with literal
    arguments as in net.py:Net(depth=20)); hf:ID_OR_DIRECTORY (hf:ID?num_hidden_layers=4 changes its configuration),
    timm:NAME or torchvision:NAME.
    """
    try:
        code = _watch(targets, given) if given["watch"] else _check(targets, given)
    except Exception as error:
        give_up(targets[0], error, given["verbose"])
    context.exit(code)


def _watch(texts: Sequence[str], given: Mapping[str, Any]) -> int:
    """Check whenever something has changed, in a process of its own that imports the user's code anew; until Ctrl-C."""
    import subprocess

    from gnelint.app.watching import await_change, files_of, stamps

    words = [word for word in sys.argv[1:] if word != "--watch"]
    more = [
        path for path in (*given["rules"], given["weights"], given["config"], given["baseline"]) if path is not None
    ]
    try:
        while True:
            before = stamps(files_of(texts, more))
            if sys.stdout.isatty():
                click.clear()
            subprocess.run([sys.executable, "-m", "gnelint", *words], check=False)
            complain(f"watching {plural(sum(stamp is not None for stamp in before.values()), 'file')}; Ctrl-C ends it.")
            await_change(before, lambda: stamps(files_of(texts, more)))
    except KeyboardInterrupt:
        return EXIT_CLEAN


def _check(texts: Sequence[str], given: Mapping[str, Any]) -> int:
    from gnelint.app import batch
    from gnelint.lint.baseline import read_baseline
    from gnelint.lint.selection import without_effect
    from gnelint.lint.suppression import unused
    from gnelint.settings import jobs

    if given["statistics"] and given["format"] not in ("text", "json"):
        raise UsageError("--statistics", f"has no {given['format']} form", "Choose --format text or json.")
    earlier = _earlier(given)
    run = Run(given["verbose"])
    planned = jobs.plan(run.targets(texts, given["weights"], given["meta"]), job_options(given), batch.rules_of)
    for job in planned:
        loaded = batch.rules_of(job.rules)
        run.warn(*loaded.warnings, *without_effect(loaded, job.settings), *filter(None, [job.silenced]))
    if given["show_settings"]:
        return _show_settings(run, planned)
    planned = [replace(job, hashed=_shows_hashes(given)) for job in planned]
    if given["fix"]:
        planned = _fixed_in_place(run, planned)
    writing = given["write_baseline"]
    files = dict.fromkeys(job.baseline for job in planned)
    if writing and None in files:
        raise UsageError("--write-baseline", "which file?", "Name it: --baseline gnelint-baseline.json")
    baselines = {file: read_baseline(file, missing_is_empty=writing) for file in files if file is not None}
    streamed = given["format"] == "jsonl" and given["output"] is None and not writing

    def known(job: Job, found: Checked) -> Checked:
        return found if job.baseline is None or writing else _new(found, baselines[job.baseline])

    found = batch.answers(planned, given["jobs"], given["backend"], run.listener)
    done = run.answers(planned, found, known, _stream if streamed else None)
    sets = {job.rules: batch.rules_of(job.rules) for job in planned}
    for paths, loaded in sets.items():
        run.warn(*unused([verdict for job, found in done if job.rules == paths for verdict in found.verdicts], loaded))
    if writing:
        _write_baselines(baselines, done)
        return EXIT_FAILED if run.unread else EXIT_CLEAN
    report = replace(_judged(run, _report(run, done), given), earlier=earlier)
    try:
        renderings = _renderings(report, given)
    except GnelintError:
        raise
    except Exception as error:  # of what one model holds: the others are shown all the same
        report = _judged(run, _without_culprits(run, report, given, error), given)
        renderings = _renderings(report, given)
    for text, file, option in renderings:
        if not (streamed and option == "-o"):
            write(text, file, option)
    return run.code(report)


def _fixed_in_place(run: Run, planned: Sequence[Job]) -> list[Job]:
    """Fix the file of each job and say what was done; a job whose file cannot be is said, and left out."""
    from gnelint.app import batch
    from gnelint.app.fixing import Wanted, fixed
    from gnelint.output import fix_text
    from gnelint.output.report import Unread
    from gnelint.progress import Clock
    from gnelint.writers import rewriting

    for job in planned:
        if job.target.kind == "python":
            emitted = shlex.join(["gnelint", "fix", job.target.text, "--emit-init", "init_weights.py"])
            raise UsageError("--fix", f"{job.target.text} is not a model file", f"Say `{emitted}`.")
    wanted = Wanted(in_place=True, measuring=rewriting.Measuring())
    left, clock = [], Clock()
    answers = batch.done(partial(fixed, wanted), batch.fixing(wanted.seconds), planned, tell=run.listener)
    with closing(answers):
        for index, job in enumerate(planned, start=1):
            run.line.begin(f"fixing [{index}/{len(planned)}{clock.left(index - 1, len(planned))}] {job.target.text}")
            done = next(answers)
            if isinstance(done, Unread):
                run.tell(done)
                continue
            run.warn(fix_text.sentence(done.entry))
            left.append(job)
    show_progress("")
    return left


def _judged(run: Run, report: Report, given: Mapping[str, Any]) -> Report:
    """The report with its exit code."""
    judged = EXIT_FINDINGS if report.fails and not given["exit_zero"] else EXIT_CLEAN
    return replace(report, unread=tuple(run.unread), exit_code=EXIT_FAILED if run.unread else judged)


def _without_culprits(run: Run, report: Report, given: Mapping[str, Any], error: Exception) -> Report:
    """The report of those targets that can be shown; the others are said not to be."""
    shown = []
    for target in report.targets:
        try:
            _renderings(replace(report, targets=(target,), earlier=()), given)
            _rendered(replace(report, targets=(target, target)), given)  # several are shown in another form than one
            shown.append(target)
        except Exception as reason:
            run.fail(target.entry["target"], DefectError(target.entry["target"], reason))
    if len(shown) == len(report.targets):
        raise error
    return replace(report, targets=tuple(shown))


def _show_settings(run: Run, planned: Sequence[Job]) -> int:
    from gnelint.app import batch
    from gnelint.lint.selection import selected_rules
    from gnelint.output.settings import render

    shown = [render(job, selected_rules(batch.rules_of(job.rules), job.settings)) for job in planned]
    write("\n".join(shown), None)
    return EXIT_FAILED if run.unread else EXIT_CLEAN


def _new(found: Checked, baseline: Baseline) -> Checked:
    """An answer without the findings that its baseline knows."""
    from gnelint.app import batch

    return replace(found, entry=batch.against(baseline, found.entry))


def _stream(answer: Checked | Unread) -> None:
    """Show what is known of a target at once."""
    from gnelint.output import jsonl

    write(jsonl.line(answer), None)
    sys.stdout.flush()


def _shows_hashes(given: Mapping[str, Any]) -> bool:
    """Whether something that is written has the hashes of the files: JSON, and the page, which is made of it."""
    return given["html"] is not None or given["format"] in ("json", "jsonl")


def _report(run: Run, done: Sequence[tuple[Job, Checked]]) -> Report:
    """What is said of all targets."""
    from gnelint.app import batch
    from gnelint.lint.selection import selected_rules
    from gnelint.output.report import Report

    rules: dict[str, Rule] = {}
    targets = []
    for job, found in done:
        rules.update({rule.id: rule for rule in selected_rules(batch.rules_of(job.rules), job.settings)})
        targets.append(found)
    ordered = tuple(rules[rule] for rule in sorted(rules))
    return Report(tuple(targets), tuple(run.unread), ordered, Path.cwd())


def _write_baselines(baselines: Mapping[Path, Baseline], done: Sequence[tuple[Job, Checked]]) -> None:
    for job, found in done:
        assert job.baseline is not None
        baselines[job.baseline].record(job.target.text, found.findings)
    for file, baseline in baselines.items():
        baseline.write()
        count = sum(len(found.findings) for job, found in done if job.baseline == file)
        click.echo(f"gnelint: {file}: written, {plural(count, 'finding')} of this run are known now.", err=True)


def _rendered(report: Report, given: Mapping[str, Any]) -> str:
    from gnelint.lint.rulefile import is_builtin
    from gnelint.output import json, text

    if given["format"] not in ("text", "json"):
        rendered: str = import_module(f"gnelint.output.{given['format']}").render(report)
        return rendered
    entries = [target.entry for target in report.targets]
    rules = report.rules
    names = {rule.id: rule.name for rule in rules}
    if given["format"] == "json":
        return json.dumps(json.statistics(entries, names) if given["statistics"] else json.document(entries, rules))
    if given["statistics"]:
        return text.statistics(json.statistics(entries, names))
    if len(entries) > 1 and not given["verbose"]:
        return text.summary(entries, clean=not given["quiet"])
    style = text.Style(
        colour=in_colour(given["output"]),
        table=not given["quiet"],
        fold=not given["verbose"],
        rules={rule.id: f" --rules {shlex.quote(rule.file)}" for rule in rules if not is_builtin(rule)},
    )
    parts = [
        text.render(target.entry, names, target.notes, replace(style, fix=_fix_command(target.entry["target"], given)))
        for target in report.targets
        if target.findings or not given["quiet"]
    ]
    return "\n".join(parts)


def _fix_command(target: str, given: Mapping[str, Any]) -> str:
    """What shows the edits of a target, with the options that this check was given; "" where there are no numbers."""
    if given["meta"]:
        return ""
    words = ["gnelint", "fix", target, "--diff"]
    for name in ("mode", "stage", "config", "weights"):
        words += [f"--{name}", str(given[name])] if given[name] is not None else []
    for option, name in (("input", "inputs"), ("rules", "rules")):
        words += [word for value in given[name] for word in (f"--{option}", str(value))]
    for name in ("select", "extend_select", "ignore"):
        words += [f"--{name.replace('_', '-')}", ",".join(given[name])] if given[name] else []
    return shlex.join([*words, *(["--preview"] if given["preview"] else [])])


def _earlier(given: Mapping[str, Any]) -> tuple[Earlier, ...]:
    """The reports to compare with."""
    if not given["compare"]:
        return ()
    if given["html"] is None and given["format"] != "markdown":
        raise UsageError("--compare", "is shown in a page or a comment", "Add --html FILE, or --format markdown.")
    from gnelint.output.json import read
    from gnelint.output.report import Earlier

    return tuple(Earlier(file.stem, read(file)) for file in given["compare"])


def _renderings(report: Report, given: Mapping[str, Any]) -> list[tuple[str, Path | None, str]]:
    """Every text that is asked for, the file that it goes to, and the option that names the file."""
    entries = [target.entry for target in report.targets]
    found: list[tuple[str, Path | None, str]] = []
    if given["node_data"] is not None:
        from gnelint.output import node_data

        if len(entries) != 1 or entries[0]["source"] != "onnx":
            raise UsageError("--node-data", "is for a single ONNX file", "Name one; Model Explorer shows it beside.")
        found.append((node_data.dumps(entries[0]), given["node_data"], "--node-data"))
    if given["html"] is not None:
        from gnelint.output import html, json

        found.append((html.render(json.document(entries, report.rules), report.earlier), given["html"], "--html"))
    return [*found, (_rendered(report, given), given["output"], "-o")]
