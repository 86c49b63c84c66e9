"""Gradients that add up to nothing over positions, and what attention makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.measure.regions.sampler import TorchSampler
from gnelint.measure.regions.torch_network import TorchNetwork
from gnelint.readers.torch.reader import trace_module
from tests.benchmarks.accuracy import measure

WIDTH, TOKENS = 16, 24


class Decomposed(nn.Module):
    """Attention, then what is left of the series by its moving average, whose rows each sum to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out, self.head = (nn.Linear(WIDTH, WIDTH) for _ in range(5))
        self.average = nn.AvgPool1d(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)))
        padded = torch.cat([x[:, :1].repeat(1, 2, 1), x, x[:, -1:].repeat(1, 2, 1)], 1)
        return self.head(x - self.average(padded.transpose(1, 2)).transpose(1, 2))


def test_attention_passes_little_of_a_gradient_that_positions_cancel() -> None:
    torch.manual_seed(0)
    traced = trace_module(Decomposed(), (torch.randn(4, TOKENS, WIDTH),), name="decomposed")
    prediction = analyse(traced.graph, lambda: TorchSampler(TorchNetwork(traced)))
    measured = measure(traced, prediction, probes=8, seed=1)
    errors = {
        node.node.name: (node.gradient_log2 or 0.0) - (measured[node.output].gradient_log2 or 0.0)
        for node in prediction.nodes
        if node.node.name in ("value", "out")
    }
    assert errors == pytest.approx({"value": 0.0, "out": 0.0}, abs=0.6)  # 3.3 bits at the value where it was not seen
