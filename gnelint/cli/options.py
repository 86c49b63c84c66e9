"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gnelint.lint.losses import LOSSES

Command = TypeVar("Command", bound=Callable[..., Any])


def _parts(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Rule ids, prefixes and names: repeatable and separated by commas."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def selection(verb: str) -> Callable[[Command], Command]:
    """--select, --extend-select and --ignore, of rules to `verb`."""
    words = {"select": f"Rules to {verb}: ids, prefixes [all].", "extend-select": f"Rules to {verb} as well."}
    words["ignore"] = f"Rules not to {verb}."

    def added(command: Command) -> Command:
        for name, said in reversed(words.items()):
            command = click.option(f"--{name}", multiple=True, callback=_parts, metavar="RULES", help=said)(command)
        return command

    return added


AMOUNT = click.FloatRange(0, min_open=True)
inputs = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SHAPE",
    help="Shape of an input: 8,3,32,32; ids=8,16:int64; batch.image=8,3,32,32 in a dict. A Python target may also "
    "return (module, inputs) or (module, inputs, kwargs).",
)
weights = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Lay a checkpoint over a Python, hf: or timm: target: .pt, .pth, .bin, .safetensors, index.json.",
)
meta = click.option("--meta", is_flag=True, help="Build Python targets without numbers: initialisers stand for them.")
mode = click.option(
    "--mode", type=click.Choice(("train", "eval")), help="Normalise by batch or running statistics [train]."
)
rules = click.option(
    "--rules", multiple=True, type=click.Path(path_type=Path), help="A file or directory of more rules."
)
more_rules = click.option(
    "--rules", "paths", multiple=True, type=click.Path(path_type=Path), help="A file or directory of more rules."
)
stage = click.option(
    "--stage",
    type=click.Choice(("auto", "init", "trained")),
    help="Judge the weights as fresh, as trained, or as they look [auto].",
)
loss = click.option(
    "--loss", type=click.Choice(LOSSES), help="What stands behind the output, for rules about the head."
)
memory = click.option("--max-memory", type=AMOUNT, metavar="GB", help="For a model file [0.9, and 64 times its size].")
memory_if_said = click.option("--max-memory", type=AMOUNT, metavar="GB", help="For model files [what there is].")


def timeout(default: str) -> Callable[[Command], Command]:
    """--timeout, with what it is where nobody says it."""
    return click.option("--timeout", type=AMOUNT, metavar="SECONDS", help=f"Of computing for a model file [{default}].")


config = click.option(
    "--config", type=click.Path(path_type=Path), help="Read this file instead of the nearest configuration."
)
