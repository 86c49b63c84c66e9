"""Blocks that follow each other as copies are found, and neither shared ones nor copies beside each other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.analysis.stacks import Stack, stacks
from gnelint.readers.torch.reader import read_module


class Row(nn.Module):
    """Blocks behind each other; of what a recurrent one gives, its outputs."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            given = block(x)
            x = given[0] if isinstance(given, tuple) else given
        return x


def found(module: nn.Module, *shape: int) -> tuple[Stack, ...]:
    graph = read_module(module, (torch.randn(*shape),), name="network")
    return stacks(graph, analyse(graph).weights)


def copies(block: nn.Module, count: int) -> list[nn.Module]:
    return [copy.deepcopy(block) for _ in range(count)]


def test_a_stack_is_found_once_with_all_its_layers() -> None:
    block = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    (stack,) = found(Row(nn.Linear(8, 8), *copies(block, 4)), 3, 8)
    assert stack.blocks == 4
    assert [[node.name for node in row] for row in stack.rows] == [
        [f"blocks.{place}.{layer}" for place in (1, 2, 3, 4)] for layer in (0, 2)
    ]


def test_two_stacks_are_two() -> None:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    both = found(Row(*copies(first, 2), nn.Tanh(), *copies(second, 3)), 3, 8)
    assert [stack.blocks for stack in both] == [2, 3]


def test_recurrent_layers_count() -> None:
    (stack,) = found(Row(*copies(nn.GRU(8, 8, batch_first=True), 3)), 2, 4, 8)
    assert stack.blocks == 3


@pytest.mark.parametrize("kind", ["drawn", "shared", "zeros", "identities", "frozen", "beside"])
def test_other_networks_have_none(kind: str) -> None:
    layers = [nn.Linear(8, 8) for _ in range(2)] if kind == "drawn" else copies(nn.Linear(8, 8), 2)
    for layer in layers:
        if kind == "zeros":
            nn.init.zeros_(layer.weight)
        if kind == "identities":
            nn.init.eye_(layer.weight)
        layer.requires_grad_(kind != "frozen")
    module = Row(*([layers[0]] * 2 if kind == "shared" else layers))
    assert not found(Beside(*layers) if kind == "beside" else module, 3, 8)


class Beside(Row):
    """Blocks that read the same."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([block(x) for block in self.blocks], -1)
