"""How much memory a recorded pass takes, how much there is, and how to tell that it ran out."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from gnelint.ir.graph import Graph

_SHARE = 0.8
_PER_VALUE = 3.0
"""Tensors held for each value on a gradient path: itself, what its operation saves, its gradient."""
_PER_WEIGHT = 3.0


def values_need(graph: Graph, itemsize: int) -> int:
    """Bytes that the values of a recorded pass over a graph take, about."""
    values = sum(math.prod(graph.values[name].concrete_shape or (0,)) for name in graph.gradient_values)
    return int(itemsize * _PER_VALUE * values)


def weights_need(graph: Graph, itemsize: int) -> int:
    """Bytes that its weights and their gradients take, about."""
    return int(itemsize * _PER_WEIGHT * sum(parameter.size for parameter in graph.parameters()))


def available(device: torch.device) -> int | None:
    """Bytes that may be taken; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _SHARE)
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(int(line.split()[1]) * 1024 * _SHARE)
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _SHARE)
    except (OSError, ValueError, AttributeError):
        return None


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that there was not enough memory: CPUs and GPUs say it differently."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)
