"""Pointwise activations, and those in pieces; smooth ones are in `smooth`.

Each is applied to x ~ N(mean, variance) of its cell.

For every activation f, entry by entry (theory 3.3):

    phi      = E f'(x)^2          variance of the spectrum = E f'(x)^4 - phi^2
    mean    -> E f(x)             second moment -> E f(x)^2
    gradient energy -> energy E f'(x)^2

and for two entries of one cell with correlation r = covariance / variance, to first order in r, the rest at order two:

    covariance -> (E f')^2 covariance + (Var f - (E f')^2 variance) r^2
    gradient's covariance -> ((E f')^2 + (E f'')^2 variance r + (the rest of Var f') r^2) covariance
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from gnelint.components.base import Inputs, Remembered, Unary, component, first_input
from gnelint.components.composed import slope_powers
from gnelint.components.following import MOST_LEAN, following
from gnelint.ops import VOCABULARY
from gnelint.ops.record import INF, ExponentialBelow, Polynomials
from gnelint.records import cached_property, replace
from gnelint.theory.fields.cells import Axes, Axis, counts, refine, resample
from gnelint.theory.fields.channel_correlation import NONE, NOTHING_AHEAD, Ahead
from gnelint.theory.fields.gradient import NOWHERE, Gradient, Winners, leaning
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.nearby import Nearby
from gnelint.theory.gaussian.gram_charlier import cumulants, rectified_moments, shaped_expectation
from gnelint.theory.gaussian.piecewise import (
    Piece,
    derivative,
    gaussian_share,
    piecewise_expectation,
    piecewise_value,
)
from gnelint.theory.gaussian.rectified_sum import rectified_sum
from gnelint.theory.gaussian.special import log_normal_cdf, normal_cdf, normal_pdf
from gnelint.theory.spectrum import Structure

_STEP = 0.05
"""Deviations by which the mean is moved to see how f' bends."""


class Pointwise(Unary):
    """y = f(x) entry by entry, on Gaussian x."""

    assumptions: ClassVar[tuple[str, ...]] = ("pre-activations are Gaussian in every cell",)

    @cached_property
    def function(self) -> Any:
        """What the operation's record says of f."""
        return VOCABULARY[self.node.op].function

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """The attributes, as formulas take them."""
        return {name: self.node.attribute(name) for name in VOCABULARY[self.node.op].attributes}

    @abstractmethod
    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E f and E f^2."""

    @abstractmethod
    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E f' and E f'^2."""

    @abstractmethod
    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """E f'^4."""

    def curve(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """f and f' of values that have one axis more than cells have; None where they are not known at each."""
        return None

    @property
    def kinks(self) -> tuple[float, ...]:
        """Where f or f' jumps."""
        return ()

    @cached_property
    def _slopes(self) -> Remembered[tuple[np.ndarray, np.ndarray]]:
        return Remembered()

    def slopes_of(self, x: Moments) -> tuple[np.ndarray, np.ndarray]:
        """`slopes` in the cells of x."""
        return self._slopes.of((x,), lambda: self.slopes(x.mean, x.variance))

    def values_of(self, x: Moments) -> tuple[np.ndarray, np.ndarray]:
        """`values` in the cells of x."""
        return self.values(x.mean, x.variance)

    def map(self, x: Moments) -> Moments:
        mean, second = self.values_of(x)
        variance = np.maximum(second - mean**2, 0.0)
        covariance = np.zeros_like(variance)
        if x.correlated:
            slope, _ = self.slopes_of(x)
            r = x.correlation
            linear = np.minimum(slope**2 * x.variance, variance)
            covariance = linear * r + (variance - linear) * r**2
        nonnegative = self.keeps_nonnegative(x)
        positive = nonnegative and self.keeps_positive(x)
        y = Moments(x.axes, x.profile, mean, variance, covariance, nonnegative=nonnegative, positive=positive)
        y = replace(y, alike=x.alike) if x.alike else y
        known = x.neighbours or x.nearby or x.mean_known or x.square_known or x.levelled
        if not (known or x.channel_correlation != NONE):
            return y
        linear = self._linear_share(x, variance)
        return replace(
            y,
            channel_correlation=x.channel_correlation.mapped(linear),
            neighbours=linear * x.neighbours + (1.0 - linear) * x.neighbours**2,
            nearby=x.nearby.mapped(lambda r: linear * r + (1.0 - linear) * r**2),
            mean_known=self._mean_known(x, variance),
            levelled=linear**2 * x.levelled,
        )

    def _linear_share(self, x: Moments, variance: np.ndarray) -> float:
        """(E f')^2 Var x / Var f: to first order, what is left of correlations."""
        total = float(variance.mean()) if variance.size else 0.0
        if total <= 0:
            return 0.0
        slope, _ = self.slopes_of(x)
        return min(float((slope**2 * x.variance).mean()) / total, 1.0)

    def _mean_known(self, x: Moments, variance: np.ndarray) -> float:
        """What is known of the average of x tells its linear part, what is known of the squares the next one (Hermite
        series: (E f')^2 q and (E f'')^2 q^2 / 2 of the variance)."""
        total = float(variance.mean()) if variance.size else 0.0
        if not (x.mean_known or x.square_known) or total <= 0:
            return 0.0
        slope, _ = self.slopes_of(x)
        linear = slope**2 * x.variance
        square = linear * self._lean(x, slope) ** 2 / 2.0
        found = x.mean_known * float(linear.mean()) + x.square_known * float(square.mean())
        return min(found / total, 1.0)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        slope, square = self._met(x, cotangent.winners)
        together, lean = slope**2, None
        if cotangent.correlated:
            lean = self._lean(x, slope)
            if x.correlated:
                linear = np.minimum((slope * lean) ** 2, np.maximum(square - slope**2, 0.0))
                rest = np.maximum(square - slope**2 - linear, 0.0)
                together = together + linear * x.correlation + rest * x.correlation**2
        pulled = cotangent.times(x.axes, square, together, slope**2, lean)
        if cotangent.sense is not None and (slope > 0).all():
            pulled = replace(pulled, sense=cotangent.sense)
        if cotangent.nearby and x.nearby:
            pulled = replace(pulled, nearby=self._nearby(x, cotangent.nearby, slope, square))
        if cotangent.winners is not NOWHERE:
            pulled = replace(pulled, winners=cotangent.winners)
        told = cotangent.winners.share > 0  # where maxima have put it, `_met` knows
        if told or not (cotangent.correlated and cotangent.lean.any()):
            return pulled
        return following(self.curve, self.kinks, x, cotangent, pulled)

    def _nearby(self, x: Moments, nearby: Nearby, slope: np.ndarray, square: np.ndarray) -> Nearby:
        """Of a gradient behind slopes that are as alike nearby as the values there, to second order."""
        whole = max(float(square.mean()), 1e-300)
        once = float((slope**2).mean()) / whole
        linear = min(float(((slope * self._lean(x, slope)) ** 2).mean()) / whole, 1.0 - once)
        alike = x.nearby.on(nearby.lags.shape, nearby.axes)
        return nearby.mapped(lambda r: r * (once + linear * alike + (1.0 - once - linear) * alike**2))

    def _met(self, x: Moments, winners: Winners) -> tuple[np.ndarray, np.ndarray]:
        """E f' and E f'^2 where the gradient sits: a part of it on the largest entries, those of x being where those of
        f(x) are."""
        slope, square = self.slopes_of(x)
        if not winners.share:
            return slope, square
        found = self.slopes(x.mean + winners.above * np.sqrt(x.variance), winners.scatter * x.variance)
        there = [old + winners.share * (new - old) for old, new in zip((slope, square), found, strict=True)]
        return there[0], np.maximum(there[1], there[0] ** 2)

    def ahead(self, x: Moments, y: Moments, behind: Ahead) -> tuple[Ahead, float]:
        """Correlations keep the linear share, products of two slopes (E f')^2 of E f'^2."""
        if behind == NOTHING_AHEAD:
            return behind, 0.0
        slope, square = self.slopes_of(x)
        whole = float(square.mean())
        alike = float((slope**2).mean()) / whole if whole > 0 else 0.0
        return behind.scaled(alike * self._linear_share(x, y.variance)), 0.0

    def _lean(self, x: Moments, slope: np.ndarray) -> np.ndarray:
        """E[f' xhat] / E f' = sqrt(q) E f'' / E f', from f' at means on either side."""
        deviation = np.sqrt(np.maximum(x.variance, 0.0))
        ends = [self.slopes(x.mean + side * _STEP * deviation, x.variance)[0] for side in (-1.0, 1.0)]
        bend = (ends[1] - ends[0]) / (2.0 * _STEP)
        found: np.ndarray = np.divide(
            bend, slope, out=np.zeros_like(bend), where=np.abs(slope) > np.abs(bend) / MOST_LEAN
        )
        return found

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        known = slope_powers(self, inputs, outputs[0])
        if known is not None:
            return max(known[2] - known[1] ** 2, 0.0)
        x = first_input(inputs)
        weight = cell_weights(x)
        _, square = self.slopes_of(x)
        fourth = self.fourth_slope(x.mean, x.variance)
        return max(float((fourth * weight).sum()) - float((square * weight).sum()) ** 2, 0.0)

    def structure(self, inputs: Inputs, outputs: Sequence[Moments]) -> Structure:
        known = slope_powers(self, inputs, outputs[0])
        if known is not None:
            together, whole = known[:2]
            return Structure(coherence=(together / whole) ** 2 if whole > 0 else 1.0)
        x = first_input(inputs)
        weight = cell_weights(x)
        slope, square = self.slopes_of(x)
        together, whole = float((slope**2 * weight).sum()), float((square * weight).sum())
        return Structure(coherence=(together / whole) ** 2 if whole > 0 else 1.0)

    def keeps_nonnegative(self, x: Moments) -> bool:
        """Whether no output is negative."""
        return bool(self.function.range(self.numbers)[0] >= 0.0)

    def keeps_positive(self, x: Moments) -> bool:
        """Whether of outputs that are not negative none is exactly zero."""
        return x.positive


def cell_weights(x: Moments) -> np.ndarray:
    """Fraction of the tensor's entries in each cell."""
    weight = np.ones(counts(x.axes))
    for index, axis in enumerate(x.axes):
        shape = [1] * len(x.axes)
        shape[index] = axis.count
        weight = weight * (axis.lengths / max(axis.size, 1)).reshape(shape)
    return weight


@component(Polynomials)
class PiecewisePolynomial(Pointwise):
    """Functions made of polynomials, in closed form (theory.piecewise)."""

    def pieces(self) -> tuple[Piece, ...]:
        """The polynomials and where they hold."""
        return tuple(Piece(*piece) for piece in self.function.pieces(**self.numbers))

    def curve(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pieces = self.pieces()
        return piecewise_value(pieces, x), piecewise_value(derivative(pieces), x)

    @property
    def kinks(self) -> tuple[float, ...]:
        return tuple(piece.high for piece in self.pieces() if math.isfinite(piece.high))

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pieces = self.pieces()
        return piecewise_expectation(pieces, 1, mean, variance), piecewise_expectation(pieces, 2, mean, variance)

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pieces = derivative(self.pieces())
        return piecewise_expectation(pieces, 1, mean, variance), piecewise_expectation(pieces, 2, mean, variance)

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return piecewise_expectation(derivative(self.pieces()), 4, mean, variance)

    def map(self, x: Moments) -> Moments:
        y = super().map(x)
        if (x.variance <= 0).any():
            return y
        cube, quart = (self._power(x, self.pieces(), power) for power in (3, 4))
        third, fourth = cumulants(y.mean, y.second, cube, quart)
        return replace(y, cumulants=(third, fourth))

    def values_of(self, x: Moments) -> tuple[np.ndarray, np.ndarray]:
        return self._power(x, self.pieces(), 1), self._power(x, self.pieces(), 2)

    def slopes_of(self, x: Moments) -> tuple[np.ndarray, np.ndarray]:
        pieces = derivative(self.pieces())
        first, second = self._power(x, pieces, 1), self._power(x, pieces, 2)
        return first, np.maximum(second, first**2)

    @staticmethod
    def _power(x: Moments, pieces: Sequence[Piece], power: int) -> np.ndarray:
        """E f(x)^power of a value that may not quite be Gaussian (theory 9.7)."""

        def expected(mean: np.ndarray) -> np.ndarray:
            return piecewise_expectation(pieces, power, mean, x.variance)

        if x.cumulants is None or (x.variance <= 0).any():
            return expected(x.mean)
        return shaped_expectation(expected, x.mean, x.variance, *x.cumulants)


@component("relu")
class ReLU(PiecewisePolynomial):
    """f(x) = max(x, 0), x ~ N(mu, q), t = mu / sqrt(q), P = Phi(t), d = pdf(t).

        phi = P,  variance = P (1 - P)
        second moment -> (mu^2 + q) P + mu sqrt(q) d,   mean -> mu P + sqrt(q) d

    On a value that is never negative it is the identity, and lets the gradient pass where an earlier rectifier did:
    the same mask counts once (`Gradient.mask_overlap`). Source: theory 3.3.
    """

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if (variance <= 0).any():
            return super().values(mean, variance)
        deviation = np.sqrt(variance)
        share, edge = normal_cdf(mean / deviation), deviation * normal_pdf(mean / deviation)
        return mean * share + edge, (mean**2 + variance) * share + mean * edge

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share = gaussian_share(mean, variance)
        return share, share

    def values_of(self, x: Moments) -> tuple[np.ndarray, np.ndarray]:
        return self.values(x.mean, x.variance)  # `map` has the rest in closed form

    def slopes_of(self, x: Moments) -> tuple[np.ndarray, np.ndarray]:
        return Pointwise.slopes_of(self, x)

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return gaussian_share(mean, variance)

    def map(self, x: Moments) -> Moments:
        if x.nonnegative:
            return x
        y = Pointwise.map(self, x)  # the cumulants of a piecewise polynomial would be worked out for nothing
        if (x.variance <= 0).any():
            return y
        _, first, second, cube, quart = x.rectified
        variance = np.maximum(second - first**2, 0.0)
        covariance = np.divide(
            y.position_covariance * variance, y.variance, out=np.zeros_like(variance), where=y.variance > 0
        )
        third, fourth = cumulants(first, second, cube, quart)
        y = replace(y, mean=first, variance=variance, position_covariance=covariance, cumulants=(third, fourth))
        if x.rectified_part is None:
            return y
        law, mean, spread = x.rectified_part
        return replace(y, above=rectified_sum(law, x.mean - mean, x.variance - spread, x.rectified))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        share = x.positive_share
        g = cotangent.refined(x.axes)
        share = resample(share, x.axes, g.axes)
        passed = share + g.mask_overlap * (1.0 - share)
        together = across = passed**2
        if x.correlated:
            r = resample(x.correlation, x.axes, g.axes)
            together = together + (passed - together) * np.arcsin(r) * (2.0 / math.pi)  # exactly at a mean of 0
        lean = np.zeros_like(passed)
        if g.correlated:
            lean = self._lean_behind(x, y, g, passed)
        covariances = g.position_covariance * together, np.ones_like(passed), g.sample_covariance * across
        pulled = Gradient(g.axes, g.profile, g.energy * passed, *covariances, lean, alike=g.alike, sense=g.sense)
        if g.nearby:
            pulled = replace(pulled, nearby=self._masked_nearby(x, g.nearby, passed))
        if x.rectified_part is None:
            follows = g.correlated and g.lean.any() and not g.mask_overlap.any()
            return following(self.curve, self.kinks, x, g, pulled) if follows else pulled
        return replace(pulled, survived=g.survived + 1.0, cut=self._cut(x, y, g.cut))

    @staticmethod
    def _masked_nearby(x: Moments, nearby: Nearby, passed: np.ndarray) -> Nearby:
        """Of a gradient behind masks that are as alike nearby as the signs there."""
        apart = float((passed**2).mean()) / max(float(passed.mean()), 1e-300)
        signs = np.arcsin(np.clip(x.nearby.on(nearby.lags.shape, nearby.axes), -1.0, 1.0)) * (2.0 / math.pi)
        return nearby.mapped(lambda r: r * (apart + (1.0 - apart) * signs))

    @staticmethod
    def _cut(x: Moments, y: Moments, behind: float | None) -> float | None:
        """`Gradient.cut` of a gradient that sits on entries above 0, or on the largest of them."""
        deviation = np.sqrt(x.variance)
        if (deviation <= 0).any():
            return None
        end = 0.0 if behind is None else np.maximum(y.mean + behind * np.sqrt(y.variance), 0.0)
        return float(((end - x.mean) / deviation).mean())

    @staticmethod
    def _lean_behind(x: Moments, y: Moments, g: Gradient, passed: np.ndarray) -> np.ndarray:
        """What passes sits on entries above 0, where x is y: E y / P on average, more where it leant on large ones."""
        mean, deviation, entry, variance = (
            resample(each, x.axes, g.axes) for each in (y.mean, np.sqrt(y.variance), x.mean, x.variance)
        )
        whole = np.divide(mean + g.lean * deviation, passed, out=entry.copy(), where=passed > 1e-3)
        return leaning(whole - entry, variance)

    def _lean(self, x: Moments, slope: np.ndarray) -> np.ndarray:
        """pdf(t) / P: the average of xhat where a Gaussian x is positive."""
        t = np.divide(x.mean, np.sqrt(x.variance), out=np.zeros_like(x.mean), where=x.variance > 0)
        share = normal_cdf(t)
        found: np.ndarray = np.divide(
            normal_pdf(t), share, out=np.zeros_like(t), where=(share > 1e-3) & (x.variance > 0)
        )
        return found

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        x = first_input(inputs)
        share = float((x.positive_share * cell_weights(x)).sum())
        return share * (1.0 - share)


@component("prelu")
class PReLU(PiecewisePolynomial):
    """LeakyReLU with a stored slope for each channel (or one for all; arXiv 1502.01852; theory 3.3.1)."""

    @cached_property
    def _refined(self) -> Remembered[Moments]:
        return Remembered()

    def _on_slopes(self, x: Moments) -> Moments:
        return self._refined.of((x,), lambda: x.refined(self._slope_axes(x)))

    def map(self, x: Moments) -> Moments:
        return super().map(self._on_slopes(x))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return super().pull(self._on_slopes(x), y, cotangent)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        x = first_input(inputs)
        return super().phi_variance([self._on_slopes(x)], outputs)

    def _slope(self) -> np.ndarray:
        slope = np.asarray(self.node.parameters["slope"].array(), dtype=np.float64)
        rank = len(self.shape)
        if slope.ndim == 1 and rank > 2 and slope.size == self.shape[1]:
            return slope.reshape((1, -1) + (1,) * (rank - 2))
        return slope.reshape((1,) * (rank - slope.ndim) + slope.shape)

    def _slope_axes(self, x: Moments) -> Axes:
        slope = self._slope()
        fitted = tuple(Axis.full(n) if slope.shape[i] > 1 else Axis(n) for i, n in enumerate(self.shape))
        return refine(x.axes, fitted)

    @cached_property
    def numbers(self) -> dict[str, Any]:
        return {"slope": self._slope()}


@component("clip")
class Clip(PiecewisePolynomial):
    """f(x) = min(max(x, low), high): hardtanh and ReLU6; phi = P(low < x < high; theory 3.3).

    Of values that are known not to be Gaussian it is the difference of two rectifiers,
    f(x) - low = max(x - low, 0) - max(x - high, 0), and so are its powers (theory 9.7).
    """

    def _ends(self) -> tuple[float, float]:
        low, high = self.function.range(self.numbers)
        return float(low), float(high)

    def map(self, x: Moments) -> Moments:
        y = super().map(x)
        low, high = self._ends()
        if math.isinf(low) or (x.variance <= 0).any():
            return y
        parts = self._above(x, low)[1:]
        if not math.isinf(high):
            width, (_, first, second, cube, quart) = high - low, self._above(x, high)
            beyond = (
                first,
                second + 2 * width * first,
                cube + 3 * width * second + 3 * width**2 * first,
                quart + 4 * width * cube + 6 * width**2 * second + 4 * width**3 * first,
            )
            parts = tuple(a - b for a, b in zip(parts, beyond, strict=True))
        first, second = parts[:2]
        variance = np.maximum(second - first**2, 0.0)
        covariance = np.divide(
            y.position_covariance * variance, y.variance, out=np.zeros_like(variance), where=y.variance > 0
        )
        third, fourth = cumulants(*parts)
        return replace(
            y, mean=first + low, variance=variance, position_covariance=covariance, cumulants=(third, fourth)
        )

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        pulled = super().pull(x, y, cotangent)
        if not cotangent.mask_overlap.any() or self._ends()[0] != 0.0:
            return pulled
        overlap = cotangent.refined(pulled.axes).mask_overlap
        share = np.maximum(resample(self.slopes_of(x)[1], x.axes, pulled.axes), 1e-6)
        return replace(pulled, energy=pulled.energy * (1.0 + overlap * (1.0 - share) / share))

    @staticmethod
    def _above(x: Moments, end: float) -> tuple[np.ndarray, ...]:
        third, fourth = (np.zeros(1), np.zeros(1)) if x.cumulants is None else x.cumulants
        return rectified_moments(x.mean - end, x.variance, third, fourth)

    def slopes_of(self, x: Moments) -> tuple[np.ndarray, np.ndarray]:
        low, high = self._ends()
        if x.cumulants is None or math.isinf(low) or (x.variance <= 0).any():
            return super().slopes_of(x)
        share = self._above(x, low)[0] - (0.0 if math.isinf(high) else self._above(x, high)[0])
        share = np.clip(share, 0.0, 1.0)
        return share, share

    def keeps_nonnegative(self, x: Moments) -> bool:
        return x.nonnegative or super().keeps_nonnegative(x)


@component(ExponentialBelow)
class ExponentialLinear(Pointwise):
    """f(x) = p x for x > 0, a (e^{k x} - 1) below, in closed form.

        A(k) = exp(k mu + k^2 q / 2) Phi(-(mu + k q) / sqrt q)
        phi = p^2 P + (a k)^2 A(2k),   second moment -> p^2 E[x^2; x > 0] + a^2 (A(2k) - 2 A(k) + 1 - P)

    Source: theory 3.3.
    """

    def _tail(self, rate: float, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        deviation = np.sqrt(np.where(variance > 0, variance, 1.0))
        smooth = np.exp(
            np.minimum(
                rate * mean + 0.5 * rate**2 * variance + log_normal_cdf(-(mean + rate * variance) / deviation), 0.0
            )
        )
        still = np.where(mean <= 0, np.exp(np.minimum(rate * mean, 0.0)), 0.0)
        return np.where(variance > 0, smooth, still)

    def _positive(self, power: int, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """E x^power over x > 0."""
        line: tuple[float, ...] = (0.0, 1.0) if power else (1.0,)
        return piecewise_expectation((Piece(0.0, INF, line),), max(power, 1), mean, variance)

    kinks = (0.0,)

    def curve(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p, a, k = self.function.coefficients(**self.numbers)
        below = np.exp(k * np.minimum(x, 0.0))
        return np.where(x > 0.0, p * x, a * (below - 1.0)), np.where(x > 0.0, p, a * k * below)

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p, a, k = self.function.coefficients(**self.numbers)
        once, twice = self._tail(k, mean, variance), self._tail(2 * k, mean, variance)
        below = 1.0 - self._positive(0, mean, variance)
        first = p * self._positive(1, mean, variance) + a * (once - below)
        return first, p**2 * self._positive(2, mean, variance) + a**2 * (twice - 2 * once + below)

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p, a, k = self.function.coefficients(**self.numbers)
        above = self._positive(0, mean, variance)
        return (
            p * above + a * k * self._tail(k, mean, variance),
            p**2 * above + (a * k) ** 2 * self._tail(2 * k, mean, variance),
        )

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        p, a, k = self.function.coefficients(**self.numbers)
        return np.asarray(p**4 * self._positive(0, mean, variance) + (a * k) ** 4 * self._tail(4 * k, mean, variance))
