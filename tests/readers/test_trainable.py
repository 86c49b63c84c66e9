"""What the readers say of each tensor: trained, frozen, a buffer, or a number of the program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.ir.graph import Graph, Parameter
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import read_module, read_pt2
from tests.models.export import write_onnx


class Mixed(nn.Module):
    """A trained layer with a frozen bias, a weight-normalised one, a frozen one, a buffer, a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.first.bias.requires_grad_(False)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.fixed = nn.Linear(8, 8)
        self.fixed.requires_grad_(False)
        self.register_buffer("mixing", torch.rand(8, 8))
        self.register_buffer("kept", torch.rand(8), persistent=False)
        self.step = torch.rand(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normed(torch.relu(self.first(x)))
        return self.mixing @ self.fixed(x) * self.kept + self.step


WANTED = {
    "first.weight": "parameter",
    "first.bias": "frozen",
    "fixed.weight": "frozen",
    "normed.weight": "parameter",
    "mixing": "buffer",
    "kept": "buffer",
    "step": "constant",
}
X = torch.randn(2, 8, 8)


def kinds(graph: Graph) -> dict[str, str]:
    found: dict[str, Parameter] = {parameter.name: parameter for parameter in graph.parameters()}
    return {name: found[name].kind for name in WANTED if name in found}


def test_a_module() -> None:
    graph = read_module(Mixed(), (X,), name="mixed")
    assert kinds(graph) == WANTED
    leaves = {leaf.name: leaf for parameter in graph.parameters() for leaf in parameter.leaves}
    assert leaves["normed.parametrizations.weight.original0"].trainable
    assert not leaves["mixing"].trainable


def test_an_exported_program(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Mixed(), (X,)), tmp_path / "mixed.pt2")
    assert kinds(read_pt2(tmp_path / "mixed.pt2")) == WANTED


def test_a_file_of_the_newer_exporter_says_buffers_and_numbers(tmp_path: Path) -> None:
    write_onnx(Mixed(), (X,), tmp_path / "mixed.onnx", opset=18, dynamo=True, fold=True)
    found = kinds(read(tmp_path / "mixed.onnx"))
    assert {name: kind for name, kind in found.items() if kind != "parameter"} == {
        "mixing": "buffer",
        "kept": "buffer",
        "step": "constant",
    }


def test_a_file_without_a_word_on_it_counts_its_weights_as_trained(tmp_path: Path) -> None:
    write_onnx(Mixed(), (X,), tmp_path / "mixed.onnx", opset=18, dynamo=False, fold=False)
    found = kinds(read(tmp_path / "mixed.onnx"))
    assert found["first.weight"] == found["first.bias"] == "parameter"


@pytest.mark.parametrize(("frozen", "trainable"), [(False, True), (True, False)])
def test_what_is_made_of_several_tensors_is_trained_with_the_first(frozen: bool, trainable: bool) -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    net[0].parametrizations.weight.original1.requires_grad_(False)
    net[0].parametrizations.weight.original0.requires_grad_(not frozen)
    (weight, _) = gnelint.check(net, torch.randn(2, 4)).prediction.graph.parameters()
    assert weight.trainable == trainable


class Mixing(nn.Module):
    """Layers on the features of nodes, with a matrix on the left that mixes the nodes."""

    def __init__(self, mixing: Tensor, left: bool = True) -> None:
        super().__init__()
        self.left = left
        self.register_buffer("mixing", mixing)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(self.mixing @ layer(x)) if self.left else torch.relu(self.mixing @ x)
        return x


WAVES = (torch.arange(16)[:, None] * torch.arange(32) * (2 * torch.pi / 32)).cos()
BANDS = (1 - (torch.arange(32) - 2 * torch.arange(16)[:, None]).abs() / 3).clamp(min=0)
PLAIN = torch.rand(16, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        (WAVES, "constant"),
        (torch.hann_window(32) * WAVES, "constant"),
        (BANDS, "constant"),
        (BANDS / BANDS.sum(1, keepdim=True), "constant"),
        ((PLAIN > 0.5).float(), "constant"),
        (PLAIN, "parameter"),
        (PLAIN - 0.5, "parameter"),
        (torch.eye(16, 32), "parameter"),
        (torch.zeros(16, 32), "parameter"),
        (torch.full((16, 32), 0.1), "parameter"),
    ],
    ids=["waves", "windowed", "bands", "averages", "mask", "positive", "drawn", "identity", "zero", "alike"],
)
def test_numbers_that_no_initialiser_draws_are_no_layer_of_a_file(numbers: Tensor, kind: str, tmp_path: Path) -> None:
    layer = nn.Linear(32, 16)
    layer.weight.data = numbers.clone()
    net = nn.Sequential(layer, nn.ReLU(), nn.Linear(16, 4))
    write_onnx(net, (torch.randn(8, 32),), tmp_path / "made.onnx", opset=18, dynamo=False, fold=False)
    found = {parameter.name: parameter.kind for parameter in read(tmp_path / "made.onnx").parameters()}
    assert found["0.weight"] == kind
    assert found["2.weight"] == "parameter"


DRAW = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("mixing", "left", "kind"),
    [
        (DRAW, True, "constant"),
        (DRAW, False, "parameter"),
        (DRAW.abs(), False, "constant"),
        (DRAW.triu(1), False, "constant"),
    ],
)
def test_a_matrix_on_the_left_in_a_file_is_no_layer(mixing: Tensor, left: bool, kind: str, tmp_path: Path) -> None:
    net = Mixing(mixing, left)
    net.layers.requires_grad_(True)
    write_onnx(net, (X,), tmp_path / "mixing.onnx", opset=18, dynamo=False, fold=False)
    graph = read(tmp_path / "mixing.onnx")
    found = {parameter.name: parameter.kind for parameter in graph.parameters() if parameter.shape == (8, 8)}
    assert found.pop("mixing") == kind
    assert set(found.values()) <= {"parameter"}
