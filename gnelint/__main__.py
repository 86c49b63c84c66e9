"""`python -m gnelint`, and the command `gnelint`: what a signal does to a whole process."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line. An interrupt says one word; SIGTERM ends the process once what is half done is undone."""
    gc.set_threshold(100_000, 50, 50)  # a run makes many small objects and hardly any garbage, imports to begin with
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from gnelint.cli import main as run

        run()
    except SystemExit as end:
        _leave(end.code)
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _leave(code: object) -> None:
    """End the process once its output is out; taking hundreds of modules apart would take a sixth of a short run."""
    if not isinstance(code, int):
        raise SystemExit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader of our output has seen enough, or closed it
            stream.flush()
    os._exit(code)


class _Terminated(BaseException):
    """SIGTERM, as something that passes through all that closes and removes."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends an import at once: libraries turn a `KeyboardInterrupt` there into errors of their own."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            sys.stderr.write("gnelint: stopped.\n")
            sys.stderr.flush()
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
