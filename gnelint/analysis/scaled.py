"""A gradient of any size: that of a deep network leaves the range of a double."""

from __future__ import annotations

import math

from gnelint.records import dataclass
from gnelint.theory.fields.gradient import Gradient

_MANY_CELLS = 1 << 12
"""From so many on a gradient that is only asked for its size is kept as its average."""


@dataclass(frozen=True)
class Scaled:
    """A gradient times 2^exponent."""

    gradient: Gradient
    exponent: float = 0.0

    @property
    def log2(self) -> float:
        """log2 of the squared norm; -inf for zero."""
        total = self.gradient.total
        return math.log2(total) + self.exponent if total > 0 else -math.inf

    def normalised(self) -> Scaled:
        """With the largest energy near 1."""
        largest = float(self.gradient.energy.max(initial=0.0))
        if largest == 0.0 or not math.isfinite(largest) or 1e-60 < largest < 1e60:
            return self
        shift = math.floor(math.log2(largest))
        return Scaled(self.gradient.scaled(2.0**-shift), self.exponent + shift)

    def spent(self) -> Scaled:
        """For whoever asks for its size and how alike it is, and pulls it back no more: where it has many cells, their
        average in place of each, which takes no memory."""
        return Scaled(self.gradient.levelled(), self.exponent) if self.gradient.energy.size > _MANY_CELLS else self

    def plus(self, other: Scaled) -> Scaled:
        """The sum of two uncorrelated gradients."""
        high, low = (self, other) if self.exponent >= other.exponent else (other, self)
        scaled = low.gradient.scaled(2.0 ** max(low.exponent - high.exponent, -1000.0))
        return Scaled(high.gradient.plus(scaled), high.exponent)


def unit(scaled: Scaled, length: int) -> Scaled:
    """A cotangent whose squared norm is its share of 1."""
    return Scaled(scaled.gradient, scaled.exponent - math.log2(length))


def at_exponent(scaled: Scaled, exponent: float) -> Gradient:
    """The gradient in units of 2^exponent; what would be too small for a double is nearly zero there."""
    if scaled.exponent == exponent:
        return scaled.gradient
    return scaled.gradient.scaled(2.0 ** max(scaled.exponent - exponent, -1000.0))
