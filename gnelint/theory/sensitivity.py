"""How an error in the scale of a value grows along a network.

An activation f reads x of second moment q and, with x scaled by sqrt(s), has

    chi   = d log E f(x)^2 / d log s     what a relative error of q becomes behind it (linear maps hand it on)
    omega = d log E f'(x)^2 / d log s    what the same error does to the gradient that passes

both at s = 1. A rectifier has chi = 1 and omega = 0: it forgives nothing and notices nothing. Where chi > 1 the fixed
point of q is unstable, and an error e of log q in front of L alike layers costs the gradient in front of them
e omega (chi^L - 1) / (chi - 1), as far as e chi^L stays small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

_STEP = 2e-3
"""Half the difference in log s; the error of a central difference is its square."""


class ScalarMap(Protocol):
    """Gaussian averages of a scalar function, as a pointwise component gives them."""

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E f and E f^2."""

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E f' and E f'^2."""


@dataclass(frozen=True)
class Sensitivity:
    """Elasticities with respect to the second moment that a function reads.

    Attributes:
        chi: of the second moment that it hands on.
        omega: of phi.
    """

    chi: float
    omega: float


def sensitivity(function: ScalarMap, mean: np.ndarray, variance: np.ndarray) -> Sensitivity:
    """The elasticities of all cells together, each weighted alike. 0 where nothing passes.

    Args:
        function: the activation.
        mean, variance: of what it reads, of any one shape; scaled together, so that the ratio of the two stays.
    """
    steps = (scaled_averages(function, mean, variance, float(np.exp(step))) for step in (-_STEP, _STEP))
    seconds, phis = zip(*steps, strict=True)
    return Sensitivity(_slope(*seconds), _slope(*phis))


def scaled_averages(function: ScalarMap, mean: np.ndarray, variance: np.ndarray, scale: float) -> tuple[float, float]:
    """E f^2 and E f'^2, each cell weighted alike, where the second moment that f reads is `scale` times as large."""
    read = (np.sqrt(scale) * mean, scale * variance)
    return float(function.values(*read)[1].mean()), float(function.slopes(*read)[1].mean())


def _slope(low: float, high: float) -> float:
    return float(np.log(high / low)) / (2.0 * _STEP) if low > 0 and high > 0 else 0.0
