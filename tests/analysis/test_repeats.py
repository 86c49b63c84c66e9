"""Residual branches that hold the same numbers, copies or one layer used again and again."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.analysis.repeats import residual_runs
from gnelint.readers.torch.reader import trace_module
from tests.benchmarks.accuracy import measure

WIDTH, DEPTH, TOKENS = 48, 6, 12


def off(module: nn.Module, inputs: Tensor, *, probes: int = 3) -> list[float]:
    """log2 of predicted over measured squared gradient norms, at all values."""
    traced = trace_module(module, (inputs,), name="repeated")
    prediction = analyse(traced.graph)
    truth = measure(traced, prediction, probes=probes, seed=0)
    found = []
    for said in prediction.nodes:
        known = truth[said.output].gradient_log2 if said.output in truth else None
        if said.gradient_log2 is not None and known is not None and known > -math.inf:
            found.append(said.gradient_log2 - known)
    return found


class Stack(nn.Module):
    """A stem, blocks, a head; `read` says of which tokens."""

    def __init__(self, stem: nn.Module, block: nn.Module, read: str = "", *, shared: bool = False) -> None:
        super().__init__()
        self.stem, self.read = stem, read
        blocks = [block if shared else copy.deepcopy(block) for _ in range(DEPTH)]
        self.blocks = nn.Sequential(*blocks)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH)) if read == "class" else None
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = self.blocks(x)
        if self.read:
            x = x.mean(1) if self.read == "mean" else x[:, 0]
        return self.head(x)


class Mlp(nn.Module):
    def __init__(self, activation: nn.Module, *, last: bool) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(WIDTH), last
        self.body = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), activation, nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.body(x)) if self.last else x + self.body(self.norm(x))


class Linear(nn.Module):
    """x + a W x: nothing but the matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) * 0.5 / math.sqrt(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.linear(x, self.weight)


def layer(*, first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True, norm_first=first)


@pytest.mark.parametrize(
    ("read", "first", "most"),
    [
        ("", False, 0.4),
        ("mean", True, 0.6),
        ("class", True, 0.4),
        pytest.param("", True, 0.4, marks=pytest.mark.slow),
        pytest.param("mean", False, 0.6, marks=pytest.mark.slow),
        pytest.param("class", False, 0.5, marks=pytest.mark.slow),
    ],
)
def test_an_encoder_of_copies(read: str, first: bool, most: float) -> None:
    """torch.nn.TransformerEncoder makes them: 1 to 3 bits too small before, with 0.1 to 0.5 stated."""
    ends = []
    for seed in range(2):
        torch.manual_seed(seed)
        ends.append(off(Stack(nn.Embedding(40, WIDTH), layer(first=first), read), torch.randint(0, 40, (8, TOKENS)))[0])
    assert abs(sum(ends)) / len(ends) < most


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("activation", "last"), [(nn.GELU(), False), (nn.ReLU(), False), (nn.Tanh(), True)], ids=["gelu", "relu", "tanh"]
)
def test_layers_used_again_and_copies_are_the_same(activation: nn.Module, last: bool, shared: bool) -> None:
    torch.manual_seed(0)
    module = Stack(nn.Linear(16, WIDTH), Mlp(activation, last=last), shared=shared)
    assert max(map(abs, off(module, torch.randn(64, 16)))) < 0.4


def test_powers_of_one_matrix() -> None:
    """|(I + A)^L g|^2 = sum_k C(L, k)^2 a^k |g|^2: 3.6 bits for 1.9 of independent ones."""
    torch.manual_seed(0)
    found = [off(Stack(nn.Linear(16, WIDTH), Linear()), torch.randn(16, 16))[0] for _ in range(6)]
    assert sum(found) / len(found) == pytest.approx(0.0, abs=0.3)
    growth = sum(math.comb(DEPTH, k) ** 2 * 0.25**k for k in range(DEPTH + 1))
    assert math.log2(growth) - DEPTH * math.log2(1.25) > 1.5


class Decoder(nn.Module):
    """Layers that attend to a memory, which stands in front of all of them; words have no gradient, or one."""

    def __init__(self, *, first: bool, shared: bool, fixed: bool) -> None:
        super().__init__()
        one = nn.TransformerDecoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=first)
        self.stem = nn.Linear(16, WIDTH)
        self.layers = nn.ModuleList(one if shared else copy.deepcopy(one) for _ in range(4))
        self.register_buffer("words", torch.randn(8, TOKENS, WIDTH))
        self.start = None if fixed else nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        memory, x = self.stem(x), self.words if self.start is None else self.start(x)
        for each in self.layers:
            x = each(x, memory)
        return x


@pytest.mark.parametrize(
    ("first", "shared", "fixed"),
    [
        (False, False, True),
        (True, True, False),
        pytest.param(False, True, False, marks=pytest.mark.slow),
        pytest.param(True, False, False, marks=pytest.mark.slow),
    ],
)
def test_what_copies_attend_to_gets_the_same_from_each(first: bool, shared: bool, fixed: bool) -> None:
    """1.8 bits too small where what four copies send back is taken as independent."""
    torch.manual_seed(0)
    assert abs(off(Decoder(first=first, shared=shared, fixed=fixed), torch.randn(8, TOKENS, 16))[0]) < 0.4


class Tapped(nn.Module):
    """Sums behind each other, the first of which something else reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layers[0](x)
        tapped = x + torch.relu(self.layers[1](x))
        x = tapped + torch.relu(self.layers[2](tapped))
        return x + torch.relu(self.layers[3](x)), tapped.exp()


def test_sums_whose_operand_others_read_are_not_followed() -> None:
    graph = trace_module(Tapped(), (torch.randn(3, WIDTH),), name="tapped").graph
    assert [[one.join for one in run] for run in residual_runs(graph)] == [["add"], ["add_2"]]
