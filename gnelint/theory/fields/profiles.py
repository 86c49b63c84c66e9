"""Profiles: the relative energy of the indices along a pooled axis, of mean 1, or None where it is flat.

Source: theory 9.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Profiles = tuple[np.ndarray | None, ...]
"""One for each axis."""


def normalised(profile: np.ndarray) -> np.ndarray | None:
    """A profile scaled to mean 1; None if it is flat (to 1e-12) or has no energy at all."""
    mean = float(profile.sum()) / profile.size if profile.size else 0.0
    if mean <= 0 or not math.isfinite(mean):
        return None
    scaled = profile / mean
    if abs(float(scaled[0]) - 1.0) >= 1e-12:  # a border mostly shows at once
        return scaled
    return None if float(np.abs(scaled - 1.0).max()) < 1e-12 else scaled


def amplitude(profiles: Sequence[np.ndarray | None], kept: Sequence[int] = ()) -> float:
    """Average of sqrt(profile) over all axes but the ones kept."""
    factor = 1.0
    for index, profile in enumerate(profiles):
        if profile is not None and index not in kept:
            factor *= float(np.sqrt(profile).sum()) / profile.size
    return factor


def mixed_profile(parts: Sequence[tuple[float, np.ndarray | None]], size: int) -> np.ndarray | None:
    """Profile of a sum of energies, each given as (energy, profile)."""
    if all(profile is None for _, profile in parts):
        return None
    total = sum(energy for energy, _ in parts)
    if total <= 0:
        return None
    mixed = np.zeros(size)
    for energy, profile in parts:
        mixed += energy / total if profile is None else energy / total * profile
    return normalised(mixed)


def refolded(profiles: Sequence[np.ndarray | None], old: Sequence[int], new: Sequence[int]) -> list[np.ndarray | None]:
    """Profiles of pooled axes after a reshape: the outer product, then the marginals."""
    if all(profile is None for profile in profiles):
        return [None] * len(new)
    whole = np.ones(1)
    for profile, size in zip(profiles, old, strict=True):
        whole = np.outer(whole, np.ones(size) if profile is None else profile).reshape(-1)
    folded = whole.reshape(tuple(new))
    marginals: list[np.ndarray | None] = []
    for index, size in enumerate(new):
        others = tuple(k for k in range(len(new)) if k != index)
        marginals.append(normalised(folded.mean(axis=others)) if size > 1 else None)
    return marginals
