"""ONNX's own node tests: every case of every operator that has a kernel passes."""

from __future__ import annotations

import pytest

from tests.measure.onnx_on_torch.backend import cases, run_case

PARTS = 12
"""The cases are run in parts, so that processes share them without each collecting their names."""

WITHOUT_KERNEL = frozenset(
    {"ImageDecoder", "TfIdfVectorizer", "StringSplit", "StringNormalizer", "StringConcat", "RegexFullMatch",
     "ai.onnx.ml.LabelEncoder", "ai.onnx.ml.TreeEnsemble", "ai.onnx.ml.Binarizer",
     "ai.onnx.preview.training.Momentum", "ai.onnx.preview.training.Adam", "ai.onnx.preview.training.Adagrad"}
)  # fmt: skip
"""Text, trees, pictures in files, and steps of training: no gradient passes them."""


@pytest.mark.parametrize("part", range(PARTS))
def test_node_cases(part: int) -> None:
    names = sorted(cases())[part::PARTS]
    outcomes = {name: run_case(cases()[name]) for name in names}
    assert {name: found.line for name, found in outcomes.items() if found.result == "failed"} == {}
    unsupported = {name: found.line for name, found in outcomes.items() if found.result == "unsupported"}
    unexpected = {n: line for n, line in unsupported.items() if line not in WITHOUT_KERNEL and "of type" not in line}
    assert unexpected == {}
    assert sum(found.result == "passed" for found in outcomes.values()) > 0.8 * len(names)
