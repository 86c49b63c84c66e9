"""What ONNX routers of mixtures of experts become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gnelint.analysis.propagation import analyse
from tests.readers.onnx.build import load, model, node, ops

K = {"k": np.array([2], np.int64)}


def test_top_k(tmp_path: Path) -> None:
    nodes = [node("TopK", ["x", "k"], ["y", "i"], axis=1, largest=0)]
    graph = load(model(nodes, {"x": (3, 6, 4)}, ["y"], K), tmp_path)
    (found,) = graph.nodes
    assert (found.op, found.attribute("axis"), found.attribute("k"), found.attribute("largest")) == (
        "top_k", 1, 2, False
    )  # fmt: skip
    assert graph.values["y"].shape == (3, 2, 4)


@pytest.mark.parametrize("comparison", ["GreaterOrEqual", "Less"])
def test_softmax_over_the_largest(comparison: str, tmp_path: Path) -> None:
    low = np.array(-np.inf, np.float32)
    sides = ["x", "low"] if comparison == "GreaterOrEqual" else ["low", "x"]
    nodes = [
        node("TopK", ["x", "k"], ["values", "indices"]),
        node("ReduceMin", ["values"], ["least"], axes=[-1]),
        node(comparison, ["x", "least"], ["chosen"]),
        node("Cast", ["chosen"], ["condition"], to=9),
        node("Where", ["condition", *sides], ["logits"]),
        node("Softmax", ["logits"], ["y"]),
    ]
    graph = load(model(nodes, {"x": (3, 5, 8)}, weights={**K, "low": low}), tmp_path)
    assert [(n.op, n.attribute("top")) for n in graph.nodes] == [("softmax", 2)]


def test_softmax_over_scattered_logits(tmp_path: Path) -> None:
    base = np.full((3, 5, 8), -np.inf, np.float32)
    nodes = [
        node("TopK", ["x", "k"], ["values", "indices"]),
        node("ScatterElements", ["base", "indices", "values"], ["logits"], axis=-1),
        node("Softmax", ["logits"], ["y"]),
    ]
    graph = load(model(nodes, {"x": (3, 5, 8)}, weights={**K, "base": base}), tmp_path)
    assert analyse(graph).coverage == 1.0


def test_gates_through_one_hot_codes(tmp_path: Path) -> None:
    weights = {
        **K,
        "depth": np.array(8, np.int64),
        "numbers": np.array([0, 1], np.float32),
        "last": np.array([3], np.int64),
        "row": np.array([2], np.int64),
    }
    nodes = [
        node("Softmax", ["x"], ["p"]),
        node("TopK", ["p", "k"], ["values", "indices"]),
        node("OneHot", ["indices", "depth", "numbers"], ["codes"]),
        node("Unsqueeze", ["values", "last"], ["gates"]),
        node("Mul", ["gates", "codes"], ["parts"]),
        node("ReduceSum", ["parts", "row"], ["y"], keepdims=0),
    ]
    graph = load(model(nodes, {"x": (3, 5, 8)}, weights=weights), tmp_path)
    prediction = analyse(graph)
    assert ops(graph) == ["softmax", "top_k", "one_hot", "reshape", "mul", "reduce_sum"]
    assert prediction.coverage == 1.0
    assert prediction.gradient_log2 is not None


def test_a_number_that_values_are_compared_with_is_no_parameter(tmp_path: Path) -> None:
    """Exporters of TensorFlow write the numbers of the program among the weights."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Less", ["h", "zero"], ["negative"]),
        node("Where", ["negative", "x", "h"], ["y"]),
    ]
    weights = {"w": np.ones((4, 4), np.float32), "zero": np.zeros((), np.float32)}
    graph = load(model(nodes, {"x": (3, 4)}, weights=weights), tmp_path)
    assert {p.name: p.trainable for n in graph.nodes for p in n.parameters.values()} == {"w": True, "zero": False}
