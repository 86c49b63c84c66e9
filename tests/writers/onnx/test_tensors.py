"""Tensors are changed where and how the model stores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnelint.fixes.edits import Centre, EditTensor, Fill, Scale
from tests.readers.onnx.build import model, node
from tests.writers.onnx.written import write, written

W = np.arange(1.0, 13.0).reshape(3, 4) / 8


def save(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    onnx.save(proto, str(path))
    return path


def matmul(folder: Path, tensor: onnx.TensorProto | None, extra: list[onnx.NodeProto] | None = None) -> Path:
    proto = model([*(extra or []), node("MatMul", ["x", "w"], ["y"], name="mm")], {"x": (2, 3)}, opset=21)
    proto.ir_version = 10
    if tensor is not None:
        proto.graph.initializer.append(tensor)
    kind = tensor.data_type if tensor is not None else TensorProto.FLOAT
    proto.graph.input[0].type.tensor_type.elem_type = kind
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, (2, 4)))
    return save(folder, proto)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("raw", [False, True])
def test_the_form_of_storage_is_kept(tmp_path: Path, dtype: type, raw: bool) -> None:
    array = W.astype(dtype)
    if raw:
        tensor = numpy_helper.from_array(array, "w")
    else:
        code = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = helper.make_tensor("w", code, array.shape, array.reshape(-1).tolist())
    assert tensor.HasField("raw_data") == raw
    proto, _ = written(matmul(tmp_path, tensor), [EditTensor("w", Scale(2.0)), EditTensor("w", Scale(0.25))])
    (found,) = proto.graph.initializer
    assert found.HasField("raw_data") == raw
    assert found.data_type == tensor.data_type
    np.testing.assert_array_equal(numpy_helper.to_array(found), array / 2)


def test_constant_nodes_in_every_form_are_edited(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "values"),
        numpy_helper.from_array(np.array([1, 5], np.int64), "indices"),
        [3, 4],
    )
    dense = numpy_helper.from_array(W.astype(np.float32))
    for attributes, wanted in (
        ({"value": dense}, W * 2),
        ({"sparse_value": sparse}, [[0, 4, 0, 0], [0, 6, 0, 0], [0] * 4]),
    ):
        path = matmul(tmp_path, None, [node("Constant", [], ["w"], **attributes)])
        if "sparse_value" in attributes:
            unmade = write(path, [EditTensor("w", Scale(2.0))], tmp_path / "fixed.onnx")
            assert unmade == ()
            proto = onnx.load(str(tmp_path / "fixed.onnx"))
            values = numpy_helper.to_array(proto.graph.node[0].attribute[0].sparse_tensor.values)
            assert values.tolist() == [4.0, 6.0]
            continue
        proto, graph = written(path, [EditTensor("w", Scale(2.0))])
        assert len(proto.graph.initializer) == 0
        np.testing.assert_allclose(graph.node("mm").parameters["weight"].array().T, wanted)


def test_a_constant_of_floats_is_edited(tmp_path: Path) -> None:
    nodes = [
        node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0]),
        node("Constant", [], ["c"], value_float=3.0),
        node("Mul", ["x", "b"], ["z"]),
        node("Mul", ["z", "c"], ["y"]),
    ]
    proto = model(nodes, {"x": (2, 3)})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3)))
    path = save(tmp_path, proto)
    found, _ = written(path, [EditTensor("b", Scale(2.0))])
    assert list(found.graph.node[0].attribute[0].floats) == [2.0, 4.0, 6.0]
    assert found.graph.node[1] == proto.graph.node[1]


def sparse_model(folder: Path) -> Path:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "w"),
        numpy_helper.from_array(np.array([[0, 1], [1, 1]], np.int64), "i"),
        [3, 4],
    )
    proto = model([node("MatMul", ["x", "w"], ["y"], name="mm")], {"x": (2, 3)})
    proto.graph.sparse_initializer.append(sparse)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 4)))
    return save(folder, proto)


def test_a_sparse_initializer_stays_sparse_where_zeros_stay(tmp_path: Path) -> None:
    source = sparse_model(tmp_path)
    write(source, [EditTensor("w", Scale(2.0))], tmp_path / "scaled.onnx")
    scaled = onnx.load(str(tmp_path / "scaled.onnx")).graph
    assert numpy_helper.to_array(scaled.sparse_initializer[0].values).tolist() == [4.0, 6.0]
    write(source, [EditTensor("w", Fill(1.0))], tmp_path / "filled.onnx")
    filled = onnx.load(str(tmp_path / "filled.onnx")).graph
    assert len(filled.sparse_initializer) == 0
    assert np.all(numpy_helper.to_array(filled.initializer[0]) == 1.0)


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = matmul(tmp_path, numpy_helper.from_array(W.astype(np.float16), "w"))
    (unmade,) = write(source, [EditTensor("w", Scale(1e6))], tmp_path / "fixed.onnx")
    assert "does not fit float16" in unmade.reason
    assert not (tmp_path / "fixed.onnx").exists()


def test_nodes_say_which_rule_edited_them(tmp_path: Path) -> None:
    source = matmul(tmp_path, numpy_helper.from_array(W.astype(np.float32), "w"))
    proto, _ = written(source, [EditTensor("w", Scale(2.0)), EditTensor("w", Scale(3.0))])
    found = {entry.key: entry.value for entry in proto.graph.node[0].metadata_props}
    assert found["gnelint.rule"] == "GNE101"
    assert float(found["gnelint.factor"]) == 6.0
    old = onnx.load(str(source))
    old.ir_version = 8
    proto, _ = written(save(tmp_path, old), [EditTensor("w", Scale(2.0))])
    assert not proto.graph.node[0].metadata_props
    assert {entry.key: entry.value for entry in proto.metadata_props}["gnelint.factor/mm"] == "2"


def shared_function(calls: int) -> onnx.ModelProto:
    body = [
        node("Constant", [], ["w"], value=numpy_helper.from_array(W.astype(np.float32)[:, :3])),
        node("MatMul", ["a", "w"], ["b"]),
    ]
    function = helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    names = ["x", *(f"h{i}" for i in range(1, calls)), "y"]
    nodes = [node("F", [names[i]], [names[i + 1]], domain="local", name=f"call{i}") for i in range(calls)]
    proto = model(nodes, {"x": (2, 3)}, functions=[function], domains={"local": 1})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3)))
    return proto


def test_a_constant_in_a_function_is_edited_where_one_node_calls_it(tmp_path: Path) -> None:
    proto, graph = written(save(tmp_path, shared_function(1)), [EditTensor("call0/w", Scale(2.0))])
    assert len(proto.functions) == 1
    np.testing.assert_array_equal(graph.nodes[0].parameters["weight"].array().T, 2 * W.astype(np.float32)[:, :3])
    (unmade,) = write(save(tmp_path, shared_function(2)), [EditTensor("call0/w", Scale(2.0))], tmp_path / "fixed.onnx")
    assert 'local function "F", which is called 2 times' in unmade.reason


def test_a_branch_of_an_if_is_edited(tmp_path: Path) -> None:
    def branch(name: str, weight: float) -> onnx.GraphProto:
        inner = helper.make_graph(
            [node("MatMul", ["x", f"{name}_w"], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, (2, 4))],
        )
        inner.initializer.append(numpy_helper.from_array(weight * W.astype(np.float32), f"{name}_w"))
        return inner

    nodes = [node("If", ["yes"], ["y"], name="if", then_branch=branch("t", 1.0), else_branch=branch("e", 3.0))]
    proto = model(nodes, {"x": (2, 3)}, weights={"yes": np.array(True)})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 4)))
    _, graph = written(save(tmp_path, proto), [EditTensor("t_w", Scale(2.0))])
    np.testing.assert_array_equal(graph.nodes[0].parameters["weight"].array().T, 2 * W.astype(np.float32))


def test_filters_are_centred_in_the_stored_layout(tmp_path: Path) -> None:
    source = matmul(tmp_path, numpy_helper.from_array(W.astype(np.float32), "w"))
    _, graph = written(source, [EditTensor("w", Centre(0), (1, 0))])
    np.testing.assert_allclose(graph.nodes[0].parameters["weight"].array().sum(axis=1), 0, atol=1e-6)


def test_quantised_weights_are_scaled_by_their_scale(tmp_path: Path) -> None:
    weights = {"q": np.arange(12, dtype=np.int8).reshape(3, 4), "s": np.float32(0.1), "z": np.int8(3)}
    nodes = [node("DequantizeLinear", ["q", "s", "z"], ["w"]), node("MatMul", ["x", "w"], ["y"], name="mm")]
    proto = model(nodes, {"x": (2, 3)}, weights=weights)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 4)))
    note = proto.graph.quantization_annotation.add(tensor_name="w")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    source = save(tmp_path, proto)
    found, graph = written(source, [EditTensor("s", Scale(2.0))])
    assert found.graph.quantization_annotation == proto.graph.quantization_annotation
    np.testing.assert_allclose(graph.node("mm").parameters["weight"].array().T[0], (np.arange(4) - 3) * 0.2, rtol=1e-6)
    (unmade,) = write(source, [EditTensor("q", Scale(2.0))], tmp_path / "fixed.onnx")
    assert "int8" in unmade.reason
