"""Unsigned integers, for which torch has few operators, as signed ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.table import CannotRunError

_SAME_WIDTH = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def on_bits(apply: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """apply(*operands) for an operation that does the same to the bits of signed and of unsigned integers."""
    dtype = operands[0].dtype
    if dtype not in _SAME_WIDTH:
        return apply(*operands)
    return apply(*(operand.view(_SAME_WIDTH[dtype]) for operand in operands)).view(dtype)


def widened(x: Tensor) -> Tensor:
    """The same numbers in a signed type; types that torch has operators for stay as they are.

    Raises:
        CannotRunError: a number of 2^63 or more.
    """
    if x.dtype not in _WIDER:
        return x
    wide = x.to(_WIDER[x.dtype])
    if x.dtype is torch.uint64 and bool((wide < 0).any()):
        raise CannotRunError("unsigned integers of 2^63 and more")
    return wide
