"""What one target may cost, in memory and in computing time, and where in it the work is.

A process that answers for files of strangers has its own limits, which the system holds: beyond the memory an
allocation fails, beyond the time the process is ended, whatever library it is in. The node that is worked on stands in
memory that the process shares with the one that started it, so that even an end without a word has a place.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from types import FrameType

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
SECONDS_FOR_EACH_BYTE_OF_DATA = 4e-7
"""For files that hold nothing but numbers, which are read several times over, some nanoseconds each."""
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
    _memory = int(budget.memory) if math.isfinite(budget.memory) else 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, used.ru_utime + used.ru_stime + budget.seconds)
    _limit(resource.RLIMIT_DATA, budget.memory)
    _limit(resource.RLIMIT_CORE, 0)


class SpentError(BaseException):
    """The time of a budget is over: no handler of errors on the way takes it for one of its own."""


@contextmanager
def within(budget: Budget) -> Generator[None, None, None]:
    """Hold this process to a budget for a while, beyond what it has and has used; the limits from before hold behind.

    Raises:
        SpentError: the time is over.
        MemoryError: the memory is, as far as Python asked for it.
        ValueError: this is not the main thread, which alone hears that the time is over.
    """
    global _memory
    if resource is None:
        yield
        return
    before = [(kind, resource.getrlimit(kind)) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_DATA)]
    known, listening = _memory, signal.signal(signal.SIGXCPU, _spent)
    try:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, used.ru_utime + used.ru_stime + budget.seconds)
        _limit(resource.RLIMIT_DATA, _data() + budget.memory)
        _memory = int(budget.memory) if math.isfinite(budget.memory) else 0
        yield
    finally:
        for kind, limits in before:
            resource.setrlimit(kind, limits)
        signal.signal(signal.SIGXCPU, listening)
        _memory = known


def _spent(number: int, frame: FrameType | None) -> None:
    raise SpentError


def _data() -> int:
    """Bytes that this process has already, as the system counts them against a limit; 0 where it does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def allow(path: Path) -> None:
    """Raise this process' budget, if it has one, for a data file that belongs to the target."""
    _allow(MEMORY_FOR_EACH_BYTE * _stored(path), SECONDS_FOR_EACH_BYTE_OF_DATA * _stored(path))


def allow_torch() -> None:
    """Raise this process' budget, if it has one, for PyTorch and what is run with it."""
    _allow(TORCH_MEMORY, TORCH_SECONDS)


def _allow(memory: float, seconds: float) -> None:
    global _memory
    if not _memory or resource is None:
        return
    _memory += int(memory)
    for kind, more in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, seconds)):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            _limit(kind, soft + more)


def _limit(kind: int, wanted: float) -> None:
    hard = resource.getrlimit(kind)[1]
    soft = math.ceil(wanted) if math.isfinite(wanted) else hard
    resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


_NO_MEMORY = (
    "failed to map segment", "cannot map zero-fill pages", "Cannot allocate memory", "can't allocate memory",
    "not enough memory", "error return without exception set",
)  # fmt: skip
"""What loaders and libraries say of a failed allocation."""


def ran_out(error: Exception) -> bool:
    """Whether an error that is no `MemoryError` is one all the same."""
    kinds = (OSError, ImportError, RuntimeError, SystemError)
    return bool(_memory) and isinstance(error, kinds) and any(each in str(error) for each in _NO_MEMORY)


def allowed() -> str:
    """The memory that this process may have, for people."""
    return f"the {_memory / 1e9:.3g} GB that it may have" if _memory else "memory"


def too_much_memory() -> tuple[str, str]:
    """Problem and advice for a person, where an allocation has failed."""
    place, _ = read_board(_board)
    budget = f" than the {_memory / 1e9:.3g} GB that it may have" if _memory else " than there is"
    return f"{place or 'reading it'} needs more memory{budget}", "Check the sizes in the file, or say --max-memory."
