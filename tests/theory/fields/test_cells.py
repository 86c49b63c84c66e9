"""Cells against dense arrays: whatever is done on cells is what numpy does entry by entry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnelint.components.combine.side_by_side import joined_axis
from gnelint.theory.fields.cells import (
    SMALL,
    Axes,
    Axis,
    average,
    counts,
    is_zero,
    matching_groups,
    pooled,
    refine,
    resample,
    squeeze_constant,
    times,
    total_average,
)
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments

settings.register_profile("cells", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("cells")


@st.composite
def an_axis(draw: st.DrawFn, size: int) -> Axis:
    kind = draw(st.sampled_from(["pooled", "full", "cut"]))
    if kind == "full":
        return Axis.full(size)
    if kind == "pooled" or size < 2:
        return Axis(size)
    cuts = draw(st.sets(st.integers(1, size - 1), max_size=3))
    return Axis(size, tuple(sorted(cuts)))


@st.composite
def fields(draw: st.DrawFn, rank: int = 3) -> tuple[Axes, np.ndarray]:
    axes = tuple(draw(an_axis(draw(st.integers(1, 6)))) for _ in range(rank))
    seed = draw(st.integers(0, 1000))
    return axes, np.random.default_rng(seed).normal(size=counts(axes))


def full(axes: Axes) -> Axes:
    return tuple(Axis.full(axis.size) for axis in axes)


def dense(array: np.ndarray, axes: Axes) -> np.ndarray:
    """By a second route: repeat each cell over its length."""
    for index, axis in enumerate(axes):
        array = np.repeat(array, axis.lengths.astype(int), axis=index)
    return array


@given(fields())
def test_resample_to_every_entry(field: tuple[Axes, np.ndarray]) -> None:
    axes, array = field
    np.testing.assert_array_equal(resample(array, axes, full(axes)), dense(array, axes))


@given(st.data())
def test_refinement_is_fine_enough_for_both(data: st.DataObject) -> None:
    axes, array = data.draw(fields())
    others = tuple(data.draw(an_axis(axis.size)) for axis in axes)
    common = refine(axes, others)
    np.testing.assert_array_equal(dense(resample(array, axes, common), common), dense(array, axes))
    assert set().union(*(set(a.starts) for a in common)) >= set().union(*(set(a.starts) for a in others))
    for a, b, c in zip(axes, others, common, strict=True):
        assert set(c.starts) == set(a.starts) | set(b.starts)


@given(fields(), st.integers(0, 2))
def test_average_over_an_axis(field: tuple[Axes, np.ndarray], index: int) -> None:
    axes, array = field
    true = dense(array, axes).mean(axis=index, keepdims=True)
    target = (*axes[:index], Axis(axes[index].size), *axes[index + 1 :])
    found = dense(average(array, axes, index), target)
    np.testing.assert_allclose(found, np.repeat(true, axes[index].size, axis=index), rtol=1e-12, atol=1e-12)
    assert total_average(array, axes) == pytest.approx(float(dense(array, axes).mean()), rel=1e-12, abs=1e-12)


@given(st.data())
def test_average_into_coarser_cells(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 9))
    coarse = data.draw(an_axis(size))
    fine = coarse.refine(data.draw(an_axis(size)))
    array = np.random.default_rng(0).normal(size=fine.count)
    found = average(array, (fine,), 0, coarse)
    entries = dense(array, (fine,))
    for value, start, length in zip(found, coarse.starts, coarse.lengths.astype(int), strict=True):
        assert value == pytest.approx(entries[start : start + length].mean(), rel=1e-12, abs=1e-12)


@given(st.data())
def test_slices(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 9))
    axis = data.draw(an_axis(size))
    start, stop = sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size))))
    step = data.draw(st.integers(1, 3))
    values = np.random.default_rng(0).normal(size=axis.count)
    x = Moments.flat((axis,), values, np.zeros(axis.count))
    y = x.sliced(0, start, stop, step)
    np.testing.assert_array_equal(dense(y.mean, y.axes), dense(values, (axis,))[start:stop:step])
    assert y.axes[0].count <= max(len(range(start, stop, step)), 1)


@given(fields())
def test_squeezing_what_is_constant(field: tuple[Axes, np.ndarray]) -> None:
    axes, array = field
    flat = np.broadcast_to(array.mean(axis=1, keepdims=True), array.shape)
    squeezed, (kept,) = squeeze_constant(axes, [flat])
    assert squeezed[1].is_pooled
    np.testing.assert_array_equal(dense(kept, squeezed), dense(flat, axes))


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(SHAPES, st.randoms(use_true_random=False))
def test_groups_of_a_reshape_have_equal_sizes(shape: list[int], random: object) -> None:
    factors = [f for size in shape for f in ([2, 2] if size == 4 else [size])]
    new, row = [], 1
    for factor in factors:
        row *= factor
        if random.random() < 0.5:  # type: ignore[attr-defined]
            new.append(row)
            row = 1
    new.append(row)
    groups = matching_groups(shape, new)
    assert [i for old, _ in groups for i in old] == list(range(len(shape)))
    assert [j for _, behind in groups for j in behind] == list(range(len(new)))
    for old, behind in groups:
        assert math.prod(shape[i] for i in old) == math.prod(new[j] for j in behind)


def test_shapes_that_do_not_match_have_no_groups() -> None:
    assert matching_groups((2, 3), (5,)) == []
    assert matching_groups((0, 3), (0,)) == []
    assert [(list(a), list(b)) for a, b in matching_groups((2, 3, 4), (6, 4))] == [([0, 1], [0]), ([2], [1])]


@given(st.data())
def test_reshaped_moments_are_reshaped_entries(data: st.DataObject) -> None:
    axes, array = data.draw(fields())
    shape = [axis.size for axis in axes]
    new = data.draw(
        st.sampled_from(
            [
                [shape[0] * shape[1], shape[2]],
                [shape[0], shape[1] * shape[2]],
                [math.prod(shape)],
                [shape[0], 1, shape[1], shape[2]],
                list(shape),
            ]
        )
    )
    x = Moments.flat(axes, array, np.abs(array))
    y = x.reshaped(new)
    np.testing.assert_array_equal(dense(y.mean, y.axes), dense(array, axes).reshape(new))
    z = y.reshaped(shape)
    np.testing.assert_array_equal(dense(z.variance, z.axes), dense(np.abs(array), axes))


@given(fields(), st.permutations(range(3)))
def test_permuted(field: tuple[Axes, np.ndarray], order: list[int]) -> None:
    axes, array = field
    y = Gradient.flat(axes, np.abs(array)).permuted(order)
    np.testing.assert_array_equal(dense(y.energy, y.axes), dense(np.abs(array), axes).transpose(order))


@given(st.data())
def test_joined_axes_keep_every_cut(data: st.DataObject) -> None:
    parts = [data.draw(an_axis(data.draw(st.integers(1, 5)))) for _ in range(3)]
    joined = joined_axis(parts)
    offset = 0
    for part in parts:
        assert {offset + int(start) for start in part.starts} <= set(joined.starts.tolist())
        offset += part.size
    assert joined.size == offset


def test_full_axis_of_one_entry_is_pooled() -> None:
    assert Axis.full(1) == Axis(1)
    assert pooled((2, 1)) == (Axis(2), Axis(1))
    assert Axis.full(0).count == 1


@pytest.mark.parametrize("place", [0, 1, SMALL, 2 * SMALL - 1])
def test_one_number_among_many_zeros_is_seen(place: int) -> None:
    array = np.zeros(2 * SMALL)
    assert is_zero(array)
    array[place] = 1e-300
    assert not is_zero(array)


def test_nothing_is_written_for_a_factor_of_one() -> None:
    array = np.random.default_rng(0).standard_normal((2, SMALL))
    assert times(array, np.ones(())) is array
    np.testing.assert_array_equal(times(array, np.full((1, 1), 3.0)), 3.0 * array)
    assert times(array, np.ones((1, 1, 1))).shape == (1, 2, SMALL)
