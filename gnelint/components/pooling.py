"""Pooling windows: average, maximum and Lp, local, adaptive and global."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import numpy as np

from gnelint.components.activation import cell_weights
from gnelint.components.base import Basis, Inputs, NotModelledError, Unary, component, first_input
from gnelint.records import cached_property, replace
from gnelint.theory.fields.cells import Axes, Axis, counts, resample
from gnelint.theory.fields.channel_correlation import ChannelCorrelation
from gnelint.theory.fields.field import Effect
from gnelint.theory.fields.gradient import NOWHERE, Gradient, Winners, leaning, mixed_winners
from gnelint.theory.fields.law import Law
from gnelint.theory.fields.moments import Moments, Peaks
from gnelint.theory.fields.profiles import amplitude, normalised
from gnelint.theory.fields.taps import TapAxis, tap_axis
from gnelint.theory.gaussian.gram_charlier import rectified_moments, skewed_values
from gnelint.theory.gaussian.piecewise import Piece, piecewise_expectation, rectified_source
from gnelint.theory.gaussian.quadrature import GRIDS, panels
from gnelint.theory.gaussian.special import normal_cdf, normal_pdf
from gnelint.theory.spectrum import PLAIN, Structure

_FIXED_ALIKE = 0.25
"""Correlation within a window of what is the same in every sample and differs from place to place (measured, 4 x 4 to
32 x 32 positions)."""


_GRID = GRIDS[0]
_MIDDLE, _TOP = 0.5, 5.0
"""Deviations between which a function has to rise for its largest value to be that of the largest argument."""
_ROUNDING = 1e-9


@cache
def maximum_cumulants(count: int) -> tuple[float, float, float, float]:
    """The first four cumulants of the largest of `count` independent N(0, 1) values (order statistics; theory 3.4)."""
    z, step = np.linspace(-10.0, 10.0, 401, retstep=True)  # of what is this smooth a plain sum is exact to rounding
    density = step * count * normal_pdf(z) * normal_cdf(z) ** (count - 1)
    mean = float(density @ z)
    second, third, fourth = (float(density @ (z - mean) ** power) for power in (2, 3, 4))
    return mean, second, third, fourth - 3.0 * second**2


def _largest_gaussian(count: int, alike: float) -> tuple[float, float]:
    """Mean and variance of the largest of `count` N(0, 1) values that are correlated by `alike`."""
    top, scatter, *_ = maximum_cumulants(count)
    return math.sqrt(1.0 - alike) * top, 1.0 - (1.0 - alike) * (1.0 - scatter)


@cache
def largest_density(count: int, alike: float = 0.0) -> np.ndarray:
    """Weights, on the grid of a law, of the largest of `count` N(0, 1) values; Gaussian where they are correlated."""
    z, weights = panels(_GRID)
    if alike <= 0:
        return np.asarray(weights * count * normal_cdf(z) ** (count - 1))
    mean, variance = _largest_gaussian(count, min(alike, 1.0))
    found = weights * np.exp(0.5 * z**2 - 0.5 * (z - mean) ** 2 / variance)
    return np.asarray(found / found.sum())


def rising(x: Moments) -> Law | None:
    """The law of a value that rises with the Gaussian that it comes of, at least above its middle; None for others."""
    if x.trace is None or (x.nonnegative and not x.positive) or x.trace.root.nonnegative or x.trace.grid is None:
        return None
    law: Law = x.trace.law(_GRID)
    if any(b.count > 1 and a != b for a, b in zip(x.axes, law.axes, strict=True)) or law.axes[0].count > 1:
        return None
    values, z = np.asarray(law.number.value), panels(_GRID)[0]
    upper, lower = values[..., (z > _MIDDLE) & (z < _TOP)], values[..., z <= _MIDDLE]
    scale = _ROUNDING * np.abs(upper).max(axis=-1, keepdims=True)
    rises = np.all(np.diff(upper, axis=-1) >= -scale) and np.all(lower <= upper[..., :1] + scale)
    return law if rises and np.any(upper[..., -1:] > upper[..., :1] + scale) else None


def adaptive_windows(inputs: int, outputs: int) -> list[tuple[int, int]]:
    """The windows [start, stop) of adaptive pooling along one axis."""
    return [(i * inputs // outputs, -(-(i + 1) * inputs // outputs)) for i in range(outputs)]


class _Window(Unary):
    """A window that slides over the spatial axes."""

    def _axes(self) -> list[TapAxis]:
        kernel, strides, pads, dilations = (self.node.attribute(a) for a in ("kernel", "strides", "pads", "dilations"))
        return [
            tap_axis(
                self.input_shape[2 + i], self.shape[2 + i], int(size), int(strides[i]), int(pads[i]), int(dilations[i])
            )
            for i, size in enumerate(kernel)
        ]

    def _distributed(self, g: Gradient, weights: Sequence[np.ndarray]) -> tuple[list[np.ndarray | None], float]:
        """Profile at the input, and energy that one unit of output energy puts on an input entry, by separable weights.

        Args:
            g: cotangent with its profiles along space.
            weights: for each axis (outputs,), the factor on what an output sends through each of its taps.
        """
        profile: list[np.ndarray | None] = list(g.profile[:2])
        factor = 1.0
        for i, axis in enumerate(self._axes()):
            line = weights[i] if g.profile[2 + i] is None else weights[i] * g.profile[2 + i]
            received = axis.scatter(line).sum(axis=0)
            factor *= float(received.mean())
            profile.append(normalised(received))
        return profile, factor

    def _alike(self, x: Moments) -> float:
        """Correlation of two different entries of a window, on average."""
        sizes = [axis.taps for axis in self._axes()]
        count = math.prod(sizes)
        if count < 2:
            return 0.0
        pairs = math.prod(_in_common(size, 0, x.neighbours) for size in sizes) - count
        fixed = x.channel_correlation.fixed
        return (1.0 - fixed) * pairs / (count * (count - 1)) + fixed * _FIXED_ALIKE

    def _neighbours(self, x: Moments) -> float:
        """Correlation of the averages of windows that lie side by side."""
        lines = [
            _in_common(axis.taps, axis.stride, x.neighbours) / _in_common(axis.taps, 0, x.neighbours)
            for axis in self._axes()
        ]
        return sum(lines) / max(len(lines), 1)


def _in_common(size: int, shift: int, neighbours: float) -> float:
    """Sum of the correlations of the entries of a run with those of one that is shifted; they fall linearly."""
    far = np.abs(np.subtract.outer(np.arange(size), np.arange(size) + shift))
    return float(np.maximum(1.0 - (1.0 - neighbours) * far, 0.0).sum())


def _on_channels(g: Gradient) -> Gradient:
    for index in range(2, len(g.axes)):
        g = g.profiled(index)
    return g


class _Averages(Unary):
    """An average over positions."""

    model_error_bits: ClassVar[float | None] = 0.1
    fixed_structure: ClassVar[Structure] = Structure(averages=True)


@component("avg_pool")
class AveragePool(_Averages, _Window):
    """Average over a window of k entries.

        phi = 1 / k (from the taps where windows meet the padding)
        mean -> mean;  variance -> variance / k + covariance (1 - 1/k)

    The forward map takes entries of a window as no more correlated than entries far apart.
    Source: theory 3.4.
    """

    def _divisors(self) -> list[np.ndarray]:
        """What each output divides its sum by, along each axis."""
        found = []
        for i, axis in enumerate(self._axes()):
            if self.node.attribute("count_include_pad"):
                pads = self.node.attribute("pads")
                whole = axis.inputs + int(pads[i]) + int(pads[i + len(pads) // 2])
                starts = np.arange(axis.outputs) * axis.stride
                reach = [sum(1 for tap in range(axis.taps) if start + tap * axis.dilation < whole) for start in starts]
                found.append(np.array(reach, dtype=np.float64))
            else:
                found.append(np.maximum(axis.gather(None).sum(axis=0), 1.0))
        return found

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        lines = []
        for axis, divisor in zip(self._axes(), self._divisors(), strict=True):
            line = np.zeros((axis.outputs, axis.inputs))
            for where, source in axis.spans:
                rows = np.arange(where.start, where.stop)
                line[rows, np.arange(source.start, source.stop, axis.stride)] += 1.0 / divisor[where]
            lines.append(line)
        return _window_variance(lines)

    def map(self, x: Moments) -> Moments:
        x = x.only(0, 1)
        profile = list(x.profile[:2])
        mean_factor = mean_square = energy_factor = copies = 1.0
        for i, (axis, divisor) in enumerate(zip(self._axes(), self._divisors(), strict=True)):
            seen = axis.gather(x.profile[2 + i])
            energy = seen.sum(axis=0) / divisor**2
            line = np.sqrt(seen).sum(axis=0) / divisor
            mean_factor *= float(line.mean())
            mean_square *= float((line**2).mean())
            energy_factor *= float(energy.mean())
            copies *= float((axis.gather(None).sum(axis=0) / divisor).mean()) ** 2
            profile.append(normalised(energy) if x.profile[2 + i] is not None else None)
        mean = x.mean * mean_factor
        covariance = x.position_covariance * copies
        count = math.prod(axis.taps for axis in self._axes())
        energy_factor *= 1.0 + (count - 1.0) * self._alike(x)
        variance = np.maximum((x.variance - x.position_covariance) * energy_factor, 0.0) + covariance
        axes, second = _resized(x, self.shape), variance + x.mean**2 * mean_square
        whole = mean / max(amplitude(profile), 1e-300)
        if np.any(second < whole**2):  # the sum is flatter than the profile says
            profile, whole = [None] * len(axes), mean
        y = x.behind(Effect.MOVED, (whole, np.maximum(second - whole**2, 0.0), covariance), axes, profile)
        return replace(y, neighbours=self._neighbours(x))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = _on_channels(cotangent)
        divisors = self._divisors()
        profile, factor = self._distributed(g, [1.0 / d**2 for d in divisors])
        # a position that several windows read receives from each: the correlated part of these adds up coherently
        reach = 1.0
        for axis, divisor in zip(self._axes(), divisors, strict=True):
            reach *= float((axis.scatter(1.0 / divisor).sum(axis=0) ** 2).mean())
        energy = g.energy * factor + np.maximum(g.position_covariance, 0.0) * max(reach - factor, 0.0)
        return _on_inputs(g, energy, self.input_shape, profile)


def _window_variance(lines: Sequence[np.ndarray]) -> float:
    """phi_2 - phi^2 of a separable linear map from the matrix (outputs, inputs) of each axis (theory 3.4)."""
    phi = second = 1.0
    for line in lines:
        phi *= float((line**2).sum()) / len(line)
        second *= float(((line @ line.T) ** 2).sum()) / len(line)
    return max(second - phi**2, 0.0)


def _on_inputs(
    g: Gradient, energy: np.ndarray, inputs: Sequence[int], profile: Sequence[np.ndarray | None]
) -> Gradient:
    """A gradient at input positions with this energy, whose sum over positions is that of the outputs' gradients g."""
    before, behind = math.prod(g.shape[2:]), math.prod(inputs[2:])
    covariance = energy
    if behind > 1:
        mean_square = g.energy / before + g.position_covariance * (1.0 - 1.0 / before)
        covariance = (mean_square * (before / behind) ** 2 - energy / behind) / (1.0 - 1.0 / behind)
    arrays = (energy, covariance, 0.0 * energy, g.sample_covariance * (before / behind) ** 2)
    return g.behind(Effect.MOVED, arrays, _resized(g, inputs), profile)


def _resized(field: Moments | Gradient, shape: Sequence[int]) -> Axes:
    return tuple(Axis(size) if i >= 2 else axis for i, (axis, size) in enumerate(zip(field.axes, shape, strict=True)))


class Maximum(Unary):
    """The largest of the entries of a window.

        phi = 1 (no ties);  mean, variance -> order statistics of the window

    Entries of a window are taken as independent given what they share; the rectified ones as max(z, 0) of Gaussian z
    that have the same first two moments. Source: theory 3.4.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("entries of a pooling window are independent",)

    def largest(self, x: Moments, count: int, alike: float = 0.0, law: Law | None = None) -> Moments:
        """Moments of the largest of `count` entries, on the input's axes; they are correlated by `alike`.

        Of what rises with a Gaussian (`rising`) the largest is what it is at the largest Gaussian; and so it is of a
        sum of rectified values, whose cumulants say how it rises: the largest of four scatter by 30 % more than those
        of a rectified Gaussian with the same mean and variance.
        """
        if law is not None:
            density = largest_density(count, max(alike, float(law.root.correlation.mean())))
            values = np.asarray(law.number.value)
            mean, second = (resample(values**power @ density, law.axes, x.axes) for power in (1, 2))
            return x.behind(Effect.MOVED, (mean, np.maximum(second - mean**2, 0.0), x.position_covariance))
        if x.silent is not None and x.cumulants is not None and np.all(x.variance > 0):
            density = largest_density(count, max(alike, float(x.correlation.mean())))
            values = skewed_values(x.mean, x.variance, *x.cumulants, panels(_GRID)[0])
            mean, second = (np.maximum(values, 0.0) ** power @ density for power in (1, 2))
            return x.behind(Effect.MOVED, (mean, np.maximum(second - mean**2, 0.0), x.position_covariance))
        share = np.maximum(alike, x.correlation)
        free = x.variance * (1.0 - share)
        top, scatter, third, fourth = maximum_cumulants(count)
        if not x.nonnegative:
            mean = x.mean + np.sqrt(free) * top
            variance = x.variance - free * (1.0 - scatter)
            return x.behind(Effect.MOVED, (mean, variance, x.position_covariance))
        location, scale = rectified_source(x.mean, x.variance)
        alone = scale**2 * (1.0 - share)
        inner_mean, inner_variance = location + np.sqrt(alone) * top, scale**2 - alone * (1.0 - scatter)
        if np.all(inner_variance > 0):
            _, mean, second, *_ = rectified_moments(inner_mean, inner_variance, third * alone**1.5, fourth * alone**2)
        else:
            pieces = (Piece(-math.inf, 0.0, (0.0,)), Piece(0.0, math.inf, (0.0, 1.0)))
            mean, second = (piecewise_expectation(pieces, power, inner_mean, inner_variance) for power in (1, 2))
        return x.behind(Effect.MOVED, (mean, np.maximum(second - mean**2, 0.0), x.position_covariance))

    def shape_of_largest(self, x: Moments, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The third and fourth cumulant of the largest of `count` entries; few of many are cut by a rectifier."""
        free = np.sqrt(np.maximum(x.variance - x.position_covariance, 0.0))
        scale = rectified_source(x.mean, x.variance)[1] if x.nonnegative else free
        _, _, third, fourth = maximum_cumulants(count)
        return third * scale**3, fourth * scale**4

    def winners(self, x: Moments, count: int) -> np.ndarray:
        """`Gradient.mask_overlap` of the winners: how much surer than any entry one is to be positive."""
        if not x.nonnegative:
            return np.zeros_like(x.mean)
        return np.asarray(1.0 - (1.0 - x.positive_share) ** (count - 1))


@component("max_pool")
class MaxPool(_Window, Maximum):
    """Maximum over a sliding window; the gradient goes to the winner, so its total is kept where windows do not
    overlap. A second output is the winners' places, which are as likely to be any. Source: theory 3.4."""

    def forward(self, inputs: Inputs) -> tuple[Moments, ...]:
        places = math.prod(self.input_shape)
        indices = (Moments.uniform(s, (places - 1) / 2, (places**2 - 1) / 12) for s in self.output_shapes[1:])
        return (*super().forward(inputs), *indices)

    def phis(self, inputs: Inputs, outputs: Sequence[Moments]) -> tuple[float | None, ...]:
        """Of the values: the places carry no gradient."""
        (g,) = self.backward(inputs, outputs, [Gradient.white(self.shape)])
        return (None if g is None else g.total / math.prod(self.shape),)

    @property
    def _count(self) -> int:
        return math.prod(int(size) for size in self.node.attribute("kernel"))

    def _peaks(self, x: Moments) -> Peaks:
        """A maximum of maxima is one of all entries that these have seen."""
        axes = self._axes()
        ones = (1,) * len(axes)
        before = x.peaks or Peaks(x, ones, ones, (0,) * len(axes))
        rows = list(zip(axes, before.spans, before.steps, before.starts, strict=True))
        return Peaks(
            before.of,
            tuple((axis.taps - 1) * step + span for axis, span, step, _ in rows),
            tuple(axis.stride * step for axis, _, step, _ in rows),
            tuple(start - axis.pad * step for axis, _, step, start in rows),
        )

    def _window_sizes(self, peaks: Peaks) -> dict[int, float]:
        """How often a window has this many entries inside the input."""
        sizes = np.ones(1)
        for axis, span, size in zip(self._axes(), peaks.spans, peaks.of.shape[2:], strict=True):
            inside = axis.gather(None).sum(axis=0)
            step = (span - axis.taps) // max(axis.taps - 1, 1) + 1 if span > axis.taps else 1
            seen = np.minimum(inside if span == axis.taps else span - (axis.taps - inside) * step, size)
            sizes = np.outer(sizes, seen).reshape(-1)
        found, times = np.unique(np.maximum(sizes, 1.0), return_counts=True)
        return {int(size): float(count) / sizes.size for size, count in zip(found, times, strict=True)}

    def map(self, x: Moments) -> Moments:
        peaks = self._peaks(x)
        cells, law = peaks.of.only(0, 1), rising(peaks.of)
        x = replace(cells.flattened(), cumulants=cells.cumulants)  # what borders do to an entry's shape is little
        mean, second, max_square = (np.zeros_like(x.mean) for _ in range(3))
        alike = self._alike(x)
        for count, share in self._window_sizes(peaks).items():
            y = self.largest(x, count, alike, law)
            mean, second = mean + share * y.mean, second + share * y.second
            max_square = max_square + share * y.mean**2
        variance = np.maximum(second - mean**2, 0.0)
        again = self._again(peaks)
        arrays = (mean, variance, np.minimum(x.position_covariance + again * variance, variance))
        y = x.behind(Effect.MOVED, arrays, _resized(x, self.shape))
        # windows at the border have fewer entries, and smaller maxima: in every channel and sample alike
        border = np.divide(max_square - mean**2, variance, out=np.zeros_like(mean), where=variance > 0)
        fixed = ChannelCorrelation(fixed=float(np.clip(border, 0.0, 1.0).mean()), few=1.0)
        found = replace(y.channel_correlation, fixed=y.channel_correlation.fixed * (1.0 - fixed.fixed)).plus(fixed)
        return replace(
            y,
            peaks=peaks,
            cumulants=self.shape_of_largest(x, math.prod(peaks.spans)),
            channel_correlation=replace(found, fixed=found.fixed * (1.0 - again)),
            neighbours=self._neighbours_of(peaks),
        )

    def _again(self, peaks: Peaks) -> float:
        """Correlation of two outputs that comes of windows that overlap, over all pairs."""
        alone = all(span == axis.taps for span, axis in zip(peaks.spans, self._axes(), strict=True))
        times = self._multiplicity if alone else _met_by(peaks, self.shape[2:])
        return min(times / max(math.prod(self.shape[2:]) - 1, 1), 1.0)

    def _neighbours_of(self, peaks: Peaks) -> float:
        """Two largest of n entries that have s in common are correlated by (s / n + s / (2 n - s)) / 2 within 3 %
        (measured, n from 3 to 25); what neighbours share adds what it adds to averages."""
        lines = []
        for span, step in zip(peaks.spans, peaks.steps, strict=True):
            common = max(span - step, 0) / span
            near = peaks.of.neighbours
            more = _in_common(span, step, near) / _in_common(span, 0, near) - common
            lines.append((common + common / (2.0 - common)) / 2.0 + max(more, 0.0))
        return min(sum(lines) / max(len(lines), 1), 1.0)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = _on_channels(cotangent)
        weights = [1.0 / np.maximum(axis.gather(None).sum(axis=0), 1.0) for axis in self._axes()]
        profile, factor = self._distributed(g, weights)
        # an entry that wins several windows receives the sum of what these share
        times, owed = self._sums_again(x, cotangent.winners.owed)
        again = times * math.prod(self.shape[2:]) / math.prod(self.input_shape[2:])
        energy = np.maximum(g.energy * factor + g.position_covariance * again, 0.0)
        pulled = _on_inputs(g, energy, self.input_shape, profile)
        entries, largest = (each.flattened().only(0, 1) for each in (x, y))
        pulled = marked(pulled, entries.axes, self.winners(entries, self._count))
        pulled = replace(pulled, winners=replace(self._sent(x, cotangent.winners), owed=owed))
        if not pulled.correlated or largest.mean.shape != entries.mean.shape:
            return pulled
        # winners are larger than other entries
        above = leaning(largest.mean - entries.mean, entries.variance)
        return replace(pulled, lean=on_cells_of(pulled, above, entries.axes))

    def _sent(self, x: Moments, behind: Winners) -> Winners:
        """All of it sits on the largest of a window; what was on the largest of those is on the largest of more."""
        if x.nonnegative and not x.positive and x.silent is None:  # `mask_overlap` says it all
            return NOWHERE
        peaks = self._peaks(x)
        root = peaks.of if peaks.of.trace is None else peaks.of.trace.root
        alike = max(self._alike(peaks.of), float(np.maximum(root.correlation, 0.0).mean()))
        sizes = self._window_sizes(peaks)
        whole = max(sum(count * share for count, share in sizes.items()), 1.0)
        here = Winners(1.0, *_largest_gaussian(max(round(whole), 1), min(alike, 1.0)))
        return mixed_winners(((1.0 - behind.share, here), (behind.share, replace(behind, share=1.0))))

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        return self._multiplicity

    @cached_property
    def _multiplicity(self) -> float:
        """By how many other outputs an output's winner is picked too."""
        lines = []
        for axis in self._axes():
            seen = np.zeros((axis.outputs, axis.inputs))
            for where, source in axis.spans:
                seen[np.arange(where.start, where.stop), np.arange(source.start, source.stop, axis.stride)] = 1.0
            lines.append(seen)
        return _picked_too(lines)

    def _sums_again(self, x: Moments, owed: float) -> tuple[float, float]:
        """How many times what outputs share an entry gets besides their energy, and what it is owed further in front.

        Maxima of maxima are alike where their windows have one entry on top, L of them in a row. A window of w that
        begins before them picks the first, w of w + L - 1 windows, the others pick one each. What these entries got
        comes to one at last: all in all it is what maxima of all that they have seen would send.
        """
        if x.peaks is None:
            return self._multiplicity + owed, 0.0
        sizes = zip(self._axes(), x.peaks.spans, x.peaks.steps, strict=True)
        here = 1.0
        for axis, span, step in sizes:
            row = min(-(-span // step), axis.inputs)
            here *= 1.0 + axis.taps * (axis.taps - 1.0) / (row + axis.taps - 1.0) / max(axis.stride, 1)
        whole = _met_by(self._peaks(x), self.shape[2:]) - _met_by(x.peaks, x.shape[2:])
        return here - 1.0, owed + max(whole - (here - 1.0), 0.0)

    def structure(self, inputs: Inputs, outputs: Sequence[Moments]) -> Structure:
        """Behind a rectifier's mask c = (1 + c_pool) / P(a winner is positive) - 1, where freedom counts (m / m_1)
        (1 - P) / P of the mask."""
        x = first_input(inputs)
        if not x.nonnegative:
            return PLAIN
        x = x.only(0, 1).flattened()
        location, scale = rectified_source(x.mean, x.variance)
        silent = normal_cdf(np.divide(-location, scale, out=np.full_like(location, np.inf), where=scale > 0))
        weight = cell_weights(x)
        share = float(((1.0 - silent) * weight).sum())
        winning = float(((1.0 - silent**self._count) * weight).sum())
        if share <= 0 or winning <= 0:
            return PLAIN
        own = self.phi_variance(inputs, outputs) or 0.0
        ratio = math.prod(self.shape) / max(math.prod(self.input_shape), 1)
        passed = (1.0 - share) / share - (1.0 + own) * (1.0 - winning) / winning / ratio
        return Structure(counted=passed)


def _met_by(peaks: Peaks, outputs: Sequence[int]) -> float:
    """`_picked_too` of windows over the entries that maxima of maxima have seen."""
    windows = zip(outputs, peaks.of.shape[2:], peaks.spans, peaks.steps, peaks.starts, strict=True)
    return _picked_too([_looked_at(*window) for window in windows])


def _looked_at(outputs: int, inputs: int, span: int, step: int, start: int) -> np.ndarray:
    """(outputs, inputs) along an axis: 1 where a window sees an entry."""
    far = np.arange(inputs) - (start + step * np.arange(outputs)[:, None])
    return ((far >= 0) & (far < span)).astype(np.float64)


def _picked_too(seen: Sequence[np.ndarray]) -> float:
    """By how many other outputs an output's winner is picked too, from what each sees along each axis.

    Two windows that have s of their u entries in common pick the same with probability s / u (theory 3.4).
    """
    # pairs (overlap, size, size) along each axis with their counts, few of them different
    pairs = [_counted_pairs(line @ line.T, line.sum(axis=1)) for line in seen]
    total = 0.0
    for combination in itertools.product(*pairs):
        common = math.prod(pair[0] for pair in combination)
        union = math.prod(pair[1] for pair in combination) + math.prod(pair[2] for pair in combination) - common
        total += math.prod(pair[3] for pair in combination) * common / union
    return max(total / math.prod(len(line) for line in seen) - 1.0, 0.0)


def _counted_pairs(overlap: np.ndarray, sizes: np.ndarray) -> list[tuple[float, float, float, int]]:
    """(entries in common, entries of each, how often) over the pairs of windows of one axis that meet."""
    first, second = np.nonzero(overlap)
    found = Counter(zip(overlap[first, second], sizes[first], sizes[second], strict=True))
    return [(float(a), float(b), float(c), times) for (a, b, c), times in found.items()]


def on_cells_of(g: Gradient, array: np.ndarray, axes: Axes) -> np.ndarray:
    """An array on the cells of these axes, which are no finer than the gradient's, on those of the gradient."""
    target = tuple(b if a.is_pooled else a for a, b in zip(axes, g.axes, strict=True))
    return np.broadcast_to(resample(array, axes, target), counts(g.axes))


def marked(g: Gradient, axes: Axes, mask_overlap: np.ndarray) -> Gradient:
    """The gradient with `mask_overlap` set from an array on the cells of these axes."""
    g = g.refined(axes)
    return replace(g, mask_overlap=on_cells_of(g, mask_overlap, axes))


@component("lp_pool")
class LpPool(_Window):
    """(sum over the window of |x|^p)^(1/p); p = 1 and p = 2 of nearly constant norms.

    phi of the Euclidean norm is 1 (its gradient is a unit vector); other powers are not modelled.

    Source: theory 3.4.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the norm of a window hardly fluctuates",)

    def _count(self) -> float:
        return float(np.prod([int(size) for size in self.node.attribute("kernel")]))

    def map(self, x: Moments) -> Moments:
        if int(self.node.attribute("p")) != 2:
            raise NotModelledError(f"Lp pooling with p = {self.node.attribute('p')}")
        x = x.only(0, 1).flattened()
        size = np.sqrt(self._count() * x.second)
        variance = np.divide(
            x.variance * (x.mean**2 + x.variance / 2), x.second, out=np.zeros_like(size), where=x.second > 0
        )
        return Moments.flat(
            _resized(x, self.shape), np.sqrt(np.maximum(size**2 - variance, 0.0)), variance, nonnegative=True
        )

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = _on_channels(cotangent)
        weights = [1.0 / np.maximum(axis.gather(None).sum(axis=0), 1.0) for axis in self._axes()]
        profile, factor = self._distributed(g, weights)
        arrays = (g.energy * factor, 0.0 * g.position_covariance)
        return g.behind(Effect.MOVED, arrays, _resized(g, self.input_shape), profile)


class _Whole(Unary):
    """A window that is the whole image."""

    @property
    def _count(self) -> int:
        return math.prod(self.input_shape[2:])

    def _distributed_back(self, g: Gradient, energy: float, covariance: float) -> Gradient:
        axes = _resized(g, self.input_shape)
        profile = (*g.profile[:2], *(None,) * (len(axes) - 2))
        across = g.sample_covariance / self._count**2
        arrays = (g.energy * energy, g.energy * covariance, 0.0 * g.energy, across)
        return g.behind(Effect.MOVED, arrays, axes, profile)


@component("global_avg_pool")
class GlobalAveragePool(_Averages, _Whole):
    """Average over all positions: phi = 1 / positions; the gradient behind it is the same at all (theory 3.4)."""

    fixed_phi_variance: ClassVar[float | None] = 0.0

    def map(self, x: Moments) -> Moments:
        x = x.only(0, 1)
        variance = x.variance / self._count + x.position_covariance * (1.0 - 1.0 / self._count)
        y = Moments.flat(_resized(x, self.shape), x.mean * x.amplitude(), variance, nonnegative=x.nonnegative)
        return replace(y, channel_correlation=x.channel_correlation.averaged(), mean_known=x.mean_known)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return self._distributed_back(cotangent, 1.0 / self._count**2, 1.0 / self._count**2)


@component("global_max_pool")
class GlobalMaxPool(_Whole, Maximum):
    """Maximum over all positions: phi = 1 (theory 3.4)."""

    fixed_phi_variance: ClassVar[float | None] = 0.0

    def map(self, x: Moments) -> Moments:
        y = self.largest(x.only(0, 1).flattened(), self._count)
        return Moments.flat(_resized(y, self.shape), y.mean, y.variance, nonnegative=x.nonnegative)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        x = x.only(0, 1)
        return marked(self._distributed_back(cotangent, 1.0 / self._count, 0.0), x.axes, self.winners(x, self._count))


@component("global_lp_pool")
class GlobalLpPool(_Whole):
    """Euclidean norm over all positions: phi = 1 (its gradient is a unit vector; theory 3.4)."""

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the norm of a channel hardly fluctuates",)

    def map(self, x: Moments) -> Moments:
        if int(self.node.attribute("p")) != 2:
            raise NotModelledError(f"Lp pooling with p = {self.node.attribute('p')}")
        x = x.only(0, 1).flattened()
        size = np.sqrt(self._count * x.second)
        return Moments.flat(_resized(x, self.shape), size, 0.5 * x.variance, nonnegative=True)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return self._distributed_back(cotangent, 1.0 / self._count, 0.0)


class _Adaptive(Unary):
    """Windows that cut every axis into a given number of parts."""

    def _axis_windows(self) -> list[list[tuple[int, int]]]:
        return [adaptive_windows(self.input_shape[i], self.shape[i]) for i in range(2, len(self.shape))]

    def _received(self, g: Gradient, power: int) -> tuple[list[np.ndarray | None], float]:
        profile: list[np.ndarray | None] = list(g.profile[:2])
        factor = 1.0
        for i, windows in enumerate(self._axis_windows()):
            received = np.zeros(self.input_shape[2 + i])
            for p, (start, stop) in enumerate(windows):
                own = g.profile[2 + i]
                received[start:stop] += (1.0 if own is None else own[p]) / (stop - start) ** power
            factor *= float(received.mean())
            profile.append(normalised(received))
        return profile, factor


@component("adaptive_avg_pool")
class AdaptiveAveragePool(_Averages, _Adaptive):
    """Average over adaptive windows: phi = mean over windows of 1 / k (theory 3.4)."""

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        lines = []
        for i, windows in enumerate(self._axis_windows()):
            line = np.zeros((len(windows), self.input_shape[2 + i]))
            for p, (start, stop) in enumerate(windows):
                line[p, start:stop] = 1.0 / (stop - start)
            lines.append(line)
        return _window_variance(lines)

    def map(self, x: Moments) -> Moments:
        x = x.only(0, 1)
        factor = 1.0
        for windows in self._axis_windows():
            factor *= float(np.mean([1.0 / (stop - start) for start, stop in windows]))
        own = np.maximum(x.variance - x.position_covariance, 0.0)
        variance = own * (factor + (1.0 - factor) * self._alike(x, factor)) + x.position_covariance
        covariance = 0.0 if math.prod(self.shape[2:]) == 1 else x.position_covariance
        y = Moments.flat(_resized(x, self.shape), x.mean * x.amplitude(), variance, covariance, x.nonnegative)
        return replace(y, channel_correlation=x.channel_correlation.averaged())

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = _on_channels(cotangent)
        profile, factor = self._received(g, 2)
        return _on_inputs(g, g.energy * factor, self.input_shape, profile)

    def _alike(self, x: Moments, factor: float) -> float:
        """Correlation of two different entries of a window of 1 / factor, on average, of what padding has made the same
        in every sample: nothing where the window is the whole map, whose mean it is."""
        whole = 1.0 / (factor * max(math.prod(self.input_shape[2:]), 1))
        return x.channel_correlation.fixed * _FIXED_ALIKE * max(1.0 - whole, 0.0)


@component("adaptive_max_pool")
class AdaptiveMaxPool(_Adaptive, Maximum):
    """Maximum over adaptive windows: phi = 1 (theory 3.4)."""

    def map(self, x: Moments) -> Moments:
        outputs = max(math.prod(self.shape[2:]), 1)
        count = max(1, round(math.prod(self.input_shape[2:]) / outputs))
        y = self.largest(x.only(0, 1).flattened(), count)
        return Moments.flat(_resized(y, self.shape), y.mean, y.variance, y.position_covariance, x.nonnegative)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = _on_channels(cotangent)
        profile, factor = self._received(g, 1)
        return _on_inputs(g, g.energy * factor, self.input_shape, profile)
