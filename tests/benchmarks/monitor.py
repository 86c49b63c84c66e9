"""What `gnelint.monitor` costs: processor seconds of training steps with it and without, in turns.

Run: python -m tests.benchmarks.monitor [--steps 200] [--every 100]; written to reports/benchmarks/monitor.md.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import gnelint
from tests.models import network

NETWORKS = ("mlp", "a_ok", "resnet18", "vit", "gpt2")
REPORT = Path("reports/benchmarks/monitor.md")


def seconds(module: nn.Module, inputs: tuple[Tensor, ...], steps: int) -> float:
    """Processor time of so many steps of SGD."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    started = time.process_time()
    for _ in range(steps):
        output = module(*inputs)
        optimizer.zero_grad()
        (output if isinstance(output, Tensor) else output[0]).square().mean().backward()
        optimizer.step()
    return time.process_time() - started


def overhead(name: str, steps: int, every: int, pairs: int) -> tuple[float, float]:
    """The median ratio of pairs, and the seconds that the check at the first pass takes."""
    module, inputs = network(name)
    other = copy.deepcopy(module)
    with gnelint.monitor(module, every=every) as monitor:
        started = time.process_time()
        seconds(module, inputs, 1)
        first = time.process_time() - started
        assert monitor.plan is not None
        watched: list[float] = []
        alone: list[float] = []
        for _ in range(pairs):
            watched.append(seconds(module, inputs, steps))
            alone.append(seconds(other, inputs, steps))
    return statistics.median(a / b for a, b in zip(watched, alone, strict=True)), first


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    lines = [
        "# What gnelint.monitor costs",
        "",
        f"Training steps on the CPU, {options.pairs} pairs of {options.steps} steps with the monitor (every "
        f"{options.every}) and without, processor seconds.",
        "",
        "| network | with / without | check at the first pass, s |",
        "|---|---:|---:|",
    ]
    for name in NETWORKS:
        ratio, first = overhead(name, options.steps, options.every, options.pairs)
        lines.append(f"| {name} | {ratio:.4f} | {first:.1f} |")
        print(lines[-1], flush=True)
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
