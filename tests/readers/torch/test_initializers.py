"""Models built on the meta device: their initialisers stand in for the numbers they do not have."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import gnelint
from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Parameter
from gnelint.ir.laws import Law
from gnelint.readers.reading import read_target
from gnelint.readers.target import resolve
from gnelint.readers.torch.initializers import InitializerRecorder
from gnelint.readers.torch.reader import read_module
from tests.models.transformer import llama

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
            self.fourth.weight.copy_(torch.linalg.qr(self.fourth.weight)[0])
    def forward(self, ids):
        x = self.embed(ids)
        return self.fourth(self.third(self.second(self.norm(self.first(x).relu())))) + self.tied(x)

def make():
    with torch.device("meta"):
        return Net(), (torch.zeros(2, 5, dtype=torch.int64),)
"""


@pytest.fixture(scope="module")
def parameters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parameter]:
    tmp_path = tmp_path_factory.mktemp("built")
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


def test_the_law_of_the_entries_stands_for_them(parameters: dict[str, Parameter]) -> None:
    for name in ("first.weight", "second.weight", "norm.weight", "norm.bias", "third.bias"):
        law, numbers = parameters[name].law, parameters[name].array().astype(np.float64)
        assert law is not None
        assert law.mean == pytest.approx(numbers.mean(), abs=4 * numbers.std() / math.sqrt(numbers.size) + 1e-12)
        assert law.variance == pytest.approx(numbers.var(), rel=0.05, abs=1e-12)
    assert parameters["third.weight"].law is None  # orthogonal: no independent entries
    assert parameters["embed.weight"].law is None  # a row of 50 is zero, which is no small part


def test_a_row_of_padding_is_no_part_of_the_law() -> None:
    recorder = InitializerRecorder()
    with recorder, torch.device("meta"):
        table = torch.nn.Embedding(5000, 4, padding_idx=0).weight
        scaled = torch.empty(30, 20).uniform_(0.0, 1.0).mul_(2.0).sub_(1.0)
    assert recorder.law(table) == Law.gaussian(0.0, 1.0)
    assert recorder.law(scaled) == Law.uniform(-1.0, 1.0)


def test_what_is_computed_while_a_model_is_built_can_be_replayed() -> None:
    """Tokens, tables of rates, scales that are copied: an own start of a state space has all of them."""
    recorder = InitializerRecorder()
    with recorder, torch.device("meta"), torch.no_grad():
        token = torch.nn.Parameter(0.02 * torch.randn(1, 50, 30) + 1.0)
        ones = torch.nn.Parameter(torch.ones(7))
        full = torch.full_like(torch.empty(7), 3.0).div_(2.0)
        rates = torch.nn.Parameter(torch.log(torch.arange(1, 8).float()))
        steps, drawn = torch.empty(40), torch.rand(40)
        steps.copy_(torch.exp(drawn * 3.0 - 5.0).clamp(min=1e-2))
        drawn.zero_()
        halves = torch.cat([torch.zeros(3), steps[:2]])
        lost = torch.empty(4, 4).copy_(torch.linalg.qr(torch.randn(4, 4))[0])
    assert recorder.law(token) == Law.gaussian(1.0, 0.02)
    assert recorder.draw(token).std().item() == pytest.approx(0.02, rel=0.1)
    assert recorder.law(ones) == Law.constant(1.0)
    assert recorder.law(full) == Law.constant(1.5)
    assert torch.equal(recorder.draw(full), torch.full((7,), 1.5))
    torch.testing.assert_close(recorder.draw(rates), torch.arange(1, 8).float().log())
    found = recorder.draw(steps)
    assert recorder.law(steps) is None
    assert found.min() >= 1e-2
    assert len(found.unique()) > 20
    assert torch.equal(recorder.draw(halves), torch.cat([torch.zeros(3), found[:2]]))
    assert not recorder.knows(lost)


@pytest.mark.slow
def test_nothing_is_drawn_for_a_check(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def make():\n"
        "    with torch.device('meta'):\n"
        "        layers = [m for _ in range(3) for m in (torch.nn.Linear(20_000, 20_000), torch.nn.ReLU())]\n"
        "        return torch.nn.Sequential(*layers), (torch.zeros(2, 20_000),)\n"
    )
    tracemalloc.start()
    found = gnelint.check(f"{tmp_path}/net.py:make")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # one of the matrices has 1.6 GB
    # uniform in +-1/sqrt(n): E w^2 = 1 / (3 n), half of which passes the rectifier
    assert [block.phi for block in found.prediction.blocks] == pytest.approx([1 / 6] * 3, rel=0.01)


@pytest.mark.slow
def test_blocks_are_as_those_of_drawn_weights() -> None:
    sizes = {"vocabulary": 1000, "width": 512, "depth": 2, "heads": 8}
    tokens = torch.arange(32).reshape(2, 16)
    recorder = InitializerRecorder()
    with recorder, torch.device("meta"):
        empty = llama(**sizes)
    torch.manual_seed(0)
    found = [
        analyse(read_module(llama(**sizes), (tokens,), name="drawn")),
        analyse(read_module(empty, (tokens,), name="meant", recorder=recorder)),
    ]
    drawn, meant = ([block.phi for block in one.blocks if block.phi is not None] for one in found)
    assert len(meant) > 4
    assert meant == pytest.approx(drawn, rel=0.01)
