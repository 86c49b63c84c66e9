"""Gaussian expectations of piecewise polynomials in closed form: rectifiers, clipped and hard activations.

Source: theory 3.3.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from gnelint.records import dataclass
from gnelint.theory.gaussian.special import normal_cdf, normal_pdf

Polynomial = Sequence[np.ndarray]
"""Coefficients by ascending power, each an array (or a number) that broadcasts to the cells."""


@dataclass(frozen=True)
class Piece:
    """c[0] + c[1] z + c[2] z^2 on low < z <= high."""

    low: float
    high: float
    coefficients: tuple[np.ndarray | float, ...]


def _product(left: Polynomial, right: Polynomial) -> list[np.ndarray]:
    result = [np.zeros(1) for _ in range(len(left) + len(right) - 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            result[i + j] = result[i + j] + a * b
    return result


def _truncated_moments(a: np.ndarray, b: np.ndarray, degree: int) -> list[np.ndarray]:
    """int_a^b t^k pdf(t) dt for k = 0..degree; a and b may be infinite.

    I_0 = Phi(b) - Phi(a), I_1 = pdf(a) - pdf(b), I_k = (k - 1) I_{k-2} + a^{k-1} pdf(a) - b^{k-1} pdf(b).
    """
    pdf_a, pdf_b = normal_pdf(a), normal_pdf(b)
    finite_a, finite_b = np.where(np.isfinite(a), a, 0.0), np.where(np.isfinite(b), b, 0.0)
    upper = a > 0  # there the difference of upper tails loses no digits
    mass = np.where(upper, normal_cdf(-a) - normal_cdf(-b), normal_cdf(b) - normal_cdf(a))
    moments = [mass, pdf_a - pdf_b]
    for k in range(2, degree + 1):
        moments.append((k - 1) * moments[k - 2] + finite_a ** (k - 1) * pdf_a - finite_b ** (k - 1) * pdf_b)
    return moments[: degree + 1]


def piecewise_expectation(pieces: Sequence[Piece], power: int, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """E f(z)^power for z ~ N(mean, variance), f given by its pieces.

    A variance of 0 is the limit, with the value at a kink taken from the piece on its left (as relu'(0) = 0).
    """
    deviation = np.sqrt(np.maximum(variance, 0.0))
    still = deviation == 0
    safe = np.where(still, 1.0, deviation)
    total = np.zeros(np.broadcast_shapes(mean.shape, *(np.shape(c) for p in pieces for c in p.coefficients)))
    for piece in pieces:
        c = [np.asarray(coefficient, dtype=np.float64) for coefficient in piece.coefficients]
        c += [np.zeros(1)] * (3 - len(c))
        inside = still & (mean > piece.low) & (mean <= piece.high)
        value = (c[0] + c[1] * mean + c[2] * mean**2) ** power
        in_t = [c[0] + c[1] * mean + c[2] * mean**2, (c[1] + 2 * c[2] * mean) * safe, c[2] * safe**2]
        degree = max((k for k in range(3) if c[k].any()), default=0)
        raised: Polynomial = [np.ones(1)]
        for _ in range(power):
            raised = _product(raised, in_t[: degree + 1])
        low = np.full_like(safe, -math.inf) if math.isinf(piece.low) else (piece.low - mean) / safe
        high = np.full_like(safe, math.inf) if math.isinf(piece.high) else (piece.high - mean) / safe
        moments = _truncated_moments(low, high, len(raised) - 1)
        smooth = sum((factor * moment for factor, moment in zip(raised, moments, strict=True)), np.zeros(1))
        total = total + np.where(still, np.where(inside, value, 0.0), smooth)
    return np.asarray(total)


def piecewise_value(pieces: Sequence[Piece], z: np.ndarray) -> np.ndarray:
    """f of values that have one axis more, the last, than coefficients have."""
    found = np.zeros(z.shape)
    for piece in pieces:
        value = sum(
            (np.asarray(c, dtype=np.float64)[..., None] * z**power for power, c in enumerate(piece.coefficients)),
            np.zeros(1),
        )
        found = np.where((z > piece.low) & (z <= piece.high), value, found)
    return found


def derivative(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """f' piece by piece (jumps are left out)."""
    return tuple(
        Piece(p.low, p.high, tuple(k * np.asarray(c) for k, c in enumerate(p.coefficients) if k > 0) or (0.0,))
        for p in pieces
    )


_LOWEST, _HIGHEST, _PLACES = -6.0, 30.0, 4096
_PLACE = (_HIGHEST - _LOWEST) / (_PLACES - 1)


def _rectified(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E max(z, 0), E max(z, 0)^2 and P(z > 0) of z ~ N(t, 1)."""
    above = normal_cdf(t)
    first = t * above + normal_pdf(t)
    return first, above + t * first, above


@cache
def _ratios() -> tuple[np.ndarray, np.ndarray]:
    """t, and E[max(z, 0)]^2 / E[max(z, 0)^2] there, which grows with t."""
    t = np.linspace(_LOWEST, _HIGHEST, _PLACES)
    first, second, _ = _rectified(t)
    return t, np.maximum.accumulate(first**2 / np.maximum(second, 1e-300))


def rectified_source(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of the Gaussian z for which max(z, 0) has this mean and variance (by Newton's method on t = mu
    / sd, from a table)."""
    ratio = np.divide(mean**2, variance + mean**2, out=np.ones_like(mean), where=variance + mean**2 > 0)
    places, ratios = _ratios()
    t = np.interp(ratio, ratios, places)
    for _ in range(4):
        first, second, above = _rectified(t)
        second = np.maximum(second, 1e-300)
        slope = 2.0 * first * (above * second - first**2) / second**2
        step = np.divide(first**2 / second - ratio, slope, out=np.zeros_like(t), where=slope > 0)
        t = np.clip(t - np.clip(step, -_PLACE, _PLACE), _LOWEST, _HIGHEST)
    scale = mean / np.maximum(_rectified(t)[0], 1e-300)
    return t * scale, scale


def gaussian_share(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """P(x > 0) for x ~ N(mean, variance); a constant 0 is not above 0, as in relu'(0) = 0."""
    if (variance <= 0).any():
        return piecewise_expectation((Piece(0.0, math.inf, (1.0,)),), 1, mean, variance)
    return normal_cdf(mean / np.sqrt(variance))
