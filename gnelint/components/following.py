"""What an activation makes of a gradient that follows its output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from gnelint.records import dataclass
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments

MOST_LEAN = 3.0
"""Above this many deviations the average of f' is too small to say where it comes from."""
_FURTHEST = 7.0
"""Deviations beyond which there is nothing of a Gaussian."""

Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray] | None]
"""f and f' of values whose last axis is one that cells do not have; None where they are not known."""


@dataclass(frozen=True)
class _Points:
    """Deviates at which a Gaussian's averages are taken, and the weights of each: along the last axis."""

    deviates: np.ndarray
    weights: np.ndarray

    def average(self, values: np.ndarray) -> np.ndarray:
        """E of what is given at these points."""
        return np.asarray((values * self.weights).sum(axis=-1))


@cache
def _hermite() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    return nodes, weights


@cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(24)
    return nodes, weights


def _points(mean: np.ndarray, deviation: np.ndarray, kinks: Sequence[float]) -> _Points:
    """Exact to rounding for what is smooth between the kinks (Hermite's nodes without any, else Legendre's)."""
    if not kinks:
        nodes, weights = _hermite()
        return _Points(nodes, weights / weights.sum())
    safe = np.where(deviation > 0, deviation, 1.0)[..., None]
    inner = np.clip((np.sort(np.array(kinks)) - mean[..., None]) / safe, -_FURTHEST, _FURTHEST)
    end = np.full((*mean.shape, 1), _FURTHEST)
    ends = np.concatenate([-end, inner, end], axis=-1)
    half, middle = (ends[..., 1:] - ends[..., :-1]) / 2.0, (ends[..., 1:] + ends[..., :-1]) / 2.0
    nodes, weights = _legendre()
    deviates = (middle[..., None] + half[..., None] * nodes).reshape(*mean.shape, -1)
    widths = (half[..., None] * weights).reshape(deviates.shape)
    return _Points(deviates, widths * np.exp(-0.5 * deviates**2) / math.sqrt(2.0 * math.pi))


def following(curve: Curve, kinks: Sequence[float], x: Moments, cotangent: Gradient, pulled: Gradient) -> Gradient:
    """Of a cotangent u (1 + l yhat) of a factor u that positions share, yhat being the output less its mean, in
    deviations: it is large where the slope is.

        energy -> E f'^2 + c [2 l E yhat f'^2 + l^2 (E yhat^2 f'^2 - E f'^2)],   c (E f' + l E yhat f')^2 shared
        lean   -> (E f' zhat + l E yhat f' zhat) / (E f' + l E yhat f')

    Args:
        curve, kinks: the function, and where it or its slope jumps.
        x: its input.
        cotangent: at its output.
        pulled: at its input, as if the cotangent followed nothing.
    """
    g, x = cotangent.refined(pulled.axes), x.refined(pulled.axes)
    if g.axes != pulled.axes or x.axes != pulled.axes:
        return pulled
    deviation = np.sqrt(np.maximum(x.variance, 0.0))
    points = _points(x.mean, deviation, kinks)
    known = curve(x.mean[..., None] + deviation[..., None] * points.deviates)
    if known is None:
        return pulled
    value, slope = known
    mean, second = points.average(value), points.average(value**2)
    spread = np.sqrt(np.maximum(second - mean**2, 0.0))[..., None]
    out = np.divide(value - mean[..., None], spread, out=np.zeros_like(value), where=spread > 0)
    lean, shared = g.lean, np.maximum(g.position_covariance, 0.0)
    square = points.average(slope**2)
    more = 2.0 * lean * points.average(out * slope**2) + lean**2 * (points.average(out**2 * slope**2) - square)
    energy = np.maximum(pulled.energy + shared * more, 0.0)
    once, leant = points.average(slope), points.average(out * slope)
    whole = once + lean * leant
    covariance = pulled.position_covariance + shared * (whole**2 - once**2)
    deviates = points.deviates
    behind = points.average(slope * deviates) + lean * points.average(out * slope * deviates)
    enough = np.abs(whole) > np.abs(behind) / MOST_LEAN
    found = np.divide(behind, whole, out=np.zeros_like(whole), where=enough)
    return replace(pulled, energy=energy, position_covariance=np.minimum(covariance, energy), lean=found)
