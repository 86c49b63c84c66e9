"""How far one draw of the weights lies from the average over draws (theory 10.1).

phi(J J^T) is an average over the directions of a gradient and over initialisations; a network has one draw of weights,
and its gradients few directions. With g_i the gradients of all samples (and positions) at a value of n features,

    r = sum_ij <g_i, g_j>^2 / (sum_i |g_i|^2)^2    the coherence: 1 over the number of directions

a weight of `fan` independent entries behind each direction changes the squared norm by a factor of relative variance
2 r / fan, and an activation of relative spectral variance c by one of (3 / samples + 2 rho k) c / n: entries of one
sample are a Gaussian's, whose squares scatter by 3, and as far as the samples' masks are alike (rho) the directions
that they share (k = r - 1 / samples) scatter as one. For one sample and ReLU both together are the 5 / n of arXiv
1812.05994. What all directions of the value have in common is no fluctuation: the prediction reads it from the
weights.

Steps are independent: the variances of the logarithms add up. Variances here are of log2, in bits squared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gnelint.records import dataclass
from gnelint.theory.gaussian.sensitivity import ScalarMap

BITS_SQUARED = 1.0 / math.log(2.0) ** 2
"""Turns a small relative variance into a variance of log2."""

_MOST = 3.0
"""Largest c that is believed: beyond it a few entries carry everything, and log2 no longer follows the variance."""
_WIDEST = 16.0
"""Bits by which a second moment is moved at most: functions are asked for averages there."""


def weight_finite_width_variance(coherence: float, fan: float) -> float:
    """Of a linear map whose `fan` independent weights each carry a feature of a gradient on."""
    return 2.0 * coherence / max(fan, 1.0) * BITS_SQUARED


def mask_finite_width_variance(
    relative_variance: float, features: int, samples: float, alike: float, excess_coherence: float
) -> float:
    """Of an activation.

    Args:
        relative_variance: c, the variance of its spectrum over phi^2.
        features: n.
        samples: over how many gradients of independent directions the norm is taken.
        alike: rho, how much the masks of two samples agree beyond chance, 0 to 1.
        excess_coherence: k, the excess of the coherence over 1 / samples.
    """
    scatter = 3.0 / max(samples, 1.0) + 2.0 * alike * excess_coherence
    return min(relative_variance, _MOST) / max(features, 1) * scatter * BITS_SQUARED


@dataclass(frozen=True)
class Shift:
    """What an error of the second moment that an activation reads does, in bits.

    Attributes:
        second: error of the second moment that it hands on.
        slope: error of phi.
    """

    second: float
    slope: float


def shifted_scale(function: ScalarMap, mean: np.ndarray, variance: np.ndarray, share: np.ndarray, bits: float) -> Shift:
    """The larger of the changes when the second moment is 2^bits times as large, or as small.

    Not linear in `bits`: an activation that is linear at either end forgives large errors.

    Args:
        function: the activation.
        mean, variance: of what it reads, for each kind of sample.
        share: of the samples that are of each kind.
        bits: the error.
    """
    if bits <= 0.0 or not (variance > 0.0).any():
        return Shift(0.0, 0.0)
    scales = [2.0**log_scale for log_scale in (-min(bits, _WIDEST), 0.0, min(bits, _WIDEST))]
    read = (
        np.concatenate([np.sqrt(scale) * mean for scale in scales]),
        np.concatenate([scale * variance for scale in scales]),
    )
    seconds, slopes = function.values(*read)[1], function.slopes(*read)[1]
    return Shift(_change(_averages(seconds, share)), _change(_averages(slopes, share)))


def _averages(array: np.ndarray, share: np.ndarray) -> list[float]:
    """At each scale, over all kinds of samples."""
    by_kind = array.reshape(-1, len(share), array.size // max(len(array), 1)).mean(axis=2)
    return [float(share @ row) for row in by_kind]


def _change(averages: Sequence[float]) -> float:
    if not all(0.0 < average < math.inf for average in averages):
        return 0.0
    low, centre, high = (math.log2(average) for average in averages)
    return max(abs(low - centre), abs(high - centre))
