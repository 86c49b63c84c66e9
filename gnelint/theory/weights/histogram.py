"""How the entries of a weight tensor are distributed, in few bins: for people to look at."""

from __future__ import annotations

import numpy as np

from gnelint.ir.graph import Parameter
from gnelint.ir.mapped import sampled
from gnelint.records import dataclass

BINS = 24
_SAMPLE = 1 << 16
"""Entries that are looked at, of any number: a picture of 24 bars shows no more."""


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of equal width between the extremes of what was looked at."""

    low: float
    high: float
    counts: tuple[int, ...]


def histogram(parameter: Parameter) -> Histogram | None:
    """That of a sample of a tensor's entries, evenly spread over it; None where it has no numbers, or but one."""
    if parameter.law is not None or parameter.provenance == "placeholder":
        return None
    stored = parameter.load().reshape(-1)
    sample = sampled(stored, max(1, stored.size // _SAMPLE)).astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return None
    low, high = float(sample.min()), float(sample.max())
    if not 0 < high - low < np.inf:
        return None
    counts, _ = np.histogram(sample, bins=BINS, range=(low, high))
    return Histogram(low, high, tuple(counts.tolist()))
