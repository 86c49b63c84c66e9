"""Between ONNX's data types, the model's stored tensors and torch."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor

from gnelint.ir.graph import Parameter
from gnelint.measure.onnx_on_torch.table import CannotRunError, Datum
from gnelint.onnxfile.types import STRING, dtype_code, dtype_name
from gnelint.records import dataclass

_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32",
        "uint64", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
        "float8_e5m2fnuz",
    )
}  # fmt: skip
_BY_DTYPE = {dtype: name for name, dtype in _DTYPES.items()}
_VIEWED = {"bfloat16": np.int16, "float8_e4m3fn": np.uint8, "float8_e4m3fnuz": np.uint8, "float8_e5m2": np.uint8,
           "float8_e5m2fnuz": np.uint8}  # fmt: skip
"""Types that torch has and numpy has only through ml_dtypes: the bits cross as integers of the same width."""
_NARROW = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8}


@dataclass(frozen=True)
class NarrowIntegers:
    """Integers of fewer than eight bits, which torch does not have, held in eight. They are no tensor, so that no
    kernel takes them for eight bits by accident.

    Attributes:
        dtype: as ONNX calls it.
        tensor: the numbers.
    """

    dtype: str
    tensor: Tensor


def torch_dtype(code: int) -> torch.dtype:
    """The torch type of an ONNX element type.

    Raises:
        CannotRunError: torch has none.
    """
    name = dtype_name(code)
    if name is None or name not in _DTYPES:
        raise CannotRunError(f"tensors of type {name or code}")
    return _DTYPES[name]


def onnx_code(dtype: torch.dtype) -> int:
    """The ONNX element type of a torch type."""
    return dtype_code(_BY_DTYPE[dtype])


def to_torch(array: np.ndarray, dtype: str) -> Datum:
    """A stored array, of this type of the graph, as a tensor of its own memory; text stays a numpy array, integers of
    fewer than eight bits are `NarrowIntegers`.

    Raises:
        CannotRunError: torch has no such type.
    """
    if dtype == STRING:
        return array
    if dtype in _NARROW:
        return NarrowIntegers(dtype, torch.from_numpy(np.asarray(array).astype(_NARROW[dtype])))
    if dtype not in _DTYPES:
        raise CannotRunError(f"tensors of type {dtype}")
    if dtype in _VIEWED:
        bits = np.array(array, order="C").view(_VIEWED[dtype])
        return torch.from_numpy(bits).view(_DTYPES[dtype])
    return torch.from_numpy(np.array(array, dtype=np.dtype(dtype), order="C"))


def parameter_to_torch(parameter: Parameter) -> Datum:
    """A parameter's numbers as a tensor of its own memory.

    Raises:
        CannotRunError: torch has no such type.
    """
    return to_torch(parameter.array(), parameter.dtype)


def proto_to_torch(tensor: onnx.TensorProto) -> Datum:
    """A small tensor of an attribute.

    Raises:
        CannotRunError: torch has no such type, or the tensor is stored outside the model file.
    """
    from onnx import numpy_helper

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise CannotRunError("an attribute that is stored outside the model file")
    return to_torch(numpy_helper.to_array(tensor), dtype_name(tensor.data_type) or str(tensor.data_type))


def type_proto(datum: Datum) -> onnx.TypeProto | None:
    """The ONNX type of a datum; an empty one for None, None for what is no tensor."""
    if datum is None:
        return onnx.TypeProto()
    if not isinstance(datum, Tensor):
        return None
    return onnx.helper.make_tensor_type_proto(onnx_code(datum.dtype), list(datum.shape))
