"""SeLU coefficients: the table of the theory of components, 6.7, and the conditions that they solve."""

from __future__ import annotations

import math

import pytest

from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.selu import solve_selu
from tests.components.harness import make


@pytest.mark.parametrize(
    ("gain", "epsilon", "scale", "alpha", "slope", "mean"),
    [
        (1.0, 0.0716, 1.050551999, 1.673792869, 0.78257, -0.00013),
        (1.0, 0.03, 1.274534558, 0.8930417598, 0.90890, 0.23709),
        (1.0, 0.01, 1.369238029, 0.4799365254, 0.96963, 0.38957),
        (math.sqrt(2), 0.0716, 0.8607053931, 1.322246464, 0.84858, 0.15988),
        (math.sqrt(2), 0.03, 0.9441411013, 0.7802506703, 0.93656, 0.32184),
        (math.sqrt(2), 0.01, 0.981733572, 0.4332282662, 0.97885, 0.43216),
    ],
)
def test_table(gain: float, epsilon: float, scale: float, alpha: float, slope: float, mean: float) -> None:
    found = solve_selu(epsilon, gain)
    assert (found.scale, found.alpha) == pytest.approx((scale, alpha), rel=1e-9)
    assert found.slope == pytest.approx(slope, abs=6e-6)
    component = make("selu", [(2, 3)], [(2, 3)], gamma=found.scale, alpha=found.alpha)
    x = Moments.uniform((2, 3), 0.0, gain**2)
    (y,) = component.forward([x])
    (phi,) = component.phis([x], [y])
    assert phi is not None
    assert y.total_second == pytest.approx(1.0, rel=1e-9)
    assert gain**2 * phi == pytest.approx(1 + epsilon, rel=1e-9)
    assert y.total_mean == pytest.approx(mean, abs=6e-6)


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
