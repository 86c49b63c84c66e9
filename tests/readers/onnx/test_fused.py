"""Layers that ONNX Runtime's optimiser writes together with the activation behind them, against their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.readers.onnx.build import load, model, node, ops

MS = {"com.microsoft": 1}
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(5, 4, 3, 3)).astype(np.float32)
MATRIX = RNG.normal(size=(4, 5)).astype(np.float32)


def fused(op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    weights = {"w": KERNEL, "m": MATRIX, "b": np.ones(5, np.float32)}
    made = node(op, inputs, ["y"], domain="com.microsoft", **attributes)
    return model([made], {"x": shape}, weights=weights, domains=MS)


@pytest.mark.parametrize(
    ("activation", "params", "op"),
    [("Relu", [], "relu"), ("LeakyRelu", [0.2], "leaky_relu"), ("Clip", [0.0, 6.0], "clip"), ("Tanh", [], "tanh"),
     ("HardSigmoid", [0.1, 0.4], "hardsigmoid")],
)  # fmt: skip
def test_a_convolution_and_its_activation(tmp_path: Path, activation: str, params: list[float], op: str) -> None:
    given = {"activation_params": params} if params else {}
    proto = fused("FusedConv", ["x", "w", "b"], (2, 4, 8, 8), activation=activation, strides=[2, 2], **given)
    found = load(proto, tmp_path)
    assert ops(found) == ["conv", op]
    assert found.nodes[0].attribute("strides") == (2, 2)
    assert found.values["y"].shape == (2, 5, 3, 3)
    if activation == "LeakyRelu":
        assert found.nodes[1].attribute("alpha") == pytest.approx(0.2)


def test_a_summand_comes_in_front_of_the_activation(tmp_path: Path) -> None:
    proto = fused("FusedConv", ["x", "w", "", "z"], (2, 4, 8, 8), activation="Relu")
    proto.graph.input.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, (2, 5, 6, 6)))
    assert ops(load(proto, tmp_path)) == ["conv", "add", "relu"]


def test_a_product_and_its_activation(tmp_path: Path) -> None:
    proto = fused("FusedGemm", ["x", "m", "b"], (2, 4), activation="LeakyRelu", activation_alpha=0.3, alpha=2.0)
    found = load(proto, tmp_path)
    assert ops(found)[-1] == "leaky_relu"
    assert found.nodes[-1].attribute("alpha") == pytest.approx(0.3)
    assert "unmodelled" not in ops(found)


def test_an_activation_of_another_kind_is_left(tmp_path: Path) -> None:
    assert ops(load(fused("FusedConv", ["x", "w"], (2, 4, 8, 8), activation=3.0), tmp_path)) == ["unmodelled"]


def test_the_complement_of_erf_makes_a_gelu(tmp_path: Path) -> None:
    """As tf2onnx writes Keras': x/2 erfc(-x / sqrt 2)."""
    weights = {"half": np.array(0.5, np.float32), "root": np.array(-(0.5**0.5), np.float32)}
    nodes = [
        node("Mul", ["x", "root"], ["a"]), node("Erfc", ["a"], ["b"]),
        node("Mul", ["x", "half"], ["h"]), node("Mul", ["h", "b"], ["y"]),
    ]  # fmt: skip
    assert ops(load(model(nodes, {"x": (2, 4)}, weights=weights), tmp_path)) == ["gelu"]
