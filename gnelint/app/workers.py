"""Processes that answer for files of strangers: one that ends without an answer costs the answer it owed, no other.

Reading a model runs libraries that a damaged file can end, or fill the memory of the machine. A worker is a copy of
this process, which has loaded nothing of a model by then; it takes one job after the other, and is replaced when it is
gone.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from mmap import mmap
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Literal, TypeVar

from gnelint.budget import Tell, new_board, read_board, use_board

J = TypeVar("J")
A = TypeVar("A")
Silent = Literal["nothing", "libraries", "all"]
"""What of a process goes nowhere: of what is not Python's, which has last words, or also what Python writes."""
_TELL_EVERY = 0.3
"""Seconds."""


class Workers(Generic[J, A]):
    """So many processes, and the answers of jobs in the order of the jobs."""

    def __init__(
        self, answer: Callable[[J], A], lost: Callable[[J, int, str], A], processes: int, silent: Silent
    ) -> None:
        """Start nothing yet.

        Args:
            answer: what a worker does with a job.
            lost: the answer for a job whose worker is gone; it gets its exit code and the place where it was.
            processes: at most so many at once.
            silent: whose words on standard error go nowhere.
        """
        self._start = partial(_Worker, answer, silent)
        self._lost = lost
        self._processes = processes

    def answers(self, jobs: Sequence[J], tell: Tell | None = None) -> Generator[A, None, None]:
        """The answer to each job, in order; the processes end with it.

        Args:
            jobs: what is to be done.
            tell: hears every now and then where the job is whose turn it is.
        """
        waiting = deque(enumerate(jobs))
        workers = [self._start() for _ in range(min(self._processes, len(jobs)))]
        found: dict[int, A] = {}
        turn = 0
        try:
            self._hand_out(workers, waiting)
            while turn < len(jobs):
                busy = [worker for worker in workers if worker.job is not None]
                for ready in self._ready(busy, turn, tell):
                    worker = next(each for each in busy if each.pipe is ready)
                    index, job = worker.job or (0, jobs[0])
                    answer = worker.take()
                    found[index] = self._lost(job, worker.exit_code, worker.place) if answer is None else answer[0]
                self._hand_out(workers, waiting)  # what is done with an answer may take a while
                while turn in found:
                    yield found.pop(turn)
                    turn += 1
        finally:
            for worker in workers:
                worker.end()

    def _hand_out(self, workers: list[_Worker[J, A]], waiting: deque[tuple[int, J]]) -> None:
        """A job for each that has none, while there are any."""
        for index, worker in enumerate(workers):
            if worker.job is None and waiting:
                if not worker.process.is_alive():
                    worker = workers[index] = self._start()
                worker.give(waiting.popleft())

    def _ready(self, busy: Sequence[_Worker[J, A]], turn: int, tell: Tell | None) -> list[Any]:
        """The pipes with an answer or an end, once there is one."""
        pipes = [worker.pipe for worker in busy]
        if tell is None:
            return wait(pipes)
        while not (ready := wait(pipes, _TELL_EVERY)):
            for worker in busy:
                if worker.job is not None and worker.job[0] == turn:
                    tell(*read_board(worker.board))
        return ready


class _Worker(Generic[J, A]):
    """One process, and the job that it has; `job` is None while it waits for one."""

    def __init__(self, answer: Callable[[J], A], silent: Silent) -> None:
        forks = sys.platform == "linux" and threading.active_count() == 1 and "torch" not in sys.modules
        context = multiprocessing.get_context("fork" if forks else "spawn")
        self.pipe, theirs = context.Pipe()
        self.board: mmap | None = new_board() if forks else None
        arguments = (answer, silent, theirs, self.pipe if forks else None, self.board)
        self.process = context.Process(target=_serve, args=arguments, daemon=False)  # type: ignore[attr-defined]
        self.process.start()
        theirs.close()
        self.job: tuple[int, J] | None = None

    def give(self, job: tuple[int, J]) -> None:
        """Hand it a job."""
        self.job = job
        with suppress(OSError):  # it is gone already: `take` finds out
            self.pipe.send(job[1])

    def take(self) -> tuple[A] | None:
        """Its answer, None if it is gone without one."""
        self.job = None
        try:
            return (self.pipe.recv(),)
        except (EOFError, OSError):
            self.process.join()
            return None

    @property
    def exit_code(self) -> int:
        """Of a process that is gone: negative for a signal."""
        return self.process.exitcode or 0

    @property
    def place(self) -> str:
        """Where in the model it was."""
        return read_board(self.board)[0]

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def _serve(
    answer: Callable[[J], A], silent: Silent, pipe: Connection, parents: Connection | None, board: mmap | None
) -> None:
    """What a worker does: answer jobs until the process that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells all processes; the first one ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.set_threshold(100_000, 50, 50)
    _keep_memory()
    if silent == "libraries":
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    if silent != "nothing":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if parents is not None:
        parents.close()
    use_board(board)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            pipe.send(answer(pipe.recv()))


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt`."""
_KEPT = 1 << 25
"""Bytes: what an array of moments, or of points of a quadrature, takes at most."""


def _keep_memory() -> None:
    """Let the C library keep what arrays give back: it would return it at once and ask for it again, page by
    page, for the next array (a twentieth of a check of ResNet-50)."""
    import ctypes  # numpy loads it anyway

    with suppress(AttributeError, OSError):  # another C library
        change = ctypes.CDLL(None).mallopt
        change(_MMAP_THRESHOLD, _KEPT)
        change(_TRIM_THRESHOLD, 4 * _KEPT)


def _end_with(parent: int) -> None:
    """End this process, whatever it is doing, once the one that started it is gone: its end may have been sudden."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
