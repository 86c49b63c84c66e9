"""The command line: parse, call, print, exit code. What is slow to import is imported inside the commands."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gnelint.errors import DefectError, GnelintError, ModelError, UsageError
from gnelint.lint.losses import LOSSES
from gnelint.lint.severity import FAIL_ON
from gnelint.version import __version__
from gnelint.words import close, plural

if TYPE_CHECKING:
    from gnelint.lint.baseline import Baseline
    from gnelint.lint.rulefile import Rule
    from gnelint.output.report import Checked, Report, Unread
    from gnelint.readers.target import Target
    from gnelint.settings.jobs import Job, Options
    from gnelint.writers.rewriting import Measuring

EXIT_CLEAN, EXIT_FINDINGS, EXIT_FAILED, EXIT_STOPPED = 0, 1, 2, 130
FORMATS = ("text", "json", "jsonl", "sarif", "github", "junit", "markdown")


def main() -> None:
    """Run the command line and leave with its exit code: 0 clean, 1 findings, 2 not done."""
    # before numpy is loaded: the analysis' products are small, and waking more threads costs more than they save
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _whole_streams()
    try:
        _refuse_names_like_options(sys.argv[1:])
        code = cli(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_FAILED
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "gnelint"
        problem = error.format_message().rstrip(".")
        _complain(f"{problem}{'' if problem.endswith('?') else '.'} `{where} --help` lists what there is.")
        code = EXIT_FAILED
    except GnelintError as error:
        _complain(str(error))
        code = EXIT_FAILED
    except (click.Abort, KeyboardInterrupt):
        _complain("stopped.")
        code = EXIT_STOPPED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_CLEAN
    except Exception as error:  # the exit code 1 says that there are findings, and never anything else
        _complain(str(DefectError("gnelint", error)))
        code = EXIT_FAILED
    sys.exit(code)


def _refuse_names_like_options(words: Sequence[str]) -> None:
    """A glob or a hook hands over whatever names a repository holds: none of them may command.

    Raises:
        UsageError: an option is the name of a file as well.
    """
    options = words[: words.index("--")] if "--" in words else words
    for word in options:
        if word.startswith("-") and os.path.lexists(word):
            advice = "Rename the file, or put -- before the names; if it is to be an option, run elsewhere."
            raise UsageError(word, "is an option, and a file of this name is here as well; refused", advice)


def _whole_streams() -> None:
    """Streams that the caller has closed lead nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as the process)


def _complain(message: str) -> None:
    """One line on standard error, whatever the message holds: names in a model file may try to steer a terminal."""
    from gnelint.lint.places import visible

    click.echo(f"gnelint: {visible(' '.join(message.split()))}", err=True)


def _show_trace(trace: str) -> None:
    """A traceback, each line behind a mark: what it quotes of a file neither steers a terminal nor commands a CI."""
    from gnelint.lint.places import visible

    click.echo("".join(f"| {visible(line)}\n" for line in trace.splitlines()), err=True, nl=False)


_OTHER_NAMES = {"explain": "rule"}


class _Commands(click.Group):
    """The commands; a word that is none gets the command that was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = _OTHER_NAMES.get(args[0], args[0])
        if word not in self.commands and not word.startswith("-"):
            raise self._no_command(word)
        return super().resolve_command(ctx, [word, *args[1:]])

    def _no_command(self, word: str) -> UsageError:
        if Path(word).exists() or word.endswith((".onnx", ".pt2", ".pt", ".pth")) or ":" in word:
            return UsageError(word, "is a model, and no command", f"Say `gnelint check {shlex.quote(word)}`.")
        alike = close(word, self.commands, cutoff=0.5)
        meant = {"lint": "check", "scan": "check", "run": "check", "measure": "verify"}
        best = meant.get(word) or (alike[0] if alike else None)
        hint = f"Did you mean `gnelint {best}`? " if best else ""
        return UsageError(word, "is no command", f"{hint}There are {', '.join(self.commands)}.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gnelint", message="%(prog)s %(version)s")
def cli() -> None:
    """Predict what every block of a neural network does to the gradient, and say what is wrong with it."""


def _prefixes(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Rule ids, prefixes and names: repeatable and separated by commas."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


_AMOUNT = click.FloatRange(0, min_open=True)
_inputs = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SHAPE",
    help="Shape of an input: 8,3,32,32; ids=8,16:int64; batch.image=8,3,32,32 in a dict. A Python target may also "
    "return (module, inputs) or (module, inputs, kwargs).",
)
_weights = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Lay a checkpoint over a Python, hf: or timm: target: .pt, .pth, .bin, .safetensors, index.json.",
)
_meta = click.option("--meta", is_flag=True, help="Build Python targets without numbers: initialisers stand for them.")
_mode = click.option(
    "--mode", type=click.Choice(("train", "eval")), help="Normalise by batch or running statistics [train]."
)
_rules = click.option(
    "--rules", multiple=True, type=click.Path(path_type=Path), help="A file or directory of more rules."
)
_stage = click.option(
    "--stage",
    type=click.Choice(("auto", "init", "trained")),
    help="Judge the weights as fresh, as trained, or as they look [auto].",
)
_loss = click.option(
    "--loss", type=click.Choice(LOSSES), help="What stands behind the output, for rules about the head."
)
_config = click.option(
    "--config", type=click.Path(path_type=Path), help="Read this file instead of the nearest configuration."
)


@cli.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@_inputs
@_weights
@_meta
@_mode
@click.option("--select", multiple=True, callback=_prefixes, metavar="RULES", help="Rules to run: ids, prefixes [all].")
@click.option("--extend-select", multiple=True, callback=_prefixes, metavar="RULES", help="Rules to run as well.")
@click.option("--ignore", multiple=True, callback=_prefixes, metavar="RULES", help="Rules not to run.")
@_rules
@click.option("--preview", is_flag=True, help="Run rules that are not yet stable, too.")
@click.option("--format", "--output-format", type=click.Choice(FORMATS), default="text", help="How to report [text].")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the report to this file.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page to look at, too.")
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="OLD.json",
    help="Say what has changed since this report, in --html or markdown.",
)
@click.option(
    "--node-data", type=click.Path(path_type=Path), metavar="FILE", help="Write each node's phi for Model Explorer."
)
@click.option(
    "--fail-on",
    type=click.Choice(FAIL_ON),
    help="Least severity that makes the exit code 1 [error].",
)
@_stage
@_loss
@click.option("--baseline", type=click.Path(path_type=Path), help="Report only what is not in this file of findings.")
@click.option("--write-baseline", is_flag=True, help="Write what is found to the baseline instead of reporting it.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, metavar="N", help="Check so many targets at once [1].")
@click.option(
    "--backend",
    type=click.Choice(("processes", "ray")),
    default="processes",
    help="Check in processes of this machine, or on the Ray cluster that is there [processes].",
)
@click.option("--max-memory", type=_AMOUNT, metavar="GB", help="For a model file [0.9, and 16 times its size].")
@click.option(
    "--timeout", type=_AMOUNT, metavar="SECONDS", help="Of computing for a model file [20, and 24 for each MB]."
)
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
@_config
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
        _give_up(targets[0], error, given["verbose"])
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
            _complain(
                f"watching {plural(sum(stamp is not None for stamp in before.values()), 'file')}; Ctrl-C ends it."
            )
            await_change(before, lambda: stamps(files_of(texts, more)))
    except KeyboardInterrupt:
        return EXIT_CLEAN


def _give_up(target: str, error: Exception, verbose: bool) -> NoReturn:
    """What a command cannot answer for, as an error for people."""
    _progress("")
    if verbose:
        _show_trace(traceback.format_exc())
    if isinstance(error, (GnelintError, BrokenPipeError)):
        raise error
    if isinstance(error, MemoryError):
        raise ModelError(target, "asks for more memory than there is", "Check the sizes in the file.") from error
    raise DefectError(target, error) from error


def _check(texts: Sequence[str], given: Mapping[str, Any]) -> int:
    from gnelint.app import batch
    from gnelint.lint.baseline import read_baseline
    from gnelint.lint.selection import without_effect
    from gnelint.lint.suppression import unused
    from gnelint.settings import jobs

    if given["statistics"] and given["format"] not in ("text", "json"):
        raise UsageError("--statistics", f"has no {given['format']} form", "Choose --format text or json.")
    old = _earlier(given)
    run = _Run(given["verbose"])
    planned = jobs.plan(run.targets(texts, given["weights"], given["meta"]), _job_options(given), batch.rules_of)
    for job in planned:
        loaded = batch.rules_of(job.rules)
        run.warn(*loaded.warnings, *without_effect(loaded, job.settings), *filter(None, [job.silenced]))
    if given["show_settings"]:
        return _show_settings(run, planned)
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

    found = batch.answers(planned, given["jobs"], given["backend"])
    done = run.answers(planned, found, known, _stream if streamed else None)
    sets = {job.rules: batch.rules_of(job.rules) for job in planned}
    for paths, loaded in sets.items():
        run.warn(*unused([verdict for job, found in done if job.rules == paths for verdict in found.verdicts], loaded))
    if writing:
        _write_baselines(baselines, done)
        return EXIT_FAILED if run.unread else EXIT_CLEAN
    report = replace(_judged(run, _report(run, done), given), earlier=old)
    try:
        renderings = _renderings(report, old, given)
    except GnelintError:
        raise
    except Exception as error:  # of what one model holds: the others are shown all the same
        report = _judged(run, _without_culprits(run, report, given, error), given)
        renderings = _renderings(report, old, given)
    for text, file, option in renderings:
        if not (streamed and option == "-o"):
            _write(text, file, option)
    return run.code(report)


def _fixed_in_place(run: _Run, planned: Sequence[Job]) -> list[Job]:
    """Fix the file of each job and say what was done; a job whose file cannot be is said, and left out."""
    from gnelint.app import batch
    from gnelint.fixes.planning import FixRequest
    from gnelint.lint.selection import selected_rules
    from gnelint.output import fix_json, fix_text
    from gnelint.progress import Clock
    from gnelint.writers import rewriting

    for job in planned:
        if job.target.kind == "python":
            emitted = shlex.join(["gnelint", "fix", job.target.text, "--emit-init", "init_weights.py"])
            raise UsageError("--fix", f"{job.target.text} is not a model file", f"Say `{emitted}`.")
    left, clock = [], Clock()
    for index, job in enumerate(planned, start=1):
        _progress(f"fixing [{index}/{len(planned)}{clock.left(index - 1, len(planned))}] {job.target.text}")
        rules = selected_rules(batch.rules_of(job.rules), job.settings)
        try:
            subject = rewriting.subject_of(job, inline=False)
            request = FixRequest(rules, job.settings, job.suppressions)
            done = rewriting.rewrite(subject, request, job.target.path, measuring=rewriting.Measuring())
        except Exception as error:  # whatever it is, the other files are fixed all the same
            known = error if isinstance(error, GnelintError) else DefectError(job.target.text, error)
            run.fail(job.target.text, known)
            continue
        run.warn(fix_text.sentence(fix_json.entry(done)))
        left.append(job)
    _progress("")
    return left


def _judged(run: _Run, report: Report, given: Mapping[str, Any]) -> Report:
    """The report with its exit code."""
    judged = EXIT_FINDINGS if report.fails and not given["exit_zero"] else EXIT_CLEAN
    return replace(report, unread=tuple(run.unread), exit_code=EXIT_FAILED if run.unread else judged)


def _without_culprits(run: _Run, report: Report, given: Mapping[str, Any], error: Exception) -> Report:
    """The report of those targets that can be shown; the others are said not to be."""
    shown = []
    for target in report.targets:
        try:
            _renderings(replace(report, targets=(target,)), None, given)
            _rendered(replace(report, targets=(target, target)), given)  # several are shown in another form than one
            shown.append(target)
        except Exception as reason:
            run.fail(target.entry["target"], DefectError(target.entry["target"], reason))
    if len(shown) == len(report.targets):
        raise error
    return replace(report, targets=tuple(shown))


def _show_settings(run: _Run, planned: Sequence[Job]) -> int:
    from gnelint.app import batch
    from gnelint.lint.selection import selected_rules
    from gnelint.output.settings import render

    shown = [render(job, selected_rules(batch.rules_of(job.rules), job.settings)) for job in planned]
    _write("\n".join(shown), None)
    return EXIT_FAILED if run.unread else EXIT_CLEAN


def _new(found: Checked, baseline: Baseline) -> Checked:
    """An answer without the findings that its baseline knows."""
    from gnelint.app import batch

    return replace(found, entry=batch.against(baseline, found.entry))


def _stream(answer: Checked | Unread) -> None:
    """Show what is known of a target at once."""
    from gnelint.output import jsonl

    _write(jsonl.line(answer), None)
    sys.stdout.flush()


def _report(run: _Run, done: Sequence[tuple[Job, Checked]]) -> Report:
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


def _job_options(given: Mapping[str, Any]) -> Options:
    from gnelint.readers.inputs import parse_input
    from gnelint.settings.jobs import Options

    names = [option.name for option in fields(Options) if option.name != "inputs" and option.name in given]
    return Options(tuple(parse_input(text) for text in given["inputs"]), **{name: given[name] for name in names})


def _write_baselines(baselines: Mapping[Path, Baseline], done: Sequence[tuple[Job, Checked]]) -> None:
    for job, found in done:
        assert job.baseline is not None
        baselines[job.baseline].record(job.target.text, found.findings)
    for file, baseline in baselines.items():
        baseline.write()
        count = sum(len(found.findings) for job, found in done if job.baseline == file)
        click.echo(f"gnelint: {file}: written, {plural(count, 'finding')} of this run are known now.", err=True)


@dataclass
class _Run:
    """Checks targets and says what goes wrong; one that cannot be checked does not stop the others."""

    verbose: bool
    unread: list[Unread] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    stopped: bool = False

    def targets(self, texts: Sequence[str], weights: Path | None = None, meta: bool = False) -> list[Target]:
        """The models that the user's words name, built from a checkpoint or without numbers if that is asked for."""
        from gnelint.readers.target import resolve

        found: list[Target] = []
        for text in texts:
            try:
                found.extend(resolve(text))
            except GnelintError as error:
                self.fail(text, error)
        if weights is None and not meta:
            return found
        for target in found:
            if target.kind != "python":
                option = "--weights" if weights is not None else "--meta"
                raise UsageError(option, f"{target.text} is a file that holds its weights", "Name a Python target.")
        return [replace(target, weights=weights, meta=meta) for target in found]

    def answers(
        self,
        jobs: Sequence[Job],
        found: Generator[Checked | Unread, None, None],
        known: Callable[[Job, Checked], Checked],
        tell: Callable[[Checked | Unread], None] | None,
    ) -> list[tuple[Job, Checked]]:
        """The jobs that could be done, with what there is to say; an interrupt ends it with those that are done.

        Args:
            jobs: what is to be done.
            found: their answers, in order.
            known: takes what is known already from an answer.
            tell: shows an answer at once; None where all are shown together.
        """
        from gnelint.output.report import Unread
        from gnelint.progress import Clock

        done: list[tuple[Job, Checked]] = []
        clock = Clock()
        try:
            for index, job in enumerate(jobs, start=1):
                _progress(f"[{index}/{len(jobs)}{clock.left(index - 1, len(jobs))}] {job.target.text}")
                answer = next(found)
                if isinstance(answer, Unread):
                    self._fail(answer)
                else:
                    self.warn(*filter(None, [answer.warning]))
                    answer = known(job, answer)
                    done.append((job, answer))
                if tell is not None:
                    tell(answer)
        except KeyboardInterrupt:
            found.close()
            if not done:
                raise
            self.stopped = True
            _progress("")
            _complain(f"stopped after {len(done) + len(self.unread)} of {plural(len(jobs), 'target')}.")
        _progress("")
        return done

    def code(self, report: Report) -> int:
        """The exit code of what this run reports."""
        return EXIT_STOPPED if self.stopped else report.exit_code

    def warn(self, *sentences: str) -> None:
        """Say what a person should know, each once."""
        for sentence in sentences:
            if sentence not in self.said:
                self.said.add(sentence)
                _progress("")
                _complain(sentence)

    def fail(self, target: str, error: GnelintError) -> None:
        """Say why a target could not be done."""
        from gnelint.output.report import Unread

        self._fail(Unread(target, str(error), traceback.format_exc()))

    def _fail(self, unread: Unread) -> None:
        self.unread.append(unread)
        _progress("")
        _complain(unread.reason)
        if self.verbose:
            _show_trace(unread.trace)


def _progress(text: str) -> None:
    """One line on standard error that the next one replaces; nothing unless it is a terminal."""
    if sys.stderr.isatty():
        shown = "".join(char if char.isprintable() else "?" for char in text)[:79]
        sys.stderr.write(f"\r\033[K{shown}")
        sys.stderr.flush()


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
        return text.summary([entry for entry in entries if entry["findings"] or not given["quiet"]])
    style = text.Style(
        colour=_colour(given["output"]),
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


def _earlier(given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The report to compare with, if one is given."""
    if given["compare"] is None:
        return None
    if given["html"] is None and given["format"] != "markdown":
        raise UsageError("--compare", "is shown in a page or a comment", "Add --html FILE, or --format markdown.")
    from gnelint.output.json import read

    return read(given["compare"])


def _renderings(
    report: Report, old: Mapping[str, Any] | None, given: Mapping[str, Any]
) -> list[tuple[str, Path | None, str]]:
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

        found.append((html.render(json.document(entries, report.rules), old), given["html"], "--html"))
    return [*found, (_rendered(report, given), given["output"], "-o")]


def _colour(output: Path | None) -> bool:
    """Whether the report goes to a terminal whose user has not said NO_COLOR (https://no-color.org)."""
    return output is None and not os.environ.get("NO_COLOR") and sys.stdout.isatty()


def _write(report: str, output: Path | None, option: str = "-o") -> None:
    """Print, or write beside the file and rename: nobody ever sees half a report."""
    from gnelint.files import encoded, write_whole

    if output is None:
        click.echo(encoded(report), nl=False)  # names are any language's, and the locale's encoding may not have them
        return
    try:
        write_whole(output, report)
    except OSError as error:
        raise UsageError(
            str(output), f"cannot be written ({error.strerror})", f"Choose another file for {option}."
        ) from None


@cli.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the fixed model to this file.")
@click.option("--output-dir", type=click.Path(path_type=Path), help="Write each fixed model into this directory.")
@click.option("--in-place", is_flag=True, help="Overwrite the model files themselves.")
@click.option("--force", is_flag=True, help="Overwrite a file that is where -o or --output-dir writes.")
@click.option("--diff", is_flag=True, help="Show every edit, and write nothing.")
@click.option("--emit-init", type=click.Path(path_type=Path), metavar="FILE", help="Write init_weights(model) here.")
@click.option("--unsafe-fixes", is_flag=True, help="Also fix what must be trained again afterwards.")
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Insist on measuring both models before writing; or do not [measure where PyTorch is installed].",
)
@click.option(
    "--verify-seconds", type=click.FloatRange(0, min_open=True), metavar="N", help="Time for measuring a model [60]."
)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write what is measured as a page.")
@_inputs
@_weights
@_mode
@click.option("--select", multiple=True, callback=_prefixes, metavar="RULES", help="Rules to fix: ids, prefixes [all].")
@click.option("--extend-select", multiple=True, callback=_prefixes, metavar="RULES", help="Rules to fix as well.")
@click.option("--ignore", multiple=True, callback=_prefixes, metavar="RULES", help="Rules not to fix.")
@_rules
@click.option("--preview", is_flag=True, help="Fix by rules that are not yet stable, too.")
@_stage
@click.option(
    "--fail-on",
    type=click.Choice(FAIL_ON),
    help="Least severity left that makes the exit code 1 [error].",
)
@click.option(
    "--draw",
    type=click.Choice(("normal", "orthogonal", "delta_orthogonal")),
    help="Draw weights again where gains are fixed, instead of scaling them.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Of weights that are drawn [0].")
@click.option("--centre", is_flag=True, help="Subtract the filters' means where gains are fixed.")
@click.option("--inline", is_flag=True, help="Write new normalisations as plain ONNX nodes, not as a function.")
@_config
@click.option("-v", "--verbose", is_flag=True, help="Show every edit, and tracebacks.")
@click.pass_context
def fix(context: click.Context, /, targets: tuple[str, ...], **given: Any) -> None:
    """Write models with what is wrong put right.

    Fixes are made that keep the function, and of untrained models those that change where training starts.
    --unsafe-fixes adds those that change the architecture.
    """
    try:
        code = _fix(targets, given)
    except Exception as error:
        _give_up(targets[0], error, given["verbose"])
    context.exit(code)


def _fix(texts: Sequence[str], given: Mapping[str, Any]) -> int:
    from gnelint.app import batch
    from gnelint.fixes import FixOptions
    from gnelint.fixes.planning import FixRequest
    from gnelint.lint.selection import selected_rules
    from gnelint.lint.severity import reaches
    from gnelint.output import fix_json, fix_text
    from gnelint.settings import jobs
    from gnelint.writers import rewriting

    _check_fix_options(given)
    run = _Run(given["verbose"])
    found = run.targets(texts, given["weights"])
    if len(found) > 1 and given["output"] is not None:
        raise UsageError("-o", f"is one file, for {len(found)} models", "Say --output-dir, or --in-place.")
    if len(found) > 1 and given["html"] is not None:
        raise UsageError("--html", f"is one page, for {len(found)} models", "Fix them one by one.")
    options = FixOptions(draw=given["draw"], seed=given["seed"], centre=given["centre"])
    fails = False
    for job in jobs.plan(found, _job_options(given), batch.rules_of):
        loaded = batch.rules_of(job.rules)
        rules = selected_rules(loaded, job.settings)
        request = FixRequest(rules, job.settings, job.suppressions, options, given["unsafe_fixes"])
        _progress(job.target.text)
        try:
            to = _fixed_file(job.target, given)
            subject = rewriting.subject_of(job, given["inline"])
            done = rewriting.rewrite(
                subject, request, to, measuring=_measuring(given), verify=given["html"] is not None
            )
            code = None if done.worse else given["emit_init"]
            if code is not None:
                _write(rewriting.init_code(done), code)
            if given["html"] is not None:
                _write_measured(fix_json.measured(done, rules), given["html"])
        except GnelintError as error:
            run.fail(job.target.text, error)
            continue
        _progress("")
        entry = fix_json.entry(done)
        names = {rule.id: rule.name for rule in loaded.rules}
        click.echo(fix_text.render(entry, names, whole=given["verbose"], dry=to is None, code=code), nl=False)
        fails |= bool(entry["worse"]) or any(reaches(finding.severity, job.fail_on) for finding in done.remaining)
    return EXIT_FAILED if run.unread else EXIT_FINDINGS if fails else EXIT_CLEAN


def _measuring(given: Mapping[str, Any]) -> Measuring | None:
    """How what is written is measured; None for what is only shown, and where the user does not want it."""
    from gnelint.measure.trials import SECONDS
    from gnelint.writers.rewriting import Measuring

    if given["verify"] is False or given["diff"]:
        return None
    seconds = given["verify_seconds"] or SECONDS
    return Measuring(seconds, given["seed"], required=given["verify"] is True)


def _write_measured(report: Mapping[str, Any] | None, page: Path) -> None:
    from gnelint.output import html

    if report is None:
        _complain(f"{page}: not written, since there was nothing to fix, or nothing that does not measure worse")
    else:
        _write(html.render(report), page, "--html")


def _check_fix_options(given: Mapping[str, Any]) -> None:
    places = [name for name in ("output", "output_dir", "in_place", "diff") if given[name]]
    said = [f"--{name.replace('_', '-')}" if name != "output" else "-o" for name in places]
    if len(places) > 1:
        raise UsageError(" and ".join(said), "exclude each other")
    if not places and given["emit_init"] is None:
        advice = "Say -o FILE, --output-dir DIRECTORY, --in-place, --emit-init FILE, or --diff to write nothing."
        raise UsageError("fix", "where to?", advice)
    if given["verify"] and importlib.util.find_spec("torch") is None:
        raise UsageError(
            "--verify", "needs PyTorch, which is not installed", 'Install it: pip install "gnelint[torch]"'
        )
    if given["verify"] and given["diff"]:
        raise UsageError("--verify", "measures what is written, and --diff writes nothing", "Say -o FILE instead.")
    if given["html"] is not None and (given["verify"] is False or not places or given["diff"]):
        raise UsageError("--html", "shows what is measured of a model that is written", "Say -o FILE, no --no-verify.")


def _fixed_file(target: Target, given: Mapping[str, Any]) -> Path | None:
    from gnelint.writers.rewriting import output_of

    if given["diff"] or not (given["output"] or given["output_dir"] or given["in_place"]):
        return None
    return output_of(target, given["output"], given["output_dir"], in_place=given["in_place"], overwrite=given["force"])


@cli.command()
@click.argument("target")
@click.argument("fixed", required=False)
@_inputs
@_weights
@click.option(
    "--mode",
    type=click.Choice(("train", "eval")),
    default="train",
    help="Normalise by batch or running statistics [train].",
)
@click.option("--data", metavar="FILE|FUNCTION", help="Run on a .npz file, or on what package.module:name returns.")
@click.option("--rel-error", type=float, default=0.05, help="Probe until intervals are this fraction of phi [0.05].")
@click.option("--probes", type=int, help="Send exactly so many probes.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of data and probes [0].")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:0 [auto].")
@click.option(
    "--dtype", type=click.Choice(("float32", "float64", "bfloat16")), default="float32", help="To compute in [float32]."
)
@click.option("--tolerance", type=float, default=0.5, help="Bits that predictions may lie off the interval [0.5].")
@click.option("--train", type=click.IntRange(0), default=0, metavar="STEPS", help="Train so long, watching gradients.")
@click.option("--format", type=click.Choice(("text", "json")), default="text", help="How to report [text].")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the report to this file.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page to look at, too.")
@click.option("-q", "--quiet", is_flag=True, help="Leave the table of blocks out.")
@click.option("-v", "--verbose", is_flag=True, help="Show every block, and tracebacks.")
@click.pass_context
def verify(context: click.Context, /, target: str, fixed: str | None, **given: Any) -> None:
    """Measure with autograd what check predicts of a model; with FIXED, of the model before and after.

    Exits with 1 if a prediction does not hold, or if FIXED is worse than TARGET.
    """
    try:
        code = _verify(target, fixed, given)
    except Exception as error:
        _give_up(target, error, given["verbose"])
    context.exit(code)


def _verify(target: str, fixed: str | None, given: Mapping[str, Any]) -> int:
    if importlib.util.find_spec("torch") is None:
        raise UsageError("verify", "needs PyTorch, which is not installed", 'Install it: pip install "gnelint[torch]"')
    from gnelint.api import verify as run_verify
    from gnelint.output import json, text, verify_text

    options = ("weights", "mode", "data", "probes", "seed", "device", "dtype", "tolerance", "train")
    result = run_verify(
        target,
        fixed,
        inputs=given["inputs"],
        relative_error=given["rel_error"],
        progress=_progress,
        **{name: given[name] for name in options},
    )
    _progress("")
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks for all
        return EXIT_CLEAN if result.holds else EXIT_FINDINGS
    report = result.to_dict()
    if given["html"] is not None:
        from gnelint.output import html

        _write(html.render(report), given["html"], "--html")
    if given["format"] == "json":
        shown = json.dumps(report)
    else:
        colour = _colour(given["output"])
        shown = verify_text.render(report, text.Style(colour, not given["quiet"], not given["verbose"]))
    _write(shown, given["output"])
    return EXIT_CLEAN if result.holds else EXIT_FINDINGS


_more_rules = click.option(
    "--rules", "paths", multiple=True, type=click.Path(path_type=Path), help="A file or directory of more rules."
)


@cli.group("rules", invoke_without_command=True)
@_more_rules
@click.option(
    "--check",
    "checked",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Demand of rule files what CI does.",
)
@click.option("--new", metavar="NAME", help="Write NAME.yaml here, a rule to start from, with networks for its tests.")
@click.option(
    "--format", type=click.Choice(("text", "markdown", "json")), default="text", help="How to list them [text]."
)
@click.pass_context
def rules_group(
    context: click.Context, paths: tuple[Path, ...], checked: tuple[Path, ...], new: str | None, format: str
) -> None:
    """List all rules."""
    if context.invoked_subcommand is not None:
        if paths or checked or new is not None:
            raise UsageError("rules test", "takes files and ids, no options")
        return
    if new is not None:
        _start_rule(new)
        return
    if checked:
        context.exit(_run_examples([str(path) for path in checked], demanding=True))
    from gnelint.lint.rulefile import load_rules
    from gnelint.output.rules import as_json, catalogue, listing

    loaded = load_rules(paths)
    for warning in loaded.warnings:
        _complain(warning)
    shown = {"text": listing, "markdown": catalogue, "json": as_json}[format](loaded.rules)
    click.echo(shown, nl=False)


def _start_rule(name: str) -> None:
    from gnelint.app.new_rule import new_rule
    from gnelint.files import write_whole

    files = new_rule(name, Path.cwd())
    for path, text in files.items():
        write_whole(path, text)
    rule, *networks = (path.name for path in files)
    click.echo(f"{rule} and {', '.join(networks)}: written. Next: gnelint rules --check {rule}")


@rules_group.command("test")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.pass_context
def test_rules(context: click.Context, files: tuple[str, ...]) -> None:
    """Run the tests in rule files; one of gnelint's own rules may be given by its id.

    Exits with 1 if a test fails.
    """
    context.exit(_run_examples(files))


def _run_examples(texts: Sequence[str], *, demanding: bool = False) -> int:
    from gnelint.app.rule_tests import Examples, is_exported

    examples = Examples.of(texts)
    for warning in examples.rules.warnings:
        _complain(warning)
    failed = 0
    for rule in examples.chosen:
        if not rule.tests and not demanding:
            click.echo(f"{rule.id}  valid, but it has no tests")
        asked = [examples.names(rule), *([examples.demands(rule)] if demanding else [])]
        runs = [(test, False) for test in rule.tests]
        if demanding:
            runs += [(test, True) for test in rule.tests if is_exported(test)]
        for outcome in (*asked, *(examples.run(rule, test, exported=exported) for test, exported in runs)):
            failed += not outcome.holds
            for line in outcome.lines:
                click.echo(line)
    click.echo(f"{failed} failed" if failed else "all hold")
    return EXIT_FINDINGS if failed else EXIT_CLEAN


@cli.command("rule")
@click.argument("rule_id", metavar="RULE")
@_more_rules
def explain_rule(rule_id: str, paths: tuple[Path, ...]) -> None:
    """Explain one rule, given by its id or name."""
    from gnelint.lint.rulefile import load_rules
    from gnelint.lint.selection import no_such_rule
    from gnelint.output.explain import explanation, for_terminal

    loaded = load_rules(paths)
    rule = loaded.get(rule_id)
    if rule is None:
        raise no_such_rule(rule_id, loaded)
    text = explanation(rule)
    click.echo(for_terminal(text) if _colour(None) else text, nl=False)


@cli.command("init")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def write_settings(force: bool) -> None:
    """Write a gnelint.toml in which everything that can be set stands in comments."""
    from gnelint.settings.template import TEMPLATE

    path = Path("gnelint.toml")
    if os.path.lexists(path) and not force:
        raise UsageError(str(path), "is here already", "Add --force to write it anew.")
    _write(TEMPLATE, path, "init")
    click.echo(f"{path}: written. All of it is comments: take the marks away from what you want to say.")


@cli.command("server")
@click.argument("targets", nargs=-1, metavar="[TARGET...]")
def serve(targets: tuple[str, ...]) -> None:
    """Speak the language server protocol with an editor, on standard input and output.

    Each TARGET is one word with its options, as in "train.py:make_model --input 8,3,32,32"; the editor may name more
    ({"targets": [...]} among its initialization options). The code of these alone is run, in processes of their own.
    """
    if importlib.util.find_spec("pygls") is None:
        raise UsageError("server", "needs pygls, which is not installed", 'Install it: pip install "gnelint[server]"')
    from gnelint.server.service import language_server

    language_server(targets).start_io()
