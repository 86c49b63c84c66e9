"""Sums, products and quotients: which of them are biases and scales, and which combine two paths.

Operands are `Flow`, `Constant` or plain numbers; every function returns the result as an operand.
"""

from __future__ import annotations

import math

import torch

from gnelint.ir.graph import Parameter
from gnelint.readers.torch.constants import Constant, derived, scalar
from gnelint.readers.torch.emitter import Emitter, Flow, Operand, Shape

Term = Operand | float
"""An operand of arithmetic: a tensor or a number."""


def scale(em: Emitter, x: Operand, factor: float) -> Operand:
    """factor * x; x itself for 1."""
    if factor == 1:
        return x
    if isinstance(x, Constant):
        return derived(torch.mul, x, factor)
    return em.emit("scale", [x], x.shape, factor=float(factor))


def add(em: Emitter, a: Term, b: Term, shape: Shape, alpha: float = 1.0) -> Operand:
    """a + alpha * b, of the broadcast `shape`."""
    if isinstance(a, Flow) and isinstance(b, Flow):
        if a.index == b.index:
            return scale(em, a, 1.0 + alpha)
        if alpha == -1:
            return em.emit("sub", [a, b], shape)
        return em.emit("add", [a, scale(em, b, alpha)], shape)
    if isinstance(a, Flow) and not isinstance(b, Flow):
        return _bias(em, a, b, shape, alpha)
    if isinstance(b, Flow):
        assert not isinstance(a, Flow)
        return _bias(em, em.flow(scale(em, b, alpha)), a, shape, 1.0)
    return derived(torch.add, a, scale(em, b, alpha) if isinstance(b, Constant) else b * alpha)


def _bias(em: Emitter, x: Flow, bias: Constant | float, shape: Shape, factor: float) -> Flow:
    x = em.expand(x, shape)
    if not isinstance(bias, Constant):
        return x if bias == 0 else em.emit("bias", [x], shape, parameters=_number("bias", bias * factor, x.dtype))
    if bias.mask is not None and bias.mask.paired:  # alpha dropout's shift: neutral, as its mask is
        return em.emit("identity", [x], shape)
    parameters = {"bias": bias.compact.parameter()}
    if factor == 1:
        return em.emit("bias", [x], shape, parameters=parameters)
    return em.emit("bias", [x], shape, parameters=parameters, factor=float(factor))


def _number(role: str, value: float, dtype: str) -> dict[str, Parameter | None]:
    return {role: scalar(float(value), dtype if dtype.startswith(("float", "bfloat")) else "float32").parameter()}


def multiply(em: Emitter, a: Term, b: Term, shape: Shape) -> Operand:
    """a * b, of the broadcast `shape`; the square of one tensor is a power, not a product of two."""
    if isinstance(a, Flow) and isinstance(b, Flow):
        if a.index == b.index:
            return em.emit("pow", [a], shape, exponent=2.0)
        return em.emit("mul", [a, b], shape)
    if isinstance(b, Flow):
        return multiply(em, b, a, shape)
    if not isinstance(a, Flow):
        return derived(torch.mul, a, b)
    a = em.expand(a, shape)
    if not isinstance(b, Constant):
        return a if b == 1 else em.emit("scale", [a], shape, factor=float(b))
    if b.mask is not None and b.mask.is_dropout:
        return em.emit("dropout", [a], shape, p=1.0 - b.mask.kept, alpha=b.mask.paired)
    if b.mask is not None and b.mask.removes:
        return scale(em, _removed(em, a, 1.0 - b.mask.kept, b.compact.shape), b.mask.factor)
    return em.emit("scale", [a], shape, parameters={"scale": b.compact.parameter()})


def _removed(em: Emitter, x: Flow, share: float, mask: Shape) -> Flow:
    """x without this share of its entries; the mask has the shape `mask`."""
    first = len(x.shape) - len(mask)
    alike = tuple(index for index in range(1, len(x.shape)) if index < first or mask[index - first] == 1)
    return em.emit("dropout", [x], x.shape, p=share, inverted=False, alike=alike)


def divide(em: Emitter, a: Term, b: Term, shape: Shape) -> Operand:
    """a / b, of the broadcast `shape`."""
    if isinstance(b, Flow):
        if isinstance(a, Flow):
            return em.emit("div", [a, b], shape)
        return multiply(em, em.emit("reciprocal", [b], b.shape), a, shape)
    if not isinstance(a, Flow):
        return derived(torch.div, a, b)
    a = em.expand(a, shape)
    if isinstance(b, Constant):
        return em.emit("scale", [a], shape, parameters={"scale": b.compact.parameter()}, reciprocal=True)
    return multiply(em, a, 1.0 / b if b else math.inf, shape)
