"""Joins of dependent branches are named; those that weights separate are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.correlation import CORRELATED, correlated_joins
from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Graph
from gnelint.readers.torch.reader import read_module
from tests.models import CASES


class Join(nn.Module):
    """x and a function of it, joined."""

    def __init__(self, branch: nn.Module, product: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.branch = branch
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x * self.branch(x) if self.product else x + self.branch(x)


def graph(module: nn.Module) -> Graph:
    return read_module(module, (torch.randn(4, 8),), name="join")


def test_a_join_of_one_value_with_itself_is_named() -> None:
    for branch in (nn.ReLU(), nn.LayerNorm(8), nn.Sequential(nn.Tanh(), nn.Identity())):
        found = graph(Join(branch))
        (join,) = correlated_joins(found)
        prediction = analyse(found)
        assert prediction.by_node[join].basis == "approximate"
        assert CORRELATED in prediction.by_node[join].assumptions
        block = prediction.block_of[join]
        assert block.basis == "approximate"
        assert CORRELATED in block.assumptions
    assert len(correlated_joins(graph(Join(nn.ReLU(), product=True)))) == 1


def test_weights_in_one_branch_are_enough() -> None:
    for branch in (nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8), nn.ReLU()), nn.GLU()):
        if isinstance(branch, nn.GLU):
            branch = nn.Sequential(nn.Linear(8, 16), branch)
        assert correlated_joins(graph(Join(branch))) == frozenset()


@pytest.mark.slow
def test_known_designs_have_none() -> None:
    for name in ("resnet18", "mobilenet_v3_small", "vit", "gpt2", "llama", "densenet121"):
        case = CASES[name]
        found = read_module(case.module(), case.example_inputs(), name=name)
        assert correlated_joins(found) == frozenset(), name
