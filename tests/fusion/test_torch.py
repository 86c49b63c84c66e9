"""Operations written out in PyTorch come back as one node that computes the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gnelint.fusion import fuse
from gnelint.ir.graph import Graph
from gnelint.readers.torch import reader as torch_reader
from tests.evaluator import run
from tests.fusion.modules import (
    ACTIVATIONS,
    ATTENTION,
    DIFFERENT,
    HEADS,
    NORMALIZATIONS,
    SOFTMAX,
    STRAIGHT_THROUGH,
    TOKENS,
    Idiom,
    Written,
)

COMPOSITES = {
    "gelu", "silu", "hardswish", "mish", "layer_norm", "rms_norm", "l2_normalize", "softmax", "attention"
}  # fmt: skip
QKV = {
    name: replace(idiom, shapes=(HEADS,) * 3) if idiom.shapes == (TOKENS,) else idiom
    for name, idiom in ATTENTION.items()
}


def read(monkeypatch: pytest.MonkeyPatch, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Graph:
    """The module as the reader lowers it, before any idiom is recognised."""
    monkeypatch.setattr(torch_reader, "fuse", lambda graph: graph)
    return torch_reader.read_module(module, inputs, name="idiom")


def inputs_of(idiom: Idiom) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(2.0 * torch.randn(shape, generator=generator) + 0.3 for shape in idiom.shapes)


def assert_same_function(before: Graph, after: Graph, inputs: tuple[torch.Tensor, ...]) -> None:
    feed = {name: x.double() for name, x in zip(before.inputs, inputs, strict=True)}
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    expected, found = run(before, feed), run(after, feed)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def check(monkeypatch: pytest.MonkeyPatch, idiom: Idiom, module: torch.nn.Module) -> None:
    inputs = inputs_of(idiom)
    before = read(monkeypatch, module, inputs)
    after = fuse(before)
    assert tuple(node.op for node in after.nodes) == idiom.op
    composite = next(node for node in after.nodes if node.op not in ("constant", "transpose", "concat"))
    for name, value in idiom.attributes.items():
        assert composite.attribute(name) == (pytest.approx(value) if isinstance(value, float) else value)
    assert tuple(composite.parameters) == idiom.parameters or not idiom.parameters
    assert_same_function(before, after, inputs)
    assert fuse(after) is after


@pytest.mark.parametrize("idiom", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activation(monkeypatch: pytest.MonkeyPatch, idiom: Idiom) -> None:
    check(monkeypatch, idiom, Written(idiom.function))


@pytest.mark.parametrize(("idiom", "shape"), NORMALIZATIONS.values(), ids=NORMALIZATIONS)
def test_normalization(monkeypatch: pytest.MonkeyPatch, idiom: Idiom, shape: tuple[int, ...]) -> None:
    module = Written(idiom.function, shape)
    module.function = lambda *inputs: idiom.function(module, *inputs)
    check(monkeypatch, idiom, module)


@pytest.mark.parametrize("idiom", STRAIGHT_THROUGH.values(), ids=STRAIGHT_THROUGH)
def test_straight_through(monkeypatch: pytest.MonkeyPatch, idiom: Idiom) -> None:
    check(monkeypatch, idiom, Written(idiom.function))


@pytest.mark.parametrize("idiom", SOFTMAX.values(), ids=SOFTMAX)
def test_softmax(monkeypatch: pytest.MonkeyPatch, idiom: Idiom) -> None:
    check(monkeypatch, idiom, Written(idiom.function))


def test_a_sink_beside_a_mask_that_the_network_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen keys of sparse attention are hidden by numbers, which are no logits."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        logits = (q @ k.transpose(-2, -1) * 0.5).masked_fill((k[..., 0] > 1.0).unsqueeze(-2), -1e9)
        sink = torch.linspace(0, 1, 3).view(3, 1, 1).expand(2, -1, 5, 1)
        logits = torch.cat([logits, sink], -1)
        return (logits - logits.max(-1, keepdim=True).values).softmax(-1)[..., :-1] @ v

    idiom = Idiom(attend, (), shapes=(HEADS,) * 3)
    inputs = inputs_of(idiom)
    before = read(monkeypatch, Written(attend), inputs)
    after = fuse(before)
    (attention,) = (node for node in after.nodes if node.op == "attention")
    assert len(attention.inputs) == 4
    assert tuple(attention.parameters) == ("mask",)
    assert not any(node.op == "softmax" for node in after.nodes)
    assert_same_function(before, after, inputs)


@pytest.mark.parametrize("idiom", QKV.values(), ids=QKV)
def test_attention(monkeypatch: pytest.MonkeyPatch, idiom: Idiom) -> None:
    check(monkeypatch, idiom, Written(idiom.function))


@pytest.mark.parametrize("idiom", DIFFERENT.values(), ids=DIFFERENT)
def test_a_near_miss_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, idiom: Idiom) -> None:
    inputs = inputs_of(idiom)
    before = read(monkeypatch, Written(idiom.function), inputs)
    after = fuse(before)
    ops = tuple(node.op for node in after.nodes)
    assert ops == idiom.op or not idiom.op
    made = {node.op for node in after.nodes} - {node.op for node in before.nodes}
    assert not made & COMPOSITES
    assert_same_function(before, after, inputs)


def test_padding_that_no_maximum_takes_is_the_pool_s(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = torch.nn.functional.pad
    pool = Written(lambda x: torch.max_pool2d(padded(x, (0, 1, 0, 1), value=-float("inf")), 3, 2))
    inputs = (torch.randn(2, 3, 8, 6),)
    before = read(monkeypatch, pool, inputs)
    after = fuse(before)
    assert [(node.op, node.attribute("pads")) for node in after.nodes] == [("max_pool", (0, 0, 1, 1))]
    assert_same_function(before, after, inputs)


@pytest.mark.parametrize("kind", ["number", "gate of the input", "no shares", "too much"])
def test_shares_divided_by_their_own_sum_are_shares(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A mixture of two maps is one again, whatever its gate; what sums to another number is divided by it."""

    def mixed(x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(x.mean(-1, keepdim=True)) if kind == "gate of the input" else torch.tensor(0.3)
        fixed = torch.softmax(torch.arange(8.0).sin(), -1)
        own = torch.tanh(x) + 2.0 if kind == "no shares" else torch.softmax(x, -1)
        rows = (1.2 - gate if kind == "too much" else 1.0 - gate) * own + gate * fixed
        return rows / rows.sum(-1, keepdim=True)

    inputs = inputs_of(Idiom(mixed, ()))
    before = read(monkeypatch, Written(mixed), inputs)
    after = fuse(before)
    assert_same_function(before, after, inputs)
    divides = any(node.op == "div" for node in after.nodes)
    assert divides == (kind in ("no shares", "too much"))


def test_a_mask_of_unknown_pattern_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    idiom = QKV["mask from outside"]
    graph = fuse(read(monkeypatch, Written(idiom.function), inputs_of(idiom)))
    assert graph.notes == ("1 attention read a mask that inputs decide: it is taken to hide nothing",)


def test_the_parts_of_a_fourier_transform_are_two_values() -> None:
    """Its real part is a difference of two products with matrices that have one name, which is not x - x."""

    class Real(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft2(x).real

    graph = torch_reader.trace_module(Real(), (torch.randn(2, 8, 8),), name="real").graph
    difference = next(node for node in graph.nodes if node.op == "sub")
    assert difference.inputs[0] != difference.inputs[1]
