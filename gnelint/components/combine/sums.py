"""Sums of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gnelint.components.base import Basis, Gradients, Inputs, OneOutput, Remembered, component
from gnelint.components.combine.operands import UNCORRELATED, aligned, known
from gnelint.records import cached_property, replace
from gnelint.theory.fields.autocorrelation import mixed_autocorrelation
from gnelint.theory.fields.cells import (
    Axes,
    nothing_like,
    resample,
    times,
)
from gnelint.theory.fields.channel_correlation import NOTHING_AHEAD, ChannelCorrelation, meetings, summed
from gnelint.theory.fields.field import Effect
from gnelint.theory.fields.gradient import NOWHERE, UNPROJECTED, Gradient, Sense, Winners
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.nearby import mixed_nearby
from gnelint.theory.fields.profiles import mixed_profile
from gnelint.theory.gaussian.piecewise import rectified_source
from gnelint.theory.gaussian.quadrature import panels
from gnelint.theory.gaussian.rectified_sum import Above, cut_gaussian, rectified_sum_moments, surviving_share
from gnelint.theory.gaussian.special import normal_cdf, normal_pdf

_MOST_TOLD = 4.0
"""By how much an operand is believed to tell more of a sum's sign than its share of the deviation does."""
_PANELS = 4
"""Of eight points each: what the largest of several sums tells is integrated over a Gaussian."""


class _Linear(OneOutput):
    """A weighted sum of the inputs."""

    basis: ClassVar[Basis] = "theorem"
    assumptions: ClassVar[tuple[str, ...]] = (UNCORRELATED,)

    def weights(self) -> tuple[float, ...]:
        """The factor of each input."""
        return (1.0,) * len(self.input_shapes)

    def joined(self, inputs: Inputs) -> Moments:
        parts = aligned(known(inputs), self.output_shapes[0])
        weights = self.weights()
        terms = list(zip(weights, parts, strict=True))
        energies = [w**2 * x.total_second for w, x in terms]
        profile = tuple(
            mixed_profile([(e, x.profile[i]) for e, x in zip(energies, parts, strict=True)], size)
            if parts[0].axes[i].is_pooled
            else None
            for i, size in enumerate(self.output_shapes[0])
        )
        mean = sum((w * x.mean for w, x in terms), np.zeros(1))
        variance = sum((w**2 * x.variance for w, x in terms), np.zeros(1))
        covariance = sum((w**2 * x.position_covariance for w, x in terms), np.zeros(1))
        nonnegative = all((x.nonnegative and w >= 0) or e == 0 for (w, x), e in zip(terms, energies, strict=True))
        positive = nonnegative and any(x.positive for _, x in terms)
        y = Moments(parts[0].axes, profile, mean, variance, covariance, nonnegative=nonnegative, positive=positive)
        shares = [(w**2 * float(x.variance.mean()), x) for w, x in terms]
        autocorrelation = mixed_autocorrelation([(share, x.autocorrelation) for share, x in shares])
        correlations = [(share, x.channel_correlation) for share, x in shares]
        y = replace(y, cumulants=_summed(parts, weights), channel_correlation=summed(correlations))
        y = replace(y, rectified_part=_rectified_part(parts, weights, y))
        if total := sum(share for share, _ in shares):
            y = replace(
                y,
                neighbours=sum(share * x.neighbours for share, x in shares) / total,
                nearby=mixed_nearby([(share, x.nearby) for share, x in shares]),
                mean_known=sum(share * x.mean_known for share, x in shares) / total,
                square_known=sum(share**2 * x.square_known for share, x in shares) / total**2,
                balanced=sum(share * x.balanced for share, x in shares) / total,
                steady=sum(share * x.steady for share, x in shares) / total,
                levelled=sum(share**2 * x.levelled for share, x in shares) / total**2 + _evened(y, correlations),
            )
        y = replace(y, parted=_parted([(w**2 * float(x.position_covariance.mean()), x) for w, x in terms]))
        if nonnegative and not positive:
            y = replace(y, silent=_silent([x for e, x in zip(energies, parts, strict=True) if e]))
        return y.with_autocorrelation(autocorrelation)

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        found: list[Gradient | None] = []
        weights = self.weights()
        overlaps: list[Moments | None] = [None] * len(inputs)
        if g.mask_overlap.any() and min(weights) > 0 and None not in inputs:
            overlaps = self._overlaps.of((*inputs, y), lambda: self._find_overlaps(known(inputs), y))
        for number, (weight, shape, overlap) in enumerate(zip(weights, self.input_shapes, overlaps, strict=True)):
            assert shape is not None
            trunk = self._is_trunk(number, inputs, y)
            cut = None
            won = None if overlap is None or y.silent is None or not g.winners.share else g.winners
            if overlap is not None and trunk and g.cut is not None and not g.survived:
                overlap, cut = self._above(y, g.cut)
            elif overlap is not None and trunk and g.survived > 1.0:
                overlap = self._of_survivors(y, g.survived)
            pulled = g.refined(overlap.axes) if overlap is not None else g
            none = nothing_like(pulled.mask_overlap)
            surely = none if overlap is None else resample(overlap.mean, overlap.axes, pulled.axes)
            energy, covariance, known_overlap, across, lean = pulled.arrays()
            passed_on = times(known_overlap, surely)
            if won is not None:
                there = resample(self._of_winners(number, known(inputs), y, won), y.axes, pulled.axes)
                passed_on = won.share * there + np.maximum(known_overlap - won.share, 0.0) * surely
            square = np.asarray(weight**2)
            arrays = (
                times(energy, square),
                times(covariance, square),
                passed_on,
                times(across, square),
                lean * self._followed(number, weight, inputs, y, pulled) if lean.any() else lean,
            )
            pulled = replace(pulled.behind(Effect.SCALED, arrays), cut=cut, sense=None)
            if g.correlated and len(inputs) > 1:
                pulled = replace(pulled, sense=Sense(self.node.name, np.sign(np.asarray(weight))))
            if g.ahead is not NOTHING_AHEAD:
                pulled = replace(pulled, ahead=g.ahead.scaled(self._share_of_variance(number, weight, inputs, y)))
            if g.projected is not UNPROJECTED:  # it followed the sum, which its operand is a part of
                share = self._share_of_variance(number, weight, inputs, y)
                pulled = replace(pulled, projected=replace(g.projected, along=g.projected.along * share))
            if g.winners is not NOWHERE:
                share = self._share_of_variance(number, weight, inputs, y)
                pulled = replace(pulled, winners=g.winners.of_part(share) if weight > 0 else NOWHERE)
            if g.survived and not trunk:
                pulled = replace(pulled, survived=0.0)
            found.append(pulled.summed_to(shape))
        return tuple(found)

    @staticmethod
    def _share_of_variance(number: int, weight: float, inputs: Inputs, y: Moments) -> float:
        x, whole = inputs[number], float(y.variance.mean())
        return 0.0 if x is None or whole <= 0 else min(weight**2 * float(x.variance.mean()) / whole, 1.0)

    def _share_of_deviation(self, number: int, weight: float, inputs: Inputs, y: Moments, axes: Axes) -> np.ndarray:
        """Correlation of an operand with the sum, on these cells: their ratio of deviations."""
        x = inputs[number]
        if x is None or x.shape != y.shape:
            return np.zeros(1)
        own, whole = x.refined(axes).refined(axes), y.refined(axes).refined(axes)
        if own.axes != whole.axes or own.axes != axes:
            return np.zeros(1)
        share = np.divide(own.variance, whole.variance, out=np.zeros_like(own.variance), where=whole.variance > 0)
        return np.asarray(np.sign(weight) * np.sqrt(np.clip(weight**2 * share, 0.0, 1.0)))

    def _followed(self, number: int, weight: float, inputs: Inputs, y: Moments, g: Gradient) -> np.ndarray:
        """How much of what follows the sum follows an operand: the correlation of the two, but for a rectifier's mask.

        Beside a rectified s, 0 more often than not, whether b + s is above 0 is told by b much oftener than the ratio
        of deviations says: E[b 1(b + s > 0)] = sd_b E pdf((mean_b + s) / sd_b). What b does not have of the sum's, s
        has. Of what follows the sum for another reason each has its share. Source: theory 3.7.
        """
        linear = self._share_of_deviation(number, weight, inputs, y, g.axes)
        if len(inputs) != 2 or min(self.weights()) <= 0 or not linear.any():
            return linear
        own, other = inputs[number], inputs[1 - number]
        if own is None or other is None or own.nonnegative == other.nonnegative or y.nonnegative:
            return linear
        told = self._told.of((*inputs, y), lambda: self._find_told(known(inputs), y))
        if told is None:
            return linear
        more, masked = (
            resample(a, told.axes, tuple(t if a.is_pooled else a for a, t in zip(g.axes, told.axes, strict=True)))
            for a in (told.mean, told.variance)
        )
        of_mask = np.minimum(np.divide(masked, g.lean, out=np.ones(g.lean.shape), where=g.lean > masked), 1.0)
        factor = 1.0 + (more - 1.0) * of_mask
        if not own.nonnegative:
            return np.asarray(linear * factor)
        rest = self._share_of_deviation(1 - number, self.weights()[1 - number], inputs, y, g.axes)
        return np.asarray(np.maximum(1.0 - rest**2 * factor, 0.0) / np.maximum(linear, 1e-6))

    @cached_property
    def _told(self) -> Remembered[Moments | None]:
        return Remembered()

    def _find_told(self, operands: Sequence[Moments], y: Moments) -> Moments | None:
        """By how much more than its share the operand that is no rectifier's tells of the sum's mask, as a mean; and
        `Gradient.lean` of what has passed that mask, as a variance."""
        parts, weights = aligned(operands, y.shape), self.weights()
        number = 1 if operands[0].nonnegative else 0
        free, cut = weights[number], weights[1 - number]
        b, s = parts[number], parts[1 - number]
        whole = y.refined(b.axes)
        if (
            whole.axes != b.axes
            or (b.variance <= 0).any()
            or (whole.variance <= 0).any()
            or operands[1 - number].positive
        ):
            return None
        location, scale = (cut * array for array in rectified_source(s.mean, s.variance))
        mean, deviation = free * b.mean, free * np.sqrt(b.variance)
        both = np.hypot(deviation, scale)
        silent = normal_cdf(np.divide(-location, scale, out=np.full_like(location, -math.inf), where=scale > 0))
        reach = np.divide(
            location * deviation**2 - mean * scale**2,
            both * deviation * scale,
            out=np.zeros_like(both),
            where=scale > 0,
        )
        told = silent * normal_pdf(mean / deviation)
        told = told + deviation / both * normal_pdf((location + mean) / both) * normal_cdf(reach)
        share, above = (resample(a, y.axes, whole.axes) for a in (y.positive_share, y.rectified[1]))
        masked = np.maximum(above - share * whole.mean, 0.0) / np.sqrt(whole.variance)
        followed = masked * deviation / np.sqrt(whole.variance)
        ratio = np.divide(told, followed, out=np.ones_like(told), where=followed > 1e-6)
        return Moments.flat(whole.axes, np.clip(ratio, 0.0, _MOST_TOLD), masked / np.maximum(share, 1e-6))

    @cached_property
    def _overlaps(self) -> Remembered[list[Moments | None]]:
        return Remembered()

    def _find_overlaps(self, operands: Sequence[Moments], y: Moments) -> list[Moments | None]:
        parts = aligned(operands, y.shape)
        return [self._mask_overlap(index, x, parts, y) for index, x in enumerate(operands)]

    @staticmethod
    def _is_trunk(number: int, inputs: Inputs, y: Moments) -> bool:
        x = inputs[number]
        return y.rectified_part is not None and x is not None and _is_rectified(x)

    @staticmethod
    def _above(y: Moments, cut: float) -> tuple[Moments, float]:
        """As `_mask_overlap`, of a gradient that sits where the sum lies so many deviations above its mean; and
        `Gradient.cut` of the rectified part, as many entries of which lie above that as are above 0 there."""
        assert y.rectified_part is not None
        law, mean, variance = y.rectified_part
        free, spread = y.mean - mean - (y.mean + cut * np.sqrt(y.variance)), y.variance - variance
        silent = normal_cdf(free / np.sqrt(spread))
        whole = rectified_sum_moments(law, free, spread)[0]
        surely = 1.0 - np.divide(silent, whole, out=np.ones_like(whole), where=whole > 0)
        end = law.quantile(whole - (1.0 - law.share) * silent)
        found = float(((end - mean) / np.sqrt(variance)).mean())
        return Moments.flat(y.axes, np.clip(surely, 0.0, 1.0), np.zeros(1)), found

    @staticmethod
    def _of_survivors(y: Moments, steps: float) -> Moments:
        """As `_mask_overlap`, of a gradient that sits where a walk of so many sums like this one has stayed above 0:
        there the operand was above 0 more surely than where one sum is."""
        assert y.rectified_part is not None
        law, mean, variance = y.rectified_part
        surely = surviving_share(law, y.mean - mean, y.variance - variance, steps)
        beyond = np.divide(surely - law.share, 1.0 - law.share, out=np.ones_like(surely), where=law.share < 1.0)
        return Moments.flat(y.axes, np.clip(beyond, 0.0, 1.0), np.zeros(1))

    def _of_winners(self, index: int, operands: Sequence[Moments], y: Moments, winners: Winners) -> np.ndarray:
        """As `_mask_overlap`, of what sits on the largest of several sums of rectified values, on the sum's cells.

        a = 1 - E r(z) / E r(x + z), r being how much oftener a sum as large as this is the largest, z and x + z
        rectified Gaussians of the same two moments. Within 0.025 of P(x > 0) drawn for 2 to 4
        operands, windows of 4 and 9.
        """
        parts = aligned(operands, y.shape)
        rest = [(w, each) for i, (w, each) in enumerate(zip(self.weights(), parts, strict=True)) if i != index]
        alone = (
            sum((w * each.mean for w, each in rest), np.zeros(1)),
            sum((w**2 * each.variance for w, each in rest), np.zeros(1)),
        )
        location, scale = rectified_source(y.mean, y.variance)
        level, weight = panels(_PANELS)

        def oftener(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
            start, width = (resample(each, parts[0].axes, y.axes) for each in rectified_source(mean, variance))
            z = np.maximum(start[..., None] + width[..., None] * level, 0.0)
            u = (z - location[..., None]) / np.maximum(scale[..., None], 1e-300)
            log = 0.5 * (u**2 - (u - winners.above) ** 2 / winners.scatter)
            return np.asarray(np.exp(log) @ weight)

        whole = oftener(y.mean, y.variance)
        share = np.divide(oftener(*alone), whole, out=np.ones_like(whole), where=whole > 0)
        return np.asarray(np.clip(1.0 - share, 0.0, 1.0))

    def _mask_overlap(self, index: int, x: Moments, parts: Sequence[Moments], y: Moments) -> Moments | None:
        """How surely operand x, one of the aligned parts, is above its floor where the sum is positive, beyond chance,
        as the mean of a value on the sum's cells.

        For x >= f beside a rest z: P(x > f | x + z > 0) = P(x > f) + a P(x = f), a = 1 - P(z > -f) / P(x + z > 0).
        None where nothing is known.
        """
        part = parts[index]
        rest = [other for number, other in enumerate(parts) if number != index]
        if sum(other.total_second for other in rest) <= 1e-6 * x.total_second:  # beside zeros the sum is the operand
            return Moments.flat(y.axes, np.ones(1), np.zeros(1))
        if not x.nonnegative and part.floor is None:
            return None
        weights = [w for number, w in enumerate(self.weights()) if number != index]
        mean = sum((w * other.mean for w, other in zip(weights, rest, strict=True)), np.zeros(1))
        variance = sum((w**2 * other.variance for w, other in zip(weights, rest, strict=True)), np.zeros(1))
        if part.floor is not None and not x.nonnegative:  # the rest has to make up for it
            mean = mean + self.weights()[index] * part.floor
        nonnegative = x.nonnegative and all(other.nonnegative for other in rest)
        alone = Moments.flat(rest[0].axes, mean, variance, nonnegative=nonnegative)
        alone = replace(alone, cumulants=_summed(rest, weights), silent=_silent(rest) if nonnegative else None)
        whole = y.positive_share
        beside = resample(alone.positive_share, alone.axes, y.axes)
        share = np.divide(beside, whole, out=np.ones_like(whole), where=whole > 0)
        return Moments.flat(y.axes, np.clip(1.0 - share, 0.0, 1.0), np.zeros(1))


def _parted(parts: Sequence[tuple[float, Moments]]) -> float:
    """`Moments.parted` of a sum, of operands with what their entries have in common."""
    total = sum(shared for shared, _ in parts)
    return sum(shared * x.parted for shared, x in parts) / total if total > 0 else max(x.parted for _, x in parts)


def _silent(parts: Sequence[Moments]) -> np.ndarray:
    """P(x = 0) of a sum of independent values that are not negative: all of them are 0."""
    return math.prod((1.0 - x.positive_share for x in parts), start=np.ones(1))


def _evened(y: Moments, parts: Sequence[tuple[float, ChannelCorrelation]]) -> float:
    """`Moments.levelled` of what parts of a sum have in common, of the share of the squares that varies."""
    even = meetings(parts)[1]
    if not even:
        return 0.0
    square = float(y.second.mean()) - float(y.mean.mean()) ** 2
    return 2.0 * even * min(float(y.variance.mean()) / square, 1.0) ** 2 if square > 0 else 0.0


def _summed(parts: Sequence[Moments], weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray] | None:
    """Cumulants of a sum of independent parts: they add; those of a Gaussian are 0."""
    known = [(w, x.cumulants) for w, x in zip(weights, parts, strict=True) if x.cumulants is not None]
    if not known:
        return None
    return sum(w**3 * c[0] for w, c in known), sum(w**4 * c[1] for w, c in known)  # type: ignore[return-value]


_LEAST_SKEWNESS = 0.2
"""Of a sum, from which on the law of its rectified part is kept: below it is as good as Gaussian."""
_MOST_LAWS = 1 << 14
"""Cells up to which each has a law of its own."""


def _is_rectified(x: Moments) -> bool:
    """Whether a value is never negative, or a sum of one that is not and little else."""
    return x.nonnegative or x.rectified_part is not None


def _rectified_part(
    parts: Sequence[Moments], weights: Sequence[float], y: Moments
) -> tuple[Above, np.ndarray, np.ndarray] | None:
    """`Moments.rectified_part` of a sum: where one part is not negative, the rest are and the sum is skewed."""
    if y.cumulants is None or y.nonnegative or y.mean.size > _MOST_LAWS:
        return None
    rectified = [(w, x) for w, x in zip(weights, parts, strict=True) if _is_rectified(x)]
    if len(rectified) != 1 or rectified[0][0] <= 0 or rectified[0][1].positive:
        return None
    weight, x = rectified[0]
    mean, variance = (x.mean, x.variance) if x.rectified_part is None else x.rectified_part[1:]
    if (variance <= 0).any() or (y.variance <= weight**2 * variance).any():
        return None
    law = x.above if x.rectified_part is None else x.rectified_part[0]
    if law is None:
        if not (y.cumulants[0] > _LEAST_SKEWNESS * y.variance**1.5).any() or (x.positive_share <= 0).any():
            return None
        law = cut_gaussian(x.positive_share, mean, variance)
    return law.scaled(weight), weight * mean, weight**2 * variance


@component("add")
class Add(_Linear):
    """y = sum of the inputs: phi = 1 for each that has the output's shape; moments add. Source: addition theorem,
    theory 2.2."""


@component("sub")
class Subtract(_Linear):
    """y = a - b (theory 2.2)."""

    def weights(self) -> tuple[float, ...]:
        return (1.0, -1.0)


@component("mean")
class Mean(_Linear):
    """y = average of the k inputs: phi = 1/k^2 for each (theory 2.2)."""

    def weights(self) -> tuple[float, ...]:
        return (1.0 / max(len(self.input_shapes), 1),) * len(self.input_shapes)
