"""Patterns match by the graph's structure alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gnelint.ir.graph import Graph
from gnelint.lint.index import Index
from gnelint.lint.matching import TooManyMatchesError, find_matches
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
    ("predicate", "names"),
    [
        ("groups>1", ["b", "c"]),
        ("groups >= 8", ["c"]),
        ("groups<8", ["a", "b"]),
        ("groups <= 4", ["a", "b"]),
        ("groups!=1", ["b", "c"]),
        ("groups==4", ["b"]),
        ("strides=2", ["b"]),
        ("strides>1", ["b"]),
        ("strides!=2", ["a", "c"]),
        ("groups>1, strides=2", ["b"]),
        ("nonsense>1", []),
    ],
)
def test_comparisons_of_attributes(predicate: str, names: list[str]) -> None:
    nodes = [
        node("a", "conv", ["x"], strides=(1, 1)),
        node("b", "conv", ["a"], groups=4, strides=(2, 2)),
        node("c", "conv", ["b"], groups=8, strides=(1, 2)),
    ]
    assert [match["w"] for match in found(f"w = conv(x, {predicate})", graph(nodes))] == names


def test_presence_of_an_attribute_and_a_comparison_with_none() -> None:
    nodes = [node("a", "clip", ["x"], min=0.0), node("b", "clip", ["a"], min=0.0, max=6.0)]
    assert found("c = clip(x, max!=None)", graph(nodes)) == [{"c": "b"}]
    assert found("c = clip(x, max=None)", graph(nodes)) == [{"c": "a"}]
    assert found("c = clip(x, max<7)", graph(nodes)) == [{"c": "b"}]


OPTIONAL = "w = conv(x)\nn = normalization?(~w)\na = activation(~n)"


def test_an_optional_statement_is_bound_where_it_is_there() -> None:
    nodes = [
        node("w1", "conv", ["x"]),
        node("n1", "batch_norm", ["w1"], training=True),
        node("d1", "dropout", ["n1"]),
        node("a1", "relu", ["d1"]),
        node("w2", "conv", ["a1"]),
        node("s2", "scale", ["w2"]),
        node("a2", "tanh", ["s2"]),
    ]
    assert found(OPTIONAL, graph(nodes)) == [{"w": "w1", "n": "n1", "a": "a1"}, {"w": "w2", "a": "a2"}]


def test_several_optional_statements() -> None:
    text = "w = conv(x)\nn = normalization?(w)\na = activation?(n)\np = pooling?(a)\nv = conv(p)"
    nodes = [node("w0", "conv", ["x"])]
    previous = "w0"
    for index, between in enumerate([(), ("batch_norm",), ("relu",), ("max_pool",), ("batch_norm", "max_pool")], 1):
        for place, op in enumerate(between):
            nodes.append(node(f"{op[0]}{index}{place}", op, [previous]))
            previous = nodes[-1].name
        nodes.append(node(f"w{index}", "conv", [previous]))
        previous = f"w{index}"
    assert found(text, graph(nodes)) == [
        {"w": "w0", "v": "w1"},
        {"w": "w1", "n": "b20", "v": "w2"},
        {"w": "w2", "a": "r30", "v": "w3"},
        {"w": "w3", "p": "m40", "v": "w4"},
        {"w": "w4", "n": "b50", "p": "m51", "v": "w5"},
    ]


def test_an_optional_statement_read_twice() -> None:
    text = "w = linear(x)\nn = layer_norm?(w)\ng = sigmoid(n)\nm = mul(n, g)"
    with_norm = [node("w", "linear", ["x"]), node("n", "layer_norm", ["w"], axes=(1,)), node("g", "sigmoid", ["n"])]
    assert found(text, graph([*with_norm, node("m", "mul", ["n", "g"])])) == [{"w": "w", "n": "n", "g": "g", "m": "m"}]
    assert found(text, graph([*with_norm, node("m", "mul", ["w", "g"])])) == []
    bare = [node("w", "linear", ["x"]), node("g", "sigmoid", ["w"]), node("m", "mul", ["g", "w"])]
    assert found(text, graph(bare)) == [{"w": "w", "g": "g", "m": "m"}]


def test_a_path_of_any_length_leads_to_the_nearest_along_every_way() -> None:
    nodes = [
        node("e", "embedding", ["x"]),
        node("f", "embedding", ["x"]),
        node("r", "relu", ["e"]),
        node("w", "linear", ["r"]),
        node("s", "add", ["w", "f"]),
        node("t", "tanh", ["s"]),
        node("m", "mul", ["t", "r"]),
        node("h", "linear", ["m"]),
    ]
    text = "e = embedding(_)\nh = linear(via(activation|add|mul|linear, e))"
    assert found(text, graph(nodes)) == [{"e": "e", "h": "w"}, {"e": "e", "h": "h"}, {"e": "f", "h": "h"}]
    assert found("e = embedding(_)\nh = linear(via(activation|add|mul, e))", graph(nodes)) == [
        {"e": "e", "h": "w"},
        {"e": "e", "h": "h"},
        {"e": "f", "h": "h"},
    ]
    assert found("e = embedding(_)\nh = linear(via(mul|tanh, e))", graph(nodes)) == []
    nearest = "v = linear\nh = linear(via(any, v))"
    assert found(nearest, graph(nodes)) == [{"v": "w", "h": "h"}]


def test_a_path_to_something_optional() -> None:
    text = "w = linear(x)\nn = normalization?(w)\na = add(via(relu, n), _)"
    nodes = [node("w", "linear", ["x"]), node("r", "relu", ["w"]), node("s", "add", ["r", "x"])]
    assert found(text, graph(nodes)) == [{"w": "w", "a": "s"}]


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
        ("w = conv(x)\nn = batch_norm?(w)", 2, "cannot be optional"),
        ("n = add?(x, y)\nw = conv(n)", 1, "must read one name"),
        ("n = relu?\nw = conv(n)", 1, "must read one name"),
        ("n = relu?(_)\nw = conv(n)", 1, "must read one name"),
        ("w = conv(via(relu, x))", 1, "not a statement"),
        ("w = linear(x)\na = conv(via(rleu, w))", 2, "neither an operation"),
        ("w = conv(x, groups>one)", 1, "not a number"),
        ("w = conv(x, groups>None)", 1, "compared by size"),
        ("w = conv(x, groups>True)", 1, "compared by size"),
        ("w = conv(a)\na = relu(b)\nb = tanh(a)\ns = add(w, b)", 1, "reads its own output"),
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


def test_a_pattern_cannot_fill_the_memory() -> None:
    """Each line multiplies the matches by the 24 orders of four operands, or by what it reaches."""
    nodes = [node("a", "relu", ["x"])]
    for index in range(12):
        nodes.append(node(f"s{index}", "add", [nodes[-1].name] * 4))
    lines = [f"s{index} = add(p{index}, q{index}, r{index}, s{index - 1})" for index in range(1, 8)]
    text = "\n".join(["s0 = add(p0, q0, r0, _)", *lines])
    with pytest.raises(TooManyMatchesError):
        find_matches(compile_pattern(text), Index.of(graph(nodes)))


def documented() -> list[str]:
    """The statements in the table of rules/README.md."""
    text = (Path(__file__).parents[2] / "rules" / "README.md").read_text().partition("## Patterns")[2]
    rows = re.findall(r"^\| `(\w = .*?)` \|", text.partition("## Expressions")[0], re.M)
    return [row.replace("\\|", "|") for row in rows]


@pytest.mark.parametrize("statement", documented())
def test_what_the_documentation_shows_is_a_pattern(statement: str) -> None:
    last = "\na = activation(~n)" if statement.startswith("n = ") else ""
    reads_w = re.search(r"\bw\b", statement.partition("=")[2]) is not None
    compile_pattern(f"{'w = linear' if reads_w else ''}\n{statement}{last}")


def test_the_documentation_shows_every_construct() -> None:
    assert len(documented()) == 13
    assert {"~", "via(", "?", "...", ">", "!=", "|", "_"} <= {
        part for row in documented() for part in ("~", "via(", "?", "...", ">", "!=", "|", "_") if part in row
    }
