"""Layers that start as copies are found by what they hold and read, and nothing else is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gnelint.analysis.twins import twins
from gnelint.readers.torch.reader import read_module


class Two(nn.Module):
    """Two layers that read the same, or one behind the other."""

    def __init__(self, first: nn.Module, second: nn.Module, chained: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.chained = first, second, chained

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) if self.chained else self.first(x) + self.second(x)


def found(module: nn.Module) -> dict[str, str]:
    return dict(twins(read_module(module, (torch.randn(3, 8),), name="network")))


def test_a_copy_that_reads_the_same_is_named_with_its_original() -> None:
    layer = nn.Linear(8, 8)
    assert found(Two(layer, copy.deepcopy(layer))) == {"second": "first"}


def test_layers_that_begin_alike_are_read_to_their_ends() -> None:
    layer = nn.Linear(8, 64)
    other, copied = copy.deepcopy(layer), copy.deepcopy(layer)
    with torch.no_grad():
        other.weight[-1, -1] += 1.0
    assert found(Two(layer, other)) == {}
    several = Two(Two(layer, other), Two(nn.Linear(8, 64), copied))
    assert found(several) == {"second.second": "first.first"}


def test_what_reads_something_else_is_no_twin() -> None:
    layer = nn.Linear(8, 8)
    assert found(Two(layer, copy.deepcopy(layer), chained=True)) == {}


def test_the_same_layer_twice_own_draws_constants_and_frozen_copies_are_no_twins() -> None:
    layer = nn.Linear(8, 8)
    assert found(Two(layer, layer)) == {}
    assert found(Two(layer, nn.Linear(8, 8))) == {}
    assert found(Two(nn.LayerNorm(8), nn.LayerNorm(8))) == {}
    assert found(Two(layer, copy.deepcopy(layer).requires_grad_(False))) == {}
