"""What sorting tells, against numpy's own."""

from __future__ import annotations

import numpy as np
import pytest

from gnelint.theory.sorting import distinct, median

ARRAYS = (
    np.array([3.0]),
    np.array([2.0, 1.0]),
    np.array([[1.0, 5.0], [5.0, -0.0]]),
    np.array([1, 1, 2, 7]),
    np.random.default_rng(0).standard_normal(101).astype(np.float32),
    np.array([np.inf, np.inf, 1.0, np.inf]),
)


@pytest.mark.parametrize("values", ARRAYS, ids=range(len(ARRAYS)))
def test_as_numpy_says(values: np.ndarray) -> None:
    assert distinct(values).tolist() == np.unique(values).tolist()
    assert median(values) == pytest.approx(float(np.median(values)), rel=1e-7)
