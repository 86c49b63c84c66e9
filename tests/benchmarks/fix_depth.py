"""What `gnelint fix` makes of deep networks without normalisation: the gradient's norm from end to end, measured.

    python -m tests.benchmarks.fix_depth [--draws 5] [NAME ...]

Chains of 50 and 100 layers of width 128 in PyTorch's default initialisation, one for each activation, convolutions of
50, and residual networks of 50 blocks. Each is drawn, fixed with the stable rules as `gnelint fix` would, and run in
float64 on N(0, 1) inputs with white cotangents. The squared norm of the gradient at the input, relative to the one at
the output, is to be within a factor of 1.2 of 1 as predicted, of 2 as measured at 50 layers or blocks and of 4 at 100
(mean over the draws). Written to reports/benchmarks/fix_depth.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

import gnelint
from tests.models.plain import plain_conv, plain_mlp, residual_conv

OUT = Path(__file__).parents[2] / "reports" / "benchmarks" / "fix_depth.json"
WIDTH = 128
BATCH = 256
PREDICTED, MEASURED = 1.2, {50: 2.0, 100: 4.0}
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "selu", "elu", "softplus", "gelu", "silu", "mish", "hardswish")


@dataclass(frozen=True)
class Network:
    """One of the networks.

    Attributes:
        make: draws it.
        shape: of its input.
        depth: layers or blocks.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    depth: int


@dataclass(frozen=True)
class Row:
    """What became of one of them; ratios of squared norms, one for each draw.

    Attributes:
        before: log2 of what was predicted of the network as it was drawn, first draw.
        predicted: log2 of what is predicted of the fixed one.
        measured: of the fixed one.
        left: findings that the fixed one has, first draw.
        seconds: to plan and to make the fixes, first draw.
    """

    network: str
    depth: int
    before: float
    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    left: tuple[str, ...]
    seconds: float

    @property
    def kept(self) -> bool:
        """Whether both are as near to 1 as they are to be."""
        near = all(abs(bits) <= math.log2(PREDICTED) for bits in self.predicted)
        return near and abs(math.log2(fmean(self.measured))) <= math.log2(MEASURED[self.depth])


def networks() -> dict[str, Network]:
    """All of them, by name."""
    found: dict[str, Network] = {}
    for depth in MEASURED:
        for activation in ACTIVATIONS:
            make = partial(plain_mlp, depth=depth, width=WIDTH, activation=activation, init="default")
            found[f"mlp_{activation}_{depth}"] = Network(make, (BATCH, WIDTH), depth)
    for activation in ("relu", "tanh", "gelu"):
        make = partial(plain_conv, depth=50, channels=32, inputs=3, activation=activation, init="default")
        found[f"conv_{activation}_50"] = Network(make, (8, 3, 16, 16), 50)
    found["mlp_relu_wrong_gain_50"] = Network(partial(plain_mlp, depth=50, width=WIDTH, gain=1.5), (BATCH, WIDTH), 50)
    found["residual_conv_50"] = Network(partial(residual_conv, depth=50, channels=16), (8, 3, 16, 16), 50)
    return found


def ratio(net: nn.Module, x: Tensor, cotangents: int = 4) -> float:
    """Squared gradient norm at the input relative to the output, mean over white cotangents."""
    net, x = net.double(), x.double().requires_grad_()
    found = []
    for seed in range(cotangents):
        y = net(x)
        sent = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        (gradient,) = torch.autograd.grad(y, x, sent)
        found.append(float(gradient.square().sum() / sent.square().sum()))
    return fmean(found)


def row(name: str, network: Network, draws: int) -> Row:
    """One network drawn, fixed and measured."""
    predicted, measured = [], []
    before, seconds = math.nan, 0.0
    left: tuple[str, ...] = ()
    for seed in range(draws):
        torch.manual_seed(seed)
        net, x = network.make(), torch.randn(network.shape)
        begin = time.perf_counter()
        fixed = gnelint.fix(net, x)
        if seed == 0:
            seconds = time.perf_counter() - begin
            before = bits(net, x)[0]
        after, rules = bits(fixed, x)
        left = left or rules
        predicted.append(after)
        measured.append(ratio(fixed, x))
    return Row(name, network.depth, before, tuple(predicted), tuple(measured), left, seconds)


def bits(net: nn.Module, x: Tensor) -> tuple[float, tuple[str, ...]]:
    """log2 of the predicted ratio, and the rules that speak."""
    found = gnelint.check(net, x)
    assert found.prediction.gradient_log2 is not None
    return found.prediction.gradient_log2, tuple(dict.fromkeys(finding.rule for finding in found.findings))


def table(rows: list[Row]) -> list[str]:
    """The rows as Markdown."""
    lines = [
        "| network | predicted before | predicted after | measured mean | draw by draw | left | s | |",
        "|---|--:|--:|--:|--:|---|--:|---|",
    ]
    for each in rows:
        worst = max(each.predicted, key=abs)
        lines.append(
            f"| {each.network} | 2^{each.before:.1f} | 2^{worst:.3f} at most | {fmean(each.measured):.3g} | "
            f"{' '.join(f'{m:.2g}' for m in each.measured)} | {' '.join(each.left) or '-'} | {each.seconds:.1f} | "
            f"{'kept' if each.kept else '**missed**'} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of networks, all by default")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: network for name, network in networks().items() if not arguments.names or name in arguments.names}
    rows = []
    for name, network in chosen.items():
        rows.append(row(name, network, arguments.draws))
        print(table(rows)[-1], flush=True)
    lines = ["# Deep networks after `gnelint fix`", "", *table(rows)]
    arguments.out.write_text(json.dumps([asdict(each) | {"kept": each.kept} for each in rows], indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print(f"\n{sum(each.kept for each in rows)} of {len(rows)} kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
