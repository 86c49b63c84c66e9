"""What a constant mask in front of a softmax leaves of each row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis.propagation import analyse
from gnelint.readers.torch.reader import read_module


class Capped(nn.Module):
    """Shares of capped logits, to which a table is added; no attention is made of them."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        return (5.0 * torch.tanh(self.layer(x)) + self.table).softmax(-1)


INF, LOW = math.inf, -3.4e38


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        ([[0, -INF, 0, 0], [0, 0, 0, LOW]], [[1, 0, 1, 1], [1, 1, 1, 0]]),
        ([[-INF, -INF, -INF, -INF], [0, 0, 0, 0]], [[0, 0, 0, 0], [1, 1, 1, 1]]),
        ([[LOW, LOW, LOW, LOW], [0, 0, 0, LOW]], [[1, 1, 1, 1], [1, 1, 1, 0]]),
        ([[-INF, LOW, LOW, -INF], [0, 0, 0, -INF]], [[0, 1, 1, 0], [1, 1, 1, 0]]),
    ],
    ids=["some", "all by infinity", "all by a number", "all by either"],
)
def test_rows_that_a_number_hides_whole_have_equal_shares(rows: list[list[float]], seen: list[list[int]]) -> None:
    table = torch.tensor(rows)
    graph = read_module(Capped(table), (torch.randn(2, 4),), name="capped")
    (node,) = (node for node in graph.nodes if node.op == "softmax")
    assert np.array_equal(node.parameters["mask"].array(), np.array(seen, bool))
    shares = torch.softmax(table, -1)
    assert torch.equal(shares.isnan().any(-1), torch.tensor([not any(row) for row in seen]))


class KeptFinite(nn.Module):
    """Attention whose masked logits are kept from becoming infinite (XGLM)."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.layer, self.bound = nn.Linear(8, 24), bound

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.layer(x).chunk(3, -1)
        later = torch.full((6, 6), torch.finfo(torch.float32).min).triu(1)
        logits = query @ key.mT * 8**-0.5 + later
        return torch.maximum(logits, torch.tensor(self.bound)).softmax(-1) @ value


@pytest.mark.parametrize(("bound", "fused"), [(torch.finfo(torch.float32).min, True), (-1.0, False)])
def test_a_bound_at_the_lowest_number_changes_nothing(bound: float, fused: bool) -> None:
    graph = read_module(KeptFinite(bound), (torch.randn(2, 6, 8),), name="finite")
    causal = [node.attribute("causal") for node in graph.nodes if node.op == "attention"]
    assert causal == ([True] if fused else [])


class Replaced(nn.Module):
    """What is no number, or infinite, is replaced; or what is negative."""

    def __init__(self, numbers: bool) -> None:
        super().__init__()
        self.layer, self.numbers = nn.Linear(8, 8), numbers

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x.nan_to_num(0.0) if self.numbers else torch.where(x < 0, torch.zeros_like(x), x)


@pytest.mark.parametrize("numbers", [True, False])
def test_nan_to_num_changes_nothing_of_finite_numbers(numbers: bool) -> None:
    graph = read_module(Replaced(numbers), (torch.randn(2, 8),), name="replaced")
    assert all(node.op != "where" for node in graph.nodes) or not numbers
    prediction = analyse(graph)
    found = prediction.by_node[graph.producers[graph.outputs[0]].name]
    layer = prediction.by_node["layer"]
    assert (found.second_moment == layer.second_moment) == numbers


def test_the_largest_entry_of_a_logsumexp_is_what_it_is() -> None:
    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.logsumexp(x, -1)

    graph = read_module(Total(), (torch.randn(4, 8),), name="total")
    assert "where" not in {node.op for node in graph.nodes}


class Ends(nn.Module):
    """Attention whose scores are masked at both ends of the sequence, each on a slice that is written back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.layer(x).chunk(3, -1)
        scores = (query @ key.mT).reshape(2, 2, 3, 6).reshape(2, 6, 6)
        hidden = torch.ones(3, 4).tril(-1).bool()
        scores[:, :3, :4] = scores[:, :3, :4].masked_fill(hidden, -math.inf)
        scores = scores.reshape(2, 3, 2, 6).reshape(2, 6, 6)
        part = scores[:, 2:, 2:]
        scores[:, 2:, 2:] = torch.full_like(part, -math.inf).where(torch.ones(4, 4).triu(2).bool(), part)
        return scores.softmax(-1) @ value


def test_masks_on_slices_that_are_written_back_are_one() -> None:
    graph = read_module(Ends(), (torch.randn(2, 6, 8),), name="ends")
    (node,) = (node for node in graph.nodes if "mask" in node.parameters)
    mask = node.parameters["mask"].array()
    seen = mask if mask.dtype == bool else mask == 0
    shown = np.ones((6, 6), bool)
    shown[:3, :4] &= np.tril(np.ones((3, 4), bool), -1) == 0
    shown[2:, 2:] &= np.triu(np.ones((4, 4), bool), 2) == 0
    assert np.array_equal(np.broadcast_to(seen, (2, 6, 6))[0], shown)
    assert not [node.op for node in graph.nodes if node.op in ("where", "concat")]
