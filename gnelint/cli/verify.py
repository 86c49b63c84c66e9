"""`gnelint verify`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gnelint.cli import options
from gnelint.cli.run import Run
from gnelint.cli.terminal import (
    EXIT_CLEAN,
    EXIT_FAILED,
    EXIT_FINDINGS,
    give_up,
    in_colour,
    show_progress,
    write,
)
from gnelint.errors import UsageError

if TYPE_CHECKING:
    from gnelint.settings.jobs import Job


@click.command()
@click.argument("target")
@click.argument("fixed", required=False)
@options.inputs
@options.weights
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
@options.memory_if_said
@options.timeout("800, and 240 for each MB; none with --train")
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
        give_up(target, error, given["verbose"])
    context.exit(code)


def _verify(target: str, fixed: str | None, given: Mapping[str, Any]) -> int:
    if importlib.util.find_spec("torch") is None:
        raise UsageError("verify", "needs PyTorch, which is not installed", 'Install it: pip install "gnelint[torch]"')
    from gnelint.app import batch
    from gnelint.output import json, text, verify_text
    from gnelint.output.report import Unread
    from gnelint.readers.target import resolve
    from gnelint.settings.jobs import Job

    targets = [one for each in (target, fixed) if each is not None for one in resolve(each)]
    files = [one.path for one in targets if one.kind != "python" and one.path is not None]
    said = {"memory": given["max_memory"] and given["max_memory"] * 1e9, "seconds": given["timeout"]}
    names = ("inputs", "weights", "mode", "data", "probes", "seed", "device", "dtype", "tolerance", "train")
    asked = {"relative_error": given["rel_error"], **{name: given[name] for name in names}}
    work = partial(_measured, target, fixed, asked)
    with closing(
        batch.done(work, batch.measuring(files, given["train"]), [Job(targets[0], **said)], quiet=False)
    ) as answers:
        done = next(answers)
    show_progress("")
    if isinstance(done, Unread):
        Run(given["verbose"]).tell(done)
        return EXIT_FAILED
    holds, report = done
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks for all
        return EXIT_CLEAN if holds else EXIT_FINDINGS
    if given["html"] is not None:
        from gnelint.output import html

        write(html.render(report), given["html"], "--html")
    if given["format"] == "json":
        shown = json.dumps(report)
    else:
        colour = in_colour(given["output"])
        shown = verify_text.render(report, text.Style(colour, not given["quiet"], not given["verbose"]))
    write(shown, given["output"])
    return EXIT_CLEAN if holds else EXIT_FINDINGS


def _measured(target: str, fixed: str | None, asked: Mapping[str, Any], job: Job) -> tuple[bool, dict[str, Any]]:
    """Whether predictions hold, and the report; in a process of its own where the targets are files."""
    from gnelint.api import verify as run_verify

    result = run_verify(target, fixed, progress=show_progress, **asked)
    return result.holds, result.to_dict()
