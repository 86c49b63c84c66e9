"""Comparisons, logic and bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.broadcasting import aligned
from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import Datum, Kernel, operator
from gnelint.measure.onnx_on_torch.unsigned import on_bits, widened

Binary = Callable[[Tensor, Tensor], Tensor]

_COMPARISONS: dict[str, Binary] = {
    "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
}  # fmt: skip
_CONNECTIVES: dict[str, Binary] = {"And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor}
_BITWISE: dict[str, Binary] = {
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip


def _comparison(compare: Binary) -> Kernel:
    """The kernel of a comparison."""

    def kernel(call: Call, a: Tensor, b: Tensor) -> Tensor:
        return compare(widened(a), widened(aligned(call, a, b)))

    return kernel


def _bitwise(combine: Binary) -> Kernel:
    """The kernel of an operator on bits."""

    def kernel(call: Call, a: Tensor, b: Tensor) -> Tensor:
        return on_bits(combine, a, b)

    return kernel


for _name, _apply in (_COMPARISONS | _CONNECTIVES).items():
    operator(_name)(_comparison(_apply))
for _name, _apply in _BITWISE.items():
    operator(_name)(_bitwise(_apply))


@operator("Equal")
def equal(call: Call, a: Datum, b: Datum) -> Tensor:
    """Whether a = b; a and b may be text."""
    if isinstance(a, np.ndarray):
        return torch.as_tensor(np.asarray(a == b, dtype=bool), device=call.device)
    return torch.eq(a, aligned(call, a, b))


@operator("Not")
def negation(call: Call, x: Tensor) -> Tensor:
    """Whether x is false."""
    return torch.logical_not(x)


@operator("BitwiseNot")
def complement(call: Call, x: Tensor) -> Tensor:
    """x with every bit flipped."""
    return on_bits(torch.bitwise_not, x)


@operator("BitShift")
def bit_shift(call: Call, x: Tensor, by: Tensor) -> Tensor:
    """x 2^by, or floor(x / 2^by), in the bits of the type; shifted by all of them or more, only the sign remains."""
    width = 8 * x.element_size()
    distance = by.long()  # 2^63 and more turn negative, which counts as too far as well
    too_far = (distance < 0) | (distance >= width)
    near = torch.where(too_far, 0, distance)
    wide = x.long()
    if call.need("direction") == "LEFT":
        return torch.where(too_far, 0, wide << near).to(x.dtype)
    shifted = wide >> near
    if x.dtype is torch.uint64:  # int64 has drawn its sign along
        drawn = torch.full_like(near, -1) << (width - near.clamp(min=1))
        shifted = torch.where(near > 0, shifted & ~drawn, shifted)
    sign = (wide < 0).long().neg() if x.dtype.is_signed else 0
    return torch.where(too_far, sign, shifted).to(x.dtype)


@operator("IsNaN")
def is_nan(call: Call, x: Tensor) -> Tensor:
    """Whether x is not a number."""
    return torch.isnan(x.float() if x.element_size() == 1 else x)


@operator("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    """Whether x is infinite, of the signs that the attributes name."""
    wide = x.float() if x.element_size() == 1 else x
    positive = torch.isposinf(wide) & bool(call.get("detect_positive"))
    negative = torch.isneginf(wide) & bool(call.get("detect_negative"))
    return positive | negative
