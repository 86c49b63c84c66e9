"""The normal distribution's functions, vectorised over numpy arrays.

numpy has none of them and scipy.special takes longer to import than most checks take to run. `erfc` is W. J. Cody's
rational approximation ("Rational Chebyshev approximations for the error function", Math. Comp. 23, 1969), good to about
1e-15; the tests hold it against `math.erfc`.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

SQRT2 = math.sqrt(2.0)
SQRT_2PI = math.sqrt(2.0 * math.pi)

# Cody's coefficients, highest power first: erf on |x| < 0.5, erfc on 0.5..4, erfc beyond 4.
_P1 = (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3)
_Q1 = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_P2 = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1, 2.98635138197400131e2,
    8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
_Q2 = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
    3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip
_P3 = (
    1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
    1.60837851487422766e-2, 6.58749161529837803e-4,
)  # fmt: skip
_Q3 = (
    1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2,
    2.33520497626869185e-3,
)  # fmt: skip


def erfc(x: np.ndarray) -> np.ndarray:
    """1 - erf(x), accurate in relative terms in the upper tail."""
    x = np.asarray(x, dtype=np.float64)
    size = np.abs(x)
    small = np.minimum(size, 0.5) ** 2
    near = 1.0 - np.minimum(size, 0.5) * np.polyval(_P1, small) / np.polyval(_Q1, small)
    middle = np.clip(size, 0.5, 4.0)
    decay = np.exp(-(np.minimum(size, 38.0) ** 2))
    centre = decay * np.polyval(_P2, middle) / np.polyval(_Q2, middle)
    far = np.maximum(size, 4.0)
    inverse = 1.0 / far**2
    series = inverse * np.polyval(_P3, inverse) / np.polyval(_Q3, inverse)
    tail = decay / far * (1.0 / math.sqrt(math.pi) - series)
    positive = np.where(size < 0.5, near, np.where(size < 4.0, centre, tail))
    return np.asarray(np.where(x < 0, 2.0 - positive, positive))


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, accurate in relative terms near 0."""
    x = np.asarray(x, dtype=np.float64)
    small = np.clip(x, -0.5, 0.5)
    near = small * np.polyval(_P1, small**2) / np.polyval(_Q1, small**2)
    return np.where(np.abs(x) < 0.5, near, 1.0 - erfc(x))


def normal_pdf(x: np.ndarray) -> np.ndarray:
    """Density of N(0, 1)."""
    return np.asarray(np.exp(-0.5 * np.square(x)) / SQRT_2PI)


_REACH = 9.0
_STEPS = 8192


_AT_ONCE = 1 << 14
"""Numbers at a time: what is worked out of them stays in the cache."""


@cache
def _cdf_cubics() -> np.ndarray:
    """Of Phi between the nodes of a grid over [-9, 9]: coefficients of 1, t, t^2 and t^3 in a row, t from 0 to 1, by
    the values and the slopes at both ends."""
    nodes = np.linspace(-_REACH, _REACH, _STEPS + 1)
    values, slopes = 0.5 * erfc(-nodes / SQRT2), normal_pdf(nodes) * (2 * _REACH / _STEPS)
    rise, start, end = np.diff(values), slopes[:-1], slopes[1:]
    return np.stack([values[:-1], start, 3.0 * rise - 2.0 * start - end, start + end - 2.0 * rise], axis=1)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """P(Z <= x) for Z ~ N(0, 1), to 1e-13: a cubic between the nodes of a table, since every layer asks for
    thousands."""
    x = np.asarray(x, dtype=np.float64)
    if x.size <= _AT_ONCE:
        return _interpolated(x)
    flat, result = x.reshape(-1), np.empty(x.size)
    for start in range(0, x.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        result[part] = _interpolated(flat[part])
    return result.reshape(x.shape)


def _interpolated(x: np.ndarray) -> np.ndarray:
    place = (np.minimum(np.maximum(x, -_REACH), _REACH) + _REACH) * (_STEPS / (2 * _REACH))
    index = np.fmin(place, _STEPS - 1).astype(np.int32)  # what is not a number has any index, and stays one
    t = place - index
    row = _cdf_cubics().take(index, axis=0)
    found = row[..., 3] * t
    for power in (2, 1):
        found += row[..., power]
        found *= t
    return np.asarray(found + row[..., 0])


def log_normal_cdf(x: np.ndarray) -> np.ndarray:
    """log P(Z <= x), finite far into the lower tail (asymptotic series below -30)."""
    x = np.asarray(x, dtype=np.float64)
    near = np.log(0.5 * erfc(-np.maximum(x, -30.0) / SQRT2))
    far = np.minimum(x, -30.0)
    series = -0.5 * far**2 - np.log(-far * SQRT_2PI) + np.log1p(-1.0 / far**2 + 3.0 / far**4)
    return np.where(x > -30.0, near, series)


def log_gamma(x: np.ndarray) -> np.ndarray:
    """log Gamma(x) of x >= 1, by Stirling's series at x + 6; 12 digits."""
    product = np.ones_like(x)
    for step in range(6):
        product = product * (x + step)
    z = x + 6.0
    series = 1.0 / (12.0 * z) - 1.0 / (360.0 * z**3) + 1.0 / (1260.0 * z**5) - 1.0 / (1680.0 * z**7)
    return np.asarray((z - 0.5) * np.log(z) - z + 0.5 * math.log(2.0 * math.pi) + series - np.log(product))
