"""What a round trip through onnx-graphsurgeon keeps and drops is what `to_graphsurgeon` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon
import pytest
from onnx import TensorProto, helper, numpy_helper

import gnelint
from gnelint.errors import ModelError
from tests.readers.onnx.build import node
from tests.writers.onnx.test_models import small_network
from tests.writers.onnx.written import assert_good


def told(path: Path) -> onnx.ModelProto:
    """A model with something in every field that the documentation speaks of."""
    proto = onnx.load(str(path))
    proto.doc_string, proto.domain, proto.model_version = "doc", "org.example", 7
    proto.metadata_props.add(key="model", value="m")
    proto.graph.metadata_props.add(key="graph", value="g")
    proto.graph.node[0].doc_string = "a node"
    proto.graph.node[0].metadata_props.add(key="node", value="n")
    proto.graph.input[0].doc_string = "an input"
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    proto.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    proto.graph.quantization_annotation.add(tensor_name="c0")
    body = [node("Relu", ["a"], ["b"])]
    proto.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    proto.functions[0].metadata_props.add(key="function", value="f")
    proto.opset_import.append(helper.make_opsetid("own", 1))
    values = numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1, 5], np.int64), "indices")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 4]))
    proto.graph.node.append(node("MatMul", ["q", "sparse"], ["z"]))
    proto.graph.input.append(helper.make_tensor_value_info("q", TensorProto.FLOAT, (2, 3)))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (2, 4)))
    return onnx.ModelProto.FromString(proto.SerializeToString() + b"\xfa\x3f\x03abc")


def test_the_round_trip_drops_what_the_documentation_names(tmp_path: Path) -> None:
    proto = told(small_network(tmp_path, ["Relu"], 17))
    found = onnx_graphsurgeon.export_onnx(gnelint.to_graphsurgeon(proto))
    assert [n.op_type for n in found.graph.node] == [n.op_type for n in proto.graph.node]
    assert {t.name for t in found.graph.initializer} == {t.name for t in proto.graph.initializer}
    assert [f.name for f in found.functions] == ["F"]
    assert found.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    dropped = {
        "model metadata": found.metadata_props,
        "graph metadata": found.graph.metadata_props,
        "node metadata": found.graph.node[0].metadata_props,
        "function metadata": found.functions[0].metadata_props,
        "model doc": found.doc_string,
        "node doc": found.graph.node[0].doc_string,
        "input doc": found.graph.input[0].doc_string,
        "domain": found.domain,
        "version": found.model_version,
        "annotations": found.graph.quantization_annotation,
        "denotation": found.graph.input[0].type.tensor_type.shape.dim[0].denotation,
    }
    assert [name for name, kept in dropped.items() if kept] == []
    assert b"abc" not in found.SerializeToString()
    assert len(found.graph.sparse_initializer) == 1


def test_a_file_is_loaded_with_its_weights(tmp_path: Path) -> None:
    path = small_network(tmp_path, ["Relu"], 17)
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="data", size_threshold=0)
    graph = gnelint.to_graphsurgeon(path)
    graph.nodes[0].inputs[1].values *= 2
    copy = tmp_path / "copy.onnx"
    onnx.save(onnx_graphsurgeon.export_onnx(graph), str(copy))
    assert_good(copy)


def test_files_that_cannot_be_read_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        gnelint.to_graphsurgeon(tmp_path / "none.onnx")
    path = small_network(tmp_path, ["Relu"], 17)
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="data", size_threshold=0)
    (tmp_path / "data").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        gnelint.to_graphsurgeon(path)
