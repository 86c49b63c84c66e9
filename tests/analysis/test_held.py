"""Chains whose numbers leave double precision: the gradient of a homogeneous network is known all the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from gnelint.analysis.held import held
from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Graph
from gnelint.readers.torch.reader import read_module
from gnelint.theory.fields.moments import Moments


class Chain(nn.Module):
    """Rectified layers without biases, or residual blocks of them, all of one matrix times a gain."""

    def __init__(self, depth: int, gain: float, *, residual: bool = False, double: bool = False) -> None:
        super().__init__()
        matrix = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) / 2.0
        self.weight = nn.Parameter(gain * (matrix.double() if double else matrix))
        self.depth = depth
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.weight.dtype)
        for _ in range(self.depth):
            y = nn.functional.relu(x @ self.weight)
            x = (x @ self.weight) + y if self.residual else y
        return x


def read(module: nn.Module) -> Graph:
    return read_module(module, (torch.zeros(4, 8),), name="chain")


def predicted(module: nn.Module) -> Prediction:
    return analyse(read(module))


@pytest.mark.parametrize("bits", [-14, 14])
@pytest.mark.parametrize(("depth", "residual"), [(50, False), (25, True)])
def test_the_gradient_is_that_of_a_network_in_range(depth: int, bits: int, residual: bool) -> None:
    """A gain of 2^k at each layer is 2^2k in the squared gradient norm."""
    within = predicted(Chain(depth, 1.0, residual=residual))
    beyond = predicted(Chain(depth, 2.0**bits, residual=residual))
    assert beyond.coverage == within.coverage == 1.0
    assert within.gradient_log2 is not None
    assert beyond.gradient_log2 is not None
    assert beyond.gradient_log2 - 2 * bits * depth == pytest.approx(within.gradient_log2, abs=1e-3)


@pytest.mark.parametrize("exponent", [-210, 210])
def test_what_is_held_stays_beyond_single_precision(exponent: int) -> None:
    graph, x = read(Chain(2, 1.0, residual=True)), Moments.uniform((4, 8), 0.0, 4.0**exponent)
    name = next(node for node in graph.nodes if node.op == "add").outputs[0]
    there = held(graph, name, x)
    assert math.log2(float(there.second.max())) / 2.0 == math.copysign(150.0, exponent)
    in_branch = next(node for node in graph.nodes if node.op == "relu").outputs[0]
    assert held(graph, in_branch, x) is x  # what it is added to would be larger beside it
    near = x.scaled(2.0 ** -math.copysign(20.0, exponent))
    assert held(graph, name, near) is near
    assert held(read(Chain(2, 1.0, residual=True, double=True)), name, x) is x
    np.testing.assert_array_equal(held(graph, name, x.scaled(0.0)).second, 0.0)
