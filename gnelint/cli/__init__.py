"""The command line: parse, call, print, exit code. A command is a file, and only the one that is asked for is read."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click

from gnelint.cli.terminal import EXIT_CLEAN, EXIT_FAILED, EXIT_STOPPED, complain
from gnelint.errors import DefectError, GnelintError, UsageError
from gnelint.version import __version__
from gnelint.words import close

_COMMANDS = {
    "check": "check:check",
    "fix": "fix:fix",
    "verify": "verify:verify",
    "rules": "rules:rules_group",
    "rule": "rules:explain_rule",
    "init": "init:write_settings",
    "server": "server:serve",
}
"""Commands, in the order of `--help`: module and function."""
_OTHER_NAMES = {"explain": "rule"}


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
        complain(f"{problem}{'' if problem.endswith('?') else '.'} `{where} --help` lists what there is.")
        code = EXIT_FAILED
    except GnelintError as error:
        complain(str(error))
        code = EXIT_FAILED
    except (click.Abort, KeyboardInterrupt):
        complain("stopped.")
        code = EXIT_STOPPED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_CLEAN
    except Exception as error:  # the exit code 1 says that there are findings, and never anything else
        complain(str(DefectError("gnelint", error)))
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


class _Commands(click.Group):
    """The commands; a word that is none gets the command that was meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, function = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"gnelint.cli.{module}"), function)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = _OTHER_NAMES.get(args[0], args[0])
        if word not in _COMMANDS and not word.startswith("-"):
            raise self._no_command(word)
        return super().resolve_command(ctx, [word, *args[1:]])

    def _no_command(self, word: str) -> UsageError:
        if Path(word).exists() or word.endswith((".onnx", ".pt2", ".pt", ".pth")) or ":" in word:
            return UsageError(word, "is a model, and no command", f"Say `gnelint check {shlex.quote(word)}`.")
        alike = close(word, _COMMANDS, cutoff=0.5)
        meant = {"lint": "check", "scan": "check", "run": "check", "measure": "verify"}
        best = meant.get(word) or (alike[0] if alike else None)
        hint = f"Did you mean `gnelint {best}`? " if best else ""
        return UsageError(word, "is no command", f"{hint}There are {', '.join(_COMMANDS)}.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gnelint", message="%(prog)s %(version)s")
def cli() -> None:
    """Predict what every block of a neural network does to the gradient, and say what is wrong with it."""
