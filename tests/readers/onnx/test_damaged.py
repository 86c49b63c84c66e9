"""Damaged, foreign and hostile files: one clear line each, and nothing else ever."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gnelint.errors import ModelError
from gnelint.ir.graph import UNMODELLED, Graph
from gnelint.ops import VOCABULARY
from gnelint.readers.onnx.reader import read
from tests.readers.onnx.build import load, model, node


def small() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((16, 3, 5, 5)).astype(np.float32),
        "fc": rng.standard_normal((16, 5)).astype(np.float32),
        "b": np.zeros(5, np.float32), "axes": np.array([2, 3]),
    }  # fmt: skip
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]),
             node("GlobalAveragePool", ["r"], ["p"]), node("Squeeze", ["p", "axes"], ["f"]),
             node("MatMul", ["f", "fc"], ["m"]), node("Add", ["m", "b"], ["y"])]  # fmt: skip
    return model(nodes, {"x": ("N", 3, 8, 8)}, weights=weights)


CONTENT = small().SerializeToString()


def problem(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert caught.value.advice
    return line


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert "no such file" in problem(path)
    assert "is a directory" in problem(tmp_path)
    for content, said in (
        (b"", "empty"),
        (b"hello, world\n" * 10, "a text file"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (pickle.dumps({"a": 1}), "a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (bytes(range(256)) * 4, "is not an ONNX model"),
        (onnx.TensorProto(dims=[2], data_type=1, raw_data=bytes(8)).SerializeToString(), "is not an ONNX model"),
    ):
        path.write_bytes(content)
        assert said in problem(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    assert "PyTorch checkpoint" in problem(path)


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for length in (10, 200, 2000, len(CONTENT) // 2, len(CONTENT) - 1):
        path.write_bytes(CONTENT[:length])
        assert "damaged or cut short" in problem(path)


def refused(proto: onnx.ModelProto, folder: Path) -> str:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return problem(path)


def test_wrong_shapes(tmp_path: Path) -> None:
    def conv(shape: tuple[int, ...], bias: int = 4) -> onnx.ModelProto:
        weights = {"w": np.zeros(shape, np.float32), "b": np.zeros(bias, np.float32)}
        return model([node("Conv", ["x", "w", "b"], ["y"], name="stem")], {"x": (1, 3, 8, 8)}, weights=weights)

    assert 'node "stem"' in refused(conv((4, 2, 3, 3)), tmp_path)
    assert "3 channels" in refused(conv((4, 2, 3, 3)), tmp_path)
    assert 'node "stem"' in refused(conv((4, 3, 3)), tmp_path)
    assert '"b" of shape (5,)' in refused(conv((4, 3, 3, 3), bias=5), tmp_path)
    bad_matmul = model(
        [node("MatMul", ["x", "w"], ["y"], name="fc")], {"x": (2, 3)}, weights={"w": np.zeros((4, 5), np.float32)}
    )
    assert 'node "fc"' in refused(bad_matmul, tmp_path)
    ones = {name: np.ones(4, np.float32) for name in "sbmv"}
    norm = model([node("BatchNormalization", ["x", *ones], ["y"], name="bn")], {"x": (2, 3, 4, 4)}, weights=ones)
    assert 'node "bn"' in refused(norm, tmp_path)


def test_weights_that_are_not_all_there(tmp_path: Path) -> None:
    proto = small()
    proto.graph.initializer[1].raw_data = proto.graph.initializer[1].raw_data[:-4]
    assert '"fc" of shape (16, 5)' in refused(proto, tmp_path)


def test_graphs_that_are_none(tmp_path: Path) -> None:
    cycle = model(
        [node("Add", ["x", "b"], ["a"], name="one"), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])],
        {"x": (2,)},
    )
    assert 'cycle through node "one"' in refused(cycle, tmp_path)
    undefined = model([node("Relu", ["nothing"], ["y"], name="r")], {"x": (2,)})
    assert 'node "r" (Relu) reads "nothing", which nothing produces' in refused(undefined, tmp_path)
    twice = model([node("Relu", ["x"], ["y"]), node("Tanh", ["x"], ["y"])], {"x": (2,)})
    assert '"y" is written twice' in refused(twice, tmp_path)
    unwritten = model([node("Relu", ["x"], ["y"])], {"x": (2,)}, ["z"])
    assert 'output "z"' in refused(unwritten, tmp_path)
    newer = model([node("Relu", ["x"], ["y"])], {"x": (2,)}, opset=99)
    assert "uses opset 99" in refused(newer, tmp_path)


def test_function_that_calls_itself(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    body = [helper.make_node("F", ["a"], ["b"], domain="local")]
    function = helper.make_function("local", "F", ["a"], ["b"], body, opsets)
    proto = model([node("F", ["x"], ["y"], domain="local")], {"x": (2,)}, functions=[function], domains={"local": 1})
    assert "nested" in refused(proto, tmp_path)


def test_hostile_sizes(tmp_path: Path) -> None:
    proto = small()
    proto.graph.initializer[0].dims[:] = [2**31, 2**31, 2**31, 2**31]
    assert "impossible shape" in refused(proto, tmp_path)
    proto.graph.initializer[0].dims[:] = [-1, 3, 5, 5]
    assert "impossible shape" in refused(proto, tmp_path)
    proto.graph.initializer[0].dims[:] = [2**20, 2**15]
    assert "needs" in refused(proto, tmp_path)


def test_huge_computed_constants_are_not_computed(tmp_path: Path) -> None:
    nodes = [node("Range", ["a", "b", "c"], ["r"]), node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
             node("Expand", ["one", "big"], ["e"]), node("Add", ["x", "e"], ["y"])]  # fmt: skip
    weights = {
        "a": np.array(0),
        "b": np.array(10**15),
        "c": np.array(1),
        "one": np.ones(1, np.float32),
        "big": np.array([10**10]),
    }
    graph = load(model(nodes, {"x": (1,)}, weights=weights), tmp_path)
    assert graph.values["y"].shape == (10**10,)


def check(graph: Graph) -> None:
    """What every graph must satisfy, whatever file it comes from."""
    written = set(graph.inputs)
    for found in graph.nodes:
        assert found.op in VOCABULARY or found.op == UNMODELLED
        assert all(name in written for name in found.present_inputs)
        assert not written & set(found.outputs)
        written.update(found.outputs)
    assert written == set(graph.values)
    assert set(graph.outputs) <= written
    assert len({found.name for found in graph.nodes}) == len(graph.nodes)
    for parameter in graph.parameters():
        if parameter.size < 10**6:
            assert parameter.array().shape == parameter.shape


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_gives_a_graph_or_one_line(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(CONTENT)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            near_an_end = data.draw(st.integers(0, min(600, len(content) - 1)))
            position = near_an_end if data.draw(st.booleans()) else len(content) - 1 - near_an_end
            content[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    try:
        graph = read(path)
    except ModelError as error:
        said = str(error)
    else:
        said = ""
        check(graph)
    assert "\n" not in said


UNARY = ["Relu", "Tanh", "Sigmoid", "Softplus", "Erf", "Neg", "Identity", "Softmax", "Abs", "Floor"]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "MatMul"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(UNARY + BINARY), st.integers(0, 20), st.integers(0, 20)), max_size=12))
def test_random_models(tmp_path: Path, steps: list[tuple[str, int, int]]) -> None:
    """Square matrices and constants in any combination: shapes agree with onnx's own inference."""
    names = ["x", "w", "c"]
    nodes = []
    for index, (op, first, second) in enumerate(steps):
        inputs = [names[first % len(names)], names[second % len(names)]][: 1 if op in UNARY else 2]
        nodes.append(node(op, inputs, [f"v{index}"]))
        names.append(f"v{index}")
    nodes.append(node("Add", ["x", names[-1]], ["y"]))
    weights = {"w": np.full((4, 4), 0.5, np.float32), "c": np.float32(2)}
    proto = model(nodes, {"x": (4, 4)}, weights=weights, opset=13)
    try:
        graph = load(proto, tmp_path)
    except ModelError:
        with pytest.raises(onnx.shape_inference.InferenceError):  # a matrix product with a scalar, say
            onnx.shape_inference.infer_shapes(proto, strict_mode=True)
        return
    inferred = onnx.shape_inference.infer_shapes(proto)
    check(graph)
    for info in inferred.graph.value_info:
        if info.name in graph.values and info.type.tensor_type.HasField("shape"):
            assert graph.values[info.name].shape == tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
