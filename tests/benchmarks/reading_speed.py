"""How long reading a module takes against `torch.export.export` alone: for many buffers, and for many operations.

    python -m tests.benchmarks.reading_speed [--repeats N] [--out FILE]

Each is read and exported by turns, which is timed in seconds of processor; the least of each counts. Written to
reports/benchmarks/reading_speed.md.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from gnelint.readers.torch.reader import read_module

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "reading_speed.md"
MOST = 1.2
"""Times what exporting alone takes."""


class Branches(nn.Module):
    """A convolution as several with a batch normalisation each, and one of the input itself, as GhostNetV3 trains
    them."""

    def __init__(self, inputs: int, outputs: int, size: int, groups: int, count: int = 3) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, outputs, size, 1, size // 2, groups=groups, bias=False),
                          nn.BatchNorm2d(outputs))
            for _ in range(count)
        )  # fmt: skip
        self.skip = nn.BatchNorm2d(inputs) if inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        found = sum(branch(x) for branch in self.convolutions)
        return torch.relu(found if self.skip is None else found + self.skip(x))


class ManyBuffers(nn.Module):
    """Half of the channels by wide layers, the other half by cheap ones of those, in a row."""

    def __init__(self, width: int = 32, blocks: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.primary = nn.ModuleList(Branches(width, width // 2, 1, 1) for _ in range(blocks))
        self.cheap = nn.ModuleList(Branches(width // 2, width // 2, 3, width // 2) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for primary, cheap in zip(self.primary, self.cheap, strict=True):
            half = primary(x)
            x = x + torch.cat([half, cheap(half)], 1)
        return self.head(x.mean((2, 3)))


class ManyOperations(nn.Module):
    """Couplings of dilated gates, as the flows of VITS have them: some twenty small operations a layer."""

    def __init__(self, width: int = 32, flows: int = 6, layers: int = 6) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.before = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in range(flows))
        self.gates = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(2 * width, 4 * width, 5, padding=2))
            for _ in range(flows * layers)
        )
        self.sides = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(2 * width, 4 * width, 1)) for _ in range(flows * layers)
        )
        self.behind = nn.ModuleList(nn.Conv1d(2 * width, 2 * width, 1) for _ in range(flows))

    def forward(self, x: Tensor) -> Tensor:
        for flow, (before, behind) in enumerate(zip(self.before, self.behind, strict=True)):
            kept, moved = x.split(self.width, 1)
            h, skipped = before(kept), torch.zeros(())
            for layer in range(flow * self.layers, (flow + 1) * self.layers):
                slope, gate = self.gates[layer](h).chunk(2, 1)
                more, side = self.sides[layer](torch.tanh(slope) * torch.sigmoid(gate)).chunk(2, 1)
                h, skipped = h + more, skipped + side
            mean, scale = behind(skipped).split(self.width, 1)
            x = torch.cat([kept, mean + moved * torch.exp(scale)], 1).flip(1)
        return x


NETWORKS: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...]], ...] = (
    ("many buffers (GhostNetV3-like)", ManyBuffers, (2, 3, 32, 32)),
    ("many operations (VITS-like)", ManyOperations, (2, 64, 48)),
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    read_module(nn.Linear(2, 2), (torch.zeros(1, 2),), name="first")
    rows = []
    for name, make, shape in NETWORKS:
        torch.manual_seed(0)
        module, example = make(), torch.randn(shape)
        exported = read = float("inf")
        for _ in range(given.repeats):
            exported = min(exported, seconds(lambda m=module, x=example: torch.export.export(m, (x,), strict=False)))
            read = min(read, seconds(lambda m=module, x=example: read_module(m, (x,), name="network")))
        buffers = sum(1 for _ in module.buffers())
        nodes = len(read_module(module, (example,), name="network").nodes)
        rows.append(f"| {name} | {buffers} | {nodes} | {exported:.2f} | {read:.2f} | {read / exported:.2f} |")
        print(rows[-1], flush=True)
    given.out.write_text("\n".join([*HEAD, *rows, ""]), encoding="utf-8")


HEAD = (
    "# Reading against exporting alone",
    "",
    f"Seconds of processor, the least of some repeats; at most {MOST} times is wanted.",
    "",
    "| network | buffers | nodes read | torch.export.export, s | reading, s | times |",
    "|---|--:|--:|--:|--:|--:|",
)


def seconds(run: Callable[[], object]) -> float:
    """Of processor."""
    started = time.process_time()
    run()
    return time.process_time() - started


if __name__ == "__main__":
    main()
