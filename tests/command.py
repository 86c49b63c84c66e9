"""`gnelint` as a command, in this process: what it prints, on which stream, and its exit code.

A process of its own takes seconds to import what tests have imported already. What only a process shows (signals,
pipes, what is imported) is tested in one.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import pytest

from gnelint.app import batch
from gnelint.cli import main


def gnelint(*arguments: object, cwd: Path) -> CompletedProcess[str]:
    """Run it in a folder, 80 columns wide, with outputs that are no terminals."""
    batch.rules_of.cache_clear()  # a process reads a rule file once, and tests write them anew
    words = ["gnelint", *map(str, arguments)]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        _inside(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", words),
        patch.object(sys, "path", ["", *sys.path]),
        patch.dict(os.environ, {"COLUMNS": "80"}),
        patch.object(batch, "_works_here", lambda job, processes: processes == 1),
    ):
        code = _exit_code()
    printed, said = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return CompletedProcess(words, code, printed, said)


def _exit_code() -> int:
    with pytest.raises(SystemExit) as left:
        main()
    code = left.value.code or 0
    assert isinstance(code, int)
    return code


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """In a folder; modules of the user's that are imported from there are forgotten afterwards."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            own = name.partition(".")[0] in ("gnelint", "tests")
            if file is not None and not own and folder.resolve() in Path(file).resolve().parents:
                del sys.modules[name]
