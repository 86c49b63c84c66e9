"""`gnelint init`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gnelint.cli.terminal import write
from gnelint.errors import UsageError


@click.command("init")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def write_settings(force: bool) -> None:
    """Write a gnelint.toml in which everything that can be set stands in comments."""
    from gnelint.settings.template import TEMPLATE

    path = Path("gnelint.toml")
    if os.path.lexists(path) and not force:
        raise UsageError(str(path), "is here already", "Add --force to write it anew.")
    write(TEMPLATE, path, "init")
    click.echo(f"{path}: written. All of it is comments: take the marks away from what you want to say.")
