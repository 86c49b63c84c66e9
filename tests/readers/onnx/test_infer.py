"""Types that are said without onnx are those that onnx's own rules give."""

from __future__ import annotations

import itertools
from typing import Any

import onnx
import pytest
from onnx import helper

from gnelint.ir.graph import Value
from gnelint.onnxfile.nodes import schema_of
from gnelint.onnxfile.scopes import Origin
from gnelint.onnxfile.types import tensor_type
from gnelint.readers.onnx.call import Call, Operand
from gnelint.readers.onnx.infer import _BROADCAST, _ENTRYWISE, InferenceFailedError, TypeInference, output_type

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (3,), (2, 3), (2, 1), (4, 2, 3), (0, 3))


def call_of(op: str, *operands: Operand, version: int = 17, domain: str = "") -> tuple[onnx.NodeProto, Call]:
    """A node, and it as the reader sees it."""
    node = helper.make_node(op, [f"i{k}" for k in range(len(operands))], ["y"], domain=domain)
    return node, Call(op, domain, version, operands, {}, (), ("y",), Origin("n"))


def inferred(types: TypeInference, node: onnx.NodeProto, call: Call) -> Any:
    """What onnx says, None where it refuses."""
    schema = schema_of(call.op_type, call.version, call.domain)
    assert schema is not None
    try:
        found = types.infer(node, schema, call.inputs, {"": call.version})
    except InferenceFailedError:
        return None
    return output_type(found["y"], None, {})


@pytest.mark.parametrize("version", [7, 17])
@pytest.mark.parametrize("op", sorted(_ENTRYWISE))
def test_of_one_tensor(op: str, version: int) -> None:
    for shape, dtype in itertools.product(SHAPES, ("float16", "float32", "float64")):
        types = TypeInference(8)
        node, call = call_of(op, Value("i0", shape, dtype), version=version)
        assert types.plain(call) == inferred(types, node, call) is not None


@pytest.mark.parametrize("op", sorted(_BROADCAST))
def test_of_two_tensors(op: str) -> None:
    for one, other in itertools.product(SHAPES, SHAPES):
        types = TypeInference(8)
        node, call = call_of(op, Value("i0", one, "float32"), Value("i1", other, "float32"))
        assert types.plain(call) == inferred(types, node, call)


def test_everything_else_is_left_to_onnx() -> None:
    types, real = TypeInference(8), Value("i0", (2, 3), "float32")
    types.special["whole"] = tensor_type((2, 3), "int64")
    for op, operands, more in (
        ("Relu", [Value("i0", ("N", 3), "float32")], {}),
        ("Relu", [Value("i0", None, "float32")], {}),
        ("Relu", [Value("whole", (2, 3), "float32")], {}),
        ("Relu", [real], {"version": 1}),
        ("Relu", [real], {"domain": "own"}),
        ("Softmax", [real], {}),
        ("Add", [real, Value("i1", (2, 3), "float64")], {}),
        ("Add", [real, Value("i1", (2, 2), "float32")], {}),
        ("Add", [real, Value("i1", (3,), "float32")], {"version": 6}),
        ("Add", [real], {}),
    ):
        assert types.plain(call_of(op, *operands, **more)[1]) is None
