"""gnelint reads its own layers: on every route to the graph they are one operation, and phi is as measured."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import gnelint
from gnelint.ir.graph import Graph
from gnelint.nn import Centred, CentredConv2d, CentredLinear, L1Norm2d, Scale, ScaledELU, SecondMomentNorm2d
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import read_module, read_pt2

OPS = ["conv", "second_moment_norm", "relu", "conv", "second_moment_norm", "relu", "reshape", "linear"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        CentredConv2d(3, 16, 3, padding=1),
        SecondMomentNorm2d(16),
        nn.ReLU(),
        CentredConv2d(16, 16, 3, padding=1, bias=False),
        SecondMomentNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        CentredLinear(16 * 64, 10),
    )


INPUT = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def assert_read(graph: Graph) -> None:
    assert [node.op for node in graph.nodes if node.op != "identity"] == OPS
    for node in graph.nodes:
        if node.op in ("conv", "linear"):
            weight = node.parameters["weight"].array()
            assert abs(weight.mean(axis=tuple(range(1, weight.ndim)))).max() < 1e-7
        if node.op == "second_moment_norm":
            assert node.attribute("training") is True
            assert node.attribute("epsilon") == pytest.approx(1e-5)
            assert set(node.parameters) == {"scale", "bias"}


def test_traced() -> None:
    graph = read_module(network(), (INPUT,), name="network")
    assert_read(graph)
    assert [node.name for node in graph.nodes if node.op != "identity"] == list("01234567")


def test_traced_in_a_narrow_type() -> None:
    graph = read_module(network().bfloat16(), (INPUT.bfloat16(),), name="network")
    assert [node.name for node in graph.nodes if node.op == "second_moment_norm"] == ["1", "4"]


@pytest.mark.parametrize("dynamo", [False, True])
def test_exported_to_onnx(dynamo: bool, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    options = {} if dynamo else {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network(), (INPUT,), path, dynamo=dynamo, verbose=False, **options)
    assert_read(read(path))


def test_phi_is_what_is_measured() -> None:
    result = gnelint.verify(network(), example_inputs=(INPUT,))
    assert result.holds, str(result)


def test_pointwise_layers() -> None:
    module = nn.Sequential(nn.Linear(8, 8), ScaledELU(1.2, 1.1), nn.Linear(8, 8), Scale(0.5))
    found = read_module(module, (torch.randn(4, 8),), name="network").nodes
    assert [node.op for node in found] == ["linear", "selu", "linear", "scale"]
    assert dict(found[1].attributes) == pytest.approx({"alpha": 1.2, "gamma": 1.1})
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(ScaledELU(1.6732632423543772, 1.0507009873554805)(x), nn.SELU()(x))


class Fused(nn.Module):
    """A block whose rectifier and residual are the normalisation's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = CentredConv2d(3, 3, 3, padding=1), SecondMomentNorm2d(3, relu=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x), x)


class ByOperator(Fused):
    """The same through the operator that the layer runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        y, _ = torch.ops.gnelint.second_moment_norm(self.conv(x), norm.weight, norm.bias, x, norm.eps, True)
        return y


@pytest.mark.parametrize("kind", [Fused, ByOperator])
def test_fused_blocks_are_read_as_what_they_do(kind: type[Fused]) -> None:
    graph = read_module(kind(), (INPUT,), name="network")
    assert [node.op for node in graph.nodes if node.op != "identity"] == ["conv", "second_moment_norm", "add", "relu"]
    (norm,) = (node for node in graph.nodes if node.op == "second_moment_norm")
    assert set(norm.parameters) == {"scale", "bias"}
    assert (norm.attribute("training"), norm.attribute("epsilon")) == (True, pytest.approx(1e-5))
    result = gnelint.verify(kind(), example_inputs=(INPUT,))
    assert result.holds, str(result)


def test_a_program_with_the_operator_is_read_from_its_file(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(ByOperator(), (INPUT,)), tmp_path / "network.pt2")
    graph = read_pt2(tmp_path / "network.pt2")
    assert [node.op for node in graph.nodes if node.op != "identity"] == ["conv", "second_moment_norm", "add", "relu"]


def test_a_fused_block_is_exported_in_standard_operators(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Fused(), (INPUT,), path, dynamo=True, verbose=False)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    assert [node.op for node in read(path).nodes if node.op != "identity"] == [
        "conv",
        "second_moment_norm",
        "add",
        "relu",
    ]


def test_parametrized_filters_and_l1_norms() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), L1Norm2d(4), nn.ReLU())
    parametrize.register_parametrization(module[0], "weight", Centred())
    graph = read_module(module, (INPUT,), name="network")
    assert [node.op for node in graph.nodes if node.op != "identity"] == ["conv", "l1_norm", "scale", "bias", "relu"]
    weight = graph.nodes[0].parameters["weight"].array()
    assert abs(weight.mean(axis=(1, 2, 3))).max() < 1e-7
    assert next(node for node in graph.nodes if node.op == "l1_norm").attribute("axes") == (0, 2, 3)
