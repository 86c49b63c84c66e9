"""What draws of a value or of a gradient show, as moments and gradients on as few cells as they need.

Draws are kept in two halves. Products of what the halves found are free of the draws' own noise, so that they tell how
much of a mean or of an energy is lost where an axis is pooled. Source: theory 7.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from gnelint.theory.fields.cells import MAX_CELLS, Axes, Axis, counts
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.profiles import Profiles, normalised

_LOST = 1e-3
"""Share of a second moment that may be lost from the means where an axis is pooled."""
_UNEVEN = 1e-2
"""Square of the relative deviation of energies that pooling may hide."""
_SIGMAS = 4.0
"""Standard errors beyond which a difference between indices is none of the draws'."""
_COHERENT = 0.05
"""Correlation along an axis from which on it is not cut: cells share nothing with each other, and it would be lost."""
_CANCELLED = 0.5
"""Share of their energy below which the square of what entries add up to says that they cancel."""
_UNSHAPED = 2e-2
"""Share of a variance that means may lose where a profile stands for the cells of such an axis."""
_MANY = 256
"""Averages from which on their squares tell what they lack."""
_KEPT = 1 << 23
"""Entries of draws that are kept for what takes more than sums."""
_SHAPED = 8.0
"""Excess kurtosis up to which cumulants say something of a shape."""
_FINE, _FINEST, _COARSEST = 1 << 23, 1 << 14, 1 << 8
"""Sums that are kept of the values inside a region, and of one of them at most and at least: of a larger one the
longest axes are averaged over as it is seen."""

Pair = tuple[np.ndarray, np.ndarray]
"""What either half of the draws found."""


@dataclass
class Tally:
    """Sums over the draws of one tensor, in two halves.

    Attributes:
        shape: of the tensor.
        signed: whether the entries' own sums are wanted, beside those of their squares.
        pooled: axes that each draw is averaged over at once; where there are any, no draw is kept.
        count: draws so far.
        first, second: sums of the entries and of their squares in each half.
        kept: the first draws as they are.
    """

    shape: tuple[int, ...]
    signed: bool = True
    pooled: tuple[int, ...] = ()
    count: int = 0
    first: list[np.ndarray] = field(default_factory=list)
    second: list[np.ndarray] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)
    lowest: float = math.inf

    def add(self, draw: Tensor) -> float | None:
        """Take in one draw; the sum of its squared entries. One with entries that are not finite is left out: None."""
        kind = draw.detach()
        if self.pooled:
            return self._add_averages(kind)
        entries = (kind if kind.dtype in (torch.float32, torch.float64) else kind.float()).cpu().numpy()
        squares = entries.astype(np.float64)
        squares *= squares
        energy = float(squares.sum())
        if not math.isfinite(energy):
            return None
        if not self.second:
            self.second = [np.zeros(self.shape), np.zeros(self.shape)]
            self.first = [np.zeros(self.shape), np.zeros(self.shape)] if self.signed else []
        self.second[self.count % 2] += squares
        if self.signed:
            self.first[self.count % 2] += entries
            self.lowest = min(self.lowest, float(entries.min(initial=math.inf)))
        if (len(self.kept) + 1) * entries.size <= _KEPT or len(self.kept) < 2:
            self.kept.append(entries.astype(np.float32, order="C", copy=False))
        self.count += 1
        return energy

    def _add_averages(self, draw: Tensor) -> float | None:
        """Take in the averages of one draw over the pooled axes."""
        entries = draw if draw.dtype in (torch.float32, torch.float64) else draw.float()
        averages = entries.square().mean(self.pooled, keepdim=True)
        if not bool(averages.isfinite().all()):  # squares of what single precision still holds
            averages = entries.double().square().mean(self.pooled, keepdim=True)
        squares = averages.cpu().double().numpy()
        energy = float(squares.sum()) * float(draw.numel() / max(squares.size, 1))
        if not math.isfinite(energy):
            return None
        if not self.second:
            self.second = [np.zeros(squares.shape), np.zeros(squares.shape)]
            self.first = [np.zeros(squares.shape), np.zeros(squares.shape)] if self.signed else []
        self.second[self.count % 2] += squares
        if self.signed:
            self.first[self.count % 2] += entries.mean(self.pooled, keepdim=True).cpu().double().numpy()
            self.lowest = min(self.lowest, float(entries.min()))
        self.count += 1
        return energy

    def halves(self, sums: Sequence[np.ndarray]) -> Pair:
        """The averages in either half."""
        return sums[0] / ((self.count + 1) // 2), sums[1] / max(self.count // 2, 1)


def inside(shape: tuple[int, ...], values: int = 1) -> Tally:
    """A tally of a value inside a region of so many, whose cells need not be fine: what it costs must not exceed what
    running it does."""
    most = max(min(_FINEST, _FINE // max(values, 1)), _COARSEST)
    left, pooled = list(shape), set[int]()
    while math.prod(left) > most:
        longest = max(range(len(left)), key=left.__getitem__)
        pooled.add(longest)
        left[longest] = 1
    return Tally(shape, pooled=tuple(sorted(pooled)))


class Fitted(Mapping[str, Moments]):
    """What tallies show, each worked out when it is asked for: a region may have thousands of values inside, and is
    often drawn for its outputs alone, before it has grown to what it will be."""

    def __init__(self, tallies: Mapping[str, Tally]) -> None:
        self._names = tuple(tallies)
        self._waiting = dict(tallies)
        self._found: dict[str, Moments] = {}

    def __getitem__(self, name: str) -> Moments:
        if name in self._waiting:
            self._found[name] = moments_of(self._waiting.pop(name))
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._waiting or name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def moments_of(tally: Tally) -> Moments:
    """What the draws of a value show."""
    means, seconds = tally.halves(tally.first), tally.halves(tally.second)
    energy = float(sum(half.mean() for half in seconds)) / 2.0
    axes = _cells([(means, _LOST * energy), (seconds, _UNEVEN * energy**2)], tally)
    profile: Profiles = (None,) * len(axes)
    if tally.kept:
        average = _both(means, tuple(Axis.full(size) for size in tally.shape))
        scatter = energy - float((means[0] * means[1]).mean())
        centred = [draw - average for draw in tally.kept]
        axes, profile = _coherent(axes, seconds, centred, (means, scatter))
    amplitude = np.sqrt(_lines(profile, axes))
    means, seconds = _divided(means, amplitude), _divided(seconds, amplitude**2)
    draws = [draw / amplitude for draw in tally.kept] if amplitude.size > 1 else tally.kept
    (one, two), second = _averaged(means, axes), _both(seconds, axes)
    mean = 0.5 * (one + two)
    square = float((mean**2).mean())
    mean = mean * math.sqrt(min(max(float((one * two).mean()) / square, 0.0), 1.0)) if square > 0 else mean
    seen = tally.count * math.prod(axis.size / axis.count for axis in axes)
    variance = np.maximum(second - 0.25 * (one + two) ** 2, 0.0) * (seen / max(seen - 1.0, 1.0))
    found = replace(Moments.flat(axes, mean, variance, nonnegative=tally.lowest >= 0.0), profile=profile)
    if not tally.kept:
        return found
    return _with_shape(found, [draw - 0.5 * (one + two) for draw in draws], tally.kept)


def _with_shape(x: Moments, centred: Sequence[np.ndarray], draws: Sequence[np.ndarray]) -> Moments:
    """With what positions have in common, the third and the fourth cumulant, and how samples differ in scale."""
    found = replace(x, position_covariance=_correlation(centred, x.axes, x.variance) * x.variance)
    if x.variance.all():
        powers = [_third_and_fourth(draw / np.sqrt(x.variance)) for draw in centred]
        skew, fourth = (float(np.mean(each)) for each in zip(*powers, strict=True))
        excess = fourth - 3.0
        if abs(excess) <= _SHAPED:
            found = replace(found, cumulants=(skew * x.variance**1.5, excess * x.variance**2))
    if len(x.axes) > 1 and x.axes[0].is_pooled:
        scales = np.concatenate([(draw.reshape(len(draw), -1).astype(np.float64) ** 2).mean(axis=1) for draw in draws])
        level = float(scales.mean())
        found = replace(found, log_norm_variance=float(scales.var()) / level**2 if level > 0 else 0.0)
        found = replace(found, mean_known=_mean_known(centred, x.axes))
    return found


def _mean_known(centred: Sequence[np.ndarray], axes: Axes) -> float:
    """How much less there is of averages over samples and positions than averages over each sample's say: a
    normalisation in front has taken it; 0 where it may be chance."""
    pooled = tuple(index for index, axis in enumerate(axes) if index and axis.is_pooled and axis.size > 1)
    samples = axes[0].size
    features = math.prod(axis.size for index, axis in enumerate(axes) if index and index not in pooled)
    if samples < 2 or not pooled or features * len(centred) < _MANY:
        return 0.0
    each = [draw.mean(axis=pooled, dtype=np.float64) for draw in centred]
    alone = sum(float((sample**2).mean()) for sample in each) / samples
    whole = sum(float((sample.mean(axis=0) ** 2).mean()) for sample in each)
    known = 1.0 - whole / alone if alone > 0 else 0.0
    return known if known > _SIGMAS * math.sqrt(2.0 / (features * len(centred))) else 0.0


def _third_and_fourth(entries: np.ndarray) -> tuple[float, float]:
    """The averages of the third and fourth powers; products: numpy's general power takes ten times as long."""
    squares = entries * entries
    fourth = float((squares * squares).mean())
    squares *= entries
    return float(squares.mean()), fourth


def gradient_of(tally: Tally, values: Sequence[np.ndarray] | None = None) -> Gradient:
    """What the draws of a gradient show.

    Args:
        tally: of the gradient.
        values: the draws of the value that it is the gradient at, in the same order.
    """
    seconds = tally.halves(tally.second)
    energy = float(sum(half.mean() for half in seconds)) / 2.0
    axes = _cells([(seconds, _UNEVEN * energy**2)], tally)
    if not tally.kept:
        return Gradient.flat(axes, _both(seconds, axes))
    axes, profile = _coherent(axes, seconds, tally.kept)
    lines = _lines(profile, axes)
    cells = _both(_divided(seconds, lines), axes)
    draws = [draw / np.sqrt(lines) for draw in tally.kept] if lines.size > 1 else tally.kept
    overlap = 0.0 if values is None else _overlap(tally.kept, values)
    found = Gradient.flat(axes, cells, _correlation(draws, axes, cells) * cells, profile)
    return replace(found, mask_overlap=np.full_like(cells, overlap))


def _overlap(gradients: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> float:
    """How much of the energy sits on positive entries beyond their share."""
    total = positive = share = 0.0
    for g, x in zip(gradients, values, strict=False):
        squares, above = g * g, x > 0
        total += float(squares.sum())
        positive += float((squares * above).sum())
        share += float(above.mean()) / len(values)
    if total <= 0 or not 0.0 < share < 1.0:
        return 0.0
    return min(max((positive / total - share) / (1.0 - share), 0.0), 1.0)


# --- cells -------------------------------------------------------------------------------------------------


def _cells(pairs: Sequence[tuple[Pair, float]], tally: Tally) -> Axes:
    """The cells: an axis is pooled unless more than allowed is lost, and surely.

    Args:
        pairs: what the halves found, with the mean square that may be lost of it.
        tally: whose sums they are of.
    """
    shape = pairs[0][0][0].shape
    found = [Axis.full(size) for size in shape]
    lost: dict[int, float] = {}
    for index in sorted(range(len(shape)), key=lambda i: -shape[i]):
        if shape[index] == 1:
            continue
        share = max(_loss(pair, index) / max(allowed, 1e-300) for pair, allowed in pairs)
        if share <= 1.0:
            pairs = [(_pooled(pair, index), allowed) for pair, allowed in pairs]
            found[index] = Axis(shape[index])
        else:
            lost[index] = share
    for index in sorted(lost, key=lost.__getitem__):
        if math.prod(counts(tuple(found))) > MAX_CELLS:
            found[index] = Axis(shape[index])
    for index in tally.pooled:
        found[index] = Axis(tally.shape[index])
    return tuple(found)


def _coherent(
    axes: Axes, seconds: Pair, draws: Sequence[np.ndarray], means: tuple[Pair, float] | None = None
) -> tuple[Axes, Profiles]:
    """Cells by which what entries have in common is told: axes along which they have it pooled, with a profile, and
    all others cut, whose entries would else count as pairs that have it too.

    Args:
        axes: cells by means and energies alone; they stay where nothing is in common.
        seconds, draws: of the value.
        means: with the variance of entries of which a share may be lost of them behind a division by the profile.
    """
    profile = list[np.ndarray | None]([None] * len(axes))
    together = _together(draws)
    others = [Axis.full(axis.size) for axis in axes]
    if not together or math.prod(a.size for i, a in enumerate(axes) if i > 0 and i not in together) > MAX_CELLS:
        return axes, tuple(profile)
    found = [axes[0], *others[1:]]
    cut = math.prod(axis.size for index, axis in enumerate(axes) if index > 0 and index not in together)
    share = min(_UNSHAPED, 1.0 / cut)  # an average over what is cut leaves the means, and so much of a variance
    for index in together:
        apart = tuple(i for i in range(len(axes)) if i != index)
        line = normalised((0.5 * (seconds[0] + seconds[1])).mean(axis=apart))
        if line is None or axes[index].is_pooled:
            found[index] = Axis(axes[index].size)
            continue
        shaped = line.reshape([-1 if i == index else 1 for i in range(len(axes))])
        if not np.all(line > 0) or (means and _loss(_divided(means[0], np.sqrt(shaped)), index) > share * means[1]):
            return axes, (None,) * len(axes)
        found[index], profile[index], seconds = Axis(axes[index].size), line, _divided(seconds, shaped)
        means = means and (_divided(means[0], np.sqrt(shaped)), means[1])
    return tuple(found), tuple(profile)


def _together(draws: Sequence[np.ndarray]) -> list[int]:
    """The axes along which entries have more in common than may be lost; where there are none, the first along which
    they add up to much less than they are, as what is left of a series by its moving average. Features behind a
    normalisation do so too: nothing asks for that, and pooled with positions they would hide what these have in common.
    """
    energy = sum(float(np.square(draw, dtype=np.float64).sum()) for draw in draws)
    shape = draws[0].shape
    wide = [index for index in range(1, len(shape)) if shape[index] > 1]
    sums = {i: sum(float(np.square(draw.sum(axis=i), dtype=np.float64).sum()) for draw in draws) for i in wide}
    alike = [i for i in wide if sums[i] - energy > _COHERENT * (shape[i] - 1) * energy]
    return alike or [i for i in wide if sums[i] < _CANCELLED * energy][:1]


def _divided(pair: Pair, by: np.ndarray) -> Pair:
    return (pair[0] / by, pair[1] / by) if by.size > 1 else pair


def _lines(profile: Profiles, axes: Axes) -> np.ndarray:
    """The relative energy of the indices over all axes."""
    whole = np.ones((1,) * len(axes))
    for index, line in enumerate(profile):
        if line is not None:
            whole = whole * line.reshape([-1 if i == index else 1 for i in range(len(axes))])
    return whole


def _loss(pair: Pair, index: int) -> float:
    """The mean square that pooling an axis loses, 0 where it may be the draws' noise."""
    one, two = (half - half.mean(axis=index, keepdims=True) for half in pair)
    lost = float((one * two).mean())
    noise = float(((one - two) ** 2).mean()) / 2.0
    return lost if lost > _SIGMAS * noise / math.sqrt(one.size) else 0.0


def _pooled(pair: Pair, index: int) -> Pair:
    one, two = (half.mean(axis=index, keepdims=True) for half in pair)
    return one, two


def _both(pair: Pair, axes: Axes) -> np.ndarray:
    one, two = _averaged(pair, axes)
    return np.asarray(0.5 * (one + two))


def _averaged(pair: Pair, axes: Axes) -> Pair:
    pooled = tuple(index for index, axis in enumerate(axes) if axis.is_pooled)
    one, two = (half.mean(axis=pooled, keepdims=True) for half in pair)
    return one, two


def _correlation(centred: Sequence[np.ndarray], axes: Axes, variance: np.ndarray) -> float:
    """What two entries of a cell and a sample have in common, relative to their energy; 0 where it may be noise."""
    pooled = tuple(index for index, axis in enumerate(axes) if index > 0 and axis.is_pooled)
    n = math.prod(axes[index].size for index in pooled)
    total = float(variance.mean())
    if n <= 1 or total <= 0:
        return 0.0
    found = []
    for draw in centred:
        entries = draw.astype(np.float64)
        sums = entries.sum(axis=pooled)
        entries *= entries
        squares = entries.sum(axis=pooled)
        found.append(float((sums**2 - squares).mean()) / (n * (n - 1)))
    average = sum(found) / len(found)
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else math.inf
    return min(max(average / total, -1.0 / (n - 1)), 1.0) if abs(average) > 2.0 * error else 0.0
