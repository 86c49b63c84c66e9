"""What the rules on coverage say of graphs that no exported network of tests/models is like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gnelint.graph import Graph, Node, Value
from gnelint.lint.engine import Settings, lint
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import load_rules
from gnelint.prediction import Block, Prediction
from tests.builders import graph, node, prediction


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
