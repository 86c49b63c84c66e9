"""Averages of a gate over a Gaussian pre-activation: of tanh, of the logistic function through it, of the rectifier.

Source: theory 3.8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnelint.records import dataclass
from gnelint.theory.gaussian.quadrature import smooth_expectations
from gnelint.theory.gaussian.special import normal_cdf, normal_pdf


@dataclass(frozen=True)
class Averages:
    """Of f(z), z ~ N(mean, variance), entry by entry.

    Attributes:
        first, second: E f and E f^2.
        slope, square: E f' and E f'^2.
    """

    first: np.ndarray
    second: np.ndarray
    slope: np.ndarray
    square: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Var f."""
        return np.asarray(np.maximum(self.second - self.first**2, 0.0))


def tanh_averages(mean: np.ndarray, variance: np.ndarray) -> Averages:
    """f = tanh: f' = 1 - f^2, so E f, E f^2 and E f^4 say all."""
    first, second, fourth = smooth_expectations(_tanh_powers, mean, variance, settled=True)
    return Averages(first, second, 1.0 - second, np.maximum(1.0 - 2.0 * second + fourth, 0.0))


def _tanh_powers(z: np.ndarray) -> tuple[np.ndarray, ...]:
    first = np.tanh(z)
    second = first * first
    return first, second, second * second


def gate_averages(mean: np.ndarray, variance: np.ndarray, logistic: Sequence[bool]) -> list[Averages]:
    """Of each gate, from arrays (batch, gate, unit): f = 1 / (1 + e^-z) = (1 + tanh(z / 2)) / 2, or tanh.

    All are taken at once: many entries cost little more than a few.
    """
    half = np.where(logistic, 0.5, 1.0)[:, None]
    whole = tanh_averages(half * mean, half**2 * variance)
    found = []
    for gate, is_logistic in enumerate(logistic):
        t = Averages(*(array[:, gate] for array in (whole.first, whole.second, whole.slope, whole.square)))
        found.append(_logistic(t) if is_logistic else t)
    return found


def _logistic(t: Averages) -> Averages:
    second = 0.25 * (1.0 + 2.0 * t.first + t.second)
    return Averages(0.5 * (1.0 + t.first), second, 0.25 * t.slope, t.square / 16.0)


def relu_averages(mean: np.ndarray, variance: np.ndarray) -> Averages:
    """f = max(z, 0) in closed form (theory 3.3); a constant 0 is not above 0."""
    deviation = np.sqrt(variance)
    t = np.divide(mean, deviation, out=np.where(mean > 0, np.inf, -np.inf), where=deviation > 0)
    share, edge = normal_cdf(t), deviation * normal_pdf(t)
    first = mean * share + edge
    return Averages(first, (mean**2 + variance) * share + mean * edge, share, share)
