"""Functions that remember their calls forget those of the reading, and the reading theirs."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

import gnelint
from gnelint.readers.torch.found_inputs import find_inputs


@lru_cache(maxsize=4)
def table(length: int) -> Tensor:
    return torch.linspace(0.0, 1.0, length)


def remembering(function: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """As libraries have it: a memory inside of a function."""
    memory = lru_cache(maxsize=4)(function)

    @wraps(function)
    def asked(length: int) -> Tensor:
        return memory(length)

    return asked


class Positions(nn.Module):
    """Adds a table that a function keeps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(8, 4), kind

    @staticmethod
    @remembering
    def inner(length: int) -> Tensor:
        return torch.linspace(0.0, 1.0, length)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + (table(8) if self.kind == "function" else self.inner(8)))


@pytest.mark.parametrize("kind", ["function", "method"])
@pytest.mark.parametrize("called", [False, True], ids=["fresh", "called before"])
def test_a_module_whose_functions_remember_can_be_called_before_and_afterwards(kind: str, called: bool) -> None:
    module, x = Positions(kind), torch.randn(2, 8)
    if called:
        module(x)
    assert find_inputs(module) is not None
    assert gnelint.check(module, (x,)).prediction.coverage == 1.0
    found = module(x)
    assert not isinstance(found, FakeTensor)
    assert torch.equal(found, module.layer(x + torch.linspace(0.0, 1.0, 8)))
