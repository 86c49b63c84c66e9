"""Long short-term memories that programs write step by step are the layer that they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import gnelint
from gnelint.ir.graph import Graph, Node
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import read_module
from tests.gradients import measured_log2

INNER, UNITS, STEPS, BATCH = 3, 4, 5, 2


class Split(nn.Module):
    """Two matrices, each with a bias, and a 1 more at the forget gate; over the second axis."""

    def __init__(self, inner: int = INNER, units: int = UNITS) -> None:
        super().__init__()
        self.own, self.back = nn.Linear(inner, 4 * units), nn.Linear(units, 4 * units)

    def forward(self, x: Tensor) -> Tensor:
        hidden = carry = torch.zeros(len(x), self.back.in_features)
        found = []
        for step in range(x.shape[1]):
            i, f, g, o = (self.own(x[:, step]) + self.back(hidden)).chunk(4, -1)
            carry = torch.sigmoid(f + 1.0) * carry + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(carry)
            found.append(hidden)
        return torch.stack(found, 1)


class Joined(nn.Module):
    """A layer for each gate, of the input and the state joined; the gates in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(INNER + UNITS, UNITS) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden, carry = torch.zeros(len(x), UNITS), torch.zeros(len(x), UNITS)
        found = []
        for step in range(x.shape[1]):
            both = torch.cat((x[:, step], hidden), 1)
            g, o, f, i = (gate(both) for gate in self.gates)
            carry = g.tanh() * i.sigmoid() + carry * f.sigmoid()
            hidden = carry.tanh() * o.sigmoid()
            found.append(hidden)
        return torch.stack(found, 1)


class Backwards(Split):
    """From the end, over the first axis."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = carry = torch.zeros(x.shape[1], UNITS)
        found = []
        for row in reversed(x.unbind(0)):
            i, f, g, o = (self.own(row) + self.back(hidden)).chunk(4, -1)
            carry = f.sigmoid() * carry + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * carry.tanh()
            found.append(hidden)
        return torch.stack(found)


@pytest.mark.parametrize("kind", [Split, Joined, Backwards])
def test_steps_are_the_layer_that_they_compute(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = kind()
    x = torch.randn((STEPS, BATCH, INNER) if kind is Backwards else (BATCH, STEPS, INNER))
    graph = read_module(module, (x,), name="steps")
    layer = _layer(graph)
    sequence = x.transpose(0, 1).flip(1) if kind is Backwards else x
    wanted = module(x).transpose(0, 1) if kind is Backwards else module(x)
    own = nn.LSTM(INNER, UNITS, batch_first=True)
    with torch.no_grad():
        for name, role in (("weight_ih_l0", "weight"), ("weight_hh_l0", "recurrent"), ("bias_ih_l0", "bias")):
            getattr(own, name).copy_(torch.tensor(layer.parameters[role].array()))
        own.bias_hh_l0.zero_()
        torch.testing.assert_close(own(sequence)[0], wanted, rtol=1e-5, atol=1e-6)
    assert layer.attribute("reverse") == (kind is Backwards)
    assert not [node.op for node in graph.nodes if node.op in ("sigmoid", "tanh", "concat", "linear")]


def _layer(graph: Graph) -> Node:
    (layer,) = (node for node in graph.nodes if node.op == "lstm")
    return layer


class Fed(Split):
    """Each step reads what the one before has made: there is no sequence."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = carry = torch.zeros(len(x), UNITS)
        row = x
        for _ in range(STEPS):
            i, f, g, o = (self.own(row) + self.back(hidden)).chunk(4, -1)
            carry = f.sigmoid() * carry + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * carry.tanh()
            row = hidden[:, :INNER]
        return row


class Shown(Split):
    """The carries of all steps are handed on too."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = carry = torch.zeros(len(x), UNITS)
        found = []
        for step in range(x.shape[1]):
            i, f, g, o = (self.own(x[:, step]) + self.back(hidden)).chunk(4, -1)
            carry = f.sigmoid() * carry + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * carry.tanh()
            found.append(carry)
        return torch.stack(found, 1) * hidden[:, None]


@pytest.mark.parametrize(("kind", "shape"), [(Fed, (BATCH, INNER)), (Shown, (BATCH, STEPS, INNER))])
def test_steps_that_are_no_layer_stay(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    graph = read_module(kind(), (torch.randn(shape),), name="steps")
    assert not [node for node in graph.nodes if node.op == "lstm"]


class Stack(nn.Module):
    """Two of them on each other, of which the last state is read."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Split(16, 24), Split(24, 24)])
        self.head = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, -1])


def test_what_comes_back_along_the_carry_adds_up_in_the_layer_below() -> None:
    """Step by step it counts as independent: 1.3 to 1.7 bits were lost here."""
    torch.manual_seed(0)
    module, x = Stack(), torch.randn(64, 12, 16)
    analysis = gnelint.check(module, (x,))
    assert analysis.prediction.gradient_log2 == pytest.approx(measured_log2(module, x), abs=0.7)


def _file(path: Path, nodes: list[onnx.NodeProto], **arrays: np.ndarray) -> Graph:
    given = [helper.make_tensor_value_info("ids", TensorProto.INT64, [BATCH, STEPS])]
    written = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "padded", given, written, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return read(path)


def test_masks_of_padding_hide_nothing(tmp_path: Path) -> None:
    """A mean over the tokens that are none, as Keras writes it: products with the mask and its sum."""
    graph = _file(
        tmp_path / "padded.onnx",
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Equal", ["ids", "zero"], ["padding"]),
            helper.make_node("Not", ["padding"], ["mask"]),
            helper.make_node("Cast", ["mask"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["numbers", "axis"], ["columns"]),
            helper.make_node("Mul", ["rows", "columns"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "time"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["columns", "time"], ["count"], keepdims=0),
            helper.make_node("Div", ["sum", "count"], ["y"]),
        ],
        table=np.random.default_rng(0).normal(size=(9, UNITS)).astype(np.float32),
        zero=np.array(0),
        axis=np.array([2]),
        time=np.array([1]),
    )
    assert (
        graph.notes[-1] == "no token is taken to be padding: masks of tokens that differ from one number hide nothing"
    )
    assert not [node.op for node in graph.nodes if node.op in ("mul", "div")]


@pytest.mark.parametrize("length", [STEPS, 3])
def test_sequences_of_one_length_are_turned_around(tmp_path: Path, length: int) -> None:
    graph = _file(
        tmp_path / "turned.onnx",
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("ReverseSequence", ["rows", "lengths"], ["y"], batch_axis=0, time_axis=1),
        ],
        table=np.ones((9, UNITS), np.float32),
        lengths=np.full(BATCH, length),
    )
    (turn,) = (node for node in graph.nodes if node.op == "flip")
    assert graph.values[turn.outputs[0]].shape == (BATCH, length, UNITS)
    assert turn.attribute("axes") == (1,)
