"""Matrices of independent entries that nobody has drawn: the sums over them that the calculus needs, by their law."""

from __future__ import annotations

import math
import zlib

import numpy as np

from gnelint.ir.graph import Parameter
from gnelint.ir.laws import Law
from gnelint.records import dataclass


@dataclass(frozen=True)
class IndependentMatrix:
    """W, (m, n), of independent entries w with mean mu, variance s^2 and kurtosis k, of which no number is held.

        (W*W) v      = (s^2 + mu^2) sum v                        its mean; an entry scatters by sqrt((k - 1) / n) of it
        W v          = mu sum v + s |v| g,  g ~ N(0, I)          exactly so for Gaussian w, in law; g is drawn
        ||W||_F^2    = m n (s^2 + mu^2)
        tr (W W^T)^2 = s^4 m n (m + n + k - 2) + mu^4 (m n)^2 + 2 mu^2 s^2 m n (m + n + 1)

    Of several v the g have the covariance that the v have. Source: theory 7.2.

    Attributes:
        shape: (m, n).
        law: of an entry.
        seed: of the draws of g.
    """

    shape: tuple[int, int]
    law: Law
    seed: int

    def __len__(self) -> int:
        return self.shape[0]

    def times(self, vectors: np.ndarray, squared: bool, axis: int) -> np.ndarray:
        """W v or (W*W) v for each row vector (`axis` 1), or v W or v (W*W) (`axis` 0): (k, in) gives (k, out)."""
        out, total = self.shape[1 - axis], vectors.sum(axis=1, dtype=np.float64)[:, None]
        if squared:
            return np.broadcast_to(self.law.second_moment * total, (len(vectors), out))
        largest = float(np.abs(vectors).max(initial=0.0))
        if not self.law.variance or not largest or not math.isfinite(largest):
            return np.broadcast_to(self.law.mean * total, (len(vectors), out))
        small = np.asarray(vectors, np.float64) / largest
        values, basis = np.linalg.eigh(small @ small.T)
        noise = np.random.default_rng((self.seed, axis)).standard_normal((len(vectors), out))
        drawn = (basis * np.sqrt(np.maximum(values, 0.0))) @ noise
        return np.asarray(self.law.mean * total + math.sqrt(self.law.variance) * largest * drawn)

    @property
    def frobenius2(self) -> float:
        """||W||_F^2."""
        return self.shape[0] * self.shape[1] * self.law.second_moment

    @property
    def squared_gram(self) -> float:
        """tr (W W^T)^2."""
        m, n = self.shape
        mean2, s2 = self.law.mean**2, self.law.variance
        own = s2**2 * m * n * (m + n + self.law.kurtosis - 2) if s2 else 0.0
        return own + (mean2 * m * n) ** 2 + 2 * mean2 * s2 * m * n * (m + n + 1)


Matrix = np.ndarray | IndependentMatrix
"""A matrix with its numbers, or without."""


def matrix_of(parameter: Parameter) -> Matrix:
    """The numbers of a parameter of two axes, or what stands for them where nobody has drawn them."""
    if parameter.law is None:
        return parameter.array()
    rows, columns = parameter.shape
    return IndependentMatrix((rows, columns), parameter.law, zlib.crc32(parameter.name.encode()))
