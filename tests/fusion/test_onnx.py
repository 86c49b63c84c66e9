"""Operations as PyTorch's exporters write them into ONNX come back as one node that computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gnelint.fusion import fuse
from gnelint.ir.graph import UNMODELLED, Graph
from gnelint.readers.onnx import reader as onnx_reader
from tests.evaluator import run
from tests.fusion.modules import ACTIVATIONS, ATTENTION, HEADS, IMAGE, NORMALIZATIONS, SOFTMAX, TOKENS, Written
from tests.fusion.test_torch import inputs_of
from tests.models.export import write_onnx

OPSETS = (13, 17)


def read(
    monkeypatch: pytest.MonkeyPatch,
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    tmp_path: Path,
    opset: int,
    *,
    dynamo: bool = False,
) -> tuple[Graph, Graph]:
    """The exported module before and after its idioms are recognised."""
    path = tmp_path / "model.onnx"
    write_onnx(module, inputs, path, opset=opset, dynamo=dynamo, fold=False)
    monkeypatch.setattr(onnx_reader, "fuse", lambda graph: graph)
    before = onnx_reader.read(path)
    return before, fuse(before)


def assert_computes(graph: Graph, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """The graph's function is the module's, in float64."""
    feed = {name: x.double() for name, x in zip(graph.inputs, inputs, strict=True)}
    found = run(graph, feed)[graph.outputs[0]]
    torch.testing.assert_close(found, module.double()(*feed.values()).detach(), rtol=1e-4, atol=1e-4)


CASES = {
    **{name: (idiom, ()) for name, idiom in {**ACTIVATIONS, **SOFTMAX}.items()},
    **NORMALIZATIONS,
    **{name: (idiom, ()) for name, idiom in ATTENTION.items() if name != "dropout"},
}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", CASES)
def test_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, opset: int) -> None:
    idiom, shape = CASES[name]
    module = Written(idiom.function, shape)
    if name in NORMALIZATIONS:
        module.function = lambda *inputs: idiom.function(module, *inputs)
    inputs = inputs_of(idiom)
    if name in ATTENTION and idiom.shapes == (TOKENS,):
        inputs = tuple(torch.randn(HEADS) for _ in range(3))
    before, after = read(monkeypatch, module, inputs, tmp_path, opset)
    assert tuple(node.op for node in after.nodes) == idiom.op, [node.op for node in before.nodes]
    composite = next(node for node in after.nodes if node.op not in ("constant", "transpose"))
    for attribute, value in idiom.attributes.items():
        assert composite.attribute(attribute) == (pytest.approx(value) if isinstance(value, float) else value)
    assert fuse(after) is after
    assert_computes(after, module, inputs)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.function(*inputs)
        return found


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v)


def attend_causally(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


LAYERS = {
    "GELU": (nn.GELU(), (TOKENS,), ("gelu",)),
    "GELU tanh": (nn.GELU(approximate="tanh"), (TOKENS,), ("gelu",)),
    "SiLU": (nn.SiLU(), (TOKENS,), ("silu",)),
    "Hardswish": (nn.Hardswish(), (TOKENS,), ("hardswish",)),
    "Hardsigmoid": (nn.Hardsigmoid(), (TOKENS,), ("hardsigmoid",)),
    "ReLU6": (nn.ReLU6(), (TOKENS,), ("clip",)),
    "Hardtanh": (nn.Hardtanh(), (TOKENS,), ("clip",)),
    "Mish": (nn.Mish(), (TOKENS,), ("mish",)),
    "Softsign": (nn.Softsign(), (TOKENS,), ("softsign",)),
    "LogSigmoid": (nn.LogSigmoid(), (TOKENS,), ("log_sigmoid",)),
    "LogSoftmax": (nn.LogSoftmax(-1), (TOKENS,), ("log_softmax",)),
    "LayerNorm": (nn.LayerNorm(8), (TOKENS,), ("layer_norm",)),
    "LayerNorm 2": (nn.LayerNorm((5, 8)), (TOKENS,), ("layer_norm",)),
    "RMSNorm": (nn.RMSNorm(8, eps=1e-6), (TOKENS,), ("rms_norm",)),
    "GroupNorm": (nn.GroupNorm(3, 6), (IMAGE,), ("group_norm",)),
    "GroupNorm 1": (nn.GroupNorm(1, 6), (IMAGE,), ("group_norm",)),
    "InstanceNorm": (nn.InstanceNorm2d(6), (IMAGE,), ("instance_norm",)),
    "normalize": (Function(lambda x: functional.normalize(x, dim=-1)), (TOKENS,), ("l2_normalize",)),
    "attention": (Function(attend), (HEADS,) * 3, ("attention",)),
    "causal attention": (Function(attend_causally), (HEADS,) * 3, ("attention",)),
    "Linear on tokens": (nn.Linear(8, 3), (TOKENS,), ("linear",)),
}  # fmt: skip


UNSUPPORTED = {"RMSNorm": (13, 17, 20), "attention": (13,), "causal attention": (13,)}
"""What the TorchScript exporter refuses, and at which of these opsets."""


@pytest.mark.parametrize(
    ("name", "opset"),
    [(name, opset) for name in LAYERS for opset in (13, 17, 20) if opset not in UNSUPPORTED.get(name, ())],
)
def test_layer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, opset: int) -> None:
    module, shapes, ops = LAYERS[name]
    inputs = tuple(torch.randn(shape) for shape in shapes)
    before, after = read(monkeypatch, module.float(), inputs, tmp_path, opset)
    assert tuple(node.op for node in after.nodes) == ops, [node.op for node in before.nodes]
    assert_computes(after, module, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_by_the_new_exporter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, opset: int) -> None:
    module, shapes, ops = LAYERS[name]
    inputs = tuple(torch.randn(shape) for shape in shapes)
    before, after = read(monkeypatch, module.float(), inputs, tmp_path, opset, dynamo=True)
    found = tuple(node.op for node in after.nodes if node.op != "identity")  # casts to the type that it has
    assert found == ops, [node.op for node in before.nodes]
    assert_computes(after, module, inputs)


ESTIMATED = {
    "rounded": (lambda x: x + (torch.round(x * 4) / 4 - x).detach(), True),
    "sign": (lambda x: (torch.sign(x) - x).detach() + x, True),
    "one hot": (
        lambda x: functional.one_hot((y := x.softmax(-1)).argmax(-1), 8).float() - y.detach() + y,
        True,
    ),
    "smooth": (lambda x: x + (torch.tanh(x) - x), False),
    "another's": (lambda x: x + (torch.round(x) - torch.tanh(x)), False),
}


@pytest.mark.parametrize("name", ESTIMATED)
def test_a_rounded_difference_is_a_straight_through_estimator(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file does not say that it was detached: models with quantised weights or codebooks had errors of GNE507."""
    function, estimated = ESTIMATED[name]
    module, inputs = Function(function), (torch.randn(4, 8),)
    _, after = read(monkeypatch, module, inputs, tmp_path, 17)
    operations = {node.op for node in after.nodes}
    assert ("straight_through" in operations) == estimated
    if UNMODELLED not in operations:  # as the largest class is
        assert_computes(after, module, inputs)
