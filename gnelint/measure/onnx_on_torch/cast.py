"""Conversions between types."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, Datum, operator

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
_E4M3FN_END = 464.0
"""Halfway between the largest number of float8_e4m3fn, 448, and the next that there would be; it rounds to 448."""


@operator("Cast")
def cast(call: Call, x: Datum) -> Datum:
    """x in another type, named by its number; by its name in the first opsets."""
    to = call.need("to")
    code = onnx.TensorProto.DataType.Value(to) if isinstance(to, str) else to
    if code == onnx.TensorProto.STRING:
        return x if isinstance(x, np.ndarray) else _as_text(call, x)
    return _converted(call, x, call.dtype(code))


@operator("CastLike")
def cast_like(call: Call, x: Datum, target: Datum) -> Datum:
    """x in the type of the target."""
    if isinstance(target, np.ndarray):
        return x if isinstance(x, np.ndarray) else _as_text(call, x)
    return _converted(call, x, target.dtype)


@operator("BitCast")
def bit_cast(call: Call, x: Tensor) -> Tensor:
    """The bits of x read as another type of the same width."""
    to = call.need("to")
    target = torch.float32 if to == onnx.TensorProto.FLOAT else call.dtype(to)
    stands_for_float32 = x.dtype is call.settings.float32 and target.itemsize == torch.float32.itemsize
    bits = x.to(torch.float32) if stands_for_float32 else x
    if bits.element_size() != target.itemsize:
        raise CannotRunError(f"the bits of {bits.dtype} as {target}")
    return bits.view(target).to(call.dtype(to))


def _converted(call: Call, x: Datum, dtype: torch.dtype) -> Tensor:
    if isinstance(x, np.ndarray):
        return _from_text(call, x, dtype)
    if dtype in _FLOAT8 and x.dtype is not dtype:
        return _rounded_to_float8(x, dtype, saturate=bool(call.get("saturate", 1)))
    return x.to(dtype)


def _rounded_to_float8(x: Tensor, dtype: torch.dtype, *, saturate: bool) -> Tensor:
    """x in a type of 8 bits; what is too large becomes the largest number, or else infinite or NaN."""
    if x.requires_grad:
        raise CannotRunError("gradients in 8 bits, in which small ones would become 0")
    wide = x if x.is_floating_point() and x.element_size() > 1 else x.float()
    if saturate:
        end = torch.finfo(dtype).max
        return wide.clamp(-end, end).to(dtype)
    if dtype is torch.float8_e4m3fn:  # which torch saturates, depending on its version
        wide = torch.where(wide.abs() > _E4M3FN_END, torch.nan, wide)
    return wide.to(dtype)


def _from_text(call: Call, text: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The numbers that are written in a text."""
    if dtype is torch.bool:
        raise CannotRunError("text as truth values")
    read = float if dtype.is_floating_point else _integer
    numbers = [read(str(entry)) for entry in text.ravel()]
    return torch.tensor(numbers, device=call.device, dtype=dtype).reshape(text.shape)


def _integer(text: str) -> int:
    """An integer, which may be written with a fraction or an exponent."""
    try:
        return int(text)
    except ValueError:
        return int(float(text))


def _as_text(call: Call, x: Tensor) -> np.ndarray:
    """Numbers written out, as briefly as they can be told from their neighbours."""
    if x.dtype is torch.bool:
        raise CannotRunError("truth values as text")
    exact = x.float() if x.dtype in (call.settings.float32, torch.bfloat16, *_FLOAT8) else x
    written: np.ndarray = exact.detach().cpu().numpy().astype(str).astype(object)
    return written
