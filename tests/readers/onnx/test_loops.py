"""Loops and scans whose steps are known are read as their steps, and compute what the file does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from gnelint.ir.graph import UNMODELLED
from gnelint.readers.onnx.reader import read
from tests.evaluator import outputs

RNG = np.random.default_rng(0)
WEIGHT = numpy_helper.from_array(RNG.standard_normal((3, 3)).astype(np.float32), "w")
INT, BOOL = TensorProto.INT64, TensorProto.BOOL


def info(name: str, shape: Sequence[int], code: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def loop(most: int, until: int, by_data: bool = False) -> onnx.GraphProto:
    """h = tanh(h w), at most so many times; goes on while its own count, or the data, is below a number."""
    compared = ["mean", "limit"] if by_data else ["next", "until"]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["z"]),
            helper.make_node("Tanh", ["z"], ["new"]),
            helper.make_node("Add", ["count", "one"], ["next"]),
            helper.make_node("ReduceMean", ["new"], ["mean"], keepdims=0),
            helper.make_node("Less", compared, ["go"]),
            helper.make_node("Identity", ["z"], ["each"]),
        ],
        "step",
        [info("i", [], INT), info("was", [], BOOL), info("count", [], INT), info("h", [2, 3])],
        [info("go", [], BOOL), info("next", [], INT), info("new", [2, 3]), info("each", [2, 3])],
        [numpy_helper.from_array(np.array(1), "one"), numpy_helper.from_array(np.array(until), "until"),
         numpy_helper.from_array(np.array(1e3, np.float32), "limit")],
    )  # fmt: skip
    nodes = [
        helper.make_node("Relu", ["x"], ["start"], name="relu"),
        helper.make_node("Loop", ["most", "", "zero", "start"], ["n", "h_n", "all"], name="loop", body=body),
    ]
    numbers = {"most": np.array(most), "zero": np.array(0)}
    constants = [WEIGHT, *(numpy_helper.from_array(value, name) for name, value in numbers.items())]
    return helper.make_graph(nodes, "g", [info("x", [2, 3])], [info("h_n", [2, 3]), info("all", [])], constants)


def scan(backwards: int, axis: int) -> onnx.GraphProto:
    """A recurrence over the slices of x, from either end; its states are stacked along an axis."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["u"]),
            helper.make_node("Add", ["u", "part"], ["z"]),
            helper.make_node("Tanh", ["z"], ["new"]),
            helper.make_node("Identity", ["new"], ["each"]),
        ],
        "step",
        [info("h", [2, 3]), info("part", [2, 3])],
        [info("new", [2, 3]), info("each", [2, 3])],
    )
    settings = {"scan_input_axes": [1], "scan_input_directions": [backwards], "scan_output_axes": [axis],
                "scan_output_directions": [backwards]}  # fmt: skip
    node = helper.make_node(
        "Scan", ["start", "x"], ["h_n", "all"], name="scan", body=body, num_scan_inputs=1, **settings
    )
    start = numpy_helper.from_array(np.zeros((2, 3), np.float32), "start")
    return helper.make_graph(
        [node], "g", [info("x", [2, 4, 3])], [info("h_n", [2, 3]), info("all", [])], [WEIGHT, start]
    )


def written(graph: onnx.GraphProto, folder: Path, opset: int) -> Path:
    for found in graph.output:
        if found.name == "all":
            found.type.tensor_type.ClearField("shape")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path = folder / "loop.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(
    ("graph", "shape"),
    [(loop(4, 10), (2, 3)), (loop(10, 3), (2, 3)), (scan(0, 0), (2, 4, 3)), (scan(1, 1), (2, 4, 3))],
    ids=["counted", "ends by its own count", "forwards", "backwards"],
)
def test_the_steps_compute_what_the_file_does(
    graph: onnx.GraphProto, shape: tuple[int, ...], opset: int, tmp_path: Path
) -> None:
    path = written(graph, tmp_path, opset)
    x = RNG.standard_normal(shape).astype(np.float32)
    true = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    read_graph = read(path)
    assert all(node.op != UNMODELLED for node in read_graph.nodes)
    assert read_graph.outputs == ("h_n", "all")
    for found, expected in zip(outputs(read_graph, (torch.from_numpy(x),)), true, strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("graph", [loop(4, 10, by_data=True), loop(100_000, 1_000_000)], ids=["by data", "too often"])
def test_what_cannot_be_counted_stays_a_loop(graph: onnx.GraphProto, tmp_path: Path) -> None:
    path = written(graph, tmp_path, 17)
    assert [node.op for node in read(path).nodes] == ["relu", UNMODELLED]
