"""Layers that learned together hand on more of the gradient than each does by itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.aligned import aligned, error_bits
from gnelint.analysis.propagation import analyse
from gnelint.analysis.rows import layer_behind
from gnelint.ir.graph import Graph
from gnelint.readers.torch.reader import read_module

WIDTH = 64


def taught(*between: nn.Module, seed: int = 0) -> nn.Sequential:
    """Four layers that have learned to tell which of a few directions is in the input."""
    torch.manual_seed(seed)
    layers = [nn.Linear(32, WIDTH), *between, nn.Linear(WIDTH, WIDTH), *between, nn.Linear(WIDTH, WIDTH), *between]
    network = nn.Sequential(*layers, nn.Linear(WIDTH, 8))
    directions = torch.randn(8, 32)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        labels = torch.randint(0, 8, (64,))
        loss = nn.functional.cross_entropy(network(directions[labels] + torch.randn(64, 32)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def measured(network: nn.Module, shape: tuple[int, ...]) -> float:
    """log2 of the squared gradient norm at the input, of white cotangents of norm 1 at the output."""
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for _ in range(20):
        x = torch.randn(shape, generator=generator).requires_grad_()
        y = network(x)
        cotangent = torch.randn(y.shape, generator=generator) / math.sqrt(y.numel())
        (g,) = torch.autograd.grad(y, x, cotangent)
        total += float(g.square().sum()) / 20
    return math.log2(total)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_trained_network_hands_on_what_its_layers_learned_together(seed: int) -> None:
    network = taught(nn.ReLU(), seed=seed)
    found = analyse(read_module(network, (torch.randn(64, 32),), name="taught"))
    assert found.stage.verdict == "trained"
    assert found.gradient_log2 is not None
    assert found.error_bits is not None
    error = found.gradient_log2 - measured(network, (64, 32))
    learned = sum(math.log2(factor) for factor in aligned(found.graph, {}).values())
    assert learned > 2.0
    assert abs(error) < found.error_bits
    assert abs(error) < 0.5 * abs(error - learned)  # what was missing


def test_the_factor_is_that_of_draws() -> None:
    """Of matrices that share their strongest directions, with masks that are drawn."""
    torch.manual_seed(0)
    common = torch.randn(WIDTH, 4)
    first, second = nn.Linear(48, WIDTH, bias=False), nn.Linear(WIDTH, 40, bias=False)
    with torch.no_grad():
        first.weight.add_(0.1 * common @ torch.randn(4, 48))
        second.weight.add_(0.1 * torch.randn(40, 4) @ common.T)
    graph = read_module(nn.Sequential(first, nn.ReLU(), second), (torch.randn(32, 48),), name="pair")
    (factor,) = aligned(graph, {}).values()
    masks = (torch.rand(4000, WIDTH) < 0.5).float()
    back = masks * (torch.randn(4000, 40) @ second.weight.detach())
    whole = (back @ first.weight.detach()).square().sum(1).mean()
    alone = (back.square() @ first.weight.detach().square().sum(1)).mean()
    assert factor == pytest.approx(float(whole / alone), rel=0.05)
    assert factor > 2.0


def test_fresh_networks_are_as_before() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 8))
    graph = read_module(network, (torch.randn(64, 32),), name="fresh")
    for factor in aligned(graph, {}).values():
        assert abs(math.log2(factor)) < 0.5
    found = analyse(graph)
    assert found.stage.verdict == "fresh"
    assert found.error_bits is not None
    assert found.error_bits < 1.0


class Turned(nn.Module):  # type: ignore[misc]
    """Maps with channels last between convolutions, and a flattening in front of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.third, self.last = nn.Linear(8, 8), nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).permute(0, 2, 3, 1).relu()
        x = self.second(nn.functional.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1)))
        return self.last(self.third(x.flatten(2).transpose(1, 2)).flatten(1))


def graph_of(module: nn.Module, *shape: int) -> Graph:
    return read_module(module, (torch.randn(shape),), name="net")


def test_units_are_followed_through_moves() -> None:
    graph = graph_of(Turned(), 2, 3, 6, 6)
    behind = {node.name: layer_behind(graph, node) for node in graph.nodes if "weight" in node.parameters}
    names = {name: found.node.name for name, found in behind.items() if found is not None}
    assert names == {"first": "second", "second": "third"}
    bits = error_bits(graph, {"first": 4.0})
    assert bits["first"] == pytest.approx(bits["second"] + 0.05)
    assert bits["last"] == bits["second"]


def test_positions_are_no_units() -> None:
    """A linear layer along positions, of which there are as many as channels."""

    class Mixed(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.channels, self.positions = nn.Conv1d(4, 8, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.positions(self.channels(x))

    graph = graph_of(Mixed(), 2, 4, 8)
    assert all(layer_behind(graph, node) is None for node in graph.nodes)
