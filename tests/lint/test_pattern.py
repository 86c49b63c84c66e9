"""Patterns match by the graph's structure alone."""

from __future__ import annotations

import pytest

from gnelint.graph import Graph
from gnelint.lint.index import Index
from gnelint.lint.matching import find_matches
from gnelint.lint.pattern import PatternError, compile_pattern
from tests.builders import graph, node


def found(text: str, of: Graph) -> list[dict[str, str]]:
    """The names of the nodes of each match; an optional statement that is missing is left out."""
    columns = find_matches(compile_pattern(text), Index.of(of))
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{name: of.nodes[at].name for name, at in zip(columns, row, strict=True) if at >= 0} for row in rows]


PAIR = "w = linear|conv(x)\nact = activation(~w)"


def test_a_pair_matches_directly_and_through_data_movement() -> None:
    nodes = [
        node("a", "linear", ["x"]),
        node("drop", "dropout", ["a"]),
        node("shape", "reshape", ["drop"]),
        node("act", "relu", ["shape"]),
        node("b", "conv", ["act"]),
        node("act2", "tanh", ["b"]),
    ]
    assert found(PAIR, graph(nodes)) == [{"w": "a", "act": "act"}, {"w": "b", "act": "act2"}]
    assert found("w = linear(x)\nact = activation(w)", graph(nodes)) == []
    assert found("w = conv(x)\nact = activation(w)", graph(nodes)) == [{"w": "b", "act": "act2"}]


def test_nothing_else_is_passed_through() -> None:
    for between in ("batch_norm", "max_pool", "linear_like"):
        nodes = [node("a", "linear", ["x"]), node("n", between, ["a"]), node("r", "relu", ["n"])]
        assert found(PAIR, graph(nodes)) == []


def test_linear_is_the_operation_and_not_the_family_of_its_name() -> None:
    nodes = [node("a", "scale", ["x"]), node("r", "relu", ["a"])]
    assert found(PAIR, graph(nodes)) == []


def test_one_weight_before_two_activations_is_two_matches() -> None:
    nodes = [
        node("a", "linear", ["x"]),
        node("r", "relu", ["a"]),
        node("t", "tanh", ["a"]),
        node("s", "add", ["r", "t"]),
    ]
    assert [match["act"] for match in found(PAIR, graph(nodes))] == ["r", "t"]


@pytest.mark.parametrize("order", [("r", "a"), ("a", "r")])
def test_commutative_operands_match_in_either_order(order: tuple[str, str]) -> None:
    nodes = [node("a", "linear", ["x"]), node("r", "sigmoid", ["a"]), node("m", "mul", order)]
    text = "g = sigmoid(x)\ny = mul(x, g)"
    assert found(text, graph(nodes)) == [{"g": "r", "y": "m"}]


def test_other_operands_keep_their_order() -> None:
    text = "g = sigmoid(x)\ny = sub(x, g)"
    assert found(text, graph([node("r", "sigmoid", ["x"]), node("m", "sub", ["x", "r"])]))
    assert not found(text, graph([node("r", "sigmoid", ["x"]), node("m", "sub", ["r", "x"])]))


def test_a_free_name_means_one_value() -> None:
    text = "g = sigmoid(v)\ny = mul(v, g)"
    gate = [node("a", "linear", ["x"]), node("b", "linear", ["x"]), node("r", "sigmoid", ["b"])]
    assert not found(text, graph([*gate, node("m", "mul", ["a", "r"])]))
    assert found("g = sigmoid(v)\ny = mul(u, g)", graph([*gate, node("m", "mul", ["a", "r"])]))
    assert found("g = sigmoid(_)\ny = mul(_, g)", graph([*gate, node("m", "mul", ["a", "r"])]))


def test_a_square_binds_one_node_twice() -> None:
    nodes = [node("a", "linear", ["x"]), node("m", "mul", ["a", "a"])]
    assert found("w = linear\nm = mul(w, w)", graph(nodes)) == [{"w": "a", "m": "m"}]


def test_number_of_operands() -> None:
    nodes = [node("a", "relu", ["x"]), node("b", "tanh", ["x"]), node("c", "concat", ["x", "a", "b"], axis=1)]
    assert found("c = concat(x, ...)", graph(nodes))
    assert found("c = concat", graph(nodes))
    assert not found("c = concat(x)", graph(nodes))
    assert not found("c = concat(p, q, r, s)", graph(nodes))


def test_attributes_and_their_defaults() -> None:
    nodes = [
        node("a", "leaky_relu", ["x"]),
        node("b", "leaky_relu", ["a"], alpha=0.2),
        node("c", "clip", ["b"], min=0.0),
    ]
    assert found("f = leaky_relu(x, alpha=0.01)", graph(nodes)) == [{"f": "a"}]
    assert found("f = leaky_relu(x, alpha=0.2)", graph(nodes)) == [{"f": "b"}]
    assert found("f = clip(x, min=0, max=None)", graph(nodes)) == [{"f": "c"}]
    assert found("f = any(x, nonsense=1)", graph(nodes)) == []


def test_a_longer_pattern_with_a_comment() -> None:
    nodes = [
        node("a", "linear", ["x"]),
        node("r", "relu", ["a"]),
        node("b", "linear", ["r"]),
        node("s", "add", ["b", "x"]),
    ]
    text = "# a residual MLP\nw1 = linear(~x)\nr = activation(~w1)  # any\nw2 = linear(~r)\ns = add(x, w2)"
    assert found(text, graph(nodes)) == [{"w1": "a", "r": "r", "w2": "b", "s": "s"}]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "empty"),
        ("# only a comment", 1, "empty"),
        ("w = linear(x", 1, "not a statement"),
        ("linear(x)", 1, "not a statement"),
        ("w = linear(x)\nw = relu(w)", 2, "twice"),
        ("w = nonsense(x)", 1, "neither an operation"),
        ("w = linear(x)\n\nr = relu(x)", 1, 'lead back to "w"'),
        ("c = concat(..., x)", 1, "last argument"),
        ("c = concat(x y)", 1, "not an argument"),
        ("c = relu(c)", 1, "not an argument"),
        ("c = leaky_relu(x, alpha=open)", 1, "not a number"),
        ("repeat b:\n  c = add(x, _)", 1, "not a statement"),
    ],
)
def test_errors_name_the_line(text: str, line: int, why: str) -> None:
    with pytest.raises(PatternError, match=why) as caught:
        compile_pattern(text)
    assert caught.value.line == line


def test_matching_stays_near_linear() -> None:
    """Counts matches on a long chain; a quadratic search would not come back in time for the test run."""
    nodes, previous = [], "x"
    for index in range(5000):
        nodes += [node(f"w{index}", "linear", [previous]), node(f"a{index}", "relu", [f"w{index}"])]
        previous = f"a{index}"
    made = graph(nodes)
    assert len(found(PAIR, made)) == 5000
