"""What sorting tells, against numpy's own."""

from __future__ import annotations

import numpy as np
import pytest

from gnelint.theory.sorting import distinct, median, scattered, signs

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


@pytest.mark.parametrize("below", [2, 7, 1000])
def test_scattered_numbers_are_as_if_drawn(below: int) -> None:
    found = scattered(70_000, below)
    assert found.min() == 0
    assert found.max() == below - 1
    counts = np.bincount(found, minlength=below)
    expected = 70_000 / below
    statistic = float(((counts - expected) ** 2).sum() / expected)  # chi-square of below - 1 degrees of freedom
    assert abs(statistic - (below - 1)) < 5 * np.sqrt(2 * (below - 1))
    assert abs(float(np.corrcoef(found[1:], found[:-1])[0, 1])) < 5 / np.sqrt(70_000)
    assert scattered(10, below).tolist() == found[:10].tolist()


def test_signs_are_as_many_of_one_as_of_the_other() -> None:
    found = signs(8, 4096)
    assert set(found.reshape(-1).tolist()) == {-1.0, 1.0}
    assert float(np.abs(found @ found.T / 4096 - np.eye(8)).max()) < 5 / 64
