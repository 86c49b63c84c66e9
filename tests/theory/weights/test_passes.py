"""The one pass over a tensor against numpy, in the layouts that files hold, and that it is one."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from gnelint.ir.graph import Parameter
from gnelint.theory.weights import passes
from gnelint.theory.weights.passes import passed, row_sums
from gnelint.theory.weights.rows import row_statistics
from gnelint.theory.weights.statistics import weight_statistics

SHAPES = [(40, 50), (12, 7, 3), (6, 5, 3, 3), (300, 1, 3, 3), (1, 900)]


def stored(array: np.ndarray, permutation: tuple[int, ...] | None = None) -> Parameter:
    shape = array.shape if permutation is None else tuple(array.shape[axis] for axis in permutation)
    return Parameter("w", shape, str(array.dtype), lambda: array, permutation)


def drawn(shape: tuple[int, ...], dtype: type = np.float32, mean: float = 0.0) -> np.ndarray:
    array = np.random.default_rng(0).normal(mean, 0.3, shape)
    array.reshape(-1)[5::11] = 0.0
    array[-1] = 0.25
    return array.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_against_numpy(shape: tuple[int, ...], mean: float, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CHUNK_ENTRIES", 130)  # several chunks
    array = drawn(shape, dtype, mean)
    found = row_sums(stored(array))
    assert found is not None
    wide = array.astype(np.float64).reshape(shape[0], shape[1], -1)
    np.testing.assert_allclose(found.energy, (wide**2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.mean, wide.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    assert found.zero == np.count_nonzero(wide == 0)
    assert found.constant == 1


def test_units_along_the_second_axis_of_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CHUNK_ENTRIES", 130)
    array = drawn((40, 50)).T.copy()
    along, across = row_sums(stored(array.T.copy())), row_sums(stored(array, (1, 0)))
    assert along is not None
    assert across is not None
    np.testing.assert_allclose(across.energy, along.energy, rtol=1e-5)
    np.testing.assert_allclose(across.mean, along.mean, rtol=1e-5, atol=1e-7)
    assert (across.zero, across.constant) == (along.zero, along.constant)


def test_numbers_too_small_for_a_square_are_no_zeros() -> None:
    found = row_sums(stored(np.array([[1e-30, 0.0], [1.0, -1e-25]], np.float32)))
    assert found is not None
    assert found.zero == 1


@pytest.mark.parametrize("extreme", [np.inf, np.nan, 1e30])
def test_nothing_is_said_of_rows_with_extreme_numbers(extreme: float) -> None:
    array = drawn((40, 50), np.float64)
    array[3, 4] = extreme
    assert row_sums(stored(array)) is None
    assert passed(stored(array)).finite == np.isfinite(extreme)


def test_other_axes_and_layouts_are_left_to_other_passes() -> None:
    weight = stored(drawn((6, 5, 3, 3)))
    assert row_sums(weight, 1) is None
    assert row_sums(weight.permuted((1, 0, 2, 3))) is None
    assert row_statistics(weight, axis=1) is not None


def test_all_statistics_are_of_one_pass() -> None:
    array, reads = drawn((64, 32, 3, 3)), []

    def load() -> np.ndarray:
        reads.append(array)
        return array

    weight = Parameter("w", array.shape, "float32", load)
    weight_statistics(weight)
    once = len(reads)
    weight_statistics(weight)
    assert row_sums(weight) is passed(weight).rows
    assert len(reads) == once == 1


def test_what_is_known_stays_with_its_numbers() -> None:
    weight = stored(drawn((40, 50)))
    before = weight_statistics(weight)
    other = weight.with_stored({"w": 2.0 * drawn((40, 50))})
    assert weight_statistics(other).second_moment == pytest.approx(4.0 * before.second_moment)
