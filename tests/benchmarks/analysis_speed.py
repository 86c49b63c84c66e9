"""The analysis beside one training-mode forward and backward of the same network, in one process.

    python -m tests.benchmarks.analysis_speed

Both sides are given two threads. The analysis runs on a graph traced beforehand, all of whose weights are in memory;
what it spends on reading them (statistics for the rules that judge weights, and every product of a weight tensor with
a vector of moments) is timed as well: the analysis proper is what remains.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "2")  # read once, by numpy's BLAS and by torch

import time

import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Graph
from gnelint.readers.torch.reader import trace_module
from tests.models import CASES
from tests.models.transformer import gpt2

REPORTS = Path(__file__).resolve().parents[2] / "reports" / "benchmarks"
READERS = ("gnelint.theory.weights.contraction", "gnelint.theory.weights.statistics")
VOCABULARY = 50257


@dataclass(frozen=True)
class Spent:
    """Seconds: of the clock, and of all of the process's cores."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Timing:
    """One network at one input shape.

    Attributes:
        analysis: all of `analyse`.
        reading: the part of it inside the functions that read weight tensors.
        training: one forward and backward in training mode; None where only the analysis was timed.
    """

    name: str
    shape: tuple[int, ...]
    analysis: Spent
    reading: Spent
    training: Spent | None

    @property
    def ratio(self) -> float | None:
        """How many analyses fit into one forward and backward."""
        return None if self.training is None else self.training.wall / self.analysis.wall

    @property
    def ratio_without_reading(self) -> float | None:
        """The same for the analysis without reading weights."""
        return None if self.training is None else self.training.wall / (self.analysis.wall - self.reading.wall)


def least(run: Callable[[], object], repeats: int) -> Spent:
    """The fastest of `repeats` runs, by the clock and by the cores' time each, after one that is not counted."""
    run()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Spent(min(walls), min(cpus))


class Stopwatch:
    """Adds up the time spent inside functions, those that they call included once."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self._running = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return function(*args, **kwargs)
            self._running, wall, cpu = True, time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.process_time() - cpu
                self._running = False

        return timed


def reading(graph: Graph, repeats: int) -> Spent:
    """The least time that an analysis spends inside the public functions of `theory.contraction` and
    `theory.weights`, wherever they are called."""
    watches = []
    for _ in range(repeats):
        watch = Stopwatch()
        with ExitStack() as patched:
            for module in [module for name, module in sys.modules.items() if name.startswith("gnelint.")]:
                for name, value in list(vars(module).items()):
                    if inspect.isfunction(value) and value.__module__ in READERS and not name.startswith("_"):
                        patched.enter_context(patch.object(module, name, watch.around(value)))
            analyse(graph)
        watches.append(watch)
    return Spent(min(watch.wall for watch in watches), min(watch.cpu for watch in watches))


def train_once(module: nn.Module, inputs: Tensor) -> None:
    """One forward and backward, the gradients thrown away."""
    module.zero_grad(set_to_none=True)
    module(inputs).square().mean().backward()


def timing(name: str, module: nn.Module, inputs: Tensor, repeats: int, trained: bool) -> Timing:
    """Analysis and training step of one network on these inputs."""
    graph = trace_module(module.train(), (inputs,), name=name).graph
    return Timing(
        name,
        tuple(inputs.shape),
        least(partial(analyse, graph), repeats),
        reading(graph, repeats),
        least(partial(train_once, module, inputs), repeats) if trained else None,
    )


def timings(repeats: int) -> Iterator[Timing]:
    """ResNet-50 at 224 pixels and GPT-2 small, each at several sizes."""
    resnet = CASES["resnet50"].module(classes=1000)
    for batch in (1, 8, 32):
        yield timing("resnet50", resnet, torch.randn(batch, 3, 224, 224), repeats, trained=True)
    for batch, tokens in ((2, 128), (2, 1024), (32, 1024), (2, 4096)):
        torch.manual_seed(0)
        language = gpt2(vocabulary=VOCABULARY, context=tokens, width=768, depth=12, heads=12)
        inputs = torch.randint(VOCABULARY, (batch, tokens))
        yield timing("gpt2 small", language, inputs, repeats, trained=batch * tokens <= 2048)


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=REPORTS / "analysis_speed.json")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(2)
    print(f"seconds by the clock, the least of {chosen.repeats}; {os.cpu_count()} cores, {platform.machine()}")
    print("network      input               analysis  reading  forward+backward  ratio  without reading")
    found = []
    for one in timings(chosen.repeats):
        found.append(one)
        line = f"{one.name:12} {'x'.join(map(str, one.shape)):18} {one.analysis.wall:9.3f} {one.reading.wall:8.3f}"
        if one.training is not None:
            line += f" {one.training.wall:17.3f} {one.ratio:6.1f} {one.ratio_without_reading:16.1f}"
        print(line, flush=True)
    report = {
        "repeats": chosen.repeats,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "timings": [
            asdict(one) | {"ratio": one.ratio, "ratio_without_reading": one.ratio_without_reading} for one in found
        ],
    }
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
