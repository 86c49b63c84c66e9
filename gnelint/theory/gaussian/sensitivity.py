"""How an error in the scale of a value grows along a network.

An activation f reads x of second moment q and, with x scaled by sqrt(s), has

    chi   = d log E f(x)^2 / d log s     what a relative error of q becomes behind it (linear maps hand it on)
    omega = d log E f'(x)^2 / d log s    what the same error does to the gradient that passes

both at s = 1. A rectifier has chi = 1 and omega = 0: it forgives nothing and notices nothing. Where chi > 1 the fixed
point of q is unstable, and an error e of log q in front of L alike layers costs the gradient in front of them
e omega (chi^L - 1) / (chi - 1), as far as e chi^L stays small.

An activation that is nearly linear where it is read has chi near 1 whatever it is elsewhere: GELU has
chi - 1 = 6 q / pi + O(q^2). Deep chains of such activations keep their samples together if their signals are small
enough (the deeper, the smaller), which is how deep networks of smooth activations are made trainable without
normalisation (arXiv 2110.01765). Source: theory 5.10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gnelint.records import dataclass

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


def amplification(functions: Sequence[ScalarMap], second: float) -> float:
    """log of what a relative error of q becomes over a chain, the sum of log chi.

    Args:
        functions: the activations in order, each behind a weight with which it keeps the gradient:
            q -> E f^2 / E f'^2.
        second: q of what the first of them reads, of mean 0.

    Returns:
        inf where nothing passes.
    """
    total = 0.0
    for function in functions:
        read = (np.zeros(1), np.array([second]))
        chi = sensitivity(function, *read).chi
        square, phi = float(function.values(*read)[1][0]), float(function.slopes(*read)[1][0])
        if not (chi > 0 and square > 0 and phi > 0):
            return math.inf
        total += math.log(chi)
        second = square / phi
    return total
