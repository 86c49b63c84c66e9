"""A brief training: steps are plain gradient descent, and each layer's gradient is watched."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gnelint.measure.training import train
from tests.measure.networks import program


def again(batch: Tensor, targets: Tensor | None = None):
    return itertools.repeat(({"input": batch}, targets))


def classifier() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).double()
    return module, torch.randn(12, 6, dtype=torch.float64), torch.arange(12) % 5


def test_steps_are_those_of_gradient_descent() -> None:
    module, x, targets = classifier()
    run = train(program(module, x), again(x, targets), 3, learning_rate=0.1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for step in run.steps:
        loss = F.cross_entropy(module(x), targets)
        assert step.loss == pytest.approx(float(loss.detach()), rel=1e-12)
        optimizer.zero_grad()
        loss.backward()
        for name, layer in (("0", module[0]), ("2", module[2])):
            assert step.layers[name] == pytest.approx(math.log2(float(layer.weight.grad.square().sum())), abs=1e-9)
        optimizer.step()


def test_the_users_module_is_not_touched() -> None:
    module, x, targets = classifier()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    train(program(module, x), again(x, targets), 3)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_without_targets_there_is_something_to_fit() -> None:
    module, x, _ = classifier()
    run = train(program(module, x), again(x), 60, learning_rate=0.3)
    assert run.task == "random classes"
    assert run.steps[-1].loss < 0.8 * run.steps[0].loss
    assert not run.diverged


def test_divergence_ends_the_run() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4))).double()
    for layer in module:
        nn.init.normal_(layer.weight, std=30.0)
    x = torch.randn(8, 6, dtype=torch.float64)
    run = train(program(module, x), again(x, torch.randn(8, 6, dtype=torch.float64)), 50)
    assert run.diverged
    assert len(run.steps) < 50


class Tokens(nn.Module):
    """A class for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 8), nn.Linear(8, 7)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids))


def test_a_language_models_targets_are_tokens() -> None:
    torch.manual_seed(0)
    module, ids = Tokens().double(), torch.randint(7, (2, 5))
    run = train(program(module, ids), itertools.repeat(({"ids": ids}, ids)), 1)
    wanted = F.cross_entropy(module(ids).flatten(0, 1), ids.flatten())
    assert run.steps[0].loss == pytest.approx(float(wanted.detach()), rel=1e-12)
    assert set(run.steps[0].layers) == {"embedding", "head"}


def test_an_images_targets_are_pixels() -> None:
    torch.manual_seed(0)
    module, x, targets = nn.Conv2d(3, 4, 1).double(), torch.randn(2, 3, 5, 5).double(), torch.randint(4, (2, 5, 5))
    run = train(program(module, x), again(x, targets), 1)
    assert run.steps[0].loss == pytest.approx(float(F.cross_entropy(module(x), targets).detach()), rel=1e-12)
