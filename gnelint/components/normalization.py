"""Normalisations. All are one operation: divide by a statistic of a set of entries, with or without centring first.

With s^2 the variance (or second moment) of the normalised set of N entries, rho = s^2 / (s^2 + eps), xhat = (x - m) /
s:

    mean     -> gamma (mu - m) / sqrt(s^2 + eps) + beta
    variance -> gamma^2 (variance - Var m) / (s^2 + eps)
    energy   -> [e - (2 E h mean(h) - E mean(h)^2) - xhat^2 (2 rho e - rho^2 E e xhat^2) / N] E[1 / (s^2 + eps)]

for h = gamma g and e = E h^2; on average over the set that is e - E mean(h)^2 - (2 rho - rho^2) e / N. The second term
is there only with centring. A cotangent that is constant over positions loses 1/batch of itself to it, a white one 1/N.
E[1/s^2] exceeds 1/E[s^2] by the sampling fluctuation of s^2. Source: theory 3.5 and 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gnelint.components.base import Basis, Inputs, NotModelledError, Remembered, Unary, component, first_input
from gnelint.components.linear import constant_moments, shifted
from gnelint.records import cached_property, dataclass, replace
from gnelint.theory.fields.autocorrelation import autocorrelation_unless_along
from gnelint.theory.fields.cells import Axes, Axis, resample
from gnelint.theory.fields.channel_correlation import Ahead
from gnelint.theory.fields.field import Effect, Field, average_covariance, put, sample_average_energy, set_average
from gnelint.theory.fields.gradient import UNPROJECTED, Gradient, Projected
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.profiles import normalised
from gnelint.theory.gaussian.few_values import inverse_moments
from gnelint.theory.spectrum import Structure

_SCATTER = 0.75
"""Largest relative variance of a statistic that is believed."""
_FEW = 8
"""Values up to which the law of their variance is integrated."""
_MOST_FREE = 64.0
"""Degrees of freedom that are as good as any number."""
_FEW_BITS = {1: 2.0, 2: 1.0, 3: 0.3}
"""`Normalization.model_error_bits` by degrees of freedom: the few sets with next to no variance have all of the
gradient (measured, 64 to 512 channels)."""


@dataclass(frozen=True)
class Statistic:
    """What a normalised set looks like; arrays over the cells that remain when the set's axes are pooled.

    Attributes:
        centre: m, 0 without centring.
        square: s^2 in the sample.
        removed: Var m, what centring takes from each entry's variance.
        common: what all entries of a set have in common of it, beyond the average of independent ones.
        relative: relative variance of s^2 over the sets, as far as it is believed.
        freedom: of s^2, if it were that of so many independent Gaussian values.
        entries: N.
        scatter: relative variance of s^2 over the sets, were the features independent but for their correlations.
    """

    centre: np.ndarray
    square: np.ndarray
    removed: np.ndarray
    common: np.ndarray
    relative: np.ndarray
    freedom: np.ndarray
    entries: int
    scatter: float = 0.0


def statistic(x: Moments, axes: Sequence[int], centred: bool, *, one_channel: bool = False) -> Statistic:
    """The statistic of the set spanned by these axes.

    Args:
        one_channel: a set is one channel of one sample, whose entries may have most of themselves in common.
    """
    entries, features = math.prod(x.axes[i].size for i in axes), _of_features(x, axes)
    second = set_average(x.second, x, axes)
    fixed = 0.0 if features else _fixed_share(x)
    if centred:
        centre = set_average(x.mean, x, axes) * x.amplitude()
        removed = sample_average_energy(x.variance * (1.0 - fixed), x.position_covariance, x, axes)
        if 0 in axes:  # what a normalisation before has taken out is no longer there
            removed = removed * (1.0 - x.mean_known)
        if features:
            removed = removed * (1.0 - x.balanced)
        square = np.maximum(second - centre**2 - removed, 0.0)
    else:
        centre, removed, square = np.zeros_like(second), np.zeros_like(second), second
    offset, common = (x.mean - centre) ** 2, np.zeros_like(square)
    if centred and one_channel and entries > 1:  # Var m = c + (v - c) / N
        common = np.maximum(removed - set_average(x.variance, x, axes) / entries, 0.0) * entries / (entries - 1.0)
    own, together = np.maximum(x.variance - common, 0.0), x.position_covariance - common
    # of a sum of what is random and what is fixed: 2 (1 - f)^2 of the one, 4 f (1 - f) of their product
    fluctuation = (2.0 * own**2 + 4.0 * offset * own) * (1.0 - fixed**2)
    pairs = 2.0 * together**2 + 4.0 * offset * together
    scatter = sample_average_energy(fluctuation, pairs, x, axes)
    relative = np.divide(scatter, square**2, out=np.zeros_like(square), where=square > 0)
    if 0 in axes:
        relative = relative + x.variance_of_variance
    elif features:  # of the part of s^2 that varies: means that are known apart do not
        varies = np.divide(set_average(x.variance, x, axes), square, out=np.ones_like(square), where=square > 0)
        relative = relative + 2.0 * x.channel_correlation.total * np.minimum(varies, 1.0) ** 2
    else:  # features that few numbers make up scatter together
        positions = math.prod(x.axes[i].size for i in axes if x.axes[i].is_pooled) if len(axes) > 1 else 1
        relative = relative + 2.0 * x.channel_correlation.same / positions + _unseen_spread(x) * positions / entries
    found = float(relative.mean())
    if features:  # what a normalisation before has levelled does not scatter
        relative = relative - x.levelled
    freedom = _freedom(relative, centred)
    return Statistic(centre, square, removed, common, np.clip(relative, 0.0, _SCATTER), freedom, entries, found)


def _freedom(relative: np.ndarray, centred: bool) -> np.ndarray:
    """How many independent values scatter so: k of r = 2 / k, or of 2 (k + 1) / k^2, which r is of k + 1 values less
    their mean."""
    scatter = np.maximum(relative, 1e-6)
    freedom = (1.0 + np.sqrt(1.0 + 2.0 * scatter)) / scatter if centred else 2.0 / scatter
    return np.asarray(np.clip(freedom, 1.0, _MOST_FREE))


def _fixed_share(x: Moments) -> np.ndarray | float:
    """Of each cell's variance, what padding has made the same in every sample.

    What is random has about the same variance in every channel, what is fixed has not.
    """
    share = float(x.channel_correlation.fixed)
    if share <= 0.0:
        return 0.0
    random = (1.0 - share) * float(x.variance.mean())
    own = np.divide(random, x.variance, out=np.ones_like(x.variance), where=x.variance > 0)
    return np.asarray(np.maximum(1.0 - own, 0.0))


def _unseen_spread(x: Moments) -> float:
    """Relative variance of s^2 over channels that comes of what is fixed in them, as far as the cells do not show it:
    that of a share f is 2 few f^2 (theory 9.4)."""
    known, mean = x.channel_correlation, float(x.variance.mean())
    seen = float(x.variance.var()) / mean**2 if mean > 0 else 0.0
    return max(2.0 * known.few * known.fixed**2 - seen, 0.0)


def _of_features(x: Field, axes: Sequence[int]) -> bool:
    """Whether a set is the last axis at one position."""
    return tuple(axes) == (len(x.axes) - 1,) and len(x.axes) > 1


@dataclass(frozen=True)
class _Normalised:
    """What the gradient needs to know of a normalised value, on the gradient's cells.

    Attributes:
        rho, xhat2: as above.
        alike: E xhat xhat' of two entries of one cell.
        factor: E[1 / (s^2 + eps)].
    """

    rho: np.ndarray
    xhat2: np.ndarray
    alike: np.ndarray
    factor: np.ndarray


class Normalization(Unary):
    """A normalisation over a set of axes, then gamma and beta."""

    centred: ClassVar[bool] = True
    adds_epsilon: ClassVar[bool] = True
    """Whether the divisor is the root of s^2 + eps."""
    one_channel: ClassVar[bool] = False
    """Whether a set is one channel of one sample."""
    model_error_bits: ClassVar[float | None] = 0.05

    def model_error_bits_of(self, index: int) -> float | None:
        few = _FEW_BITS.get(self.entries - self.centred, 0.0) if self.adapts and self.adds_epsilon else 0.0
        return max(few, self.model_error_bits or 0.0)

    @property
    def adapts(self) -> bool:
        """Whether the statistic is taken from the value itself, so that no error of its scale passes."""
        return True

    def normalised_axes(self) -> tuple[int, ...]:
        """The axes that the statistic is taken over."""
        rank = len(self.shape)
        return tuple(sorted(int(axis) % rank for axis in self.node.attribute("axes")))

    def parameter(self, role: str) -> np.ndarray | None:
        """gamma or beta, shaped to broadcast against the input; None if there is none."""
        parameter = self.node.parameters.get(role)
        return None if parameter is None else np.asarray(parameter.array(), dtype=np.float64)

    @cached_property
    def _gamma(self) -> np.ndarray | None:
        return self.parameter("scale")

    @cached_property
    def _scales_nothing(self) -> bool:
        return self._gamma is None or bool((self._gamma == 1.0).all())

    @cached_property
    def _beta(self) -> np.ndarray | None:
        return self.parameter("bias")

    @property
    def epsilon(self) -> float:
        """Added to s^2."""
        return float(self.node.attribute("epsilon"))

    @property
    def entries(self) -> int:
        """N, of one set."""
        return math.prod(self.shape[axis] for axis in self.normalised_axes())

    @cached_property
    def _statistics(self) -> Remembered[Statistic]:
        return Remembered()

    @cached_property
    def _scales(self) -> Remembered[tuple[Axes, np.ndarray, np.ndarray]]:
        return Remembered()

    @cached_property
    def _known(self) -> Remembered[dict[Axes, _Normalised]]:
        return Remembered()

    def found(self, x: Moments) -> Statistic:
        """The statistic of what is normalised."""
        axes = self.normalised_axes()
        levelled, one = self._levelled(x, axes), self.one_channel
        return self._statistics.of((x,), lambda: statistic(levelled, axes, self.centred, one_channel=one))

    def denominator(self, square: np.ndarray) -> np.ndarray:
        """What x - m is divided by, squared."""
        return square + self.epsilon

    def followed(self, square: np.ndarray) -> np.ndarray:
        """d log denominator / d log s^2: none of it where epsilon is most of the denominator."""
        return np.asarray(square / self.denominator(square))

    def _inflation(self, found: Statistic) -> np.ndarray:
        """E[1 / denominator] times the denominator at s^2: of gamma distributed denominators with the relative variance
        that s^2 leaves them."""
        return np.asarray(1.0 / (1.0 - found.relative * self.followed(found.square) ** 2))

    def _levelled(self, x: Moments, axes: Sequence[int]) -> Moments:
        """Without the profiles of axes that are normalised index by index; what all of a channel share is its own."""
        if self.one_channel and x.nearby and x.axes[1].count == x.axes[1].size:
            common, left = x.nearby.shared({axis: self.shape[axis] for axis in axes})
            said = np.maximum(x.position_covariance, common * x.variance)  # cells may know it too, or a part of it
            x = replace(x, position_covariance=said, nearby=left)
        kept = tuple(p if i in axes else None for i, p in enumerate(x.profile))
        return x if all(a is b for a, b in zip(kept, x.profile, strict=True)) else replace(x, profile=kept)

    def map(self, x: Moments) -> Moments:
        axes = self.normalised_axes()
        found = self.found(x)
        x = self._levelled(x, axes)
        below = self.denominator(found.square)
        if not (below > 0).all():
            raise NotModelledError("normalises a value without any variance and has no epsilon")
        factor, centred = 1.0 / below, x.centred_energy if self.centred else None
        if centred is not None and all(a.is_pooled for i, a in enumerate(x.axes) if i in axes):
            x = replace(x, profile=tuple(p if i in axes else None for i, p in enumerate(centred)), nonnegative=False)
            mean, variance = 0.0 * x.mean, found.square
        else:
            if self.centred:
                x = shifted(replace(x, nonnegative=False), _cells_without(x, axes), -found.centre, 0.0 * found.centre)
            mean, variance = x.mean * np.sqrt(factor), np.maximum(x.variance - found.removed, 0.0)
        # positions may have less than nothing in common: a channel's kernel that takes differences makes them so
        least = -variance / max(x.sharing - 1, 1)
        covariance = np.maximum(x.position_covariance - _of_one_set(x, axes) * found.removed, least)
        y = x.behind(Effect.SCALED, (mean, variance * factor, covariance * factor))
        if _of_features(y, axes):
            follows = float(self.followed(found.square).mean())
            y = replace(y, balanced=float(self.centred), levelled=found.scatter * follows * (2.0 - follows))
            y = replace(y, channel_correlation=y.channel_correlation.evened())
        else:
            y = replace(y, balanced=0.0, levelled=0.0)
        y = self._affine(y)
        return y.with_autocorrelation(autocorrelation_unless_along(y.autocorrelation, *axes))

    def _affine(self, y: Moments) -> Moments:
        gamma, beta = self._gamma, self._beta
        if gamma is not None and not self._scales_nothing:
            y = replace(y.times(*constant_moments(gamma, y)), nonnegative=False)
        return y if beta is None else shifted(y, *constant_moments(beta, y))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        axes = self.normalised_axes()
        g = self._before_gamma(x, cotangent).refined(x.axes)
        if self.centred and self.entries == 1:  # a value less itself: nothing of it is left, and no gradient passes
            return g.scaled(0.0)
        known = self._normalised(x, g.axes)
        rho, xhat2, alike = known.rho, known.xhat2, known.alike
        leaning = g.lean**2  # E h h' xhat xhat' of a gradient that a mask has made to follow the value
        product = self._with_average(g.energy * xhat2, alike + leaning, leaning, g)  # E h xhat mean(h xhat)
        before = g.projected if _of_features(g, axes) else UNPROJECTED
        product = product * (1.0 - before.along)
        lost = rho**2 * set_average(product, g, axes)
        energy = g.energy - (2 * rho * product - lost * xhat2)
        covariance = g.position_covariance - self._taken_from_pairs(g, alike, xhat2, rho, lost)
        if self.centred:
            own = self._with_average(g.energy, 1.0, 1.0, g) * (1.0 - before.average)
            together = 2 * own - set_average(own, g, axes)
            energy, covariance = energy - together, covariance - _of_one_set(g, axes) * together
        energy = np.maximum(energy, 0.0) * known.factor
        covariance = np.clip(covariance * known.factor, -energy / max(g.positions - 1, 1), energy)
        across = self._left_across(energy, covariance, g) if 0 in axes else g.sample_covariance * known.factor
        # what is left still follows the value, which is the same but for its scale
        lean = g.lean * math.sqrt(1.0 - 1.0 / g.axes[0].size) if 0 in axes and g.axes[0].size else 0.0 * g.lean
        result = g.behind(Effect.SCALED, (energy, covariance, 0.0 * energy, across, lean))
        left_out = Projected(float(self.centred), 1.0) if _of_features(g, axes) else UNPROJECTED
        result = replace(result, projected=left_out)
        for index, profile in enumerate(x.profile):
            if profile is not None and index not in axes:
                result = _divided_by_profile(result, index, profile)
        return result.with_autocorrelation(autocorrelation_unless_along(cotangent.autocorrelation, *axes))

    def _with_average(
        self, energy: np.ndarray, together: np.ndarray | float, across: np.ndarray | float, g: Gradient
    ) -> np.ndarray:
        """E of an entry and its set's average, for factors on what positions and samples share."""
        axes = self.normalised_axes()
        own = average_covariance(energy, g.position_covariance * together, g, axes)
        samples = g.axes[0].size
        if 0 not in axes or not g.sample_covariance.any() or samples < 2 or not _whole_positions(g, axes):
            return own
        return np.maximum(own + g.sample_covariance * across * (1.0 - 1.0 / samples), 0.0)

    def _left_across(self, energy: np.ndarray, covariance: np.ndarray, g: Gradient) -> np.ndarray:
        """What samples share of the gradient: less than nothing where its average over a set is taken out."""
        axes, samples = self.normalised_axes(), g.axes[0].size
        if not self.centred or samples < 2 or not _whole_positions(g, axes):
            return np.zeros_like(energy)
        own = average_covariance(energy, covariance, g, axes)
        return np.broadcast_to(-set_average(own, g, axes) / (1.0 - 1.0 / samples), energy.shape)

    def _before_gamma(self, x: Moments, cotangent: Gradient) -> Gradient:
        scale = self._gamma
        if scale is None or self._scales_nothing:
            return cotangent
        return cotangent.by_constants(*self._scales.of((x,), lambda: constant_moments(scale, x)))

    def _normalised(self, x: Moments, cells: Axes) -> _Normalised:
        """What a gradient on these cells, which are as fine as x's, meets."""
        known = self._known.of((x,), dict)
        if cells not in known:
            known[cells] = self._find_normalised(x, cells)
        return known[cells]

    def _find_normalised(self, x: Moments, cells: Axes) -> _Normalised:
        axes, found = self.normalised_axes(), self.found(x)
        fine = self._levelled(x, axes).refined(cells)
        square, centre, removed, common, inflation = (
            _fit(array, x.axes, fine, axes)
            for array in (found.square, found.centre, found.removed, found.common, self._inflation(found))
        )
        below = self.denominator(square)
        alone = np.where(square > 0, square, 1.0)
        rho, factor = square / below, inflation / below
        if found.entries <= _FEW and self.adds_epsilon and (square > 0).all():
            freedom = _fit(found.freedom, x.axes, fine, axes)
            across, along = inverse_moments(freedom, self.epsilon / square)
            scatters = freedom < _MOST_FREE
            rho = np.where(scatters, 1.0 - np.sqrt(along / across), rho)
            factor = np.where(scatters, across / square, factor)
        xhat2 = np.maximum((fine.mean - centre) ** 2 + fine.variance - removed, 0.0) / alone
        alike = np.minimum(np.maximum((fine.position_covariance - common) / alone, 0.0), xhat2)
        return _Normalised(rho, xhat2, alike, factor)

    def _taken_from_pairs(
        self, g: Gradient, alike: np.ndarray, xhat2: np.ndarray, rho: np.ndarray, lost: np.ndarray
    ) -> np.ndarray:
        """What the projection on xhat takes from the covariance of two entries of one set and one sample.

        0 where a cell's entries lie in many sets: two of one sample are then hardly ever in the same.
        """
        axes = self.normalised_axes()
        if any(axis.size > axis.count for i, axis in enumerate(g.axes) if i not in axes and i > 0):
            return np.zeros_like(g.energy)
        # E h xhat' mean(h xhat): one of the set's entries is the first, one the second
        others = max(g.positions - 2, 0)
        shared = g.position_covariance
        crossed = (g.energy * alike + shared * xhat2 + others * shared * alike) / self.entries
        return np.asarray(2 * rho * crossed - lost * alike)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        """Relative: the variance of 1 / s^2 over the sets, known and by chance, that of gamma^2, and the k of N
        directions that it takes out of a set's gradient (k = 2; 1 without centring)."""
        x = first_input(inputs)
        found = self.found(x)
        a = 1.0 / self.denominator(found.square)
        gamma = self._gamma
        square = np.ones(1) if gamma is None else gamma**2
        removed = min((2.0 if self.centred else 1.0) / found.entries, 1.0)
        inflation = self._inflation(found)
        scale = float(np.mean(a * inflation) * square.mean())
        relative = _relative_variance(a) + _relative_variance(square) + float(np.mean(1.0 - 1.0 / inflation))
        return (scale * (1.0 - removed)) ** 2 * relative + scale**2 * removed * (1.0 - removed)


def _of_one_set(x: Field, axes: Sequence[int]) -> float:
    """Share of the pairs of one sample's entries in a cell that are of one set: their average is what is taken out."""
    inside = math.prod(x.axes[i].size / x.axes[i].count for i in axes if i != 0)
    return (inside - 1.0) / (x.positions - 1.0) if x.positions > 1 else 1.0


def _whole_positions(g: Gradient, axes: Sequence[int]) -> bool:
    """Whether all entries of a sample that a cell has are of one set."""
    return all(axis.size == axis.count for i, axis in enumerate(g.axes) if i > 0 and i not in axes)


def _relative_variance(array: np.ndarray) -> float:
    mean = float(array.mean())
    return float(array.var()) / mean**2 if mean else 0.0


def _fit(array: np.ndarray, before: Axes, x: Moments, axes: Sequence[int]) -> np.ndarray:
    """An array over the cells that remained of `before`, on those of a value that has since been refined."""
    after = tuple(Axis(axis.size) if i in axes else axis for i, axis in enumerate(x.axes))
    old = tuple(Axis(axis.size) if i in axes else axis for i, axis in enumerate(before))
    return resample(array, old, after)


def _scaled(x: Moments, factor: np.ndarray) -> Moments:
    """The value times a constant that is one number in each of its cells."""
    axes, mean, _ = constant_moments(factor, x)
    x = x.refined(axes)
    return x.scaled(resample(mean, axes, x.axes))


def _cells_without(x: Moments, axes: Sequence[int]) -> Axes:
    return tuple(Axis(a.size) if i in axes else a for i, a in enumerate(x.axes))


def _divided_by_profile(g: Gradient, index: int, profile: np.ndarray | None) -> Gradient:
    """Gradient behind a division, index by index, by sqrt(profile)."""
    if profile is None:
        return g
    inverse = np.divide(1.0, profile, out=np.zeros_like(profile), where=profile > 0)
    if not g.axes[index].is_pooled:
        g = g.profiled(index)
    own = g.profile[index]
    energy = inverse if own is None else own * inverse
    mean = float(energy.mean())
    kept = put(g.profile, index, normalised(energy))
    # what two indices share need not lie where the energy does: its average is divided on average
    amplitude = [1.0 if line is None else float(np.sqrt(line).mean()) for line in (own, inverse, kept[index])]
    covariance = (amplitude[0] * amplitude[1] / amplitude[2]) ** 2 if amplitude[2] > 0 else mean
    energy = g.energy * mean
    return g.behind(Effect.SCALED, (energy, np.minimum(g.position_covariance * covariance, energy)), profile=kept)


def _with_shape(y: Moments, x: Moments, gamma: np.ndarray | None) -> Moments:
    """An affine map of each entry keeps the shape of its distribution, and where a rectifier has cut it."""
    if y.axes != x.axes or (gamma is not None and (gamma < 0).any()):
        return y
    ratio = np.divide(y.variance, x.variance, out=np.zeros_like(y.variance), where=x.variance > 0)
    if x.cumulants is not None:
        third, fourth = x.cumulants
        y = replace(y, cumulants=(third * ratio**1.5, fourth * ratio**2))
    if x.rectified_part is not None:  # what is added to it is shifted
        law, mean, variance = x.rectified_part
        y = replace(y, rectified_part=(law.scaled(np.sqrt(ratio)), np.sqrt(ratio) * mean, ratio * variance))
    if not x.nonnegative:
        return y
    return replace(y, floor=y.mean * y.amplitude() - np.sqrt(ratio) * x.mean * x.amplitude())


@component("batch_norm")
class BatchNorm(Normalization):
    """Batch normalisation: the set is a channel's entries over batch and positions.

    Training: phi = mean_c gamma_c^2 / (var_c + eps) (1 - (1 + 2 rho - rho^2) / N). Evaluation: an affine map with the
    stored statistics, phi = mean_c gamma_c^2 / (running_var_c + eps). Source: theory 3.5 (arXiv
    1502.03167).
    """

    def normalised_axes(self) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.shape)) if i != 1)

    def parameter(self, role: str) -> np.ndarray | None:
        array = super().parameter(role)
        return None if array is None else array.reshape((1, -1) + (1,) * (len(self.shape) - 2))

    @property
    def _frozen(self) -> bool:
        return not self.node.attribute("training")

    @property
    def adapts(self) -> bool:
        return not self._frozen

    def _stored(self) -> tuple[np.ndarray, np.ndarray]:
        """The factor and the shift of the affine map in evaluation."""
        mean, variance = self.parameter("running_mean"), self.parameter("running_var")
        if mean is None or variance is None:
            raise NotModelledError("normalises with stored statistics that the model does not hold as constants")
        gamma, beta = self._gamma, self._beta
        factor = (1.0 if gamma is None else gamma) / np.sqrt(variance + self.epsilon)
        return factor, (0.0 if beta is None else beta) - mean * factor

    def map(self, x: Moments) -> Moments:
        if not self._frozen:
            if self.entries <= 1:
                raise NotModelledError("normalises a single value for each channel, which is always its mean")
            y = self._with_equal_channels(_with_shape(super().map(x), x, self._gamma), x.variance_of_variance)
            return replace(y, mean_known=1.0, square_known=1.0) if self.centred else y
        factor, shift = self._stored()
        y = replace(_scaled(x, factor), nonnegative=False)
        return shifted(y, *constant_moments(shift, y))

    def ahead(self, x: Moments, y: Moments, behind: Ahead) -> tuple[Ahead, float]:
        if self._frozen:
            return super().ahead(x, y, behind)
        return replace(behind.scaled(1.0 / (1.0 + x.variance_of_variance)), next=float(x.variance_of_variance > 0)), 0.0

    @staticmethod
    def _with_equal_channels(y: Moments, spread: float) -> Moments:
        """Channels that happen to lean on few directions have more variance, and are divided by it: correlations become
        less by the relative variance of the channels' variances. Those that happen to have much that is fixed are, too:
        of a share f is left f - Var(F) (1 - f), F being its energy, with relative variance 2 few (theory 9.4, 5.11)."""
        found = y.channel_correlation
        if spread:
            found = found.scaled(1.0 / (1.0 + spread))
        if not found.fixed:
            return replace(y, channel_correlation=found) if spread else y
        left = found.fixed * (1.0 - 2.0 * found.few * found.fixed * (1.0 - found.fixed))
        return replace(y, channel_correlation=replace(found, fixed=left))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        if not self._frozen:
            pulled = replace(super().pull(x, y, cotangent), survived=0.0)
            if (y.floor is None and y.rectified_part is None) or not cotangent.mask_overlap.any():
                return pulled
            # what is above its floor came from what was above 0
            overlap = cotangent.refined(pulled.axes).mask_overlap
            return replace(pulled, mask_overlap=np.broadcast_to(overlap, pulled.energy.shape))
        axes, mean, _ = constant_moments(self._stored()[0], x)
        return cotangent.by_constants(axes, mean)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        """The variance of a = gamma^2 / var over channels; training adds a^2 (1 - k/N) k/N for each, k directions of N
        being taken out (2; 1 without centring)."""
        x = first_input(inputs)
        if self._frozen:
            per_channel = np.ravel(self._stored()[0] ** 2)
            return float(np.var(per_channel))
        found = self.found(x)
        gamma = self._gamma
        a = np.ravel((1.0 if gamma is None else np.ravel(gamma) ** 2) / np.ravel(self.denominator(found.square)))
        removed = (2.0 if self.centred else 1.0) / found.entries
        # what is taken out of the gradient, and by how much the batch's variance strays from the ensemble's
        strays = np.mean(1.0 - 1.0 / self._inflation(found)) * (1.0 - 1.0 / max(self.shape[1], 1))  # over channels
        own = a**2 * ((1 - removed) * removed + strays)
        return float(np.var(a * (1 - removed)) + np.mean(own))

    def structure(self, inputs: Inputs, outputs: Sequence[Moments]) -> Structure:
        x = first_input(inputs)
        if self._frozen:
            a = np.ravel(self._stored()[0] ** 2)
        else:
            gamma = self._gamma
            square = self.found(x).square
            a = np.ravel((1.0 if gamma is None else np.ravel(gamma) ** 2) / np.ravel(self.denominator(square)))
        mean = float(a.mean())
        return Structure(everywhere=True, rows=a / mean if mean > 0 and a.size == self.shape[1] else None)


@component("layer_norm")
class LayerNorm(Normalization):
    """Layer normalisation (arXiv 1607.06450): phi = mean(gamma^2) mean(1/var) (1 - 2/D) nearly (theory 3.5)."""


@component("instance_norm")
class InstanceNorm(Normalization):
    """Instance normalisation: the set is one sample's channel (arXiv 1607.08022; theory 3.5)."""

    one_channel: ClassVar[bool] = True

    def normalised_axes(self) -> tuple[int, ...]:
        return tuple(range(2, len(self.shape)))

    def parameter(self, role: str) -> np.ndarray | None:
        array = super().parameter(role)
        return None if array is None else array.reshape((1, -1) + (1,) * (len(self.shape) - 2))

    def map(self, x: Moments) -> Moments:
        if math.prod(self.shape[2:]) <= 1:
            raise NotModelledError("normalises a single value for each channel, which is always its mean")
        return super().map(x)


@component("rms_norm")
class RMSNorm(Normalization):
    """Root mean square normalisation (arXiv 1910.07467): phi = mean(gamma^2) / (rms^2 + eps) (1 - (2 rho - rho^2) /
    D) (theory 3.5)."""

    centred: ClassVar[bool] = False


@component("l2_normalize")
class L2Normalize(Normalization):
    """y = x / ||x|| over the axes: phi = (1 - 1/D) / ||x||^2 (theory 3.5)."""

    centred: ClassVar[bool] = False
    adds_epsilon: ClassVar[bool] = False

    def denominator(self, square: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(square * self.entries, self.epsilon**2))

    def followed(self, square: np.ndarray) -> np.ndarray:
        return np.asarray(square * self.entries > self.epsilon**2, dtype=np.float64)

    def _find_normalised(self, x: Moments, cells: Axes) -> _Normalised:
        found = super()._find_normalised(x, cells)
        return replace(found, rho=found.rho * self.entries)  # of the norm, not of the mean square


@component("second_moment_norm")
class SecondMomentNorm(BatchNorm):
    """Second moment normalisation (arXiv 2001.00254): y = w x / (rms + eps) + b, rms over a channel's batch and
    positions.

    phi = (w / (rms + eps))^2 (1 - (2t - t^2) / N), t = rms / (rms + eps); eps is added to the root (theory 3.5).
    """

    centred: ClassVar[bool] = False
    adds_epsilon: ClassVar[bool] = False

    def denominator(self, square: np.ndarray) -> np.ndarray:
        return np.asarray((np.sqrt(square) + self.epsilon) ** 2)

    def followed(self, square: np.ndarray) -> np.ndarray:
        return np.asarray(np.sqrt(super().followed(square)))  # of (s + eps)^2: s / (s + eps)

    def _stored(self) -> tuple[np.ndarray, np.ndarray]:
        second = self.parameter("running_second_moment")
        if second is None:
            raise NotModelledError("normalises with a stored second moment that the model does not hold as a constant")
        gamma, beta = self._gamma, self._beta
        factor = (1.0 if gamma is None else gamma) / (np.sqrt(second) + self.epsilon)
        return factor, np.asarray(0.0 if beta is None else beta)


@component("l1_norm")
class L1Norm(Normalization):
    """y = gamma (x - m) / mean|x - m| + beta; for Gaussian sets mean|x - m| = s sqrt(2 / pi; theory 3.5)."""

    basis: ClassVar[Basis] = "theorem"
    adds_epsilon: ClassVar[bool] = False
    assumptions: ClassVar[tuple[str, ...]] = ("the normalised set is Gaussian",)

    def denominator(self, square: np.ndarray) -> np.ndarray:
        return np.asarray((np.sqrt(square * 2 / math.pi) + self.epsilon) ** 2)

    def followed(self, square: np.ndarray) -> np.ndarray:
        return np.asarray(np.sqrt(super().followed(square) * 2 / math.pi))


@component("group_norm")
class GroupNorm(Unary):
    """Group normalisation (arXiv 1803.08494): layer normalisation over (channels / groups, positions) of each group
    (theory 3.5)."""

    model_error_bits: ClassVar[float | None] = Normalization.model_error_bits

    @property
    def _grouped(self) -> LayerNorm:
        groups = int(self.node.attribute("groups"))
        n, c, *space = self.shape
        shape = (n, groups, c // groups, *space)
        node = replace(
            self.node,
            op="layer_norm",
            parameters={},
            attributes={"axes": tuple(range(2, len(shape))), "epsilon": self.node.attribute("epsilon")},
        )
        return LayerNorm(node, (shape,), (shape,))

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        """That of the grouped normalisation, then gamma's."""
        x = first_input(inputs)
        grouped = self._grouped
        inner = [x.reshaped(grouped.shape)]
        variance, (phi,) = grouped.phi_variance(inner, outputs), grouped.phis(inner, [grouped.map(inner[0])])
        gamma = self._constant("scale")
        if variance is None or phi is None or gamma is None:
            return variance
        scale, relative = float(np.mean(gamma**2)), _relative_variance(gamma**2)
        return scale**2 * (variance + phi**2 * relative)

    def _constant(self, role: str) -> np.ndarray | None:
        parameter = self.node.parameters.get(role)
        if parameter is None:
            return None
        array = np.asarray(parameter.array(), dtype=np.float64).reshape(-1)
        if array.size != self.shape[1]:
            array = np.repeat(array, self.shape[1] // array.size)  # one for each group, before opset 21
        return array.reshape((1, -1) + (1,) * (len(self.shape) - 2))

    def map(self, x: Moments) -> Moments:
        grouped = self._grouped
        y = grouped.map(x.reshaped(grouped.shape)).reshaped(self.shape)
        gamma, beta = self._constant("scale"), self._constant("bias")
        y = y if gamma is None else _scaled(y, gamma)
        return y if beta is None else shifted(y, *constant_moments(beta, y))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        gamma = self._constant("scale")
        if gamma is not None:
            axes, mean, _ = constant_moments(gamma, y)
            cotangent = cotangent.by_constants(axes, mean)
        grouped = self._grouped
        inside = x.reshaped(grouped.shape)
        return grouped.pull(inside, inside, cotangent.reshaped(grouped.shape)).reshaped(self.shape)


@component("local_response_norm")
class LocalResponseNorm(Unary):
    """y = x / (bias + alpha mean of x^2 over neighbouring channels)^beta, the divisor taken as constant.

    Source: theory 3.5.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the divisor hardly depends on any single entry",)

    def _factor(self, x: Moments) -> float:
        alpha, beta, bias = (float(self.node.attribute(name)) for name in ("alpha", "beta", "bias"))
        return float((bias + alpha * x.total_second) ** (-beta))

    def map(self, x: Moments) -> Moments:
        return x.scaled(self._factor(x))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return cotangent.scaled(self._factor(x) ** 2)
