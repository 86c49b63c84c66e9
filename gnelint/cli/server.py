"""`gnelint server`."""

from __future__ import annotations

import importlib.util

import click

from gnelint.errors import UsageError


@click.command("server")
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
