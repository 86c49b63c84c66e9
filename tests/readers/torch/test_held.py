"""Parameters that forward reaches by a list, another object or a closure beside the module's attributes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from gnelint.readers.torch.reader import read_module


class Holding(nn.Module):
    """A layer whose matrix is registered, and held by what `hold` makes of it."""

    def __init__(self, hold: Callable[[nn.Parameter], Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.use, self.head = hold(self.weight), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.use(x).relu())


def in_a_list(weight: nn.Parameter) -> Callable[[Tensor], Tensor]:
    weights = [weight]
    return lambda x: x @ weights[0]


def in_an_object(weight: nn.Parameter) -> Callable[[Tensor], Tensor]:
    held = SimpleNamespace(value=weight)
    return lambda x: x @ held.value.to(x.device)


def in_a_closure(weight: nn.Parameter) -> Callable[[Tensor], Tensor]:
    return lambda x: nn.functional.linear(x, weight)


def its_numbers(weight: nn.Parameter) -> Callable[[Tensor], Tensor]:
    numbers = weight.data
    return lambda x: x @ numbers


@pytest.mark.parametrize(
    ("hold", "trains"), [(in_a_list, True), (in_an_object, True), (in_a_closure, True), (its_numbers, False)]
)
def test_what_is_held_twice_trains(hold: Callable[[nn.Parameter], Callable[[Tensor], Tensor]], trains: bool) -> None:
    module, x = Holding(hold), torch.randn(3, 6)
    module(x).sum().backward()
    assert (module.weight.grad is not None) == trains
    (weight,) = (node.parameters["weight"] for node in read_module(module, (x,), name="net").nodes[:1])
    assert (weight.name, weight.trainable) == ("weight", trains)


class Counting(nn.Module):
    """Holds its matrix twice, and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(6, 6)), nn.BatchNorm1d(6)
        self.weights = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x @ self.weights[0])


def test_looking_which_is_used_leaves_no_trace() -> None:
    module = Counting()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    read_module(module, (torch.randn(3, 6),), name="net")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
