"""Ranges of values against what random weights and inputs give."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gnelint.analysis.ranges import Range, ranges, vector_length
from gnelint.readers.torch.reader import read_module
from tests.readers.onnx.build import load, model, node

F = nn.functional

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": F.softplus,
    "exp": lambda x: torch.exp(x.clamp(max=5)),
    "abs": torch.abs, "square": lambda x: x**2, "cube": lambda x: x**3, "gelu": F.gelu, "silu": F.silu, "elu": F.elu,
    "clamp": lambda x: x.clamp(-0.5, 0.7), "clamp_min": lambda x: x.clamp(min=0.1), "shift": lambda x: x + 0.3,
    "negate": lambda x: -2.0 * x, "mean": lambda x: x.mean(-1, keepdim=True).expand_as(x),
    "sum": lambda x: x.sum(-1, keepdim=True).expand_as(x), "softmax": lambda x: x.softmax(-1), "hardswish": F.hardswish,
    "own_product": lambda x: x * x, "own_sum": lambda x: x + x, "difference": lambda x: x - x.mean(-1, keepdim=True),
    "positive": lambda x: torch.where(x > 0, x, torch.ones_like(x)), "pad": lambda x: F.pad(x, (1, 1))[..., 1:-1],
    "below": lambda x: torch.where(x < 0.5, x, torch.zeros_like(x)), "share": lambda x: x / (1.0 + x.abs()),
    "selu": F.selu, "celu": F.celu, "mish": F.mish, "erf": torch.erf, "unit": lambda x: F.normalize(x, dim=-1),
    "cosine": lambda x: (F.normalize(x, dim=-1) * F.normalize(x.flip(0), dim=-1)).sum(-1, keepdim=True).expand_as(x),
    "less_its_maximum": lambda x: x - x.amax(-1, keepdim=True),
    "sine": torch.sin, "leaky": F.leaky_relu, "max": lambda x: torch.maximum(x, torch.tanh(x)),
}  # fmt: skip


class Chain(nn.Module):
    """A layer and functions behind it."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.layer, self.names = nn.Linear(6, 6), names

    def forward(self, x: Tensor) -> Tensor:
        x = 3.0 * self.layer(x)
        for name in self.names:
            x = FUNCTIONS[name](x)
        return x


def output_range(module: nn.Module) -> Range | None:
    graph = read_module(module, (torch.randn(4, 6),), name="chain")
    return ranges(graph).get(graph.outputs[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(FUNCTIONS)), min_size=1, max_size=4), st.integers(0, 1000))
def test_no_value_lies_outside(names: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    module = Chain(names)
    known = output_range(module)
    if known is None:
        return
    with torch.no_grad():
        y = module.double()(4.0 * torch.randn(512, 6, dtype=torch.float64))
    assume(bool(y.isfinite().all()))  # inf / inf lies nowhere
    tolerance = 1e-5 * (1.0 + float(y.abs().max()))
    assert known.low - tolerance <= float(y.min())
    assert float(y.max()) <= known.high + tolerance


@pytest.mark.parametrize(
    ("names", "low", "zeros"),
    [
        (["relu"], 0.0, True),
        (["relu", "shift"], 0.3, False),
        (["softplus"], 0.0, False),
        (["clamp_min"], 0.1, False),
        (["square"], 0.0, False),
        (["positive"], 0.0, False),
        (["tanh"], -1.0, False),
        (["tanh", "shift"], -0.7, False),
    ],
)
def test_bounds_are_as_tight_as_functions_make_them(names: list[str], low: float, zeros: bool) -> None:
    known = output_range(Chain(names))
    assert known is not None
    assert (known.low, known.zeros) == (pytest.approx(low), zeros)


class Less(nn.Module):
    """A value less what a function makes of it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = 2.0 * x
        return x - self.function(x)


def guarded(x: Tensor) -> Tensor:
    greatest = x.amax(-1, keepdim=True)
    return torch.where(greatest.abs() == math.inf, 0.0, greatest)


@pytest.mark.parametrize(
    ("function", "highest"),
    [
        (lambda x: x.amax(-1, keepdim=True), 0.0),
        (guarded, 0.0),
        (lambda x: torch.where(x.amax(-1, keepdim=True) > x.mean(), x.amax(-1, keepdim=True), 0.0), None),
        (lambda x: x.amax(-1, keepdim=True).tanh(), None),
        (lambda x: x.flip(-1).amin(-1, keepdim=True), None),
        (lambda x: x.amax(0), 0.0),
        (lambda x: x.amax(), 0.0),
        (lambda x: x[:, :4].amax(0).repeat(2)[:6], None),
        (lambda x: x.amax(-1)[:, None], 0.0),
    ],
    ids=[
        "maximum",
        "finite maximum",
        "chosen by another value",
        "of the maximum",
        "minimum",
        "of columns",
        "of all",
        "of others",
        "axis put back",
    ],
)
def test_a_value_less_its_own_maximum_is_at_most_zero(
    function: Callable[[Tensor], Tensor], highest: float | None
) -> None:
    known = output_range(Less(function))
    assert (None if known is None else known.high) == highest


def test_the_maxima_of_rows_say_nothing_of_columns() -> None:
    graph = read_module(Less(lambda x: x.amax(-1)), (torch.randn(4, 4),), name="square")
    assert graph.outputs[0] not in ranges(graph)


def test_nothing_is_said_of_the_networks_input() -> None:
    class Front(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.log(x + 1.0))

    graph = read_module(Front(), (torch.rand(4, 6),), name="front")
    log = next(node for node in graph.nodes if node.op == "log")
    assert ranges(graph).get(log.inputs[0] or "") is None


@pytest.mark.parametrize(
    ("reduce", "zeros"),
    [
        (lambda x: x.relu().reshape(64, 4, 2).sum(-1), True),
        (lambda x: x.relu().reshape(64, 1, 8).mean(-1), True),
        (lambda x: x.relu().repeat(1, 8).sum(-1), False),
        (lambda x: (x[:, None] - x[None]).pow(2).sum(-1), True),
        (lambda x: (x[:, None] - x[None]).pow(2).sum(-1) + 1e-6, False),
        (lambda x: x.sum(-1), False),
        (lambda x: (x > 0.5).sum(-1), True),
        # of a sparsemax: the largest is always more than the mean of the larger ones less what it is divided by
        (lambda x: (x.sort(-1, descending=True)[0] * torch.arange(1, 9) > x.sort(-1, descending=True)[0].cumsum(-1) - 1)
         .sum(-1), False),
    ],
)  # fmt: skip
def test_sums_are_zero_where_all_they_add_can_be(reduce: Callable[[Tensor], Tensor], zeros: bool) -> None:
    class Reduced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return reduce(self.layer(x))

    torch.manual_seed(0)
    graph = read_module(Reduced(), (torch.randn(64, 6),), name="sums")
    known = ranges(graph)[graph.outputs[0]]
    assert known.zeros is zeros
    drawn = Reduced()(torch.randn(64, 6))
    assert zeros or not bool((drawn == 0).any())


@pytest.mark.parametrize(
    ("sign", "bias", "low"),
    [(1.0, None, 0.0), (-1.0, None, -math.inf), (1.0, 0.5, 0.5), (1.0, -0.5, -0.5)],
    ids=["filter bank", "with a negative weight", "raised", "lowered"],
)
def test_sums_by_weights_that_are_not_negative_are_not_negative(sign: float, bias: float | None, low: float) -> None:
    class Bank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.bank = nn.Linear(6, 6), nn.Linear(6, 4, bias=bias is not None)
            nn.init.constant_(self.bank.weight, 0.2)
            self.bank.weight.data[3, 5] *= sign
            if bias is not None:
                nn.init.constant_(self.bank.bias, bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.bank(self.layer(x) ** 2)

    assert output_range(Bank()).low == low


def test_lengths_are_looked_for_along_any_number_of_steps(tmp_path: Path) -> None:
    """And of a value without axes there is none."""
    nodes = [node("LpNormalization", ["x"], ["h0"], axis=1)]
    nodes += [node("Mul", [f"h{step}", "c"], [f"h{step + 1}"]) for step in range(1500)]
    graph = load(model([*nodes, node("ReduceMean", ["x"], ["y"], keepdims=0)], {"x": (4, 8)}, ("h1500", "y"),
                       {"c": np.float32(0.999)}), tmp_path)  # fmt: skip
    assert vector_length(graph, "h1500", -1) == pytest.approx(0.999**1500, rel=1e-4)
    assert vector_length(graph, "h1500", 0) is None
    assert vector_length(graph, "y", -1) is None
