"""Elasticities against closed forms and against an average of f f' x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gnelint.components.activation import Pointwise
from gnelint.components.smooth import Smooth
from gnelint.theory.gaussian.sensitivity import Sensitivity, sensitivity
from tests.components.harness import make

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "gelu": {"approximate": "none"},
    "silu": {"beta": 1.0},
    "softplus": {"beta": 1.0},
}


def _activation(op: str, **attributes: Any) -> Pointwise:
    found = make(op, [(4, 8)], [(4, 8)], None, **(ATTRIBUTES.get(op, {}) | attributes))
    assert isinstance(found, Pointwise)
    return found


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.5])
def test_a_rectifier_has_chi_1_and_omega_0_at_every_mean(mean: float) -> None:
    found = sensitivity(_activation("relu"), np.array([mean]), np.array([2.0]))
    assert found.chi == pytest.approx(1.0, abs=1e-9)
    assert found.omega == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("op", ["gelu", "silu", "mish", "tanh", "sigmoid", "softplus"])
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.7, 0.3), (-0.5, 4.0)])
def test_chi_is_the_average_of_f_slope_and_x(op: str, mean: float, variance: float) -> None:
    """d E f(sqrt(s) x)^2 / ds at s = 1 is E f f' x."""
    function = _activation(op)
    assert isinstance(function, Smooth)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    x = mean + np.sqrt(variance) * nodes
    f, slope = function.f(x), function.slope(x)
    expected = float((weights * f * slope * x).sum() / (weights * f**2).sum())
    found = sensitivity(function, np.array([mean]), np.array([variance]))
    assert found.chi == pytest.approx(expected, abs=2e-5)


def test_gelu_is_unstable_and_tanh_is_not() -> None:
    zero, one = np.zeros(1), np.ones(1)
    gelu = sensitivity(_activation("gelu"), zero, one)
    assert gelu.chi > 1.0
    assert gelu.omega > 0.0
    assert sensitivity(_activation("tanh"), zero, one).chi < 1.0


def test_a_constant_has_no_sensitivity_of_phi() -> None:
    constant = _activation("clip", min=0.0, max=0.0)
    assert sensitivity(constant, np.zeros(1), np.ones(1)) == Sensitivity(0.0, 0.0)
