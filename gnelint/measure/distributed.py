"""Processes that measure together: under torchrun each sends its share of the probes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

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

    def gathered(self, own: T) -> list[T]:
        """What every process has, in the order of ranks, in every process."""
        if self.size == 1:
            return [own]
        found: list[T | None] = [None] * self.size
        distributed.all_gather_object(found, own)
        return [part for part in found if part is not None]


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
    if started:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        if started:
            distributed.destroy_process_group()
