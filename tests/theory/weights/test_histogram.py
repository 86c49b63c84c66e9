"""Histograms of weight tensors: all entries are counted, and nothing is drawn of what has no numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gnelint.ir.graph import Parameter
from gnelint.theory.weights.histogram import BINS, histogram


def parameter(array: np.ndarray) -> Parameter:
    return Parameter("w", array.shape, str(array.dtype), lambda: array)


def test_every_finite_entry_is_counted_once() -> None:
    array = np.array([[-1.0, 0.0, 1.0], [np.nan, np.inf, 0.999]], np.float32)
    found = histogram(parameter(array))
    assert found is not None
    assert (found.low, found.high, len(found.counts)) == (-1.0, 1.0, BINS)
    assert sum(found.counts) == 4
    assert (found.counts[0], found.counts[BINS // 2], found.counts[-1]) == (1, 1, 2)


def test_a_large_tensor_is_sampled_evenly() -> None:
    found = histogram(parameter(np.linspace(0, 1, 1_000_000, dtype=np.float32)))
    assert found is not None
    assert 1 << 16 <= sum(found.counts) < 1 << 17
    assert max(found.counts) - min(found.counts) <= 2


@pytest.mark.parametrize("array", [np.zeros((3, 3)), np.empty((0, 3)), np.array([[np.nan, np.inf]]), np.array([1.0])])
def test_one_value_or_none_is_no_histogram(array: np.ndarray) -> None:
    assert histogram(parameter(array)) is None


def test_placeholders_have_no_numbers() -> None:
    assert histogram(replace(parameter(np.arange(9.0)), provenance="placeholder")) is None
