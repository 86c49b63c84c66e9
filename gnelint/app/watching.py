"""What `gnelint check --watch` waits for: the files that the answer depends on, and when one of them has changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gnelint.errors import GnelintError
from gnelint.readers.target import Target, resolve
from gnelint.settings.config import places

INTERVAL = 0.5
"""Seconds from one look to the next."""

Stamp = tuple[int, int]
"""When a file was written, in nanoseconds, and its bytes."""


def files_of(texts: Sequence[str], more: Sequence[Path]) -> tuple[Path, ...]:
    """The files whose change may change the answer, also those that are not there.

    They are the models, the Python files beside a `path/file.py:name` and in the package of a `package.module:name`,
    every place where a configuration may stand, and the files of `more`, or in its directories.

    Args:
        texts: the targets in the user's words.
        more: what else was named: rules, weights, a configuration.
    """
    found: dict[Path, None] = {}
    for text in texts:
        for file in _files_of_target(text):
            found[file] = None
            found.update(dict.fromkeys(places(file.absolute().parent)))
    found.update(dict.fromkeys(places(Path.cwd())))
    for path in more:
        found.update(dict.fromkeys(path.iterdir() if path.is_dir() else [path]))
    return tuple(found)


def _files_of_target(text: str) -> Iterator[Path]:
    try:
        targets = resolve(text)
    except GnelintError:  # a file that is not there yet, or that is just being written
        yield Path(text.partition(".py:")[0] + ".py" if ".py:" in text else text)
        return
    for target in targets:
        if target.module is not None:
            yield from _package_files(target)
        elif target.path is not None:
            yield target.path
            yield from target.path.parent.glob("*.py") if target.kind == "python" else ()


def _package_files(target: Target) -> Iterator[Path]:
    """The Python files of the package that a target is in, found without importing it."""
    assert target.module is not None
    top = target.module.partition(".")[0]
    for base in map(Path, ("", *sys.path)):
        if (base / top).is_dir():
            yield from (base / top).rglob("*.py")
            return
        if (base / f"{top}.py").is_file():
            yield base / f"{top}.py"
            return


def stamps(files: Sequence[Path]) -> dict[Path, Stamp | None]:
    """When each file was written and its size, None for one that is not there."""
    return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> Stamp | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def await_change(before: Mapping[Path, Stamp | None], look: Callable[[], Mapping[Path, Stamp | None]]) -> None:
    """Wait until what is seen differs from `before` and has stayed the same for one look: writing takes a while.

    Args:
        before: what was seen before the answer was worked out.
        look: what is seen now.
    """
    last = before
    while True:
        now = look()
        if now == last and now != before:
            return
        last = now
        time.sleep(INTERVAL)
