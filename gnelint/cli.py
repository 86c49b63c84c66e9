"""The command line: parse, call, print, exit code. What is slow to import is imported inside the commands."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from gnelint import __version__
from gnelint.errors import DefectError, GnelintError, UsageError

if TYPE_CHECKING:
    from gnelint.api import CheckResult
    from gnelint.config import Config
    from gnelint.lint.engine import Settings
    from gnelint.lint.rulefile import Rule, RuleSet
    from gnelint.readers.inputs import InputSpec
    from gnelint.readers.targets import Target

EXIT_CLEAN, EXIT_FINDINGS, EXIT_FAILED = 0, 1, 2


def main() -> None:
    """Run the command line and leave with its exit code: 0 clean, 1 findings, 2 not done."""
    # before numpy is loaded: the analysis' products are small, and waking more threads costs more than they save
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(100_000, 50, 50)  # a run makes many small objects and hardly any garbage
    try:
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
        code = 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_CLEAN
    sys.exit(code)


def _complain(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    click.echo(f"gnelint: {' '.join(message.split())}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gnelint", message="%(prog)s %(version)s")
def cli() -> None:
    """Predict what every block of a neural network does to the gradient, and say what is wrong with it."""


@dataclass(frozen=True)
class _Options:
    """The options of `check` as given; None and empty mean "not given"."""

    inputs: tuple[str, ...]
    mode: str | None
    select: tuple[str, ...]
    extend_select: tuple[str, ...]
    ignore: tuple[str, ...]
    rules: tuple[Path, ...]
    format: str
    output: Path | None
    fail_on: str | None
    stage: str
    statistics: bool
    quiet: bool
    verbose: bool
    config: Path | None
    exit_zero: bool


def _prefixes(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Rule ids and prefixes: repeatable and separated by commas."""
    return tuple(part.strip().upper() for value in values for part in value.split(",") if part.strip())


@cli.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--input", "inputs", multiple=True, metavar="SHAPE", help="Shape of an input: 8,3,32,32; ids=8,16:int64.")
@click.option("--mode", type=click.Choice(("train", "eval")), help="Normalise by batch or running statistics [train].")
@click.option("--select", multiple=True, callback=_prefixes, metavar="RULES", help="Rules to run: ids, prefixes [all].")
@click.option("--extend-select", multiple=True, callback=_prefixes, metavar="RULES", help="Rules to run as well.")
@click.option("--ignore", multiple=True, callback=_prefixes, metavar="RULES", help="Rules not to run.")
@click.option("--rules", multiple=True, type=click.Path(path_type=Path), help="A file or directory of more rules.")
@click.option("--format", type=click.Choice(("text", "json")), default="text", help="How to report [text].")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the report to this file.")
@click.option(
    "--fail-on",
    type=click.Choice(("error", "warning", "info", "never")),
    help="Least severity that makes the exit code 1 [error].",
)
@click.option(
    "--stage",
    type=click.Choice(("auto", "init", "trained")),
    default="auto",
    help="Judge the weights as fresh, as trained, or as they look [auto].",
)
@click.option("--statistics", is_flag=True, help="Show how often each rule spoke, and no more.")
@click.option("-q", "--quiet", is_flag=True, help="Leave the table of blocks out; say nothing of clean targets.")
@click.option("-v", "--verbose", is_flag=True, help="Show every block, and tracebacks.")
@click.option("--config", type=click.Path(path_type=Path), help="Read this file instead of the nearest configuration.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever is found.")
@click.pass_context
def check(context: click.Context, /, targets: tuple[str, ...], **given: Any) -> None:
    """Analyse and lint models without running them.

    TARGET is an .onnx or .pt2 file, a directory or glob of these, package.module:name or path/file.py:name (a module,
    a module class, or a function that returns one).
    """
    options = _Options(**given)
    try:
        context.exit(_check(targets, options))
    except GnelintError:
        if options.verbose:
            traceback.print_exc()
        raise


def _check(texts: Sequence[str], options: _Options) -> int:
    from gnelint.config import find_config, read_config
    from gnelint.lint.engine import selected_rules
    from gnelint.lint.rulefile import load_rules
    from gnelint.readers.inputs import parse_input

    config = read_config(options.config) if options.config else find_config(Path.cwd())
    rules = load_rules([*config.rules, *options.rules])
    settings = _settings(options, config)
    chosen = selected_rules(rules, settings)
    for warning in rules.warnings:
        _complain(warning)
    inputs = [parse_input(text) for text in options.inputs]
    training = (options.mode or config.mode or "train") == "train"
    run = _Checker(options, chosen, settings, inputs, training)
    results = run.all(texts)
    entries = [result.to_dict() for result in results]
    _write(_report(entries, results, rules, options), options.output)
    if run.failed:
        return EXIT_FAILED
    fail_on = options.fail_on or config.fail_on or "error"
    return EXIT_FINDINGS if not options.exit_zero and _fails(entries, fail_on) else EXIT_CLEAN


def _settings(options: _Options, config: Config) -> Settings:
    from gnelint.lint.engine import Settings, Stage

    return Settings(
        select=options.select or config.select,
        extend_select=(*config.extend_select, *options.extend_select),
        ignore=(*config.ignore, *options.ignore),
        stage=cast(Stage, options.stage),
        params=config.params,
    )


@dataclass
class _Checker:
    """Checks targets one after the other; one that cannot be read does not stop the others."""

    options: _Options
    rules: Sequence[Rule]
    settings: Settings
    inputs: Sequence[InputSpec]
    training: bool
    failed: bool = False

    def all(self, texts: Sequence[str]) -> list[CheckResult]:
        from gnelint.readers.targets import resolve

        targets: list[Target] = []
        for text in texts:
            targets.extend(self._guarded(text, lambda text=text: resolve(text)) or ())  # type: ignore[misc]
        results = []
        for index, target in enumerate(targets, start=1):
            _progress(f"[{index}/{len(targets)}] {target.text}")
            result = self._guarded(target.text, lambda target=target: self._one(target))  # type: ignore[misc]
            if result is not None:
                results.append(result)
        _progress("")
        return results

    def _one(self, target: Target) -> CheckResult:
        from gnelint.api import check_graph
        from gnelint.readers.targets import read_target

        graph = read_target(target, training=self.training, inputs=self.inputs)
        return check_graph(graph, self.rules, self.settings)

    def _guarded(self, subject: str, action: Callable[[], Any]) -> Any:
        """The action's result, or None after one line that says why there is none."""
        try:
            return action()
        except GnelintError as error:
            caught: Exception = error
            message = str(error)
        except Exception as error:  # a defect of gnelint must not take the other targets with it
            caught = error
            message = str(DefectError(subject, error))
        self.failed = True
        _progress("")
        _complain(message)
        if self.options.verbose:
            traceback.print_exception(caught)
        return None


def _progress(text: str) -> None:
    """One line on standard error that the next one replaces; nothing unless it is a terminal."""
    if sys.stderr.isatty():
        shown = "".join(char if char.isprintable() else "?" for char in text)[:79]
        sys.stderr.write(f"\r\033[K{shown}")
        sys.stderr.flush()


def _report(
    entries: Sequence[Mapping[str, Any]], results: Sequence[CheckResult], rules: RuleSet, options: _Options
) -> str:
    from gnelint.api import rule_names
    from gnelint.output import json, text

    names = rule_names(rules)
    if options.format == "json":
        return json.dumps(json.document(entries))
    if options.statistics:
        return text.statistics(entries, names)
    style = text.Style(colour=_colour(options.output), table=not options.quiet, fold=not options.verbose)
    parts = [
        text.render(entry, names, result.notes, style)
        for entry, result in zip(entries, results, strict=True)
        if entry["findings"] or not options.quiet
    ]
    return "\n".join(parts)


def _colour(output: Path | None) -> bool:
    """Whether the report goes to a terminal whose user has not said NO_COLOR (https://no-color.org)."""
    return output is None and not os.environ.get("NO_COLOR") and sys.stdout.isatty()


def _write(report: str, output: Path | None) -> None:
    """Print, or write beside the file and rename: nobody ever sees half a report."""
    if output is None:
        click.echo(report, nl=False)
        return
    try:
        handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(report)
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)
            Path(name).replace(output)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(str(output), f"cannot be written ({error.strerror})", "Choose another file for -o.") from None


def _fails(entries: Sequence[Mapping[str, Any]], fail_on: str) -> bool:
    order: tuple[Literal["errors", "warnings", "infos"], ...] = ("errors", "warnings", "infos")
    depth = {"error": 1, "warning": 2, "info": 3, "never": 0}[fail_on]
    return any(entry["summary"][key] for entry in entries for key in order[:depth])


@cli.command()
@click.argument("target")
@click.argument("fixed", required=False)
@click.option("--input", "inputs", multiple=True, metavar="SHAPE", help="Shape of an input: 8,3,32,32; ids=8,16:int64.")
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
        _progress("")
        if given["verbose"]:
            traceback.print_exc()
        if isinstance(error, GnelintError):
            raise
        raise DefectError(target, error) from error
    context.exit(code)


def _verify(target: str, fixed: str | None, given: Mapping[str, Any]) -> int:
    if importlib.util.find_spec("torch") is None:
        raise UsageError("verify", "needs PyTorch, which is not installed", 'Install it: pip install "gnelint[torch]"')
    from gnelint.api import verify as run_verify
    from gnelint.output import json, text, verify_text

    options = ("mode", "data", "probes", "seed", "device", "dtype", "tolerance", "train")
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
    "--check", "checked", multiple=True, type=click.Path(path_type=Path), help="Validate rule files; run their tests."
)
@click.pass_context
def rules_group(context: click.Context, paths: tuple[Path, ...], checked: tuple[Path, ...]) -> None:
    """List all rules."""
    if context.invoked_subcommand is not None:
        if paths or checked:
            raise UsageError("rules test", "takes files and ids, no options")
        return
    if checked:
        context.exit(_run_examples([str(path) for path in checked]))
    from gnelint.lint.rulefile import load_rules

    loaded = load_rules(paths)
    for warning in loaded.warnings:
        _complain(warning)
    for rule in loaded.rules:
        mark = "  (preview)" if rule.status == "preview" else ""
        click.echo(f"{rule.id}  {rule.name}{mark}\n        {rule.summary}")


@rules_group.command("test")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.pass_context
def test_rules(context: click.Context, files: tuple[str, ...]) -> None:
    """Run the tests in rule files; one of gnelint's own rules may be given by its id.

    Exits with 1 if a test fails.
    """
    context.exit(_run_examples(files))


def _run_examples(texts: Sequence[str]) -> int:
    from gnelint.examples import Examples

    examples = Examples.of(texts)
    for warning in examples.rules.warnings:
        _complain(warning)
    failed = 0
    for rule in examples.chosen:
        if not rule.tests:
            click.echo(f"{rule.id}  valid, but it has no tests")
        for test in rule.tests:
            outcome = examples.run(rule, test)
            failed += not outcome.holds
            click.echo("\n".join(outcome.lines))
    click.echo(f"{failed} failed" if failed else "all hold")
    return EXIT_FINDINGS if failed else EXIT_CLEAN


@cli.command("rule")
@click.argument("rule_id", metavar="ID")
@_more_rules
def explain_rule(rule_id: str, paths: tuple[Path, ...]) -> None:
    """Explain one rule."""
    from gnelint.lint.engine import no_such_rule
    from gnelint.lint.rulefile import load_rules
    from gnelint.output.explain import explanation

    loaded = load_rules(paths)
    rule = loaded.get(rule_id.upper())
    if rule is None:
        raise no_such_rule(rule_id, loaded)
    click.echo(explanation(rule), nl=False)
