"""What commands print: reports, complaints, progress; and the exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from gnelint.errors import DefectError, GnelintError, ModelError, UsageError

EXIT_CLEAN, EXIT_FINDINGS, EXIT_FAILED, EXIT_STOPPED = 0, 1, 2, 130


def complain(message: str) -> None:
    """One line on standard error, whatever the message holds: names in a model file may try to steer a terminal."""
    from gnelint.lint.places import visible

    click.echo(f"gnelint: {visible(' '.join(message.split()))}", err=True)


def show_trace(trace: str) -> None:
    """A traceback, each line behind a mark: what it quotes of a file neither steers a terminal nor commands a CI."""
    from gnelint.lint.places import visible

    click.echo("".join(f"| {visible(line)}\n" for line in trace.splitlines()), err=True, nl=False)


def give_up(target: str, error: Exception, verbose: bool) -> NoReturn:
    """What a command cannot answer for, as an error for people."""
    show_progress("")
    if verbose:
        show_trace(traceback.format_exc())
    if isinstance(error, (GnelintError, BrokenPipeError)):
        raise error
    if isinstance(error, MemoryError):
        raise ModelError(target, "asks for more memory than there is", "Check the sizes in the file.") from error
    raise DefectError(target, error) from error


def show_progress(text: str) -> None:
    """One line on standard error that the next one replaces; nothing unless it is a terminal."""
    if sys.stderr.isatty():
        shown = "".join(char if char.isprintable() else "?" for char in text)[:79]
        sys.stderr.write(f"\r\033[K{shown}")
        sys.stderr.flush()


def in_colour(output: Path | None) -> bool:
    """Whether the report goes to a terminal whose user has not said NO_COLOR (https://no-color.org)."""
    return output is None and not os.environ.get("NO_COLOR") and sys.stdout.isatty()


def write(report: str, output: Path | None, option: str = "-o") -> None:
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
