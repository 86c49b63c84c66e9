"""Sums over neighbours behind each other: where they are found, and that running them finds their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gnelint.analysis import fallback
from gnelint.analysis.passed_on import passing_runs
from gnelint.analysis.propagation import analyse
from gnelint.analysis.regions import Planner
from gnelint.measure.regions.sampler import TorchSampler
from gnelint.measure.regions.torch_network import TorchNetwork
from gnelint.readers.torch.reader import Traced, trace_module
from tests.benchmarks.accuracy import measure

NODES, WIDTH = 24, 16


def ring() -> tuple[Tensor, Tensor]:
    """Senders and receivers of a ring in which each node also sends to the one after the next and to itself."""
    nodes = torch.arange(NODES)
    senders = torch.cat([nodes, nodes, nodes])
    return senders, torch.cat([nodes, (nodes + 1) % NODES, (nodes + 2) % NODES])


class Scattered(nn.Module):
    """Messages added up where a table says."""

    senders: Tensor
    receivers: Tensor

    def __init__(self, sums: int) -> None:
        super().__init__()
        senders, receivers = ring()
        self.register_buffer("senders", senders)
        self.register_buffer("receivers", receivers)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(sums))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            message = torch.sigmoid(x[self.senders]) * layer(x)[self.senders]
            x = torch.relu(torch.zeros_like(x).index_add(0, self.receivers, message))
        return x


class Adjacent(nn.Module):
    """Messages added up by a matrix."""

    adjacency: Tensor

    def __init__(self, sums: int, *, trained: bool = False) -> None:
        super().__init__()
        adjacency = torch.zeros(NODES, NODES)
        senders, receivers = ring()
        adjacency[receivers, senders] = 1 / 3
        if trained:
            self.adjacency = nn.Parameter(adjacency)
        else:
            self.register_buffer("adjacency", adjacency)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(sums))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(self.adjacency @ layer(x))
        return x


class Routed(nn.Module):
    """Tokens that are added up where a router says: the places are others for each input."""

    def __init__(self, sums: int) -> None:
        super().__init__()
        self.routers = nn.ModuleList(nn.Linear(WIDTH, NODES) for _ in range(sums))
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(sums))

    def forward(self, x: Tensor) -> Tensor:
        for router, layer in zip(self.routers, self.layers, strict=True):
            x = x + torch.zeros_like(x).index_add(0, router(x).argmax(-1), layer(x))
        return x


class Attending(nn.Module):
    """Attention between neighbours (arXiv 1710.10903); `window`: between those near by on a line."""

    seen: Tensor

    def __init__(self, sums: int, *, window: bool = False) -> None:
        super().__init__()
        nodes = torch.arange(NODES)
        across = (nodes[:, None] + nodes) % NODES < 3
        self.register_buffer(
            "seen", (nodes[:, None] - nodes).abs() < 3 if window else across | (nodes[:, None] == nodes)
        )
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(sums))
        self.sides = nn.ModuleList(nn.Linear(WIDTH, 2) for _ in range(sums))

    def forward(self, x: Tensor) -> Tensor:
        for layer, side in zip(self.layers, self.sides, strict=True):
            z = layer(x)
            sender, receiver = side(z).unbind(-1)
            logits = torch.nn.functional.leaky_relu(receiver[:, None] + sender, 0.2)
            x = torch.nn.functional.elu(torch.softmax(logits.masked_fill(~self.seen, -1e9), -1) @ z)
        return x


def traced(network: nn.Module) -> Traced:
    return trace_module(network, (torch.randn(NODES, WIDTH),), name="graph")


@pytest.mark.parametrize(
    ("network", "sums"),
    [
        (Scattered(1), []),
        (Scattered(3), [3]),
        (Adjacent(1), []),
        (Adjacent(3), [3]),
        (Adjacent(3, trained=True), []),
        (Routed(3), []),
        (Attending(3), [3]),
        (Attending(3, window=True), []),
    ],
    ids=["one sum", "sums", "one product", "products", "trained", "routed", "attention", "window"],
)
def test_where_they_are(network: nn.Module, sums: list[int]) -> None:
    graph = traced(network).graph
    assert [len(run) for run in passing_runs(graph, Planner(graph, lambda _: True).moves)] == sums


@pytest.mark.parametrize(("kind", "apart"), [(Scattered, 1.5), (Adjacent, 1.5), (Attending, 0.8)])
def test_their_gradients(kind: type[nn.Module], apart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = traced(kind(4))
    together = worst(network)
    monkeypatch.setattr(fallback, "passing_runs", lambda *_: ())
    assert together < 0.35
    assert worst(network) > apart, "each sum by itself would do"


def worst(network: Traced) -> float:
    """The largest error of a predicted gradient behind a layer, in bits."""
    found = analyse(network.graph, lambda: TorchSampler(TorchNetwork(network)))
    measured = measure(network, found, probes=64, seed=0)
    errors = []
    layers = [node for node in found.nodes if node.node.name.startswith("layers.")]
    for node in layers:
        truth = measured.get(node.output)
        if truth is not None and truth.gradient_log2 is not None and node.gradient_log2 is not None:
            errors.append(abs(node.gradient_log2 - truth.gradient_log2))
    assert len(errors) == len(layers) > 1
    return max(errors)
