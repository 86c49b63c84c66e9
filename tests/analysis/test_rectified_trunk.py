"""Trunks that end in a rectifier, with branches that are small beside them, against autograd and a forward pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import Propagation, analyse
from gnelint.readers.torch.reader import trace_module

WIDTH, DEPTH, SAMPLES = 512, 12, 64


class Trunk(nn.Module):
    """relu(x + scale * branch) again and again, as Inception-ResNet has it."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=math.sqrt(2 / WIDTH))
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        for layer in self.layers:
            x = torch.relu(x + self.scale * layer(x))
        return x


class NormalisedTrunk(nn.Module):
    """x + scale * branch of x = relu(bn(...)) again and again, as the aligned Xception has it before activations: ever
    fewer entries are above the mean, and those have been there before."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.norms = nn.ModuleList(nn.BatchNorm1d(64) for _ in range(6))
        self.layers = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(6))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=math.sqrt(2 / 64))

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.relu(norm(x))
            x = x + self.scale * layer(x)
        return x


def measured_gradient(net: nn.Module, x: Tensor, y: Tensor) -> float:
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
    return math.log2(float(gradient.pow(2).sum()) / y.numel())


@pytest.mark.parametrize("scale", [0.03, 0.1, 0.3, 1.0])
def test_values_and_gradients(scale: float) -> None:
    torch.manual_seed(0)
    net, x = Trunk(scale), torch.randn(SAMPLES, WIDTH, requires_grad=True)
    graph = trace_module(net, (x.detach(),), name="trunk").graph
    gradient = analyse(graph).gradient_log2
    y = net(x)
    assert gradient is not None
    assert abs(gradient - measured_gradient(net, x, y)) < 0.3
    forward = Propagation(graph)
    for node in graph.nodes:
        forward.step(node)
    second = forward.second_moment(graph.outputs[0])
    assert second is not None
    assert abs(math.log2(second / float(y.detach().pow(2).mean()))) < 0.13


@pytest.mark.parametrize("scale", [0.1, 0.4, 1.0])
def test_gradients_of_a_normalised_trunk(scale: float) -> None:
    """1.0 to 2.4 bits off where masks are taken for independent. Of these 0.06 a block stay where trunk and branch are
    about equal: how far the entries that have passed several masks lie above the next one is known on average alone."""
    torch.manual_seed(0)
    net, x = NormalisedTrunk(scale).double(), torch.randn(512, 64, dtype=torch.float64, requires_grad=True)
    gradient = analyse(trace_module(net, (x.detach(),), name="trunk").graph).gradient_log2
    y = net(x)
    assert gradient is not None
    assert abs(gradient - measured_gradient(net, x, y)) < 0.4
