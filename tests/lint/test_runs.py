"""Runs of matches: paths, sums over them, and where they end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from gnelint.ir.graph import Graph
from gnelint.lint.index import Index
from gnelint.lint.runs import Runs
from gnelint.ops import families
from tests.builders import graph, node

NORMALIZATIONS = families()["normalization"]


def applied(
    function: str, of: Graph, values: Mapping[str, float], ends_at: frozenset[str] = NORMALIZATIONS
) -> dict[str, float]:
    """A function over matches that stand at the given nodes."""
    runs = Runs.of(Index.of(of), np.array([of.positions[name] for name in values]), ends_at)
    return dict(zip(values, runs.apply(function, np.array(list(values.values()))).tolist(), strict=True))


def forked() -> Graph:
    return graph(
        [
            node("a", "linear", ["x"]),
            node("b1", "linear", ["a"]),
            node("b2", "linear", ["b1"]),
            node("c", "linear", ["a"]),
            node("join", "concat", ["b2", "c"], axis=1),
            node("norm", "batch_norm", ["join"], training=True),
            node("d", "linear", ["norm"]),
        ]
    )


WEIGHTS = {"a": -1.0, "b1": -2.0, "b2": -4.0, "c": -8.0, "d": -16.0}


def test_totals_follow_the_longest_path_and_a_normalization_starts_anew() -> None:
    assert applied("total", forked(), WEIGHTS) == {"a": -7.0, "b1": -7.0, "b2": -7.0, "c": -9.0, "d": -16.0}
    assert applied("count", forked(), WEIGHTS) == {"a": 3.0, "b1": 3.0, "b2": 3.0, "c": 2.0, "d": 1.0}


def test_paths_go_on_where_nothing_ends_them() -> None:
    assert applied("count", forked(), WEIGHTS, frozenset())["d"] == 4.0
    assert applied("total", forked(), WEIGHTS, frozenset())["d"] == -23.0


def test_products() -> None:
    assert applied("product", forked(), dict.fromkeys(WEIGHTS, 0.5))["a"] == 0.125
    assert applied("product", forked(), {"a": 0.0, "b1": 2.0})["b1"] == 0.0


@pytest.mark.parametrize(
    ("function", "expected"), [("lowest", -8.0), ("highest", -1.0), ("average", -3.75), ("median", -3.0)]
)
def test_numbers_over_a_run(function: str, expected: float) -> None:
    found = applied(function, forked(), WEIGHTS)
    assert {name: found[name] for name in ("a", "b1", "b2", "c")} == dict.fromkeys(("a", "b1", "b2", "c"), expected)
    assert found["d"] == -16.0


def test_ends_of_a_run() -> None:
    assert applied("is_first", forked(), WEIGHTS) == {"a": 1.0, "b1": 0.0, "b2": 0.0, "c": 0.0, "d": 1.0}
    assert applied("is_last", forked(), WEIGHTS) == {"a": 0.0, "b1": 0.0, "b2": 1.0, "c": 1.0, "d": 1.0}


def test_infinite_summands_stay_infinite() -> None:
    made = graph([node("a", "linear", ["x"]), node("b", "linear", ["a"])])
    assert applied("total", made, {"a": -math.inf, "b": 1.0}) == {"a": -math.inf, "b": -math.inf}


def test_what_is_not_known_counts_as_nothing() -> None:
    made = graph([node("a", "linear", ["x"]), node("b", "linear", ["a"])])
    assert applied("total", made, {"a": math.nan, "b": 1.0}) == {"a": 1.0, "b": 1.0}
    assert applied("highest", made, {"a": math.nan, "b": 1.0}) == {"a": 1.0, "b": 1.0}
    unknown = applied("highest", made, {"a": math.nan})
    assert math.isnan(unknown["a"])


def test_matches_at_one_place_count_once_and_a_match_without_a_place_by_itself() -> None:
    made = graph([node("a", "linear", ["x"]), node("b", "linear", ["a"])])
    runs = Runs.of(Index.of(made), np.array([0, 0, 1, -1]), frozenset())
    assert runs.apply("total", np.array([1.0, -3.0, 5.0, 7.0])).tolist() == [2.0, 2.0, 2.0, 7.0]
    assert runs.apply("count", np.ones(4)).tolist() == [2.0, 2.0, 2.0, 1.0]
