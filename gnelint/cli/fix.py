"""`gnelint fix`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gnelint.cli import options
from gnelint.cli.run import Run, job_options
from gnelint.cli.terminal import EXIT_CLEAN, EXIT_FAILED, EXIT_FINDINGS, complain, give_up, show_progress, write
from gnelint.errors import GnelintError, UsageError
from gnelint.lint.severity import FAIL_ON

if TYPE_CHECKING:
    from gnelint.writers.rewriting import Measuring


@click.command()
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
@options.inputs
@options.weights
@options.mode
@options.selection("fix")
@options.rules
@click.option("--preview", is_flag=True, help="Fix by rules that are not yet stable, too.")
@options.stage
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
@options.memory
@options.timeout("200, and 240 for each MB, and what measuring may take")
@options.config
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
        give_up(targets[0], error, given["verbose"])
    context.exit(code)


def _fix(texts: Sequence[str], given: Mapping[str, Any]) -> int:
    from gnelint.app import batch
    from gnelint.app.fixing import Wanted, fixed
    from gnelint.fixes import FixOptions
    from gnelint.output import fix_text
    from gnelint.output.report import Unread
    from gnelint.settings import jobs

    _check_fix_options(given)
    run = Run(given["verbose"])
    found = run.targets(texts, given["weights"])
    if len(found) > 1 and given["output"] is not None:
        raise UsageError("-o", f"is one file, for {len(found)} models", "Say --output-dir, or --in-place.")
    if len(found) > 1 and given["html"] is not None:
        raise UsageError("--html", f"is one page, for {len(found)} models", "Fix them one by one.")
    write_one = not given["diff"] and bool(given["output"] or given["output_dir"] or given["in_place"])
    wanted = Wanted(
        write_one, given["output"], given["output_dir"], given["in_place"], given["force"], given["unsafe_fixes"],
        FixOptions(draw=given["draw"], seed=given["seed"], centre=given["centre"]), given["inline"],
        _measuring(given), given["html"] is not None, given["emit_init"] is not None,
    )  # fmt: skip
    planned = jobs.plan(found, job_options(given), batch.rules_of)
    answers = batch.done(partial(fixed, wanted), batch.fixing(wanted.seconds), planned, tell=run.listener)
    fails = False
    with closing(answers):
        for job in planned:
            run.line.begin(job.target.text)
            done = next(answers)
            if isinstance(done, Unread):
                run.tell(done)
                continue
            show_progress("")
            try:
                code = given["emit_init"] if done.code is not None else None
                if code is not None and done.code is not None:
                    write(done.code, code)
                if given["html"] is not None:
                    _write_measured(done.page, given["html"])
            except GnelintError as error:
                run.fail(job.target.text, error)
                continue
            names = {rule.id: rule.name for rule in batch.rules_of(job.rules).rules}
            shown = fix_text.render(done.entry, names, whole=given["verbose"], dry=not write_one, code=code)
            click.echo(shown, nl=False)
            fails |= done.fails
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
        complain(f"{page}: not written, since there was nothing to fix, or nothing that does not measure worse")
    else:
        write(html.render(report), page, "--html")


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
