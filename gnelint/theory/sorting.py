"""What sorting tells of an array. numpy's own `unique` and `quantile` load its masked arrays, which nothing here is."""

from __future__ import annotations

import numpy as np


def distinct(values: np.ndarray) -> np.ndarray:
    """The different entries, in order."""
    ordered = np.sort(values, axis=None)
    first = np.ones(ordered.shape, bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def median(values: np.ndarray) -> float:
    """The middle entry, or half way between the two in the middle; all are numbers, and there is one at least."""
    middle, odd = divmod(values.size, 2)
    if odd:
        return float(np.partition(values, middle, axis=None)[middle])
    low, high = np.partition(values, (middle - 1, middle), axis=None)[middle - 1 : middle + 1]
    return 0.5 * float(low + high)


def scattered(count: int, below: int, seed: int = 0) -> np.ndarray:
    """So many whole numbers from 0 on and under a bound, as if drawn, the same every time.

    The mixing function of SplitMix64 (Steele, Lea and Flood, 2014), which numpy computes in less time than its own
    generators take to load.
    """
    mixed = (np.arange(count, dtype=np.uint64) + np.uint64(1 + (seed << 32))) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(below)).astype(np.intp)


def signs(*shape: int) -> np.ndarray:
    """-1 and 1 as if drawn, the same every time, in float64."""
    return (2.0 * scattered(int(np.prod(shape)), 2) - 1.0).reshape(shape)
