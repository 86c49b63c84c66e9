"""Statistics of weight tensors against numpy, in every type that files hold."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gnelint.ir.graph import Parameter
from gnelint.theory.weights import passes
from gnelint.theory.weights.statistics import chunks, distribution, looks_initialised, mostly_zero, weight_statistics

DTYPES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn"]


def stored(array: np.ndarray) -> Parameter:
    return Parameter("w", array.shape, str(array.dtype), lambda: array)


def typed(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(getattr(ml_dtypes, dtype, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_against_numpy(dtype: str, mean: float) -> None:
    array = typed(np.random.default_rng(0).normal(mean, 0.3, (40, 50)), dtype)
    found = weight_statistics(stored(array))
    wide = array.astype(np.float64)
    assert found.size == 2000
    assert found.mean == pytest.approx(wide.mean(), rel=1e-6, abs=1e-8)
    assert found.second_moment == pytest.approx((wide**2).mean(), rel=1e-6)
    assert found.std == pytest.approx(wide.std(), rel=1e-6)
    assert found.kurtosis == pytest.approx(((wide - wide.mean()) ** 4).mean() / wide.var() ** 2, rel=1e-5)
    # extremes are taken of the centred float32 entries
    assert (found.minimum, found.maximum) == pytest.approx((wide.min(), wide.max()), rel=1e-6)
    assert found.finite
    assert not found.is_constant


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 17])
def test_chunks_cover_every_entry_once(size: int) -> None:
    parts = list(chunks(stored(np.arange(float(size))), 8))
    assert [len(part) for part in parts] == [8] * (size // 8) + ([size % 8] if size % 8 else [])
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(float(size)))


def test_several_chunks_are_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(1).normal(3.0, 0.1, 5001).astype(np.float32)
    array[4000:] += 2.0  # far from the first chunk's mean
    whole = weight_statistics(stored(array))
    monkeypatch.setattr(passes, "CHUNK_ENTRIES", 512)
    pieces = weight_statistics(stored(array))
    assert pieces.mean == pytest.approx(whole.mean, rel=1e-6)
    assert pieces.second_moment == pytest.approx(whole.second_moment, rel=1e-6)  # float32 sums
    assert pieces.kurtosis == pytest.approx(whole.kurtosis, rel=1e-4)


def test_a_small_spread_about_a_large_mean_keeps_its_digits() -> None:
    array = np.random.default_rng(2).normal(1000.0, 0.01, 4096)
    assert weight_statistics(stored(array)).kurtosis == pytest.approx(3.0, abs=0.4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_entries_that_are_not_finite_are_left_out_and_said(bad: float) -> None:
    array = np.array([1.0, bad, 3.0], np.float32)
    found = weight_statistics(stored(array))
    assert not found.finite
    assert (found.size, found.mean, found.maximum) == (2, 2.0, 3.0)
    nothing = weight_statistics(stored(np.array([bad])))
    assert (nothing.size, nothing.finite) == (0, False)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("shape", [(13, 16), (64, 8), (8, 4, 3, 3)])
def test_entries_that_are_not_finite_need_no_warning(bad: float, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    array[0] = bad
    parameter = Parameter("w", shape, "float32", lambda: array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert distribution(parameter, weight_statistics(parameter)) != "orthogonal"


def test_an_overflowing_half_is_not_taken_as_infinite() -> None:
    array = np.full(4096, 60000.0, np.float16)
    found = weight_statistics(stored(array))
    assert found.finite
    assert found.mean == pytest.approx(60000.0, rel=1e-3)


def test_constant_and_empty_tensors() -> None:
    constant = weight_statistics(stored(np.full((3, 3), 0.7, np.float32)))
    assert constant.is_constant
    assert constant.variance == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(constant.kurtosis)
    empty = weight_statistics(stored(np.zeros((0, 4), np.float32)))
    assert (empty.size, empty.mean, empty.second_moment) == (0, 0.0, 0.0)
    assert looks_initialised(constant)
    assert looks_initialised(empty)


def test_a_memory_mapped_file_is_read_as_it_is(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(100, 30)).astype(np.float32)
    path = tmp_path / "w.bin"
    array.tofile(path)
    parameter = Parameter(
        "w", (30, 100), "float32", lambda: np.memmap(path, np.float32, "r", shape=(100, 30)), permutation=(1, 0)
    )
    assert weight_statistics(parameter).second_moment == pytest.approx(
        float((array.astype(float) ** 2).mean()), rel=1e-6
    )


@pytest.mark.parametrize("size", [64, 4096, 100_000])
def test_fresh_draws_look_initialised(size: int) -> None:
    rng = np.random.default_rng(size)
    clipped = np.clip(rng.normal(size=size), -2, 2)
    for draw in (rng.normal(size=size), rng.uniform(-1, 1, size), clipped, rng.choice([-1.0, 1.0], size)):
        assert looks_initialised(weight_statistics(stored(draw)))


def test_heavy_tails_look_trained() -> None:
    rng = np.random.default_rng(0)
    assert not looks_initialised(weight_statistics(stored(rng.standard_t(4, 50_000))))
    assert not looks_initialised(weight_statistics(stored(rng.laplace(size=50_000))))


def test_mostly_zero() -> None:
    delta = np.zeros((64, 64, 3, 3))
    delta[:, :, 1, 1] = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
    assert mostly_zero(stored(delta))
    assert mostly_zero(stored(np.eye(200)))
    assert not mostly_zero(stored(np.random.default_rng(0).normal(size=(64, 64))))
    assert not mostly_zero(stored(np.zeros(0)))


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (1, 5), (3, 3, 3)])
@pytest.mark.parametrize("channels", [(16, 16), (24, 16), (16, 24)])
def test_delta_orthogonal(kernel: tuple[int, ...], channels: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    tall = np.linalg.qr(rng.normal(size=(max(channels), min(channels))))[0]
    matrix = tall if channels[0] >= channels[1] else tall.T
    delta = np.zeros((*channels, *kernel))
    centre = (slice(None), slice(None), *(size // 2 for size in kernel))
    delta[centre] = 0.7 * matrix
    assert named(delta) == "delta-orthogonal"
    delta[centre] = rng.normal(size=channels)
    assert named(delta) == "sparse"
    delta[(slice(None), slice(None), *(0 for _ in kernel))] = matrix
    assert named(delta) != "delta-orthogonal"


def named(array: np.ndarray) -> str:
    parameter = stored(array)
    return distribution(parameter, weight_statistics(parameter))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mask_of_the_lowest_float_is_finite(dtype: type[np.floating]) -> None:
    mask = np.where(np.tri(8) > 0, 0.0, np.finfo(dtype).min).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = weight_statistics(stored(mask))
    assert found.finite
    assert found.maximum == 0.0
