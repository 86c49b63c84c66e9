"""ONNX's recurrent operators: what they become computes what they compute, and what has no component is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from gnelint.analysis.propagation import analyse
from gnelint.errors import ModelError
from gnelint.ir.graph import UNMODELLED, Graph
from tests.evaluator import outputs
from tests.readers.onnx.build import load, model, node

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, WIDTH, HIDDEN = 5, 2, 6, 4
OUTPUTS = {"LSTM": ["y", "h", "c"], "GRU": ["y", "h"], "RNN": ["y", "h"]}


def weights(op: str, directions: int = 1, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng, rows = np.random.default_rng(2), GATES[op] * HIDDEN
    shapes = {"w": (directions, rows, WIDTH), "r": (directions, rows, HIDDEN), "b": (directions, 2 * rows)}
    return {name: scale * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def build(
    op: str,
    folder: Path,
    given: dict[str, np.ndarray],
    inputs: tuple[str, ...] = ("x", "w", "r", "b"),
    shape: tuple[int, ...] = (STEPS, BATCH, WIDTH),
    **attributes: Any,
) -> Graph:
    nodes = [node(op, inputs, OUTPUTS[op], hidden_size=HIDDEN, **attributes)]
    return load(model(nodes, {"x": shape}, OUTPUTS[op], given), folder)


def agrees(graph: Graph, folder: Path, shape: tuple[int, ...] = (STEPS, BATCH, WIDTH)) -> None:
    assert UNMODELLED not in [found.op for found in graph.nodes]
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for found, expected in zip(outputs(graph, (torch.from_numpy(x),)), session.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_directions(op: str, direction: str, tmp_path: Path) -> None:
    given = weights(op, 2 if direction == "bidirectional" else 1)
    agrees(build(op, tmp_path, given, direction=direction), tmp_path)


@pytest.mark.parametrize("op", GATES)
def test_without_a_bias(op: str, tmp_path: Path) -> None:
    given = weights(op)
    del given["b"]
    graph = build(op, tmp_path, given, ("x", "w", "r"))
    agrees(graph, tmp_path)
    assert "bias" not in next(found for found in graph.nodes if found.op == op.lower()).parameters


@pytest.mark.parametrize("op", GATES)
def test_initial_states(op: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    given = weights(op, 2) | {"h0": rng.standard_normal((2, BATCH, HIDDEN)).astype(np.float32)}
    states = ("h0",)
    if op == "LSTM":
        given["c0"], states = rng.standard_normal((2, BATCH, HIDDEN)).astype(np.float32), ("h0", "c0")
    agrees(build(op, tmp_path, given, ("x", "w", "r", "b", "", *states), direction="bidirectional"), tmp_path)


def test_initial_states_of_zeros_are_left_out(tmp_path: Path) -> None:
    given = weights("GRU") | {"h0": np.zeros((1, BATCH, HIDDEN), np.float32)}
    graph = build("GRU", tmp_path, given, ("x", "w", "r", "b", "", "h0"))
    agrees(graph, tmp_path)
    assert next(found for found in graph.nodes if found.op == "gru").inputs[1] is None


def test_reset_before_the_product(tmp_path: Path) -> None:
    for flag in (0, 1):
        graph = build("GRU", tmp_path, weights("GRU"), linear_before_reset=flag)
        agrees(graph, tmp_path)
        assert next(found for found in graph.nodes if found.op == "gru").attribute("reset_after") is bool(flag)


def test_coupled_gates(tmp_path: Path) -> None:
    agrees(build("LSTM", tmp_path, weights("LSTM"), input_forget=1), tmp_path)


def test_rectified(tmp_path: Path) -> None:
    given = weights("RNN", 2, 0.3)
    agrees(build("RNN", tmp_path, given, direction="bidirectional", activations=["Relu", "Relu"]), tmp_path)


@pytest.mark.parametrize("op", GATES)
def test_an_open_axis_of_a_state_is_the_batch(op: str, tmp_path: Path) -> None:
    """(layer, batch, unit): without a name for the batch, its size must be that of the sequences."""
    states = ["h0", "c0"][: 2 if op == "LSTM" else 1]
    nodes = [node(op, ("x", "w", "r", "b", "", *states), OUTPUTS[op], hidden_size=HIDDEN)]
    shapes: dict[str, tuple[int | str, ...]] = {"x": (STEPS, "batch", WIDTH), **dict.fromkeys(states, (1, "", HIDDEN))}
    graph = load(model(nodes, shapes, OUTPUTS[op], weights(op)), tmp_path)
    batch = graph.values["x"].shape[1]  # type: ignore[index]
    cell = next(found for found in graph.nodes if found.op == op.lower())
    assert all(graph.values[str(name)].shape == (batch, HIDDEN) for name in cell.inputs[1:])
    assert all(graph.values[name].shape == (1, batch, HIDDEN) for name in states)


def test_states_of_another_batch_are_refused(tmp_path: Path) -> None:
    nodes = [node("GRU", ("x", "w", "r", "b", "", "h0"), OUTPUTS["GRU"], hidden_size=HIDDEN)]
    shapes = {"x": (STEPS, 2, WIDTH), "h0": (1, 4, HIDDEN)}
    with pytest.raises(ModelError, match=r"starts from states of the sizes \(1, 4, 4\); \(1, 2, 4\) are needed"):
        load(model(nodes, shapes, OUTPUTS["GRU"], weights("GRU")), tmp_path)


def test_lengths_that_an_input_decides_are_taken_whole(tmp_path: Path) -> None:
    given = weights("LSTM")
    nodes = [
        node("Cast", ("n",), ["lengths"], to=6),
        node("LSTM", ("x", "w", "r", "b", "lengths"), ["y"], hidden_size=HIDDEN),
    ]
    graph = load(model(nodes, {"x": (STEPS, BATCH, WIDTH), "n": (BATCH,)}, ["y"], given), tmp_path)
    assert UNMODELLED not in [found.op for found in graph.nodes]
    assert any("taken to be whole" in note for note in graph.notes)


@pytest.mark.parametrize("by_gate", [False, True])
def test_an_lstm_in_8_bits_is_that_of_its_decoded_weights(by_gate: bool, tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(5), 4 * HIDDEN
    given, plain = {"b": weights("LSTM", 2)["b"]}, {"b": weights("LSTM", 2)["b"]}
    for name, inner in (("w", WIDTH), ("r", HIDDEN)):
        codes = rng.integers(0, 256, (2, inner, rows)).astype(np.uint8)
        scale = rng.uniform(0.001, 0.01, (2, rows) if by_gate else (2,)).astype(np.float32)
        zero = rng.integers(100, 150, scale.shape).astype(np.uint8)
        given |= {name: codes, f"{name}_scale": scale, f"{name}_zero": zero}
        decoded = (codes.astype(np.float32) - zero.reshape(2, 1, -1)) * scale.reshape(2, 1, -1)
        plain[name] = np.ascontiguousarray(decoded.transpose(0, 2, 1))
    inputs = ("x", "w", "r", "b", "", "", "", "", "w_scale", "w_zero", "r_scale", "r_zero")
    attributes = {"hidden_size": HIDDEN, "direction": "bidirectional"}
    nodes = [node("DynamicQuantizeLSTM", inputs, OUTPUTS["LSTM"], domain="com.microsoft", **attributes)]
    read = load(model(nodes, {"x": (STEPS, BATCH, WIDTH)}, OUTPUTS["LSTM"], given), tmp_path)
    expected = build("LSTM", tmp_path, plain, direction="bidirectional")
    assert [found.op for found in read.nodes] == [found.op for found in expected.nodes]
    x = (torch.from_numpy(rng.standard_normal((STEPS, BATCH, WIDTH)).astype(np.float32)),)
    for found, wanted in zip(outputs(read, x), outputs(expected, x), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-6, atol=1e-6)


def test_lengths_that_are_all_of_the_sequence(tmp_path: Path) -> None:
    given = weights("LSTM") | {"lengths": np.full(BATCH, STEPS, np.int32)}
    agrees(build("LSTM", tmp_path, given, ("x", "w", "r", "b", "lengths")), tmp_path)


@pytest.mark.parametrize("op", GATES)
def test_batch_first(op: str, tmp_path: Path) -> None:
    """The runtime does not run this layout: the same layer with time first is what it has to equal."""
    rng, turn = np.random.default_rng(5), (1, 0, 2)
    states = {"h0": rng.standard_normal((2, BATCH, HIDDEN)).astype(np.float32)}
    if op == "LSTM":
        states["c0"] = rng.standard_normal((2, BATCH, HIDDEN)).astype(np.float32)
    names = ("x", "w", "r", "b", "", *states)
    x = torch.from_numpy(rng.standard_normal((STEPS, BATCH, WIDTH)).astype(np.float32))
    first = build(op, tmp_path, weights(op, 2) | states, names, direction="bidirectional")
    turned = {name: state.transpose(turn) for name, state in states.items()}
    second = build(
        op, tmp_path, weights(op, 2) | turned, names, (BATCH, STEPS, WIDTH), direction="bidirectional", layout=1
    )
    y, *lasts = outputs(first, (x,))
    other, *others = outputs(second, (x.permute(turn),))
    torch.testing.assert_close(other, y.permute(2, 0, 1, 3))
    for last, found in zip(lasts, others, strict=True):
        torch.testing.assert_close(found, last.permute(turn))


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, np.ndarray], str]] = {
    "clip": ("LSTM", {"clip": 3.0}, {}, "clipped"),
    "activations": ("GRU", {"activations": ["HardSigmoid", "Tanh"]}, {}, "HardSigmoid"),
    "one activation": ("RNN", {"activations": ["Affine"]}, {}, "Affine"),
    "lengths": ("LSTM", {}, {"lengths": np.array([STEPS, 3], np.int32)}, "different lengths"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_component_is_refused(name: str, tmp_path: Path) -> None:
    op, attributes, more, reason = REFUSED[name]
    inputs = ("x", "w", "r", "b", "lengths" if "lengths" in more else "")
    graph = build(op, tmp_path, weights(op) | more, inputs[: 5 if op == "LSTM" else 4], **attributes)
    (found,) = (each for each in graph.nodes if each.op == UNMODELLED)
    assert reason in found.attributes["reason"]
    assert analyse(graph).coverage < 1.0


def test_weights_of_another_shape(tmp_path: Path) -> None:
    given = weights("GRU")
    given["r"] = given["r"][:, :-1]
    with pytest.raises(ModelError, match=r'R "r" of shape'):
        build("GRU", tmp_path, given)
