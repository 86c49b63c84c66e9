"""gnelint reads its own layers: on every route to the graph they are one operation, and phi is as measured."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import gnelint
from gnelint.ir.graph import Graph
from gnelint.nn import CentredConv2d, CentredLinear, Scale, ScaledELU, SecondMomentNorm2d
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import read_module

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
