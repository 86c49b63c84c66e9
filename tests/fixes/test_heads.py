"""The last layer before the output is only made smaller, and outputs start no larger than they were."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.analysis.propagation import analyse
from gnelint.fixes.gain import own_weights
from gnelint.fixes.heads import LEAST, heads_of
from gnelint.lint.chains import layers_outside_branches
from gnelint.lint.facts import Facts
from gnelint.readers.torch.reader import read_module

WIDTH = 32


def chain(depth: int, activation: type[nn.Module], *behind: nn.Module, gain: float | None = None) -> nn.Sequential:
    """Layers in the framework's draw, or He's times `gain`, and a head of ten outputs."""
    torch.manual_seed(0)
    net = nn.Sequential()
    for _ in range(depth):
        net.extend([nn.Linear(WIDTH, WIDTH), activation()])
    net.extend([nn.Linear(WIDTH, 10), *behind])
    for layer in net:
        if gain is not None and isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            with torch.no_grad():
                layer.weight.mul_(gain)
            nn.init.zeros_(layer.bias)
    return net


def head(net: nn.Module) -> nn.Linear:
    return [part for part in net.modules() if isinstance(part, nn.Linear)][-1]


def fixed(net: nn.Module) -> tuple[nn.Module, float, float]:
    """The fixed network, the factor on its head, and log2 of the squared gradient norm along the layers before it."""
    plan = gnelint.plan_fixes(net, torch.randn(8, WIDTH))
    after, unmade = plan.apply()
    assert plan.edits
    assert not unmade
    body = Facts(plan.plan.after).body_log2
    assert body is not None
    return after, float(head(after).weight.detach().norm() / head(net).weight.detach().norm()), body


def signal(net: nn.Module) -> float:
    """Root mean square of what the head's weights make of N(0, 1) inputs."""
    net = copy.deepcopy(net)
    nn.init.zeros_(head(net).bias)
    with torch.no_grad():
        return float(net(torch.randn(4096, WIDTH, generator=torch.Generator().manual_seed(1))).square().mean().sqrt())


def test_outputs_of_a_chain_that_vanished_start_small() -> None:
    net = chain(12, nn.ReLU)
    after, factor, body = fixed(net)
    assert signal(net) < 0.1
    assert factor < 1.0
    assert signal(after) == pytest.approx(math.sqrt(LEAST), rel=0.3)
    assert body == pytest.approx(0.0, abs=0.1)


def test_a_head_that_is_small_stays_as_it_is() -> None:
    net = chain(12, nn.ReLU, gain=2.0)
    with torch.no_grad():
        head(net).weight.mul_(0.01)
    _, factor, body = fixed(net)
    assert factor == 1.0
    assert body == pytest.approx(0.0, abs=0.1)


def test_a_head_that_is_large_is_brought_to_gain_1() -> None:
    net = chain(12, nn.ReLU, gain=2.0)
    after, factor, _ = fixed(net)
    assert factor == pytest.approx(1 / 8**0.5, rel=0.1)  # twice He's: fan_in times the mean square is 8
    assert float(head(after).weight.detach().square().mean()) * WIDTH == pytest.approx(1.0, rel=0.01)


def test_a_head_takes_back_that_signals_are_small_on_purpose() -> None:
    _, factor, _ = fixed(chain(40, nn.GELU))
    assert factor > 2.0


class Branching(nn.Module):
    """Something else reads what the last layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body = chain(3, nn.ReLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(x)
        return y, y.abs().mean(1)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (chain(3, nn.ReLU), True),
        (chain(3, nn.ReLU, nn.Softmax(-1)), True),
        (chain(3, nn.ReLU, nn.Tanh()), True),
        (chain(3, nn.ReLU, nn.Sigmoid(), nn.Unflatten(1, (2, 5))), True),
        (chain(3, nn.Tanh, nn.Tanh()), False),
        (Branching(), False),
    ],
)
def test_what_is_a_head(net: nn.Module, expected: bool) -> None:
    prediction = analyse(read_module(net, (torch.randn(8, WIDTH),), name="net"))
    runs = layers_outside_branches(prediction)
    tensors = own_weights(prediction.graph, [layer for run in runs for layer in run])
    found = heads_of(prediction.graph, runs, tensors)
    assert len(found) == expected
    for each in found.values():
        assert each.layer.node.parameters["weight"].shape[0] == 10
        assert not any(node.op in ("tanh", "sigmoid", "softmax") for node in each.layer.nodes)
