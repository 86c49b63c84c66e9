"""SeLU coefficients: the table of the theory 6.7, and the conditions that they solve."""

from __future__ import annotations

import pytest

from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.selu import solve_selu
from tests.components.harness import make


def test_standard_selu() -> None:
    found = solve_selu(0.0715749924660)
    assert (found.scale, found.alpha) == pytest.approx((1.0507009873554805, 1.6732632423543772), rel=1e-7)


def test_slope_is_that_of_the_second_moment_map() -> None:
    found = solve_selu(0.03)
    component = make("selu", [(2, 3)], [(2, 3)], gamma=found.scale, alpha=found.alpha)
    step = 1e-4
    above, below = (component.forward([Moments.uniform((2, 3), 0.0, 1 + s)])[0].total_second for s in (step, -step))
    assert (above - below) / (2 * step) == pytest.approx(found.slope, rel=1e-6)


def test_another_second_moment() -> None:
    found = solve_selu(0.02, 1.2, 2.0)
    component = make("selu", [(2, 3)], [(2, 3)], gamma=found.scale, alpha=found.alpha)
    x = Moments.uniform((2, 3), 0.0, 1.2**2 * 2.0)
    (y,) = component.forward([x])
    assert y.total_second == pytest.approx(2.0, rel=1e-9)
    phi = component.phis([x], [y])[0]
    assert phi is not None
    assert 1.44 * phi == pytest.approx(1.02, rel=1e-9)


@pytest.mark.parametrize("epsilon", [-0.5, 50.0])
def test_impossible_growth_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="no SeLU coefficients"):
        solve_selu(epsilon)
