"""Models built on the meta device: their initialisers stand in for the numbers they do not have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gnelint.ir.graph import Parameter
from gnelint.readers.reading import read_target
from gnelint.readers.target import resolve
from gnelint.readers.torch.initializers import InitializerRecorder

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 64, padding_idx=3)
        self.first = nn.Linear(64, 400)
        self.norm = nn.LayerNorm(400)
        self.second = nn.Linear(400, 50, bias=False)
        self.third = nn.Linear(50, 50)
        self.tied = nn.Linear(64, 50, bias=False)
        self.tied.weight = self.embed.weight
        nn.init.trunc_normal_(self.second.weight, std=0.02)
        nn.init.orthogonal_(self.third.weight)
        nn.init.constant_(self.third.bias, 2.0)
        self.fourth = nn.Linear(50, 50)
        with torch.no_grad():
            self.fourth.weight.copy_(self.fourth.weight.cumsum(0))
    def forward(self, ids):
        x = self.embed(ids)
        return self.fourth(self.third(self.second(self.norm(self.first(x).relu())))) + self.tied(x)

def make():
    with torch.device("meta"):
        return Net(), (torch.zeros(2, 5, dtype=torch.int64),)
"""


@pytest.fixture
def parameters(tmp_path: Path) -> dict[str, Parameter]:
    (tmp_path / "net.py").write_text(SOURCE)
    graph = read_target(resolve(f"{tmp_path}/net.py:make")[0])
    return {parameter.name: parameter for parameter in graph.parameters()}


def test_numbers_follow_the_recorded_initialisers(parameters: dict[str, Parameter]) -> None:
    assert {name for name, p in parameters.items() if p.provenance == "initializer"} == {
        "embed.weight", "first.weight", "first.bias", "norm.weight", "norm.bias", "second.weight", "third.bias",
        "third.weight", "fourth.bias",
    }  # fmt: skip
    embedding = parameters["embed.weight"].array()
    assert embedding[np.arange(50) != 3].std() == pytest.approx(1.0, rel=0.05)
    assert (embedding[3] == 0).all()
    first = parameters["first.weight"].array()
    assert first.std() == pytest.approx(1 / math.sqrt(3 * 64), rel=0.02)  # the framework's uniform default
    assert np.abs(first).max() <= 1 / 8
    assert parameters["second.weight"].array().std() == pytest.approx(0.02, rel=0.02)
    assert (parameters["norm.weight"].array() == 1).all()
    assert (parameters["third.bias"].array() == 2).all()
    third = parameters["third.weight"].array()
    np.testing.assert_allclose(third @ third.T, np.eye(50), atol=1e-5)
    np.testing.assert_array_equal(first, parameters["first.weight"].array())


def test_what_cannot_be_replayed_stays_a_placeholder(parameters: dict[str, Parameter]) -> None:
    assert parameters["fourth.weight"].provenance == "placeholder"


def test_drawing_leaves_the_generator_alone() -> None:
    recorder = InitializerRecorder()
    with recorder, torch.device("meta"):
        weight = torch.empty(30, 20).uniform_(-2.0, 2.0)
    state = torch.get_rng_state()
    drawn = recorder.draw(weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn.abs().max() <= 2
    assert drawn.std().item() == pytest.approx(4 / math.sqrt(12), rel=0.05)
