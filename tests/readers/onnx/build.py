"""Small ONNX models for the reader's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from gnelint.ir.graph import Graph
from gnelint.readers.onnx.reader import read

FLOAT = onnx.TensorProto.FLOAT


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Mapping[str, int] | None = None,
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, (types or {}).get(name, FLOAT), shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)


def load(proto: onnx.ModelProto, folder: Path, **options: Any) -> Graph:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return read(path, **options)


def one(folder: Path, op: str, shape: Sequence[int], weights: Mapping[str, np.ndarray] | None = None, opset: int = 17,
        **attributes: Any) -> Graph:  # fmt: skip
    """The graph of one operator applied to "x" and the weights, in order."""
    return load(
        model([node(op, ["x", *(weights or {})], ["y"], **attributes)], {"x": shape}, ["y"], weights, opset), folder
    )


def ops(graph: Graph) -> list[str]:
    return [found.op for found in graph.nodes]
