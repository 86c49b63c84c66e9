"""Networks that keep the batch behind other axes: what is turned, and that their gradients are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gnelint.analysis.batch_first import batch_first
from gnelint.analysis.propagation import analyse
from gnelint.analysis.turns import Turn
from gnelint.ir.graph import Graph
from gnelint.readers.torch.reader import trace_module
from tests.benchmarks.accuracy import measure

BATCH, TOKENS, WIDTH = 6, 16, 32


class Block(nn.Module):
    """Pre-normalised attention, by torch's own layer or written as older programs write it, and an MLP."""

    def __init__(self, attention: nn.MultiheadAttention | None, *, weights: bool) -> None:
        super().__init__()
        self.attention, self.weights = attention, weights
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))

    def attend(self, x: Tensor) -> Tensor:
        if self.attention is not None:
            return self.attention(x, x, x, need_weights=self.weights)[0]
        tokens, batch, _ = x.shape
        q, k, v = (
            layer(x).view(tokens, batch * 4, WIDTH // 4).transpose(0, 1) for layer in (self.query, self.key, self.value)
        )
        scores = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / math.sqrt(WIDTH // 4), -1)
        return self.out(torch.bmm(scores, v).transpose(0, 1).reshape(tokens, batch, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Encoder(nn.Module):
    """Blocks whose tokens are averaged in front of the head."""

    def __init__(self, kind: str, depth: int = 2) -> None:
        super().__init__()
        self.tokens = 1 if kind.startswith("batch") else 0

        def attention() -> nn.MultiheadAttention | None:
            own = kind == "written out"
            return None if own else nn.MultiheadAttention(WIDTH, 4, batch_first=self.tokens == 1)

        self.embedding = nn.Embedding(50, WIDTH)
        self.places = nn.Parameter(torch.randn((1, TOKENS, WIDTH) if self.tokens else (TOKENS, 1, WIDTH)))
        self.blocks = nn.ModuleList(Block(attention(), weights="weights" in kind) for _ in range(depth))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(self.tokens))


class Asked(nn.Module):
    """Learnt queries, the same for all samples, whose answers are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        self.queries = nn.Parameter(torch.randn(1, 10, WIDTH))
        self.attention, self.layer = nn.MultiheadAttention(WIDTH, 4, batch_first=True), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        answers = self.attention(self.queries.expand(len(x), -1, -1), x, x)[0]
        return self.head(torch.relu(self.layer(answers)).mean(1))


class Recurrent(nn.Module):
    """A GRU along axis 0, whose steps are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cells, self.head = nn.Embedding(50, WIDTH), nn.GRU(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.cells(self.embedding(ids))[0].mean(0))


def graph_of(module: nn.Module, *inputs: Tensor) -> Graph:
    return trace_module(module, inputs, name="network").graph


def ids(kind: str) -> Tensor:
    return torch.randint(0, 50, (BATCH, TOKENS) if kind.startswith("batch") else (TOKENS, BATCH))


@pytest.mark.parametrize("kind", ["batch first", "batch first, weights", "positions first", "written out"])
def test_what_all_tokens_share_is_found_wherever_the_batch_is(kind: str) -> None:
    """The norm in front of the first attention was 3 to 5 bits off: its tokens get the same gradient."""
    torch.manual_seed(0)
    module = Encoder(kind)
    traced = trace_module(module, (ids(kind),), name="network")
    prediction = analyse(traced.graph)
    truth = measure(traced, prediction, probes=8, seed=0)
    for layer in ("embedding", "blocks.0.norms.0", "blocks.1.norms.0", "blocks.0.mlp.0"):
        said = prediction.by_node[layer]
        assert said.gradient_log2 == pytest.approx(truth[said.output].gradient_log2, abs=0.35), layer
        assert said.shape == traced.graph.values[said.output].shape


def test_learnt_queries_lie_as_the_keys_do() -> None:
    """What they are computed to is a constant, of which nobody knows where it has its batch."""
    torch.manual_seed(0)
    traced = trace_module(Asked(), (torch.randn(BATCH, TOKENS, 6),), name="asked")
    prediction = analyse(traced.graph)
    assert "attention.constant" in batch_first(traced.graph).turns
    truth = measure(traced, prediction, probes=8, seed=0)
    said = prediction.by_node["embedding"]
    assert said.gradient_log2 == pytest.approx(truth[said.output].gradient_log2, abs=0.4)


def test_the_batch_is_where_no_recurrence_runs() -> None:
    graph = graph_of(Recurrent(), torch.randint(0, 50, (9, 4)))
    turned = batch_first(graph)
    assert turned.turns[graph.inputs[0]] == Turn((9, 4), axis=1)
    assert [node.name for node in turned.graph.nodes] == [node.name for node in graph.nodes]


def test_a_network_with_the_batch_in_front_stays_as_it_is() -> None:
    graph = graph_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.randn(2, 3, 4))
    assert batch_first(graph).graph is graph


class Sorted(nn.Module):
    """Something that cannot be read with the batch behind."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).sort(0)[0].transpose(0, 1) * 2.0


def test_what_only_knows_the_old_axes_keeps_them() -> None:
    graph = graph_of(Sorted(), torch.randn(3, 4, 5))
    assert batch_first(graph).graph is graph


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(sizes) - 1))
    before, after, batch = (draw(st.sampled_from(choice)) for choice in ([1, 2], [1, 3], [2, 5]))
    sizes[axis] = before * batch * after
    return Turn(tuple(sizes), axis, before, after)


def in_front(x: np.ndarray, turn: Turn) -> np.ndarray:
    return x.reshape(turn.split).transpose(turn.order(range(len(turn.shape))))


@given(turns(), st.data())
def test_other_shapes_and_orders_of_a_turned_value_are_those_of_the_value(turn: Turn, data: st.DataObject) -> None:
    x = np.arange(math.prod(turn.shape)).reshape(turn.shape)
    assert in_front(x, turn).shape == turn.turned
    for axis in range(len(turn.shape)):
        if axis != turn.axis:
            assert in_front(x, turn).shape[turn.axis_of(axis)] == turn.shape[axis]
    merged = data.draw(st.integers(0, len(turn.shape) - 1))
    shape = (*turn.shape[:merged], math.prod(turn.shape[merged:]))
    moved = turn.moved(shape)
    np.testing.assert_array_equal(in_front(x.reshape(shape), moved), in_front(x, turn).reshape(moved.turned))
