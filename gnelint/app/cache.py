"""A cache of what was said of ONNX files: the answer for the same bytes, rules and options is not worked out again.

A record is found by a hash over everything that the answer depends on: the bytes of the model file, whole, however
large it is (reading them is a small part of analysing them, and no time stamp can lie); the bytes of each rule file;
the options; the code of gnelint, Python, numpy, onnx and torch. The files with external weights, which only a reader
of the model knows, are named in the record with the hashes of their bytes, and it counts only while they are the same.
A record is signed with a secret of the user's: one that somebody else wrote, or changed, or renamed, is not read.

Python targets and .pt2 files are never cached: what they say depends on code that no hash of a file covers.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gnelint.files import read_text, sha256, user_secret, write_whole
from gnelint.records import dataclass
from gnelint.version import __version__

MAX_RECORDS = 500
"""Records kept; the oldest go first."""

_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# https://bford.info/cachedir/\n"
_IGNORE = "# Written by gnelint: git leaves this directory alone.\n*\n"
_SLACK = 50_000_000
"""Nanoseconds that a file system's clock may be behind the time of day."""


@dataclass(frozen=True)
class Cache:
    """The records in a directory, which is made when the first one is written."""

    directory: Path

    def find(self, key: str, model: Path) -> Mapping[str, Any] | None:
        """The record of this key, if this user wrote it and the model's external weights are still those of then."""
        try:
            signature, _, text = read_text(self._file(key)).partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        import hmac

        own = _signature(key, text)
        if own is None or not hmac.compare_digest(own.encode(), signature.encode()):
            return None
        record: Mapping[str, Any] = json.loads(text)
        for name, known in record["data_files"].items():
            if sha256(model.parent / name) != known:
                return None
        return record

    def store(self, key: str, visit: Visit, data_files: Iterable[str], answer: Mapping[str, Any]) -> None:
        """Write a record, unless one of the files was changed while the model was read.

        Raises:
            OSError: the directory cannot be written.
        """
        files = {name: sha256(visit.model.parent / name) for name in data_files}
        paths = (visit.model, *(visit.model.parent / name for name in files))
        if None in files.values() or not all(visit.unchanged(path) for path in paths):
            return
        text = json.dumps({"data_files": files, **answer}, allow_nan=False)
        signature = _signature(key, text)
        if signature is None:
            return
        self._prepare()
        write_whole(self._file(key), f"{signature}\n{text}")
        self._tidy()

    def _file(self, key: str) -> Path:
        return self.directory / "records" / f"{key}.json"

    def _prepare(self) -> None:
        (self.directory / "records").mkdir(parents=True, exist_ok=True)
        for name, text in ((".gitignore", _IGNORE), ("CACHEDIR.TAG", _TAG)):
            if not (self.directory / name).exists():
                write_whole(self.directory / name, text)

    def _tidy(self) -> None:
        with os.scandir(self.directory / "records") as entries:
            names = [entry.path for entry in entries]
        if len(names) <= MAX_RECORDS:
            return
        with contextlib.suppress(OSError):  # another process may be tidying too
            for name in sorted(names, key=lambda name: os.stat(name).st_mtime_ns)[: len(names) - MAX_RECORDS]:
                os.unlink(name)


@dataclass(frozen=True)
class Visit:
    """One reading of a model: files that change while it lasts must not be taken for those that were read."""

    model: Path
    begun: int = field(default_factory=time.time_ns)

    def unchanged(self, path: Path) -> bool:
        """Whether a file is as it was before the visit began; the change time (on Unix) cannot be set back."""
        try:
            states = (os.stat(path), os.lstat(path))
            changed = max(time for state in states for time in (state.st_ctime_ns, state.st_mtime_ns))
        except OSError:
            return False
        return changed < self.begun - _SLACK


def _signature(key: str, text: str) -> str | None:
    """What only this user can have written above an answer to this question; None where no secret is kept.

    A directory of answers comes along with a repository, and whoever wrote the model may have written them.
    """
    import hmac

    secret = user_secret()
    return None if secret is None else hmac.new(secret, f"{key}\n{text}".encode(), "sha256").hexdigest()


def key_of(model: str | None, rule_files: Iterable[str], options: object) -> str | None:
    """What the record of a model is found by; None if a file cannot be read.

    Args:
        model: the hash of the ONNX file's bytes, None if it cannot be read.
        rule_files: the files of all rules.
        options: everything else that bears on the answer; its `repr` tells it.
    """
    import hashlib

    rules = [sha256(Path(name)) for name in rule_files]
    if model is None or None in rules:
        return None
    parts = (model, *rules, repr(options), *_code())
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()


@functools.lru_cache(maxsize=1)  # what a process has loaded does not change
def _code() -> tuple[str, ...]:
    """The programs that make an answer. A checkout's code changes without its version: its files' states count too."""
    packages = ("numpy", "onnx", "torch")
    return (__version__, sys.version, *map(_version_of, packages), *sorted(_states(Path(__file__).parents[1])))


def _version_of(package: str) -> str:
    """What says which version of a package is installed, without importing it; "" where there is none."""
    spec = find_spec(package)  # importlib.metadata, which would tell it too, takes longer than all else here
    if spec is None or spec.origin is None:
        return ""
    home = Path(spec.origin)
    told = home.with_name("version.py")
    return f"{package} {sha256(told if told.exists() else home)}"


def _states(directory: str | Path, within: str = "") -> Iterator[str]:
    """Name, size and time of each file of ours below a directory that bears on an answer."""
    with os.scandir(directory) as entries:
        for entry in entries:
            name = f"{within}{entry.name}"
            if entry.name.endswith((".py", ".json")):
                state = entry.stat()
                yield f"{name} {state.st_size} {state.st_mtime_ns}"
            elif entry.is_dir() and entry.name != "__pycache__":
                yield from _states(entry.path, f"{name}/")
