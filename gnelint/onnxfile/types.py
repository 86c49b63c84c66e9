"""ONNX's data types by the names that the graph uses."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import onnx

from gnelint.ir.graph import Dim

# element type of onnx.proto -> (name, bits of one stored entry; 0 where the size is not fixed)
_TYPES: dict[int, tuple[str, int]] = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("string", 0), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16), 17: ("float8_e4m3fn", 8),
    18: ("float8_e4m3fnuz", 8), 19: ("float8_e5m2", 8), 20: ("float8_e5m2fnuz", 8), 21: ("uint4", 4), 22: ("int4", 4),
    23: ("float4_e2m1fn", 4), 24: ("float8_e8m0fnu", 8), 25: ("uint2", 2), 26: ("int2", 2),
}  # fmt: skip
_CODES = {name: code for code, (name, _) in _TYPES.items()}

STRING = "string"

_NAMELESS = frozenset({"", "?", "*", "-1", "None"})
"""What exporters write for a free size instead of a name: two axes of them need not be equally long."""


def dtype_name(code: int) -> str | None:
    """The name of an element type, None for one that is not known."""
    return _TYPES[code][0] if code in _TYPES else None


def dtype_code(name: str) -> int:
    """The element type's number in onnx.proto; KeyError for an unknown name."""
    return _CODES[name]


def bits(name: str) -> int:
    """Bits that one entry takes in a file; 0 for strings."""
    return _TYPES[_CODES[name]][1]


def numpy_dtype(name: str) -> np.dtype:
    """The numpy type; ml_dtypes has those that numpy lacks."""
    if name == STRING:
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:
        found: np.dtype = np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
        return found


def tensor_type(shape: Sequence[Dim] | None, dtype: str) -> onnx.TypeProto:
    """The type of a tensor; `shape` None is an unknown rank."""
    found = onnx.TypeProto()
    tensor = found.tensor_type
    tensor.elem_type = _CODES[dtype]
    if shape is not None:
        dims = tensor.shape.dim
        for size in shape:
            if isinstance(size, int):
                dims.add().dim_value = size
            else:
                dims.add().dim_param = size
        if not shape:
            tensor.shape.SetInParent()
    return found


def tensor_shape(found: onnx.TypeProto) -> tuple[Dim | None, ...] | None:
    """The sizes that a tensor type tells: numbers, names, and None for a size that it leaves open."""
    kind = found.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return None
    tensor = getattr(found, kind)
    if not tensor.HasField("shape"):
        return None
    return tuple(_size(dim) for dim in tensor.shape.dim)


def _size(dim: onnx.TensorShapeProto.Dimension) -> Dim | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None  # some exporters write -1 for a free axis
    return None if dim.dim_param in _NAMELESS else str(dim.dim_param)


def element_type(found: onnx.TypeProto) -> str | None:
    """The element type's name; None for sequences, maps and unknown types."""
    kind = found.WhichOneof("value")
    return dtype_name(getattr(found, kind).elem_type) if kind in ("tensor_type", "sparse_tensor_type") else None
