"""The state of a value (theory 9.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from gnelint.records import cached_property, dataclass, replace
from gnelint.theory.fields.cells import Axes, Axis, average, counts, on_cells, pooled, resample, total_average
from gnelint.theory.fields.channel_correlation import NONE, ChannelCorrelation
from gnelint.theory.fields.field import Effect, Field, outlasts, put
from gnelint.theory.fields.nearby import same_along
from gnelint.theory.fields.profiles import Profiles, amplitude, normalised
from gnelint.theory.gaussian.gram_charlier import rectified_moments
from gnelint.theory.gaussian.piecewise import gaussian_share, rectified_source
from gnelint.theory.gaussian.quadrature import GRIDS
from gnelint.theory.gaussian.rectified_sum import Above, rectified_sum_moments
from gnelint.theory.gaussian.special import normal_cdf

_LARGEST = 1 << 23
"""Numbers up to which a law is worked out: cells times points of the grid."""
_MANY = 32
"""Cells from which on a coarser grid does: what a kink costs differs in sign from cell to cell."""


MANY = 10
"""Entries from which on a sum of rectified ones counts as `positive`: all are zero once in a thousand times."""


@dataclass(frozen=True)
class Moments(Field):
    """First and second moments of a tensor's entries over inputs, positions of a cell and samples.

    Attributes:
        mean: E[x] of each cell where its profile is 1; the mean at index p is sqrt(profile(p)) times that.
        variance: Var[x] likewise, times profile(p).
        position_covariance: covariance of two different entries of the cell in one sample.
        nonnegative: whether no entry can be negative (the value left a ReLU).
        positive: whether, besides, none is exactly zero: of squares, and of sums over many. What is `nonnegative` alone
            is taken for a rectified Gaussian.
        centred_energy: for each axis the relative energy of x - E x at its indices, E x being the cell's average over
            all indices; None where nobody knows better than `profile`. Where padding shifts each channel's mean in a
            way of its own, the border has the most of it although it has the least energy. A convolution computes it,
            a constant changes nothing about it, and a normalisation, which takes the average away, reads it.
        cumulants: the third and the fourth of an entry, where its profile is 1, where they are known not to be those of
            a Gaussian: behind a rectifier, and behind sums with one. `refined` carries them to finer cells.
        rectified_part: the law, the mean and the variance of a part that is not negative, beside a Gaussian one, where
            it is so much of a sum that no cumulants say its shape.
        above: the law of what is not negative, where it left a rectifier of such a sum.
        floor: where all entries are that a rectifier has cut, and below which there are none; None where no rectifier
            is known. It is 0 for what is `nonnegative`, which does not say it again, and behind a batch normalisation
            of that its shift: the identity branches of RepVGG have it. `refined` carries it too.
        silent: P(x = 0) in each cell of what is not negative, where sums and products tell it; None where its first two
            moments have to. `refined` carries it too.
        channel_correlation: how much different channels are correlated, by mean square.
        variance_of_variance: relative variance of a cell's true variance about `variance`, for the channel
            correlations of what was summed. It is asked for right behind the sum.
        neighbours: correlation of entries that lie side by side, of what is not fixed (`ChannelCorrelation.fixed`):
            windows that overlap make it, and a kernel of independent weights leaves it as it is on average.
        peaks: of what it is the maximum, where it is one over windows.
        mean_known: share of the variance of an average over samples and positions that is not there, because a
            normalisation took it: entries of different samples have that little less than nothing in common.
        square_known: likewise of the average of the squares.
        balanced: share of the variance of a position's average over its last axis that is not there, because a
            normalisation over it took it.
        levelled: how much less than that of independent features with their correlations the relative variance of a
            position's average square over its last axis is, because a normalisation over it has made all positions
            alike.
        parted: what parts of one sample that are samples of their own now (windows) have in common, relative to what
            two entries of one of them have.
        steady: share of the variance that is one linear map of what other projections of a position map too; of what
            positions multiply by factors of their own (rotated keys) only the part of the average factor is.
        trace: how the value comes of another one entry by entry (theory.fields.law); None where it does not.
        log_norm_variance: variance over the samples of one cell of log q, q being a sample's own average square
            (theory.fields.log_norm); 0 where nothing follows it. Weights and smooth activations hand it on.
    """

    _covariance: ClassVar[int] = 2

    mean: np.ndarray
    variance: np.ndarray
    position_covariance: np.ndarray
    _: KW_ONLY
    nonnegative: bool = field(
        default=False, metadata=outlasts(Effect.RECUT, Effect.ORDERED, Effect.MOVED, Effect.SCALED)
    )
    positive: bool = field(default=False, metadata=outlasts(Effect.RECUT, Effect.ORDERED, Effect.MOVED, Effect.SCALED))
    centred_energy: Profiles | None = field(default=None, metadata=outlasts(Effect.SHIFTED))
    cumulants: tuple[np.ndarray, np.ndarray] | None = None
    rectified_part: tuple[Above, np.ndarray, np.ndarray] | None = None
    above: Above | None = None
    floor: np.ndarray | None = None
    silent: np.ndarray | None = field(default=None, metadata=outlasts(Effect.SCALED))
    channel_correlation: ChannelCorrelation = field(default=NONE, metadata=outlasts(*Effect))
    variance_of_variance: float = field(default=0.0, metadata=outlasts(Effect.SHIFTED))
    log_norm_variance: float = field(default=0.0, metadata=outlasts(Effect.SHIFTED))
    neighbours: float = field(default=0.0, metadata=outlasts(Effect.RECUT, Effect.SCALED, Effect.SHIFTED))
    peaks: Peaks | None = field(default=None, compare=False)
    mean_known: float = field(
        default=0.0, metadata=outlasts(Effect.RECUT, Effect.ORDERED, Effect.SCALED, Effect.SHIFTED)
    )
    square_known: float = field(
        default=0.0, metadata=outlasts(Effect.RECUT, Effect.ORDERED, Effect.SCALED, Effect.SHIFTED)
    )
    balanced: float = field(default=0.0, metadata=outlasts(Effect.RECUT, Effect.SCALED, Effect.SHIFTED))
    levelled: float = field(default=0.0, metadata=outlasts(Effect.RECUT, Effect.SCALED, Effect.SHIFTED))
    parted: float = field(default=0.0, metadata=outlasts(*Effect))
    steady: float = field(default=1.0, metadata=outlasts(*Effect))
    trace: Trace | None = field(default=None, compare=False)

    @staticmethod
    def uniform(shape: Sequence[int], mean: float, variance: float) -> Moments:
        """Independent entries that are all alike."""
        ones = np.ones((1,) * len(shape))
        return Moments(pooled(shape), (None,) * len(shape), mean * ones, variance * ones, 0.0 * ones)

    @staticmethod
    def flat(
        axes: Axes,
        mean: np.ndarray,
        variance: np.ndarray,
        position_covariance: np.ndarray | float = 0.0,
        nonnegative: bool = False,
    ) -> Moments:
        """Moments without profiles; arrays broadcast to the cells."""
        full = [on_cells(a, counts(axes)) for a in (mean, variance, position_covariance)]
        return Moments(axes, (None,) * len(axes), full[0], np.maximum(full[1], 0.0), full[2], nonnegative=nonnegative)

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.mean, self.variance, self.position_covariance

    @cached_property
    def correlated(self) -> bool:
        return bool(self.position_covariance.any())

    def refined(self, axes: Axes) -> Moments:
        """On cells at least as fine as `axes`; cumulants stay with the entries."""
        field = super().refined(axes)
        if field is self:
            return field
        absorbed = any(a is not b for a, b in zip(field.profile, self.profile, strict=True))
        if self.cumulants is not None:
            third, fourth = (resample(array, self.axes, field.axes) for array in self.cumulants)
            if absorbed:  # entries of another scale have the same shape
                before = resample(self.variance, self.axes, field.axes)
                scale = np.sqrt(np.divide(field.variance, before, out=np.ones_like(field.variance), where=before > 0))
                third, fourth = scale**3 * third, scale**4 * fourth
            field = replace(field, cumulants=(third, fourth))
        if absorbed:
            return field
        if self.silent is not None:
            field = replace(field, silent=resample(self.silent, self.axes, field.axes))
        return field if self.floor is None else replace(field, floor=resample(self.floor, self.axes, field.axes))

    def settled(self) -> Moments:
        """With what entries of one channel have in common at any distance, as copies along all positions have, as
        `position_covariance`, where cells are of one channel each: a finer cell shares more than a coarse one did."""
        if not self.nearby:
            return self
        along = {i: axis.size for i, axis in enumerate(self.axes) if i and axis.size > 1 and axis.is_pooled}
        common, nearby = self.nearby.shared(along)
        apart = np.maximum(self.variance - self.position_covariance, 0.0)
        return replace(self, position_covariance=self.position_covariance + common * apart, nearby=nearby)

    @cached_property
    def rectified(self) -> tuple[np.ndarray, ...]:
        """P(x > 0) and E max(x, 0)^p for p = 1 to 4 (theory.gram_charlier); all variances have to be positive."""
        if self.rectified_part is not None:
            law, mean, variance = self.rectified_part
            return rectified_sum_moments(law, self.mean - mean, self.variance - variance)
        third, fourth = (np.zeros(1), np.zeros(1)) if self.cumulants is None else self.cumulants
        return rectified_moments(self.mean, self.variance, third, fourth)

    @cached_property
    def positive_share(self) -> np.ndarray:
        """P(x > 0) in each cell; a value that is never negative is max(z, 0) of a Gaussian z, unless it is positive."""
        if self.positive:
            return np.ones_like(self.mean)
        if self.nonnegative and self.above is not None:
            return self.above.share
        if self.nonnegative and self.silent is not None:
            return np.asarray(1.0 - self.silent)
        if self.nonnegative:
            location, scale = rectified_source(self.mean, self.variance)
            return normal_cdf(np.divide(location, scale, out=np.full_like(location, -math.inf), where=scale > 0))
        if self.cumulants is None or (self.variance <= 0).any():
            return gaussian_share(self.mean, self.variance)
        return self.rectified[0]

    @cached_property
    def correlation(self) -> np.ndarray:
        """position_covariance / variance of each cell, from where all entries add up to nothing to where they agree."""
        zeros = np.zeros_like(self.variance)
        ratio = np.divide(self.position_covariance, self.variance, out=zeros, where=self.variance > 0)
        return np.asarray(np.clip(ratio, -1.0 / max(self.sharing - 1, 1), 1.0))

    @cached_property
    def second(self) -> np.ndarray:
        """E[x^2] of each cell (where the profile is 1, and on average over it)."""
        return np.asarray(self.variance + self.mean**2)

    def amplitude(self, kept: Sequence[int] = ()) -> float:
        """Average of sqrt(profile) over all axes but the ones kept: E[x] of a cell is that times `mean`."""
        return amplitude(self.profile, kept)

    def flattened(self) -> Moments:
        """Without profiles: what they did to the mean goes into the variance."""
        if all(profile is None for profile in self.profile):
            return self
        mean = self.mean * self.amplitude()
        arrays = (mean, np.maximum(self.second - mean**2, 0.0), self.position_covariance)
        return replace(self.behind(Effect.RECUT, arrays, profile=(None,) * len(self.axes)), silent=self.silent)

    def profiled(self, index: int) -> Moments:
        """With the cells of one axis turned into a profile, where the means allow one."""
        if self.axes[index].is_pooled:
            return self
        profile = normalised(self.along(index, self.second))
        field = self.pooled(index)
        mean = field.mean / amplitude((profile,))
        variance = field.second - mean**2
        if np.any(variance < 0):
            return field
        arrays = (mean, variance, field.position_covariance)
        return field.behind(Effect.RECUT, arrays, profile=put(field.profile, index, profile))

    def weighted(self, energy: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.mean * np.sqrt(energy), self.variance * energy, self.position_covariance * energy

    def regrouped(self, before: Moments) -> Moments:
        old, new = before.positions, self.positions
        if new <= old:  # parts have in common what entries had
            return replace(self, parted=before.parted or 1.0)
        inside = (old - 1.0 + before.parted * (new - old)) / (new - 1.0)
        return replace(self, position_covariance=self.position_covariance * inside, parted=0.0)

    def averaged(self, index: int, target: Axis) -> tuple[np.ndarray, ...]:
        mean = average(self.mean, self.axes, index, target)
        second = average(self.second, self.axes, index, target)
        together = self.averaged_together(self.position_covariance, index, target)
        if index == 0:  # the means of unlike samples: all entries of one have the same
            unlike = np.maximum(average(self.mean**2, self.axes, index, target) - mean**2, 0.0)
            together = together + self.amplitude() ** 2 * unlike
        return mean, np.maximum(second - mean**2, 0.0), together

    def scaled(self, factor: np.ndarray | float) -> Moments:
        """The entries times a constant for each cell."""
        return self.behind(
            Effect.SCALED, (self.mean * factor, self.variance * factor**2, self.position_covariance * factor**2)
        )

    def times(self, axes: Axes, mean: np.ndarray, variance: np.ndarray) -> Moments:
        """The entries times constants with this mean and variance within these cells."""
        x = self.refined(axes)
        mean, variance = (resample(array, axes, x.axes) for array in (mean, variance))
        product, second = mean * x.mean, (mean**2 + variance) * x.second
        y = x.behind(Effect.SCALED, (product, second - product**2, mean**2 * x.position_covariance))
        y = replace(y, nearby=x.nearby.by_constants(mean, variance)) if x.nearby else y
        if x.cumulants is None or (variance > 0).any():
            return y
        third, fourth = x.cumulants
        return replace(y, cumulants=(mean**3 * third, mean**4 * fourth))

    @cached_property
    def total_mean(self) -> float:
        """E[x] over the whole tensor."""
        return total_average(self.mean, self.axes) * self.amplitude()

    @cached_property
    def total_second(self) -> float:
        """E[x^2] over the whole tensor."""
        return total_average(self.second, self.axes)

    def broadcast(self, shape: Sequence[int]) -> Moments:
        """numpy broadcasting: entries along a widened axis are copies, so they share all their variance."""
        if self.shape == tuple(shape):
            return self
        field = self.with_rank(len(shape))
        axes = list(field.axes)
        before, copies = field.positions, 1
        for index, size in enumerate(shape):
            if axes[index].size == 1 and size != 1:
                axes[index] = Axis(size)
                copies *= size if index else 1
        covariance = field.position_covariance
        if copies > 1:
            pairs = copies * before - 1
            covariance = ((copies - 1) * field.variance + copies * (before - 1) * covariance) / pairs
        found = field.behind(Effect.MOVED, (field.mean, field.variance, covariance), tuple(axes))
        if copies == 1 or before * field.variance.size == 1:
            return found
        return replace(
            found, nearby=same_along({i: size for i, size in enumerate(shape) if i and field.shape[i] != size})
        )


@dataclass(frozen=True, eq=False)
class Peaks:
    """Maxima over windows.

    Attributes:
        of: the value whose entries they are.
        spans: of a window, along each axis.
        steps: from a window to the next.
        starts: where the first one begins, before the first entry where there is padding.
    """

    of: Moments
    spans: tuple[int, ...]
    steps: tuple[int, ...]
    starts: tuple[int, ...]


def grids_of(root: Moments) -> tuple[int, ...]:
    """Panels of the grids on which functions of this value are tried, the coarsest first."""
    return tuple(grid // 4 for grid in GRIDS) if root.mean.size >= _MANY else GRIDS


@dataclass(eq=False)
class Trace:
    """How a value comes of its root.

    Attributes:
        root: the value that it is a function of.
        find: its law (theory.fields.law) on a grid of so many panels.
        live: which of the operands that it is computed of are functions of the root; others are constants.
        composed: whether one function of one Gaussian does not say it.
        linear: whether it is Gaussian where the root is.
    """

    root: Moments
    find: Callable[[int], Any]
    live: tuple[bool, ...]
    composed: bool
    linear: bool
    _laws: dict[int, Any] = field(default_factory=dict)

    def law(self, grid: int) -> Any:
        """Its law on a grid of so many panels."""
        if grid not in self._laws:
            self._laws[grid] = self.find(grid)
        return self._laws[grid]

    @cached_property
    def grid(self) -> int | None:
        """Panels of the coarsest grid that is fine enough; None if there is none."""
        for grid, finer in pairwise((*grids_of(self.root), 0)):
            law = self.law(grid)
            if law.settled:
                return grid
            if law.number.value.size * finer > _LARGEST * grid:
                return None
        return None
