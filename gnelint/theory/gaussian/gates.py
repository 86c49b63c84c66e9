"""Averages of a gate over a Gaussian pre-activation: of tanh, of the logistic function through it, of the rectifier.

Those of tanh are sums over a grid of equal steps, which for analytic functions that vanish at both ends are exact but
for e^{-2 pi d / step}, d the distance of the nearest pole: tanh has one at i pi / 2. Below a deviation of 1 the grid is
one of the normal density; above it one of the pre-activation itself, over what tanh differs by from a function with a
closed form, so that however wide the density is, no more points are taken. A gate inside of tanh is one more integral,
over a grid of the gate's own pre-activation. Source: theory 3.8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from gnelint.records import dataclass
from gnelint.theory.gaussian.special import erf, normal_cdf, normal_pdf

_STEP, _SPAN, _REACH = 0.32, 6.4, 10.24
"""Of both grids the step; how far they go, in deviations and in units of tanh's argument: 1e-9 is left out."""
_SLOPE = 0.8
"""Of the error function that tanh is compared with; any number of this size does."""
_CHUNK = 1024
"""Entries at a time: their grids stay in the cache."""
_FEW, _FEW_BELOW, _GATE_SPAN = 5, 0.8, 4.5
"""Points of a gate inside of tanh, and the deviation of its pre-activation below which so few do: 1e-4 is left out. A
wider one takes steps of half a deviation, or of 1 where that is less, up to so many deviations."""


@dataclass(frozen=True)
class Averages:
    """Of f(z), z ~ N(mean, variance), entry by entry.

    Attributes:
        first, second: E f and E f^2.
        slope, square: E f' and E f'^2.
    """

    first: np.ndarray
    second: np.ndarray
    slope: np.ndarray
    square: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Var f."""
        return np.asarray(np.maximum(self.second - self.first**2, 0.0))


def tanh_averages(mean: np.ndarray, variance: np.ndarray) -> Averages:
    """f = tanh: f' = 1 - f^2, so E f, E f^2 and E f^4 say all."""
    first, second, fourth = _by_width(mean, variance, 3, _narrow, _wide)
    return Averages(first, second, 1.0 - second, np.maximum(1.0 - 2.0 * second + fourth, 0.0))


_Sums = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]


def _by_width(mean: np.ndarray, variance: np.ndarray, count: int, narrow: _Sums, wide: _Sums) -> np.ndarray:
    """So many averages, from mean and deviation, of entries that deviate by less than 1 and of the others."""
    flat, deviation = np.ravel(mean).astype(np.float64), np.sqrt(np.ravel(variance).astype(np.float64))
    found = np.empty((count, flat.size))
    is_narrow = deviation < 1.0  # what is not a number goes the other way and stays one
    for part, averages in ((np.flatnonzero(is_narrow), narrow), (np.flatnonzero(~is_narrow), wide)):
        for start in range(0, part.size, _CHUNK):
            chosen = part[start : start + _CHUNK]
            found[:, chosen] = averages(flat[chosen], deviation[chosen])
    return found.reshape(count, *np.shape(mean))


@cache
def _grid(end: float) -> np.ndarray:
    count = round(end / _STEP)
    return np.arange(-count, count + 1) * _STEP


@cache
def _normal_weights() -> np.ndarray:
    weights = normal_pdf(_grid(_SPAN))
    return np.asarray(weights / weights.sum())


@cache
def _apart() -> np.ndarray:
    """tanh, its square and its fourth power less erf, 1 and 1, times the step, on the argument's grid: (point, 3)."""
    w = _grid(_REACH)
    tanh = np.tanh(w)
    return np.stack([tanh - erf(_SLOPE * w), tanh**2 - 1.0, tanh**4 - 1.0], axis=1) * _STEP


def _narrow(mean: np.ndarray, deviation: np.ndarray) -> Sequence[np.ndarray]:
    weights = _normal_weights()
    first = np.tanh(mean[:, None] + deviation[:, None] * _grid(_SPAN))
    second = first * first
    return first @ weights, second @ weights, (second * second) @ weights


def _wide(mean: np.ndarray, deviation: np.ndarray) -> Sequence[np.ndarray]:
    density = normal_pdf((_grid(_REACH) - mean[:, None]) / deviation[:, None])
    first, second, fourth = (density @ _apart()).T / deviation
    return erf(_SLOPE * mean / np.sqrt(1.0 + 2.0 * (_SLOPE * deviation) ** 2)) + first, 1.0 + second, 1.0 + fourth


def gate_averages(mean: np.ndarray, variance: np.ndarray, logistic: Sequence[bool]) -> list[Averages]:
    """Of each gate, from arrays (batch, gate, unit): f = 1 / (1 + e^-z) = (1 + tanh(z / 2)) / 2, or tanh.

    All are taken at once: many entries cost little more than a few.
    """
    half = np.where(logistic, 0.5, 1.0)[:, None]
    whole = tanh_averages(half * mean, half**2 * variance)
    found = []
    for gate, is_logistic in enumerate(logistic):
        t = Averages(*(array[:, gate] for array in (whole.first, whole.second, whole.slope, whole.square)))
        found.append(_logistic(t) if is_logistic else t)
    return found


def _logistic(t: Averages) -> Averages:
    second = 0.25 * (1.0 + 2.0 * t.first + t.second)
    return Averages(0.5 * (1.0 + t.first), second, 0.25 * t.slope, t.square / 16.0)


def relu_averages(mean: np.ndarray, variance: np.ndarray) -> Averages:
    """f = max(z, 0) in closed form (theory 3.3); a constant 0 is not above 0."""
    deviation = np.sqrt(variance)
    t = np.divide(mean, deviation, out=np.where(mean > 0, np.inf, -np.inf), where=deviation > 0)
    share, edge = normal_cdf(t), deviation * normal_pdf(t)
    first = mean * share + edge
    return Averages(first, (mean**2 + variance) * share + mean * edge, share, share)


@dataclass(frozen=True)
class Gated:
    """Of f = tanh(d + s(a) u), d, u and a independent Gaussians, s the logistic function, entry by entry.

    d + s(a) u is no Gaussian: where the gate is shut f' = 1 - f^2 is large, where it moves a large u makes it small.

    Attributes:
        new: averages of f, its slope with respect to d.
        passed, passed_square: E s f' and E (s f')^2, the slope with respect to u.
        reset: E (s' u f')^2, that with respect to a.
    """

    new: Averages
    passed: np.ndarray
    passed_square: np.ndarray
    reset: np.ndarray


def gated_tanh_averages(
    mean: np.ndarray, variance: np.ndarray, through: tuple[np.ndarray, np.ndarray], gate: tuple[np.ndarray, np.ndarray]
) -> Gated:
    """For d ~ N(mean, variance), u ~ N(*through) and a ~ N(*gate).

    Given a, x = d + s u is Gaussian and u = E u + b (x - E x) + what is independent of x, b = s Var u / Var x.
    """
    (u_mean, u_variance), (a_mean, a_variance) = through, gate
    points, weights = _gate_grid(float(np.sqrt(a_variance.max(initial=0.0))))
    a = a_mean[..., None] + np.sqrt(a_variance)[..., None] * points
    s = 1.0 / (1.0 + np.exp(-a))
    x_mean, x_variance = mean[..., None] + s * u_mean[..., None], variance[..., None] + s**2 * u_variance[..., None]
    f = tanh_averages(x_mean, x_variance)
    along, across = _weighted_slopes(x_mean, x_variance)
    share = np.divide(s * u_variance[..., None], x_variance, out=np.zeros_like(s), where=x_variance > 0)
    rest = u_variance[..., None] * (1.0 - share * s)
    u_square = (u_mean[..., None] ** 2 + rest) * f.square + 2.0 * u_mean[..., None] * share * along + share**2 * across
    return Gated(
        Averages(f.first @ weights, f.second @ weights, f.slope @ weights, f.square @ weights),
        (s * f.slope) @ weights,
        (s**2 * f.square) @ weights,
        ((s * (1.0 - s)) ** 2 * u_square) @ weights,
    )


def _gate_grid(deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of a standard normal for a gate whose pre-activation deviates so far, and their weights."""
    if deviation < _FEW_BELOW:
        points, weights = np.polynomial.hermite_e.hermegauss(_FEW)
    else:
        points = np.arange(-_GATE_SPAN, _GATE_SPAN, min(0.5, 1.0 / deviation))
        weights = normal_pdf(points)
    return points, weights / weights.sum()


def _weighted_slopes(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E (x - E x) f'^2 and E (x - E x)^2 f'^2 of f = tanh."""
    along, across = _by_width(mean, variance, 2, _narrow_slopes, _wide_slopes)
    return along, across


def _narrow_slopes(mean: np.ndarray, deviation: np.ndarray) -> Sequence[np.ndarray]:
    points = _grid(_SPAN)
    square = (1.0 - np.tanh(mean[:, None] + deviation[:, None] * points) ** 2) ** 2
    weights = _normal_weights()
    return deviation * (square @ (weights * points)), deviation**2 * (square @ (weights * points**2))


@cache
def _slopes_by_place() -> np.ndarray:
    """w^k (1 - tanh(w)^2)^2, k = 0, 1, 2, times the step, on the argument's grid: (point, 3)."""
    w = _grid(_REACH)
    return np.asarray((1.0 - np.tanh(w) ** 2)[:, None] ** 2 * w[:, None] ** np.arange(3) * _STEP)


def _wide_slopes(mean: np.ndarray, deviation: np.ndarray) -> Sequence[np.ndarray]:
    density = normal_pdf((_grid(_REACH) - mean[:, None]) / deviation[:, None])
    zeroth, first, second = (density @ _slopes_by_place()).T / deviation
    return first - mean * zeroth, second - 2.0 * mean * first + mean**2 * zeroth
