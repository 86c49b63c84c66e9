"""Linear attention: a sum of values over the sum of their weights, which are parts of one product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gnelint.analysis.propagation import analyse
from gnelint.analysis.regions import Planner
from gnelint.measure.regions.sampler import TorchSampler
from gnelint.measure.regions.torch_network import TorchNetwork
from gnelint.readers.torch.reader import Traced, trace_module
from tests.benchmarks.accuracy import measure

WIDTH, HEADS, TOKENS = 32, 2, 64


class LinearAttention(nn.Module):
    """Rectified queries and keys, no softmax; a row of ones beside the values adds up the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (HEADS, -1)).permute(0, 2, 3, 1) for layer in (self.query, self.key, self.value)
        )
        weighted = F.pad(value, (0, 0, 0, 1), value=1.0) @ F.relu(key).transpose(-1, -2) @ F.relu(query)
        return (weighted[:, :, :-1] / (weighted[:, :, -1:] + 1e-6)).flatten(1, 2)


class Gated(nn.Module):
    """Two halves of one layer, one over the other: different entries, as good as independent."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        above, below = self.both(x).chunk(2, -1)
        return above / (2.0 + below.tanh())


def traced(network: nn.Module) -> Traced:
    return trace_module(network, (torch.randn(2, TOKENS, WIDTH),), name="network")


@pytest.mark.parametrize(("network", "doubtful"), [(LinearAttention(), True), (Gated(), False)])
def test_which_quotients_are_of_parts_of_one_product(network: nn.Module, doubtful: bool) -> None:
    graph = traced(network).graph
    (quotient,) = (node for node in graph.nodes if node.op == "div")
    assert Planner(graph, lambda _: True).is_doubtful(quotient) is doubtful


def test_keys_and_values_of_as_many_tokens_as_there_are_add_up() -> None:
    """0.6 to 0.9 bit where numerator and denominator are taken as independent, 0.6 at the queries where keys and values
    are; more the wider and the deeper."""
    errors = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = traced(LinearAttention())
        found = analyse(network.graph, lambda network=network: TorchSampler(TorchNetwork(network)))
        measured = measure(network, found, probes=16, seed=seed)
        for name in ("query", "key", "value"):
            said, true = found.by_node[name].gradient_log2, measured[name].gradient_log2
            assert said is not None
            assert true is not None
            errors.append(said - true)
    assert torch.tensor(errors).reshape(2, 3).mean(0).abs().max() < 0.3
