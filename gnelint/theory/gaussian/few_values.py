"""What a normalisation by the variance of few Gaussian values does to a gradient.

The variance s^2 = q T / k of a set with k degrees of freedom follows the chi-squared law of T. On average over the sets

    E 1 / (s^2 + eps)            of what is neither the set's mean nor along the values
    E eps^2 / (s^2 + eps)^3      of what is along them: all but eps / (s^2 + eps) of it is taken out

For many values that is k / ((k - 2) q) and next to nothing. Of two values nothing is left but what lies along them, and
of three both are carried by the few sets with next to no variance. Source: theory 3.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LOG = np.arange(-46.0, 6.0, 0.1)
"""log T: the integrands are analytic in it and fall exponentially on both sides."""
_LEAST = 1e-12
"""Epsilon without which two values have no such average."""


def inverse_moments(freedom: Array, epsilon: Array) -> tuple[Array, Array]:
    """E q / (s^2 + eps) and E q eps^2 / (s^2 + eps)^3.

    Args:
        freedom: k, of each set.
        epsilon: eps / q, likewise, above 0.
    """
    k, eps = (np.asarray(a, dtype=np.float64)[..., None] for a in np.broadcast_arrays(freedom, epsilon))
    density = k / 2 * _LOG - np.exp(_LOG) / 2
    density = np.exp(density - density.max(-1, keepdims=True))
    density = density / density.sum(-1, keepdims=True)
    below = np.exp(_LOG) / k + np.maximum(eps, _LEAST)
    return (density / below).sum(-1), (density * eps**2 / below**3).sum(-1)
