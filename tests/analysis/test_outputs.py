"""Which outputs a cotangent stands on: all that a gradient leaves, and no other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.readers.torch.reader import trace_module
from tests.benchmarks.accuracy import measure


class Actor(nn.Module):
    """An action of as many numbers as its deviation, which is a parameter; `detached` returns what is behind it too."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.layer, self.deviation, self.detached = nn.Linear(8, 64), nn.Parameter(torch.zeros(1, 64)), detached

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        action = self.layer(x)
        return (action, action.detach()) if self.detached else (action, self.deviation.expand(len(x), -1))


@pytest.mark.parametrize(("detached", "share"), [(False, 0.5), (True, 1.0)])
def test_a_returned_parameter_counts_and_a_detached_value_does_not(detached: bool, share: float) -> None:
    """The weights have a variance of 1 / 24, and each input is read by 64."""
    torch.manual_seed(0)
    traced = trace_module(Actor(detached=detached), (torch.randn(16, 8),), name="actor")
    prediction = analyse(traced.graph)
    assert prediction.gradient_log2 == pytest.approx(math.log2(share * 8 / 24), abs=0.2)
    assert prediction.gradient_at is not None
    truth = measure(traced, prediction, probes=64, seed=0)[prediction.gradient_at].gradient_log2
    assert prediction.gradient_log2 == pytest.approx(truth, abs=0.2)


class Stacked(nn.Module):
    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.cells = nn.LSTM(8, 16, 2, batch_first=True, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0][:, -1]


def test_a_stack_of_recurrent_layers_is_named_at_what_it_gives_out() -> None:
    """Its gradient was said to be that of the first layer, 5 bits off, and of two directions that of one, 0.9 bits."""
    graph = trace_module(Stacked(both=False), (torch.randn(2, 5, 8),), name="stacked").graph
    assert graph.node("cells").inputs[0] == graph.node("cells.lstm").outputs[0]
    both = trace_module(Stacked(both=True), (torch.randn(2, 5, 8),), name="stacked").graph
    assert both.node("cells").op == "concat"
    assert both.values[both.node("cells").outputs[0]].shape == (2, 5, 32)
