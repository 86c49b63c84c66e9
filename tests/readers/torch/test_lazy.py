"""Modules whose layers take their sizes from the first input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.errors import ModelError
from gnelint.readers.torch.arguments import arguments
from gnelint.readers.torch.reader import read_module


def drawn() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))


def test_layers_are_initialised_on_the_inputs_and_that_is_said() -> None:
    module = drawn().train()
    given = arguments(module, (torch.randn(4, 3, 8, 8),), (), "lazy")
    assert given.notes == ("its lazy layers (0, 1, 4) were initialised by a run on these inputs",)
    graph = read_module(module, given.args, name="lazy")
    assert [node.op for node in graph.nodes] == ["conv", "batch_norm", "relu", "reshape", "linear"]
    assert module.training
    assert not module[1].running_mean.any()


def test_inputs_that_nobody_says_are_asked_for() -> None:
    with pytest.raises(ModelError, match=r"its layer 0 takes its size from them.*--input 8,3,32,32"):
        gnelint.check(drawn())


class LeavesOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.left = nn.LazyLinear(4), nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.used(x)
        return found


@pytest.mark.parametrize(
    ("module", "said"), [(LeavesOut(), "left are never called"), (drawn(), "cannot be initialised: .*Error")]
)
def test_what_stays_without_a_size_is_refused(module: nn.Module, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        gnelint.check(module, (torch.randn(4, 3),))
