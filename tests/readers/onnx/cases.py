"""Minimal ONNX models for every operator: ONNX's own node tests, and a few of the kinds that these leave out.

A model keeps its first floating input; everything else is a constant of the model, and so are weights and axes in what
people export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.measure.onnx_on_torch.backend import cases

_FLOATING = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class NodeCase:
    """One use of an operator.

    Attributes:
        model: with one node, and at most one input where that is a tensor.
        inputs, outputs: the input's numbers and what the standard says comes out; None where it says nothing.
    """

    name: str
    model: onnx.ModelProto
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...] | None


@lru_cache(maxsize=1)
def node_cases() -> dict[tuple[str, str], tuple[NodeCase, ...]]:
    """The cases by domain and operator."""
    found: dict[tuple[str, str], list[NodeCase]] = {}
    for name, case in cases().items():
        nodes = case.model.graph.node
        if len(nodes) == 1 and not case.model.functions:
            found.setdefault((nodes[0].domain, nodes[0].op_type), []).append(_minimal(name, case))
    for own in _own_cases():
        node = own.model.graph.node[-1]
        found.setdefault((node.domain, node.op_type), []).append(own)
    return {key: tuple(value) for key, value in found.items()}


def _minimal(name: str, case: Any) -> NodeCase:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    given, wanted = case.data_sets[0]
    kept, numbers = [], []
    for info, value in zip(list(graph.input), given, strict=False):
        tensor = info.type.tensor_type if info.type.HasField("tensor_type") else None
        if tensor is None or (not kept and tensor.elem_type in _FLOATING):
            kept.append(info)
            numbers.append(value)
        else:
            stored = value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value))
            stored.name = info.name
            graph.initializer.append(stored)
    del graph.input[:]
    graph.input.extend(kept)
    if len(graph.node[0].output) > 1 and graph.node[0].op_type in _STATISTICS:  # they are no part of the network
        del graph.node[0].output[1:]
        del graph.output[1:]
    return NodeCase(name, model, tuple(numbers), tuple(wanted))


_STATISTICS = frozenset({"LayerNormalization"})


def _own_cases() -> list[NodeCase]:
    """Operators that the node tests have no case for, or only one of integers."""
    x = [1, 2, 4, 4]
    rois = np.array([[0, 0, 0, 3, 3]], np.float32)
    score = {"coefficients": [0.5] * 8, "intercepts": [0.1, 0.2]}
    tree: dict[str, Any] = {
        "nodes_treeids": [0], "nodes_nodeids": [0], "nodes_featureids": [0], "nodes_values": [0.0],
        "nodes_modes": ["LEAF"], "nodes_truenodeids": [0], "nodes_falsenodeids": [0],
    }  # fmt: skip
    support: dict[str, Any] = {
        "coefficients": [1.0, -1.0], "support_vectors": [0.5] * 8, "rho": [0.1], "kernel_type": "LINEAR",
    }  # fmt: skip
    ml = "ai.onnx.ml"
    return [
        _own("Trilu", x),
        _own("GlobalLpPool", x),
        _own("MaxRoiPool", x, rois, pooled_shape=[2, 2]),
        _own("GatherND", [3, 4], np.array([[0, 1], [2, 2]], np.int64)),
        _own("Where", [3, 4], np.ones((3, 4), np.float32), condition=True),
        _own("If", [3, 4], branches=True),
        _own("Multinomial", [3, 4], sample_size=2),
        _own("RandomNormalLike", [3, 4]),
        _own("RandomUniformLike", [3, 4]),
        _own("RandomNormal", None, shape=[2, 3]),
        _own("RandomUniform", None, shape=[2, 3]),
        _own("NonZero", [3, 4]),
        _own("SequenceConstruct", [3, 4]),
        _own("SequenceEmpty", None),
        _own("Optional", [3, 4]),
        _own("SequenceAt", [3, 4], np.array(0, np.int64), through="SequenceConstruct"),
        _own("SequenceErase", [3, 4], through="SequenceConstruct"),
        _own("SequenceLength", [3, 4], through="SequenceConstruct"),
        _own("ConcatFromSequence", [3, 4], through="SequenceConstruct", axis=0),
        _own("Scaler", [3, 4], domain=ml, offset=[0.5] * 4, scale=[2.0] * 4),
        _own("Normalizer", [3, 4], domain=ml, norm="L2"),
        _own("Imputer", [3, 4], domain=ml, imputed_value_floats=[0.0] * 4, replaced_value_float=1.0),
        _own("FeatureVectorizer", [3, 4], domain=ml, inputdimensions=[4]),
        _own("OneHotEncoder", [3, 4], domain=ml, cats_int64s=[0, 1]),
        _own("LinearRegressor", [3, 4], domain=ml, targets=2, **score),
        _own("LinearClassifier", [3, 4], domain=ml, results=("label", "y"), classlabels_ints=[0, 1], **score),
        _own("SVMRegressor", [3, 4], domain=ml, n_supports=2, **support),
        _own(
            "SVMClassifier",
            [3, 4],
            domain=ml,
            results=("label", "y"),
            classlabels_ints=[0, 1],
            vectors_per_class=[1, 1],
            **support,
        ),
        _own("TreeEnsembleRegressor", [3, 4], domain=ml, **tree),
        _own("TreeEnsembleClassifier", [3, 4], domain=ml, results=("label", "y"), classlabels_int64s=[0, 1], **tree),
    ]


def _own(
    op: str, size: Sequence[int] | None, *constants: np.ndarray, domain: str = "", through: str = "",
    condition: bool = False, branches: bool = False, results: Sequence[str] = ("y",), **attributes: Any,
) -> NodeCase:  # fmt: skip
    """A node of x and constants. With `through`, x goes through that operator first; the condition of a Where is a
    constant, and the branches of an If are decided by the input."""
    initializers = [numpy_helper.from_array(array, f"c{i}") for i, array in enumerate(constants)]
    inputs = [] if size is None else ["x"]
    nodes = []
    if through:
        nodes.append(helper.make_node(through, ["x"], ["s"]))
        inputs = ["s"]
    inputs += [tensor.name for tensor in initializers]
    if condition:
        initializers.append(numpy_helper.from_array(np.arange(12).reshape(3, 4) % 2 == 0, "condition"))
        inputs = ["condition", *inputs]
    if branches:
        nodes += [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["decision"], to=TensorProto.BOOL),
        ]
        inputs = ["decision"]
        for name, body in (("then_branch", "Relu"), ("else_branch", "Tanh")):
            result = helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
            attributes[name] = helper.make_graph([helper.make_node(body, ["x"], [name])], name, [], [result])
    nodes.append(helper.make_node(op, inputs, results, domain=domain, **attributes))
    floats = [] if size is None else [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)]
    graph = helper.make_graph(nodes, op, floats, [onnx.ValueInfoProto(name="y")], initializers)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    return NodeCase(f"own {op}", helper.make_model(graph, opset_imports=versions), (), None)
