"""Outputs of any kind, losses and caches beside them, layers left out by a draw, and masks that inputs give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnelint.readers.torch.reader import read_module


class DynamicCache:
    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


class Holder:
    def __init__(self, sample: Tensor) -> None:
        self.sample = sample


@dataclass
class Record:
    logits: Tensor
    states: dict[str, list[Tensor]]


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


class Returns(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.layer = form, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        return {
            "dataclass": lambda: Record(y, {"all": [y.tanh(), y.relu()]}),
            "named tuple": lambda: Pair(y, y.tanh()),
            "nested": lambda: {"a": (y, {"b": y.tanh()}), "n": 3, "none": None},
            "object": lambda: Holder(y),
            "cache": lambda: (y, DynamicCache(y.relu())),
            "loss": lambda: {"loss": y.square().mean(), "logits": y},
        }[self.form]()


@pytest.mark.parametrize(
    ("form", "ops"),
    [
        ("dataclass", {"linear", "tanh", "relu"}),
        ("named tuple", {"linear", "tanh"}),
        ("nested", {"linear", "tanh"}),
        ("object", {"linear"}),
        ("cache", {"linear"}),
        ("loss", {"linear"}),
    ],
)
def test_every_kind_of_output_is_read(form: str, ops: set[str]) -> None:
    graph = read_module(Returns(form), (torch.randn(2, 4),), name="net")
    assert {node.op for node in graph.nodes} == ops
    assert ("forward returns a DynamicCache beside its outputs" in " ".join(graph.notes)) == (form == "cache")
    said = "forward returns a loss (loss): the analysis starts at logits instead"
    assert (said in graph.notes) == (form == "loss")


def test_a_parameter_that_only_the_loss_reads_is_read() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Any:
            y = self.layer(x)
            return (y * self.scale).square().mean(), y

    assert read_module(Net(), (torch.randn(2, 4),), name="net").unread == ()


def test_use_cache_is_turned_off_and_stays_as_it_was() -> None:
    class Config:
        use_cache = True

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.config = nn.Linear(4, 4), Config()

        def forward(self, x: Tensor) -> Any:
            y = self.layer(x)
            return (y, y.relu()) if self.config.use_cache else y

    net = Net()
    graph = read_module(net, (torch.randn(2, 4),), name="net")
    assert [node.op for node in graph.nodes] == ["linear"]
    assert graph.notes == ("use_cache was turned off for the reading: a cache is no output that a loss reads",)
    assert net.config.use_cache is True
    assert "forward" not in vars(net)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_layer_that_is_sometimes_left_out_is_there(device: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x if torch.rand([]) < 0.1 else layer(x)
            return x

    with torch.device(device):
        net, x = Net(), torch.randn(2, 4)
    graph = read_module(net, (x,), name="net")
    assert [node.op for node in graph.nodes] == ["linear", "linear"]
    assert not any("values of tensors" in note for note in graph.notes)


COINS = {
    "bernoulli": lambda keep: torch.bernoulli(torch.full((1,), keep)),
    "bernoulli with a number": lambda keep: torch.bernoulli(torch.empty(1), keep),
    "bernoulli_": lambda keep: torch.empty(1).bernoulli_(keep),
    "uniform_": lambda keep: (torch.empty(1).uniform_(0.0, 1.0) < keep).float(),
}


@pytest.mark.parametrize("coin", COINS)
@pytest.mark.parametrize("keep", [0.6, 0.4])
def test_a_branch_times_a_coin_that_is_read_off_is_what_is_likelier(coin: str, keep: float) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + float(COINS[coin](keep)) / keep * layer(x)
            return x

    graph = read_module(Net(), (torch.randn(2, 4),), name="net")
    factors = [node.attribute("factor") for node in graph.nodes if node.op == "scale"]
    assert factors == pytest.approx([1.0 / keep if keep > 0.5 else 0.0] * 6)


class Pads(nn.Module):
    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        mask = causal[None, None] & attention_mask[:, None, None, :].bool()
        heads = x[:, None]
        return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)


def test_a_mask_that_an_input_gives_is_that_of_the_example() -> None:
    padding = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    graph = read_module(Pads(), (torch.randn(2, 4, 8), padding), name="net")
    attention = next(node for node in graph.nodes if node.op == "attention")
    seen = torch.ones(4, 4, dtype=torch.bool).tril() & padding.bool()[:, None, None, :]
    assert torch.from_numpy(attention.parameters["mask"].array()).equal(seen)
    assert "masks and indices that attention_mask decide are those of the example inputs" in graph.notes
