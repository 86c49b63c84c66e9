"""A network has one gradient profile, whether it is read from torch or from what either ONNX exporter wrote."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import read_module
from tests.models import CASES, HELD_OUT
from tests.models.export import OPSETS, apart, export_onnx, matched_layers, unmatched_layers
from tests.sampling import slow_unless

BITS = 0.05
NETWORKS = {**CASES, **HELD_OUT}
NAMES = ("mlp", "resnet18", "shufflenet_v2", "swin", "llama", "rotary_encoder", "gpt2", "unet", "lstm_lm", "gru_lm")
OLD = 17
"""Before Gelu and Attention were operators; the dynamo exporter's oldest is 18."""


@lru_cache(maxsize=2)
def from_torch(name: str) -> Prediction:
    case = NETWORKS[name]
    return analyse(read_module(case.module(), case.example_inputs(), name=name, training=True))


HEAVY = {"shufflenet_v2", "swin", "llama", "rotary_encoder"}
"""Networks that torch's newer exporter takes some seconds for: the quick run, which asks one exporter for each network,
asks the older one for these."""


@pytest.mark.parametrize("opset", ["newest", pytest.param("old", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        pytest.param(name, dynamo, marks=slow_unless(dynamo == (index % 2 == 1 and name not in HEAVY)))
        for index, name in enumerate(NAMES)
        for dynamo in (False, True)
    ],
)
def test_every_layer_and_the_input_agree(name: str, dynamo: bool, opset: str, tmp_path: Path) -> None:
    number = OPSETS[dynamo][-1] if opset == "newest" else max(OLD, OPSETS[dynamo][0])
    path = tmp_path / f"{name}.onnx"
    export_onnx(NETWORKS[name], path, opset=number, training=True, dynamo=dynamo)
    expected, found = from_torch(name), analyse(read(path, training=True))
    assert found.coverage == 1.0
    pairs = matched_layers(expected, found)
    assert [node.node.name for node in unmatched_layers(expected, pairs)] == []
    worst = max(pairs, key=lambda pair: pair.bits)
    assert worst.bits <= BITS, f"{worst.first.node.name} {worst.first.gradient_log2} {worst.second.gradient_log2}"
    assert expected.gradient_log2 is not None
    assert apart(expected.gradient_log2, found.gradient_log2) <= BITS
