"""The formulas of operations on torch."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_SOFTPLUS_END = 40.0
"""From here on log(1 + exp(x)) and x are the same in float64."""


def _clip(x: Tensor, low: float | None, high: float | None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def _normal_pdf(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)


def _softplus(x: Tensor) -> Any:
    return functional.softplus(x, threshold=_SOFTPLUS_END)


TORCH = SimpleNamespace(
    abs=torch.abs, acos=torch.acos, acosh=torch.acosh, asin=torch.asin, asinh=torch.asinh, atan=torch.atan,
    atanh=torch.atanh, ceil=torch.ceil, clip=_clip, cos=torch.cos, cosh=torch.cosh, elu=functional.elu, erf=torch.erf,
    exp=torch.exp, floor=torch.floor, log=torch.log, maximum=torch.maximum, minimum=torch.minimum,
    normal_cdf=torch.special.ndtr, normal_pdf=_normal_pdf, reciprocal=torch.reciprocal, round=torch.round,
    sigmoid=torch.sigmoid, sign=torch.sign, sin=torch.sin, sinh=torch.sinh, softplus=_softplus, sqrt=torch.sqrt,
    tan=torch.tan, tanh=torch.tanh, trunc=torch.trunc, where=torch.where,
)  # fmt: skip
