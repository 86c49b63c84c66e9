"""Expectations under a Gaussian, for whole arrays of means and variances at once.

Source: theory 3.3.2: Gauss-Hermite is right for smooth functions at moderate variance
only; elsewhere composite Gauss-Legendre, panels broken at the kinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np

from gnelint.records import cached_property, dataclass

Function = Callable[[np.ndarray], np.ndarray]
Functions = Sequence[Function] | Callable[[np.ndarray], Iterable[np.ndarray]]

SPAN = 8.0
"""Half-width of the integration interval in standard deviations: the mass outside is 1e-15."""

GRIDS = (128, 1024, 2048, 8192)
"""Panels of the grids for functions of which nothing is known, tried one after the other."""
POINTS = 8
"""Of each panel."""
INTERPOLATED = 512
"""Gaussians from which on their averages may be interpolated; fewer are integrated one by one."""
BENT = 20.0
"""So many scales from 0 tanh, sigmoid, erf and their like are their limits to 1e-8."""
_CHUNK = 4096
"""Gaussians whose averages are interpolated at once."""
_WIDE = 4.0
"""Above this width in scales a Gaussian is cut where the functions bend."""


@cache
def _hermite(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return points, weights / math.sqrt(2.0 * math.pi)


@cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a panel on [-1, 1]."""
    points, weights = np.polynomial.legendre.leggauss(POINTS)
    return points, weights


@cache
def panels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of composite Gauss-Legendre on [-SPAN, SPAN] times the standard normal density."""
    points, weights = _legendre()
    edges = np.linspace(-SPAN, SPAN, count + 1)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    centre = (edges[1:] + edges[:-1])[:, None] / 2
    grid = (centre + half * points).reshape(-1)
    return grid, (half * weights).reshape(-1) * np.exp(-0.5 * grid**2) / math.sqrt(2.0 * math.pi)


def smooth_expectations(
    functions: Functions, mean: np.ndarray, variance: np.ndarray, scale: float = 1.0, *, settled: bool = False
) -> tuple[np.ndarray, ...]:
    """E f(z), z ~ N(mean, variance), entry by entry, for smooth functions that vary over lengths of about `scale`.

    Args:
        functions: each takes and returns an array; or one that returns an array for each, where they share work.
        mean, variance: arrays of one shape; a variance of 0 gives f(mean).
        scale: the shortest length over which the functions bend (1 for tanh or sigmoid).
        settled: whether the functions are polynomials beyond `BENT` scales from 0, up to rounding: wide Gaussians then
            take no more points than narrow ones.

    Returns:
        One array for each function, of the shape of `mean`; relative error below 1e-7 for variances up to 100 scale^2.
    """
    mean, variance = np.asarray(mean, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    deviation = np.sqrt(variance)
    flat_mean, flat_deviation = mean.reshape(-1), deviation.reshape(-1)
    grid = _grid(flat_mean, flat_deviation, scale)
    if grid is None:
        results = _integrate(functions, flat_mean, flat_deviation, scale, settled)
    else:
        nodes = np.meshgrid(*(axis.nodes for axis in grid), indexing="ij")
        coarse = _integrate(functions, nodes[0].reshape(-1), nodes[1].reshape(-1), scale, settled)
        results = _interpolated(*grid, coarse, flat_mean, flat_deviation)
    return tuple(result.reshape(mean.shape) for result in results)


def _integrate(
    functions: Functions, mean: np.ndarray, deviation: np.ndarray, scale: float, settled: bool
) -> list[np.ndarray]:
    widest = float(deviation.max(initial=0.0)) / scale
    if settled and widest > _WIDE:
        step = 512  # the chunk stays in the cache
        parts = [slice(start, start + step) for start in range(0, mean.size, step)]
        found = [_integrate_around_zero(functions, mean[part], deviation[part], scale) for part in parts]
        return [np.concatenate(columns) for columns in zip(*found, strict=True)]
    points, weights = _hermite(48) if widest <= 0.75 else panels(min(math.ceil(2 * SPAN * max(widest, 1.0)), 4000))
    step = max(1, (1 << 18) // points.size)  # the chunk stays in the cache
    chunks = [slice(start, start + step) for start in range(0, max(mean.size, 1), step)]
    grids = (mean[part, None] + deviation[part, None] * points for part in chunks)
    averages = [[values @ weights for values in _values(functions, z)] for z in grids]
    return [np.concatenate(columns) for columns in zip(*averages, strict=True)]


def _values(functions: Functions, z: np.ndarray) -> Iterable[np.ndarray]:
    return functions(z) if callable(functions) else (function(z) for function in functions)


def _integrate_around_zero(
    functions: Functions, mean: np.ndarray, deviation: np.ndarray, scale: float
) -> list[np.ndarray]:
    """Panels for each Gaussian by itself: narrow where the functions bend, as wide as its density allows elsewhere."""
    points, weights = _legendre()
    safe = np.maximum(deviation, 1e-300)
    ends = [np.clip((sign * BENT * scale - mean) / safe, -SPAN, SPAN) for sign in (-1.0, 1.0)]
    stops = [np.full_like(mean, -SPAN), *ends, np.full_like(mean, SPAN)]
    pieces = (int(2 * SPAN), int(BENT), int(2 * SPAN))
    edges = [_divided(stops[i], stops[i + 1], pieces[i]) for i in range(3)]
    left = np.concatenate([edge[:, :-1] for edge in edges], axis=1)
    half = np.concatenate([np.diff(edge, axis=1) for edge in edges], axis=1) / 2
    t = (left + half)[:, :, None] + half[:, :, None] * points
    density = half[:, :, None] * weights * np.exp(-0.5 * t**2) / math.sqrt(2.0 * math.pi)
    z = mean[:, None, None] + deviation[:, None, None] * t
    return [np.asarray((values * density).sum(axis=(1, 2))) for values in _values(functions, z)]


def _divided(start: np.ndarray, stop: np.ndarray, pieces: int) -> np.ndarray:
    """(intervals, pieces + 1): the ends of so many pieces of each; `numpy.linspace` takes three times as long."""
    return np.asarray(start[:, None] + (stop - start)[:, None] * (np.arange(pieces + 1) / pieces))


@dataclass(frozen=True)
class _Chebyshev:
    """Interpolation on an interval from its Chebyshev points."""

    low: float
    high: float
    count: int

    @cached_property
    def nodes(self) -> np.ndarray:
        """The points, in the interval's units."""
        angles = (np.arange(self.count) + 0.5) * np.pi / self.count
        return (self.low + self.high) / 2 + (self.high - self.low) / 2 * np.cos(angles)

    def polynomials(self, x: np.ndarray) -> np.ndarray:
        """(count, len(x)): the Chebyshev polynomials at each x."""
        span = self.high - self.low
        t = np.clip((2 * x - self.low - self.high) / span, -1.0, 1.0) if span > 0 else np.zeros_like(x)
        basis = np.empty((self.count, len(x)))
        basis[0], basis[1] = 1.0, t
        t = 2.0 * t
        for k in range(2, self.count):
            np.multiply(t, basis[k - 1], out=basis[k])
            basis[k] -= basis[k - 2]
        return basis

    @cached_property
    def analysis(self) -> np.ndarray:
        """(count, count): the polynomials' coefficients (rows) of values at the nodes (columns)."""
        angles = (np.arange(self.count) + 0.5) * np.pi / self.count
        found = np.cos(np.outer(np.arange(self.count), angles)) * (2.0 / self.count)
        found[0] /= 2.0
        return np.asarray(found)


def _interpolated(
    across: _Chebyshev, down: _Chebyshev, coarse: Sequence[np.ndarray], mean: np.ndarray, deviation: np.ndarray
) -> list[np.ndarray]:
    """Each function's averages at every cell, from those at the nodes; the chunk's polynomials stay in the cache."""
    # (down, across) for each function: polynomials of the deviations by polynomials of the means
    coefficients = [down.analysis @ values.reshape(across.count, down.count).T @ across.analysis.T for values in coarse]
    results = [np.empty_like(mean) for _ in coarse]
    for start in range(0, mean.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        left, right = across.polynomials(mean[part]), down.polynomials(deviation[part])
        for result, of_function in zip(results, coefficients, strict=True):
            np.einsum("in,in->n", of_function @ left, right, out=result[part])
    return results


def _grid(mean: np.ndarray, deviation: np.ndarray, scale: float) -> tuple[_Chebyshev, _Chebyshev] | None:
    """Interpolation nodes over the means and the deviations, where these are far fewer than the cells.

    E f(mu + s t) bends over lengths of about L = sqrt(scale^2 + s^2); 2.5 points a length and a few more resolve it
    to 1e-4 (tested; mostly 3e-5).
    """
    if mean.size < INTERPOLATED:
        return None
    low, high = float(deviation.min()), float(deviation.max())
    length = math.hypot(scale, low)
    span = float(np.ptp(mean))
    if not math.isfinite(span + high):
        return None
    across = _Chebyshev(float(mean.min()), float(mean.max()), 9 + math.ceil(2.5 * span / length))
    down = _Chebyshev(low, high, 6 + math.ceil(2.5 * (high - low) / length))
    return (across, down) if 2 * across.count * down.count < mean.size else None
