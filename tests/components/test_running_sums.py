"""Averages of all that came before: positions of a running sum differ, and what divides by their number meets that."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.readers.torch.reader import trace_module

LENGTH, WIDTH = 32, 16


class Averages(nn.Module):
    """A gate times the average of all values so far, or of all values still to come."""

    def __init__(self, reverse: bool, level: float) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        nn.init.constant_(self.value.bias, level)
        self.reverse = reverse
        self.register_buffer("terms", torch.arange(1, LENGTH + 1, dtype=torch.float64)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        values = self.value(x)
        sums = values.flip(1).cumsum(1).flip(1) if self.reverse else values.cumsum(1)
        terms = self.terms.flip(0) if self.reverse else self.terms
        return self.gate(x).sigmoid() * (sums / terms)


@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_average_so_far_is_no_sum_times_an_average_factor(reverse: bool, level: float) -> None:
    """A sum's average energy times the average 1 / t^2 is 2 bits too much, behind it and before it."""
    torch.manual_seed(0)
    module, x = Averages(reverse, level).double(), torch.randn(64, LENGTH, WIDTH, dtype=torch.float64)
    prediction = analyse(trace_module(module, (x,), name="averages").graph).by_node
    kept: dict[str, Tensor] = {}
    for name in ("value", "gate"):
        getattr(module, name).register_forward_hook(lambda _, __, y, name=name: kept.update({name: y}))
    y = module(x)
    cotangent = torch.randn_like(y)
    for name, gradient in zip(kept, torch.autograd.grad(y, list(kept.values()), cotangent), strict=True):
        truth = math.log2(float(gradient.square().sum() / cotangent.square().sum()))
        assert prediction[name].gradient_log2 == pytest.approx(truth, abs=0.3), name
