"""Convolutions and transposed convolutions of any rank, with stride, padding, dilation and groups."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np

from gnelint.components.base import Inputs, Unary, component
from gnelint.components.linear import constant_moments, shifted
from gnelint.records import cached_property, dataclass, replace
from gnelint.theory.fields.cells import Axis, counts, pooled
from gnelint.theory.fields.channel_correlation import (
    NONE,
    NOTHING_AHEAD,
    Ahead,
    ChannelCorrelation,
    participation,
    weighted_sum,
    window_overlap,
)
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.log_norm import gaussian_noise
from gnelint.theory.fields.maps import is_map, kernel_on_map, kernel_transposed_on_map, map_axes
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.nearby import OwnKernels
from gnelint.theory.fields.profiles import Profiles, amplitude, normalised
from gnelint.theory.fields.taps import TapAxis, kron, marginals, outer, tap_axis
from gnelint.theory.spectrum import Structure
from gnelint.theory.weights.contraction import kernel_times, kernel_transposed_times, row_energies
from gnelint.theory.weights.passes import row_sums

_ROUNDING = 1e-12
_FEW = 8
"""Channels behind an entry up to which what pairs of taps make is summed; over more, their signs average out."""
_SMALL, _MOST = 1e-3, 0.3
"""Eigenvalues, relative to the largest, from which on pairs of taps are summed: where it matters, and elsewhere."""
_LEAST_LEFT = 0.03
"""Part of a variance that is left at least where a kernel's taps cancel each other: correlations are an average over
channels, and what is left is a small difference of them."""
_FEW_ENTRIES = 64
"""Above this many entries a sum of theirs is Gaussian."""
_SHIFTED = 0.5
"""Taps move what places have in common by a place or two, each by a weight of its own: about this part is left of its
mean squared correlation (measured, 2 x 2 to 16 x 16 positions)."""


@dataclass(frozen=True)
class _Shared:
    """The energy of an entry, the covariance of two entries of one channel and of entries of different samples."""

    energy: np.ndarray
    covariance: np.ndarray
    across: np.ndarray


_MOST_LEAN = 8.0
"""Of a channel whose kernel adds up to next to nothing the gradient follows the value alone."""


@dataclass(frozen=True)
class _Form:
    """A quadratic form of a kernel's taps: squares of some sums, and a part that each tap has alone."""

    columns: slice
    rest: np.ndarray

    def of(self, taps: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Its value, from sums over channels of the taps' squares and of the sums' squares."""
        return np.asarray(sums[:, self.columns].sum(axis=1) + taps @ self.rest)


def _form(matrix: np.ndarray, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """The vectors whose squared products with the taps are the form, and what they leave of its diagonal."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > (_SMALL if exact else _MOST) * values.max(initial=0.0)
    found = vectors[:, kept] * np.sqrt(values[kept])
    return found, np.diag(matrix) - (found**2).sum(axis=1)


@dataclass(frozen=True)
class _Meetings:
    """Where taps see what positions share.

    Attributes:
        columns: (taps, columns) with which a kernel's taps are summed.
        totals: the square of the sum over all positions.
        together: over the positions that are written, what two taps read there.
        apart: over the positions that are read, what two taps send from there.
        levels: of each tap the diagonal of `together`.
        scale: of a covariance where the profile is 1, over the average one.
    """

    columns: np.ndarray
    totals: _Form
    together: _Form
    apart: _Form
    levels: np.ndarray
    scale: float = 1.0


def _meetings(
    counts: np.ndarray, together: np.ndarray, apart: np.ndarray, exact: bool, scale: float = 1.0
) -> _Meetings:
    """Of (taps,) what all positions see of each tap and of (taps, taps) matrices for pairs of taps; `exact` where few
    channels are behind an entry."""
    (met, of_met), (sent, of_sent) = (_form(matrix, exact) for matrix in (together, apart))
    middle = 1 + met.shape[1]
    return _Meetings(
        columns=np.concatenate([counts[:, None], met, sent], axis=1),
        totals=_Form(slice(0, 1), np.zeros(len(counts))),
        together=_Form(slice(1, middle), of_met),
        apart=_Form(slice(middle, middle + sent.shape[1]), of_sent),
        levels=np.diag(together),
        scale=scale,
    )


@lru_cache(maxsize=256)
def _meetings_of(axes: tuple[TapAxis, ...], exact: bool, widens: bool) -> _Meetings:
    """Of all kernels on these axes; `widens` where it is the large grid that is written."""
    small, large = (kron([axis.meetings[grid] for axis in axes]) for grid in (0, 1))
    together, apart = (large, small) if widens else (small, large)
    return _meetings(outer([axis.counts for axis in axes]), together, apart, exact)


def _meetings_between_gaps(
    axes: Sequence[TapAxis], lines: Profiles, seen: Sequence[np.ndarray], exact: bool, widens: bool
) -> _Meetings:
    """Where what is read has zeros between its entries: taps a step apart never see two entries at once.

    Args:
        axes, exact, widens: as in `_meetings_of`.
        lines: along each axis the profile of what is read.
        seen: along each axis (taps, positions that are written), what taps see of it.
    """
    amplitudes = [np.sqrt(line) for line in seen]
    own = [axis.gather(None) if widens else axis.scatter(None) for axis in axes]
    return _meetings(
        outer([line.sum(axis=1) for line in amplitudes]),
        kron([line @ line.T for line in amplitudes]),
        kron([(one if line is None else one * line) @ one.T for one, line in zip(own, lines, strict=True)]),
        exact,
        amplitude(lines) ** -2,
    )


@lru_cache(maxsize=256)
def _reads(axes: tuple[TapAxis, ...]) -> tuple[np.ndarray, np.ndarray]:
    """At each output how many inputs it reads of a channel, and how often all outputs read these."""
    seen = [axis.gather(None) for axis in axes]
    reuse = [
        (axis.gather(axis.scatter(None).sum(axis=0)) * own).sum(axis=0) for axis, own in zip(axes, seen, strict=True)
    ]
    return outer([own.sum(axis=0) for own in seen]), outer(reuse)


class _Convolution(Unary):
    """What both directions share: the kernel as (rows, columns / groups, taps) and the axes' taps."""

    model_error_bits: ClassVar[float | None] = 0.03

    @cached_property
    def _kernel(self) -> np.ndarray:
        weight = self.node.parameters["weight"].array()
        return weight.reshape(*weight.shape[:2], -1)

    @cached_property
    def _row_energies(self) -> np.ndarray:
        """Energy of each row of the kernel at each tap."""
        known = row_sums(self.node.parameters["weight"])
        return row_energies(self._kernel) if known is None else known.energy

    @cached_property
    def _tap_counts(self) -> np.ndarray:
        """At how many positions each tap is inside."""
        return outer([axis.counts for axis in self._taps])

    def _meetings(self, lines: Profiles, seen: Sequence[np.ndarray], *, widens: bool) -> _Meetings:
        """Where taps see what positions share of a value with these profiles along space, of which they see so much."""
        exact = self._kernel.shape[1] <= _FEW
        if all(line is None or line.all() for line in lines) or not all(line is None or line.any() for line in lines):
            return _meetings_of(tuple(self._taps), exact, widens)
        return _meetings_between_gaps(self._taps, lines, seen, exact, widens)

    def _parted(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a product with the kernel's squares found for taps, and for their sums by `_Meetings.columns`."""
        taps = self._kernel.shape[-1]
        return found[..., :taps], found[..., taps:]

    def _shared(
        self, taps: np.ndarray, sums: np.ndarray, energy: np.ndarray, meetings: _Meetings, *, widens: bool
    ) -> _Shared:
        """What entries of one channel have in common where taps see what positions share.

        With n_t the positions of the small grid at which tap t is inside, n_ts those at which s is inside too, m_ts the
        positions of the large grid that both reach, the total over all positions and an entry have the second moments

            onto the large grid   c (sum W_t n_t)^2 + (e - c) sum W_t W_s n_ts     e W^2 n + c sum_{t != s} W_t W_s m_ts
            onto the small        c (sum W_t n_t)^2 + (e - c) sum W_t W_s m_ts     e W^2 n + c sum_{t != s} W_t W_s n_ts

        the latter over the positions that are written. Of different samples only totals are known: s (sum W_t n_t)^2.
        Source: theory 3.2.

        Args:
            taps: (3, channels, taps), sums of W^2 e, W^2 c and W^2 s; (2, ...) without other samples, (1, ...) without
                a covariance.
            sums: likewise of the squares of the taps' sums by `_Meetings.columns`.
            energy: of an entry, as if positions shared nothing.
            meetings: where taps see what positions share.
            widens: whether it is the large grid that is written.
        """
        count = math.prod(getattr(axis, "inputs" if widens else "outputs") for axis in self._taps)
        total = meetings.apart.of(taps[0], sums[0])
        if len(taps) > 1:
            met, whole = (form.of(taps[1], sums[1]) * meetings.scale for form in (meetings.together, meetings.totals))
            pairs = met - meetings.scale * taps[1] @ meetings.levels
            energy = np.maximum(energy + pairs / count, 0.0)
            total = total - meetings.scale * meetings.apart.of(taps[1], sums[1]) + whole
        across = meetings.scale * meetings.totals.of(taps[2], sums[2]) / count**2 if len(taps) > 2 else 0.0 * energy
        if count < 2:
            return _Shared(energy, energy, across)
        together = np.clip((total / count - energy) / (count - 1), -energy / (count - 1), energy)
        return _Shared(energy, together, across)

    @property
    def _groups(self) -> int:
        return int(self.node.attribute("groups"))

    @property
    def _kernel_shape(self) -> tuple[int, ...]:
        return self.node.parameters["weight"].shape[2:]

    def _pairs(self, axes: Sequence[TapAxis], kurtosis: float = 1.0) -> float:
        """phi_2 / phi^2 of a kernel of independent entries; at a kurtosis of 1 row norms are taken as equal."""
        out, inner, _ = self._kernel.shape
        once, reuse = _reads(tuple(axes))
        n = inner * once
        mean = float(n.mean())
        if mean <= 0:
            return 1.0
        return float((n**2 + (kurtosis - 2.0) * n + inner * out / self._groups * reuse).mean()) / mean**2

    @cached_property
    @abstractmethod
    def _taps(self) -> list[TapAxis]:
        """The taps along each axis, the larger grid as the inputs."""

    def _tap_axes(self, small: Sequence[int], large: Sequence[int]) -> list[TapAxis]:
        strides, pads, dilations = (self.node.attribute(name) for name in ("strides", "pads", "dilations"))
        return [
            tap_axis(large[i], small[i], taps, int(strides[i]), int(pads[i]), int(dilations[i]))
            for i, taps in enumerate(self._kernel_shape)
        ]

    def _pulled(
        self, kernel: np.ndarray, g: Gradient, rows: np.ndarray, sent: list[np.ndarray], *, widens: bool
    ) -> Gradient:
        """Gradient at every channel and position, from the profiles with which taps send it."""
        meetings = self._meetings(g.profile[2:], sent, widens=widens)
        pulled, sums = self._parted(kernel_transposed_times(kernel, self._groups, rows, meetings.columns))
        levels = [line.sum(axis=1) / max(line.shape[1], 1) for line in sent]
        profile = list(g.profile[:2])
        weights = marginals(pulled[0].sum(axis=0), tuple(len(line) for line in sent), levels)
        for along, lines in zip(weights, sent, strict=True):
            profile.append(normalised(along @ lines))
        shared = self._shared(pulled, sums, pulled[0] @ outer(levels), meetings, widens=widens)
        arrays = (shared.energy, shared.covariance, shared.across)
        axes, (energy, covariance, across) = _image(self.input_shape, arrays)
        return Gradient.flat(axes, energy, covariance, tuple(profile), across)

    def _with_bias(self, y: Moments) -> Moments:
        bias = self.node.parameters.get("bias")
        if bias is None:
            return y
        column = bias.array().reshape((-1,) + (1,) * (len(self.shape) - 2))
        return shifted(y, *constant_moments(column, y))

    def _shape(self, x: Moments, y: Moments) -> tuple[np.ndarray, np.ndarray] | None:
        """Cumulants of a sum of few independent entries: sum W^3 and W^4 of theirs; of many it is Gaussian."""
        out, inner, taps = self._kernel.shape
        if x.cumulants is None or inner * taps > _FEW_ENTRIES or x.axes[1].cuts is not None or self._groups == 1:
            return None
        inside = self._tap_counts / max(math.prod(self.shape[2:]), 1)
        groups = self._groups
        found = []
        for power, own in zip((3, 4), x.cumulants, strict=True):
            rows = np.broadcast_to(own.reshape(-1), (x.shape[1],)).reshape(groups, inner)
            weights = ((self._kernel.astype(np.float64) ** power) @ inside).reshape(groups, out // groups, inner)
            found.append((weights @ rows[:, :, None]).reshape(y.mean.shape))
        return found[0], found[1]

    @cached_property
    def _from_border(self) -> float:
        """How many taps read an entry at the border, relative to one anywhere: what is fixed lies there."""
        lines = [axis.scatter(None).sum(axis=0) for axis in self._taps]
        return math.prod((line[0] + line[-1]) / 2.0 / line.mean() if line.any() else 1.0 for line in lines) ** (
            1.0 / max(len(lines), 1)
        )

    @property
    def _window_taps(self) -> float:
        """How many taps are inside, on average."""
        return max(float(self._tap_counts.sum()) / max(math.prod(self.shape[2:]), 1), 1.0)

    @property
    def _others(self) -> float:
        """Share of the pairs in a window that are of different channels."""
        return 1.0 - self._groups / self.input_shape[1]

    def _own_correlation(self, variance: np.ndarray) -> float:
        """Mean squared correlation that the kernel makes of two outputs, which share what they sum within a group."""
        out, groups = self.shape[1], self._groups
        return participation(variance) * groups * max(out / groups - 1.0, 0.0) / max(out - 1, 1)

    def _averages_alike(self, x: Moments) -> float:
        """Mean squared correlation of the averages over all positions that two taps see. Of entries that positions do
        not share it is sum G^2 / (tr G)^2, G being at how many positions both taps look."""
        apart = 1.0
        for axis in self._taps:
            seen = axis.meetings[1]
            trace = float(seen.trace())
            apart *= float((seen**2).sum()) / trace**2 if trace > 0 else 1.0
        shared = float(np.mean(x.position_covariance)) * max(x.sharing - 1, 0)
        total = float(np.mean(x.variance)) + shared
        return apart + (1.0 - apart) * min(max(shared / total, 0.0), 1.0) if total > 0 else apart

    @property
    def _overlap(self) -> float:
        """What windows beside each other have in common."""
        return window_overlap([axis.taps for axis in self._taps], [axis.stride for axis in self._taps])

    def ahead(self, x: Moments, y: Moments, behind: Ahead) -> tuple[Ahead, float]:
        if behind == NOTHING_AHEAD:
            return behind, 0.0
        taps, own = self._window_taps, self._own_correlation(_channels_only(x)[2])
        return behind.before_sum(own / taps, taps, self._overlap, self._others)

    def _coupled(self, y: Moments, border: ChannelCorrelation, x: Moments, variance: np.ndarray) -> Moments:
        """With its channel correlations and the variance of its variance that those of x make.

        What x has in every sample alike adds to what the border makes here; of that, only this part is known.

        Args:
            y: the sum.
            border: what padding makes, the same in every sample.
            x, variance: what is summed, and its variance by channel.
        """
        taps, own, others = self._window_taps, self._own_correlation(variance), self._others
        averages = self._averages_alike(x)
        random = weighted_sum(x.channel_correlation, own / taps, taps, self._overlap, own, averages)
        rest = 1.0 - border.fixed
        carried = replace(random.scaled(rest**2), fixed=random.fixed * rest * self._from_border)
        if taps > 1:
            carried = replace(carried, few=carried.few * _SHIFTED)
        found = border.plus(carried)
        places = max(math.prod(self.shape[2:]) - 1, 1)
        found = replace(found, few=max(found.few, 1.0 / places) if found.fixed else 0.0)
        strays = 2.0 * x.channel_correlation.over(taps) * others * rest**2
        strays += 2.0 * found.few * (found.fixed**2 - border.fixed**2)
        return replace(y, channel_correlation=found, variance_of_variance=strays, cumulants=self._shape(x, y))


def _channels_only(x: Moments) -> tuple[Moments, np.ndarray, np.ndarray, np.ndarray]:
    """A value on channels with profiles along space, and its three arrays as vectors."""
    for index in range(2, len(x.axes)):
        x = x.profiled(index)
    x = x.only(1)
    x = x.refined(tuple(Axis.full(a.size) if i == 1 else Axis(a.size) for i, a in enumerate(x.axes))).settled()
    return x, x.mean.reshape(1, -1), x.variance.reshape(1, -1), x.position_covariance.reshape(1, -1)


def _channel_gradient(g: Gradient) -> tuple[Gradient, np.ndarray]:
    """A gradient on channels with profiles along space, and its arrays as rows (the last ones left out where
    they are zero)."""
    for index in range(2, len(g.axes)):
        g = g.profiled(index)
    g = g.only(1)
    g = g.refined(tuple(Axis.full(a.size) if i == 1 else Axis(a.size) for i, a in enumerate(g.axes)))
    rows = [g.energy, g.position_covariance, g.sample_covariance]
    if not g.sample_covariance.any():
        rows = rows[:2] if g.correlated else rows[:1]
    return g, np.stack([row.reshape(-1) for row in rows])


def _image(shape: Sequence[int], arrays: Sequence[np.ndarray]) -> tuple[tuple[Axis, ...], list[np.ndarray]]:
    axes = tuple(Axis.full(size) if index == 1 else Axis(size) for index, size in enumerate(shape))
    return axes, [np.asarray(a).reshape(counts(axes)) for a in arrays]


@dataclass(frozen=True)
class _Windows:
    """What the taps of a window see, one spatial axis at a time.

    Attributes:
        seen: for each axis (taps, positions), the energy profile that each tap sees at each position.
    """

    seen: list[np.ndarray]

    @cached_property
    def amplitudes(self) -> list[np.ndarray]:
        """The same for the profile's square root."""
        return [np.sqrt(line) for line in self.seen]

    @cached_property
    def levels(self) -> list[np.ndarray]:
        """Average energy that each tap sees."""
        return [line.sum(axis=1) / max(line.shape[1], 1) for line in self.seen]

    @cached_property
    def centres(self) -> list[np.ndarray]:
        """Average amplitude that each tap sees."""
        return [line.sum(axis=1) / max(line.shape[1], 1) for line in self.amplitudes]

    @cached_property
    def grams(self) -> list[np.ndarray]:
        """(taps, taps): the mean product of two taps' amplitudes over the positions."""
        return [line @ line.T / max(line.shape[1], 1) for line in self.amplitudes]

    @cached_property
    def level(self) -> np.ndarray:
        """`levels` over all of a kernel's taps."""
        return outer(self.levels)

    @cached_property
    def centre(self) -> np.ndarray:
        """`centres` over all of a kernel's taps."""
        return outer(self.centres)

    @cached_property
    def gram(self) -> np.ndarray:
        """`grams` over all of a kernel's taps."""
        return kron(self.grams)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Taps along each axis."""
        return tuple(len(line) for line in self.seen)


def _convolved_moments(
    mean_taps: np.ndarray, variance_taps: np.ndarray, shared: _Shared, windows: _Windows, shape: Sequence[int]
) -> tuple[Moments, ChannelCorrelation]:
    """Moments of y[o, p] = sum over taps of contributions that depend on the position through separable profiles, and
    what of its energy about the mean is the same in every sample.

    Args:
        mean_taps: (out, taps), the mean that each tap adds where its profile is 1.
        variance_taps: (2, out, taps), the variance and position covariance that it adds; (1, out, taps) without one.
        shared: the output's variance and position covariance.
        windows: what the taps see.
        shape: of the output.
    """
    variance, covariance = shared.energy, shared.covariance
    mean = mean_taps @ windows.centre
    second = variance + ((mean_taps @ windows.gram) * mean_taps).sum(axis=1)
    tap_weight = variance_taps[0].sum(axis=0) + (mean_taps**2).sum(axis=0)
    profile: list[np.ndarray | None] = [None, None]
    for along, lines in zip(marginals(tap_weight, windows.sizes, windows.levels), windows.seen, strict=True):
        profile.append(normalised(along @ lines))
    centred_energy, fixed, border = _centred_energy(mean_taps, variance_taps[0], windows)
    axes, (mean, second, covariance) = _image(shape, (mean, second, covariance))
    whole = mean / amplitude(profile)
    left = second - whole**2
    if np.any(left < 0):
        profile, whole, left = [None] * len(shape), mean, np.maximum(second - mean**2, 0.0)
    y = Moments(axes, tuple(profile), whole, left, covariance, centred_energy=centred_energy)
    return y, ChannelCorrelation(fixed=fixed, few=border)


def _centred_energy(
    mean_taps: np.ndarray, variance_taps: np.ndarray, windows: _Windows
) -> tuple[tuple[np.ndarray | None, ...], float, float]:
    """How y[o, p] lies about the mean of y[o, :]: by its variance, and by how far its own mean is off at p.

    Args:
        mean_taps, variance_taps, windows: as in `_convolved_moments`.

    Returns:
        Profiles of E (y[o, p] - mean of y[o, :])^2 averaged over o, the share of it that is fixed (off at p in every
        sample), and the mean squared correlation between channels of that share: there are few kinds of border.
    """
    sizes, centre = windows.sizes, windows.centre
    gram = mean_taps.T @ mean_taps
    away = windows.gram - centre[:, None] * centre  # what taps have in common where they are off, over all positions
    fixed = max(float((gram * away).sum()), 0.0)
    variance = variance_taps.sum(axis=0)
    energy = float(variance @ windows.level) + fixed
    linear = gram @ centre
    constant = float(centre @ linear)
    profiles: list[np.ndarray | None] = [None, None]
    lines = zip(marginals(variance, sizes, windows.levels), marginals(linear, sizes, windows.centres), strict=True)
    for axis, (varies, pulls) in enumerate(lines):
        line = windows.amplitudes[axis]
        square = ((_along(gram, sizes, windows.grams, axis) @ line) * line).sum(axis=0)
        off = np.maximum(square - 2.0 * pulls @ line + constant, 0.0)
        profiles.append(normalised(varies @ windows.seen[axis] + off))
    mixed = gram @ away
    trace = float(mixed.trace())
    few = float((mixed * mixed.T).sum()) / trace**2 if trace > _ROUNDING * float(gram.trace()) else 0.0
    return tuple(profiles), fixed / energy if energy > 0 else 0.0, few


def _along(gram: np.ndarray, sizes: tuple[int, ...], grams: list[np.ndarray], axis: int) -> np.ndarray:
    """(taps, taps) of one axis: `gram` over all taps, summed with what the other axes' taps have in common."""
    reduced = gram.reshape(sizes + sizes)
    for other in reversed(range(len(sizes))):
        if other != axis:
            half = reduced.ndim // 2
            reduced = np.tensordot(reduced, grams[other], axes=([other, half + other], [0, 1]))
    return reduced


@component("conv")
class Convolution(_Convolution):
    """y[o, p] = sum over input channels i and taps t of W[o, i, t] x[i, p * stride + t * dilation - pad].

        phi = sum_t ||W[:, :, t]||_F^2 cnt(t) / (c_out P_out)      exactly; cnt(t): outputs at which tap t is inside
        mean[o]     -> sum_t (W[o, :, t] mu) at every position, averaged with what the padding takes away
        variance[o] -> sum_t (W[o, :, t]^2 var) e(t),              e(t): energy profile that tap t sees on average
        energy[i]   -> sum_t (W[:, i, t]^2 energy) e'(t)

    Profiles along space follow the padding exactly for uncorrelated channels. Source: theory 3.2.
    """

    @cached_property
    def _taps(self) -> list[TapAxis]:
        return self._tap_axes(self.shape[2:], self.input_shape[2:])

    def map(self, x: Moments) -> Moments:
        y = self._with_bias(self._map_of_positions(x) if is_map(x) else self._map_of_profiles(x))
        if x.nearby and self._is_depthwise and not is_map(x):
            y = replace(y, variance=self._of_neighbours(x, y.variance))
        read = float(self._tap_counts.sum()) * math.prod(self.input_shape[2:])
        mean_known = x.mean_known * float((self._tap_counts**2).sum()) / read if read else 0.0
        neighbours = x.neighbours if all(axis.stride == 1 for axis in self._taps) else 0.0
        return replace(
            y,
            log_norm_variance=x.log_norm_variance + gaussian_noise(y),
            neighbours=neighbours,
            nearby=y.nearby.every([axis.stride for axis in self._taps]),
            mean_known=mean_known,
        )

    def _map_of_positions(self, x: Moments) -> Moments:
        x = x.refined(map_axes(x.axes))
        kernel, groups, axes = self._kernel, self._groups, self._taps
        mean = kernel_on_map(kernel, groups, axes, x.mean, squared=False)
        variance, covariance = (
            kernel_on_map(kernel, groups, axes, a, squared=True) for a in (x.variance, x.position_covariance)
        )
        y = Moments.flat(map_axes((x.axes[0], *pooled(self.shape[1:]))), mean, variance, covariance)
        y = replace(y, nearby=x.nearby)
        return self._coupled(y, NONE, x, np.moveaxis(x.variance, 1, -1).reshape(-1, x.shape[1]))

    def _map_of_profiles(self, x: Moments) -> Moments:
        x, mean, variance, covariance = _channels_only(x)
        axes = self._taps
        windows = _Windows([axis.gather(x.profile[2 + i]) for i, axis in enumerate(axes)])
        both = np.concatenate([variance, covariance]) if covariance.any() else variance
        meetings = self._meetings(x.profile[2:], windows.seen, widens=False)
        mean_taps, squares = kernel_times(self._kernel, self._groups, mean, both, meetings.columns)
        variance_taps, sums = self._parted(squares)
        shared = self._shared(variance_taps, sums, variance_taps[0] @ windows.level, meetings, widens=False)
        y, border = _convolved_moments(mean_taps[0], variance_taps, shared, windows, self.shape)
        return self._coupled(replace(y, nearby=x.nearby), border, x, variance)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        if is_map(x):
            g = cotangent.refined(map_axes(y.axes))
            energy, covariance = (
                kernel_transposed_on_map(self._kernel, self._groups, self._taps, array) for array in g.arrays()[:2]
            )
            return Gradient.flat(map_axes((g.axes[0], *x.axes[1:])), energy, covariance)
        g, rows = _channel_gradient(cotangent)
        sent = [axis.scatter(g.profile[2 + i]) for i, axis in enumerate(self._taps)]
        pulled = self._pulled(self._kernel, g, rows, sent, widens=True)
        pulled = replace(pulled, nearby=g.nearby.apart([axis.stride for axis in self._taps])) if g.nearby else pulled
        if x.nearby and self._is_depthwise and all(axis.stride == 1 for axis in self._taps):
            pulled = self._back_to_neighbours(x, g, pulled)
        if g.sense is not None and self._is_depthwise:
            pulled = replace(pulled, sense=g.sense.times(np.sign(self._kernel.sum(axis=(1, 2)))))
        if self._kernel.shape[1] > _FEW or not g.lean.any():
            return pulled
        level = float(self._tap_counts.sum()) / math.prod(self.input_shape[2:]) / self._kernel.shape[-1]
        again, own = self._met_again((g.lean**2 * g.position_covariance).reshape(-1))
        energy = np.maximum(pulled.energy + level * again, 0.0)
        pulled = replace(pulled, energy=energy)
        if not x.nonnegative:
            return replace(pulled, lean=self._lean_in_front(g, level * own, pulled.position_covariance))
        # what follows an input's own entries lies where these are: E xhat^2 of those that are positive
        x, mean, variance, _ = _channels_only(x)
        silent = 1.0 - x.positive_share.reshape(1, -1)
        there = np.divide(mean**2, variance, out=np.ones_like(mean), where=variance > 0)
        surely = np.clip(1.0 - there, 0.0, 1.0) * (silent > 0)
        share = np.divide(level * own, energy, out=np.zeros_like(energy), where=energy > 0)
        return replace(pulled, mask_overlap=np.clip(share, 0.0, 1.0) * surely.reshape(energy.shape))

    @cached_property
    def _own_kernels(self) -> OwnKernels:
        """What the taps of each channel's own kernel have in common."""
        kernels = self._kernel.reshape(len(self._kernel), *self._kernel_shape)
        return OwnKernels.of(kernels, self.node.attribute("dilations"))

    @property
    def _level(self) -> float:
        """Share of the taps that are inside."""
        return float(self._tap_counts.sum() / max(math.prod(self.shape[2:]) * self._kernel.shape[-1], 1))

    def _of_neighbours(self, x: Moments, variance: np.ndarray) -> np.ndarray:
        """The variance of what a channel's own kernel makes of entries that are alike near each other: little, where
        its taps add up to nothing. All kernels together make as much of them as of others."""
        x, _, own, together = _channels_only(x)
        added = self._own_kernels.added(x.nearby) * np.maximum(own - together, 0.0).reshape(-1) * self._level
        return np.asarray(np.maximum(variance + added.reshape(variance.shape), _LEAST_LEFT * variance))

    def _back_to_neighbours(self, x: Moments, g: Gradient, pulled: Gradient) -> Gradient:
        """A gradient that a channel's own kernel sends to entries that are alike near each other: what an interpolation
        in front of it adds up follows the products of the kernel's taps, most so where these left little of a value."""
        alone = np.maximum(g.energy - g.position_covariance, 0.0).reshape(-1)
        energy = pulled.energy
        if g.nearby:
            added = self._own_kernels.added(g.nearby) * alone * self._level
            energy = np.maximum(energy + added.reshape(energy.shape), _LEAST_LEFT * energy)
        # what pairs of taps make of the sum over all positions is in the correlations of those near each other
        near = (self._own_kernels.between * alone * self._level).reshape(energy.shape) / max(pulled.positions - 1, 1)
        covariance = np.clip(pulled.position_covariance - near, -energy / max(pulled.positions - 1, 1), energy)
        nearby = self._own_kernels.sent_back(alone, g.nearby, x.nearby)
        return replace(pulled, energy=energy, position_covariance=covariance, nearby=nearby)

    def _lean_in_front(self, g: Gradient, energy: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """`Gradient.lean` of a gradient of which this energy follows the value. A kernel of one channel tells the sign:
        what positions share is multiplied by its sum, what follows the value by its energy. Of several kernels over a
        channel, with gradients of their own, nobody knows it: 0."""
        if not self._is_depthwise:
            return np.zeros_like(energy)
        shared = np.maximum(covariance, 0.0)
        square = np.divide(np.maximum(energy, 0.0), shared, out=np.zeros_like(shared), where=shared > 0)
        sign = np.sign(self._kernel.sum(axis=(1, 2)) * g.lean.reshape(-1)).reshape(energy.shape)
        return np.asarray(sign * np.minimum(np.sqrt(square), _MOST_LEAN))

    @property
    def _is_depthwise(self) -> bool:
        """Whether each channel has one kernel of its own."""
        return self._kernel.shape[1] == 1 and len(self._kernel) == self._groups

    def _met_again(self, followed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What inputs get because a gradient's positions are as alike as the values there, by as much; and what of
        their gradient follows their own entries.

        Two outputs at a distance are correlated by the kernel's own autocorrelation r, and so is a gradient that leans
        on them: `lean^2 c r`. The kernel meets that with its autocorrelation A: sum of A r over the distances.
        """
        out, inner, _ = self._kernel.shape
        sizes = self._kernel_shape
        axes = tuple(range(2, 2 + len(sizes)))
        whole = np.fft.rfftn(self._kernel.reshape(out, inner, *sizes), [2 * size - 1 for size in sizes], axes)
        own = np.fft.irfftn(np.abs(whole) ** 2, [2 * size - 1 for size in sizes], axes)
        distances = [np.fft.ifftshift(np.arange(1 - size, size)) for size in sizes]
        kept = outer([(d % axis.stride == 0).astype(float) for d, axis in zip(distances, self._taps, strict=True)])
        kept[0] = 0.0
        own = own.reshape(out, inner, -1)
        here, together = own[:, :, :1], own.sum(axis=1, keepdims=True)
        whole_here = together[:, :, :1]
        alike = np.divide(together * kept, whole_here, out=np.zeros_like(together), where=whole_here > 0)
        same = np.divide(here**2, whole_here, out=np.zeros_like(here), where=whole_here > 0)
        parts = (own * alike).sum(axis=2), same.sum(axis=2)
        shape = (1, -1, *(1,) * len(sizes))
        again, own = (
            (each * followed[:, None]).reshape(self._groups, -1, inner).sum(axis=1).reshape(shape) for each in parts
        )
        return again, own

    def phis(self, inputs: Inputs, outputs: Sequence[Moments]) -> tuple[float | None, ...]:
        return (self._phi,)

    @cached_property
    def _phi(self) -> float:
        positions = float(math.prod(self.shape[2:]))
        energy = float(self._row_energies.sum(axis=0) @ self._tap_counts)
        return energy / (len(self._kernel) * positions) if positions else 0.0

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        """For a kernel of independent entries (theory 3.2), with the row norms that it has.

        phi_2 = s^4 mean_p [n_p^2 - n_p + c_in c_out S(p) / g^2] + phi^2 Var(row energy) / mean^2: pairs of different
        rows do not depend on the kurtosis, and that of a row with itself is known from the kernel.
        """
        if self._kernel.size == 0 or not any(self.shape[2:]):
            return None
        second = self._pairs(self._taps)
        return max((second + float(np.var(self._rows)) * self._own_taps - 1.0) * self._phi**2, 0.0)

    @cached_property
    def _own_taps(self) -> float:
        """How much more a row's energy varies at one position, where some taps are outside, than over all of them."""
        square = float((self._tap_counts**2).sum())
        return math.prod(self.shape[2:]) * float(self._tap_counts.sum()) / square if square else 1.0

    @cached_property
    def _rows(self) -> np.ndarray:
        """Energy of each output channel over all positions, relative to their mean."""
        energy = self._row_energies @ self._tap_counts
        mean = float(energy.mean()) if energy.size else 0.0
        return energy / mean if mean > 0 else np.ones_like(energy)

    def structure(self, inputs: Inputs, outputs: Sequence[Moments]) -> Structure:
        return Structure(everywhere=True, rows=self._rows)


@component("conv_transpose")
class TransposedConvolution(_Convolution):
    """The transpose of a convolution: y[o, p * stride + t * dilation - pad] += W[i, o, t] x[i, p].

        phi = phi_conv m_conv / n_conv, with the convolution from its output grid to its input grid

    Moments and gradients are those of `Convolution` with the two directions exchanged.
    Source: theory 3.2.
    """

    fixed_structure: ClassVar[Structure] = Structure(everywhere=True)

    @cached_property
    def _taps(self) -> list[TapAxis]:
        return self._tap_axes(self.input_shape[2:], self.shape[2:])

    def map(self, x: Moments) -> Moments:
        x, mean, variance, covariance = _channels_only(x)
        windows = _Windows([axis.scatter(x.profile[2 + i]) for i, axis in enumerate(self._taps)])
        both = np.concatenate([variance, covariance])
        meetings = self._meetings(x.profile[2:], windows.seen, widens=True)
        mean_taps, squares = kernel_times(self._swapped(), self._groups, mean, both, meetings.columns)
        variance_taps, sums = self._parted(squares)
        shared = self._shared(variance_taps, sums, variance_taps[0] @ windows.level, meetings, widens=True)
        y, border = _convolved_moments(mean_taps[0], variance_taps, shared, windows, self.shape)
        found = self._with_bias(self._coupled(y, border, x, variance))
        return replace(found, nearby=x.nearby.apart([axis.stride for axis in self._taps])) if x.nearby else found

    @property
    def _overlap(self) -> float:
        return window_overlap(self._kernel_shape, [1] * len(self._kernel_shape))  # one input reaches a whole kernel

    def _swapped(self) -> np.ndarray:
        """The kernel as (out, in / groups, taps)."""
        inner, per_group, taps = self._kernel.shape
        grouped = self._kernel.reshape(self._groups, inner // self._groups, per_group, taps)
        return grouped.transpose(0, 2, 1, 3).reshape(self._groups * per_group, inner // self._groups, taps)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g, rows = _channel_gradient(cotangent)
        sent = [axis.gather(g.profile[2 + i]) for i, axis in enumerate(self._taps)]
        pulled = self._pulled(self._swapped(), g, rows, sent, widens=False)
        return replace(pulled, nearby=g.nearby.every([axis.stride for axis in self._taps])) if g.nearby else pulled

    def phis(self, inputs: Inputs, outputs: Sequence[Moments]) -> tuple[float | None, ...]:
        length = float(math.prod(self.shape[1:]))
        return (float(self._row_energies.sum(axis=0) @ self._tap_counts) / length if length else 0.0,)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        """phi_2 = phi_2,conv m_conv / n_conv: the trace is that of the convolution it transposes (theory 3.2)."""
        if self._kernel.size == 0 or not any(self.shape[2:]):
            return None
        phi = self.phis(inputs, outputs)[0] or 0.0
        ratio = math.prod(self.shape[1:]) / math.prod(self.input_shape[1:])  # n_conv / m_conv
        return max((self._pairs(self._taps, kurtosis=3.0) * ratio - 1.0) * phi**2, 0.0)
