"""A mixture that a gate makes is its two shares, however it is written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.readers.torch.reader import read_module
from tests.evaluator import outputs
from tests.gradients import measured_log2

UNITS, STEPS, BATCH = 24, 12, 64


class Gated(nn.Module):
    """A gated recurrent unit of torch's own formula, n + z (h - n), written step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.back = nn.Linear(UNITS, 3 * UNITS), nn.Linear(UNITS, 3 * UNITS)

    def forward(self, x: Tensor) -> Tensor:
        state, found = torch.zeros(len(x), UNITS), []
        for step in range(x.shape[1]):
            (r, z, n), (kept, shut, new) = self.own(x[:, step]).chunk(3, -1), self.back(state).chunk(3, -1)
            n = torch.tanh(n + torch.sigmoid(r + kept) * new)
            state = n + torch.sigmoid(z + shut) * (state - n)
            found.append(state)
        return torch.stack(found, 1)


def test_a_gate_between_two_is_their_shares() -> None:
    torch.manual_seed(0)
    module, x = Gated(), torch.randn(BATCH, 3, UNITS)
    graph = read_module(module, (x,), name="gated")
    assert not [node for node in graph.nodes if node.op == "sub"]
    torch.testing.assert_close(outputs(graph, (x,))[0], module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_of_them_on_each_other() -> None:
    """As what adds up and takes away apart it was 3.5 bits too large; 1.2 are what a sum step by step leaves out."""
    torch.manual_seed(0)
    module, x = (
        nn.Sequential(Gated(), Gated(), nn.Flatten(), nn.Linear(STEPS * UNITS, 8)),
        torch.randn(BATCH, STEPS, UNITS),
    )
    analysis = gnelint.check(module, (x,))
    assert analysis.prediction.gradient_log2 == pytest.approx(measured_log2(module, x), abs=1.2)
