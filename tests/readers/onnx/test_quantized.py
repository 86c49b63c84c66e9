"""Networks of operators on quantised tensors, against the same networks in real numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from gnelint.analysis.propagation import analyse
from gnelint.readers.onnx.ops.quantized import NOTE
from tests.evaluator import run
from tests.readers.onnx.build import load, model, node, ops

MS = {"domain": "com.microsoft"}
STEPS = np.linspace(0.01, 0.03, 8, dtype=np.float32)
CODES = np.random.default_rng(0).integers(-127, 127, (8, 4, 3, 3)).astype(np.int8)
BIAS = np.arange(-400, 400, 100, dtype=np.int32)
WEIGHTS: dict[str, Any] = {
    "s": np.float32(0.05), "z": np.uint8(100), "w": CODES, "w_s": STEPS, "w_z": np.zeros(8, np.int8), "b": BIAS,
    "m": CODES[:, :, 0, 0].T.copy(), "m_z": np.zeros(8, np.int8),
}  # fmt: skip
SHAPE = (2, 4, 9, 9)


def quantised(nodes: list[onnx.NodeProto], shape: tuple[int, ...] = SHAPE) -> onnx.ModelProto:
    """From real numbers to real numbers."""
    ends = node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["r", "s", "z"], ["y"])
    return model([ends[0], *nodes, ends[1]], {"x": shape}, weights=WEIGHTS, domains={"com.microsoft": 1})


def convolution(read: str, written: str) -> onnx.NodeProto:
    inputs = [read, "s", "z", "w", "w_s", "w_z", "s", "z", "b"]
    return node("QLinearConv", inputs, [written], name=written, pads=[1, 1, 1, 1], kernel_shape=[3, 3])


def test_a_quantised_convolution_is_the_convolution(tmp_path: Path) -> None:
    found = load(quantised([convolution("q", "c"), node("MaxPool", ["c"], ["r"], kernel_shape=[3, 3])]), tmp_path)
    real = {"w": CODES * STEPS[:, None, None, None], "b": (BIAS * np.float32(0.05) * STEPS).astype(np.float32)}
    same = [node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), node("MaxPool", ["c"], ["y"], kernel_shape=[3, 3])]
    plain = load(model(same, {"x": SHAPE}, weights=real), tmp_path)
    assert [op for op in ops(found) if op != "identity"] == ops(plain) == ["conv", "max_pool"]
    (layer,) = (each for each in found.nodes if each.op == "conv")
    for role in ("weight", "bias"):
        expected = plain.nodes[0].parameters[role].array()
        np.testing.assert_allclose(layer.parameters[role].array(), expected, rtol=1e-6)
    assert (layer.name, layer.source_op) == ("c", "QLinearConv")
    assert layer.parameters["weight"].transform == "dequantize"
    assert analyse(found).gradient_log2 == pytest.approx(analyse(plain).gradient_log2)
    assert NOTE in found.notes


def test_a_quantised_product_with_a_matrix_is_the_linear_layer(tmp_path: Path) -> None:
    product = node("QLinearMatMul", ["q", "s", "z", "m", "w_s", "m_z", "s", "z"], ["r"])
    found = load(quantised([product], (5, 4)), tmp_path)
    (layer,) = (each for each in found.nodes if each.op == "linear")
    np.testing.assert_allclose(layer.parameters["weight"].array(), (WEIGHTS["m"] * STEPS).T, rtol=1e-6)


@pytest.mark.parametrize(
    ("quantised_op", "op"),
    [("QLinearAdd", "add"), ("QLinearMul", "mul"), ("QLinearSigmoid", "sigmoid"), ("QLinearLeakyRelu", "leaky_relu"),
     ("QLinearGlobalAveragePool", "reduce_mean")],
)  # fmt: skip
def test_other_operators_of_onnx_runtime(tmp_path: Path, quantised_op: str, op: str) -> None:
    two = op in ("add", "mul")
    inputs = ["c", "s", "z", *(["d", "s", "z"] if two else []), "s", "z"]
    nodes = [convolution("q", "c"), *([convolution("q", "d")] if two else []), node(quantised_op, inputs, ["r"], **MS)]
    found = load(quantised(nodes), tmp_path)
    assert op in ops(found)
    assert "unmodelled" not in ops(found)
    assert analyse(found).gradient_log2 is not None


def test_integers_from_elsewhere_are_left(tmp_path: Path) -> None:
    inputs = ["x", "s", "z", "w", "w_s", "w_z", "s", "z", "b"]
    proto = model([node("QLinearConv", inputs, ["y"], kernel_shape=[3, 3])], {"x": SHAPE}, weights=WEIGHTS,
                  types={"x": onnx.TensorProto.UINT8})  # fmt: skip
    assert ops(load(proto, tmp_path)) == ["unmodelled"]


@pytest.mark.parametrize("name", ["w_s", "w_z", "b", "s"])
def test_scales_of_other_sizes_are_left(tmp_path: Path, name: str) -> None:
    proto = quantised([convolution("q", "r")])
    (tensor,) = (each for each in proto.graph.initializer if each.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(3, onnx.numpy_helper.to_array(tensor).dtype), name))
    assert "unmodelled" in ops(load(proto, tmp_path))


def test_moving_codes_moves_what_they_stand_for(tmp_path: Path) -> None:
    moved = [
        convolution("q", "c"),
        node("Reshape", ["c", "sizes"], ["f"]),
        node("Transpose", ["f"], ["r"], perm=[0, 2, 1]),
    ]
    proto = quantised(moved)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 8, -1]), "sizes"))
    found = load(proto, tmp_path)
    assert [op for op in ops(found) if op != "identity"] == ["conv", "reshape", "transpose"]
    assert analyse(found).gradient_log2 is not None


def test_a_product_with_a_bias_is_the_linear_layer(tmp_path: Path) -> None:
    product = node("QGemm", ["q", "s", "z", "m", "w_s", "m_z", "b", "s", "z"], ["r"], alpha=2.0, **MS)
    found = load(quantised([product], (5, 4)), tmp_path)
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    expected = 2.0 * (x @ (WEIGHTS["m"] * STEPS) + BIAS * np.float32(0.05) * STEPS)
    assert "unmodelled" not in ops(found)
    np.testing.assert_allclose(run(found, {"x": torch.from_numpy(x)})["y"], expected, rtol=1e-5)


def test_parts_and_shares_of_quantised_tensors(tmp_path: Path) -> None:
    both = [
        node("QLinearConcat", ["s", "z", "q", "s", "z", "q", "s", "z"], ["c"], axis=1, **MS),
        node("QLinearSoftmax", ["c", "s", "z", "s", "z"], ["r"], axis=-1, opset=13, **MS),
    ]
    found = load(quantised(both, (5, 4)), tmp_path)
    assert [op for op in ops(found) if op != "identity"] == ["concat", "softmax"]
    assert found.values["y"].shape == (5, 8)


def test_a_quantised_factor_of_one_entry_is_a_number(tmp_path: Path) -> None:
    product = node("QLinearMul", ["q", "s", "z", "one", "s", "z", "s", "z"], ["r"], **MS)
    proto = quantised([product], (5, 4))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(140), "one"))
    (layer,) = (each for each in load(proto, tmp_path).nodes if each.op == "scale")
    assert layer.attribute("factor") == pytest.approx(2.0)


@pytest.mark.parametrize("reader", ["DequantizeLinear", "QLinearAdd"])
def test_a_table_of_codes_is_the_embedding(tmp_path: Path, reader: str) -> None:
    table = np.random.default_rng(0).integers(0, 255, (50, 6)).astype(np.uint8)
    looked_up = [node("Gather", ["table", "ids"], ["e"])]
    if reader == "QLinearAdd":
        looked_up += [node("QLinearAdd", ["e", "s", "z", "e", "s", "z", "s", "z"], ["r"], **MS)]
    ends = node("DequantizeLinear", ["r" if reader == "QLinearAdd" else "e", "s", "z"], ["y"])
    weights: dict[str, Any] = {"table": table, "s": np.array(0.05, np.float32), "z": np.array(100, np.uint8)}
    proto = model([*looked_up, ends], {"ids": (3, 7)}, weights=weights, domains={"com.microsoft": 1})
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    found = load(proto, tmp_path)
    (layer,) = (each for each in found.nodes if each.op == "embedding")
    expected = (table.astype(np.float32) - 100) * np.float32(0.05)
    np.testing.assert_allclose(layer.parameters["weight"].array(), expected, rtol=1e-6)
    assert "unmodelled" not in ops(found)
