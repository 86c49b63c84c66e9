"""Operators that act on each entry: arithmetic, functions of one variable, choices between operands."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.broadcasting import aligned
from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import Datum, operator
from gnelint.measure.onnx_on_torch.unsigned import on_bits, widened

# --- functions of one variable ------------------------------------------------------------------------------------

# (those that are not here have their formula in the vocabulary's records)


@operator("Neg")
def negative(call: Call, x: Tensor) -> Tensor:
    """-x."""
    return torch.neg(x)


@operator("Abs")
def absolute(call: Call, x: Tensor) -> Tensor:
    """|x|."""
    return widened(x).abs().to(x.dtype)


@operator("Sign")
def sign(call: Call, x: Tensor) -> Tensor:
    """-1, 0 or 1."""
    return widened(x).sign().to(x.dtype)


@operator("Erf")
def erf(call: Call, x: Tensor) -> Tensor:
    """erf(x); of integers cut to an integer."""
    return torch.erf(x) if x.is_floating_point() else torch.erf(x.double()).to(x.dtype)


@operator("Erfc")
def complement_of_erf(call: Call, x: Tensor) -> Tensor:
    """1 - erf(x), which tf2onnx writes though the standard has no such operator."""
    return torch.erfc(x)


# --- arithmetic ---------------------------------------------------------------------------------------------------


@operator("Add")
def add(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """a + b, integers modulo 2^bits."""
    return on_bits(torch.add, a, aligned(call, a, b))


@operator("Sub")
def sub(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """a - b, integers modulo 2^bits."""
    return on_bits(torch.sub, a, aligned(call, a, b))


@operator("Mul")
def mul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """a b, integers modulo 2^bits."""
    return on_bits(torch.mul, a, aligned(call, a, b))


@operator("Div")
def div(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """a / b, of integers rounded toward zero."""
    b = aligned(call, a, b)
    if a.is_floating_point():
        return a / b
    return torch.div(widened(a), widened(b), rounding_mode="trunc").to(a.dtype)


@operator("Mod")
def mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """The remainder of a / b: with the sign of b, or under `fmod` with that of a."""
    remainder = torch.fmod if call.get("fmod") else torch.remainder
    return remainder(widened(a), widened(b)).to(a.dtype)


@operator("Pow")
def power(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """a^b in the type of a, whatever the type of b."""
    b = widened(aligned(call, a, b))
    if a.is_floating_point():
        return torch.pow(a, b).to(a.dtype)
    if b.is_floating_point():
        return torch.pow(widened(a).double(), b.double()).to(a.dtype)
    return torch.pow(widened(a).long(), b.long()).to(a.dtype)


@operator("Sum")
def total(call: Call, *operands: Tensor) -> Tensor:
    """The sum of the operands."""
    return reduce(torch.add, operands)


@operator("Max")
def largest(call: Call, *operands: Tensor) -> Tensor:
    """The largest of the operands at each place; NaN where one is."""
    return reduce(torch.maximum, map(widened, operands)).to(operands[0].dtype)


@operator("Min")
def smallest(call: Call, *operands: Tensor) -> Tensor:
    """The smallest of the operands at each place; NaN where one is."""
    return reduce(torch.minimum, map(widened, operands)).to(operands[0].dtype)


# --- choices ------------------------------------------------------------------------------------------------------


@operator("Clip")
def clip_by_attributes(call: Call, x: Tensor) -> Tensor:
    """min(max(x, low), high), the bounds being attributes."""
    low, high = (_within(call.get(name), x.dtype) for name in ("min", "max"))
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Clip", since=11)
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """min(max(x, low), high), the bounds being scalars."""
    bounds = [None if bound is None else widened(bound).reshape(()) for bound in (low, high)]
    return x if bounds == [None, None] else torch.clamp(widened(x), *bounds).to(x.dtype)


def _within(bound: float | None, dtype: torch.dtype) -> float | None:
    """A bound that numbers of this type can reach, None for one that they cannot."""
    return None if bound is None or abs(bound) > torch.finfo(dtype).max else bound


@operator("Where")
def where(call: Call, condition: Tensor, x: Datum, y: Datum) -> Any:
    """x where the condition holds, y elsewhere; x and y may be text."""
    if isinstance(x, np.ndarray):
        return np.where(condition.cpu().numpy(), x, y)
    return torch.where(condition, x, y)


@operator("Dropout")
def dropout(
    call: Call, x: Tensor, ratio: Tensor | None = None, training_mode: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """x, and a mask that keeps all of it: what is measured is the network without noise."""
    if not call.used(1):
        return x
    return x, torch.ones_like(x, dtype=torch.bool if call.version >= 10 else x.dtype)
