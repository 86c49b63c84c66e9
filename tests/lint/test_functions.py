"""The numbers that rules see."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnelint.analysis.prediction import Block
from gnelint.ir.graph import Graph
from gnelint.lint.facts import Facts
from gnelint.lint.functions import FUNCTIONS
from tests import builders
from tests.builders import graph, node, prediction


def call(name: str, facts: Facts, *arguments: Any) -> Any:
    return FUNCTIONS[name].call(facts, *arguments)


@pytest.mark.parametrize(
    ("op", "weight", "attributes", "fan_in", "fan_out"),
    [
        ("linear", (16, 8), {}, 8, 16),
        ("conv", (16, 8, 3, 3), {}, 72, 144),
        ("conv", (16, 2, 3, 3), {"groups": 4}, 18, 36),
        ("conv", (8, 1, 3, 3), {"groups": 8}, 9, 9),
        ("conv_transpose", (16, 8, 4, 4), {"strides": (2, 2)}, 64, 128),
        ("conv_transpose", (16, 4, 4, 4), {"strides": (2, 2), "groups": 2}, 32, 64),
    ],
)
def test_fans(op: str, weight: tuple[int, ...], attributes: dict[str, Any], fan_in: float, fan_out: float) -> None:
    made = graph([node("w", op, ["x"], weight=weight, **attributes)])
    facts = Facts(prediction(made, {}))
    assert call("fan_in", facts, made.nodes[0]) == fan_in
    assert call("fan_out", facts, made.nodes[0]) == fan_out


def test_interior_phi_is_the_weights_energy_and_leaves_padding_out() -> None:
    made = graph([node("w", "conv", ["x"], weight=(16, 8, 3, 3))])
    facts = Facts(prediction(made, {"w": 1.7}, weights={"w.weight": builders.statistics(2 / 72)}))
    assert call("phi", facts, made.nodes[0]) == 1.7
    assert call("interior_phi", facts, made.nodes[0]) == pytest.approx(2.0)
    assert call("interior_phi", Facts(prediction(made, {"w": 1.7})), made.nodes[0]) == 1.7


def test_statistics_of_weights() -> None:
    made = graph([node("w", "linear", ["x"], weight=(8, 8)), node("r", "relu", ["w"])])
    facts = Facts(prediction(made, {}, weights={"w.weight": builders.statistics(0.25, kurtosis=1.8, bound=0.9)}))
    weight, relu = made.nodes
    assert call("weight_std", facts, weight) == 0.5
    assert call("weight_variance", facts, weight) == 0.25
    assert call("weight_kurtosis", facts, weight) == 1.8
    assert call("weight_bound", facts, weight) == 0.9
    assert call("weight_size", facts, weight) == 4096
    assert call("weight_std", facts, relu) is None
    assert call("fan_in", facts, relu) is None


def test_numbers_off_the_gradient_path_are_unknown() -> None:
    made = graph([node("a", "relu", ["x"])])
    stranger = node("b", "relu", ["x"])
    facts = Facts(prediction(made, {"a": 0.5}))
    for name in ("phi", "phi_variance", "mean", "second_moment", "variance", "gradient_log2", "basis"):
        assert call(name, facts, stranger) is None


def structure() -> Graph:
    return graph(
        [
            node("a", "linear", ["x"], weight=(8, 8)),
            node("n", "batch_norm", ["a"], training=True),
            node("r", "relu", ["n"]),
            node("p", "max_pool", ["r"]),
            node("m", "layer_norm", ["p"], axes=(1,)),
            node("b", "linear", ["m"], weight=(8, 8)),
            node("side", "tanh", ["a"]),
            node("s", "add", ["b", "side"]),
        ]
    )


def test_structure() -> None:
    made = structure()
    facts = Facts(prediction(made, {}))
    norms = frozenset({"batch_norm", "layer_norm"})
    a, r, b, side = (made.node(name) for name in ("a", "r", "b", "side"))
    assert call("between", facts, a, r, norms)
    assert not call("between", facts, a, side, norms)
    assert call("between", facts, a, made.node("s"), frozenset({"tanh"}))
    assert call("followed_by", facts, r, norms)
    assert not call("followed_by", facts, b, norms)
    assert call("in_block", facts, a, "serial")
    assert not call("in_block", facts, a, "residual")
    assert call("layer", facts, a) == 1
    assert call("layer", facts, b) == 2
    assert call("layers", facts) == 2


def test_scales_between_and_behind() -> None:
    made = graph(
        [
            node("a", "linear", ["x"], weight=(8, 8)),
            node("s1", "scale", ["a"]),
            node("r", "relu", ["s1"]),
            node("d", "dropout", ["r"]),
            node("s2", "scale", ["d"]),
            node("b", "linear", ["s2"], weight=(8, 8)),
            node("s3", "scale", ["b"]),
        ]
    )
    facts = Facts(prediction(made, {"s1": 4.0, "s2": 0.5, "s3": 100.0}))
    assert call("scales", facts, made.node("a"), made.node("r")) == 2.0


def test_blocks() -> None:
    made = graph([node("a", "linear", ["x"], weight=(8, 8)), node("s", "add", ["a", "x"])])
    block = Block("b", "residual", ("a", "s"), "x", "s:out", phi=2.0, phi_variance=3.0, branch_phi=1.0)
    facts = Facts(prediction(made, {}, blocks=[block]))
    assert [call(name, facts, block) for name in ("phi", "phi_variance", "branch_phi")] == [2.0, 3.0, 1.0]
    assert call("contains", facts, block, frozenset({"linear"}))
    assert not call("contains", facts, block, frozenset({"batch_norm"}))
    assert call("count_in", facts, block, frozenset({"linear", "add"})) == 2


def test_the_body_ends_before_the_head_and_its_pooling() -> None:
    made = graph(
        [
            node("a", "linear", ["x"], weight=(8, 8)),
            node("r", "relu", ["a"]),
            node("pool", "global_avg_pool", ["r"]),
            node("flat", "reshape", ["pool"]),
            node("head", "linear", ["flat"], weight=(2, 8)),
        ]
    )
    facts = Facts(prediction(made, {"a": 1.0, "r": 0.5, "pool": 2.0**-6, "flat": 1.0, "head": 2.0**-20}))
    assert call("network_log2", facts) == -27
    assert call("body_log2", facts) == -1


def test_the_body_begins_behind_the_preparation_of_the_input() -> None:
    """Pixels divided by 255: 16 bits that no layer lost."""
    made = graph(
        [
            node("pixels", "scale", ["x"], factor=1 / 256),
            node("centred", "bias", ["pixels"], factor=-0.5),
            node("a", "linear", ["centred"], weight=(8, 8)),
            node("r", "relu", ["a"]),
            node("head", "linear", ["r"], weight=(2, 8)),
        ]
    )
    facts = Facts(prediction(made, {"pixels": 2.0**-16, "centred": 1.0, "a": 0.5, "r": 0.25, "head": 1.0}))
    assert call("network_log2", facts) == -19
    assert call("body_log2", facts) == -3


def test_a_single_layer_has_no_body() -> None:
    made = graph([node("head", "linear", ["x"], weight=(2, 8))])
    assert call("body_log2", Facts(prediction(made, {"head": 0.1}))) is None


def test_the_last_layer_of_a_branch_is_no_head() -> None:
    """A LayerScale of 1e-6 leaves next to no gradient in the last branch; the shortcut carries all of it."""
    made = graph(
        [
            node("a", "linear", ["x"], weight=(8, 8)),
            node("n", "layer_norm", ["a"], axes=(1,)),
            node("b", "linear", ["n"], weight=(8, 8)),
            node("tiny", "scale", ["b"]),
            node("s", "add", ["tiny", "a"]),
        ]
    )
    blocks = [
        Block("first", "serial", ("a",), "x", "a:out", phi=1.0),
        Block("second", "residual", ("n", "b", "tiny", "s"), "a:out", "s:out", phi=1.0),
    ]
    phi = {"a": 1.0, "n": 1.0, "b": 1.0, "tiny": 2.0**-40, "s": 1.0}
    facts = Facts(dataclasses.replace(prediction(made, phi, blocks=blocks), gradient_log2=0.0))
    assert call("body_log2", facts) == 0.0


def test_numbers() -> None:
    x, y = np.array([0.0, 8.0, -1.0, math.nan]), np.array([1.0, 2.0, 3.0, 4.0])
    with np.errstate(all="ignore"):
        found = {
            name: FUNCTIONS[name].call(*columns).tolist()
            for name, columns in {
                "log2": (x,),
                "exp2": (y,),
                "sqrt": (x[:2],),
                "min": (x, y, y),
                "max": (x, y),
                "default": (x, y),
                "is_known": (x,),
                "choose": (np.array([1.0, 0.0, math.nan, 1.0]), y, -y),
            }.items()
        }
    same = np.testing.assert_array_equal
    same(found["log2"], [-math.inf, 3.0, math.nan, math.nan])
    same(found["exp2"], [2.0, 4.0, 8.0, 16.0])
    same(found["sqrt"], [0.0, math.sqrt(8.0)])
    same(found["min"], [0.0, 2.0, -1.0, math.nan])
    same(found["max"], [1.0, 8.0, 3.0, math.nan])
    same(found["default"], [0.0, 8.0, -1.0, 4.0])
    same(found["is_known"], [1.0, 1.0, 1.0, 0.0])
    same(found["choose"], [1.0, -2.0, math.nan, 4.0])


def test_the_readme_documents_every_function() -> None:
    text = (Path(__file__).parents[2] / "rules" / "README.md").read_text()
    for function in FUNCTIONS.values():
        assert f"| `{function.signature}` | {function.help} |" in text
