"""What tracing takes and no run gets past is refused in one line that says what to do."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.errors import ModelError


class Words(nn.Module):
    """Integers where they belong, beside numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, words: Tensor, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.table(words) + x[:, None]))


FIRST = {
    "linear": (lambda: nn.Linear(4, 2), "2,4"),
    "matmul": (lambda: nn.MultiheadAttention(4, 2), "2,3,4"),
    "convolution": (lambda: nn.Conv2d(3, 4, 3), "2,3,8,8"),
    "normalisation": (lambda: nn.LayerNorm(4), "2,4"),
    "behind a view": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 4)), "2,2,4"),
}


@pytest.mark.parametrize("name", FIRST)
def test_integers_where_numbers_are_wanted_are_refused(name: str) -> None:
    make, shape = FIRST[name]
    first = make()
    inputs = [torch.zeros([int(size) for size in shape.split(",")], dtype=torch.int64)]
    given = inputs * 3 if isinstance(first, nn.MultiheadAttention) else inputs
    with pytest.raises(ModelError, match=r"An input of floating-point numbers is needed: --input ") as error:
        gnelint.check(first, tuple(given))
    assert "\n" not in str(error.value)
    assert re.search(r"(?i)\b(int|long|int64)\b", str(error.value))


def test_the_input_and_its_shape_are_named() -> None:
    with pytest.raises(ModelError, match=r'its input "input" holds integers \(int64\).*--input 2,4\.$'):
        gnelint.check(nn.Linear(4, 2), inputs="2,4:int64")


def test_integers_where_they_belong_are_read() -> None:
    result = gnelint.check(Words(), (torch.zeros(2, 5, dtype=torch.int64), torch.randn(2, 4)))
    assert result.prediction.coverage == 1.0


def test_what_fails_on_a_modules_own_tensors_is_said() -> None:
    class Places(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(9, 4), nn.Linear(4, 4)
            self.register_buffer("places", torch.arange(count))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.table(self.places).sum(0)

    assert gnelint.check(Places(9), (torch.randn(2, 4),)).prediction.coverage == 1.0
    with pytest.raises(ModelError, match=r"test_operands.py:\d+: what embedding computes .* fails: index out of range"):
        gnelint.check(Places(12), (torch.randn(2, 4),))
