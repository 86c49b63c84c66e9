"""How entries of one channel at different indices of an axis are correlated, by their distance.

`position_covariance` is one covariance for all pairs of a cell. A recurrent layer correlates neighbours and
forgets what is far away, and a second one above it adds up neighbours: there the distance matters (theory 9.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gnelint.records import dataclass


@dataclass(frozen=True)
class Autocorrelation:
    """Correlations by distance, averaged over channels with their energy.

    Attributes:
        axis: along which.
        near: correlation of entries 1, 2, ... indices apart.
        far: of those that are further apart than `near` reaches.
    """

    axis: int
    near: np.ndarray
    far: float = 0.0

    def reaching(self, distance: int) -> np.ndarray:
        """Correlations at the distances 1 to `distance`."""
        missing = max(distance - self.near.size, 0)
        return np.concatenate([self.near[:distance], np.full(missing, self.far)])

    def within(self, length: int) -> float:
        """Average over all pairs of different entries of a run."""
        if length < 2:
            return 0.0
        reach = min(self.near.size, length - 1)
        pairs = length - np.arange(1, reach + 1)
        total = float((pairs * (self.near[:reach] - self.far)).sum())
        return total / (0.5 * length * (length - 1)) + self.far

    def coherence(self, amplitude: np.ndarray) -> float:
        """The energy of the sum of entries with these amplitudes, by index, over the sum of their energies."""
        own = float((amplitude**2).sum())
        reach = min(self.near.size, amplitude.size - 1)
        pairs = np.array([float(amplitude[:-distance] @ amplitude[distance:]) for distance in range(1, reach + 1)])
        beyond = (float(amplitude.sum()) ** 2 - own) / 2.0 - float(pairs.sum())
        together = float(pairs @ self.near[:reach]) + self.far * max(beyond, 0.0)
        return max(1.0 + 2.0 * together / own, 0.0) if own > 0 else 1.0

    def on(self, axis: int) -> Autocorrelation:
        """The same along another axis."""
        return replace(self, axis=axis)


def autocorrelation_unless_along(autocorrelation: Autocorrelation | None, *axes: int) -> Autocorrelation | None:
    """What an operation that mixes the entries along these axes leaves of it."""
    return None if autocorrelation is None or autocorrelation.axis in axes else autocorrelation


def mixed_autocorrelation(parts: Sequence[tuple[float, Autocorrelation | None]]) -> Autocorrelation | None:
    """Of a sum of uncorrelated parts or of parts side by side, each given with its energy; None if none has any."""
    known = [autocorrelation for _, autocorrelation in parts if autocorrelation is not None]
    total = sum(energy for energy, _ in parts)
    if not known or total <= 0 or any(autocorrelation.axis != known[0].axis for autocorrelation in known):
        return None
    reach = max(autocorrelation.near.size for autocorrelation in known)
    near, far = np.zeros(reach), 0.0
    for energy, autocorrelation in parts:
        if autocorrelation is not None:
            near += energy / total * autocorrelation.reaching(reach)
            far += energy / total * autocorrelation.far
    return Autocorrelation(known[0].axis, near, far)
