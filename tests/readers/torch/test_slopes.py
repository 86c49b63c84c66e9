"""What comes back to the tensors that weights are made of: nothing where it is flat, no number where it breaks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gnelint.ir.graph import Derivation
from gnelint.readers.torch.reader import read_module


class Computed(nn.Module):
    """A layer whose weight is computed from two parameters."""

    def __init__(self, first: Tensor, second: Tensor, weight: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.weight = nn.Parameter(first), nn.Parameter(second), weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight(self.first, self.second)


def slopes(first: Tensor, second: Tensor, weight: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    graph = read_module(Computed(first, second, weight), (torch.randn(2, 4),), name="computed")
    load = graph.nodes[0].parameters["weight"].load
    assert isinstance(load, Derivation)
    return dict(load.slopes())


def eigenvectors(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.eigh(a + a.T)[1] * b


WHOLE, ZEROS, ONES = torch.randn(4, 4), torch.zeros(4, 4), torch.ones(4, 4)


@pytest.mark.parametrize(
    ("first", "weight", "flat"),
    [
        (2 * ONES, lambda a, b: a.clamp(0, 1) * b, True),
        (0.5 * ONES, lambda a, b: a.clamp(0, 1) * b, False),
        (-150 * ONES, lambda a, b: b.relu() - a.sigmoid(), True),
        (-3 * ONES, lambda a, b: b.relu() - a.sigmoid(), False),
        (-ONES, lambda a, b: a.relu() + b, True),
        (WHOLE, lambda a, b: a @ (b * 0), True),
    ],
)
def test_flat_is_zero(first: Tensor, weight: Callable[[Tensor, Tensor], Tensor], flat: bool) -> None:
    assert (slopes(first, WHOLE, weight)["first"] == 0.0) == flat


def test_a_factor_of_zero_that_moves_lets_the_other_one_move() -> None:
    assert slopes(WHOLE, ZEROS, torch.mul)["first"] > 0.0


def test_two_factors_of_zero_stay() -> None:
    assert slopes(ZEROS, ZEROS.clone(), torch.mul) == {"first": 0.0, "second": 0.0}


def test_equal_eigenvalues_have_no_slope() -> None:
    assert not math.isfinite(slopes(torch.eye(4), ONES, eigenvectors)["first"])
    assert math.isfinite(slopes(torch.diag(torch.arange(1.0, 5.0)), ONES, eigenvectors)["first"])
