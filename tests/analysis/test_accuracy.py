"""Predictions against autograd on whole networks: bounds a little above what the accuracy benchmark measures."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.accuracy import run
from tests.models import CASES, HELD_OUT
from tests.sampling import is_sampled, slow_unless

BOUNDS = {
    # name: bits of the median layer and end to end
    "mlp": (0.15, 0.3),
    "vgg11_bn": (0.15, 0.4),
    "resnet18_zero": (0.1, 0.4),
    "preact_resnet18": (0.2, 0.3),
    "nf_resnet18": (0.2, 0.3),
    "shufflenet_v2": (0.5, 0.6),
    "dcgan_generator": (0.1, 0.3),
    "unet": (0.1, 0.3),
    "vit": (0.15, 0.3),
    "gpt2": (0.15, 0.3),
    "repvgg_a0": (0.4, 0.5),
    "alibi_decoder": (0.15, 0.3),
    "rotary_encoder": (0.15, 0.3),
    "moe_decoder": (0.2, 0.5),
    "lstm_lm": (0.1, 0.15),
    "gru_lm": (0.1, 0.2),
}
"""Post-activation and multi-branch residual trunks, norm-free ones, shuffles, transposed convolutions, attention with
and without masks."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow_unless(is_sampled(name, 2))) for name in BOUNDS])
def test_gradients_are_predicted_to_a_fraction_of_a_bit(name: str) -> None:
    found = run({**CASES, **HELD_OUT}[name], seed=1, probes=8)
    bits = np.array([layer.bits for layer in found.layers])
    median, end = BOUNDS[name]
    assert float(np.nanmedian(bits)) < median
    assert found.end_to_end < end
    assert found.prediction.coverage == 1.0
