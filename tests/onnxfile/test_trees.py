"""Tree ensembles: what analyses a file reads none of the trees, what writes it has them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gnelint.onnxfile.file import open_model
from gnelint.readers.onnx.reader import read

COUNT = 20_000
"""Nodes of trees: enough that the ONNX node is worth a look."""


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trees") / "trees.onnx"
    leaves = list(range(COUNT))
    node = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "scores"], "trees", domain="ai.onnx.ml",
        nodes_treeids=leaves, nodes_nodeids=[0] * COUNT, nodes_featureids=[0] * COUNT, nodes_modes=["LEAF"] * COUNT,
        nodes_values=np.zeros(COUNT, np.float32).tolist(), nodes_truenodeids=[0] * COUNT,
        nodes_falsenodeids=[0] * COUNT, class_ids=[0] * COUNT, class_nodeids=[0] * COUNT, class_treeids=leaves,
        class_weights=np.ones(COUNT, np.float32).tolist(), classlabels_int64s=[0, 1, 2],
    )  # fmt: skip
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])]
    outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
               helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])]  # fmt: skip
    graph = helper.make_graph([node], "g", ends, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def test_the_trees_are_left_in_the_file(forest: Path) -> None:
    (node,) = open_model(forest, trees=False).proto.graph.node
    assert [attribute.name for attribute in node.attribute] == ["classlabels_int64s"]
    assert node.name == "trees"


def test_whoever_writes_the_file_has_them(forest: Path) -> None:
    assert open_model(forest).proto == onnx.load(str(forest))


def test_the_graph_is_that_of_the_whole_file(forest: Path) -> None:
    graph = read(forest)
    assert graph.values["scores"].concrete_shape == (8, 3)
    assert graph.node("trees").source_op == "ai.onnx.ml.TreeEnsembleClassifier"
