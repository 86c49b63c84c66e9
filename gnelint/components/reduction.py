"""Reductions over axes: sums, means, extremes and norms, and running sums."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np

from gnelint.components.base import Basis, Unary, component
from gnelint.components.pooling import Maximum, marked, maximum_cumulants
from gnelint.theory.fields.autocorrelation import Autocorrelation
from gnelint.theory.fields.cells import Axes, Axis, counts
from gnelint.theory.fields.field import Effect, put, sample_average_energy, set_average
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import MANY, Moments
from gnelint.theory.fields.nearby import same_along
from gnelint.theory.fields.profiles import amplitude, normalised
from gnelint.theory.spectrum import Structure


class _Reduction(Unary):
    """A reduction over axes; `_kept` is the input's shape with those axes of size 1."""

    @property
    def _reduced(self) -> tuple[int, ...]:
        rank = len(self.input_shape)
        return tuple(sorted(int(axis) % rank for axis in self.node.attribute("axes")))

    @property
    def _count(self) -> int:
        return math.prod(self.input_shape[i] for i in self._reduced)

    @property
    def _kept(self) -> tuple[int, ...]:
        return tuple(1 if i in self._reduced else size for i, size in enumerate(self.input_shape))

    def _rows(self, x: Moments) -> Moments:
        """With the entries that are reduced in one cell."""
        x = x.flattened()
        for index in self._reduced:
            x = x.pooled(index)
        return x

    def _narrow(self, axes: Axes) -> Axes:
        return tuple(Axis(1) if i in self._reduced else axis for i, axis in enumerate(axes))

    def _widened(self, g: Gradient, energy: float, covariance: float) -> Gradient:
        """The same gradient, times factors, at every index of the reduced axes."""
        g = g if g.shape == self._kept else g.reshaped(self._kept)
        axes = tuple(Axis(self.input_shape[i]) if i in self._reduced else a for i, a in enumerate(g.axes))
        outside = math.prod(a.size / a.count for i, a in enumerate(g.axes) if i and i not in self._reduced)
        together = g.energy * covariance if outside <= 1 else g.position_covariance * covariance
        arrays = (g.energy * energy, together, 0.0 * g.energy, g.sample_covariance * covariance)
        return g.behind(Effect.MOVED, arrays, axes)


@component("reduce_mean", "reduce_sum")
class ReduceMean(_Reduction):
    """Mean or sum over k entries: phi = 1/k or k; the gradient behind it is the same at every index (theory 3.7)."""

    fixed_phi_variance: ClassVar[float | None] = 0.0
    fixed_structure: ClassVar[Structure] = Structure(averages=True)

    def map(self, x: Moments) -> Moments:
        factor = self._count if self.node.op == "reduce_sum" else 1.0
        outside = math.prod(x.axes[i].size / x.axes[i].count for i in range(1, len(x.axes)) if i not in self._reduced)
        amplitude = x.amplitude(kept=[i for i in range(len(x.axes)) if i not in self._reduced])
        mean = set_average(x.mean, x, self._reduced) * amplitude
        variance = sample_average_energy(x.variance, x.position_covariance, x, self._reduced)
        covariance = set_average(x.position_covariance, x, self._reduced) if outside > 1 else np.zeros_like(variance)
        profile = tuple(None if i in self._reduced else p for i, p in enumerate(x.profile))
        arrays = (factor * mean, factor**2 * variance, factor**2 * np.minimum(covariance, variance))
        positive = x.positive or (x.nonnegative and self._count >= MANY)
        y = Moments(self._narrow(x.axes), profile, *arrays, nonnegative=x.nonnegative, positive=positive)
        known = 0.0 if 0 in self._reduced else x.mean_known  # what is nothing over samples and positions stays so
        y = replace(y, channel_correlation=x.channel_correlation.averaged(), mean_known=known)
        nearby = x.nearby.moved(lambda axis: None if axis in self._reduced else axis)
        return (replace(y, nearby=nearby) if nearby else y).reshaped(self.shape)

    def _apart(self, g: Gradient) -> Gradient:
        """A white gradient with the indices of the one kept axis in cells of their own: what they then have in common
        with their copies is not to be taken for common to all."""
        kept = [index for index, size in enumerate(self._kept) if index and size > 1]
        if self._count == 1 or len(kept) != 1 or g.correlated:
            return g
        g = g.reshaped(self._kept)
        return g.refined(tuple(Axis.full(a.size) if i in kept else a for i, a in enumerate(g.axes)))

    def _partly(self, g: Gradient) -> bool:
        """Whether copies share what others of their cell do not."""
        return math.prod(a.size / a.count for i, a in enumerate(g.axes) if i and i not in self._reduced) > 1

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        factor = 1.0 if self.node.op == "reduce_sum" else 1.0 / self._count**2
        g = self._widened(self._apart(cotangent), factor, factor)
        if self._partly(g):
            g = replace(g, nearby=same_along({i: self.input_shape[i] for i in self._reduced if i}))
        # `position_covariance` takes axis 0 for samples; where it is time, something moves it to its place
        return g.with_autocorrelation(Autocorrelation(0, np.zeros(0), 1.0)) if self._reduced == (0,) else g


@component("reduce_max")
class ReduceMax(_Reduction, Maximum):
    """Largest of k entries: phi = 1; its moments and what a rectifier before it lets through as for a max-pooling.

    Source: theory 3.4.
    """

    assumptions: ClassVar[tuple[str, ...]] = ("the entries of a maximum are independent",)
    fixed_phi_variance: ClassVar[float | None] = 0.0

    def map(self, x: Moments) -> Moments:
        y = self.largest(self._rows(x), self._count)
        y = Moments.flat(self._narrow(y.axes), y.mean, y.variance, nonnegative=x.nonnegative)
        return y.reshaped(self.shape)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = self._widened(cotangent, 1.0 / self._count, 0.0)
        if cotangent.correlated:  # of two rows that share theirs both have a winner: pairs of one row have nothing
            kept = cotangent.reshaped(self._kept)
            g = replace(g, alike=kept.alike)
            rows_of = g.sharing // self._count
            pairs = g.sharing * (g.sharing - 1.0)
            shared = kept.position_covariance
            g = replace(g, position_covariance=shared * (rows_of * (rows_of - 1.0) / max(pairs, 1.0)))
        rows = self._rows(x)
        return marked(g, rows.axes, self.winners(rows, self._count))


@component("reduce_min")
class ReduceMin(_Reduction):
    """Smallest of k entries: phi = 1; moments of the smallest of k independent Gaussians (theory 3.4)."""

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the entries of a minimum are independent and Gaussian",)
    fixed_phi_variance: ClassVar[float | None] = 0.0

    def map(self, x: Moments) -> Moments:
        x = self._rows(x)
        top, scatter, *_ = maximum_cumulants(self._count)
        y = Moments.flat(
            self._narrow(x.axes), x.mean - np.sqrt(x.variance) * top, x.variance * scatter, nonnegative=x.nonnegative
        )
        return y.reshaped(self.shape)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return self._widened(cotangent, 1.0 / self._count, 0.0)


_MANY = 1 << 16
"""Entries of a norm from which on the difference of two large numbers is rounding."""


@component("reduce_l2")
class ReduceL2(_Reduction):
    """Euclidean norm of k entries: phi = 1 (its gradient is a unit vector).

        Var |x| -> q (mu^2 + v q) / (mu^2 + q),   v = k - 2 (Gamma((k + 1) / 2) / Gamma(k / 2))^2

    Exact for Gaussian entries of mean zero (the chi law: v = 1 - 2 / pi, 0.429, ... 1/2), and to first order far from
    zero. Source: theory 3.4.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the entries of a norm are independent and Gaussian",)
    fixed_phi_variance: ClassVar[float | None] = 0.0

    def map(self, x: Moments) -> Moments:
        x = self._rows(x)
        square = self._count * x.second
        ratio = math.exp(math.lgamma((self._count + 1) / 2) - math.lgamma(self._count / 2))
        spread = self._count - 2.0 * ratio**2 if self._count < _MANY else 0.5
        variance = np.divide(
            x.variance * (x.mean**2 + spread * x.variance), x.second, out=np.zeros_like(square), where=x.second > 0
        )
        mean = np.sqrt(np.maximum(square - variance, 0.0))
        positive = x.positive or not x.nonnegative or self._count >= MANY
        y = Moments.flat(self._narrow(x.axes), mean, variance, nonnegative=True)
        return replace(y, positive=positive).reshaped(self.shape)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return self._widened(cotangent, 1.0 / self._count, 0.0)


_MEAN_FREE = 1e-2
"""Share of a second moment up to which means let sums have a profile."""
_MOST_CELLS = 1 << 14
"""Cells that sums with a mean may have, one for each index."""


@component("cumsum")
class CumulativeSum(Unary):
    """y_p = sum of x_q over q <= p: phi = (n + 1) / 2, on average over the axis (theory 3.7).

    With e_q the energy of the gradient at index q and r what two indices share of it, x_p gets

        (1 - r) E_p + r (sum of sqrt(e_q) over q >= p)^2,      E_p = sum of e_q over q >= p

    and x_p and x_p' with p < p' share all that comes from q >= p'. Source: theory 3.7.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("what two indices share is the same for all",)

    @property
    def _index(self) -> int:
        return int(self.node.attribute("axis")) % len(self.shape)

    def _sums(self, line: np.ndarray, reverse: bool) -> np.ndarray:
        """At each index the sum of a line up to it; down to it if `reverse`."""
        sums = np.cumsum(line[::-1])[::-1] if reverse else np.cumsum(line)
        return np.asarray(sums - line if self.node.attribute("exclusive") else sums)

    def _summed(
        self, x: Moments | Gradient, apart: np.ndarray, reverse: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energy and covariance of sums of entries that have so much apart from what they share, and the energy of
        each index."""
        own = x.profile[self._index]
        line = np.ones(self.shape[self._index]) if own is None else own
        alone, shared = self._sums(line, reverse), self._sums(np.sqrt(line), reverse) ** 2
        pairs = max(line.size * (line.size - 1), 1)
        # of two sums the shorter one is in both
        nested = 2.0 * float((np.sort(alone)[::-1] * np.arange(line.size)).sum()) / pairs
        both = (float(np.sqrt(shared).sum()) ** 2 - float(shared.sum())) / pairs
        energy = apart * float(alone.mean()) + x.position_covariance * float(shared.mean())
        covariance = np.clip(apart * nested + x.position_covariance * both, 0.0, energy)
        if x.positions > line.size:  # others than those along the axis share as much as they did
            whole = apart + x.position_covariance
            covariance = covariance * np.divide(x.position_covariance, whole, out=0.0 * whole, where=whole > 0)
        return energy, covariance, float(apart.mean()) * alone + float(x.position_covariance.mean()) * shared

    def map(self, x: Moments) -> Moments:
        reverse = bool(self.node.attribute("reverse"))
        x = x.flattened().pooled(self._index)
        terms = self._sums(np.ones(self.shape[self._index]), reverse)
        energy, covariance, line = self._summed(x, x.variance - x.position_covariance, reverse)
        square = x.mean**2 * float((terms**2).mean())
        if float(square.mean()) > _MEAN_FREE * float((square + energy).mean()):
            if math.prod(counts(x.axes)) * terms.size > _MOST_CELLS:
                mean = x.mean * float(terms.mean())
                return Moments.flat(x.axes, mean, energy + square - mean**2, nonnegative=x.nonnegative)
            each = terms.reshape([-1 if i == self._index else 1 for i in range(len(x.axes))])
            variance = x.variance * each + x.position_covariance * each * np.maximum(each - 1.0, 0.0)
            axes = put(x.axes, self._index, Axis.full(terms.size))
            return Moments.flat(axes, x.mean * each, variance, nonnegative=x.nonnegative)
        profile = put(x.profile, self._index, normalised(line))
        y = Moments.flat(x.axes, x.mean * float(terms.mean()), energy, covariance, nonnegative=x.nonnegative)
        return replace(y, profile=profile, mean=y.mean / amplitude(profile))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = cotangent.profiled(self._index)
        reverse = not self.node.attribute("reverse")
        energy, covariance, line = self._summed(g, g.energy - g.position_covariance, reverse)
        return g.behind(Effect.MOVED, (energy, covariance), profile=put(g.profile, self._index, normalised(line)))
