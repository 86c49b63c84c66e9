"""ONNX operators on numpy arrays: those that exporters compute shapes, masks and weights with.

Everything else runs in onnx's own reference evaluator, which is slow to import and so imported only then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from gnelint.onnxfile.types import dtype_name, numpy_dtype
from gnelint.readers.onnx.call import Call

MAX_RANGE = 1 << 24
"""Entries of the longest range that is written out."""

Arrays = Sequence[np.ndarray | None]
NumpyOp = Callable[[Call, Arrays], Sequence[np.ndarray]]


def _array(arrays: Arrays, index: int) -> np.ndarray:
    found = arrays[index] if index < len(arrays) else None
    if found is None:
        raise ValueError(f"input {index} is left out")
    return found


def _optional(arrays: Arrays, index: int) -> np.ndarray | None:
    return arrays[index] if index < len(arrays) else None


def _ufunc(function: Callable[..., Any]) -> NumpyOp:
    def run(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
        if call.get("broadcast") is not None:
            raise ValueError("legacy broadcasting")
        operands = [_array(arrays, index) for index in range(len(arrays))]
        result = np.asarray(function(*operands))
        comparison = result.dtype == np.bool_
        return [result if comparison else result.astype(operands[0].dtype, copy=False)]

    return run


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.issubdtype(a.dtype, np.integer):  # ONNX truncates towards zero
        quotient = np.floor_divide(np.abs(a), np.abs(b))
        return np.asarray(np.sign(a) * np.sign(b) * quotient)
    return np.asarray(a / b)


def _variadic(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> NumpyOp:
    def run(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
        result = _array(arrays, 0)
        for index in range(1, len(arrays)):
            result = function(result, _array(arrays, index))
        return [result]

    return run


def _where(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    return [np.where(_array(arrays, 0), _array(arrays, 1), _array(arrays, 2))]


def _shaped(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    shape = call.shape
    if shape is None:
        raise ValueError("unknown shape")
    return [_array(arrays, 0).reshape([int(size) for size in shape])]


def _transpose(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    return [_array(arrays, 0).transpose(call.get("perm"))]


def _concat(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    return [np.concatenate([_array(arrays, index) for index in range(len(arrays))], axis=call.get("axis", 1))]


def _gather(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    return [np.take(_array(arrays, 0), _array(arrays, 1), axis=call.get("axis", 0))]


def _slice(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    data = _array(arrays, 0)
    if "starts" in call.attributes:
        starts, ends = call.get("starts"), call.get("ends")
        axes, steps = call.get("axes") or range(len(starts)), [1] * len(starts)
    else:
        starts, ends = _array(arrays, 1).tolist(), _array(arrays, 2).tolist()
        given_axes, given_steps = _optional(arrays, 3), _optional(arrays, 4)
        axes = range(len(starts)) if given_axes is None else given_axes.tolist()
        steps = [1] * len(starts) if given_steps is None else given_steps.tolist()
    selection = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        beyond = step < 0 and end < -data.shape[axis]  # numpy would count from the end again
        selection[axis] = slice(start, None if beyond else end, step)
    return [data[tuple(selection)]]


def _split(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    data, axis = _array(arrays, 0), call.get("axis", 0)
    sizes = [int((output.shape or ())[axis]) for output in call.outputs]
    if sum(sizes) != data.shape[axis]:
        raise ValueError("split sizes do not add up")
    return np.split(data, np.cumsum(sizes)[:-1], axis=axis)


def _cast(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    name = dtype_name(call.get("to"))
    if name is None or name == "string":
        raise ValueError("cast to text")
    return [_array(arrays, 0).astype(numpy_dtype(name))]


def _expand(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    data, shape = _array(arrays, 0), [int(size) for size in _array(arrays, 1)]
    return [np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(shape)))]


def _tile(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    return [np.tile(_array(arrays, 0), _array(arrays, 1))]


def _range(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    start, limit, delta = (_array(arrays, index).reshape(-1)[0] for index in range(3))
    if abs(float(limit) - float(start)) > MAX_RANGE * abs(float(delta)):
        raise ValueError("a range that is too long")
    return [np.arange(start, limit, delta, dtype=_array(arrays, 0).dtype)]


def _reduce(function: Callable[..., Any]) -> NumpyOp:
    def run(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
        data, given = _array(arrays, 0), _optional(arrays, 1)
        axes = call.get("axes") if given is None else tuple(given.tolist())
        if not axes and call.get("noop_with_empty_axes", 0):
            return [data]
        result = function(data, axis=tuple(axes) if axes else None, keepdims=bool(call.get("keepdims", 1)))
        return [np.asarray(result).astype(data.dtype, copy=False)]

    return run


def _trilu(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    k = _optional(arrays, 1)
    function = np.triu if call.get("upper", 1) else np.tril
    return [function(_array(arrays, 0), 0 if k is None else int(k))]


def _dequantize(call: Call, arrays: Arrays) -> Sequence[np.ndarray]:
    """(x - zero_point) * scale, per tensor, per axis or per block of an axis."""
    data, scale, zero = _array(arrays, 0), _array(arrays, 1), _optional(arrays, 2)
    axis, block = call.get("axis", 1), call.get("block_size", 0)
    if scale.ndim == 1 and data.ndim != 1 and scale.size > 1:
        shape = [1] * data.ndim
        shape[axis] = scale.size
        scale, zero = scale.reshape(shape), None if zero is None else zero.reshape(shape)
    elif block:
        count = data.shape[axis]
        scale = np.repeat(scale, block, axis=axis).take(range(count), axis=axis)
        zero = None if zero is None else np.repeat(zero, block, axis=axis).take(range(count), axis=axis)
    number = scale.astype(np.float32)
    shifted = data.astype(np.float32) if zero is None else data.astype(np.float32) - zero.astype(np.float32)
    dtype = np.float32 if call.dtype is None else numpy_dtype(call.dtype)
    return [(shifted * number).astype(dtype, copy=False)]


def _sum_of_squares(data: np.ndarray, **where: Any) -> Any:
    return np.sum(data * data, **where)


def _l2(data: np.ndarray, **where: Any) -> Any:
    return np.sqrt(np.sum(data * data, **where))


NUMPY_OPS: Mapping[str, NumpyOp] = {
    "Add": _ufunc(np.add),
    "Sub": _ufunc(np.subtract),
    "Mul": _ufunc(np.multiply),
    "Div": _ufunc(_divide),
    "Pow": _ufunc(np.power),
    "Sqrt": _ufunc(np.sqrt),
    "Neg": _ufunc(np.negative),
    "Abs": _ufunc(np.abs),
    "Exp": _ufunc(np.exp),
    "Log": _ufunc(np.log),
    "Reciprocal": _ufunc(lambda x: 1 / x),
    "Floor": _ufunc(np.floor),
    "Ceil": _ufunc(np.ceil),
    "Sin": _ufunc(np.sin),
    "Cos": _ufunc(np.cos),
    "Equal": _ufunc(np.equal),
    "Less": _ufunc(np.less),
    "LessOrEqual": _ufunc(np.less_equal),
    "Greater": _ufunc(np.greater),
    "GreaterOrEqual": _ufunc(np.greater_equal),
    "And": _ufunc(np.logical_and),
    "Or": _ufunc(np.logical_or),
    "Not": _ufunc(np.logical_not),
    "MatMul": _ufunc(np.matmul),
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Sum": _variadic(np.add),
    "Where": _where,
    "Reshape": _shaped,
    "Squeeze": _shaped,
    "Unsqueeze": _shaped,
    "Flatten": _shaped,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Cast": _cast,
    "Expand": _expand,
    "Tile": _tile,
    "Range": _range,
    "Trilu": _trilu,
    "ReduceSum": _reduce(np.sum),
    "ReduceMean": _reduce(np.mean),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceL2": _reduce(_l2),
    "ReduceSumSquare": _reduce(_sum_of_squares),
    "DequantizeLinear": _dequantize,
}


def reference(call: Call, version_of: Mapping[str, int], arrays: Arrays) -> Sequence[np.ndarray]:
    """Run one operation in onnx's reference evaluator."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = ["" if array is None else f"x{index}" for index, array in enumerate(arrays)]
    outputs = [name and f"y{index}" for index, name in enumerate(call.output_names)]
    node = onnx.NodeProto(op_type=call.op_type, domain=call.domain, input=names, output=outputs)
    for attribute in call.attributes.values():
        node.attribute.append(attribute)
    inputs = [helper.make_empty_tensor_value_info(name) for name in names if name]
    graph = helper.make_graph(
        [node], "constant", inputs, [helper.make_empty_tensor_value_info(o) for o in outputs if o]
    )
    domains = [
        helper.make_opsetid(domain, version) for domain, version in {**version_of, call.domain: call.version}.items()
    ]
    model = helper.make_model(graph, opset_imports=domains)
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if name}
    found = iter(ReferenceEvaluator(model).run(None, feeds))
    return [np.asarray(next(found)) if name else np.zeros(0) for name in outputs]
