"""The lowering table: which ONNX operators become which canonical operations, by records or by lowerings of their own.

An operator that is not here, or whose use is outside what its lowering covers, becomes an `unmodelled` node, unless the
standard defines it by simpler operators (`DECOMPOSED`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gnelint.ir.graph import Parameter
from gnelint.onnxfile.weights import literal
from gnelint.ops import VOCABULARY
from gnelint.ops.record import OnnxForm, Scalar
from gnelint.readers.emitter import CannotLowerError
from gnelint.readers.onnx.call import Call
from gnelint.readers.onnx.emitter import Emitter, Lowering, Results
from gnelint.readers.onnx.fold import SIZES
from gnelint.readers.onnx.ops.classical import CLASSICAL_OPS
from gnelint.readers.onnx.ops.contrib import CONTRIB_OPS
from gnelint.readers.onnx.ops.linear import LINEAR_OPS
from gnelint.readers.onnx.ops.quantized import QUANTIZED_OPS
from gnelint.readers.onnx.ops.recurrent import RECURRENT_OPS
from gnelint.readers.onnx.ops.selection import SELECTION_OPS
from gnelint.readers.onnx.ops.shape import SHAPE_OPS
from gnelint.readers.onnx.ops.units import UNIT_OPS
from gnelint.readers.tables import once


def _as_recorded(op: str, form: OnnxForm) -> Lowering:
    """The operation with the attributes of the ONNX node, as its record says."""
    record = VOCABULARY[op]

    def lower(call: Call, em: Emitter) -> Results:
        attributes = dict(form.given)
        for ours, theirs in form.attributes.items():
            attributes[ours] = call.get(theirs, form.defaults.get(ours, record.attributes[ours]))
            if attributes[ours] is ...:
                raise CannotLowerError(f"{theirs} is missing")
        operands = [call.need(index) for index in range(form.inputs or len(call.inputs))]
        shape = operands[0].shape if call.shape is None and isinstance(record.function, Scalar) else call.shape
        return [em.emit(op, operands, shape, call.dtype, **attributes)]

    return lower


LOWERINGS: Mapping[str, Lowering] = once(
    {form.op_type: _as_recorded(name, form) for name, record in VOCABULARY.items() for form in record.onnx or ()},
    LINEAR_OPS,
    UNIT_OPS,
    SHAPE_OPS,
    SELECTION_OPS,
    RECURRENT_OPS,
    CONTRIB_OPS,
    CLASSICAL_OPS,
    QUANTIZED_OPS,
)

DECOMPOSED = frozenset({"RotaryEmbedding", "SwiGLU", "CenterCropPad", "SoftmaxCrossEntropyLoss",
                        "NegativeLogLikelihoodLoss", "MeanVarianceNormalization", "AffineGrid"})  # fmt: skip
"""Operators read through the definition that the standard gives for them."""


def shape_constant(call: Call, name: str) -> Parameter | None:
    """The output of Shape and Size, which needs no numbers of its input; None for other operators."""
    if call.domain or call.op_type not in ("Shape", "Size") or not call.inputs or call.inputs[0] is None:
        return None
    x = call.inputs[0]
    shape = x.shape if isinstance(x, Parameter) else x.concrete_shape
    if shape is None:
        return None
    sizes = np.prod(shape, dtype=np.int64) if call.op_type == "Size" else shape[call.get("start", 0) : call.get("end")]
    return replace(literal(name, np.array(sizes, np.int64)), transform=SIZES)
