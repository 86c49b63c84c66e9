"""How large the signal inside a chain may be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import gnelint
from gnelint.components import component_class
from gnelint.components.activation import Pointwise
from gnelint.fixes.signal_scale import BOUND, SignalScales, signal_scales
from gnelint.ir.graph import Node
from gnelint.lint.chains import layers_outside_branches
from gnelint.theory.gaussian.sensitivity import amplification
from tests.models.plain import plain_mlp


def function(op: str) -> Pointwise:
    cls = component_class(op)
    assert cls is not None
    found = cls(Node(op, op, ("x",), ("y",)), ((1, 1),), ((1, 1),))
    assert isinstance(found, Pointwise)
    return found


def scales_of(activation: str, depth: int) -> SignalScales:
    torch.manual_seed(0)
    net = plain_mlp(depth=depth, width=16, activation=activation, init="default")
    prediction = gnelint.check(net, torch.randn(4, 16)).prediction
    return signal_scales(prediction, layers_outside_branches(prediction))


def test_a_rectifier_neither_drives_samples_apart_nor_together() -> None:
    assert amplification([function("relu")] * 50, 1.0) == pytest.approx(0.0, abs=1e-9)


def test_small_signals_behind_gelu() -> None:
    q = 1e-4
    assert amplification([function("gelu")], q) == pytest.approx(6 * q / math.pi, rel=0.01)


@pytest.mark.parametrize("op", ["gelu", "silu", "mish", "hardswish"])
def test_the_formula_is_what_samples_do(op: str) -> None:
    rng = np.random.default_rng(0)
    layers, width, bump = 8, 1000, 1.02
    square = [1.0, bump]
    act = getattr(nn.functional, op)
    # two samples of one direction and unlike scale, sent through weights that are independent of them
    for _ in range(layers):
        z = rng.standard_normal((40, width))
        seconds, phis = [], []
        for q in square:
            x = torch.tensor(z * math.sqrt(q), requires_grad=True)
            y = act(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
            seconds.append(float(y.detach().square().mean()))
            phis.append(float(slope.square().mean()))
        square = [second / phis[0] for second in seconds]
    growth = math.log(square[1] / square[0]) / math.log(bump)
    assert amplification([function(op)] * layers, 1.0) == pytest.approx(math.log(growth), abs=0.05)


@pytest.mark.parametrize(("activation", "depth"), [("relu", 50), ("tanh", 50), ("selu", 50), ("gelu", 2), ("gelu", 12)])
def test_most_chains_keep_the_usual_level(activation: str, depth: int) -> None:
    assert scales_of(activation, depth) == SignalScales()


@pytest.mark.slow
def test_a_deep_chain_of_gelus_is_made_quiet() -> None:
    found = scales_of("gelu", 50)
    first, last = found.bits.values()
    assert first == -last < -6
    assert len(found.biases) == 49
    assert set(found.biases.values()) == {next(iter(found.biases.values()))}
    assert "2^10.1" in found.notes[0]
    # deeper chains are made quieter
    assert next(iter(scales_of("gelu", 100).bits.values())) < first


def test_the_level_keeps_deviations_within_the_bound() -> None:
    found = scales_of("gelu", 50)
    quiet = 4.0 * 2.0 ** next(iter(found.bits.values()))  # phi(GELU) is 1/4 there
    assert amplification([function("gelu")] * 50, quiet) == pytest.approx(BOUND, rel=0.05)


def test_a_quiet_chain_measures_as_predicted_and_is_left_alone() -> None:
    torch.manual_seed(0)
    net, x = plain_mlp(depth=50, width=128, activation="gelu", init="default"), torch.randn(256, 128)
    plan = gnelint.plan_fixes(net, x)
    assert any("gelu" in note for note in plan.plan.notes)
    fixed, unmade = plan.apply()
    assert not unmade
    x = x.double().requires_grad_()
    y = fixed.double()(x)
    cotangent = torch.randn(y.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(y, x, cotangent)
    measured = float(gradient.square().sum() / cotangent.square().sum())
    assert 0.5 <= measured <= 2.0
    assert not gnelint.plan_fixes(fixed.float(), x.detach().float()).edits


def test_layers_that_share_a_weight_keep_the_usual_level() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 16)
    net = nn.Sequential(*(part for _ in range(50) for part in (layer, nn.GELU())))
    plan = gnelint.plan_fixes(net, torch.randn(4, 16))
    assert not plan.plan.notes
