"""Lowerings of ai.onnx.ml: what scikit-learn and its kin write around a network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gnelint.onnxfile.weights import literal
from gnelint.readers.emitter import CannotLowerError, axis_of, concrete, rank
from gnelint.readers.lowering import linear
from gnelint.readers.onnx.call import Call
from gnelint.readers.onnx.emitter import Emitter, Lowering, Results


def _scaler(call: Call, em: Emitter) -> Results:
    """(x - offset) scale, along the last axis."""
    y = em.flow(call.need(0))
    for name, operation in (("offset", em.plus), ("scale", em.times)):
        numbers = np.array(call.get(name) or (), np.float32)
        if numbers.size:
            numbers = -numbers if name == "offset" else numbers
            y = operation(y, literal(f"{call.origin.name}/{name}", numbers), y.shape)
    return [em.emit("identity", [y], y.shape, y.dtype)]


def _linear_regressor(call: Call, em: Emitter) -> Results:
    if call.get("post_transform", "NONE") != "NONE":
        raise CannotLowerError("a transform behind it")
    x = em.flow(call.need(0))
    weight = np.array(call.get("coefficients"), np.float32).reshape(call.get("targets", 1), concrete(x)[-1])
    added = call.get("intercepts")
    bias = None if added is None else literal(f"{call.origin.name}/intercepts", np.array(added, np.float32))
    return [linear(em, x, literal(f"{call.origin.name}/coefficients", weight), bias)]


def _normalizer(call: Call, em: Emitter) -> Results:
    if call.get("norm", "MAX") != "L2":
        raise CannotLowerError("another norm than the Euclidean one")
    x = em.flow(call.need(0))
    return [em.emit("l2_normalize", [x], x.shape, x.dtype, axes=(axis_of(-1, rank(x)),))]


def _zip_map(call: Call, em: Emitter) -> Results:
    """The classes' names beside their probabilities: the numbers are the same."""
    x = em.flow(call.need(0))
    return [em.emit("identity", [x], x.shape, x.dtype)]


CLASSICAL_OPS: Mapping[str, Lowering] = {
    "ai.onnx.ml.Scaler": _scaler,
    "ai.onnx.ml.LinearRegressor": _linear_regressor,
    "ai.onnx.ml.Normalizer": _normalizer,
    "ai.onnx.ml.ZipMap": _zip_map,
}
