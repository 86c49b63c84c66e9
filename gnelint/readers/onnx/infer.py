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
from gnelint.readers.onnx.call import Call, Operand, OutputType

_DATA_ENTRIES = 1024
_FLOAT_DATA = frozenset({"Resize", "Upsample", "Range", "BlackmanWindow", "HannWindow", "HammingWindow"})
"""Operators whose output shape depends on numbers that are no integers."""

_INTEGERS = frozenset({"int64", "int32"})

_ENTRYWISE = frozenset({
    "Abs", "Elu", "Exp", "Identity", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus",
    "Softsign", "Sqrt", "Tanh",
})  # fmt: skip
"""Operators of one tensor that give one like it, since opset 6."""
_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div"})
"""Operators of two tensors that are laid over each other from their last axes on, since opset 7."""
_REALS = frozenset({"float16", "float32", "float64"})


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

    def plain(self, call: Call) -> OutputType | None:
        """The output's type of the commonest operators on real tensors whose sizes are all known; None for all else.

        onnx's rules say the same: they take a tenth of a millisecond an operation, and 17 of them for the first.
        """
        shapes = [self._plain_shape(operand) for operand in call.inputs]
        known = [shape for shape in shapes if shape is not None]
        if call.domain or len(known) != len(shapes) or len(call.output_names) != 1:
            return None
        kinds = {operand.dtype for operand in call.inputs if operand is not None}
        if call.op_type in _ENTRYWISE and call.version >= 6 and len(known) == 1:
            return OutputType(known[0], kinds.pop())
        if call.op_type in _BROADCAST and call.version >= 7 and len(known) == 2 and len(kinds) == 1:
            shape = _laid_over(*known)
            return None if shape is None else OutputType(shape, kinds.pop())
        return None

    def _plain_shape(self, operand: Operand | None) -> tuple[int, ...] | None:
        """The sizes of a real tensor, None where one is not a number, or the operand is something else."""
        if operand is None or operand.dtype not in _REALS:
            return None
        if isinstance(operand, Value) and operand.name in self.special:
            return None
        sizes = tuple(size for size in operand.shape or () if isinstance(size, int) and size >= 0)
        return None if operand.shape is None or len(sizes) < len(operand.shape) else sizes

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


def _laid_over(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...] | None:
    """The sizes of two tensors laid over each other, None where they do not fit."""
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    sizes = [second if first == 1 else first if second in (1, first) else None for first, second in pairs]
    found = tuple(size for size in sizes if size is not None)
    return found if len(found) == rank else None


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
