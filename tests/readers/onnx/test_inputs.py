"""Shapes: computed by the model, symbolic, assumed, and fixed by `--input`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from gnelint.errors import ModelError, UsageError
from gnelint.readers.inputs import InputSpec
from tests.readers.onnx.build import load, model, node, ops


def flattened(folder: Path, **options: object) -> tuple[int, ...] | None:
    """y = reshape(x, (shape(x)[0], -1)), the shape computed by the model."""
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]), node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "minus"], ["t"], axis=0), node("Reshape", ["x", "t"], ["y"]),
    ]  # fmt: skip
    weights = {"zero": np.array(0), "axis": np.array([0]), "minus": np.array([-1])}
    graph = load(model(nodes, {"x": ("N", 3, 4, 5)}, weights=weights), folder, **options)  # type: ignore[arg-type]
    assert ops(graph) == ["reshape"]
    return graph.values["y"].concrete_shape


def test_shapes_computed_by_the_model(tmp_path: Path) -> None:
    assert flattened(tmp_path) == (8, 60)
    assert flattened(tmp_path, inputs=(InputSpec((2, 3, 4, 5)),)) == (2, 60)
    assert flattened(tmp_path, inputs=(InputSpec((7, 3, 4, 5), "x"),)) == (7, 60)


def test_assumed_sizes_are_said(tmp_path: Path) -> None:
    graph = load(model([node("Relu", ["x"], ["y"])], {"x": ("batch", 3, None, "width")}), tmp_path)
    assert graph.values["x"].shape == (8, 3, 224, 224)
    (note,) = graph.notes
    assert '"batch" of input "x" was taken as 8' in note
    assert "--input x=8,3,224,224" in note


def test_one_name_is_one_size(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["a", "b"], ["y"])]
    graph = load(model(nodes, {"a": ("N", "K"), "b": ("K", "M")}), tmp_path, inputs=(InputSpec((3, 5), "a"),))
    assert graph.values["b"].shape == (5, 128) or graph.values["b"].shape == (5, 8)
    assert graph.values["y"].shape == (3, graph.values["b"].shape[1])


def test_tokens_default_to_a_sequence(tmp_path: Path) -> None:
    nodes = [node("Gather", ["t", "ids"], ["y"])]
    proto = model(
        nodes, {"ids": ("N", "T")}, weights={"t": np.zeros((9, 4), np.float32)}, types={"ids": TensorProto.INT64}
    )
    assert load(proto, tmp_path).values["y"].shape == (8, 128, 4)


def test_batch_that_only_fits_one_falls_back(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "t"], ["y"])]
    graph = load(model(nodes, {"x": ("N", 6)}, weights={"t": np.array([2, 3])}), tmp_path)
    assert graph.values["x"].shape == (1, 6)
    assert any("taken as 1" in note for note in graph.notes)


@pytest.mark.parametrize(
    ("specs", "problem"),
    [
        ((InputSpec((2, 4)),), "2 sizes for 3 axes"),
        ((InputSpec((2, 4, 4)),), "exported with size 3, not 4"),
        ((InputSpec((2, 3, 4), "z"),), "no input of this name"),
        ((InputSpec((2, 3, 4)), InputSpec((2, 3, 4))), "2 shapes for 1 inputs"),
        ((InputSpec((2, 3, 4), "x"), InputSpec((2, 3, 4), "x")), "given twice"),
        ((InputSpec((2, 3, 4), "x", "int64"),), "type int64 is not the model's"),
    ],
)
def test_inputs_that_do_not_fit(specs: tuple[InputSpec, ...], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=problem):
        load(model([node("Relu", ["x"], ["y"])], {"x": ("N", 3, "L")}), tmp_path, inputs=specs)


def test_shapes_that_contradict_each_other_name_the_node(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "t"], ["y"], name="flat")]
    with pytest.raises(ModelError, match='"flat"'):
        load(model(nodes, {"x": (2, 7)}, weights={"t": np.array([3, 5])}), tmp_path)


def test_constant_outputs_are_left_out(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Shape", ["x"], ["s"])]
    graph = load(model(nodes, {"x": (2, 3)}, ["y", "s"]), tmp_path)
    assert graph.outputs == ("y",)
    assert any("does not depend on the input" in note for note in graph.notes)


@pytest.mark.parametrize(("kernel", "taken"), [(512, 512), (130, 512), (3000, 4096), (4097, 16_000)])
@pytest.mark.parametrize("op", ["Conv", "MaxPool"])
def test_an_open_axis_is_taken_long_enough_for_the_windows_on_it(
    tmp_path: Path, op: str, kernel: int, taken: int
) -> None:
    """130 with a stride of 160 is a trap: rounded towards zero, (128 - 130) / 160 + 1 is one window."""
    weights = {"w": np.ones((8, 1, kernel), np.float32)} if op == "Conv" else {}
    nodes = [node(op, ["x", *weights], ["y"], name="it", kernel_shape=[kernel], strides=[160])]
    graph = load(model(nodes, {"x": ("batch", 1, "samples")}, weights=weights), tmp_path)
    assert graph.values["x"].shape == (8, 1, taken)
    assert f'"samples" of input "x" was taken as {taken}' in graph.notes[0]


def test_a_fixed_axis_too_short_for_a_window_is_said(tmp_path: Path) -> None:
    nodes = [node("AveragePool", ["x"], ["y"], name="pool", kernel_shape=[6, 6], strides=[2, 2])]
    with pytest.raises(ModelError, match=r'node "pool" \(AveragePool\) reads 6 entries of axis 2 at once'):
        load(model(nodes, {"x": ("N", 4, 5, 5)}), tmp_path)
    padded = [node("AveragePool", ["x"], ["y"], name="pool", kernel_shape=[8, 8], auto_pad="SAME_UPPER")]
    assert load(model(padded, {"x": ("N", 4, 5, 5)}), tmp_path).values["y"].shape == (8, 4, 5, 5)


def test_a_last_window_that_hangs_over_fits(tmp_path: Path) -> None:
    nodes = [node("MaxPool", ["x"], ["y"], name="pool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)]
    assert load(model(nodes, {"x": (1, 4, 2, 2)}), tmp_path).values["y"].shape == (1, 4, 1, 1)


@pytest.mark.parametrize("name", ["?", "-1", "None"])
def test_what_stands_for_a_free_size_is_no_name_that_axes_share(tmp_path: Path, name: str) -> None:
    graph = load(model([node("Relu", ["x"], ["y"])], {"x": (name, 3, name, name)}), tmp_path)
    assert graph.values["x"].shape == (8, 3, 224, 224)
    assert 'axis 0 of input "x" was taken as 8' in graph.notes[0]


def test_minus_one_is_an_open_size(tmp_path: Path) -> None:
    nodes = [node("Own", ["x"], ["m"], domain="own"), node("Identity", ["m"], ["y"])]
    proto = model(nodes, {"x": (-1, 6)}, domains={"own": 1})
    proto.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [-1, 6]))
    proto.graph.value_info.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, [-1, 6]))
    graph = load(proto, tmp_path)
    assert graph.values["x"].shape == (8, 6)
    assert graph.values["m"].concrete_shape is None
