"""Recurrent units that programs run step by step, as cells or written out, are the layer that they compute."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import gnelint
from gnelint.ir.graph import Graph, Node
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import read_module
from tests.gradients import measured_log2

INNER, UNITS, STEPS, BATCH = 3, 4, 5, 2


class Steps(nn.Module):
    """Over the second axis, from zeros."""

    def __init__(self, inner: int = INNER, units: int = UNITS) -> None:
        super().__init__()
        self.units = units
        self.build(inner, units)

    def build(self, inner: int, units: int) -> None:
        raise NotImplementedError

    def step(self, x: Tensor, hidden: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        hidden, found = x.new_zeros(len(x), self.units), []
        for place in range(x.shape[1]):
            hidden = self.step(x[:, place], hidden)
            found.append(hidden)
        return torch.stack(found, 1)


class Inside(Steps):
    """The reset gate multiplies what the state's matrix makes."""

    def build(self, inner: int, units: int) -> None:
        self.own, self.back = nn.Linear(inner, 3 * units), nn.Linear(units, 3 * units)

    def step(self, x: Tensor, hidden: Tensor) -> Tensor:
        (a, b, c), (d, e, f) = self.own(x).chunk(3, -1), self.back(hidden).chunk(3, -1)
        update = torch.sigmoid(b + e)
        return (1 - update) * torch.tanh(c + torch.sigmoid(a + d) * f) + update * hidden


class Joined(Steps):
    """It multiplies the state, and the update gate lets the new value in; a layer for each gate."""

    def build(self, inner: int, units: int) -> None:
        self.gates = nn.ModuleList(nn.Linear(inner + units, units) for _ in range(3))

    def step(self, x: Tensor, hidden: Tensor) -> Tensor:
        update, reset = (gate(torch.cat([x, hidden], -1)).sigmoid() for gate in self.gates[:2])
        new = self.gates[2](torch.cat([x, reset * hidden], -1)).tanh()
        return (1 - update) * hidden + update * new


class Cell(Steps):
    kind: ClassVar[type[nn.Module]] = nn.GRUCell

    def build(self, inner: int, units: int) -> None:
        self.cell = self.kind(inner, units)

    def step(self, x: Tensor, hidden: Tensor) -> Tensor:
        found: Tensor = self.cell(x, hidden)
        return found


class Simple(Cell):
    kind = nn.RNNCell


class Long(Cell):
    kind = nn.LSTMCell

    def forward(self, x: Tensor) -> Tensor:
        states, found = (x.new_zeros(len(x), self.units),) * 2, []
        for row in x.unbind(1):
            states = self.cell(row, states)
            found.append(states[0])
        return torch.stack(found, 1)


def the_layer(graph: Graph) -> Node:
    (layer,) = (node for node in graph.nodes if node.op in ("gru", "lstm", "rnn"))
    return layer


def run(layer: Node, x: Tensor) -> Tensor:
    """What the layer computes, by torch's own or, for a reset gate before the matrix, by its formula."""
    weights = {role: torch.tensor(each.array()) for role, each in layer.parameters.items()}
    size, nothing = UNITS, torch.zeros(len(weights["weight"]))
    bias, inner = weights.get("bias", nothing), weights.get("recurrent_bias", nothing)
    if layer.op == "gru" and not layer.attribute("reset_after"):
        hidden, found = torch.zeros(len(x), size), []
        for row in x.unbind(1):
            fed = row @ weights["weight"].T + bias
            gates = (fed + hidden @ weights["recurrent"].T).sigmoid()
            reset, update = gates[:, :size], gates[:, size : 2 * size]
            new = (fed[:, 2 * size :] + (reset * hidden) @ weights["recurrent"][2 * size :].T).tanh()
            hidden = (1 - update) * new + update * hidden
            found.append(hidden)
        return torch.stack(found, 1)
    kind = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[layer.op]
    own = kind(INNER, UNITS, batch_first=True)
    with torch.no_grad():
        for part, value in zip(own.parameters(), (weights["weight"], weights["recurrent"], bias, inner), strict=True):
            part.copy_(value)
    states: Tensor = own(x)[0]
    return states


@pytest.mark.parametrize("kind", [Inside, Joined, Cell, Simple, Long])
def test_steps_are_the_layer_that_they_compute(kind: type[Steps]) -> None:
    torch.manual_seed(0)
    module, x = kind(), torch.randn(BATCH, STEPS, INNER)
    graph = read_module(module, (x,), name="steps")
    torch.testing.assert_close(run(the_layer(graph), x), module(x), rtol=1e-5, atol=1e-6)
    assert {node.op for node in graph.nodes} <= {"gru", "lstm", "rnn", "identity"}


class Fed(Cell):
    """Each step reads what the one before has made: there is no sequence."""

    def forward(self, x: Tensor) -> Tensor:
        hidden, row = x.new_zeros(len(x), UNITS), x
        for _ in range(STEPS):
            hidden = self.cell(row, hidden)
            row = hidden[:, :INNER]
        return row


class Unlike(Inside):
    """What is kept is not what the gate leaves of the new value."""

    def step(self, x: Tensor, hidden: Tensor) -> Tensor:
        (a, b, c), (d, e, f) = self.own(x).chunk(3, -1), self.back(hidden).chunk(3, -1)
        update = torch.sigmoid(b + e)
        return update * torch.tanh(c + torch.sigmoid(a + d) * f) + update * hidden


@pytest.mark.parametrize(("kind", "shape", "steps"), [(Fed, (BATCH, INNER), STEPS), (Unlike, (BATCH, STEPS, INNER), 0)])
def test_steps_that_are_no_layer_stay(kind: type[Steps], shape: tuple[int, ...], steps: int) -> None:
    graph = read_module(kind(), (torch.randn(shape),), name="steps")
    assert sum(node.op == "gru" for node in graph.nodes) == steps


def test_steps_that_cut_whole_rows_are_the_layer_too(tmp_path: Path) -> None:
    """As a TensorFlow file has them: slices name both axes, and each step computes its biases anew."""
    draw = np.random.default_rng(0)
    shapes = {"own": (INNER, 3 * UNITS), "back": (UNITS, 3 * UNITS), "biases": (2, 3 * UNITS)}
    stored = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    stored |= {"one": np.float32(1.0), "state0": np.zeros((BATCH, UNITS), np.float32)}
    stored |= {"axis": np.array([1]), "axes": np.array([0, 1]), "each": np.array([1, 1]), "size": np.array([3 * UNITS])}
    stored |= {f"start{k}": np.array([0, k * UNITS]) for k in range(3)}
    stored |= {f"end{k}": np.array([BATCH, (k + 1) * UNITS]) for k in range(3)}
    nodes = [helper.make_node("Split", ["x"], [f"part{t}" for t in range(STEPS)], axis=1)]
    for t in range(STEPS):
        lines = [
            ("Split", ["biases"], ["b0", "b1"]), ("Squeeze", [f"part{t}@", "axis@"], ["row"]),
            ("Reshape", ["b0", "size@"], ["c0"]), ("Reshape", ["b1", "size@"], ["c1"]),
            ("Gemm", ["row", "own@", "c0"], ["fed"]), ("Gemm", [f"state{t}@", "back@", "c1"], ["kept"]),
            *(("Slice", ["fed", f"start{k}@", f"end{k}@", "axes@", "each@"], [f"fed{k}"]) for k in range(3)),
            *(("Slice", ["kept", f"start{k}@", f"end{k}@", "axes@", "each@"], [f"kept{k}"]) for k in range(3)),
            ("Add", ["fed0", "kept0"], ["a"]), ("Sigmoid", ["a"], ["r"]),
            ("Add", ["fed1", "kept1"], ["b"]), ("Sigmoid", ["b"], ["z"]),
            ("Mul", ["r", "kept2"], ["m"]), ("Add", ["fed2", "m"], ["c"]), ("Tanh", ["c"], ["n"]),
            ("Sub", ["one@", "z"], ["rest"]), ("Mul", ["rest", "n"], ["new"]), ("Mul", ["z", f"state{t}@"], ["old"]),
            ("Add", ["new", "old"], [f"state{t + 1}@"]),
        ]  # fmt: skip
        for op, read_, written in lines:
            named = [
                [name[:-1] if name.endswith("@") else f"{name}.{t}" for name in names] for names in (read_, written)
            ]
            named[0] = ["biases" if name.startswith("biases") else name for name in named[0]]
            nodes.append(helper.make_node(op, *named, **({"axis": 0} if op == "Split" else {})))
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, STEPS, INNER])]
    last = [helper.make_tensor_value_info(f"state{STEPS}", TensorProto.FLOAT, [BATCH, UNITS])]
    kept = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    file = tmp_path / "steps.onnx"
    graph = helper.make_graph(nodes, "steps", given, last, kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), file)
    layer = the_layer(read(file))
    x = torch.tensor(draw.normal(size=(BATCH, STEPS, INNER)).astype(np.float32))
    wanted = ReferenceEvaluator(str(file)).run(None, {"x": x.numpy()})[0]
    torch.testing.assert_close(run(layer, x)[:, -1], torch.tensor(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Joined, Long])
def test_what_comes_back_along_the_state_adds_up_in_the_layer_below(kind: type[Steps]) -> None:
    """Step by step it counts as independent: 0.6 to 0.8 bits were lost here."""
    torch.manual_seed(0)
    module, x = nn.Sequential(kind(16, 24), kind(24, 24)), torch.randn(16, 12, 16)
    analysis = gnelint.check(module, (x,))
    assert analysis.prediction.gradient_log2 == pytest.approx(measured_log2(module, x), abs=0.4)
