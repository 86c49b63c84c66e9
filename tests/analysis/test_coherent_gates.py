"""Gates that see a gradient which positions, or the branches they choose from, share: held against autograd."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.readers.torch.reader import trace_module

CHANNELS = 12


def convolution(dilation: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(CHANNELS), nn.ReLU())


class Selected(nn.Module):
    """Two branches, weighed by a softmax over them of what both show on average (arXiv 1903.06586)."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList([convolution(), convolution(2)])
        self.choice = nn.Linear(CHANNELS, 2 * CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([path(x) for path in self.paths], 1)
        weights = self.choice(stacked.sum(1).mean((2, 3))).unflatten(1, (2, -1)).softmax(1)
        return (stacked * weights[..., None, None]).sum(1)


class Split(Selected):
    """The same, the branches being parts of one convolution's channels (arXiv 2004.08955)."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1, bias=False)
        self.paths = nn.ModuleList([nn.Sequential(layer, nn.BatchNorm2d(2 * CHANNELS), nn.ReLU())])

    def forward(self, x: Tensor) -> Tensor:
        parts = self.paths[0](x).unflatten(1, (2, -1))
        weights = self.choice(parts.sum(1).mean((2, 3))).unflatten(1, (2, -1)).softmax(1)
        return (parts * weights[..., None, None]).sum(1)


class Placed(nn.Module):
    """A gate for channels before a gate for positions, which borders make differ from place to place
    (arXiv 1807.06521)."""

    def __init__(self) -> None:
        super().__init__()
        self.path = convolution()
        self.choice, self.place = nn.Linear(CHANNELS, CHANNELS), nn.Conv2d(CHANNELS, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.path(x)
        x = x * self.choice(x.mean((2, 3))).sigmoid()[..., None, None]
        return x * self.place(x).sigmoid()


class Network(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, CHANNELS, 3, padding=1), block
        self.head = nn.Linear(CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.block(self.stem(x)).mean((2, 3)))
        return found


BLOCKS: Mapping[str, type[nn.Module]] = {"selected": Selected, "split": Split, "placed": Placed}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_gradient_of_a_gate_before_a_mean_is_found(name: str) -> None:
    torch.manual_seed(0)
    network, x = Network(BLOCKS[name]()).double(), torch.randn(16, 3, 10, 10, dtype=torch.float64)
    prediction = analyse(trace_module(network, (x,), name=name).graph).by_node["block.choice"].gradient_log2
    kept: list[Tensor] = []
    network.block.choice.register_forward_hook(lambda _, __, y: kept.append(y))
    top = bottom = 0.0
    for _ in range(8):
        y = network(torch.randn_like(x))
        cotangent = torch.randn_like(y)
        (gradient,) = torch.autograd.grad(y, kept[-1], cotangent)
        top, bottom = top + float(gradient.square().sum()), bottom + float(cotangent.square().sum())
    assert prediction == pytest.approx(math.log2(top / bottom), abs=1.0)
