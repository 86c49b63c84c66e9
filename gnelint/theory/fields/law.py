"""The law of a value that is a function of another one, entry by entry: its numbers on a quadrature grid.

What a scalar function makes of a Gaussian is one-sided or heavy-tailed, and two functions of one value are anything but
independent. On a grid of the first value's own distribution, the root's, both are exact: the moments of what is
computed of it, and the gradient, which is followed as an amplitude at each point until it arrives at the root.

Source: theory 3.3.4.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gnelint.records import dataclass
from gnelint.theory.fields.cells import Axes, Axis, counts, resample
from gnelint.theory.fields.channel_correlation import NONE
from gnelint.theory.fields.field import Effect
from gnelint.theory.fields.moments import Moments, grids_of
from gnelint.theory.gaussian.dual import Dual, slope_of, value_of
from gnelint.theory.gaussian.piecewise import rectified_source
from gnelint.theory.gaussian.quadrature import POINTS, panels
from gnelint.theory.gaussian.special import log_gamma, normal_cdf

MOST = 1 << 20
"""Numbers on the largest grid."""
_CONCENTRATED = 0.08
"""Share of an average that one point of a grid may have: beyond it the grid is too coarse, or the average infinite."""
_OUTSIDE = 1e-9
"""Probability of what is left out where a function is not defined."""
_SHARP = 1e3
"""Shape of a gamma distribution from which on it hardly fluctuates: no tail that matters."""
_SHAPED = 8.0
"""Excess kurtosis up to which cumulants say something of a shape."""


@dataclass(frozen=True, eq=False)
class Law:
    """A function of the root, in each cell and at each point of the grid of the root's distribution.

    Attributes:
        root: on the cells.
        weights: of the points.
        number: the function, and its derivative by the root as the gradient sees it: 0 behind a cut.
    """

    root: Moments
    weights: np.ndarray
    number: Dual

    @property
    def axes(self) -> Axes:
        """The cells."""
        return self.root.axes

    def on(self, axes: Axes) -> Law:
        """On finer cells, or broadcast to more entries."""
        if axes == self.axes:
            return self
        own = tuple(Axis(new.size) if old.size == 1 else old for old, new in zip(self.axes, axes, strict=True))
        value, slope = (resample(a, own, axes) for a in (self.number.value, self.number.slope))
        root = self.root.behind(Effect.RECUT, [resample(a, own, axes) for a in self.root.arrays()], axes)
        return Law(root, self.weights, Dual(value, slope))

    def of(self, number: Dual | np.ndarray | float) -> Law:
        """Another function of the root."""
        shape = (*counts(self.axes), self.weights.size)
        value, slope = (np.broadcast_to(a, shape) for a in (value_of(number), slope_of(number)))
        return Law(self.root, self.weights, Dual(value, slope))

    def mean(self, array: np.ndarray) -> np.ndarray:
        """E of what is given at the points."""
        return np.asarray(array @ self.weights)

    @property
    def settled(self) -> bool:
        """Whether the grid is fine enough for the averages of the squares, and these are finite."""
        for array in (self.number.value, self.number.slope):
            parts = self.weights * array**2
            total, most = parts.sum(axis=-1), parts.max(axis=-1, initial=0.0)
            if np.any(most > _CONCENTRATED * np.maximum(total, 1e-9 * total.max(initial=0.0))):
                return False
        return bool(np.all(np.isfinite(total)))

    def moments(self) -> Moments:
        """Of the function.

        With r the correlation of two entries of the root x and c = Cov(x, y) / Var x (E y' by parts, jumps included):

            covariance -> c^2 r Var x + (Var y - c^2 Var x) r^2
        """
        y, x = np.asarray(self.number.value), root_law(self.root, self.weights).number.value
        mean = self.mean(y)
        centred = y - mean[..., None]
        squares = centred * centred  # of powers beyond the second numpy takes logarithms, forty times a product's time
        variance, own = self.mean(squares), self.root.variance
        linear = self.mean((x - self.root.mean[..., None]) * centred) ** 2
        linear = np.minimum(np.divide(linear, own, out=np.zeros_like(own), where=own > 0), variance)
        r = self.root.correlation
        covariance = linear * r + (variance - linear) * r**2
        found = Moments.flat(self.axes, mean, variance, covariance, nonnegative=bool(np.all(y >= 0)))
        found = replace(found, positive=bool(np.all(y > 0)))
        total = float(variance.mean())
        if (self.root.channel_correlation != NONE or self.root.neighbours) and total > 0:
            kept, near = min(float(linear.mean()) / total, 1.0), self.root.neighbours
            found = replace(
                found,
                channel_correlation=self.root.channel_correlation.mapped(kept),
                neighbours=kept * near + (1.0 - kept) * near**2,
            )
        third, fourth = self.mean(squares * centred), self.mean(squares * squares) - 3.0 * variance**2
        if np.all(np.abs(fourth) <= _SHAPED * variance**2):
            found = replace(found, cumulants=(third, fourth))
        return found


def _few_cells(x: Moments, points: int) -> Moments:
    """A root on cells that are not too many for a grid of so many points: those of channels, or one for all."""
    for kept in ((1,), ()):
        if math.prod(counts(x.axes)) * points > MOST:
            x = x.only(*kept)
    return x


def root_axes(x: Moments) -> Axes:
    """The cells of a root's law on the coarsest grid."""
    return _few_cells(x, grids_of(x)[0] * POINTS).axes


def root_law(x: Moments, grid: int | np.ndarray) -> Law:
    """The root's own law: a Gaussian, what a rectifier left of one, or, where it is positive, the gamma distribution of
    its mean and variance.

    Args:
        x: the root.
        grid: the number of panels; or the weights of a grid on which x fits as it is.
    """
    points, weights = panels(grid if isinstance(grid, int) else len(grid) // POINTS)
    if isinstance(grid, int):
        x = _few_cells(x.flattened(), points.size)
    mean, variance = x.mean[..., None], x.variance[..., None]
    value = mean + np.sqrt(variance) * points
    if x.positive:
        value = _gamma(mean, variance, points)
    elif x.nonnegative:
        location, scale = rectified_source(x.mean, x.variance)
        silent = normal_cdf(np.divide(-location, scale, out=np.full_like(location, -math.inf), where=scale > 0))
        rectified = np.maximum(location[..., None] + scale[..., None] * points, 0.0)
        value = np.where(silent[..., None] > 1e-3, rectified, _gamma(mean, variance, points))
    return Law(x, weights, Dual(value, np.ones_like(value)))


def _gamma(mean: np.ndarray, variance: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Quantiles at those of a Gaussian, by Wilson and Hilferty: the cube root is nearly Gaussian.

    Towards 0 that is too small, and what a logarithm or a root makes of it too large. There the distribution function
    of shape k, P(x < z) < (z / theta)^k / Gamma(k + 1), bounds the quantile at p from below, and is sharp for small p.
    """
    ninth = np.divide(variance, 9.0 * mean**2, out=np.zeros_like(mean), where=mean > 0)
    root = np.maximum(1.0 - ninth + np.sqrt(ninth) * points, 1e-3)
    shape = np.divide(mean**2, variance, out=np.full_like(mean, _SHARP), where=variance * _SHARP > mean**2)
    lowest = np.exp((np.log(normal_cdf(points)) + log_gamma(shape + 1.0)) / shape) / shape
    return np.asarray(mean * np.maximum(root * root * root, lowest * (shape < _SHARP)))
