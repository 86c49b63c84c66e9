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
