"""How much the entries that a weight sums are correlated, by mean square: no sign is known, but variances feel it.

Covariances between different channels have signs that depend on the weights before, so in the mean over weights they
cancel. For one weight w they do not: Var(w x) has relative variance 2 c about sum w^2 Var x, c being the mean squared
correlation of the entries summed. A normalisation divides by that variance, channel by channel, and E[1/Var] exceeds
1/E[Var] by it. Two sums of n independent entries with independent weights have mean squared correlation 1/n, which is
where channel correlations come from. Source: theory 9.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from gnelint.records import dataclass, replace

_WINDOW = 3
_PAIRS = ((0, 3 / 9), (1, 4 / 9), (2, 2 / 9))
"""How often two of three positions in a row are this far apart."""


_MOST_FOLLOWED = 4
"""Of how many values that several nodes read one further on is known to follow them."""


@dataclass(frozen=True)
class Followed:
    """How far a value follows another one that several nodes read, through weights that are nobody else's.

    Attributes:
        name: of the other value.
        own, others: mean squared correlation of a channel of the other with the same one here, and with others.
        level: `others` right behind the first weights, where all is followed; 0 in front of them.
        even: whether what is followed is as large at one position as at another, as a normalisation over features has
            made it there or on the way.
    """

    name: str
    own: float
    others: float
    level: float = 0.0
    even: bool = False

    def scaled(self, factor: float) -> Followed:
        """Of a part that has this share of the variance."""
        return replace(self, own=self.own * factor, others=self.others * factor)

    def behind_weights(self, own: float, taps: float) -> Followed:
        """Of a sum over a window of so many taps, as `weighted_sum`: of its positions one is the other value's own."""
        whole = self.others + self.own * own * taps
        if not own:
            return self.scaled(1.0 / taps)
        return replace(self, own=0.0, others=whole / taps, level=self.level or whole)

    def with_other(self, other: Followed) -> float:
        """Mean squared correlation between channels of two values that follow this one, by one's weights at least."""
        level = self.level or other.level
        if not level or (self.own and other.own):
            return 0.0
        return level * math.prod(min(part.own + part.others / level, 1.0) for part in (self, other))


@dataclass(frozen=True)
class ChannelCorrelation:
    """Mean squared correlation between different channels of one sample, weighted by energy.

    Attributes:
        same: at one position.
        beside: at positions that one window of a convolution sees.
        whole: of averages over all positions, which a convolution of each channel by itself does not change.
        fixed: share of the variance over positions and samples that is the same in every sample: padding makes the
            mean of each channel differ from place to place.
        few: mean squared correlation between what channels have of that, as there are few kinds of places.
        placed: at one position, of the constants that positions have been given (an encoding of the place), whose
            norms, other than those of what is random, need not scatter.
        follows: the latest values that several nodes read, as far as this one follows them.

    All but the two of what is fixed are weighted with the square of the share of the variance that they are of.
    """

    same: float = 0.0
    beside: float = 0.0
    whole: float = 0.0
    fixed: float = 0.0
    few: float = 0.0
    placed: float = 0.0
    follows: tuple[Followed, ...] = ()

    def scaled(self, factor: float) -> ChannelCorrelation:
        """With every squared correlation of what is not fixed multiplied."""
        same, beside, whole, placed = (part * factor for part in (self.same, self.beside, self.whole, self.placed))
        follows = tuple(part.scaled(math.sqrt(factor)) for part in self.follows)
        return replace(self, same=same, beside=beside, whole=whole, placed=placed, follows=follows)

    def read_by_several(self, name: str, even: bool) -> ChannelCorrelation:
        """Of the value of this name."""
        first = Followed(name, 1.0, self.total, even=even)
        return replace(self, follows=(first, *self.follows)[:_MOST_FOLLOWED])

    def evened(self) -> ChannelCorrelation:
        """Behind a normalisation over features."""
        return replace(self, follows=tuple(replace(part, even=True) for part in self.follows))

    def meeting(self, other: ChannelCorrelation) -> tuple[float, bool]:
        """Mean squared correlation between channels of two values, as both follow a third, and whether that is even."""
        theirs = {part.name: part for part in other.follows}
        both = [(part, theirs[part.name]) for part in self.follows if part.name in theirs]
        return max(((one.with_other(two), one.even or two.even) for one, two in both), default=(0.0, False))

    @property
    def total(self) -> float:
        """At one position, of everything."""
        return self.same + self.fixed**2 * self.few

    def mapped(self, linear: float) -> ChannelCorrelation:
        """Behind a function of each entry, whose linear part has this share of its variance; the rest follows squares
        of correlations."""
        found = self.scaled(linear**2)
        return replace(found, fixed=linear * self.fixed + (1.0 - linear) * self.fixed**2) if self.fixed else found

    def averaged(self) -> ChannelCorrelation:
        """Of the averages over all positions."""
        return ChannelCorrelation(self.whole, self.whole, self.whole)

    def over(self, taps: float) -> float:
        """Average over pairs of entries in a window of this many positions."""
        return self.same / taps + self.beside * (1.0 - 1.0 / taps)

    def plus(self, other: ChannelCorrelation) -> ChannelCorrelation:
        """Sum of two, each already weighted by the square of its share of the energy (what is fixed: by the share)."""
        found = (self.same + other.same, self.beside + other.beside, self.whole + other.whole)
        fixed, placed = self.fixed + other.fixed, self.placed + other.placed
        follows = _joined(self.follows, other.follows)
        if not fixed:
            return ChannelCorrelation(*found, placed=placed, follows=follows)
        # borders are where they are: what is fixed of both is alike as far as it can be
        root = (self.fixed * math.sqrt(self.few) + other.fixed * math.sqrt(other.few)) / fixed
        return ChannelCorrelation(*found, fixed, root**2, placed, follows)


def _joined(these: tuple[Followed, ...], those: tuple[Followed, ...]) -> tuple[Followed, ...]:
    """What a sum of two parts follows, each already weighted by its share of the variance."""
    if not (these and those):
        return these or those
    found = {part.name: part for part in these}
    for part in those:
        known = found.get(part.name, Followed(part.name, 0.0, 0.0))
        own, others = known.own + part.own, known.others + part.others
        found[part.name] = replace(known, own=own, others=others, level=known.level or part.level)
    return tuple(found.values())[:_MOST_FOLLOWED]


NONE = ChannelCorrelation()


def summed(parts: Sequence[tuple[float, ChannelCorrelation]]) -> ChannelCorrelation:
    """Correlation of a sum of parts, each given with its variance: two that follow one value, as a branch does its
    stream, have covariances of their own, of random signs."""
    found, (met, _) = mixed(parts), meetings(parts)
    return replace(found, same=found.same + met, whole=found.whole + met) if met else found


def meetings(parts: Sequence[tuple[float, ChannelCorrelation]]) -> tuple[float, float]:
    """What covariances of parts that follow one value add to the mean squared correlation of a sum, and how much of
    that makes no position's norm differ: of |a|^2 and |b|^2 one is the same everywhere."""
    total = sum(variance for variance, _ in parts)
    whole = even = 0.0
    some, each = parts, 1.0
    if len(parts) > _MOST_PAIRED:
        some = parts[:: -(-len(parts) // _MOST_PAIRED)]
        each = _pairs(parts) / asked if (asked := _pairs(some)) > 0 else 0.0
    for (v, a), (w, b) in combinations(some, 2) if total > 0 else ():
        met, is_even = a.meeting(b)
        whole += (added := each * 2.0 * v * w * met / total**2)
        even += added if is_even else 0.0
    return whole, even


_MOST_PAIRED = 64
"""Parts of a sum up to which all pairs are asked; of more every so many speak for the others."""


def _pairs(parts: Sequence[tuple[float, ChannelCorrelation]]) -> float:
    """The sum over pairs of parts of the product of their variances, twice."""
    total = sum(variance for variance, _ in parts)
    return total**2 - sum(variance**2 for variance, _ in parts)


def mixed(parts: Sequence[tuple[float, ChannelCorrelation]]) -> ChannelCorrelation:
    """Correlation of parts side by side, or of a sum of independent ones, each given with its variance."""
    total = sum(variance for variance, _ in parts)
    found = NONE
    for variance, part in parts:
        share = variance / total if total > 0 else 0.0
        found = found.plus(replace(part.scaled(share**2), fixed=part.fixed * share))
    return found


def participation(variance: np.ndarray) -> float:
    """sum v^2 / (sum v)^2 over the last axis: the mean squared correlation of two sums of independent entries of these
    variances with independent weights."""
    line = variance.reshape(-1, variance.shape[-1]).mean(axis=0)
    total = float(line.sum())
    return float((line**2).sum()) / total**2 if total > 0 else 0.0


def weighted_sum(
    x: ChannelCorrelation,
    own: float,
    taps: float = 1.0,
    overlap: float = 0.0,
    whole: float | None = None,
    averages: float = 1.0,
) -> ChannelCorrelation:
    """Correlation of sums of x with independent weights.

    Args:
        x: of what is summed.
        own: `participation` of the entries summed, for pairs of outputs that sum the same entries.
        taps: positions in a window.
        overlap: share of its entries that a window has in common with those beside it.
        whole: as `own`, of averages over all positions; `own` by default.
        averages: mean squared correlation of the averages over all positions that two taps see: a stride makes them see
            others, and so does the border of a small image.
    """
    carried = x.over(taps)
    beside = overlap * (carried + own) + (1.0 - overlap) * x.beside
    average = (x.whole + (own if whole is None else whole)) * averages
    follows = tuple(part.behind_weights(own, taps) for part in x.follows)
    return ChannelCorrelation(carried + own, beside, average, x.fixed, x.few, x.placed, follows)


@dataclass(frozen=True)
class Ahead:
    """What the normalisations that a gradient has passed make of correlations where it is: the derivative of the sum of
    their squared correlations by `ChannelCorrelation.same` and `beside`, for what a Jacobian of the network from here
    on shares with the value's own correlation (theory 5.11).

    Attributes:
        same, beside: as above.
        next: of the normalisation right behind, by the correlation of what is summed.
    """

    same: float = 0.0
    beside: float = 0.0
    next: float = 0.0

    def scaled(self, factor: float) -> Ahead:
        """Behind something that leaves this share of the correlation, before any normalisation."""
        return Ahead(self.same * factor, self.beside * factor)

    def before_sum(self, own: float, taps: float, overlap: float, others: float = 1.0) -> tuple[Ahead, float]:
        """The transpose of `weighted_sum`, and by how much of itself the gradient is smaller before the sum.

        Args:
            own, taps, overlap: see there.
            others: share of a window's pairs that are of different channels.
        """
        here = self.same + overlap * self.beside
        summed = here + others * self.next
        before = Ahead(summed / taps, summed * (1.0 - 1.0 / taps) + (1.0 - overlap) * self.beside)
        return before, 1.0 - math.exp(-2.0 * own * here)


NOTHING_AHEAD = Ahead()


def mixed_ahead(parts: Sequence[tuple[float, Ahead]]) -> Ahead:
    """Of a sum of gradients, each given with its energy."""
    total = sum(energy for energy, _ in parts)
    if total <= 0 or all(part is NOTHING_AHEAD for _, part in parts):
        return NOTHING_AHEAD
    shares = [(energy / total, part) for energy, part in parts]
    return Ahead(
        sum(share * part.same for share, part in shares),
        sum(share * part.beside for share, part in shares),
        sum(share * part.next for share, part in shares),
    )


def window_overlap(kernel: Sequence[int], strides: Sequence[int]) -> float:
    """Share of a window's entries that it has in common with those around it, within three positions a row."""
    common = math.prod(
        sum(share * max(0.0, 1.0 - far * stride / size) for far, share in _PAIRS)
        for size, stride in zip(kernel, strides, strict=True)
    )
    alone = 1.0 / _WINDOW ** len(kernel)
    return max(common - alone, 0.0) / (1.0 - alone) if kernel else 0.0
