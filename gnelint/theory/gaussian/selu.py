"""SeLU coefficients for a network's depth, in closed form (theory 6.7; arXiv 2001.00254)."""

from __future__ import annotations

import math

from gnelint.records import dataclass


def _cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@dataclass(frozen=True)
class SeluCoefficients:
    """f(x) = lambda x for x > 0, lambda alpha (e^x - 1) below.

    Attributes:
        scale: lambda.
        alpha: alpha.
        slope: derivative of the second-moment map at its fixed point; the fixed point attracts if it is below 1.
    """

    scale: float
    alpha: float
    slope: float


def solve_selu(epsilon: float, gain: float = 1.0, second_moment: float = 1.0) -> SeluCoefficients:
    """Coefficients for which a layer keeps the second moment q and multiplies the gradient by 1 + epsilon.

        v = gain^2 q,  A = e^{2v} Phi(-2 sqrt v),  C = e^{v/2} Phi(-sqrt v),  B = A - 2C + 1/2
        b = lambda^2 alpha^2 = q epsilon / (v A - B),  lambda^2 = 2 ((1 + epsilon) / gain^2 - b A),
        alpha = sqrt(b) / lambda

    Args:
        epsilon: growth of the squared gradient norm per layer, about 1 / depth; 0.07157 gives the standard SELU.
        gain: gamma_0, the weights' standard deviation times sqrt(fan_in).
        second_moment: q, of a layer's input.

    Raises:
        ValueError: no real coefficients exist for these numbers.
    """
    v = gain**2 * second_moment
    a = math.exp(2 * v) * _cdf(-2 * math.sqrt(v))
    c = math.exp(v / 2) * _cdf(-math.sqrt(v))
    b = second_moment * epsilon / (v * a - (a - 2 * c + 0.5))
    squared = 2 * ((1 + epsilon) / gain**2 - b * a)
    if b < 0 or squared <= 0:
        raise ValueError(
            f"no SeLU coefficients for epsilon {epsilon:g}, gain {gain:g}, second moment {second_moment:g}"
        )
    scale = math.sqrt(squared)
    return SeluCoefficients(scale, math.sqrt(b) / scale, 1 + epsilon + gain**2 * b * (a - c))
