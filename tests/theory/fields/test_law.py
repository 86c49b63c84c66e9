"""Laws of positive values against gamma distributions that are drawn or known in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gnelint.components import Component
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.law import Law, root_law
from gnelint.theory.fields.moments import Moments, Trace
from tests.components.harness import make

SHAPE = (4, 8)


def positive(mean: float, variance: float) -> Moments:
    return replace(Moments.uniform(SHAPE, mean, variance), nonnegative=True, positive=True)


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.7, 40.0])
def test_a_positive_value_has_the_quantiles_of_a_gamma_distribution(shape: float) -> None:
    law = root_law(positive(5.0, 25.0 / shape), 128)
    drawn = np.random.default_rng(0).gamma(shape, 5.0 / shape, 1_000_000)
    value = law.number.value.ravel()
    for power in (0.5, 1.0, 2.0):
        assert float(law.mean(value**power)) == pytest.approx((drawn**power).mean(), rel=0.02)
    reached = np.interp([0.001, 0.01, 0.1], np.cumsum(law.weights), value)
    assert reached == pytest.approx(np.quantile(drawn, [0.001, 0.01, 0.1]), rel=0.15)


@pytest.mark.parametrize("shape", [3.0, 3.7, 6.0])
def test_slopes_of_its_logarithm_are_those_of_a_gamma_distribution(shape: float) -> None:
    """E 1/x^2 = (shape / mean)^2 / ((shape - 1) (shape - 2)); a Gaussian has none."""
    x = positive(5.0, 25.0 / shape)
    log: Component = make("log", [SHAPE], [SHAPE])
    (y,) = log.forward([x])
    expected = (shape / 5.0) ** 2 / ((shape - 1.0) * (shape - 2.0))
    assert log.phis([x], [y])[0] == pytest.approx(expected, rel=0.05)


def hats(cells: int, width: float, asked: list[int]) -> Trace:
    """The law of narrow hats of one Gaussian, one in each cell; `asked` gets the grids that it is worked out on."""
    root, places = Moments.uniform((cells,), 0.0, 1.0), np.linspace(-0.1, 0.1, cells)[:, None]

    def find(grid: int) -> Law:
        asked.append(grid)
        law = root_law(root, grid).on((Axis.full(cells),))
        return law.of(np.maximum(1.0 - np.abs(law.number.value - places) / width, 0.0))

    return Trace(root, find, (True,), True, False)


def test_a_narrow_hat_is_seen_on_the_coarsest_grid_that_shows_it() -> None:
    trace = hats(8, 0.035, [])
    assert trace.grid == 2048
    found = trace.law(2048)
    assert found.mean(found.number.value) == pytest.approx(0.035 * 0.3989, rel=0.02)


def test_no_grid_is_tried_that_takes_too_many_numbers() -> None:
    asked: list[int] = []
    assert hats(150, 0.003, asked).grid is None
    assert asked == [128, 1024, 2048]
