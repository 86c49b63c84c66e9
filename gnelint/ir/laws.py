"""Laws of tensors whose entries are independent draws: what an initialiser says of numbers that nobody has drawn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np

from gnelint.records import dataclass


@dataclass(frozen=True)
class Law:
    """The distribution of one entry.

    Attributes:
        mean, variance: of an entry.
        kurtosis: E (w - mean)^4 / variance^2; nan for a constant.
        minimum, maximum: what an entry can be, infinite for a Gaussian.
    """

    mean: float
    variance: float
    kurtosis: float
    minimum: float
    maximum: float

    @classmethod
    def constant(cls, value: float) -> Law:
        """Every entry is `value`."""
        return cls(value, 0.0, math.nan, value, value)

    @classmethod
    def gaussian(cls, mean: float, deviation: float) -> Law:
        """N(mean, deviation^2)."""
        return cls(mean, deviation**2, 3.0, -math.inf, math.inf) if deviation else cls.constant(mean)

    @classmethod
    def uniform(cls, low: float, high: float) -> Law:
        """Uniform in [low, high]: variance (high - low)^2 / 12, kurtosis 9 / 5."""
        return cls((low + high) / 2, (high - low) ** 2 / 12, 1.8, low, high) if low != high else cls.constant(low)

    @classmethod
    def truncated_gaussian(cls, mean: float, deviation: float, low: float, high: float) -> Law:
        """N(mean, deviation^2) between two bounds.

        With a, b the bounds in deviations, Z = P(b) - P(a) and d the density, the moments about `mean` follow
        m_k = (k - 1) m_(k-2) - (b^(k-1) d(b) - a^(k-1) d(a)) / Z (by parts).
        """
        a, b = (low - mean) / deviation, (high - mean) / deviation
        share = (math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2))) / 2
        if share < 1e-6:
            return cls.uniform(low, high)

        def edge(power: int) -> float:
            return (_edge(b, power) - _edge(a, power)) / share

        m1 = -edge(0)
        m2 = 1.0 - edge(1)
        m3 = 2 * m1 - edge(2)
        m4 = 3 * m2 - edge(3)
        variance = m2 - m1**2
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        return cls(mean + deviation * m1, deviation**2 * variance, fourth / variance**2, low, high)

    @property
    def second_moment(self) -> float:
        """Average squared entry."""
        return self.variance + self.mean**2

    def scaled(self, factor: float) -> Law:
        """The law of factor * w."""
        ends = sorted((factor * self.minimum, factor * self.maximum)) if factor else [0.0, 0.0]
        return replace(
            self, mean=factor * self.mean, variance=factor**2 * self.variance, minimum=ends[0], maximum=ends[1]
        )

    def shifted(self, by: float) -> Law:
        """The law of w + by."""
        return replace(self, mean=self.mean + by, minimum=self.minimum + by, maximum=self.maximum + by)


def _edge(at: float, power: int) -> float:
    """x^k times the Gaussian density."""
    return at**power * math.exp(-(at**2) / 2) / math.sqrt(2 * math.pi) if math.isfinite(at) else 0.0


class Drawn(ABC):
    """The `load` of a parameter whose entries are independent draws that are only made when it is called."""

    @property
    @abstractmethod
    def law(self) -> Law:
        """Of its entries."""

    @abstractmethod
    def __call__(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Nothing(Drawn):
    """Zeros that no file holds: a part of a sparse file that nobody has written to.

    Attributes:
        shape, dtype: of the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def law(self) -> Law:
        return Law.constant(0.0)

    def __call__(self) -> np.ndarray:
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)
