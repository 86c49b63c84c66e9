"""What stands for a matrix of independent entries, against draws of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from gnelint.ir.graph import Parameter
from gnelint.ir.laws import Drawn, Law
from gnelint.theory.weights.contraction import columns_times, frobenius2, rows_times, squared_gram
from gnelint.theory.weights.independent import IndependentMatrix, matrix_of
from gnelint.theory.weights.rows import RowStatistics, row_statistics, singular_spread
from gnelint.theory.weights.statistics import WeightStatistics, weight_statistics

LAWS = {
    "gaussian": Law.gaussian(0.0, 0.3),
    "shifted gaussian": Law.gaussian(0.1, 0.3),
    "uniform": Law.uniform(-0.2, 0.2),
    "uneven": Law.uniform(-0.1, 0.3),
    "cut": Law.truncated_gaussian(0.0, 0.4, -0.5, 0.3),
    "constant": Law.constant(0.2),
}
M, N = 200, 500


@dataclass(frozen=True)
class _ToDraw(Drawn):
    known: Law

    @property
    def law(self) -> Law:
        return self.known

    def __call__(self) -> np.ndarray:
        raise AssertionError("nothing is drawn")


def _numbers(law: Law, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    if not law.variance:
        return np.full((M, N), law.mean)
    if law.kurtosis == 3.0:
        return random.normal(law.mean, law.variance**0.5, (M, N))
    if law.kurtosis == 1.8:
        return random.uniform(law.minimum, law.maximum, (M, N))
    drawn = random.normal(0.0, 0.4, (8 * M * N,))
    return drawn[(drawn > law.minimum) & (drawn < law.maximum)][: M * N].reshape(M, N)


@pytest.mark.parametrize("name", LAWS)
def test_sums_agree_with_a_draw(name: str) -> None:
    law = LAWS[name]
    numbers, stands_in = _numbers(law), IndependentMatrix((M, N), law, 0)
    assert frobenius2(stands_in) == pytest.approx(frobenius2(numbers), rel=0.02)
    assert squared_gram(stands_in) == pytest.approx(float(np.sum((numbers @ numbers.T) ** 2)), rel=0.02)
    energies = np.abs(np.random.default_rng(1).normal(size=(2, N)))
    for squared in (True, False):
        vectors = energies if squared else np.random.default_rng(2).normal(size=(2, N))
        within = {"rtol": 0.03 if squared else 5 * (2 / M) ** 0.5}  # of a mean of squares of M Gaussian numbers
        one, other = rows_times(numbers, vectors, squared), rows_times(stands_in, vectors, squared)
        np.testing.assert_allclose((other**2).mean(axis=1), (one**2).mean(axis=1), **within)
        one, other = (columns_times(w, vectors[:, :M], squared) for w in (numbers, stands_in))
        np.testing.assert_allclose((other**2).mean(axis=1), (one**2).mean(axis=1), **within)


def test_products_are_as_alike_as_the_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(2, N)) + np.random.default_rng(1).normal(size=N)
    expected = float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))
    products = rows_times(IndependentMatrix((M, N), LAWS["uniform"], 0), vectors, squared=False)
    assert np.corrcoef(products)[0, 1] == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("name", LAWS)
def test_statistics_agree_with_a_draw(name: str) -> None:
    law = LAWS[name]
    numbers = _numbers(law)
    known = Parameter("w", (M, N), "float64", lambda: numbers)
    unknown = Parameter("w", (M, N), "float64", _ToDraw(law))
    one, other = weight_statistics(known), weight_statistics(unknown)
    for attribute in ("mean", "second_moment", "kurtosis"):
        found, expected = getattr(other, attribute), getattr(one, attribute)
        assert found == pytest.approx(expected, rel=0.03, abs=0.002, nan_ok=True), attribute
    assert _extremes(other) == pytest.approx(_extremes(one), abs=0.2)
    rows, drawn_rows = row_statistics(unknown), row_statistics(known)
    assert rows is not None
    assert drawn_rows is not None
    assert _shares(rows) == pytest.approx(_shares(drawn_rows), abs=0.01)
    spread = singular_spread(known)
    assert spread is not None
    assert singular_spread(unknown) == pytest.approx(spread, rel=0.05)


def _extremes(statistics: WeightStatistics) -> tuple[float, float]:
    return statistics.minimum, statistics.maximum


def _shares(rows: RowStatistics) -> tuple[float, ...]:
    return rows.duplicate, rows.constant, rows.zero, rows.mean_share, rows.norm_spread


def test_numbers_are_taken_where_there_are_some() -> None:
    numbers = _numbers(LAWS["uniform"])
    assert matrix_of(Parameter("w", (M, N), "float64", lambda: numbers)) is numbers
