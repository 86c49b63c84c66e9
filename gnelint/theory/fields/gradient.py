"""The state of the loss gradient with respect to a value (theory 9.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from functools import reduce
from typing import ClassVar

import numpy as np

from gnelint.records import cached_property, dataclass, replace
from gnelint.theory.fields.autocorrelation import mixed_autocorrelation
from gnelint.theory.fields.cells import (
    Axes,
    Axis,
    average,
    counts,
    is_zero,
    matching_groups,
    nothing_like,
    on_cells,
    pooled,
    resample,
    summed,
    times,
    total_average,
)
from gnelint.theory.fields.channel_correlation import NOTHING_AHEAD, Ahead, mixed_ahead
from gnelint.theory.fields.field import Effect, Field, outlasts, put
from gnelint.theory.fields.law import Law
from gnelint.theory.fields.moments import Trace
from gnelint.theory.fields.nearby import mixed_nearby
from gnelint.theory.fields.profiles import Profiles, mixed_profile, normalised

_LITTLE = 0.1
"""Share of what the other part of a sum has in common up to which a part counts as having nothing in common."""
_UNEVEN = 0.05
"""Square of the relative deviation from a profile up to which what entries share says more than cells do."""
_WORTH_MORE = 0.25
"""As a part of the share of the energy that they share it, where that is more."""
_MOSTLY = 0.7
"""Share of what factors of one cell have in common from which on those of two cells are said to have all of it."""

_MOST_LEAN = 3.0
"""Deviations that a gradient leans by at most, where little of what follows the value is shared."""
_MOST_APART = 1 << 14
"""Cells that parts of samples get which share nothing with each other."""


@dataclass(frozen=True)
class Projected:
    """What a normalisation over the last axis, the next one behind it in a chain of them, has left out of a gradient.

    Attributes:
        average: share of its average over the axis that is not there.
        along: share of what follows the value that is not there.
    """

    average: float = 0.0
    along: float = 0.0


UNPROJECTED = Projected()


def _of_one_sign(factors: np.ndarray, index: int) -> bool:
    """Whether what entries share along an axis is still shared once they are multiplied by these: not where as many
    factors are negative as are positive."""
    total, sizes = np.abs(factors.sum(axis=index)), np.abs(factors).sum(axis=index)
    return bool(np.all(total >= _MOSTLY * sizes))


def _mixed_projected(parts: Sequence[tuple[float, Projected]]) -> Projected:
    """Of a sum of gradients, each given with its energy."""
    total = sum(energy for energy, _ in parts)
    if total <= 0 or all(part is UNPROJECTED for _, part in parts):
        return UNPROJECTED
    return Projected(
        sum(energy * part.average for energy, part in parts) / total,
        sum(energy * part.along for energy, part in parts) / total,
    )


@dataclass(frozen=True, eq=False)
class Sense:
    """The sign that what positions share of a gradient has, relative to the gradient behind a sum that it comes from.

    Attributes:
        source: name of that sum; what comes from one on several ways adds up with these signs.
        sign: 1 or -1, for all channels or one each: shape () or (channels,).
    """

    source: str
    sign: np.ndarray

    def times(self, sign: np.ndarray) -> Sense:
        """Behind factors of this sign."""
        return Sense(self.source, self.sign * sign)

    def on(self, axes: Axes) -> np.ndarray:
        """The sign on these cells."""
        if self.sign.ndim == 0:
            return self.sign
        rank = len(axes)
        own = put(pooled([axis.size for axis in axes]), 1, Axis.full(self.sign.size))
        return resample(self.sign.reshape(put((1,) * rank, 1, -1)), own, axes)


@dataclass(frozen=True)
class Winners:
    """Where a part of a gradient sits that a maximum has sent back: on the largest of several entries.

    Attributes:
        share: of the energy.
        above: how far the entries that it sits on lie above the mean of all, in deviations.
        scatter: their variance, relative to that of all.
        owed: how many times what positions share an entry further in front gets besides: maxima of maxima have sent it
            to many entries that come from one.
    """

    share: float = 0.0
    above: float = 0.0
    scatter: float = 1.0
    owed: float = 0.0

    def of_part(self, share: float) -> Winners:
        """Of an operand that has this share of the variance of the sum whose entries were compared."""
        return Winners(self.share, self.above * math.sqrt(share), 1.0 + share * (self.scatter - 1.0))


NOWHERE = Winners()


def mixed_winners(parts: Sequence[tuple[float, Winners]]) -> Winners:
    """Of a sum of gradients, each given with its energy."""
    total = sum(energy for energy, _ in parts)
    taken = sum(energy * part.share for energy, part in parts)
    if total <= 0 or taken <= 0:
        return NOWHERE
    weights = [(energy * part.share / taken, part) for energy, part in parts]
    above = sum(weight * part.above for weight, part in weights)
    second = sum(weight * (part.scatter + part.above**2) for weight, part in weights)
    return Winners(taken / total, above, second - above**2)


@dataclass(frozen=True)
class Gradient(Field):
    """Second moments of the loss gradient with respect to a tensor; its mean is zero.

    Attributes:
        energy: E[g^2] of one entry, where the profile is 1 and on average over it.
        position_covariance: E[g g'] of two different entries of the cell in one sample.
        mask_overlap: how much of the energy is sure to sit on entries of the value that are positive, beyond chance: a
            rectifier that lets a share P of its entries pass lets P + mask_overlap (1 - P) of it pass. It is 1 for the
            winners of a max-pooling, and for what has passed the same rectifier's mask before. What computes new
            energies without it knows nothing of it: 0.
        sample_covariance: E[g g'] of an entry of the cell and one of another sample, on average over all of them.
            Behind a batch normalisation it is negative: what its set shares is out, and the next one finds nothing.
        lean: how the part of the gradient that positions share follows the value: E[a xhat] / E a for a gradient u a(x)
            of a factor u that they share, xhat being the value less its mean, in deviations. A mask makes it, and a
            normalisation takes out a part of the gradient for it.
        rays: the same gradient by the values that it comes from, where what lies between is a function entry by entry
            (theory.fields.law); () elsewhere.
        ahead: what the normalisations that it has passed make of what channels have in common here.
        projected: what the normalisation over features behind has left out of it.
        winners: on which entries a maximum has put part of it; what a rectifier makes of those is in `mask_overlap`.
        cut: how many deviations above the value's mean the entries lie at least that most of it sits on, where masks of
            rectified trunks say so (`Moments.rectified_part`); None where nobody knows.
        sense: the sign of what positions share, relative to the gradient behind the last sum; None where nobody knows.
        survived: sums and rectifiers behind each other (`Moments.rectified_part`) whose masks it has passed, on average
            over its energy.
    """

    _covariance: ClassVar[int] = 1

    energy: np.ndarray
    position_covariance: np.ndarray
    mask_overlap: np.ndarray
    sample_covariance: np.ndarray
    lean: np.ndarray
    rays: tuple[Ray, ...] = field(default=(), kw_only=True)
    ahead: Ahead = field(default=NOTHING_AHEAD, kw_only=True, metadata=outlasts(*Effect))
    projected: Projected = field(
        default=UNPROJECTED, kw_only=True, metadata=outlasts(Effect.RECUT, Effect.SCALED, Effect.SHIFTED)
    )
    winners: Winners = field(
        default=NOWHERE, kw_only=True, metadata=outlasts(Effect.RECUT, Effect.ORDERED, Effect.SCALED, Effect.SHIFTED)
    )
    cut: float | None = field(default=None, kw_only=True, metadata=outlasts(Effect.RECUT, Effect.SCALED))
    survived: float = field(default=0.0, kw_only=True, metadata=outlasts(Effect.RECUT, Effect.SCALED, Effect.SHIFTED))
    sense: Sense | None = field(
        default=None, kw_only=True, metadata=outlasts(Effect.RECUT, Effect.SCALED, Effect.SHIFTED)
    )

    @staticmethod
    def white(shape: Sequence[int]) -> Gradient:
        """The isotropic cotangent of unit energy."""
        ones = np.ones((1,) * len(shape))
        return Gradient(pooled(shape), (None,) * len(shape), ones, *[0.0 * ones] * 4)

    @staticmethod
    def flat(
        axes: Axes,
        energy: np.ndarray,
        position_covariance: np.ndarray | float = 0.0,
        profile: Profiles | None = None,
        sample_covariance: np.ndarray | float = 0.0,
    ) -> Gradient:
        """Arrays broadcast to the cells."""
        full = [on_cells(a, counts(axes)) for a in (energy, position_covariance, 0.0, sample_covariance, 0.0)]
        return Gradient(axes, profile or (None,) * len(axes), *full)

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.energy, self.position_covariance, self.mask_overlap, self.sample_covariance, self.lean

    @cached_property
    def correlated(self) -> bool:
        return not is_zero(self.position_covariance)

    def behind(
        self,
        effect: Effect,
        arrays: Sequence[np.ndarray],
        axes: Axes | None = None,
        profile: Sequence[np.ndarray | None] | None = None,
    ) -> Gradient:
        """As for any field; `arrays` may leave out the last ones, of which nothing is known then: 0."""
        missing = len(self.arrays()) - len(arrays)
        return super().behind(effect, (*arrays, *[nothing_like(arrays[0])] * missing), axes, profile)

    def scaled(self, factor: float) -> Gradient:
        """The gradient times sqrt(factor)."""
        if factor == 1.0:
            return self
        energy, covariance, overlap, across, lean = self.arrays()
        arrays = (energy * factor, covariance * factor, overlap, across * factor, lean)
        rays = tuple(replace(ray, factor=ray.factor * factor) for ray in self.rays)
        return replace(self.behind(Effect.SCALED, arrays), rays=rays)

    def weighted(self, energy: np.ndarray) -> tuple[np.ndarray, ...]:
        weighted = self.energy * energy
        overlap, lean = (np.broadcast_to(a, weighted.shape) for a in (self.mask_overlap, self.lean))
        together, across = (times(a, energy) for a in (self.position_covariance, self.sample_covariance))
        return weighted, together, overlap, across, lean

    def regrouped(self, before: Gradient) -> Gradient:
        """What an entry has in common with all others together stays: first with those of its own sample, of a gradient
        that parts of one sample got alike. Where a batch has been put behind an axis of one, it comes first again in
        front of the stack that this is one of: what samples have less than nothing in common is kept till then."""
        old, new, samples = before.positions, self.positions, self.shape[0]
        stacked = samples == 1 and self.shape[1:2] == before.shape[:1]
        inside, outside = self.position_covariance, self.sample_covariance * (before.shape[0] - 1.0) * old
        together = inside * (old - 1.0) + outside
        if new > old:
            one = self.sample_covariance * (0.0 if stacked else new - old)
            joining = np.where(outside > 0, np.minimum(outside, inside * (new - old)), one)
            inside = (inside * (old - 1.0) + joining) / (new - 1.0)
        across = (together - inside * (new - 1.0)) / ((samples - 1.0) * new) if samples > 1 else 0.0 * together
        across = np.minimum(self.sample_covariance, 0.0) if stacked else across
        return replace(self, position_covariance=inside, sample_covariance=across)

    def permuted(self, order: Sequence[int]) -> Gradient:
        """`numpy.transpose`. Where the batch comes first again, in front of a stack of queries, keys and values, what
        an entry has in common with all others it has with those of its own sample."""
        found = super().permuted(order)
        old, new = self.positions, found.positions
        if order[0] == 0 or not 1 < new < old or not found.axes[0].is_pooled:
            return found
        together = found.position_covariance * (old - 1.0) / (new - 1.0)
        return replace(found, position_covariance=np.minimum(together, found.energy))

    def averaged(self, index: int, target: Axis) -> tuple[np.ndarray, ...]:
        energy, overlap, lean = (
            average(a, self.axes, index, target) for a in (self.energy, self.mask_overlap, self.lean)
        )
        together = self.averaged_together(self.position_covariance, index, target)
        return energy, together, overlap, self.averaged_pairs(self.sample_covariance, index, target), lean

    def profiled(self, index: int) -> Gradient:
        """With the cells of one axis turned into a profile."""
        if self.axes[index].is_pooled:
            return self
        profile = normalised(self.along(index, self.energy))
        field = self.pooled(index)
        return field.behind(Effect.RECUT, field.arrays(), profile=put(field.profile, index, profile))

    @cached_property
    def total(self) -> float:
        """Squared L2 norm of the whole gradient."""
        return total_average(self.energy, self.axes) * self.size

    def levelled(self) -> Gradient:
        """With the average over all cells in each of them, and the same total."""
        means = [np.broadcast_to(np.mean(array), array.shape) for array in self.arrays()]
        found = Gradient(self.axes, (None,) * len(self.axes), *means, ahead=self.ahead, alike=self.alike)
        found.__dict__["total"] = self.total
        return found

    def times(
        self,
        axes: Axes,
        energy: np.ndarray,
        covariance: np.ndarray | None = None,
        across: np.ndarray | None = None,
        lean: np.ndarray | None = None,
    ) -> Gradient:
        """Entries multiplied by independent factors.

        Args:
            axes: the cells on which the factors are given (same rank, sizes equal to the gradient's).
            energy: E[factor^2] of each cell.
            covariance: E[factor factor'] of two entries of a cell, by default `energy` (one factor for the whole cell).
            across: likewise of two samples; None where the factors of one are nothing to the other's.
            lean: of what leaves; none is known by default.
        """
        field = self.refined(axes)

        def fitted(array: np.ndarray | None) -> np.ndarray:
            return resample(on_cells(0.0 if array is None else array, counts(axes)), axes, field.axes)

        factor = fitted(energy)
        together = factor if covariance is None else fitted(covariance)
        apart = frozenset(index for index in field.alike if not axes[index].is_pooled)
        if apart:  # factors of different cells are as little to each other as those of two samples
            between = fitted(across)
            if field.positions == 1:
                together, apart = between, frozenset()
            elif float(between.sum()) > _MOSTLY * float(together.sum()):
                apart = frozenset()
        arrays = (
            field.energy * factor,
            field.position_covariance * together,
            0.0,
            field.sample_covariance * fitted(across),
            fitted(lean),
        )
        cells = counts(field.axes)
        nearby = field.nearby
        if nearby:  # of the rest, which gets what factors make different of the shared part
            before = float(np.mean(field.energy - field.position_covariance))
            rest = float(np.mean(arrays[0] - arrays[1]))
            kept = float(np.mean(together)) * before / rest if rest > 0 else 0.0
            nearby = nearby.mapped(lambda correlation: correlation * kept)
        full = [on_cells(array, cells) for array in arrays]
        return Gradient(field.axes, field.profile, *full, alike=field.alike - apart, nearby=nearby)

    def by_constants(self, axes: Axes, mean: np.ndarray, variance: np.ndarray | float = 0.0) -> Gradient:
        """Entries multiplied by constants with this mean and variance within each cell: what follows the value goes on
        following it, with the constant's sign, and what sits on entries above 0, or on the largest of several, does so
        behind a positive one. Cells that share something do not behind constants of either sign."""
        found, own = self.times(axes, mean**2 + variance, mean**2, mean**2), self.refined(axes)
        mean, spread = (resample(on_cells(each, counts(axes)), axes, found.axes) for each in (mean, variance))
        opposed = frozenset(i for i in found.alike if mean.shape[i] > 1 and not _of_one_sign(mean, i))
        found = replace(found, alike=found.alike - opposed) if opposed else found
        found = replace(found, nearby=own.nearby.by_constants(mean, spread)) if own.nearby else found
        ordered = (mean > 0) & (spread <= 0)
        lean, overlap = np.where(mean < 0, -1.0, 1.0) * own.lean, np.where(ordered, own.mask_overlap, 0.0)
        return replace(found, lean=lean, mask_overlap=overlap, winners=self.winners if ordered.all() else NOWHERE)

    def plus(self, other: Gradient) -> Gradient:
        """Sum of two gradients with respect to one tensor, uncorrelated but for what comes from one exit, or what
        positions share of one gradient behind a sum."""
        if self.rays or other.rays:
            return self._plus_rays(other)
        left, right = self.refined(other.axes), other.refined(self.axes)
        left, right = left.refined(right.axes), right.refined(left.axes)
        profile = tuple(
            mixed_profile(((left.total, p), (right.total, q)), axis.size)
            for p, q, axis in zip(left.profile, right.profile, left.axes, strict=True)
        )
        energy = summed(left.energy, right.energy)
        overlap = left.mask_overlap
        if not (is_zero(left.mask_overlap) and is_zero(right.mask_overlap)):
            known = left.energy * left.mask_overlap + right.energy * right.mask_overlap
            overlap = np.divide(known, energy, out=np.zeros_like(energy), where=energy > 0)
        together = summed(left.position_covariance, right.position_covariance)
        across = summed(left.sample_covariance, right.sample_covariance)
        lean = _mixed_lean(left, right)
        if left.sense and right.sense and left.sense.source == right.sense.source:
            energy, together, lean = _added_shared(left, right, energy)
        arrays = (energy, together, overlap, across, lean)
        ahead = mixed_ahead(((left.total, left.ahead), (right.total, right.ahead)))
        projected = _mixed_projected(((left.total, left.projected), (right.total, right.projected)))
        winners = mixed_winners([(g.total, g.winners) for g in (left, right)])
        if left.winners.owed or right.winners.owed:
            shared = [max(float(g.position_covariance.mean()), 0.0) for g in (left, right)]
            owed = shared[0] * left.winners.owed + shared[1] * right.winners.owed
            winners = replace(winners, owed=owed / sum(shared) if sum(shared) > 0 else 0.0)
        alike = alike_of_all((left, right))
        total = Gradient(left.axes, profile, *arrays, ahead=ahead, projected=projected, winners=winners, alike=alike)
        if left.survived or right.survived:
            whole = left.total + right.total
            survived = left.total * left.survived + right.total * right.survived
            total = replace(total, survived=survived / whole if whole > 0 else 0.0)
        if left.cut is not None or right.cut is not None:
            total = replace(total, cut=left.cut if left.total > right.total else right.cut)
        if left.nearby or right.nearby:
            total = replace(total, nearby=mixed_nearby(((left.total, left.nearby), (right.total, right.nearby))))
        parts = ((left.total, left.autocorrelation), (right.total, right.autocorrelation))
        return total.with_autocorrelation(mixed_autocorrelation(parts))

    def _plus_rays(self, other: Gradient) -> Gradient:
        mine, others = self.rays or (Ray(self),), other.rays or (Ray(other),)
        rays = joined((*mine, *others))
        if len(rays) == len(mine) + len(others):  # no exit in both: what is known of each adds up as it is
            return replace(replace(self, rays=()).plus(replace(other, rays=())), rays=rays)
        if all(ray.known for ray in rays):
            return gradient_of(rays, self.shape)
        return replace(replace(self, rays=()).plus(replace(other, rays=())), rays=rays)

    def summed_to(self, shape: Sequence[int]) -> Gradient:
        """The transpose of numpy broadcasting: sums over every axis that was widened from size 1 (or added)."""
        if self.shape == tuple(shape):
            return self
        wide = [i for i in range(len(self.axes)) if self._target(i, shape) == 1 and self.axes[i].size > 1]
        field = self
        for index in wide:
            field = field._summed_over(index)
        drop = len(field.axes) - len(shape)
        arrays = [a.reshape(a.shape[drop:]) for a in field.arrays()]
        found = field.behind(Effect.MOVED, arrays, field.axes[drop:], field.profile[drop:])
        left = field.nearby.moved(lambda axis: axis - drop if axis >= drop else None)
        return replace(found, alike=frozenset(i - drop for i in field.alike if i >= drop), nearby=left)

    def _summed_over(self, index: int) -> Gradient:
        """The sum along one axis: coherent within a cell as far as it shares, incoherent from cell to cell and over
        samples."""
        axis = self.axes[index]
        length = axis.lengths.reshape(put((1,) * len(self.axes), index, axis.count))
        together = 0.0 * length if index == 0 else length - 1.0
        energy = length * np.maximum(self.energy + together * self.position_covariance, 0.0)
        covariance = length * (1.0 + together) * self.position_covariance
        across = length * (length if index else 0.0) * self.sample_covariance
        arrays = [a.sum(axis=index, keepdims=True) for a in (energy, covariance, 0.0 * energy, across)]
        if index in self.alike:  # cells are summed as one would be
            whole = (length * _root(self.position_covariance)).sum(axis=index, keepdims=True) ** 2
            arrays[:2] = [arrays[0] - arrays[1] + whole, whole]
        elif self.nearby and index in self.nearby.axes:
            whole = (length**2 * self.position_covariance).sum(axis=index, keepdims=True)
            apart = (length * (self.energy - self.position_covariance)).sum(axis=index, keepdims=True)
            arrays[0] = np.maximum(apart * self.nearby.coherence({index: axis.size}) + whole, 0.0)
        elif self.autocorrelation is not None and self.autocorrelation.axis == index:
            alone = (length * self.energy).sum(axis=index, keepdims=True)
            arrays[0] = alone * self.autocorrelation.coherence(np.sqrt(self.along(index, self.energy)))
        found = self.behind(Effect.MOVED, arrays, put(self.axes, index, Axis(1)), put(self.profile, index, None))
        left = self.nearby.moved(lambda axis: None if axis == index else axis)
        return replace(found, alike=self.alike - {index}, nearby=left)

    def reshaped(self, shape: Sequence[int]) -> Gradient:
        even = self._even(shape)
        if even is not self:
            return even.reshaped(shape)
        found = super().reshaped(shape)
        part = self._part_of_samples(shape)
        if part is not None:
            return self._of_strangers(found, part)
        if not self.alike:
            return found
        alike: set[int] = set()
        for old, new in matching_groups(self.shape, shape):
            if all(i in self.alike or self.axes[i].is_pooled for i in old if self.shape[i] > 1):
                alike |= {i for i in new if i and not found.axes[i].is_pooled}
        return replace(found, alike=frozenset(alike))

    def _part_of_samples(self, shape: Sequence[int]) -> int | None:
        """The axis that a part of the batch becomes, where samples share nothing and entries of one of them much: heads
        that were taken for samples, each of them pooled by itself."""
        groups = matching_groups(self.shape, shape) if self.correlated and not self.alike else []
        old, new = groups[0] if groups else (range(0), range(0))
        wide = [index for index in new if index and shape[index] > 1]
        if len(old) != 1 or len(wide) != 1 or shape[0] == 1 or self.positions == 1 or not self.axes[0].is_pooled:
            return None
        few = shape[wide[0]] * self.energy.size <= _MOST_APART
        strange = is_zero(self.sample_covariance) and self.position_covariance.mean() > _LITTLE * self.energy.mean()
        return wide[0] if few and strange else None

    def _of_strangers(self, moved: Gradient, part: int) -> Gradient:
        """This gradient behind a reshape, with cells for those that share nothing with each other."""
        cells = tuple(Axis.full(a.size) if i == part else a for i, a in enumerate(moved.axes))
        whole = moved.position_covariance * ((moved.positions - 1.0) / (self.positions - 1.0))
        found = replace(moved, position_covariance=np.minimum(whole, moved.energy)).refined(cells)
        return replace(found, alike=found.alike - {part})

    def _even(self, shape: Sequence[int]) -> Gradient:
        """With cells turned into a profile along axes that become one with an axis along which entries share something:
        behind a merging of patches the places of a patch share nothing with each other, those of different patches do,
        and cells for all indices of the merged axis would not know that."""
        found = self
        for old, _ in matching_groups(self.shape, shape) if self.correlated else ():
            wide = [i for i in old if i and self.shape[i] > 1]
            cut = [i for i in wide if not self.axes[i].is_pooled and i not in self.alike]
            if any(self.axes[i].is_pooled for i in wide):
                for index in cut:
                    found = found.profiled(index) if found._is_product_along(index) else found
        return found

    def _is_product_along(self, index: int) -> bool:
        """Whether cells along an axis differ in energy by nearly the same factor everywhere, or by less than what is
        known of what their entries share."""
        apart = tuple(i for i in range(len(self.axes)) if i != index)
        whole = self.energy.mean()
        product = self.energy.mean(axis=apart, keepdims=True) * self.energy.mean(axis=index, keepdims=True)
        uneven = float(((whole * self.energy - product) ** 2).mean()) / max(float((product**2).mean()), 1e-300)
        return uneven <= max(_UNEVEN, _WORTH_MORE * float(self.position_covariance.mean()) / max(float(whole), 1e-300))

    def _with_its_axis(self, moved: Gradient, axis: Callable[[int], int | None]) -> Gradient:
        found = super()._with_its_axis(moved, axis)
        if not self.alike:
            return found
        places = (axis(index) for index in self.alike)
        return replace(found, alike=frozenset(place for place in places if place is not None))

    def _target(self, index: int, shape: Sequence[int]) -> int:
        offset = len(self.axes) - len(shape)
        return 1 if index < offset else shape[index - offset]


def alike_of_all(parts: Sequence[Gradient]) -> frozenset[int]:
    """The axes along which cells of gradients that are put together are alike: those of all of them that are cut up or
    whole along them. One that shares next to nothing, as a class token's beside one that all tokens got, has no say;
    where none shares anything, as gradients behind normalisations, which add up to nothing, that is less than nothing.
    """
    shared = [float(np.maximum(part.position_covariance, 0.0).mean()) for part in parts]
    if not any(shared):
        shared = [-float(part.position_covariance.mean()) for part in parts]
    found = frozenset().union(*(part.alike for part in parts), *(_cut(part, parts) for part in parts))
    for part, own in zip(parts, shared, strict=True):
        if own > _LITTLE * max(shared):
            found = found & (part.alike | _cut(part, parts))
    return found


def _cut(part: Gradient, parts: Sequence[Gradient]) -> frozenset[int]:
    """The axes along which one cell of a gradient is many in another."""
    axes = range(1, len(part.axes)) if part.correlated else ()
    return frozenset(i for i in axes if part.axes[i].is_pooled and any(not other.axes[i].is_pooled for other in parts))


def _root(covariance: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.maximum(covariance, 0.0)))


def leaning(distance: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """`Gradient.lean` of a gradient on entries that lie this far above the mean."""
    return np.asarray(np.divide(distance, np.sqrt(variance), out=np.zeros_like(distance), where=variance > 0))


def _added_shared(left: Gradient, right: Gradient, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energy (given as if the parts were independent), shared covariance and lean of u (a + b), where positions share
    u: (E a + E b)^2 is shared, (E a xhat + E b xhat) / (E a + E b) the lean."""
    means = [
        on_cells(g.sense.on(g.axes) if g.sense else 1.0, g.energy.shape) * _root(g.position_covariance)
        for g in (left, right)
    ]
    follow = [mean * g.lean for mean, g in zip(means, (left, right), strict=True)]
    mean, followed = sum(means), sum(follow)
    energy = energy + 2.0 * (means[0] * means[1] + follow[0] * follow[1])
    lean = np.divide(followed, mean, out=np.zeros_like(energy), where=mean != 0)
    return np.maximum(energy, 0.0), np.minimum(mean**2, energy), np.clip(lean, -_MOST_LEAN, _MOST_LEAN)


def _mixed_lean(left: Gradient, right: Gradient) -> np.ndarray:
    """The lean of a sum: squares are weighted by what positions share, and it has the sign of most of it."""
    if is_zero(left.lean) and is_zero(right.lean):
        return left.lean
    weights = [np.maximum(g.position_covariance, 0.0) for g in (left, right)]
    square = weights[0] * left.lean**2 + weights[1] * right.lean**2
    total = weights[0] + weights[1]
    sign = np.where(weights[0] * left.lean + weights[1] * right.lean < 0, -1.0, 1.0)
    return np.asarray(sign * np.sqrt(np.divide(square, total, out=np.zeros_like(square), where=total > 0)))


@dataclass(frozen=True, eq=False)
class Ray:
    """What a gradient at one value, the exit, becomes on its way to the root.

    Attributes:
        exit: the gradient there.
        trace: of the value there; None while the gradient is still at it.
        passed: derivative of the exit by the value that has been reached, at the points of the exit's law; None where
            entries were moved on the way.
        factor: of the energy.
        arrived: whether that value is the root: all ways from the exit are then in the exit's own derivative.
    """

    exit: Gradient
    trace: Trace | None = None
    passed: np.ndarray | None = None
    factor: float = 1.0
    arrived: bool = False

    @property
    def known(self) -> bool:
        """Whether its energy is."""
        return self.trace is None or self.arrived or self.passed is not None

    def law(self) -> Law:
        """The exit's."""
        assert self.trace is not None
        assert self.trace.grid is not None
        found: Law = self.trace.law(self.trace.grid)
        return found

    def gradient(self, shape: Sequence[int]) -> Gradient:
        """At the value that has been reached, which has this shape."""
        if self.trace is None:
            return self.exit.scaled(self.factor)
        law = self.law()
        amplitude = law.number.slope if self.arrived else self.passed
        assert amplitude is not None
        once, square = law.mean(amplitude), law.mean(amplitude**2)
        together = once**2 + law.root.correlation * np.maximum(square - once**2, 0.0)
        return self.exit.times(law.axes, square, together).scaled(self.factor).summed_to(shape)


def joined(rays: Iterable[Ray]) -> tuple[Ray, ...]:
    """Amplitudes from one exit add up."""
    found: dict[int, Ray] = {}
    for ray in rays:
        other = found.setdefault(id(ray.exit), ray)
        if other is not ray and not ray.arrived:
            both = None if ray.passed is None or other.passed is None else ray.passed + other.passed
            found[id(ray.exit)] = replace(other, passed=both)
    return tuple(found.values())


def gradient_of(rays: Sequence[Ray], shape: Sequence[int]) -> Gradient:
    """The gradient that these rays are: exits are independent."""
    total = reduce(lambda a, b: a.plus(b), (ray.gradient(shape) for ray in rays))
    return replace(total, rays=tuple(rays))
