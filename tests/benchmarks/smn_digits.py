"""Second moment normalisation in the place of batch normalisation, and a wrong gain put right: do the networks learn?

    python -m tests.benchmarks.smn_digits [--seeds 5] [--epochs 20]

Three tables, printed and written to reports/benchmarks/smn_digits.json and .md:

    phi       of each block of ResNets and DenseNets in training mode, with BatchNorm and with second moment
              normalisation and centred filters in its place wherever `gnelint fix` puts them, predicted
    accuracy  of both on held-out digits (scikit-learn's, 8x8, upscaled to 16x16) after training
    gain      a 50-layer network without normalisation whose weights are 0.7 times He's, as it is and as `gnelint.fix`
              returns it

Training is Adam for all, with the same batches in the same order for the networks that are compared. The mean over
seeds has the standard error of the seeds' differences behind it, since pairs share data, batches and initial weights.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

import gnelint
from tests.models.common import kaiming_fan_out_
from tests.models.densenet import DenseBlock, densenet121, transition
from tests.models.plain import plain_mlp
from tests.models.resnet import Basic, resnet18

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "smn_digits.json"
BATCH = 64
RATE, DEEP_RATE = 1e-3, 1e-4
"""Of Adam; 50 layers without normalisation take smaller steps, whatever their weights."""
WIDTH = 128
WRONG_GAIN = 0.7


@dataclass(frozen=True)
class BlockPhi:
    """phi of one block with either normalisation."""

    network: str
    block: str
    batch_norm: float
    second_moment: float

    @property
    def apart(self) -> float:
        """Relative difference."""
        return self.second_moment / self.batch_norm - 1.0


@dataclass(frozen=True)
class Comparison:
    """Held-out accuracies of two networks, a pair for each seed."""

    network: str
    names: tuple[str, str]
    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def difference(self) -> float:
        """Mean of second minus first."""
        return fmean(b - a for a, b in zip(self.first, self.second, strict=True))

    @property
    def error(self) -> float:
        """Its standard error over the seeds."""
        differences = [b - a for a, b in zip(self.first, self.second, strict=True)]
        return stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan


def small_resnet() -> nn.Sequential:
    """Stem, three stages of one basic block (16, 32, 64 channels), pool, head."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Basic(16, 16, 1),
        Basic(16, 32, 2),
        Basic(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    kaiming_fan_out_(net)
    return net


def small_densenet() -> nn.Sequential:
    """Stem, two dense blocks of three layers (growth 8) with a transition between, norm, pool, head."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        DenseBlock(3, 16, 8),
        transition(40),
        DenseBlock(3, 20, 8),
        nn.BatchNorm2d(44),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(44, 10),
    )
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet": small_resnet, "densenet": small_densenet}
EXAMPLES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (small_resnet, (64, 1, 16, 16)),
    "densenet": (small_densenet, (64, 1, 16, 16)),
    "resnet18": (resnet18, (8, 3, 64, 64)),
    "densenet121": (densenet121, (8, 3, 64, 64)),
}


def plain_network() -> nn.Sequential:
    """50 linear layers with ReLUs between, no normalisation, every weight `WRONG_GAIN` times He's."""
    hidden = plain_mlp(depth=48, width=WIDTH, gain=WRONG_GAIN)
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, WIDTH), nn.ReLU(), *hidden, nn.Linear(WIDTH, 10))
    for layer in (net[1], net[-1]):
        nn.init.normal_(layer.weight, std=WRONG_GAIN * math.sqrt(2 / layer.in_features))
        nn.init.zeros_(layer.bias)
    return net


def with_second_moments(net: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """What `gnelint fix` makes of every batch normalisation that rule GNE311 would replace, however few there are."""
    options = {"select": ["GNE311"], "params": {"GNE311": {"least": 1}}, "preview": True, "unsafe": True}
    return gnelint.fix(net.train(), (torch.zeros(shape),), **options)


def phis(name: str) -> list[BlockPhi]:
    """Both phis of every block."""
    make, shape = EXAMPLES[name]
    torch.manual_seed(0)
    net = make()
    before, after = (
        gnelint.check(each, (torch.zeros(shape),)).blocks for each in (net, with_second_moments(net, shape))
    )
    pairs = zip(before, after, strict=True)
    return [BlockPhi(name, a.name, a.phi, b.phi) for a, b in pairs if a.phi and b.phi is not None]


@dataclass(frozen=True)
class Data:
    """Images of 16x16 with zero mean and unit variance, and their digits."""

    images: Tensor
    digits: Tensor
    held_images: Tensor
    held_digits: Tensor


def digits(seed: int) -> Data:
    """scikit-learn's digits, three quarters of them to train on."""
    found = load_digits()
    split = train_test_split(found.images, found.target, test_size=0.25, random_state=seed, stratify=found.target)
    trained, held = (torch.tensor(part, dtype=torch.float32)[:, None] for part in split[:2])
    mean, std = trained.mean(), trained.std()
    images = [functional.interpolate((x - mean) / std, scale_factor=2, mode="bilinear") for x in (trained, held)]
    return Data(images[0], torch.tensor(split[2]), images[1], torch.tensor(split[3]))


def accuracy_of(net: nn.Module, data: Data, seed: int, epochs: int, rate: float) -> float:
    """Share of the held-out digits that are named right after training."""
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.digits), generator=order).split(BATCH):
            if len(rows) < 2:
                continue
            optimiser.zero_grad()
            functional.cross_entropy(net(data.images[rows]), data.digits[rows]).backward()
            optimiser.step()
    net.eval()
    with torch.no_grad():
        return float((net(data.held_images).argmax(1) == data.held_digits).float().mean())


def compared(
    name: str,
    names: tuple[str, str],
    make: Callable[[], nn.Module],
    change: Callable[[nn.Module], nn.Module],
    seeds: int,
    epochs: int,
    rate: float = RATE,
) -> Comparison:
    """A network trained as it is and as it is once changed."""
    first, second = [], []
    for seed in range(seeds):
        data = digits(seed)
        torch.manual_seed(seed)
        net = make()
        changed = change(net)
        first.append(accuracy_of(net, data, seed, epochs, rate))
        second.append(accuracy_of(changed, data, seed, epochs, rate))
        print(f"  {name} seed {seed}: {first[-1]:.4f} {second[-1]:.4f}", file=sys.stderr, flush=True)
    return Comparison(name, names, tuple(first), tuple(second))


def table(blocks: Sequence[BlockPhi], comparisons: Sequence[Comparison]) -> list[str]:
    """Both tables as Markdown."""
    lines = [
        "## phi in training mode",
        "",
        "| network | block | BatchNorm | second moment | apart |",
        "|---|---|--:|--:|--:|",
    ]
    lines += [
        f"| {b.network} | {b.block} | {b.batch_norm:.4g} | {b.second_moment:.4g} | {b.apart:+.1%} |" for b in blocks
    ]
    lines += ["", "## Accuracy on held-out digits", ""]
    lines += [
        "| network | seeds | | accuracy | | accuracy | difference | standard error |",
        "|---|--:|---|--:|---|--:|--:|--:|",
    ]
    lines += [
        f"| {c.network} | {len(c.first)} | {c.names[0]} | {fmean(c.first):.4f} | {c.names[1]} | {fmean(c.second):.4f} "
        f"| {c.difference:+.4f} | {c.error:.4f} |"
        for c in comparisons
    ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the layers are small: more threads wait for each other
    begin = time.perf_counter()
    blocks = [block for name in EXAMPLES for block in phis(name)]
    shape = (BATCH, 1, 16, 16)
    train = {"seeds": arguments.seeds, "epochs": arguments.epochs}
    comparisons = [
        compared(name, ("BatchNorm", "second moment"), make, lambda net: with_second_moments(net, shape), **train)
        for name, make in NETWORKS.items()
    ]
    example = (torch.zeros(shape),)
    plain = compared(
        "50 layers", ("as it is", "fixed"), plain_network, lambda n: gnelint.fix(n, example), **train, rate=DEEP_RATE
    )
    comparisons.append(plain)
    lines = table(blocks, comparisons)
    print("\n".join(lines))
    print(f"\n{time.perf_counter() - begin:.0f} s")
    found = {**train, "blocks": [asdict(b) for b in blocks], "comparisons": [asdict(c) for c in comparisons]}
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
