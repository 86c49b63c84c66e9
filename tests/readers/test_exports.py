"""The seven architectures as both of torch's exporters write them: all modelled, and the same numbers as from torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import UNMODELLED
from gnelint.readers.onnx.reader import read
from gnelint.readers.torch.reader import read_module
from tests.models import CASES, SEVEN
from tests.models.export import OPSETS, export_onnx, matched_layers

TOLERANCE = 1e-3


@lru_cache(maxsize=4)
def from_torch(name: str, training: bool) -> Prediction:
    case = CASES[name]
    module = case.module().train(training)
    return analyse(read_module(module, case.example_inputs(), name=name, training=training))


def check(name: str, folder: Path, *, opset: int, training: bool, dynamo: bool) -> None:
    path = folder / f"{name}.onnx"
    export_onnx(CASES[name], path, opset=opset, training=training, dynamo=dynamo)
    prediction = analyse(read(path, training=training))
    unmodelled = [node.source_op for node in prediction.graph.gradient_nodes if node.op == UNMODELLED]
    assert unmodelled == []
    assert prediction.coverage == 1.0

    expected = from_torch(name, training)
    pairs = matched_layers(expected, prediction)
    assert len(pairs) >= sum(node.node.op in ("linear", "conv") for node in expected.nodes)
    worst = max(pairs, key=lambda pair: pair.difference)
    assert worst.difference < TOLERANCE, f"{worst.first.node.name}: phi {worst.first.phi} against {worst.second.phi}"


def combinations() -> Iterator[tuple[str, bool, bool, int]]:
    for name in (*SEVEN, "vit_spelled"):
        for dynamo, opsets in OPSETS.items():
            for training in (False, True):
                for opset in opsets:
                    if not (name == "vit" and opset == 13):  # fused attention cannot be exported there
                        yield name, dynamo, training, opset


NEWEST = [
    ("mlp", False, False),
    ("mlp", True, True),
    ("resnet18", False, True),
    ("resnet18", True, False),
    ("vit", True, True),
]


@pytest.mark.parametrize(("name", "dynamo", "training"), NEWEST)
def test_newest_opset(name: str, dynamo: bool, training: bool, tmp_path: Path) -> None:
    check(name, tmp_path, opset=OPSETS[dynamo][-1], training=training, dynamo=dynamo)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dynamo", "training", "opset"), list(combinations()))
def test_every_opset(name: str, dynamo: bool, training: bool, opset: int, tmp_path: Path) -> None:
    check(name, tmp_path, opset=opset, training=training, dynamo=dynamo)
