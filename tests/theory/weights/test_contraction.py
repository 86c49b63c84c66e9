"""Taps and weight contractions against dense matrices."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnelint.theory.fields.taps import TapAxis, marginals, outer
from gnelint.theory.weights import contraction
from gnelint.theory.weights.contraction import (
    as_float,
    columns_times,
    frobenius2,
    is_nonnegative,
    is_positive,
    is_symmetric,
    is_zero,
    kernel_times,
    kernel_transposed_times,
    row_energies,
    rows_times,
    squared_gram,
    zeros,
)

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_half_precision_is_read_as_it_is() -> None:
    finite = HALVES[np.isfinite(HALVES)]
    found = as_float(finite)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), finite.astype(np.float32).view(np.uint32))
    np.testing.assert_array_equal(as_float(HALVES), HALVES.astype(np.float32))
    square = finite[: 251 * 251].reshape(251, 251).T[::3]
    np.testing.assert_array_equal(as_float(square), square.astype(np.float32))


@pytest.mark.parametrize("shape", [(300, 300), (300, 299), (7, 7), (4, 4, 4)])
def test_what_is_asked_of_signs_zeros_and_symmetry(shape: tuple[int, ...]) -> None:
    drawn = np.random.default_rng(0).integers(0, 3, shape).astype(np.float16)
    for array in (drawn, drawn.T, -drawn, np.where(drawn == 2, np.nan, drawn)):
        assert is_nonnegative(array) == bool(np.all(array >= 0))
        assert zeros(array) == np.count_nonzero(array == 0)
    if len(shape) == 2 and shape[0] == shape[1]:
        both = drawn + drawn.T
        assert is_symmetric(both)
        both[-1, 0] += 1
        assert not is_symmetric(both)
    assert not is_symmetric(drawn)


AXES = st.builds(
    TapAxis,
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    taps=st.integers(1, 5),
    stride=st.integers(1, 4),
    pad=st.integers(0, 5),
    dilation=st.integers(1, 3),
)


def dense(axis: TapAxis) -> np.ndarray:
    """(taps, outputs, inputs): 1 where the tap reads that input at that output, by the definition."""
    found = np.zeros((axis.taps, axis.outputs, axis.inputs))
    for t in range(axis.taps):
        for p in range(axis.outputs):
            x = p * axis.stride + t * axis.dilation - axis.pad
            if 0 <= x < axis.inputs:
                found[t, p, x] = 1.0
    return found


@settings(max_examples=150, deadline=None, derandomize=True)
@given(AXES)
def test_taps_that_meet_are_counted_as_in_the_grids(axis: TapAxis) -> None:
    small, large = axis.meetings
    seen, sent = axis.gather(None), axis.scatter(None)
    np.testing.assert_array_equal(small, seen @ seen.T)
    np.testing.assert_array_equal(large, sent @ sent.T)


@given(AXES)
def test_taps_are_those_of_the_definition(axis: TapAxis) -> None:
    V = dense(axis)
    rng = np.random.default_rng(0)
    before, behind = rng.random(axis.inputs), rng.random(axis.outputs)
    np.testing.assert_array_equal(axis.counts, V.sum(axis=(1, 2)))
    np.testing.assert_allclose(axis.gather(None), V.sum(axis=2))
    np.testing.assert_allclose(axis.scatter(None), V.sum(axis=1))
    np.testing.assert_allclose(axis.gather(before), V @ before)
    np.testing.assert_allclose(axis.scatter(behind), np.einsum("tpx,p->tx", V, behind))


def test_outer_and_marginals() -> None:
    rng = np.random.default_rng(0)
    lines = [rng.random(2), rng.random(3), rng.random(4)]
    np.testing.assert_allclose(outer(lines), np.einsum("i,j,k->ijk", *lines).reshape(-1))
    weights = rng.random(24)
    found = marginals(weights, (2, 3, 4), lines)
    grid = weights.reshape(2, 3, 4)
    np.testing.assert_allclose(found[1], np.einsum("ijk,i,k->j", grid, lines[0], lines[2]))
    assert outer([]).tolist() == [1.0]


MATRIX = np.random.default_rng(0).normal(size=(30, 20))
DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.fixture(params=[1 << 20, 64])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one slab, and a few rows a slab."""
    monkeypatch.setattr(contraction, "CHUNK_ENTRIES", request.param)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_products_with_a_matrix(dtype: str, transposed: bool, squared: bool) -> None:
    stored = MATRIX.astype(getattr(ml_dtypes, dtype, dtype))
    matrix = stored.T if transposed else stored
    wide = matrix.astype(np.float64)
    wide = wide**2 if squared else wide
    rng = np.random.default_rng(1)
    right, left = rng.normal(size=(2, matrix.shape[1])), rng.normal(size=(2, matrix.shape[0]))
    tolerance = 1e-12 if dtype == "float64" else 3e-5  # float32 products of 30 terms of either sign
    np.testing.assert_allclose(rows_times(matrix, right, squared), right @ wide.T, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(columns_times(matrix, left, squared), left @ wide, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(frobenius2(matrix), (matrix.astype(np.float64) ** 2).sum(), rtol=1e-6)


def test_vectors_outside_of_the_range_of_a_float32() -> None:
    matrix = MATRIX.astype(np.float32)
    for scale in (1e-80, 1e80):
        found = rows_times(matrix, np.full((1, 20), scale), True)
        np.testing.assert_allclose(found[0], (matrix.astype(float) ** 2).sum(1) * scale, rtol=1e-5)
    assert not rows_times(matrix, np.zeros((1, 20)), True).any()


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("taps", [1, 5])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_products_with_a_kernel(groups: int, taps: int) -> None:
    rng = np.random.default_rng(2)
    out, inner = 8, 3
    kernel = rng.normal(size=(out, inner, taps))
    whole = np.zeros((out, groups * inner, taps))
    for o in range(out):
        group = o // (out // groups)
        whole[o, group * inner : (group + 1) * inner] = kernel[o]
    vectors, back = rng.normal(size=(2, groups * inner)), rng.random((2, out))
    plain, squared = kernel_times(kernel, groups, vectors[:1], vectors)
    np.testing.assert_allclose(plain, np.einsum("oit,ki->kot", whole, vectors[:1]), atol=1e-12)
    np.testing.assert_allclose(squared, np.einsum("oit,ki->kot", whole**2, vectors), atol=1e-12)
    np.testing.assert_allclose(
        kernel_transposed_times(kernel, groups, back), np.einsum("oit,ko->kit", whole**2, back), atol=1e-12
    )
    np.testing.assert_allclose(row_energies(kernel), (kernel**2).sum(axis=1))


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (1, 7), (256, 300)])
def test_squared_gram_is_exact_for_small_sides(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    assert squared_gram(matrix) == pytest.approx(float(((matrix @ matrix.T) ** 2).sum()), rel=1e-10)


def test_squared_gram_by_probes() -> None:
    """Eight probes at 512 x 512: a relative standard deviation of 3 %, four of them allowed; and it repeats."""
    matrix = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    wide = matrix.astype(np.float64)
    true = float(((wide @ wide.T) ** 2).sum())
    assert squared_gram(matrix) == pytest.approx(true, rel=0.12)
    assert squared_gram(matrix) == squared_gram(matrix)


@pytest.mark.parametrize(("groups", "taps"), [(1, 9), (1, 1), (2, 3)])
def test_sums_of_taps_are_squared_beside_the_taps(groups: int, taps: int) -> None:
    random = np.random.default_rng(0)
    kernel, forms = random.standard_normal((6, 4 // groups, taps)), random.standard_normal((taps, 2))
    wide = np.concatenate([kernel, kernel @ forms], axis=2)
    forward, back = random.random((2, 4)), random.random((2, 6))
    squared = kernel_times(kernel, groups, forward, forward, forms)[1]
    np.testing.assert_allclose(squared, kernel_times(wide, groups, forward, forward)[1], rtol=1e-10)
    pulled = kernel_transposed_times(kernel, groups, back, forms)
    np.testing.assert_allclose(pulled, kernel_transposed_times(wide, groups, back), rtol=1e-10)
    assert kernel_transposed_times(kernel, groups, 0.0 * back, forms).shape == pulled.shape


@pytest.mark.parametrize("turned", [False, True])
def test_signs_and_zeros_are_those_of_the_whole(turned: bool) -> None:
    matrix = np.abs(np.random.default_rng(0).standard_normal((400, 300))) + 0.1
    matrix = matrix.T.copy().T if turned else matrix
    assert is_positive(matrix)
    assert not is_zero(matrix)
    assert is_zero(0 * matrix)
    for place, number in (((399, 299), -1.0), ((7, slice(None)), 0.0)):
        changed = matrix.copy(order="K")
        changed[place] = number
        assert not is_positive(changed)
    changed = 0 * matrix
    changed[399, 299] = 1.0
    assert not is_zero(changed)
