"""Sizes that a file leaves open and its weights, windows or loops decide are found; where none fits, that is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnelint.analysis.propagation import analyse
from gnelint.analysis.stage import judge
from gnelint.errors import ModelError
from gnelint.ir.graph import Graph
from gnelint.onnxfile.file import Gap, MisfitError
from gnelint.readers.onnx.fitting import OPERATIONS, Attempt, Fitting
from gnelint.readers.onnx.inputs import BoundInputs, bind
from tests.readers.onnx.build import load, model, node, ops

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def sizes(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str | None],
    weights: Mapping[str, np.ndarray],
    opset: int = 17,
) -> tuple[int, ...] | None:
    """What the input's sizes are taken as."""
    return load(model(nodes, {"x": shape}, weights=weights, opset=opset), folder).values["x"].concrete_shape


def test_features_are_those_of_the_weight(tmp_path: Path) -> None:
    first = node("MatMul", ["x", "w"], ["h"])
    assert sizes(tmp_path, [node("MatMul", ["x", "w"], ["y"])], ("N", "F"), {"w": drawn(1575, 4)}) == (8, 1575)
    turned = [node("Gemm", ["x", "w"], ["y"], transB=1)]
    assert sizes(tmp_path, turned, (None, None), {"w": drawn(4, 77)}) == (8, 77)
    behind = [first, node("Relu", ["h"], ["r"]), node("Add", ["r", "b"], ["y"])]
    assert sizes(tmp_path, behind, ("N", "T", "F"), {"w": drawn(80, 5), "b": drawn(40, 5)}) == (8, 40, 80)


def test_a_constant_over_two_axes_tells_both(tmp_path: Path) -> None:
    scaled = [node("Mul", ["x", "s"], ["y"])]
    assert sizes(tmp_path, scaled, ("N", "bands", "frames"), {"s": drawn(80, 3)}) == (8, 80, 3)


@pytest.mark.parametrize(("op", "gates"), [("GRU", 3), ("LSTM", 4), ("RNN", 1)])
def test_recurrent_layers_tell_their_features(op: str, gates: int, tmp_path: Path) -> None:
    nodes = [node(op, ["x", "w", "r"], ["y"], hidden_size=6)]
    weights = {"w": drawn(1, gates * 6, 21), "r": drawn(1, gates * 6, 6)}
    assert sizes(tmp_path, nodes, ("T", "N", "F"), weights) == (8, 128, 21)


def test_a_flattening_tells_one_side_or_both(tmp_path: Path) -> None:
    convolution = node("Conv", ["x", "k"], ["m"], strides=[2, 2], pads=[1, 1, 1, 1])
    flat = [convolution, node("Flatten", ["m"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    kernel = drawn(2, 1, 3, 3)
    found = sizes(tmp_path, flat, ("N", 1, 40, "W"), {"k": kernel, "w": drawn(2 * 20 * 105, 3)})
    assert found in ((8, 1, 40, 209), (8, 1, 40, 210))
    found = sizes(tmp_path, flat, ("N", 1, "H", "W"), {"k": kernel, "w": drawn(2 * 14 * 14, 3)})
    assert found in ((8, 1, 27, 27), (8, 1, 28, 28))


def test_a_fixed_length_tells_the_frames(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "s"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    weights = {"s": np.array([-1, 24 * 105]), "w": drawn(24 * 105, 2)}
    assert sizes(tmp_path, nodes, ("N", 24, "T"), weights) == (8, 24, 105)
    split = [node("Split", ["x", "s"], ["y", "z"], axis=1)]
    assert sizes(tmp_path, split, ("N", "C"), {"s": np.array([30, 7])}) == (8, 37)


def test_windows_that_do_not_fit_make_the_axis_longer(tmp_path: Path) -> None:
    """Frames in the place of a batch, as converters of audio networks write them."""
    nodes = [
        node("Unsqueeze", ["x", "axes"], ["m"]), node("Conv", ["m", "k"], ["c"]),
        node("MaxPool", ["c"], ["y"], kernel_shape=[20, 1]),
    ]  # fmt: skip
    found = sizes(tmp_path, nodes, ("T", 40), {"axes": np.array([0, 1]), "k": drawn(2, 1, 13, 3)})
    assert found == (32, 40)


def test_images_with_channels_last(tmp_path: Path) -> None:
    nodes = [node("Transpose", ["x"], ["m"], perm=[0, 3, 1, 2]), node("Conv", ["m", "k"], ["y"])]
    assert sizes(tmp_path, nodes, ("N", "H", "W", 3), {"k": drawn(4, 3, 3, 3)}) == (8, 224, 224, 3)


def test_what_no_size_mends_is_said_of_the_first_ones(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    with pytest.raises(ModelError, match=r"\(8, 9\), \(7, 2\)"):
        sizes(tmp_path, nodes, ("N", 5), {"w": drawn(5, 9), "v": drawn(7, 2)})


def keras_loop(steps: str | int) -> onnx.ModelProto:
    """h = tanh(x_t w + h u) as a Loop over as many steps as there are, each of 70 operations."""
    copies = [helper.make_node("Identity", [f"z{k}"], [f"z{k + 1}"]) for k in range(64)]
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "i"], ["part"], axis=1), helper.make_node("MatMul", ["part", "w"], ["a"]),
            helper.make_node("MatMul", ["h", "u"], ["b"]), helper.make_node("Add", ["a", "b"], ["z0"]), *copies,
            helper.make_node("Tanh", ["z64"], ["new"]), helper.make_node("Identity", ["was"], ["go"]),
        ],
        "step",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("was", TensorProto.BOOL, []),
         helper.make_tensor_value_info("h", TensorProto.FLOAT, [8, 4])],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("new", TensorProto.FLOAT, [8, 4])],
    )  # fmt: skip
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["n"]),
        helper.make_node("Loop", ["n", "", "start"], ["y"], name="loop", body=body),
    ]  # fmt: skip
    weights = {"w": drawn(3, 4), "u": drawn(4, 4), "one": np.array(1), "start": np.zeros((8, 4), np.float32)}
    return model(nodes, {"x": (8, steps, 3)}, weights=weights)


def test_loops_over_an_open_axis_are_read_over_a_shorter_one(tmp_path: Path) -> None:
    graph = load(keras_loop("T"), tmp_path)
    assert "unmodelled" not in ops(graph)
    assert graph.values["x"].concrete_shape == (8, 32, 3)
    assert "unmodelled" in ops(load(keras_loop(128), tmp_path))


def peepholes(folder: Path) -> Graph:
    """An LSTM whose gates see the cell, with weights of heavy tails."""
    weights = {
        "w": RNG.standard_t(3, (1, 80, 30)).astype(np.float32), "r": RNG.standard_t(3, (1, 80, 20)).astype(np.float32),
        "p": drawn(1, 60),
    }  # fmt: skip
    nodes = [node("LSTM", ["x", "w", "r", "", "", "", "", "p"], ["y"], hidden_size=20)]
    return load(model(nodes, {"x": ("T", 1, "F")}, weights=weights), folder)


def test_an_lstm_with_peepholes_is_one_and_its_weights_are_judged(tmp_path: Path) -> None:
    graph = peepholes(tmp_path)
    (cell,) = (each for each in graph.nodes if each.op == "lstm")
    stored = numpy_helper.to_array(onnx.load(tmp_path / "model.onnx").graph.initializer[2])[0]
    into, out, forget = np.split(stored, 3)
    assert np.array_equal(cell.parameters["peephole"].array(), np.concatenate([into, forget, out]))
    assert graph.values["x"].concrete_shape == (8, 1, 30)
    assert judge(graph, {}).verdict == "trained"
    assert analyse(graph).coverage < 1.0


def test_a_large_file_is_read_only_a_few_times() -> None:
    read = list[BoundInputs]()

    def walk(bound: BoundInputs) -> Attempt:
        read.append(bound)
        return Attempt(bound, OPERATIONS // 3, problem=MisfitError("does not fit", gap=Gap(5, 7)))

    declared = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "H", "W", "C"])]
    with pytest.raises(MisfitError):
        Fitting(lambda sizes: bind(declared, (), sizes), walk).fitted()
    assert len(read) == 4
