"""Each test of a matrix, on draws that it must let pass and on the change that it is there to see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gnelint.theory.weights.draws import (
    Entries,
    chi_square_surprise,
    is_built,
    normal_surprise,
    oddities,
    ratio_bits,
    rounding,
    together,
)

SHAPE = (64, 96)


def bits(array: np.ndarray) -> float:
    """The likelihood ratio of all tests together; 0 without any."""
    found = together(oddities(array, math.prod(array.shape[1:]), Entries.of(array)))
    return 0.0 if found is None else found.bits


def draw(name: str, seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if name == "uniform":
        found = rng.uniform(-1.0, 1.0, shape) / math.sqrt(math.prod(shape[1:]))
    elif name == "truncated":
        found = stats.truncnorm.rvs(-2.0, 2.0, size=shape, random_state=rng)
    elif name == "orthogonal":
        rows, columns = shape[0], math.prod(shape[1:])
        q = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))[0]
        found = (q if rows >= columns else q.T).reshape(shape)
    else:
        found = rng.standard_normal(shape)
    return np.asarray(found, np.float32)


@pytest.mark.parametrize("name", ["uniform", "truncated", "normal", "orthogonal"])
@pytest.mark.parametrize("shape", [(8, 8), SHAPE, (24, 16, 3, 3), (600, 700)])
def test_draws_look_drawn(name: str, shape: tuple[int, ...]) -> None:
    assert sum(bits(draw(name, seed, shape)) for seed in range(5)) < 2.0


@pytest.mark.parametrize("name", ["uniform", "truncated", "normal", "orthogonal"])
def test_copies_in_fewer_bits_look_drawn(name: str) -> None:
    assert bits(draw(name, 0).astype(np.float16).astype(np.float32)) < 2.0


def in_steps(array: np.ndarray, most: int, each: bool) -> np.ndarray:
    """Whole multiples of a step, one for each row or for all."""
    step = np.abs(array).max(axis=tuple(range(1, array.ndim)) if each else None, keepdims=True) / most
    return np.asarray(np.round(array / step) * step, np.float32)


@pytest.mark.parametrize("name", ["uniform", "truncated", "normal", "orthogonal"])
@pytest.mark.parametrize("most", [127, 7])
@pytest.mark.parametrize("each", [False, True])
def test_draws_in_few_bits_look_drawn_and_what_was_learned_does_not(name: str, most: int, each: bool) -> None:
    def judged(weight: np.ndarray) -> float:
        whole = in_steps(weight, most, each)
        found = together(oddities(whole, math.prod(whole.shape[1:]), Entries.of(whole), rounded=True))
        return 0.0 if found is None else found.bits

    assert sum(judged(draw(name, seed)) for seed in range(5)) < 2.0
    assert sum(judged(draw(name, seed, (24, 16, 3, 3))) for seed in range(5)) < 2.0
    weight, rng = draw(name, 0), np.random.default_rng(1)
    learned = np.outer(rng.standard_normal(SHAPE[0]), rng.standard_normal(SHAPE[1]))
    assert judged(weight + 0.4 * weight.std() * learned) > 10.0


@pytest.mark.parametrize("name", ["uniform", "truncated", "normal", "orthogonal"])
def test_one_direction_that_was_learned_is_seen(name: str) -> None:
    weight, rng = draw(name, 0), np.random.default_rng(1)
    learned = np.outer(rng.standard_normal(SHAPE[0]), rng.standard_normal(SHAPE[1]))
    assert bits(weight + 0.4 * weight.std() * learned) > 10.0


def test_a_soft_edge_is_seen() -> None:
    weight = draw("uniform", 0)
    step = 0.03 * weight.std() * np.random.default_rng(1).standard_normal(SHAPE)
    assert bits(weight + step) > 5.0


def test_rows_of_other_lengths_are_seen() -> None:
    weight = draw("normal", 0)
    assert bits(weight * np.exp(0.3 * np.random.default_rng(1).standard_normal((SHAPE[0], 1)))) > 10.0


def test_small_entries_set_to_zero_are_seen() -> None:
    weight = draw("normal", 0)
    pruned = np.where(np.abs(weight) < np.median(np.abs(weight)), 0.0, weight)
    zeroed = np.where(np.random.default_rng(1).random(SHAPE) < 0.5, 0.0, weight)
    assert bits(pruned) > 5.0
    assert bits(zeroed) == 0.0


@pytest.mark.parametrize(
    "array",
    [
        np.eye(64),
        np.zeros(SHAPE),
        np.cos(2.0 * np.pi * np.outer(np.arange(64), np.arange(64)) / 64),
        (np.random.default_rng(0).random((64, 64)) < 0.2).astype(float),
    ],
)
def test_what_a_formula_makes_is_no_evidence(array: np.ndarray) -> None:
    assert bits(array.astype(np.float32)) == 0.0


def test_tail_probabilities() -> None:
    for z in (-2.0, 0.5, 6.0, 30.0):
        assert normal_surprise(z) == pytest.approx(-stats.norm.logsf(z) / math.log(2.0), rel=1e-2, abs=1e-3)
    for value, freedom in ((30.0, 20), (120.0, 60), (3.0, 9)):
        expected = -stats.chi2.logsf(value, freedom) / math.log(2.0)
        assert chi_square_surprise(value, freedom) == pytest.approx(expected, rel=0.05, abs=0.02)


def test_the_ratio_of_draws_is_one_on_average() -> None:
    """Its integral over p, in the logarithm of p, down to 2^-2000: what is left of it falls like 1/ln p."""
    grid = np.linspace(1e-3, 30.0, 20_000)
    ratios = np.array([2.0 ** ratio_bits(each) for each in grid]) * 2.0**-grid * math.log(2.0)
    below = 1.0 / (30.0 * math.log(2.0))  # of 1 / (p ln^2 p)
    assert np.trapezoid(ratios, grid) + below == pytest.approx(1.0, abs=0.01)


def test_the_type_of_a_copy_shows() -> None:
    weight = draw("normal", 0)
    assert rounding(weight) == 2.0**-23
    assert rounding(weight.astype(np.float16).astype(np.float32)) == 2.0**-11


@pytest.mark.parametrize("side", [40, 192, 380])
@pytest.mark.parametrize("again", [0.0, 0.1, 0.24, 0.7, 1.0])
def test_a_table_whose_numbers_come_again_is_told_from_draws(side: int, again: float) -> None:
    """At every size, whether all numbers are looked at or some of them first."""
    rng = np.random.default_rng(7)
    numbers = rng.standard_normal(side * side)
    count = int(again * numbers.size)
    numbers[rng.permutation(numbers.size)[:count]] = 0.3
    assert is_built(numbers.reshape(side, side)) == (again > 0.2)
    pairs = rng.standard_normal(side * side)
    half = int(again * numbers.size / 2)
    pairs[half : 2 * half] = -pairs[:half]  # each comes twice, once with the other sign
    assert is_built(rng.permutation(pairs).reshape(side, side)) == (again > 0.41)
