"""The formulas of operations on numpy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from gnelint.theory.gaussian.special import erf, normal_cdf, normal_pdf


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _clip(x: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    return np.asarray(np.clip(x, -np.inf if low is None else low, np.inf if high is None else high))


def _elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(0.0, x))


NUMPY = SimpleNamespace(
    abs=np.abs, acos=np.arccos, acosh=np.arccosh, asin=np.arcsin, asinh=np.arcsinh, atan=np.arctan, atanh=np.arctanh,
    ceil=np.ceil, clip=_clip, cos=np.cos, cosh=np.cosh, elu=_elu, erf=erf, exp=np.exp, floor=np.floor, log=np.log,
    maximum=np.maximum, minimum=np.minimum, normal_cdf=normal_cdf, normal_pdf=normal_pdf, reciprocal=np.reciprocal,
    round=np.round, sigmoid=logistic, sign=np.sign, sin=np.sin, sinh=np.sinh, softplus=_softplus, sqrt=np.sqrt,
    tan=np.tan, tanh=np.tanh, trunc=np.trunc, where=np.where,
)  # fmt: skip
