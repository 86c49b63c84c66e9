"""A network of scikit-learn: scaled features in front, names of the classes behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gnelint.analysis.propagation import analyse
from gnelint.readers.onnx.reader import read


def test_names_of_classes_do_not_hide_the_network(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[1.0], scale=[0.5, 1.0, 1.0, 2.0]),
        helper.make_node("MatMul", ["s", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["p"]),
        helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 4])
    labelled = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    y = helper.make_value_info("y", helper.make_sequence_type_proto(labelled))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    path = tmp_path / "classes.onnx"
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=8), path)
    found = read(path)
    assert [node.op for node in found.nodes] == ["bias", "scale", "identity", "linear", "softmax", "identity"]
    assert analyse(found).gradient_log2 is not None
