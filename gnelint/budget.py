"""What one target may cost, in memory and in computing time, and where in it the work is.

A process that answers for files of strangers has its own limits, which the system holds: beyond the memory an
allocation fails, beyond the time the process is ended, whatever library it is in. The node that is worked on stands in
memory that the process shares with the one that started it, so that even an end without a word has a place.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path

from gnelint.records import dataclass

if sys.platform != "win32":
    import resource
else:
    resource = None

MEMORY = 900_000_000
"""Bytes for a file without weights; a process that has loaded what it needs takes some 70 MB of them."""
MEMORY_FOR_EACH_BYTE = 64
"""A node takes some hundred and fifty bytes of a file at least, and once it is analysed 13 KB with its weights."""
SECONDS, SECONDS_FOR_EACH_BYTE = 20.0, 24e-6
"""For a file of a few nodes, and more for larger ones: a node takes some milliseconds and a hundred bytes."""
TORCH_MEMORY, TORCH_SECONDS = 4_000_000_000, 60.0
"""More for a file that PyTorch reads: loading it takes some of both."""

Tell = Callable[[str, float | None], None]
"""Hears where the work is, and which share of that step is done, if it is known."""
_LETTERS = 200
_board: mmap | None = None
_listener: Tell | None = None
_memory = 0


@dataclass(frozen=True)
class Budget:
    """What one target may cost.

    Attributes:
        memory: bytes of the process that answers for it, without files that it maps.
        seconds: of computing.
    """

    memory: float
    seconds: float


def budget_of(path: Path, *, with_torch: bool, memory: float | None, seconds: float | None) -> Budget:
    """What a model file may cost: what was asked for, else what its size allows.

    Args:
        path: the file.
        with_torch: whether PyTorch reads it.
        memory, seconds: as given on the command line.
    """
    stored = _stored(path)
    allowed = MEMORY + MEMORY_FOR_EACH_BYTE * stored + TORCH_MEMORY * with_torch
    time = SECONDS + SECONDS_FOR_EACH_BYTE * stored + TORCH_SECONDS * with_torch
    return Budget(memory or allowed, seconds or time)


def _stored(path: Path) -> int:
    """Bytes that a file takes on its disk: a sparse one claims to be larger."""
    try:
        state = os.stat(path)
    except OSError:
        return 0
    return min(state.st_size, getattr(state, "st_blocks", state.st_size // 512 + 1) * 512)


def new_board() -> mmap:
    """Memory in which a process writes where it is; processes that are forked from this one share it."""
    return mmap(-1, _LETTERS)


def use_board(board: mmap | None) -> None:
    """Let this process write where it is into `board`."""
    global _board
    _board = board


def at(place: str, share: float | None = None) -> None:
    """Say what is worked on from here.

    Args:
        place: for people: a node's name, or a step such as "exporting it".
        share: how much of the step is done, if that is known.
    """
    if _listener is not None:
        _listener(place, share)
    if _board is not None:
        text = f"{'' if share is None else format(share, '.4f')}\t{place}"
        _board[:] = text.encode("utf-8", "replace")[:_LETTERS].ljust(_LETTERS, b"\0")


def at_node(name: str, op: str, share: float | None = None) -> None:
    """The same for a node of the network."""
    at(f'node "{name}" ({op})', share)


@contextmanager
def heard_by(listener: Tell | None) -> Generator[None, None, None]:
    """Let `listener` hear of each place that this process comes to meanwhile; None is nobody."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def read_board(board: mmap | None) -> tuple[str, float | None]:
    """Place and share that are written on a board: "" for nothing."""
    if board is None:
        return "", None
    share, _, place = board[:].rstrip(b"\0").decode("utf-8", "replace").partition("\t")
    return place, float(share) if share else None


def hold(budget: Budget) -> None:
    """Let the system hold this process to a budget from here on; what it has used before does not count."""
    global _memory
    at("")
    if resource is None:
        return
    _memory = int(budget.memory)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + budget.seconds))
    _limit(resource.RLIMIT_DATA, _memory)
    _limit(resource.RLIMIT_CORE, 0)


def allow(path: Path) -> None:
    """Raise this process' budget of memory, if it has one, for a data file that belongs to the target."""
    global _memory
    if _memory:
        _memory += MEMORY_FOR_EACH_BYTE * _stored(path)
        _limit(resource.RLIMIT_DATA, _memory)


def allow_torch() -> None:
    """Raise this process' budget, if it has one, for PyTorch and what is run with it."""
    global _memory
    if _memory and resource is not None:
        _memory += TORCH_MEMORY
        _limit(resource.RLIMIT_DATA, _memory)
        soft, _ = resource.getrlimit(resource.RLIMIT_CPU)
        if soft != resource.RLIM_INFINITY:
            _limit(resource.RLIMIT_CPU, math.ceil(soft + TORCH_SECONDS))


def _limit(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def too_much_memory() -> tuple[str, str]:
    """Problem and advice for a person, where an allocation has failed."""
    place, _ = read_board(_board)
    budget = f" than the {_memory / 1e9:.3g} GB that it may have" if _memory else " than there is"
    return f"{place or 'reading it'} needs more memory{budget}", "Check the sizes in the file, or say --max-memory."
