"""Which parameters ever move, against steps of SGD."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.movement import Movement, movement
from gnelint.readers.torch.reader import read_module
from tests.models import network

STEPS = 4


def found(module: nn.Module, inputs: tuple[Tensor, ...]) -> Movement:
    return movement(read_module(module, inputs, name="network", training=True))


def measured(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int | None]:
    """The step in which each parameter's gradient is first not zero, over a few inputs a step."""
    first: dict[str, int | None] = {name: None for name, p in module.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    for step in range(1, STEPS + 1):
        optimiser.zero_grad()
        for _ in range(4):
            fed = tuple(torch.randn_like(x) if x.is_floating_point() else x for x in inputs)
            y = module(*fed)
            (y.pow(2).mean() + (y * torch.randn_like(y)).mean()).backward()
        for name, parameter in module.named_parameters():
            if first.get(name, 1) is None and parameter.grad is not None and bool(parameter.grad.abs().max() > 0):
                first[name] = step
        optimiser.step()
    return first


class Product(nn.Module):
    """A product of factors, each a layer that is zero or not, with a function on the first."""

    def __init__(self, zero: tuple[bool, ...], function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in zero)
        self.function = function
        for layer, is_zero in zip(self.layers, zero, strict=True):
            if is_zero:
                nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.layers[0](x))
        for layer in self.layers[1:]:
            y = y * layer(x)
        return y


@pytest.mark.parametrize("function", [torch.relu, torch.tanh, torch.abs, torch.sigmoid, nn.functional.gelu, torch.cos])
@pytest.mark.parametrize("zero", [(False,), (True,), (True, False), (False, True), (True, True), (True, True, False)])
def test_products_of_layers(zero: tuple[bool, ...], function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    module, inputs = Product(zero, function), (torch.randn(16, 8),)
    assert found(module, inputs).first == measured(module, inputs)


@pytest.mark.parametrize(
    "text",
    ["low_rank", "low_rank(zeros='both')", "gates_of_zero", "gates_of_zero(zeros='both')", "rounded", "skipinit",
     "cut_mlp(zero='middle')", "cut_mlp(zero='middle', activation='tanh')", "cut_mlp(zero='head')",
     "normalized_convs(scale=0.0)", "b_ok", "resnet18_zero"],
)  # fmt: skip
def test_networks(text: str) -> None:
    module, inputs = network(text)
    assert found(module, inputs).first == measured(module, inputs)


class Detached(nn.Module):
    """Two encoders, one of which is cut off in one of the ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.second, self.head = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "no_grad":
            with torch.no_grad():
                y = self.first(x)
        else:
            y = self.first(x)
        if self.way == "detach":
            y = y.detach()
        elif self.way == "straight_through":
            y = y + (torch.round(y) - y).detach()
        elif self.way == "codebook":
            y = self.second(x) + (y - self.second(x)).detach()
        return self.head(y + self.second(x))


@pytest.mark.parametrize("way", ["", "detach", "no_grad", "straight_through", "codebook"])
def test_detached_values(way: str) -> None:
    module, inputs = Detached(way), (torch.randn(16, 8),)
    assert found(module, inputs).first == measured(module, inputs)


def test_what_holds_back_is_named() -> None:
    module, inputs = network("low_rank(zeros='both')")
    blocks = found(module, inputs).blocks
    assert (blocks["0.down"].cause, blocks["0.up"].cause) == ("zero weight", "reads zeros")
    module, inputs = network("rounded")
    block = next(iter(found(module, inputs).blocks.values()))
    assert block.cause == "flat"


def test_classes_for_outputs_say_nothing() -> None:
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).argmax(-1)

    assert found(Classes(), (torch.randn(2, 8),)).first == {}


@pytest.mark.parametrize(
    "name", ["straight_codes(wrong=True)", "straight_codes", "sampled_code(wrong=True)", "sampled_code",
             "stepped_cell(wrong=True)", "stepped_cell", "dropped_units(share=1.0)"],
)  # fmt: skip
def test_what_cancels_is_drawn_or_starts_from_nothing_passes_no_gradient(name: str) -> None:
    module, inputs = network(name)
    assert {key: step is None for key, step in found(module, inputs).first.items()} == {
        key: step is None for key, step in measured(module, inputs).items()
    }


def test_a_loss_beside_the_outputs_moves_what_it_reads() -> None:
    assert found(*network("quantised_codes")).stuck == ()
    assert found(*network("quantised_codes(wrong=True)")).stuck == ("book",)
