"""What the rules on coverage say of graphs that no exported network of tests/models is like."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gnelint.analysis.prediction import Block, Prediction
from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Graph, Node, Parameter, Value
from gnelint.lint.engine import Settings, lint
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import load_rules
from tests.builders import graph, node, prediction
from tests.readers.onnx.build import load, model
from tests.readers.onnx.build import node as onnx_node


def said(rule_id: str, of: Prediction) -> tuple[Finding, ...]:
    rule = load_rules().get(rule_id)
    assert rule is not None
    return lint(of, [rule], Settings()).findings


def layers(**more: object) -> list[Node]:
    return [
        node("a", "linear", ["x"], weight=(8, 8), **more),  # type: ignore[arg-type]
        node("r", "relu", ["a"]),
        node("b", "linear", ["r"], weight=(8, 8), **more),  # type: ignore[arg-type]
    ]


PHI = {"a": 2.0, "r": 0.5, "b": 1.0}


def test_weights_that_are_not_there_are_one_finding() -> None:
    (found,) = said("GNE904", prediction(graph(layers(provenance="placeholder")), PHI))
    assert (found.severity, found.measured) == ("warning", 2.0)
    assert not said("GNE904", prediction(graph(layers()), PHI))


@pytest.mark.parametrize(("role", "value"), [("scale", 8.0), ("bias", 0.0), ("weight", 1.0), ("weight", 0.125)])
def test_numbers_that_the_model_computes_with_are_no_missing_weights(role: str, value: float) -> None:
    filled = np.broadcast_to(np.float32(value), (8, 8))
    given = Parameter("c", (8, 8), "float32", lambda: filled, provenance="placeholder")
    op = "linear" if role == "weight" else role
    nodes = [*layers(), replace(node("c", op, ["b"]), parameters={role: given})]
    assert not said("GNE904", prediction(graph(nodes), {**PHI, "c": 1.0}))


def test_unknown_shapes_are_one_finding() -> None:
    known = graph(layers())
    open_shape: tuple[int | str, ...] = ("batch", 8)
    unknown: Graph = replace(
        known, values={name: Value(name, open_shape, value.dtype) for name, value in known.values.items()}
    )
    (found,) = said("GNE903", prediction(unknown, PHI))
    assert (found.severity, found.measured) == ("warning", 3.0)
    assert not said("GNE903", prediction(known, PHI))


@pytest.mark.parametrize(
    ("basis", "error", "count"), [("approximate", 4.0, 1), ("approximate", 1.0, 0), ("exact", 4.0, 0)]
)
def test_an_approximate_block_with_a_wide_bound_is_named(basis: str, error: float, count: int) -> None:
    block = Block(
        name="a .. b",
        kind="serial",
        nodes=("a", "r", "b"),
        entry="x",
        exit="b:out",
        phi=1.0,
        error_bits=error,
        basis=basis,  # type: ignore[arg-type]
        assumptions=("inputs are Gaussian",),
    )
    found = said("GNE902", prediction(graph(layers()), PHI, blocks=[block]))
    assert len(found) == count
    assert all("inputs are Gaussian" in each.message for each in found)


@pytest.mark.parametrize(("bad", "share"), [(math.nan, 1), (math.nan, 8), (math.inf, 1), (-math.inf, 7)])
@pytest.mark.parametrize("place", ["weight", "bias"])
def test_entries_that_are_not_finite_are_said_by_the_name_of_their_tensor(
    tmp_path: Path, bad: float, place: str, share: int
) -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in ("a", "b")}
    tensors["bias"] = np.zeros(8, np.float32)
    tensors["b" if place == "weight" else "bias"][:share] = bad
    nodes = [onnx_node("Gemm", ["x", "a"], ["m"], name="a"), onnx_node("Relu", ["m"], ["r"], name="r"),
             onnx_node("Gemm", ["r", "b", "bias"], ["y"], name="b")]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = analyse(load(model(nodes, {"x": (4, 8)}, weights=tensors), tmp_path))
        found = lint(result, load_rules().rules, Settings(preview=True)).findings
    assert [(each.rule, each.nodes) for each in found] == [("GNE905", ("b",))]
    assert found[0].message.startswith(f"{'b' if place == 'weight' else 'bias'} of b holds entries")


def test_a_weight_of_nothing_but_infinity_is_no_bound(tmp_path: Path) -> None:
    weights = {"w": np.full((8, 8), np.inf, np.float32)}
    nodes = [onnx_node("MatMul", ["x", "w"], ["m"], name="a"), onnx_node("Relu", ["m"], ["y"], name="r")]
    assert said("GNE905", analyse(load(model(nodes, {"x": (8, 8)}, weights=weights), tmp_path)))


@pytest.mark.parametrize(("entries", "hides"), [((0, slice(None)), True), ((0, slice(0, 4)), False)])
def test_a_row_of_minus_infinity_in_a_table_is_none_of_them(tmp_path: Path, entries: Any, hides: bool) -> None:
    """Graphormer's distances: what is not connected is hidden. Some such entries of a row are no mask."""
    table = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    shown = table[1:].astype(np.float64)
    table[entries] = -np.inf
    weights = {"table": table, "w": np.eye(8, dtype=np.float32)}
    nodes = [onnx_node("Gather", ["table", "i"], ["e"], name="look"), onnx_node("MatMul", ["x", "w"], ["m"], name="a"),
             onnx_node("Add", ["m", "e"], ["s"], name="add"),
             onnx_node("Softmax", ["s"], ["y"], name="softmax")]  # fmt: skip
    proto = model(nodes, {"x": (4, 8), "i": (4,)}, weights=weights, types={"i": onnx.TensorProto.INT64})
    found = analyse(load(proto, tmp_path))
    assert said("GNE905", found) != hides
    assert (found.gradient_log2 is not None) == hides
    if hides:
        (added,) = (each for each in found.nodes if each.node.name == "add")
        assert added.mean == pytest.approx(shown.mean())
        assert added.second_moment == pytest.approx(1.0 + (shown**2).mean())


def test_a_mask_of_minus_infinity_is_none_of_them(tmp_path: Path) -> None:
    weights = {"w": np.eye(8, dtype=np.float32), "mask": np.triu(np.full((8, 8), -np.inf, np.float32), 1)}
    nodes = [onnx_node("MatMul", ["x", "w"], ["m"], name="a"), onnx_node("Add", ["m", "mask"], ["s"], name="add"),
             onnx_node("Softmax", ["s"], ["y"], name="softmax")]  # fmt: skip
    assert not said("GNE905", analyse(load(model(nodes, {"x": (8, 8)}, weights=weights), tmp_path)))


def test_nor_is_what_maxima_start_from(tmp_path: Path) -> None:
    start = {"start": np.full((4, 8), -np.inf, np.float32), "index": np.zeros((4, 8), np.int64)}
    nodes = [onnx_node("ScatterElements", ["start", "index", "x"], ["y"], name="max", axis=0, reduction="max")]
    found = analyse(load(model(nodes, {"x": (4, 8)}, weights=start, opset=18), tmp_path))
    assert not said("GNE905", found)
    assert said("GNE901", found)
