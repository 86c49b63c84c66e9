"""Sums, products and concatenation of several values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import ClassVar

import numpy as np

from gnelint.components.activation import cell_weights
from gnelint.components.base import Basis, Gradients, Inputs, NotModelledError, OneOutput, Opaque, Remembered, component
from gnelint.components.linear import constant_moments
from gnelint.records import cached_property, replace
from gnelint.theory.fields.autocorrelation import autocorrelation_unless_along, mixed_autocorrelation
from gnelint.theory.fields.cells import (
    SMALL,
    Axes,
    Axis,
    counts,
    is_zero,
    nothing_like,
    pooled,
    refine,
    resample,
    times,
)
from gnelint.theory.fields.channel_correlation import NOTHING_AHEAD, ChannelCorrelation, meetings, mixed, summed
from gnelint.theory.fields.field import Effect
from gnelint.theory.fields.gradient import NOWHERE, UNPROJECTED, Gradient, Sense, Winners
from gnelint.theory.fields.log_norm import entry_noise, ranked_before, stratified
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.nearby import mixed_nearby
from gnelint.theory.fields.profiles import mixed_profile
from gnelint.theory.gaussian.lengths import derivatives, mean_length
from gnelint.theory.gaussian.piecewise import rectified_source
from gnelint.theory.gaussian.quadrature import panels
from gnelint.theory.gaussian.rectified_sum import Above, cut_gaussian, rectified_sum_moments, surviving_share
from gnelint.theory.gaussian.special import normal_cdf, normal_pdf

_MOST_TOLD = 4.0
"""By how much an operand is believed to tell more of a sum's sign than its share of the deviation does."""
_PANELS = 4
"""Of eight points each: what the largest of several sums tells is integrated over a Gaussian."""
UNCORRELATED = "the branches are uncorrelated"
UNKNOWN = "combines with a tensor whose values are not known before the network runs"


def known(inputs: Inputs) -> list[Moments]:
    """All inputs, or NotModelledError if one of them has no moments."""
    found = [x for x in inputs if x is not None]
    if len(found) < len(inputs):
        raise NotModelledError(UNKNOWN)
    return found


def aligned(inputs: Sequence[Moments], shape: Sequence[int]) -> list[Moments]:
    """The inputs broadcast to one shape and refined to common cells."""
    wide = [x.broadcast(shape) for x in inputs]
    cells = refine(*(x.axes for x in wide))
    wide = [x.refined(cells) for x in wide]
    cells = refine(*(x.axes for x in wide))
    return [x.refined(cells) for x in wide]


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
                pulled = replace(pulled, sense=Sense(g, np.sign(np.asarray(weight))))
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


def _is_flat(x: Moments) -> bool:
    return all(profile is None for profile in x.profile)


@component("mul")
class Multiply(OneOutput):
    """y = a b of independent factors: phi with respect to a is E b^2 (gating, squeeze and excite; theory 3.7)."""

    basis: ClassVar[Basis] = "theorem"
    assumptions: ClassVar[tuple[str, ...]] = ("the factors of a product are independent",)
    model_error_bits: ClassVar[float | None] = 0.12

    @cached_property
    def _ranked(self) -> Remembered[list[Moments]]:
        return Remembered()

    def _operands(self, inputs: Inputs) -> list[Moments]:
        """The factors; those of one sample, which are large together, with samples of unlike scale in cells."""
        operands = known(inputs)
        if not all(x.log_norm_variance for x in operands) or operands[0].shape != operands[1].shape:
            return operands
        return self._ranked.of(operands, lambda: [stratified(_of_its_sample(x), 1.0) for x in operands])

    def joined(self, inputs: Inputs) -> Moments:
        operands = self._operands(inputs)
        whole = [x for x in operands if x.shape == tuple(self.output_shapes[0])]
        gated = whole[0] if len(whole) == 1 and all(x is whole[0] or _is_flat(x) for x in operands) else None
        a, b = aligned([x if x is gated else x.flattened() for x in operands], self.output_shapes[0])
        profile = next((x.profile for x in (a, b) if not _is_flat(x)), a.profile)
        mean = a.mean * b.mean
        variance = a.second * b.second - mean**2
        covariance = (a.position_covariance + a.mean**2) * (b.position_covariance + b.mean**2) - mean**2
        y = Moments.flat(a.axes, mean, variance, covariance, a.nonnegative and b.nonnegative)
        y = replace(y, positive=a.positive and b.positive)
        if y.nonnegative and not y.positive:
            y = replace(y, silent=1.0 - a.positive_share * b.positive_share)
        if gated is None:
            if not all(x.log_norm_variance for x in known(inputs)):
                return y
            fourth = y.second**2 * math.prod(_kurtosis(x) for x in known(inputs))
            return replace(y, log_norm_variance=entry_noise(y.second, fourth, y))
        # a gate that is one number for a whole channel changes nothing about where the channel has its energy
        return replace(
            y,
            profile=profile,
            channel_correlation=gated.channel_correlation,
            neighbours=gated.neighbours,
            nearby=gated.nearby,
        )

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        a, b = aligned([x.flattened() for x in self._operands(inputs)], self.output_shapes[0])
        shapes = [shape for shape in self.input_shapes if shape is not None]
        found = []
        for factor, shape, other in ((b, shapes[0], shapes[1]), (a, shapes[1], shapes[0])):
            if math.prod(shape) > math.prod(other):  # the factor is a gate
                found.append(self._through_gate(g, factor).summed_to(shape))
            else:
                found.append(self._scaled(g, factor).summed_to(shape))
        return tuple(ranked_before(each, x) for each, x in zip(found, known(inputs), strict=True))

    @staticmethod
    def _through_gate(g: Gradient, gate: Moments) -> Gradient:
        """The gradient at what a gate multiplies; one that is positive leaves alone on which entries it sits."""
        pulled = g.times(gate.axes, gate.second, gate.position_covariance + gate.mean**2, gate.mean**2)
        if not gate.nonnegative:
            return pulled
        known = g.refined(pulled.axes)
        return replace(pulled, mask_overlap=known.mask_overlap, lean=known.lean)

    @staticmethod
    def _scaled(g: Gradient, factor: Moments) -> Gradient:
        """The gradient at one operand, from the other; one that leans on large entries meets a large factor."""
        raised = factor.mean
        if g.lean.any():
            g = g.refined(factor.axes)
            factor = factor.refined(g.axes)
            raised = factor.mean + g.lean * np.sqrt(factor.variance)
        together = factor.position_covariance + raised**2
        return g.times(factor.axes, factor.second + raised**2 - factor.mean**2, together, raised**2)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        """With respect to a whole tensor that a gate b (one number for many of its entries) multiplies:
        E b^4 - (E b^2)^2 for a Gaussian b. What the gate itself adds is joined to it where blocks are put together."""
        gates = [x for x in inputs if x is not None and x.size < math.prod(self.output_shapes[0])]
        if len(gates) != 1:
            return None
        gate = gates[0].flattened()
        weight = cell_weights(gate)
        fourth = gate.mean**4 + 6.0 * gate.mean**2 * gate.variance + 3.0 * gate.variance**2
        return max(float((fourth * weight).sum()) - float((gate.second * weight).sum()) ** 2, 0.0)


def _of_its_sample(x: Moments) -> Moments:
    """With what its other factor has too of the scatter of samples' scales: all but that of its own few entries."""
    own = entry_noise(x.second, _kurtosis(x) * x.second**2, x)
    return replace(x, log_norm_variance=max(x.log_norm_variance - own, 0.0))


def _kurtosis(x: Moments) -> float:
    """E x^4 / (E x^2)^2 of the entries of one cell: by the law of what is a function of a Gaussian, else as one."""
    if x.trace is None or x.trace.grid is None:
        second, fourth = x.second, 3.0 * x.variance**2 + 6.0 * x.mean**2 * x.variance + x.mean**4
    else:
        law = x.trace.law(x.trace.grid)
        squares = law.number.value**2
        second, fourth = law.mean(squares), law.mean(squares**2)
    return float(np.divide(fourth, second**2, out=np.full_like(second, 3.0), where=second > 0).mean())


@component("div")
class Divide(OneOutput):
    """y = a / b for b that stays away from 0: 1/b to second order in its relative variance.

    E 1/b = (1 + c) / m, E 1/b^2 = (1 + 3c) / m^2, c = Var b / m^2;  phi_a = E 1/b^2, phi_b = E a^2 / m^4

    Source: theory 3.3.3.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the divisor hardly fluctuates", "dividend and divisor are independent")

    def _parts(self, inputs: Inputs) -> tuple[Moments, Moments, np.ndarray]:
        a, b = aligned([x.flattened() for x in known(inputs)], self.output_shapes[0])
        relative = np.divide(b.variance, b.mean**2, out=np.full_like(b.mean, math.inf), where=b.mean != 0)
        if (relative > 0.25).any():
            raise NotModelledError("divides by a value that may be near 0")
        return a, b, relative

    def joined(self, inputs: Inputs) -> Moments:
        a, b, c = self._parts(inputs)
        mean = a.mean * (1 + c) / b.mean
        second = a.second * (1 + 3 * c) / b.mean**2
        covariance = a.position_covariance / b.mean**2
        return Moments.flat(a.axes, mean, second - mean**2, covariance, a.nonnegative and b.nonnegative)

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        a, b, c = self._parts(inputs)
        shapes = [shape for shape in self.input_shapes if shape is not None]
        return (
            g.times(b.axes, (1 + 3 * c) / b.mean**2, 1 / b.mean**2).summed_to(shapes[0]),
            g.times(
                a.axes, a.second * (1 + 10 * c) / b.mean**4, (a.position_covariance + a.mean**2) / b.mean**4
            ).summed_to(shapes[1]),
        )


@component("maximum")
class Maximum(OneOutput):
    """The larger of independent Gaussians, two at a time (Clark, Operations Research 9, 1961).

    theta^2 = Var a + Var b, t = (E a - E b) / theta:  phi_a = Phi(t), phi_b = 1 - Phi(t)

    Source: theory 3.7.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the operands of a maximum are independent and Gaussian",)
    sign: ClassVar[float] = 1.0

    def _parts(self, inputs: Inputs) -> list[Moments]:
        return aligned([x.flattened() for x in known(inputs)], self.output_shapes[0])

    def _chance(self, own: Moments, other: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """P(own wins), theta and the density at the tie."""
        theta = np.sqrt(own.variance + other.variance)
        gap = self.sign * (own.mean - other.mean)
        t = np.divide(gap, theta, out=np.sign(gap) * 40.0, where=theta > 0)
        return normal_cdf(t), theta, normal_pdf(t)

    def _larger(self, own: Moments, other: Moments) -> Moments:
        win, theta, edge = self._chance(own, other)
        mean = own.mean * win + other.mean * (1 - win) + self.sign * theta * edge
        second = own.second * win + other.second * (1 - win) + self.sign * (own.mean + other.mean) * theta * edge
        return Moments.flat(own.axes, mean, second - mean**2)

    def _shares(self, parts: Sequence[Moments]) -> list[np.ndarray]:
        """How often each operand beats the largest of all others."""
        if len(parts) == 1:
            return [np.ones_like(parts[0].mean)]
        wins = []
        for index, own in enumerate(parts):
            others = [other for place, other in enumerate(parts) if place != index]
            wins.append(self._chance(own, reduce(self._larger, others))[0])
        total = sum(wins, np.zeros(1))
        return [win / total for win in wins]

    def joined(self, inputs: Inputs) -> Moments:
        return reduce(self._larger, self._parts(inputs))

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        parts = self._parts(inputs)
        shapes = [shape for shape in self.input_shapes if shape is not None]
        return tuple(
            g.times(part.axes, share, share**2).summed_to(shape)
            for part, share, shape in zip(parts, self._shares(parts), shapes, strict=True)
        )


@component("minimum")
class Minimum(Maximum):
    """The smaller of independent Gaussians: the maximum of their negatives, negated (theory 3.7)."""

    assumptions: ClassVar[tuple[str, ...]] = ("the operands of a minimum are independent and Gaussian",)
    sign: ClassVar[float] = -1.0


@component("hypot")
class Hypot(OneOutput):
    """The length of independent Gaussians, y^2 = c + sum x_i^2 (magnitudes of spectra): phi of each is E x_i^2 / y^2,
    together 1 without c.

    For two of mean 0 with deviations s and r it is s / (s + r) and r / (s + r). Source: theory 3.4, 3.7.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the operands of a length are independent and Gaussian",)

    def _entries(self, inputs: Inputs) -> tuple[list[Moments], list[tuple[np.ndarray, np.ndarray]], float]:
        parts = aligned([x.flattened() for x in known(inputs)], self.output_shapes[0])
        return parts, [(x.mean, x.variance) for x in parts], float(self.node.attribute("added"))

    def joined(self, inputs: Inputs) -> Moments:
        parts, entries, added = self._entries(inputs)
        mean = mean_length(entries, [1] * len(entries), added)
        second = sum((x.second for x in parts), np.full_like(mean, added))
        y = Moments.flat(parts[0].axes, mean, np.maximum(second - mean**2, 0.0), nonnegative=True)
        return replace(y, positive=added > 0 or any(x.positive or not x.nonnegative for x in parts))

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        parts, entries, added = self._entries(inputs)
        shapes = [shape for shape in self.input_shapes if shape is not None]
        return tuple(
            g.times(part.axes, share, direction**2).summed_to(shape)
            for part, (direction, share), shape in zip(parts, derivatives(entries, added), shapes, strict=True)
        )


@component("where")
class Where(OneOutput):
    """y = a where a condition holds, b elsewhere: each as often as the condition's mean says, half of the time where
    the condition is not known. Source: theory 3.9."""

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = (
        "the condition holds for its expected share of the entries (half of them where it is not known), whatever their"
        " values",
    )

    def _share(self, condition: Moments | None) -> float:
        return 0.5 if condition is None else min(max(condition.total_mean, 0.0), 1.0)

    def joined(self, inputs: Inputs) -> Moments:
        a, b = aligned([x.flattened() for x in known(inputs[1:])], self.output_shapes[0])
        p = self._share(inputs[0])
        mean = p * a.mean + (1 - p) * b.mean
        second = p * a.second + (1 - p) * b.second
        covariance = p**2 * a.position_covariance + (1 - p) ** 2 * b.position_covariance
        return Moments.flat(a.axes, mean, second - mean**2, covariance, a.nonnegative and b.nonnegative)

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        share = self._share(inputs[0])
        found: list[Gradient | None] = [None]
        for p, shape in zip((share, 1 - share), self.input_shapes[1:], strict=True):
            taken = g.behind(Effect.MOVED, (g.energy * p, g.position_covariance * p**2))
            found.append(None if shape is None else taken.summed_to(shape))
        return tuple(found)


def joined_axis(parts: Sequence[Axis]) -> Axis:
    """The axis of a concatenation: cells stay, one part without cells is one cell."""
    size = sum(part.size for part in parts)
    if any(part.cuts is None and part.size > 1 for part in parts):
        return Axis.full(size)
    cuts: list[int] = []
    offset = 0
    for part in parts:
        cuts += [offset + cut for cut in (0, *(part.cuts or ())) if offset + cut > 0]
        offset += part.size
    return Axis(size, tuple(sorted(set(cuts))))


def join(
    fields: Sequence[Moments] | Sequence[Gradient], index: int
) -> tuple[Axes, list[np.ndarray], tuple[np.ndarray | None, ...]]:
    """Axes, arrays and profiles of fields laid side by side along one axis."""
    fields = [f.absorbed(index) if f.profile[index] is not None else f for f in fields if f.axes[index].size]  # type: ignore[assignment]
    others = [tuple(Axis(a.size) if i == index else a for i, a in enumerate(f.axes)) for f in fields]
    for _ in range(2):  # absorbing a profile may refine once more
        common = refine(*others)
        fields = [f.refined(tuple(f.axes[i] if i == index else a for i, a in enumerate(common))) for f in fields]  # type: ignore[assignment]
        others = [tuple(Axis(a.size) if i == index else a for i, a in enumerate(f.axes)) for f in fields]
    axis = joined_axis([f.axes[index] for f in fields])
    if axis.cuts is None:
        fields = [
            f.refined(tuple(Axis.full(a.size) if i == index else a for i, a in enumerate(f.axes))) for f in fields
        ]  # type: ignore[assignment]
    axes = (*fields[0].axes[:index], axis, *fields[0].axes[index + 1 :])
    arrays = [_concatenated(group, index) for group in zip(*(f.arrays() for f in fields), strict=True)]
    energies = [
        float(np.mean(f.arrays()[0] ** 2 + f.arrays()[1] if isinstance(f, Moments) else f.arrays()[0])) * f.size
        for f in fields
    ]
    profile = tuple(
        mixed_profile([(e, f.profile[i]) for e, f in zip(energies, fields, strict=True)], a.size)
        if a.is_pooled
        else None
        for i, a in enumerate(axes)
    )
    return axes, arrays, profile


def _concatenated(parts: Sequence[np.ndarray], index: int) -> np.ndarray:
    """The parts along one axis; zeros, of which fields have many, take no memory."""
    if max(part.size for part in parts) > SMALL and all(map(is_zero, parts)):
        size = sum(part.shape[index] for part in parts)
        return np.broadcast_to(0.0, (*parts[0].shape[:index], size, *parts[0].shape[index + 1 :]))
    return np.concatenate(parts, axis=index)


_ALIKE = 1e-2
"""Share of a second moment by which the parts of a stack may differ and are still one cell."""


def _is_alike(x: Moments, index: int) -> bool:
    """Whether means and variances hardly change along an axis."""
    allowed = _ALIKE * x.total_second
    spread = [array - array.mean(axis=index, keepdims=True) for array in (x.mean, x.variance)]
    return float((spread[0] ** 2).mean()) <= allowed and float(np.abs(spread[1]).mean()) <= allowed


@component("concat")
class Concatenate(OneOutput):
    """Values laid side by side: phi = m_i / m for the input of m_i entries; moments stay with their cells (theory 2.3
    and 3.7)."""

    fixed_phi_variance: ClassVar[float | None] = 0.0

    @property
    def _axis(self) -> int:
        return int(self.node.attribute("axis")) % len(self.output_shapes[0])

    def joined(self, inputs: Inputs) -> Moments:
        parts = known(inputs)
        if not any(x.axes[self._axis].size for x in parts):
            return Moments.flat(pooled(self.output_shapes[0]), np.zeros(1), np.zeros(1))
        axes, arrays, profile = join(parts, self._axis)
        y = Moments(axes, profile, *arrays, nonnegative=all(x.nonnegative for x in parts))
        if len(parts) > 1 and self._axis and all(x.shape[self._axis] == 1 for x in parts) and _is_alike(y, self._axis):
            y = y.pooled(self._axis)  # no gradient that a stack's parts share is lost
            axes = y.axes
        sizes = [float(x.variance.mean()) * x.shape[self._axis] for x in parts]
        joined = mixed_autocorrelation([(x.total_second * x.size, x.autocorrelation) for x in parts])
        return replace(
            y,
            cumulants=self._joined_cumulants(parts, axes),
            channel_correlation=mixed([(size, x.channel_correlation) for size, x in zip(sizes, parts, strict=True)]),
            steady=self._averaged([x.steady for x in parts], sizes) if any(sizes) else 1.0,
            autocorrelation=autocorrelation_unless_along(joined, self._axis),
            neighbours=self._averaged([x.neighbours for x in parts], sizes),
            nearby=mixed_nearby(
                [(size * x.total_second, x.nearby) for size, x in zip(sizes, parts, strict=True)]
            ).moved(lambda axis: None if axis == self._axis else axis),
            mean_known=self._averaged([x.mean_known for x in parts], sizes),
        )

    @staticmethod
    def _averaged(numbers: Sequence[float], weights: Sequence[float]) -> float:
        total = sum(weights)
        return sum(w * number for w, number in zip(weights, numbers, strict=True)) / total if total > 0 else 0.0

    def _joined_cumulants(self, parts: Sequence[Moments], axes: Axes) -> tuple[np.ndarray, np.ndarray] | None:
        """Cumulants of parts that keep a cell for each index side by side, 0 for those that are Gaussian."""
        if all(x.cumulants is None for x in parts) or axes[self._axis].cuts is not None:
            return None
        joined = []
        for order in (0, 1):
            lines = []
            for x in parts:
                own = tuple(Axis.full(x.shape[i]) if i == self._axis else axis for i, axis in enumerate(axes))
                fine = x.refined(own)
                if fine.axes != own:
                    return None
                line = np.zeros(1) if fine.cumulants is None else fine.cumulants[order]
                lines.append(np.broadcast_to(line, counts(own)))
            joined.append(np.concatenate(lines, axis=self._axis))
        return joined[0], joined[1]

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        found: list[Gradient | None] = []
        start = 0
        for shape in self.input_shapes:
            assert shape is not None
            stop = start + shape[self._axis]
            found.append(g.sliced(self._axis, start, stop, 1))
            start = stop
        return tuple(found)


@component("constant")
class Constant(Opaque):
    """A tensor of the model that enters as a value (a class token, a table of positions); no gradient is asked of
    it. Source: theory 3.1."""

    def joined(self, inputs: Inputs) -> Moments:
        array = np.asarray(self.node.parameters["value"].array(), dtype=np.float64).reshape(self.output_shapes[0])
        whole = Moments.uniform(array.shape, 0.0, 0.0)
        axes, mean, variance = constant_moments(array, whole)
        return Moments.flat(axes, mean, variance, nonnegative=bool((array >= 0).all()))
