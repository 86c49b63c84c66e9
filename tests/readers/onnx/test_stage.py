"""Where the weights of an ONNX file lie, and in which type, when it is asked whether they are trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gnelint.analysis.stage import Judgement, judge
from tests.readers.onnx.build import load, model, node


def drawn(trained: bool, seed: int) -> np.ndarray:
    """A draw of the usual start, or one with the heavy tails that training leaves."""
    rng = np.random.default_rng(seed)
    entries = rng.standard_t(3, (64, 64)) if trained else rng.standard_normal((64, 64))
    return (entries / 8).astype(np.float32)


def branch(trained: bool, seed: int, *, nested: bool = False) -> onnx.GraphProto:
    """One layer; nested: in a branch of a branch."""
    weight = numpy_helper.from_array(drawn(trained, seed), "w")
    nodes, weights = [helper.make_node("MatMul", ["x", "w"], ["o"])], [weight]
    if nested:
        inner = branch(trained, seed)
        nodes, weights = [helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner)], []
    out = [helper.make_tensor_value_info("o", TensorProto.FLOAT, [4, 64])]
    return helper.make_graph(nodes, "b", [], out, weights)


def of_branches(folder: Path, trained: bool, nested: bool) -> Judgement:
    decide = node("If", ["c"], ["y"], then_branch=branch(trained, 0, nested=nested), else_branch=branch(trained, 1))
    proto = model([decide], {"x": (4, 64), "c": ()}, types={"c": TensorProto.BOOL})
    return judge(load(proto, folder), {})


@pytest.mark.parametrize("nested", [False, True])
def test_weights_in_branches_that_the_input_decides_are_judged(tmp_path: Path, nested: bool) -> None:
    assert of_branches(tmp_path, True, nested).verdict == "trained"
    assert of_branches(tmp_path, False, nested).verdict == "fresh"


@pytest.mark.parametrize(("size", "verdict"), [(64, "unsure"), (3, "none")])
def test_weights_of_products_of_integers_are_likely_trained(tmp_path: Path, size: int, verdict: str) -> None:
    weights = {"w": np.random.default_rng(0).integers(-128, 127, (size, size)).astype(np.int8)}
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]), node("MatMulInteger", ["q", "w", "zero"], ["m"]),
        node("Cast", ["m"], ["f"], to=TensorProto.FLOAT), node("Mul", ["f", "scale"], ["y"]),
    ]  # fmt: skip
    found = judge(load(model(nodes, {"x": (4, size)}, weights=weights), tmp_path), {})
    assert found.verdict == verdict
    assert (found.reason is not None) == (verdict == "unsure")
