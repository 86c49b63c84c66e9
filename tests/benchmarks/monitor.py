"""What `gnelint.monitor` costs: processor seconds of training steps with it and without, in turns.

Run: python -m tests.benchmarks.monitor [--seconds 60] [--every 100]; written to reports/benchmarks/monitor.md.

Four copies of a network take a step each in every turn: two alone, one watched in a step that is not measured, one in a
step that is. Of `every` steps one is measured: the overhead is (measured - 1) / every + (watched - 1) (1 - 1 / every),
of ratios to a step alone. The second copy that is alone is the control: it shows how much of a ratio is noise.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import gnelint
from tests.models import network

NETWORKS = ("mlp", "a_ok", "resnet18", "vit", "gpt2")
REPORT = Path("reports/benchmarks/monitor.md")
NEVER = 10**9
FEWEST = 20
"""Turns at least, whatever they take."""
ROLES = ("alone", "control", "watched", "measured")


def seconds(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Processor time of a step of SGD."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    started = time.process_time()
    output = module(*inputs)
    optimizer.zero_grad()
    (output if isinstance(output, Tensor) else output[0]).square().mean().backward()
    optimizer.step()
    return time.process_time() - started


def ratios(name: str, budget: float) -> tuple[dict[str, list[float]], float]:
    """The ratio to a step alone of each other copy's step, turn by turn, and the seconds of the first pass's check.

    Args:
        name: of the network.
        budget: processor seconds that the turns may take.
    """
    module, inputs = network(name)
    copies = {role: copy.deepcopy(module) for role in ROLES}
    found: dict[str, list[float]] = {role: [] for role in ROLES[1:]}
    with (
        gnelint.monitor(copies["watched"], every=NEVER) as watched,
        gnelint.monitor(copies["measured"], every=1) as measured,
    ):
        first = seconds(copies["watched"], inputs)
        for each in copies.values():
            seconds(each, inputs)
        before, end, turns = len(measured.history), time.process_time() + budget, 0
        while turns < FEWEST or time.process_time() < end:
            order = [*ROLES[turns % 4 :], *ROLES[: turns % 4]]
            taken = {role: seconds(copies[role], inputs) for role in order}
            for role, some in found.items():
                some.append(taken[role] / taken["alone"])
            turns += 1
        assert len(measured.history) == before + turns
        assert len(watched.history) == 1
    return found, first


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the ends of the interval that holds it 95 times in a hundred, by the sign test."""
    ordered = sorted(values)
    rank = max(int(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5), 0)
    return statistics.median(ordered), ordered[rank], ordered[-1 - rank]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time for a network")
    parser.add_argument("--every", type=int, default=100)
    options = parser.parse_args()
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    lines = [
        "# What gnelint.monitor costs",
        "",
        f"Steps of SGD on the CPU in turns, {options.seconds:.0f} processor seconds a network; medians of ratios to a",
        f"step alone with their 95% intervals. One step in {options.every} is measured. The machine was at a load of",
        f"{load:.1f} a core as it began.",
        "",
        "| network | overhead, % | noise, % | a measured step | a watched step | a step alone again | first check, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in NETWORKS:
        found, first = ratios(name, options.seconds)
        of = {role: median(values) for role, values in found.items()}
        share = 1 / options.every
        overhead = share * (of["measured"][0] - 1) + (1 - share) * (of["watched"][0] - 1)
        noise = (of["control"][2] - of["control"][1]) / 2
        told = [f"{mid:.3f} ({low:.3f} to {high:.3f})" for mid, low, high in (of[role] for role in reversed(ROLES[1:]))]
        numbers = [f"{100 * overhead:+.2f}", f"±{100 * noise:.2f}", *told, f"{first:.1f}"]
        lines.append(f"| {name} | {' | '.join(numbers)} |")
        print(lines[-1], flush=True)
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
