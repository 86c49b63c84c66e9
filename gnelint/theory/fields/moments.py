"""The state of a value (`Moments`) and of the loss gradient with respect to it (`Gradient`).

Both are kept on the cells of `cells.py`, each only as fine as it has to be: a mean and a variance for each channel,
one cell for the batch, two for {class token, the rest}. Two further numbers make up for what a cell forgets:

profile  Zero padding lowers the energy at the border. Along a pooled axis a profile e(p), of mean 1, scales the
         energy at index p: x(p) = sqrt(e(p)) x' with x' alike everywhere.
position_covariance
         The covariance between two different entries of one cell in one sample. It decides what an average over
         positions keeps, what attention passes and what a normalisation removes from a gradient that is constant over
         positions.

Axis 0 is taken to be the batch: entries of different samples are independent. Source: theory 9.1 and theory 9.2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gnelint.theory.fields.autocorrelation import Autocorrelation, mixed_autocorrelation
from gnelint.theory.fields.cells import (
    MAX_CELLS,
    Axes,
    Axis,
    average,
    counts,
    matching_groups,
    on_cells,
    pooled,
    refine,
    resample,
    squeeze_constant,
    total_average,
)
from gnelint.theory.fields.channel_correlation import NONE, ChannelCorrelation
from gnelint.theory.fields.profiles import Profiles, amplitude, mixed_profile, normalised, refolded
from gnelint.theory.gaussian.gram_charlier import rectified_moments
from gnelint.theory.gaussian.piecewise import gaussian_share, rectified_source
from gnelint.theory.gaussian.special import normal_cdf

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Field(ABC):
    """Arrays over the cells of a tensor, and how they follow its entries when these are moved about.

    Attributes:
        axes: the tensor's axes and their cells.
        profile: for each axis the relative energy of its indices (mean 1), None where it is flat. Only pooled axes
        have one.
        autocorrelation: how entries of one channel are correlated along an axis by their distance, where something
            follows it; `position_covariance` is then its average over the pairs of a cell.
    """

    axes: Axes
    profile: Profiles
    autocorrelation: Autocorrelation | None = field(default=None, kw_only=True)

    @abstractmethod
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays kept, each of shape `counts(axes)`."""

    @abstractmethod
    def rebuilt(self, axes: Axes, arrays: Sequence[np.ndarray], profile: Profiles) -> Self:
        """The same kind of field with other axes and arrays, without the autocorrelation."""

    @abstractmethod
    def weighted(self, energy: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arrays of entries whose energy is multiplied by this (it broadcasts to the cells, and may add some)."""

    def absorbed(self, index: int) -> Self:
        """With the profile of one axis turned into cells."""
        profile = self.profile[index]
        if profile is None:
            return self
        shape = [1] * len(self.axes)
        shape[index] = profile.size
        axes = tuple(Axis.full(axis.size) if k == index else axis for k, axis in enumerate(self.axes))
        kept = tuple(None if k == index else p for k, p in enumerate(self.profile))
        return self.rebuilt(axes, self.weighted(profile.reshape(shape)), kept).with_autocorrelation(
            self.autocorrelation
        )

    @abstractmethod
    def pooled(self, index: int, target: Axis | None = None) -> Self:
        """With the cells of one axis averaged into those of `target`, by default into one."""

    @property
    @abstractmethod
    def correlated(self) -> bool:
        """Whether entries of one cell are correlated."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(axis.size for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of entries of the tensor."""
        return math.prod(self.shape)

    @cached_property
    def positions(self) -> int:
        """Entries of one sample in one cell (of average size): what `position_covariance` is over."""
        return max(1, round(math.prod(axis.size / axis.count for axis in self.axes[1:])))

    def refined(self, axes: Axes) -> Self:
        """On cells at least as fine as `axes`; profiles of axes that get cells are absorbed."""
        if self.axes == axes:  # where an axis has cells it has no profile
            return self
        field = self
        for index, axis in enumerate(axes):
            if not axis.is_pooled and field.profile[index] is not None:
                field = field.absorbed(index)
        target = refine(field.axes, axes)
        if target == field.axes:
            return field
        arrays = [resample(a, field.axes, target) for a in field.arrays()]
        return field.rebuilt(target, arrays, field.profile).with_autocorrelation(self.autocorrelation)

    def only(self, *kept: int) -> Self:
        """With every axis pooled but the ones named."""
        field = self
        for index in range(len(self.axes)):
            if index not in kept:
                field = field.pooled(index)
        return field

    def permuted(self, order: Sequence[int]) -> Self:
        """`numpy.transpose`."""
        moved = self.rebuilt(
            tuple(self.axes[i] for i in order),
            [a.transpose(order) for a in self.arrays()],
            tuple(self.profile[i] for i in order),
        )
        return (
            moved
            if self.autocorrelation is None
            else moved.with_autocorrelation(self.autocorrelation.on(list(order).index(self.autocorrelation.axis)))
        )

    def with_autocorrelation(self, autocorrelation: Autocorrelation | None) -> Self:
        """With this autocorrelation."""
        return self if autocorrelation is self.autocorrelation else replace(self, autocorrelation=autocorrelation)

    def with_rank(self, rank: int) -> Self:
        """With axes of size 1 put in front, as numpy broadcasting does."""
        missing = rank - len(self.axes)
        if missing <= 0:
            return self
        arrays = [a.reshape((1,) * missing + a.shape) for a in self.arrays()]
        found = self.rebuilt((Axis(1),) * missing + self.axes, arrays, (None,) * missing + self.profile)
        return (
            found
            if self.autocorrelation is None
            else found.with_autocorrelation(self.autocorrelation.on(self.autocorrelation.axis + missing))
        )

    def reshaped(self, shape: Sequence[int]) -> Self:
        """`numpy.reshape`. Axes that are split or merged keep their cells while there are at most MAX_CELLS."""
        groups = matching_groups(self.shape, shape)
        if not groups:
            return self.only().rebuilt(
                pooled(shape), [a.reshape((1,) * len(shape)) for a in self.only().arrays()], (None,) * len(shape)
            )
        field = self
        new_axes: list[Axis] = []
        new_profile: list[np.ndarray | None] = []
        array_shape: list[int] = []
        for old, new in groups:
            sizes = [shape[j] for j in new]
            wide_old = [i for i in old if self.shape[i] > 1]
            wide_new = [j for j, size in enumerate(sizes) if size > 1]
            group_axes = [Axis(size) for size in sizes]
            group_profile: list[np.ndarray | None] = [None] * len(sizes)
            if len(wide_old) == 1 and len(wide_new) == 1:
                group_axes[wide_new[0]] = self.axes[wide_old[0]]
                group_profile[wide_new[0]] = self.profile[wide_old[0]]
            elif all(self.axes[i].is_pooled for i in wide_old):
                group_profile = refolded([field.profile[i] for i in old], [self.shape[i] for i in old], sizes)
            else:
                others = math.prod(a.count for i, a in enumerate(field.axes) if i not in old)
                if others * math.prod(sizes) > MAX_CELLS:
                    for i in wide_old:
                        field = field.pooled(i)
                else:
                    for i in wide_old:
                        field = field.absorbed(i) if field.profile[i] is not None else field
                        field = field.refined(
                            tuple(Axis.full(a.size) if k == i else a for k, a in enumerate(field.axes))
                        )
                    group_axes = [Axis.full(size) for size in sizes]
            new_axes += group_axes
            new_profile += group_profile
            array_shape += [axis.count for axis in group_axes]
        axes, arrays = tuple(new_axes), [a.reshape(array_shape) for a in field.arrays()]
        if not field.correlated:  # cells that are alike still share nothing with each other
            axes, arrays = squeeze_constant(axes, arrays)
        return field.rebuilt(axes, arrays, tuple(new_profile)).with_autocorrelation(
            _moved_autocorrelation(self.autocorrelation, shape, groups)
        )

    def sliced(self, index: int, start: int, stop: int, step: int) -> Self:
        """Indexing [start:stop:step] along one axis."""
        old = self.axes[index]
        axis = old.slice(start, stop, step)
        picked = np.arange(old.size)[start:stop:step] if step > 0 else np.arange(start, stop, step)
        first = picked[axis.starts] if len(picked) else picked
        cell = np.searchsorted(old.starts, first, side="right") - 1
        arrays = [np.take(a, cell, axis=index) for a in self.arrays()]
        profile = list(self.profile)
        axes = (*self.axes[:index], axis, *self.axes[index + 1 :])
        if profile[index] is None or not len(picked):
            profile[index] = None
            found = self.rebuilt(axes, arrays, tuple(profile))
            apart = self.autocorrelation is not None and self.autocorrelation.axis == index and abs(step) != 1
            return found if apart else found.with_autocorrelation(self.autocorrelation)
        return self.absorbed(index).sliced(index, start, stop, step)


def _moved_autocorrelation(
    autocorrelation: Autocorrelation | None, shape: Sequence[int], groups: Sequence[tuple[range, range]]
) -> Autocorrelation | None:
    """Autocorrelation along an axis that a reshape leaves whole; None where it is split or merged."""
    if autocorrelation is None:
        return None
    for old, new in groups:
        if autocorrelation.axis in old:
            wide = [index for index in new if shape[index] > 1]
            return autocorrelation.on(wide[0]) if len(wide) == 1 and len(old) == 1 else None
    return None


@dataclass(frozen=True)
class Moments(Field):
    """First and second moments of a tensor's entries over inputs, positions of a cell and samples.

    Attributes:
        mean: E[x] of each cell where its profile is 1; the mean at index p is sqrt(profile(p)) times that.
        variance: Var[x] likewise, times profile(p).
        position_covariance: covariance of two different entries of the cell in one sample.
        nonnegative: whether no entry can be negative (the value left a ReLU).
        centred_energy: for each axis the relative energy of x - E x at its indices, E x being the cell's average over
            all indices; None where nobody knows better than `profile`. Where padding shifts each channel's mean in a
            way of its own, the border has the most of it although it has the least energy. Only what computes it
            has it, and a normalisation, which takes the average away, reads it.
        cumulants: the third and the fourth of an entry, where its profile is 1, where they are known not to be those of
            a Gaussian: behind a rectifier, and behind sums with one.
        floor: where all entries are that a rectifier has cut, and below which there are none; None where no rectifier
            is known. It is 0 for what is `nonnegative`, which does not say it again, and elsewhere behind a shift.
        channel_correlation: how much different channels are correlated, by mean square.
        variance_of_variance: relative variance of a cell's true variance about `variance`, for the channel
            correlations of what was summed.
        log_norm_variance: variance over the samples of one cell of log q, q being a sample's own average square; 0
            where nothing follows it (theory.fields.log_norm).
    """

    mean: np.ndarray
    variance: np.ndarray
    position_covariance: np.ndarray
    nonnegative: bool = False
    centred_energy: Profiles | None = None
    cumulants: tuple[np.ndarray, np.ndarray] | None = None
    floor: np.ndarray | None = None
    channel_correlation: ChannelCorrelation = NONE
    variance_of_variance: float = 0.0
    log_norm_variance: float = 0.0

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
        position_covariance: np.ndarray | None = None,
        nonnegative: bool = False,
    ) -> Moments:
        """Moments without profiles; arrays broadcast to the cells."""
        shape = counts(axes)
        full = [
            on_cells(a, shape) for a in (mean, variance, 0.0 if position_covariance is None else position_covariance)
        ]
        return Moments(axes, (None,) * len(axes), full[0], np.maximum(full[1], 0.0), full[2], nonnegative)

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.mean, self.variance, self.position_covariance

    def scattered_as(self, x: Moments) -> Moments:
        """With the scatter of `x` about its moments: the variance of its variance and that of its samples' log norm."""
        return replace(self, variance_of_variance=x.variance_of_variance, log_norm_variance=x.log_norm_variance)

    @cached_property
    def correlated(self) -> bool:
        return bool(self.position_covariance.any())

    def rebuilt(self, axes: Axes, arrays: Sequence[np.ndarray], profile: Profiles) -> Moments:
        return Moments(
            axes,
            profile,
            arrays[0],
            arrays[1],
            arrays[2],
            self.nonnegative,
            channel_correlation=self.channel_correlation,
        )

    def refined(self, axes: Axes) -> Moments:
        """On cells at least as fine as `axes`; cumulants stay with the entries."""
        field = super().refined(axes)
        if field is self or any(a is not b for a, b in zip(field.profile, self.profile, strict=True)):
            return field
        if self.cumulants is not None:
            third, fourth = (resample(array, self.axes, field.axes) for array in self.cumulants)
            field = replace(field, cumulants=(third, fourth))
        return field if self.floor is None else replace(field, floor=resample(self.floor, self.axes, field.axes))

    @cached_property
    def rectified(self) -> tuple[np.ndarray, ...]:
        """P(x > 0) and E max(x, 0)^p for p = 1 to 4 (theory.gram_charlier); all variances have to be positive."""
        third, fourth = (np.zeros(1), np.zeros(1)) if self.cumulants is None else self.cumulants
        return rectified_moments(self.mean, self.variance, third, fourth)

    @cached_property
    def positive_share(self) -> np.ndarray:
        """P(x > 0) in each cell; a value that is never negative is max(z, 0) of a Gaussian z."""
        if self.nonnegative:
            location, scale = rectified_source(self.mean, self.variance)
            return normal_cdf(np.divide(location, scale, out=np.full_like(location, -math.inf), where=scale > 0))
        if self.cumulants is None or np.any(self.variance <= 0):
            return gaussian_share(self.mean, self.variance)
        return self.rectified[0]

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
        flat = Moments.flat(self.axes, mean, self.second - mean**2, self.position_covariance, self.nonnegative)
        return replace(flat, channel_correlation=self.channel_correlation, autocorrelation=self.autocorrelation)

    def weighted(self, energy: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.mean * np.sqrt(energy), self.variance * energy, self.position_covariance * energy

    def pooled(self, index: int, target: Axis | None = None) -> Moments:
        old = self.axes[index]
        target = target or Axis(old.size)
        if old == target:
            return self
        mean = average(self.mean, self.axes, index, target)
        second = average(self.second, self.axes, index, target)
        same = target.count / old.count  # a pair of the new cell was in one old cell with about this probability
        covariance = average(self.position_covariance, self.axes, index, target) * same
        axes = (*self.axes[:index], target, *self.axes[index + 1 :])
        pooled = self.rebuilt(axes, (mean, np.maximum(second - mean**2, 0.0), covariance), self.profile)
        return pooled.with_autocorrelation(self.autocorrelation)

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
            covariance = ((copies - 1) * field.variance + copies * (before - 1) * field.position_covariance) / pairs
        return field.rebuilt(tuple(axes), (field.mean, field.variance, covariance), field.profile)


@dataclass(frozen=True)
class Gradient(Field):
    """Second moments of the loss gradient with respect to a tensor; its mean is zero.

    Attributes:
        energy: E[g^2] of one entry, where the profile is 1 and on average over it.
        position_covariance: E[g g'] of two different entries of the cell in one sample.
        mask_overlap: how much of the energy is sure to sit on entries of the value that are positive, beyond chance: a
            rectifier that lets a share P of its entries pass lets P + mask_overlap (1 - P) of it pass. The winners
            of a max-pooling overlap wholly, and so is what has passed the same rectifier's mask before.
    """

    energy: np.ndarray
    position_covariance: np.ndarray
    mask_overlap: np.ndarray

    @staticmethod
    def white(shape: Sequence[int]) -> Gradient:
        """The isotropic cotangent of unit energy."""
        ones = np.ones((1,) * len(shape))
        return Gradient(pooled(shape), (None,) * len(shape), ones, 0.0 * ones, 0.0 * ones)

    @staticmethod
    def flat(
        axes: Axes,
        energy: np.ndarray,
        position_covariance: np.ndarray | float = 0.0,
        profile: Profiles | None = None,
        mask_overlap: np.ndarray | float = 0.0,
    ) -> Gradient:
        """Arrays broadcast to the cells."""
        shape = counts(axes)
        full = [on_cells(a, shape) for a in (energy, position_covariance, mask_overlap)]
        return Gradient(axes, profile or (None,) * len(axes), *full)

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.energy, self.position_covariance, self.mask_overlap

    @cached_property
    def correlated(self) -> bool:
        return bool(self.position_covariance.any())

    def rebuilt(self, axes: Axes, arrays: Sequence[np.ndarray], profile: Profiles) -> Gradient:
        """`arrays` may leave out `mask_overlap`: whatever computes new energies knows nothing of it."""
        energy, covariance = arrays[:2]
        return Gradient(axes, profile, energy, covariance, arrays[2] if len(arrays) > 2 else np.zeros_like(energy))

    def scaled(self, factor: float) -> Gradient:
        """The gradient times sqrt(factor)."""
        scaled = self.rebuilt(
            self.axes, (self.energy * factor, self.position_covariance * factor, self.mask_overlap), self.profile
        )
        return scaled.with_autocorrelation(self.autocorrelation)

    def weighted(self, energy: np.ndarray) -> tuple[np.ndarray, ...]:
        weighted = self.energy * energy
        return weighted, self.position_covariance * energy, np.broadcast_to(self.mask_overlap, weighted.shape)

    def pooled(self, index: int, target: Axis | None = None) -> Gradient:
        old = self.axes[index]
        target = target or Axis(old.size)
        if old == target:
            return self
        same = target.count / old.count
        arrays = (
            average(self.energy, self.axes, index, target),
            average(self.position_covariance, self.axes, index, target) * same,
            average(self.mask_overlap, self.axes, index, target),
        )
        pooled = self.rebuilt((*self.axes[:index], target, *self.axes[index + 1 :]), arrays, self.profile)
        return pooled.with_autocorrelation(self.autocorrelation)

    def profiled(self, index: int) -> Gradient:
        """With the cells of one axis turned into a profile."""
        axis = self.axes[index]
        if axis.is_pooled:
            return self
        line = self.energy
        for other in range(len(self.axes)):
            if other != index:
                line = average(line, self.axes, other)
        profile = normalised(np.repeat(line.reshape(-1), axis.lengths.astype(int)))
        field = self.pooled(index)
        kept = (*field.profile[:index], profile, *field.profile[index + 1 :])
        return field.rebuilt(field.axes, field.arrays(), kept)

    @cached_property
    def total(self) -> float:
        """Squared L2 norm of the whole gradient."""
        return total_average(self.energy, self.axes) * self.size

    def times(self, axes: Axes, energy: np.ndarray, covariance: np.ndarray | None = None) -> Gradient:
        """Entries multiplied by independent factors.

        Args:
            axes: the cells on which the factors are given (same rank, sizes equal to the gradient's).
            energy: E[factor^2] of each cell.
            covariance: E[factor factor'] of two entries of a cell, by default `energy` (one factor for the whole cell).
        """
        field = self.refined(axes)
        energy = resample(on_cells(energy, counts(axes)), axes, field.axes)
        covariance = energy if covariance is None else resample(on_cells(covariance, counts(axes)), axes, field.axes)
        return field.rebuilt(field.axes, (field.energy * energy, field.position_covariance * covariance), field.profile)

    def plus(self, other: Gradient) -> Gradient:
        """Sum of two uncorrelated gradients with respect to one tensor."""
        left, right = self.refined(other.axes), other.refined(self.axes)
        left, right = left.refined(right.axes), right.refined(left.axes)
        profile = tuple(
            mixed_profile(((left.total, p), (right.total, q)), axis.size)
            for p, q, axis in zip(left.profile, right.profile, left.axes, strict=True)
        )
        energy = left.energy + right.energy
        known = left.energy * left.mask_overlap + right.energy * right.mask_overlap
        mask_overlap = np.divide(known, energy, out=np.zeros_like(energy), where=energy > 0)
        total = left.rebuilt(
            left.axes, (energy, left.position_covariance + right.position_covariance, mask_overlap), profile
        )
        return total.with_autocorrelation(
            mixed_autocorrelation(((left.total, left.autocorrelation), (right.total, right.autocorrelation)))
        )

    def summed_to(self, shape: Sequence[int]) -> Gradient:
        """The transpose of numpy broadcasting: sums over every axis that was widened from size 1 (or added)."""
        if self.shape == tuple(shape):
            return self
        wide = [i for i in range(len(self.axes)) if self._target(i, shape) == 1 and self.axes[i].size > 1]
        field = self
        for index in wide:
            field = field._summed_over(index)
        drop = len(field.axes) - len(shape)
        arrays = [a.reshape(a.shape[drop:]) for a in field.arrays()[:2]]
        return field.rebuilt(field.axes[drop:], arrays, field.profile[drop:])

    def _summed_over(self, index: int) -> Gradient:
        """The sum along one axis: coherent within a cell as far as it shares, incoherent from cell to cell and over
        samples."""
        axis = self.axes[index]
        shape = [1] * len(self.axes)
        shape[index] = axis.count
        length = axis.lengths.reshape(shape)
        together = 0.0 * length if index == 0 else length - 1.0
        energy = (length * np.maximum(self.energy + together * self.position_covariance, 0.0)).sum(
            axis=index, keepdims=True
        )
        covariance = (length * (1.0 + together) * self.position_covariance).sum(axis=index, keepdims=True)
        axes = (*self.axes[:index], Axis(1), *self.axes[index + 1 :])
        return self.rebuilt(axes, (energy, covariance), (*self.profile[:index], None, *self.profile[index + 1 :]))

    def _target(self, index: int, shape: Sequence[int]) -> int:
        offset = len(self.axes) - len(shape)
        return 1 if index < offset else shape[index - offset]


def set_average(array: np.ndarray, x: Field, axes: Sequence[int]) -> np.ndarray:
    """Mean of a cell array over all entries of the set."""
    for index in axes:
        array = average(array, x.axes, index)
    return array


def average_covariance(energy: np.ndarray, covariance: np.ndarray, x: Field, axes: Sequence[int]) -> np.ndarray:
    """E of an entry of each cell times the set's average, for zero-mean entries with these second moments and
    covariances."""
    inside = math.prod(x.axes[i].size / x.axes[i].count for i in axes if i != 0)
    outside = math.prod(x.axes[i].size / x.axes[i].count for i in range(1, len(x.axes)) if i not in axes)
    together = covariance if outside <= 1 else np.zeros_like(covariance)
    cell = np.maximum(energy / inside + together * (1.0 - 1.0 / inside), 0.0)
    cells = math.prod(x.axes[i].count for i in axes if i != 0)
    samples = x.axes[0].size if 0 in axes else 1
    return cell / (cells * samples)


def sample_average_energy(energy: np.ndarray, covariance: np.ndarray, x: Field, axes: Sequence[int]) -> np.ndarray:
    """E of the squared set average of zero-mean entries with these second moments and covariances."""
    return set_average(average_covariance(energy, covariance, x, axes), x, axes)
