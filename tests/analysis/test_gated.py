"""Products that follow each other without a normalisation, at positions of one sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.gated import gated_runs
from gnelint.analysis.propagation import analyse
from gnelint.measure.regions.sampler import TorchSampler
from gnelint.measure.regions.torch_network import TorchNetwork
from gnelint.readers.torch.reader import read_module, trace_module
from tests.benchmarks.accuracy import measure

WIDTH = 32


class Gated(nn.Module):
    """Gated layers, an average over the positions, a head."""

    def __init__(self, function: nn.Module, norm: bool = False, layers: int = 3) -> None:
        super().__init__()
        self.function = function
        self.up, self.gate = (
            nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH, bias=False) for _ in range(layers)) for _ in range(2)
        )
        self.down = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH, bias=False) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) if norm else nn.Identity() for _ in range(layers))
        for weight in (*self.up.parameters(), *self.gate.parameters(), *self.down.parameters()):
            nn.init.normal_(weight, std=1.2 * weight.shape[1] ** -0.5)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        for up, gate, down, norm in zip(self.up, self.gate, self.down, self.norms, strict=True):
            x = down(up(norm(x)) * self.function(gate(norm(x))))
        return self.head(x.mean(1))


def test_the_largest_positions_have_the_gradient() -> None:
    torch.manual_seed(0)
    traced = trace_module(Gated(nn.SiLU()), (torch.randn(8, 16, WIDTH),), name="gated")
    prediction = analyse(traced.graph, lambda: TorchSampler(TorchNetwork(traced)))
    measured = measure(traced, prediction, probes=8, seed=1)
    assert prediction.gradient_at is not None
    truth = measured[prediction.gradient_at].gradient_log2
    assert prediction.gradient_log2 == pytest.approx(truth, abs=1.0)  # 6 bits too small from formulas


@pytest.mark.parametrize(
    ("network", "products"),
    [
        (Gated(nn.SiLU()), 3),
        (Gated(nn.Sigmoid()), 0),
        (Gated(nn.SiLU(), norm=True), 0),
        (Gated(nn.SiLU(), layers=1), 0),
    ],
)
def test_which_products_are_run(network: nn.Module, products: int) -> None:
    graph = read_module(network, (torch.randn(2, 4, WIDTH),), name="gated")
    found = [graph.node(name).op for run in gated_runs(graph) for name in run]
    assert found.count("mul") == products
