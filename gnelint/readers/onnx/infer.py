"""Types and shapes, one operation at a time, by the operators' own rules in onnx.

Every input shape is known before the operation is looked at, and constants computed from shapes are numbers by then:
one pass gives concrete shapes where whole-model inference has to reason about symbols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import defs, shape_inference

from gnelint.ir.graph import Dim, Parameter, Value
from gnelint.onnxfile.types import STRING, dtype_code, element_type, tensor_shape, tensor_type
from gnelint.readers.onnx.call import Operand, OutputType

_DATA_ENTRIES = 1024
_FLOAT_DATA = frozenset({"Resize", "Upsample", "Range", "BlackmanWindow", "HannWindow", "HammingWindow"})
"""Operators whose output shape depends on numbers that are no integers."""

_INTEGERS = frozenset({"int64", "int32"})


class InferenceFailedError(Exception):
    """The operator's rule refuses these inputs; the message says why."""


class TypeInference:
    """Infers output types of operators; `special` has the types of values that are no plain tensors."""

    def __init__(self, ir_version: int) -> None:
        self._ir_version = ir_version
        self._imports: dict[tuple[tuple[str, int], ...], list[onnx.OperatorSetIdProto]] = {}
        self.special: dict[str, onnx.TypeProto] = {}

    def proto(self, operand: Operand) -> onnx.TypeProto | None:
        """The type of an operand in ONNX's form, None if it is not known."""
        if isinstance(operand, Value) and operand.name in self.special:
            return self.special[operand.name]
        return None if operand.dtype is None else tensor_type(operand.shape, operand.dtype)

    def infer(
        self, node: onnx.NodeProto, schema: defs.OpSchema, inputs: Sequence[Operand | None], versions: Mapping[str, int]
    ) -> dict[str, onnx.TypeProto]:
        """Types of the outputs by the names that `node` gives them; {} where a type of an input is not known.

        Raises:
            InferenceFailedError: the inputs contradict the operator's definition.
        """
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for name, operand in zip(node.input, inputs, strict=False):
            if operand is None:
                continue
            found = self.proto(operand)
            if found is None:
                return {}
            types[name] = found
            if isinstance(operand, Parameter) and _tells_a_shape(operand, node.op_type):
                data[name] = _tensor(operand)
        try:
            outputs: dict[str, onnx.TypeProto] = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._opset_imports(versions), ir_version=self._ir_version
            )
        except Exception as error:  # InferenceError and whatever else the rule of an operator raises
            raise InferenceFailedError(_first_line(error)) from error
        if any(dim.dim_value < 0 for found in outputs.values() for dim in found.tensor_type.shape.dim):
            raise InferenceFailedError("its output would have a negative size")
        return outputs

    def _opset_imports(self, versions: Mapping[str, int]) -> list[onnx.OperatorSetIdProto]:
        key = tuple(versions.items())
        if key not in self._imports:
            self._imports[key] = [onnx.OperatorSetIdProto(domain=domain, version=version) for domain, version in key]
        return self._imports[key]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].removeprefix("[ShapeInferenceError] ").removeprefix("[TypeInferenceError] ") if lines else "unknown"


def _tells_a_shape(parameter: Parameter, op_type: str) -> bool:
    if parameter.size > _DATA_ENTRIES or len(parameter.shape) > 1:
        return False
    return parameter.dtype in _INTEGERS or (op_type in _FLOAT_DATA and parameter.dtype != STRING)


def _tensor(parameter: Parameter) -> onnx.TensorProto:
    tensor = onnx.TensorProto(data_type=dtype_code(parameter.dtype), dims=parameter.shape)
    tensor.raw_data = parameter.array().tobytes()
    return tensor


def output_type(found: onnx.TypeProto | None, declared: onnx.TypeProto | None, sizes: Mapping[str, int]) -> OutputType:
    """What inference found, completed by what the file declares; named sizes that are fixed become numbers."""
    if found is None or found.WhichOneof("value") is None:
        found, declared = declared, None
    if found is None or found.WhichOneof("value") is None:
        return OutputType(None, None)
    dtype = element_type(found)
    if dtype is None:
        return OutputType(None, None, found)
    shape = _fixed(tensor_shape(found), sizes)
    other = None if declared is None else _fixed(tensor_shape(declared), sizes)
    if shape is None:
        shape = other
    elif other is not None and len(other) == len(shape):
        shape = tuple(second if first is None else first for first, second in zip(shape, other, strict=True))
    special = found if found.WhichOneof("value") != "tensor_type" else None
    if shape is None:
        return OutputType(None, dtype, special)
    return OutputType(tuple("?" if size is None else size for size in shape), dtype, special)


def _fixed(shape: tuple[Dim | None, ...] | None, sizes: Mapping[str, int]) -> tuple[Dim | None, ...] | None:
    if shape is None:
        return None
    return tuple(sizes.get(size, size) if isinstance(size, str) else size for size in shape)
