"""Layers in 8 bits as dynamic quantisation writes them, against the same layers in real numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gnelint.analysis.propagation import analyse
from gnelint.analysis.stage import judge
from gnelint.readers.onnx.integers import NOTE
from tests.readers.onnx.build import load, model, node, ops

SCALE, ZERO = np.float32(0.02), np.uint8(120)


def codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 255, shape).astype(np.uint8)


def rounded(name: str) -> onnx.NodeProto:
    return node("DynamicQuantizeLinear", [name], [f"{name}_q", f"{name}_s", f"{name}_z"])


def product(op: str, first: str, second: Sequence[str], output: str, bias: str | None = None, **more: object) -> list:
    """What ONNX Runtime writes for one layer; `second` are codes, scale and zero point."""
    w, scale, zero = second
    nodes = [node("Mul", [f"{first}_s", scale], [f"{output}_scale"])]
    made = f"{output}_i"
    nodes.append(node(op, [f"{first}_q", w, f"{first}_z", zero], [made], name=output, **more))
    if bias is not None:
        nodes += [
            node("Div", [bias, f"{output}_scale"], [f"{output}_d"]), node("Floor", [f"{output}_d"], [f"{output}_f"]),
            node("Cast", [f"{output}_f"], [f"{output}_b"], to=TensorProto.INT32),
            node("Reshape", [f"{output}_b", "shape"], [f"{output}_r"]),
            node("Add", [made, f"{output}_r"], [f"{output}_a"]),
        ]  # fmt: skip
        made = f"{output}_a"
    nodes.append(node("Cast", [made], [f"{output}_c"], to=TensorProto.FLOAT))
    return [*nodes, node("Mul", [f"{output}_c", f"{output}_scale"], [output])]


W = ("w", "w_s", "w_z")
CONSTANTS = {"w_s": SCALE, "w_z": ZERO, "b": np.linspace(-1, 1, 8, dtype=np.float32), "shape": np.array([1, 8, 1, 1])}


def real(numbers: np.ndarray) -> np.ndarray:
    return (numbers.astype(np.float32) - np.float32(ZERO)) * SCALE


@pytest.mark.parametrize("bias", [None, "b"])
def test_a_convolution_in_integers_is_the_convolution(tmp_path: Path, bias: str | None) -> None:
    nodes = [rounded("x"), *product("ConvInteger", "x", W, "y", bias, pads=[1, 1, 1, 1], kernel_shape=[3, 3])]
    found = load(model(nodes, {"x": (2, 4, 9, 9)}, weights={"w": codes(8, 4, 3, 3), **CONSTANTS}), tmp_path)
    same = [node("Conv", ["x", "w", *([bias] if bias else [])], ["y"], pads=[1, 1, 1, 1], name="y")]
    plain = load(model(same, {"x": (2, 4, 9, 9)}, weights={"w": real(codes(8, 4, 3, 3)), **CONSTANTS}), tmp_path)
    assert ops(found) == ops(plain) == ["conv"]
    layer, other = found.nodes[0], plain.nodes[0]
    assert (layer.name, layer.outputs, layer.source_op) == ("y", ("y",), "ConvInteger")
    assert layer.parameters["weight"].transform == "dequantize"
    np.testing.assert_allclose(layer.parameters["weight"].array(), other.parameters["weight"].array(), rtol=1e-6)
    assert analyse(found).gradient_log2 == pytest.approx(analyse(plain).gradient_log2)
    assert NOTE in found.notes
    assert NOTE not in plain.notes
    assert "8 bits" in str(judge(found, {}).evidence)


def test_a_matrix_in_integers_is_the_linear_layer_with_a_scale_for_each_column(tmp_path: Path) -> None:
    scales, zeros = np.linspace(0.01, 0.03, 8, dtype=np.float32), np.full(8, 120, np.uint8)
    nodes = [rounded("x"), *product("MatMulInteger", "x", W, "y")]
    weights = {"w": codes(16, 8), "w_s": scales, "w_z": zeros}
    graph = load(model(nodes, {"x": (4, 16)}, weights=weights), tmp_path)
    assert ops(graph) == ["linear"]
    expected = ((codes(16, 8).astype(np.float32) - 120) * scales).T
    np.testing.assert_allclose(graph.nodes[0].parameters["weight"].array(), expected, rtol=1e-6)


def test_one_rounding_serves_several_layers(tmp_path: Path) -> None:
    nodes = [rounded("x"), *product("MatMulInteger", "x", W, "u"), *product("MatMulInteger", "x", W, "v"),
             node("Add", ["u", "v"], ["y"])]  # fmt: skip
    graph = load(model(nodes, {"x": (4, 16)}, weights={"w": codes(16, 8), **CONSTANTS}), tmp_path)
    assert ops(graph) == ["linear", "linear", "add"]


def test_a_product_of_two_rounded_values_is_that_of_the_values(tmp_path: Path) -> None:
    nodes = [rounded("x"), rounded("z"), *product("MatMulInteger", "x", ("z_q", "z_s", "z_z"), "y")]
    graph = load(model(nodes, {"x": (4, 16), "z": (16, 8)}), tmp_path)
    assert ops(graph) == ["matmul"]
    assert graph.nodes[0].inputs == ("x", "z")


def other_scale() -> tuple[list[onnx.NodeProto], Sequence[str]]:
    """The result is brought back by the scale of another value."""
    nodes = product("MatMulInteger", "x", W, "y")
    nodes[0] = node("Mul", ["z_s", "w_s"], ["y_scale"])
    return [rounded("x"), rounded("z"), *nodes], ("y",)


def read_elsewhere() -> tuple[list[onnx.NodeProto], Sequence[str]]:
    """The sums of integers are an output of their own."""
    return [rounded("x"), *product("MatMulInteger", "x", W, "y")], ("y", "y_i")


def other_zero() -> tuple[list[onnx.NodeProto], Sequence[str]]:
    """The zero point is not that of the rounding."""
    nodes = product("MatMulInteger", "x", W, "y")
    nodes[1] = node("MatMulInteger", ["x_q", "w", "w_z", "w_z"], ["y_i"])
    return [rounded("x"), *nodes], ("y",)


@pytest.mark.parametrize("made", [other_scale, read_elsewhere, other_zero])
def test_what_is_written_otherwise_is_left(tmp_path: Path, made) -> None:
    nodes, outputs = made()
    inputs = {"x": (4, 16), "z": (4, 16)}
    graph = load(model(nodes, inputs, outputs, weights={"w": codes(16, 8), **CONSTANTS}), tmp_path)
    assert "linear" not in ops(graph)
    assert "unmodelled" in ops(graph)
    assert NOTE not in graph.notes


def test_what_else_reads_the_rounding_still_finds_it(tmp_path: Path) -> None:
    nodes = [rounded("x"), *product("MatMulInteger", "x", W, "y")]
    graph = load(model(nodes, {"x": (4, 16)}, ("y", "x_s"), weights={"w": codes(16, 8), **CONSTANTS}), tmp_path)
    assert "linear" in ops(graph)
    assert any(one.source_op == "DynamicQuantizeLinear" for one in graph.nodes)
    body = helper.make_graph(
        [node("Identity", ["x_s"], ["o"])], "b", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, [])]
    )
    decide = node("If", ["c"], ["s"], then_branch=body, else_branch=body)
    proto = model([*nodes, decide], {"x": (4, 16), "c": ()}, ("y", "s"), {"w": codes(16, 8), **CONSTANTS},
                  types={"c": TensorProto.BOOL})  # fmt: skip
    assert any(one.source_op == "DynamicQuantizeLinear" for one in load(proto, tmp_path).nodes)
