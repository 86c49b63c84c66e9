"""What moments and gradients have in common: arrays over cells, and what is still known of them behind an operation.

Both are kept on the cells of `cells.py`, each only as fine as it has to be: a mean and a variance for each channel,
one cell for the batch, two for {class token, the rest}. Two further numbers make up for what a cell forgets:

profile              Zero padding lowers the energy at the border. Along a pooled axis a profile e(p), of mean 1,
                     scales the energy at index p: x(p) = sqrt(e(p)) x' with x' alike everywhere.
position_covariance  The covariance between two different entries of one cell in one sample. It decides what an average
                     over positions keeps, what attention passes and what a normalisation removes from a gradient that
                     is constant over positions.

Whatever else is known of a value (`Moments`, `Gradient`: the attributes with a default) holds behind some operations
and not behind others. An operation says by its `Effect` what it does to the entries, each attribute says where it is
declared which effects it `outlasts`, and `Field.behind` keeps it or sets it back to its default. A constructor makes
new values, of which nothing is known but what it is given.

Axis 0 is taken to be the batch: entries of different samples are independent. Source: theory 9.1,
theory 9.2 and theory 9.9.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from gnelint.records import cached_property, dataclass, replace
from gnelint.theory.fields.autocorrelation import Autocorrelation
from gnelint.theory.fields.cells import (
    MAX_CELLS,
    Axes,
    Axis,
    average,
    matching_groups,
    pooled,
    refine,
    resample,
    squeeze_constant,
)
from gnelint.theory.fields.nearby import NOWHERE_NEAR, Nearby
from gnelint.theory.fields.profiles import Profiles, refolded

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class Effect(Enum):
    """What an operation does to the entries of a value."""

    RECUT = "the same entries in other cells"
    ORDERED = "the same entries in another order or shape"
    MOVED = "entries picked, repeated, summed or averaged"
    SCALED = "each entry times a factor that does not change its sign"
    SHIFTED = "a constant added to each entry"


def outlasts(*effects: Effect) -> Mapping[str, frozenset[Effect]]:
    """Metadata of an attribute that still holds behind operations of these effects."""
    return {"outlasts": frozenset(effects)}


@cache
def _lasting(kind: type[Field], effect: Effect) -> tuple[str, ...]:
    """The attributes that outlast an effect."""
    return tuple(each.name for each in fields(kind) if effect in each.metadata.get("outlasts", ()))


def put(sequence: Sequence[T], index: int, item: T) -> tuple[T, ...]:
    """The sequence with another item in one place."""
    return (*sequence[:index], item, *sequence[index + 1 :])


@dataclass(frozen=True)
class Field(ABC):
    """Arrays over the cells of a tensor, and how they follow its entries when these are moved about.

    Attributes:
        axes: the tensor's axes and their cells.
        profile: for each axis the relative energy of its indices (mean 1), None where it is flat. Only pooled axes
            have one.
        autocorrelation: how entries of one channel are correlated along an axis by their distance, where something
            follows it; `position_covariance` is then its average over the pairs of a cell. A factor and a constant
            leave correlations as they are; what moves entries says itself to which axis it goes.
        alike: axes that were one cell, and have many only because something else differs there: entries of two cells
            along them share what entries of one do, the root of the product of their `position_covariance`.
        nearby: how entries of one channel that lie near each other are correlated, of what `position_covariance` does
            not say that all of a cell share.
    """

    axes: Axes
    profile: Profiles
    autocorrelation: Autocorrelation | None = field(
        default=None, kw_only=True, metadata=outlasts(Effect.RECUT, Effect.SCALED, Effect.SHIFTED)
    )
    alike: frozenset[int] = field(
        default=frozenset(), kw_only=True, metadata=outlasts(Effect.RECUT, Effect.SCALED, Effect.SHIFTED)
    )

    nearby: Nearby = field(
        default=NOWHERE_NEAR, kw_only=True, metadata=outlasts(Effect.RECUT, Effect.SCALED, Effect.SHIFTED)
    )

    _covariance: ClassVar[int]
    """Where `position_covariance` is among the arrays."""

    @abstractmethod
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays kept, each of shape `counts(axes)`."""

    @abstractmethod
    def weighted(self, energy: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arrays of entries whose energy is multiplied by this (it broadcasts to the cells, and may add some)."""

    def behind(
        self,
        effect: Effect,
        arrays: Sequence[np.ndarray],
        axes: Axes | None = None,
        profile: Sequence[np.ndarray | None] | None = None,
    ) -> Self:
        """Behind an operation that makes these arrays, on the same axes and with the same profile unless others are
        given; with what else is known as far as it outlasts the effect."""
        lasting = {name: getattr(self, name) for name in _lasting(type(self), effect)}
        make: Callable[..., Self] = type(self)
        return make(
            self.axes if axes is None else axes, self.profile if profile is None else tuple(profile), *arrays, **lasting
        )

    def absorbed(self, index: int, target: Axis | None = None) -> Self:
        """With the profile of one axis turned into cells, by default one for each index. Coarser ones forget how the
        energy varies within them, and keep what their entries have in common."""
        profile = self.profile[index]
        if profile is None:
            return self
        cells = target or Axis.full(profile.size)
        profile = average(profile, (Axis.full(profile.size),), 0, cells)
        shape = put((1,) * len(self.axes), index, profile.size)
        axes, kept = put(self.axes, index, cells), put(self.profile, index, None)
        return self.behind(Effect.RECUT, self.weighted(profile.reshape(shape)), axes, kept)

    @abstractmethod
    def averaged(self, index: int, target: Axis) -> tuple[np.ndarray, ...]:
        """The arrays on coarser cells of one axis."""

    def averaged_pairs(self, covariance: np.ndarray, index: int, target: Axis, same: float = 0.0) -> np.ndarray:
        """Covariances on coarser cells: a pair of a new cell of L entries was in an old one of l with probability
        l (l - 1) / (L (L - 1)), and had nothing in common otherwise; two entries of one sample always are in the same
        batch cell.

        Args:
            covariance, index, target: of which, and what becomes of an axis.
            same: 1 for pairs of different entries, of which a cell of one has none; 0 for those of two samples.
        """
        old = self.axes[index]
        if index == 0:
            return average(covariance, self.axes, index, target)
        others = math.prod(a.size / a.count for i, a in enumerate(self.axes) if i not in (0, index))
        shape = put((1,) * len(self.axes), index, -1)
        pairs = np.maximum(old.lengths * others - same, 0.0).reshape(shape)
        found = average(covariance * pairs, self.axes, index, target)
        return np.asarray(found / np.maximum(target.lengths * others - same, 1.0).reshape(shape))

    def averaged_together(self, covariance: np.ndarray, index: int, target: Axis) -> np.ndarray:
        """As `averaged_pairs`, of what entries of all cells share where these are `alike`: those that have less than
        nothing in common, as a class token's, have nothing of what the others share."""
        if index not in self.alike:
            return self.averaged_pairs(covariance, index, target, same=1.0)
        more, less = (
            average(np.sqrt(np.maximum(sign * covariance, 0.0)), self.axes, index, target) for sign in (1.0, -1.0)
        )
        return np.asarray(np.where(more > 0, more**2, -(less**2)))

    def pooled(self, index: int, target: Axis | None = None) -> Self:
        """With the cells of one axis averaged into those of `target`, by default into one."""
        target = target or Axis(self.axes[index].size)
        if self.axes[index] == target:
            return self
        found = self.behind(Effect.RECUT, self.averaged(index, target), put(self.axes, index, target))
        whole = index in found.alike and target.is_pooled
        return replace(found, alike=found.alike - {index}) if whole else found

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

    @cached_property
    def sharing(self) -> int:
        """Entries of one sample that share what `position_covariance` says: those of one cell, and of all cells along
        axes that are `alike`."""
        cells = math.prod(axis.count for index, axis in enumerate(self.axes) if index in self.alike)
        return self.positions * cells

    def refined(self, axes: Axes) -> Self:
        """On cells at least as fine as `axes`; profiles of axes that get cells are absorbed. Entries of what was one
        cell go on sharing what they shared."""
        if self.axes == axes:  # where an axis has cells it has no profile
            return self
        field = self
        for index, axis in enumerate(axes):
            if not axis.is_pooled and field.profile[index] is not None:
                field = field.absorbed(index, axis if field.correlated else None)
        target = refine(field.axes, axes)
        if target != field.axes:
            field = field.behind(Effect.RECUT, [resample(a, field.axes, target) for a in field.arrays()], target)
        if field is self or not field.correlated:
            return field
        cut = (i for i, (old, new) in enumerate(zip(self.axes, target, strict=True)) if i and old.count < new.count)
        return replace(field, alike=self.alike | {i for i in cut if self._shares_in_one_cell(i)})

    def _shares_in_one_cell(self, index: int) -> bool:
        """Whether of the cells along an axis no more than one has entries that share anything: what is left of it when
        it is cut up is the same in all its parts, and the others have none. Beside a class token that is the rest."""
        if self.axes[index].is_pooled:
            return True
        others = tuple(i for i in range(len(self.axes)) if i != index)
        return int((self.arrays()[self._covariance].max(axis=others) > 0).sum()) <= 1

    def along(self, index: int, array: np.ndarray) -> np.ndarray:
        """What a cell array is at each index of an axis, averaged over the others."""
        line = set_average(array, self, [other for other in range(len(self.axes)) if other != index])
        return np.repeat(line.reshape(-1), self.axes[index].lengths.astype(int))

    def only(self, *kept: int) -> Self:
        """With every axis pooled but the ones named."""
        field = self
        for index in range(len(self.axes)):
            if index not in kept:
                field = field.pooled(index)
        return field

    def with_autocorrelation(self, autocorrelation: Autocorrelation | None) -> Self:
        """With this autocorrelation."""
        return self if autocorrelation is self.autocorrelation else replace(self, autocorrelation=autocorrelation)

    def _with_its_axis(self, moved: Self, axis: Callable[[int], int | None]) -> Self:
        """What this field was moved to, with the correlations along the axes that their own have become, if any."""
        if self.nearby:
            moved = replace(moved, nearby=self.nearby.moved(axis))
        target = None if self.autocorrelation is None else axis(self.autocorrelation.axis)
        if self.autocorrelation is None or target is None:
            return moved
        return moved.with_autocorrelation(self.autocorrelation.on(target))

    def permuted(self, order: Sequence[int]) -> Self:
        """`numpy.transpose`."""
        arrays = [a.transpose(order) for a in self.arrays()]
        axes, profile = tuple(self.axes[i] for i in order), tuple(self.profile[i] for i in order)
        return self._with_its_axis(self.behind(Effect.ORDERED, arrays, axes, profile), list(order).index)

    def with_rank(self, rank: int) -> Self:
        """With axes of size 1 put in front, as numpy broadcasting does."""
        missing = rank - len(self.axes)
        if missing <= 0:
            return self
        arrays = [a.reshape((1,) * missing + a.shape) for a in self.arrays()]
        axes, profile = (Axis(1),) * missing + self.axes, (None,) * missing + self.profile
        return self._with_its_axis(self.behind(Effect.ORDERED, arrays, axes, profile), lambda axis: axis + missing)

    def reshaped(self, shape: Sequence[int]) -> Self:
        """`numpy.reshape`. Axes that are split or merged keep their cells while there are at most MAX_CELLS."""
        groups = matching_groups(self.shape, shape)
        if not groups:
            arrays = [a.reshape((1,) * len(shape)) for a in self.only().arrays()]
            return self.behind(Effect.ORDERED, arrays, pooled(shape), (None,) * len(shape))
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
                        field = field.absorbed(i)
                        field = field.refined(put(field.axes, i, Axis.full(field.axes[i].size)))
                    group_axes = [Axis.full(size) for size in sizes]
            new_axes += group_axes
            new_profile += group_profile
            array_shape += [axis.count for axis in group_axes]
        axes, arrays = tuple(new_axes), [a.reshape(array_shape) for a in field.arrays()]
        if not field.correlated:  # cells that are alike still share nothing with each other
            axes, arrays = squeeze_constant(axes, arrays)
        elif axes and not axes[0].is_pooled:  # nor do samples, in cells or not
            first, arrays = squeeze_constant(axes[:1], arrays)
            axes = (*first, *axes[1:])
        moved = field.behind(Effect.ORDERED, arrays, axes, new_profile)
        # tokens that became samples of their own keep what they had in common
        apart = moved.shape[:1] != field.shape[:1] and min(field.positions, moved.positions) > 1
        if apart and field.correlated and field.axes[0].is_pooled and axes[0].is_pooled:
            moved = moved.regrouped(field)
        return self._with_its_axis(moved, lambda axis: _axis_behind(axis, shape, groups))

    @abstractmethod
    def regrouped(self, before: Self) -> Self:
        """This field, in samples that are parts of those it was in before, or made of several of them."""

    def mirrored(self, index: int) -> Self:
        """`numpy.flip` along one axis."""
        line = self.profile[index]
        axes, arrays = put(self.axes, index, mirrored(self.axes[index])), [np.flip(a, index) for a in self.arrays()]
        line = None if line is None else line[::-1]
        moved = self.behind(Effect.ORDERED, arrays, axes, put(self.profile, index, line))
        return self._with_its_axis(moved, lambda axis: axis)

    def sliced(self, index: int, start: int, stop: int, step: int) -> Self:
        """Indexing [start:stop:step] along one axis."""
        old = self.axes[index]
        axis = old.slice(start, stop, step)
        picked = range(old.size)[start:stop:step] if step > 0 else range(start, stop, step)
        if self.profile[index] is not None and len(picked):
            cells = self.absorbed(index)
            cells = replace(cells, alike=cells.alike | {index}) if index and self.correlated else cells
            return cells.sliced(index, start, stop, step)
        first = picked.start + picked.step * axis.starts[: len(picked)]
        cell = np.searchsorted(old.starts, first, side="right") - 1
        arrays = [_picked(a, cell, index) for a in self.arrays()]
        moved = self.behind(Effect.MOVED, arrays, put(self.axes, index, axis), put(self.profile, index, None))
        return self._with_its_axis(moved, lambda axis: None if axis == index and abs(step) != 1 else axis)


def _picked(array: np.ndarray, places: np.ndarray, index: int) -> np.ndarray:
    """The entries at these places of an axis; a view on those that follow each other at one distance."""
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    if len(places) and step > 0 and np.array_equal(places, np.arange(places[0], places[-1] + 1, step)):
        return array[(slice(None),) * index + (slice(int(places[0]), int(places[-1]) + 1, step),)]
    return np.take(array, places, axis=index)


def mirrored(axis: Axis) -> Axis:
    """The axis with its indices in the opposite order."""
    return axis if axis.cuts is None else Axis(axis.size, tuple(sorted(axis.size - cut for cut in axis.cuts)))


def _axis_behind(axis: int, shape: Sequence[int], groups: Sequence[tuple[range, range]]) -> int | None:
    """The axis that one is behind a reshape that leaves it whole; None where it is split or merged."""
    for old, new in groups:
        if axis in old:
            wide = [index for index in new if shape[index] > 1]
            return wide[0] if len(wide) == 1 and len(old) == 1 else None
    return None


def set_average(array: np.ndarray, x: Field, axes: Sequence[int]) -> np.ndarray:
    """Mean of a cell array over all entries of the set."""
    for index in axes:
        array = average(array, x.axes, index)
    return array


def average_covariance(energy: np.ndarray, covariance: np.ndarray, x: Field, axes: Sequence[int]) -> np.ndarray:
    """E of an entry of each cell times the set's average, for zero-mean entries with these second moments and
    covariances."""
    inside = math.prod(x.axes[i].size / (1 if i in x.alike else x.axes[i].count) for i in axes if i != 0)
    outside = math.prod(x.axes[i].size / x.axes[i].count for i in range(1, len(x.axes)) if i not in axes)
    together = covariance if outside <= 1 else np.zeros_like(covariance)
    if x.nearby:
        whole = {i: x.axes[i].size for i in axes if i and i not in x.alike and (outside > 1 or not x.axes[i].is_pooled)}
        energy = energy * x.nearby.coherence(whole)
    cell = np.maximum(energy / inside + together * (1.0 - 1.0 / inside), 0.0)
    cells = math.prod(x.axes[i].count for i in axes if i != 0 and i not in x.alike)
    samples = x.axes[0].size if 0 in axes else 1
    return cell / (cells * samples)


def sample_average_energy(energy: np.ndarray, covariance: np.ndarray, x: Field, axes: Sequence[int]) -> np.ndarray:
    """E of the squared set average of zero-mean entries with these second moments and covariances."""
    return set_average(average_covariance(energy, covariance, x, axes), x, axes)
