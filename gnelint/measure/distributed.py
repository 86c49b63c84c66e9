"""Processes that measure together: under torchrun each sends its share of the probes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed

from gnelint.measure.memory import ran_out
from gnelint.records import dataclass

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes that measure one network.

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def agreed(self, own: bool) -> bool:
        """Whether it is so in any of the processes."""
        return any(self.gathered(own))

    def gathered(self, own: T) -> list[T]:
        """What every process has, in the order of ranks, in every process."""
        if self.size == 1:
            return [own]
        found: list[T | None] = [None] * self.size
        distributed.all_gather_object(found, own)
        return found  # type: ignore[return-value]  # every process has put something there


def together(team: Team, action: Callable[[], T]) -> T:
    """What the action returns; if memory runs out in one process it does so in all, so that none waits for ever.

    Raises:
        MemoryError: memory ran out in another process; in this one, torch's own error.
    """
    error: BaseException | None = None
    try:
        result = action()
    except (RuntimeError, MemoryError) as caught:
        if not ran_out(caught):
            raise
        error = caught
    if team.agreed(error is not None):
        raise error or MemoryError("memory ran out in another process")
    return result


def local_device(device: torch.device) -> torch.device:
    """The device of this process where several share a machine: each takes a GPU of its own."""
    if not launched() or device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def launched() -> bool:
    """Whether torchrun started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """The team that torchrun started, this process alone if there is none: gloo on CPUs, NCCL on GPUs."""
    if not launched():
        yield Team()
        return
    started = not distributed.is_initialized()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if started:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        if started:
            distributed.destroy_process_group()
