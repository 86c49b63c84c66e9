"""How entries of one channel that lie near each other are correlated, beyond what all positions of a cell share.

An interpolation makes neighbours alike, forward and in front of it: each value is read by several outputs that share
it, so that gradients of neighbours have outputs in common. What is alike adds up where the next interpolation, or the
next gradient, sums neighbours. A kernel of independent weights leaves the correlations as they are; a mask takes some
(theory 9.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field

import numpy as np

from gnelint.records import cached_property, dataclass, replace

REACH = 16
"""Positions over which correlations are followed: three interpolations to twice the size reach 14."""
_FEW = 256
"""Copies side by side up to which it is followed that they are."""
_MOST = 1 << 16
"""Distances, those along all axes together, up to which correlations are followed."""
_NOTHING = 1e-3
"""Correlation up to which neighbours have nothing in common."""


@dataclass(frozen=True, eq=False)
class Nearby:
    """Correlations by the distances along some axes.

    Attributes:
        axes: which, in ascending order.
        lags: correlation of entries that lie this far apart along each of these axes, 1 at the distance 0 and 0 beyond
            the end. Directions are not told apart.
        parts: of channels (axis 1) that are not alike how many there are side by side, and their own correlations, of
            which `lags` are the average; () where they are not told apart.
    """

    axes: tuple[int, ...] = ()
    lags: np.ndarray = field(default_factory=lambda: np.ones(()))
    parts: tuple[tuple[int, Nearby], ...] = ()

    def __bool__(self) -> bool:
        return self.lags.size > 1

    def mixed(self, index: int, weights: np.ndarray) -> tuple[Nearby, float]:
        """Behind sums along one axis, and their variance relative to that of entries that have nothing in common.

        Args:
            index: which axis.
            weights: (entries, sums) what is added up.
        """
        along = self._with(index)
        place = along.axes.index(index)
        lags = np.moveaxis(along.lags, place, 0)
        reach = min(REACH, weights.shape[1] - 1)
        found = np.tensordot(_lag_map(weights, len(lags) - 1, reach), lags, axes=1)
        white = float((weights**2).sum()) / max(weights.shape[1], 1)
        here = float(found[(0,) * found.ndim])
        if here <= 0 or white <= 0:
            return NOWHERE_NEAR, 1.0
        return Nearby(along.axes, _trimmed(np.moveaxis(found / here, 0, place))), here / white

    def coherence(self, sizes: Mapping[int, int]) -> float:
        """The variance of a sum over runs of so many entries along some axes, relative to that of entries that have
        nothing in common."""
        there = [axis for axis in self.axes if sizes.get(axis, 1) > 1]
        if not there:
            return 1.0
        found = self.moved(lambda axis: axis if axis in there else None).lags
        for axis in reversed(there):
            size = sizes[axis]
            reach = min(size, found.shape[-1])
            pairs = 2.0 * (size - np.arange(reach)) / size
            pairs[0] = 1.0
            found = found[..., :reach] @ pairs
        return max(float(found), 0.0)

    def shared(self, sizes: Mapping[int, int]) -> tuple[float, Nearby]:
        """What all entries have in common that lie along axes of these sizes, at whatever distance, and the
        correlations of what is left."""
        reaches = zip(self.axes, self.lags.shape, strict=True)
        common = float(self.lags.min()) if dict(reaches) == dict(sizes) else 0.0
        if not self or common <= _NOTHING:
            return 0.0, self
        if common >= 1.0 - _NOTHING:
            return 1.0, NOWHERE_NEAR
        left = replace(self, parts=())  # the average is known, not what each has of it
        return common, left.mapped(lambda correlation: (correlation - common) / (1.0 - common))

    def _with(self, index: int) -> Nearby:
        """With this axis among its own."""
        if index in self.axes:
            return self
        place = sum(axis < index for axis in self.axes)
        axes = (*self.axes[:place], index, *self.axes[place:])
        return Nearby(axes, np.expand_dims(self.lags, place))

    def every(self, steps: Sequence[int]) -> Nearby:
        """Of the entries that are so many steps apart along the last axes."""
        first = max(self.axes, default=0) + 1 - len(steps)
        cut = tuple(slice(None, None, steps[axis - first] if axis >= first else 1) for axis in self.axes)
        return Nearby(self.axes, _trimmed(self.lags[cut])) if self else self

    def apart(self, steps: Sequence[int]) -> Nearby:
        """Of the entries with so many steps along the last axes from one to the next, and others that share nothing
        between them."""
        if not self or all(step == 1 for step in steps):
            return self
        first = max(self.axes) + 1 - len(steps)
        by_axis = [steps[axis - first] if axis >= first else 1 for axis in self.axes]
        sizes = [(size - 1) * step + 1 for size, step in zip(self.lags.shape, by_axis, strict=True)]
        lags = np.zeros(sizes)
        lags[tuple(slice(None, None, step) for step in by_axis)] = self.lags
        return Nearby(self.axes, _trimmed(lags[(slice(REACH + 1),) * lags.ndim]))

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> Nearby:
        """With other correlations at the same distances; an entry is still all that it is itself."""
        if not self:
            return self
        lags = np.array(change(self.lags))
        lags[(0,) * lags.ndim] = 1.0
        return Nearby(self.axes, _trimmed(lags), tuple((size, part.mapped(change)) for size, part in self.parts))

    def of_channels(self, start: int, stop: int) -> Nearby:
        """Of some of the channels."""
        inside, begin = list[tuple[int, Nearby]](), 0
        for size, part in self.parts:
            if start <= begin and begin + size <= stop:
                inside.append((size, part))
            begin += size
        if sum(size for size, _ in inside) != stop - start:
            return Nearby(self.axes, self.lags)
        return inside[0][1] if len(inside) == 1 else side_by_side([(size, 1.0, part) for size, part in inside])

    def by_constants(self, mean: np.ndarray, variance: np.ndarray | float) -> Nearby:
        """Of entries multiplied by constants with this mean and variance in each cell: those of either sign leave as
        much in common along an axis as the square of their average over it is of their average square."""
        square = float(np.mean(mean**2 + variance))
        if not self or square <= 0.0:
            return self
        kept = min(float((mean.mean(axis=axis) ** 2).mean()) for axis in self.axes) / square
        return self if kept >= 1.0 - _NOTHING else self.mapped(lambda correlation: correlation * kept)

    def on(self, shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
        """The correlations at all distances up to `shape` along these axes."""
        found = np.zeros(tuple(shape))
        found[(0,) * found.ndim] = 1.0
        if self and set(self.axes) <= set(axes):
            own = self
            for axis in axes:
                own = own._with(axis)
            inside = tuple(slice(min(a, b)) for a, b in zip(found.shape, own.lags.shape, strict=True))
            found[inside] = own.lags[inside]
        return found

    def moved(self, behind: Callable[[int], int | None]) -> Nearby:
        """With the axes that these have become; of one that is no more the distance 0 stays."""
        if not self:
            return self
        places = [behind(axis) for axis in self.axes]
        lags = self.lags[tuple(slice(None) if place is not None else 0 for place in places)]
        kept = [place for place in places if place is not None]
        order = np.argsort(kept)
        return Nearby(tuple(sorted(kept)), lags.transpose(order)) if kept else NOWHERE_NEAR


@dataclass(frozen=True, eq=False)
class OwnKernels:
    """Kernels that each have a channel of their own, by what their taps have in common at every distance.

    Attributes:
        products: (channels, 2 k - 1, ...) sums of the products of two taps so far apart, the distance 0 in the middle.
        steps: positions from one tap to the next along each axis.
    """

    products: np.ndarray
    steps: tuple[int, ...]

    @staticmethod
    def of(kernels: np.ndarray, steps: Sequence[int]) -> OwnKernels:
        """Of kernels (channels, taps along each axis)."""
        axes = tuple(range(1, kernels.ndim))
        sizes = [2 * size - 1 for size in kernels.shape[1:]]
        whole = np.fft.rfftn(kernels.astype(np.float64), sizes, axes)
        return OwnKernels(np.fft.fftshift(np.fft.irfftn(np.abs(whole) ** 2, sizes, axes), axes), tuple(steps))

    @cached_property
    def between(self) -> np.ndarray:
        """The sum of the products of all pairs of different taps, of each channel."""
        axes = tuple(range(1, self.products.ndim))
        middle = (slice(None), *(size // 2 for size in self.products.shape[1:]))
        return np.asarray(self.products.sum(axis=axes) - self.products[middle])

    def added(self, nearby: Nearby) -> np.ndarray:
        """The variance of a sum over a kernel's taps of entries of unit variance, beyond that of entries that have
        nothing in common; of each channel."""
        if sum(size for size, _ in nearby.parts) == len(self.products):
            return np.concatenate([kernels.added(part) for kernels, part in self._along(nearby)])
        places = [np.abs(self._distances(axis)) * step for axis, step in enumerate(self.steps)]
        lags = nearby.on([int(place.max()) + 1 for place in places], range(2, 2 + len(places)))[np.ix_(*places)]
        lags[tuple(size // 2 for size in lags.shape)] = 0.0
        return np.asarray((self.products * lags).sum(axis=tuple(range(1, self.products.ndim))))

    def sent_back(self, energy: np.ndarray, nearby: Nearby, values: Nearby) -> Nearby:
        """How what entries are sent by all outputs that read them is correlated.

        Args:
            energy: of the outputs, by channel.
            nearby: how outputs near each other are correlated.
            values: of the entries themselves; channels are told apart where these are.
        """
        if sum(size for size, _ in values.parts) != len(self.products):
            return self._sent_back(energy, nearby)
        found, begin = list[tuple[int, float, Nearby]](), 0
        for kernels, part in self._along(values):
            own = energy[begin : (begin := begin + len(kernels.products))]
            found.append((len(own), float(own.mean()), kernels.sent_back(own, nearby, part)))
        return side_by_side(found)

    def _along(self, nearby: Nearby) -> Iterator[tuple[OwnKernels, Nearby]]:
        begin = 0
        for size, part in nearby.parts:
            yield OwnKernels(self.products[begin : (begin := begin + size)], self.steps), part

    def _sent_back(self, energy: np.ndarray, nearby: Nearby) -> Nearby:
        meets = np.tensordot(energy, self.products, axes=1)
        for axis in range(meets.ndim):  # directions are not told apart
            meets = 0.5 * (meets + np.flip(meets, axis))
        reach = [size // 2 * step for size, step in zip(meets.shape, self.steps, strict=True)]
        beyond = max(nearby.lags.shape, default=0)
        sizes = [min(beyond + far, REACH) + 1 for far in reach]
        alike = nearby.on([size + r for size, r in zip(sizes, reach, strict=True)], range(2, 2 + len(reach)))
        found = np.zeros(sizes)
        for place in np.ndindex(meets.shape):
            far = [(i - size // 2) * step for i, size, step in zip(place, meets.shape, self.steps, strict=True)]
            seen = np.ix_(*(np.abs(np.arange(size) - distance) for size, distance in zip(sizes, far, strict=True)))
            found += meets[place] * alike[seen]
        here = float(found[(0,) * found.ndim])
        if here <= 0:
            return NOWHERE_NEAR
        return Nearby(tuple(range(2, 2 + len(reach))), _trimmed(found / here))

    def _distances(self, axis: int) -> np.ndarray:
        middle = self.products.shape[axis + 1] // 2
        return np.arange(-middle, middle + 1)


NOWHERE_NEAR = Nearby()


def same_along(sizes: Mapping[int, int], correlation: float = 1.0) -> Nearby:
    """Of entries that are equally correlated at any distance along some axes: copies, if nothing else is said."""
    wide = {axis: size for axis, size in sorted(sizes.items()) if size > 1}
    if not wide or max(wide.values()) > _FEW or math.prod(wide.values()) > _MOST:
        return NOWHERE_NEAR
    lags = np.full(tuple(wide.values()), correlation)
    lags[(0,) * lags.ndim] = 1.0
    return Nearby(tuple(wide), lags)


def mixed_nearby(parts: Sequence[tuple[float, Nearby]]) -> Nearby:
    """Of a sum of uncorrelated parts, each given with its energy."""
    total = sum(energy for energy, _ in parts)
    known = [part for _, part in parts if part]
    if not known or total <= 0:
        return NOWHERE_NEAR
    axes = tuple(sorted({axis for part in known for axis in part.axes}))
    shape = [max(part._with(axis).lags.shape[part._with(axis).axes.index(axis)] for part in known) for axis in axes]
    if math.prod(shape) > _MOST:
        return NOWHERE_NEAR
    return Nearby(axes, _trimmed(sum((energy / total * part.on(shape, axes) for energy, part in parts), np.zeros(1))))


def side_by_side(parts: Sequence[tuple[int, float, Nearby]]) -> Nearby:
    """Of channels side by side: how many, their energy, and their correlations."""
    found = mixed_nearby([(size * energy, part) for size, energy, part in parts])
    if not found:
        return found
    apart = [each for size, _, part in parts for each in (part.parts or ((size, part),))]
    return Nearby(found.axes, found.lags, tuple(apart))


def nearest(nearby: Nearby) -> float:
    """Correlation of entries that lie side by side, on average over the axes."""
    steps = [np.moveaxis(nearby.lags, place, 0)[1:2] for place in range(nearby.lags.ndim)]
    return sum(float(step.flat[0]) for step in steps if step.size) / max(len(steps), 1)


def _lag_map(weights: np.ndarray, before: int, behind: int) -> np.ndarray:
    """(behind + 1, before + 1): what sums so far apart have in common of entries so far apart, on average over sums."""
    entries, sums = weights.shape
    found = np.zeros((behind + 1, before + 1))
    for apart in range(min(behind, sums - 1) + 1):
        left, right = weights[:, : sums - apart], weights[:, apart:]
        for far in range(min(before, entries - 1) + 1):
            pairs = float((left[: entries - far] * right[far:]).sum())
            if far:
                pairs += float((left[far:] * right[: entries - far]).sum())
            found[apart, far] = pairs / (sums - apart)
    return found


def _trimmed(lags: np.ndarray) -> np.ndarray:
    """Without the far end where nothing is left."""
    there = np.nonzero(np.abs(lags) > _NOTHING)
    return lags[tuple(slice(int(each.max(initial=0)) + 1) for each in there)]
