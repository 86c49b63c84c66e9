"""Products with matrices of unlike size, which a normalisation behind them takes apart: held against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.readers.torch.reader import trace_module

STREAMS, WIDTH = 4, 16


class Mixed(nn.Module):
    """Tokens of size 0.01 beside learned ones of size 1, each in several streams, which a matrix of their own mixes
    before a norm (hyper-connections, arXiv 2409.19606)."""

    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.randn(6, STREAMS, WIDTH))
        self.make, self.norm, self.out = nn.Linear(WIDTH, STREAMS**2), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.learned.expand(len(x), -1, -1, -1), 0.01 * x], 1)
        mixing = self.make(x.mean(2)).tanh().unflatten(2, (STREAMS, STREAMS))
        return self.out(self.norm(mixing @ x))


def test_a_product_keeps_small_matrices_apart_from_large_ones() -> None:
    torch.manual_seed(0)
    network, x = Mixed().double(), torch.randn(8, 6, STREAMS, WIDTH, dtype=torch.float64, requires_grad=True)
    prediction = analyse(trace_module(network, (x.detach(),), name="mixed").graph).gradient_log2
    top = bottom = 0.0
    for _ in range(4):
        y = network(x)
        cotangent = torch.randn_like(y)
        (gradient,) = torch.autograd.grad(y, x, cotangent)
        top, bottom = top + float(gradient.square().sum()), bottom + float(cotangent.square().sum())
    assert prediction == pytest.approx(math.log2(top / bottom), abs=0.5)
