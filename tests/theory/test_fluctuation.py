"""The fluctuation from draw to draw against draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gnelint.components.activation import Pointwise
from gnelint.theory.fluctuation import (
    BITS_SQUARED,
    mask_finite_width_variance,
    shifted_scale,
    weight_finite_width_variance,
)
from tests.components.harness import make

DRAWS = 4000


def _activation(op: str, **attributes: Any) -> Pointwise:
    found = make(op, [(4, 8)], [(4, 8)], None, **attributes)
    assert isinstance(found, Pointwise)
    return found


@pytest.mark.parametrize(("rows", "columns", "directions"), [(64, 64, 1), (32, 128, 1), (64, 64, 4)])
def test_a_linear_map_scatters_by_two_over_the_fan(rows: int, columns: int, directions: int) -> None:
    random = np.random.default_rng(0)
    cotangents = np.linalg.qr(random.normal(size=(rows, rows)))[0][:directions]
    logs = []
    for _ in range(DRAWS):
        pulled = cotangents @ random.normal(size=(rows, columns)) / math.sqrt(columns)
        logs.append(math.log2(float((pulled**2).sum())))
    assert float(np.var(logs)) == pytest.approx(weight_finite_width_variance(1.0 / directions, columns), rel=0.12)


@pytest.mark.parametrize("samples", [1, 8])
def test_a_mask_scatters_by_three_over_the_features_of_all_samples(samples: int) -> None:
    random = np.random.default_rng(1)
    logs = []
    for _ in range(DRAWS):
        gradient, mask = random.normal(size=(samples, 128)), random.random((samples, 128)) < 0.5
        logs.append(math.log2(float((gradient**2 * mask).sum() / (gradient**2).sum())))
    found = mask_finite_width_variance(1.0, 128, samples, alike=0.0, excess_coherence=0.0)
    # given the gradient the mask scatters it by 3 / n
    assert float(np.var(logs)) == pytest.approx(found, rel=0.15)


def test_one_sample_through_relu_layers_scatters_by_five_over_the_width() -> None:
    """arXiv 1812.05994: the variance of the logarithm is 5 / n a layer."""
    width, depth = 64, 10
    random = np.random.default_rng(2)
    logs = []
    for _ in range(DRAWS // 2):
        x = random.normal(size=width)
        maps = []
        for _ in range(depth):
            weight = random.normal(size=(width, width)) * math.sqrt(2.0 / width)
            x = weight @ x
            maps.append((weight, x > 0))
            x = np.maximum(x, 0.0)
        g = random.normal(size=width)
        g /= np.linalg.norm(g)
        for weight, mask in reversed(maps):
            g = weight.T @ (g * mask)
        logs.append(math.log2(float(g @ g)))
    step = weight_finite_width_variance(1.0, width) + mask_finite_width_variance(
        1.0, width, 1, alike=0.0, excess_coherence=0.0
    )
    assert step == pytest.approx(5.0 / width * BITS_SQUARED)
    assert float(np.var(logs)) == pytest.approx(depth * step, rel=0.2)


def test_a_rectifier_hands_an_error_on_and_notices_nothing() -> None:
    one = np.ones(1)
    shift = shifted_scale(_activation("relu"), 0.3 * one, one, one, 0.7)
    assert shift.second == pytest.approx(0.7)
    assert shift.slope == pytest.approx(0.0, abs=1e-9)


def test_a_saturated_activation_forgives() -> None:
    one = np.ones(1)
    shift = shifted_scale(_activation("tanh"), 0.0 * one, 100.0 * one, one, 2.0)
    assert shift.second < 0.2
    assert shift.slope > 0.5  # what still passes does so near zero


def test_samples_of_unlike_scale_are_averaged() -> None:
    tanh = _activation("tanh")
    alike = shifted_scale(tanh, np.zeros(2), np.ones(2), np.full(2, 0.5), 1.0)
    single = shifted_scale(tanh, np.zeros(1), np.ones(1), np.ones(1), 1.0)
    assert (alike.second, alike.slope) == pytest.approx((single.second, single.slope))


def test_nothing_in_nothing_out() -> None:
    one = np.ones(1)
    assert shifted_scale(_activation("tanh"), one, one, one, 0.0).slope == 0.0
    assert shifted_scale(_activation("tanh"), one, 0.0 * one, one, 1.0).second == 0.0
