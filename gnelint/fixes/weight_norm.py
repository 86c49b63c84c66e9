"""The gain of weight-normalised and weight-standardised layers."""

from __future__ import annotations

from gnelint.fixes.base import fix
from gnelint.fixes.gain import Gain


@fix("weight_norm")
class WeightNorm(Gain):
    """w = g v / ||v||: g -> g / sqrt(phi(w) phi(act)), and likewise the gain of a weight standardisation.

    w is proportional to g and does not depend on the length of v, so g is the tensor that `scalable` finds.

    Preconditions: those of `gain`. A weight that is standardised without a gain has nothing to scale.

    Source: arXiv 1602.07868; arXiv 2101.08692.
    """
