"""Which claims hold: verdicts, the end-to-end ratio, spreads, and what is called worse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import gnelint
from gnelint.components.activation import ReLU
from gnelint.measure.compare import Comparison, compare, is_worse, judged
from gnelint.measure.estimate import Estimate
from tests.measure.device import DEVICE
from tests.models import CASES
from tests.models.side_by_side import a_bad, a_ok, b_bad, b_ok, c_bad, c_ok

IMAGE, ROWS = (8, 3, 16, 16), (64, 256)


def built(build, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return build().train(), (torch.randn(shape),)


@pytest.mark.parametrize(
    ("predicted", "verdict"),
    [(1.0, "agrees"), (0.75, "agrees"), (0.6, "differs"), (1.5, "agrees"), (1.6, "differs"), (None, "unknown")],
)
def test_verdicts(predicted: float | None, verdict: str) -> None:
    assert judged(predicted, Estimate(1.0, 0.95, 1.1, 8), 0.5) == verdict


def test_an_interval_without_ends_tells_nothing() -> None:
    assert judged(5.0, Estimate(1.0, -math.inf, math.inf, 1), 0.5) == "unknown"


def test_zero_agrees_with_zero() -> None:
    assert judged(0.0, Estimate(0.0, 0.0, 0.0, 8), 0.5) == "agrees"
    assert judged(0.1, Estimate(0.0, 0.0, 0.0, 8), 0.5) == "differs"


@pytest.mark.slow
def test_a_doubled_phi_is_caught_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong claim is caught: a component that says twice what is true is named as the cause."""
    module, inputs = built(a_ok, IMAGE)
    assert gnelint.verify(module, example_inputs=inputs, probes=4, device=DEVICE).holds
    honest = ReLU.backward

    def doubled(self, x, y, cotangents):
        return [None if g is None else g.scaled(2.0) for g in honest(self, x, y, cotangents)]

    monkeypatch.setattr(ReLU, "backward", doubled)
    result = gnelint.verify(module, example_inputs=inputs, probes=4, device=DEVICE)
    assert not result.holds
    named = {claim.name for claim in result.verification.target.comparison.differing}
    relus = {p.node.name for p in result.verification.target.prediction.nodes if p.node.op == "relu"}
    assert relus <= named
    assert "differs: 1 (relu) multiplies" in str(result)


@pytest.mark.parametrize(
    ("bad", "ok", "shape"),
    [
        pytest.param(a_bad, a_ok, IMAGE, id="a", marks=pytest.mark.slow),
        pytest.param(b_bad, b_ok, IMAGE, id="b", marks=pytest.mark.slow),
        pytest.param(c_bad, c_ok, ROWS, id="c"),
    ],
)
def test_before_and_after(bad, ok, shape: tuple[int, ...]) -> None:
    worse, inputs = built(bad, shape)
    better, _ = built(ok, shape)
    forward = gnelint.verify(worse, better, inputs, probes=4, device=DEVICE)
    assert forward.holds, str(forward)
    assert "Better:" in str(forward)
    backward = gnelint.verify(better, worse, inputs, probes=4, device=DEVICE)
    assert backward.verification.worse
    assert not backward.holds
    assert "Worse:" in str(backward)


def comparison(spread: float | None) -> Comparison:
    case = CASES["mlp"]
    result = gnelint.verify(case.module(), example_inputs=case.example_inputs(), probes=2, device=DEVICE)
    return replace(result.verification.target.comparison, spread=spread)


def test_worse_is_more_than_a_trifle() -> None:
    found = comparison(3.0)
    assert not is_worse(found, replace(found, spread=3.4))
    assert is_worse(found, replace(found, spread=3.6))
    assert is_worse(found, replace(found, spread=math.inf))
    assert not is_worse(found, replace(found, spread=None))


@pytest.mark.slow
def test_the_homogeneous_networks_weight_gradients_hide_what_the_activations_gradients_show() -> None:
    """failures.md: in a dead ReLU network weight gradients are nearly equal; the judgement is by activations."""
    dead, inputs = built(a_bad, IMAGE)
    found = gnelint.verify(dead, example_inputs=inputs, probes=4, device=DEVICE).verification.target.comparison
    assert found.spread > 90
    assert found.layer_spread < 10


def test_end_to_end_errors_may_add_up_like_a_random_walk() -> None:
    case = CASES["mlp"]
    result = gnelint.verify(case.module(), example_inputs=case.example_inputs(), probes=8, device=DEVICE)
    target = result.verification.target
    off = replace(target.prediction, gradient_log2=target.prediction.gradient_log2 + 1.0)
    assert compare(off, target.measurement, 0.5).end_to_end.verdict == "agrees"  # nine blocks: 1.5 bits
    far = replace(target.prediction, gradient_log2=target.prediction.gradient_log2 + 3.0)
    assert compare(far, target.measurement, 0.5).end_to_end.verdict == "differs"
