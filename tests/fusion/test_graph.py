"""Idioms on canonical graphs built by hand: the forms that ONNX exporters write, and what a rewriting must keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnelint.fusion import fuse
from gnelint.ir.graph import UNMODELLED, Graph, Location, Node, Parameter, Value
from tests.evaluator import run

Shape = tuple[int | str, ...]


def number(value: Any, name: str = "c", dtype: str = "float32") -> Parameter:
    array = np.asarray(value, dtype=dtype)
    return Parameter(name, array.shape, dtype, lambda: array)


class Build:
    """Writes a graph node by node; each call returns the name of the new value."""

    def __init__(self, **inputs: Shape) -> None:
        self.values = {name: Value(name, shape, "float32") for name, shape in inputs.items()}
        self.inputs = tuple(inputs)
        self.nodes: list[Node] = []

    def __call__(
        self,
        op: str,
        *inputs: str,
        shape: Shape | None = None,
        p: Mapping[str, Parameter] | None = None,
        **attributes: Any,
    ) -> str:
        name = f"v{len(self.nodes)}"
        self.values[name] = Value(name, self.values[inputs[0]].shape if shape is None else shape, "float32")
        self.nodes.append(Node(f"n{len(self.nodes)}", op, inputs, (name,), dict(p or {}), attributes))
        return name

    def graph(self, *outputs: str) -> Graph:
        return Graph("built", "onnx", True, tuple(self.nodes), self.inputs, outputs, self.values)


def assert_valid(graph: Graph) -> None:
    """Nothing dangles: each node reads what stands before it, and the values are those that exist."""
    known = set(graph.inputs)
    for node in graph.nodes:
        assert set(node.present_inputs) <= known, node
        known.update(node.outputs)
    assert known == set(graph.values)
    assert set(graph.outputs) <= known
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


def assert_equal_functions(before: Graph, after: Graph, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    feed = {
        name: torch.randn(before.values[name].shape, generator=generator, dtype=torch.float64) for name in before.inputs
    }
    expected, found = run(before, feed), run(after, feed)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, equal_nan=True)


def fused(graph: Graph) -> Graph:
    """The graph after fusion, valid, equal in function and no more to be fused."""
    after = fuse(graph)
    assert_valid(after)
    assert fuse(after) is after
    return after


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def gelu(b: Build, x: str) -> str:
    gate = b(
        "bias", b("erf", b("scale", x, p={"scale": number(math.sqrt(2))}, reciprocal=True)), p={"bias": number(1.0)}
    )
    return b("scale", b("mul", x, gate), p={"scale": number([0.5])})


def test_the_composite_stands_in_the_last_nodes_place() -> None:
    b = Build(x=(2, 8))
    y = gelu(b, "x")
    b.nodes[-1] = replace(b.nodes[-1], scope="block.act", location=Location("model.py", 7))
    (node,) = fused(b.graph(y)).nodes
    assert (node.name, node.op, node.inputs, node.outputs) == ("n4", "gelu", ("x",), (y,))
    assert node.sources == ("n0", "n1", "n2", "n3", "n4")
    assert (node.source_op, node.scope, node.location) == ("gelu", "block.act", Location("model.py", 7))


def test_a_value_that_something_else_reads_stays() -> None:
    b = Build(x=(2, 8))
    gate = b("sigmoid", "x")
    y, z = b("mul", "x", gate), b("tanh", gate)
    graph = b.graph(y, z)
    after = fused(graph)
    assert ops(after) == ["sigmoid", "silu", "tanh"]
    assert after.nodes[1].sources == ("n1",)
    assert_equal_functions(graph, after)


def test_a_value_that_the_graph_returns_stays() -> None:
    b = Build(x=(2, 8))
    gate = b("sigmoid", "x")
    assert ops(fused(b.graph(b("mul", "x", gate), gate))) == ["sigmoid", "silu"]


def test_a_value_that_a_loops_body_captures_stays() -> None:
    b = Build(x=(2, 8))
    gate = b("sigmoid", "x")
    graph = b.graph(b("mul", "x", gate))
    inner = Build(**{gate: (2, 8), "z": (2, 8), "w": (2, 8)})
    inner.inputs = (gate, "z")
    inner.nodes.append(Node("body", "mul", inner.inputs, ("w",)))
    after = fuse(replace(graph, subgraphs={"loop/body": inner.graph("w")}))
    assert ops(after) == ["sigmoid", "silu"]


def test_bodies_are_fused_too() -> None:
    b, inner = Build(x=(2, 8)), Build(z=(2, 8))
    after = fuse(replace(b.graph(b("relu", "x")), subgraphs={"if/then": inner.graph(gelu(inner, "z"))}))
    assert ops(after.subgraphs["if/then"]) == ["gelu"]


def test_nodes_that_nothing_read_before_are_left() -> None:
    b = Build(x=(2, 8))
    b("tanh", "x")
    assert ops(fused(b.graph(gelu(b, "x")))) == ["tanh", "gelu"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_constants_as_they_are_stored(dtype: str) -> None:
    b = Build(x=(2, 8))
    cube = b("scale", b("pow", "x", exponent=3.0), p={"scale": number(0.044715, dtype=dtype)})
    inner = b("scale", b("add", "x", cube), p={"scale": number(0.7978846, dtype=dtype)})
    gate = b("bias", b("tanh", inner), p={"bias": number(1.0, dtype=dtype)})
    y = b("scale", b("mul", b("scale", "x", factor=0.5), gate))
    (node,) = fused(b.graph(y)).nodes
    assert (node.op, node.attribute("approximate")) == ("gelu", "tanh")


def test_a_constant_per_channel_is_no_number() -> None:
    b = Build(x=(2, 8))
    y = b("mul", "x", b("sigmoid", b("scale", "x", p={"scale": number(np.linspace(1, 2, 8))})))
    assert ops(fused(b.graph(y))) == ["scale", "sigmoid", "mul"]


def test_a_number_that_is_not_there_to_be_read_is_no_constant() -> None:
    b = Build(x=(2, 8))

    def load() -> np.ndarray:
        raise AssertionError("the numbers of an initialiser are not asked for")

    drawn = Parameter("beta", (), "float32", load, provenance="initializer")
    assert ops(fused(b.graph(b("mul", "x", b("sigmoid", b("scale", "x", p={"scale": drawn})))))) == [
        "scale", "sigmoid", "mul",
    ]  # fmt: skip


def test_casts_are_looked_through_but_not_to_integers() -> None:
    b = Build(x=(2, 8))
    y = b("mul", "x", b("identity", b("sigmoid", b("identity", "x"))))
    assert ops(fused(b.graph(y))) == ["silu"]
    b = Build(x=(2, 8))
    whole = b("identity", "x")
    b.values[whole] = Value(whole, (2, 8), "int64")
    y = b("mul", "x", b("sigmoid", b("identity", whole)))
    assert ops(fused(b.graph(y))) == ["identity", "identity", "sigmoid", "mul"]


def group_norm(b: Build, groups: int, scale: Parameter, bias: Parameter, back: Shape = (2, 6, 5, 4)) -> str:
    split = b("reshape", "x", shape=(2, groups, 120 // groups))
    y = b("instance_norm", split, p={"scale": scale, "bias": bias}, epsilon=1e-5)
    y = b("reshape", y, shape=back)
    y = b("scale", y, p={"scale": number(np.arange(6.0).reshape(6, 1, 1), "gamma")})
    return b("bias", y, p={"bias": number(np.arange(6.0).reshape(1, 6, 1, 1), "beta")})


@pytest.mark.parametrize(("groups", "op"), [(3, "group_norm"), (1, "group_norm"), (6, "instance_norm")])
def test_group_norm_as_exporters_write_it(groups: int, op: str) -> None:
    b = Build(x=(2, 6, 5, 4))
    graph = b.graph(group_norm(b, groups, number(np.ones(groups)), number(np.zeros(groups))))
    after = fused(graph)
    assert ops(after) == [op]
    assert {role: (p.name, p.shape) for role, p in after.nodes[0].parameters.items()} == {
        "scale": ("gamma", (6,)), "bias": ("beta", (6,)),
    }  # fmt: skip
    assert_equal_functions(graph, after)


def test_groups_with_a_scale_of_their_own_are_no_group_norm() -> None:
    b = Build(x=(2, 6, 5, 4))
    graph = b.graph(group_norm(b, 3, number([1.0, 2.0, 1.0]), number(np.zeros(3))))
    assert ops(fuse(graph)) == ["reshape", "instance_norm", "reshape", "scale", "bias"]


def test_groups_across_samples_are_no_group_norm() -> None:
    b = Build(x=(2, 6, 5, 4))
    split = b("reshape", "x", shape=(1, 6, 40))
    y = b("reshape", b("instance_norm", split, epsilon=1e-5), shape=(2, 6, 5, 4))
    assert ops(fuse(b.graph(y))) == ["reshape", "instance_norm", "reshape"]


def test_group_norm_over_a_symbolic_batch() -> None:
    b = Build(x=("N", 6, 5, 4))
    split = b("reshape", "x", shape=("N", 3, 40))
    y = b("reshape", b("instance_norm", split, epsilon=1e-5), shape=("N", 6, 5, 4))
    (node,) = fused(b.graph(y)).nodes
    assert (node.op, node.attribute("groups")) == ("group_norm", 3)


def test_statistics_whose_axis_was_put_back_by_a_reshape() -> None:
    b = Build(x=(2, 5, 8))
    mean = b("reshape", b("reduce_mean", "x", axes=(-1,), keepdims=False, shape=(2, 5)), shape=(2, 5, 1))
    centre = b("sub", "x", mean, shape=(2, 5, 8))
    square = b("reduce_mean", b("mul", centre, centre), axes=(2,), keepdims=False, shape=(2, 5))
    root = b("sqrt", b("bias", b("reshape", square, shape=(2, 5, 1)), p={"bias": number(1e-5)}))
    graph = b.graph(b("div", centre, root))
    after = fused(graph)
    assert ops(after) == ["layer_norm"]
    assert_equal_functions(graph, after)


def test_statistics_that_broadcast_along_another_axis_are_no_layer_norm() -> None:
    b = Build(x=(5, 5))
    mean = b("reduce_mean", "x", axes=(1,), keepdims=False, shape=(5,))  # one number a row, taken off each column
    centre = b("sub", "x", mean, shape=(5, 5))
    square = b("reduce_mean", b("mul", centre, centre), axes=(1,), keepdims=False, shape=(5,))
    y = b("div", centre, b("sqrt", b("bias", square, p={"bias": number(1e-5)})), shape=(5, 5))
    assert "layer_norm" not in ops(fuse(b.graph(y)))


def test_a_scale_along_another_axis_is_left_behind_the_norm() -> None:
    b = Build(x=(2, 5, 8))
    square = b("reduce_mean", b("pow", "x", exponent=2.0), axes=(-1,), shape=(2, 5, 1))
    y = b("div", "x", b("sqrt", square), shape=(2, 5, 8))
    y = b("scale", y, p={"scale": number(np.arange(5.0).reshape(5, 1))})
    assert ops(fused(b.graph(y))) == ["rms_norm", "scale"]


def test_a_norm_that_two_read_keeps_its_affine_apart() -> None:
    b = Build(x=(2, 5, 8))
    square = b("reduce_mean", b("pow", "x", exponent=2.0), axes=(-1,), shape=(2, 5, 1))
    norm = b("div", "x", b("sqrt", square), shape=(2, 5, 8))
    y = b("add", b("scale", norm, p={"scale": number(np.arange(8.0))}), norm)
    assert ops(fused(b.graph(y))) == ["rms_norm", "scale", "add"]


def _keyed(b: Build, key: str, *, bias: Parameter | None = None) -> str:
    logits = b("matmul", "q", key, shape=(2, 3, 5, 5))
    logits = b("scale", logits, p={"scale": number(2.0)}, reciprocal=True)
    logits = logits if bias is None else b("bias", logits, p={"bias": bias})
    return b("matmul", b("softmax", logits, axis=3), "v", shape=(2, 3, 5, 4))


def test_attention_takes_the_key_as_it_was_before_its_transposition() -> None:
    b = Build(q=(2, 3, 5, 4), k=(2, 3, 5, 4), v=(2, 3, 5, 4))
    graph = b.graph(_keyed(b, b("transpose", "k", perm=(0, 1, 3, 2), shape=(2, 3, 4, 5))))
    after = fused(graph)
    assert ops(after) == ["attention"]
    assert after.nodes[0].inputs == ("q", "k", "v")
    assert after.nodes[0].attribute("scale") == pytest.approx(0.5)
    assert_equal_functions(graph, after)


def test_attention_whose_key_comes_transposed() -> None:
    b = Build(q=(2, 3, 5, 4), k=(2, 3, 4, 5), v=(2, 3, 5, 4))
    graph = b.graph(_keyed(b, "k"))
    after = fused(graph)
    assert ops(after) == ["transpose", "attention"]
    assert after.values[after.nodes[0].outputs[0]].shape == (2, 3, 5, 4)
    assert_equal_functions(graph, after)


def test_attention_whose_key_is_read_elsewhere() -> None:
    b = Build(q=(2, 3, 5, 4), k=(2, 5, 3, 4), v=(2, 3, 5, 4))
    key = b("transpose", "k", perm=(0, 2, 3, 1), shape=(2, 3, 4, 5))
    graph = b.graph(_keyed(b, key), b("relu", key))
    after = fused(graph)
    assert sorted(ops(after)) == ["attention", "relu", "transpose", "transpose"]
    assert_equal_functions(graph, after)


@pytest.mark.parametrize(
    ("mask", "causal"),
    [
        (np.triu(np.full((5, 5), -1e9), 1), True),
        (np.tril(np.full((5, 5), -1e9), -1), False),  # hides the past
        (np.triu(np.full((5, 5), -1.0), 1), False),  # a slope, no mask
        (np.zeros((5, 5)), False),
    ],
)
def test_only_a_mask_that_hides_the_future_is_causal(mask: np.ndarray, causal: bool) -> None:
    b = Build(q=(2, 3, 5, 4), k=(2, 3, 4, 5), v=(2, 3, 5, 4))
    graph = b.graph(_keyed(b, "k", bias=number(mask)))
    after = fused(graph)
    assert after.nodes[-1].attribute("causal") is causal
    assert ("mask" in after.nodes[-1].parameters) is not causal
    assert_equal_functions(graph, after)


@pytest.mark.parametrize("hides", [True, False])
def test_a_condition_from_outside(hides: bool) -> None:
    b = Build(q=(2, 3, 5, 4), k=(2, 3, 4, 5), v=(2, 3, 5, 4), m=(2, 1, 1, 5))
    filler = b("constant", shape=(), p={"value": number(-1e9)})
    logits = b("matmul", "q", "k", shape=(2, 3, 5, 5))
    logits = b("where", "m", *((filler, logits) if hides else (logits, filler)), shape=(2, 3, 5, 5))
    y = b("matmul", b("softmax", logits), "v", shape=(2, 3, 5, 4))
    after = fuse(b.graph(y))
    assert_valid(after)
    assert fuse(after) is after
    mask = after.producers.get(after.nodes[-1].inputs[3] or "")
    assert after.nodes[-1].op == "attention"
    if not hides:
        assert after.nodes[-1].inputs[3] == "m"
        return
    assert mask is not None
    assert (mask.op, mask.inputs[:2]) == ("where", ("m", filler))
    generator = torch.Generator().manual_seed(0)
    feed = {name: torch.randn(b.values[name].shape, generator=generator, dtype=torch.float64) for name in "qkv"}
    feed["m"] = torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]], dtype=torch.float64).reshape(2, 1, 1, 5)
    torch.testing.assert_close(run(after, feed)[y], run(b.graph(y), feed)[y])


@pytest.mark.parametrize(
    ("number_instead", "same", "expected"), [(0.0, True, True), (1.0, True, False), (0.0, False, False)]
)
def test_rows_that_see_nothing_may_be_given_zeros(number_instead: float, same: bool, expected: bool) -> None:
    b = Build(q=(2, 3, 5, 4), k=(2, 3, 4, 5), v=(2, 3, 5, 4), m=(5, 5), w=(2, 3, 5, 5))
    logits = b("add", b("matmul", "q", "k", shape=(2, 3, 5, 5)), "m")
    weights = b("softmax", logits)
    undefined = b(UNMODELLED, weights if same else "w")
    b.nodes[-1] = replace(b.nodes[-1], source_op="IsNaN")
    filler = b("constant", shape=(), p={"value": number(number_instead)})
    kept = b("where", undefined, filler, weights, shape=(2, 3, 5, 5))
    after = fuse(b.graph(b("matmul", kept, "v", shape=(2, 3, 5, 4))))
    assert_valid(after)
    assert ("attention" in ops(after)) is expected
    assert (UNMODELLED in ops(after)) is not expected


def _parts(b: Build, *ranges: tuple[int, int, int], axis: int = 1) -> str:
    shape = b.values["x"].shape
    assert shape is not None
    parts = []
    for start, end, step in ranges:
        size = len(range(*slice(start, end, step).indices(int(shape[axis]))))
        cut = (*shape[:axis], size, *shape[axis + 1 :])
        parts.append(b("slice", "x", shape=cut, axes=(axis,), starts=(start,), ends=(end,), steps=(step,)))
    total = sum(int((b.values[part].shape or ())[axis]) for part in parts)
    return b("concat", *parts, shape=(*shape[:axis], total, *shape[axis + 1 :]), axis=axis - len(shape))


@pytest.mark.parametrize(
    ("ranges", "axis", "shift"),
    [
        (((2, 7, 1), (0, 2, 1)), 1, -2),
        (((-2, 1 << 40, 1), (0, -2, 1)), 1, 2),
        (((1, 4, 1), (0, 1, 1)), 2, -1),
    ],
)
def test_a_roll_written_in_slices(ranges: Sequence[tuple[int, int, int]], axis: int, shift: int) -> None:
    b = Build(x=(2, 7, 4))
    graph = b.graph(_parts(b, *ranges, axis=axis))
    after = fused(graph)
    assert ops(after) == ["roll"]
    assert (after.nodes[0].attribute("axes"), after.nodes[0].attribute("shifts")) == ((axis,), (shift,))
    assert_equal_functions(graph, after)


@pytest.mark.parametrize(
    "ranges",
    [
        ((0, 2, 1), (2, 7, 1)),  # put together as it was
        ((3, 7, 1), (0, 2, 1)),  # something is left out
        ((1, 7, 1), (0, 2, 1)),  # something is there twice
        ((0, 7, 2), (1, 7, 2)),
        ((3, 7, 1), (1, 3, 1), (0, 1, 1)),
    ],
)
def test_other_slices_put_together_are_no_roll(ranges: Sequence[tuple[int, int, int]]) -> None:
    b = Build(x=(2, 7, 4))
    assert "roll" not in ops(fused(b.graph(_parts(b, *ranges))))


def _joined(b: Build, start: int, end: int) -> str:
    """A slice along the features of x and y side by side, of three and four."""
    joined = b("concat", "x", "y", shape=(2, 7), axis=1)
    return b("slice", joined, shape=(2, end - start), axes=(1,), starts=(start,), ends=(end,), steps=(1,))


@pytest.mark.parametrize(
    ("start", "end", "left"), [(0, 3, ["identity"]), (4, 6, ["slice"]), (3, 7, ["identity"]), (2, 5, None)]
)
def test_a_part_of_what_was_joined(start: int, end: int, left: list[str] | None) -> None:
    b = Build(x=(2, 3), y=(2, 4))
    graph = b.graph(_joined(b, start, end))
    after = fused(graph)
    assert ops(after) == (left or ["concat", "slice"])
    assert_equal_functions(graph, after)


@pytest.mark.parametrize("op", ["sub", "div"])
@pytest.mark.parametrize(
    ("ways", "once"),
    [
        ((("exp", (2, 3, 3)), ("exp", (2, 3, 3))), True),
        ((("exp", (2, 3, 3)), ("tanh", (2, 3, 3))), False),
        ((("reshape", (2, 3, 3)), ("reshape", (2, 1, 3, 3))), False),  # a reshape is what it is made to
        ((("unmodelled", (2, 3, 3)), ("unmodelled", (2, 3, 3))), False),  # each may draw its own
    ],
)
def test_what_is_computed_twice_to_be_compared(op: str, ways: Sequence[tuple[str, Shape]], once: bool) -> None:
    b = Build(x=(2, 3, 3))
    first, second = (b(way, "x", shape=shape) for way, shape in ways)
    graph = b.graph(b(op, first, second, shape=ways[1][1]))
    after = fused(graph)
    assert (len(set(after.nodes[-1].inputs)) == 1) is once


def test_what_is_computed_twice_may_be_as_deep_as_a_network() -> None:
    b = Build(x=(2, 3))
    first = second = "x"
    for _ in range(1200):
        first, second = b("exp", first), b("exp", second)
    assert len(set(fused(b.graph(b("sub", first, second))).nodes[-1].inputs)) == 1


def _around(b: Build, before: tuple[int, int] | None, after: tuple[int, int] | None, axis: int) -> str:
    """The value between copies of its own ends."""
    shape = b.values["x"].shape
    assert shape is not None

    def cut(ends: tuple[int, int] | None) -> list[str]:
        if ends is None:
            return []
        size = len(range(*slice(*ends).indices(int(shape[axis]))))
        part = (*shape[:axis], size, *shape[axis + 1 :])
        return [b("slice", "x", shape=part, axes=(axis,), starts=(ends[0],), ends=(ends[1],), steps=(1,))]

    parts = [*cut(before), "x", *cut(after)]
    total = sum(int((b.values[part].shape or ())[axis]) for part in parts)
    return b("concat", *parts, shape=(*shape[:axis], total, *shape[axis + 1 :]), axis=axis)


@pytest.mark.parametrize(
    ("before", "after", "axis", "pads"),
    [
        ((-2, 1 << 40), (0, 2), 2, (2, 2)),
        ((4, 7), (0, 1), 1, (3, 1)),
        (None, (0, 3), 1, (0, 3)),
        ((-1, 7), None, 1, (1, 0)),
        ((0, 7), (0, 7), 1, (7, 7)),
    ],
)
def test_a_circular_padding_written_in_slices(
    before: tuple[int, int] | None, after: tuple[int, int] | None, axis: int, pads: tuple[int, int]
) -> None:
    b = Build(x=(2, 7, 4))
    graph = b.graph(_around(b, before, after, axis))
    after_it = fused(graph)
    assert ops(after_it) == ["pad"]
    found = after_it.nodes[0].attribute("pads")
    assert (found[axis], found[3 + axis], sum(found)) == (*pads, sum(pads))
    assert_equal_functions(graph, after_it)


@pytest.mark.parametrize(
    ("before", "after"),
    [((0, 2), (0, 2)), ((-2, 7), (5, 7)), ((-2, 7), (1, 3)), ((4, 6), None), (None, (1, 3))],
)
def test_other_copies_around_a_value_are_no_padding(
    before: tuple[int, int] | None, after: tuple[int, int] | None
) -> None:
    b = Build(x=(2, 7, 4))
    assert "pad" not in ops(fused(b.graph(_around(b, before, after, 1))))


def test_a_product_that_two_masks_meet_is_left() -> None:
    b = Build(q=(2, 3, 5, 4), k=(2, 3, 4, 5), v=(2, 3, 5, 4), m=(5, 5), n=(5, 5))
    logits = b("add", b("add", b("matmul", "q", "k", shape=(2, 3, 5, 5)), "m"), "n")
    y = b("matmul", b("softmax", logits), "v", shape=(2, 3, 5, 4))
    assert "attention" not in ops(fuse(b.graph(y)))


def test_weights_that_are_returned_stay() -> None:
    b = Build(q=(2, 3, 5, 4), k=(2, 3, 4, 5), v=(2, 3, 5, 4))
    weights = b("softmax", b("matmul", "q", "k", shape=(2, 3, 5, 5)))
    graph = b.graph(b("matmul", weights, "v", shape=(2, 3, 5, 4)), weights)
    after = fused(graph)
    assert ops(after) == ["matmul", "softmax", "transpose", "attention"]
    assert_equal_functions(graph, after)


LINEAR = [
    ("linear", (2, 8), (2, 3), number(np.ones((3, 8)), "w"), {}, (3,)),
    ("linear", (2, 5, 8), (2, 5, 3), number(np.ones((3, 8)), "w"), {}, (1, 1, 3)),
    ("conv", (2, 4, 5, 5), (2, 3, 5, 5), number(np.ones((3, 4, 1, 1)), "w"), {}, (3, 1, 1)),
]


@pytest.mark.parametrize(("op", "shape", "out", "weight", "attributes", "bias"), LINEAR)
def test_a_bias_behind_a_linear_map(
    op: str, shape: Shape, out: Shape, weight: Parameter, attributes: dict[str, Any], bias: Sequence[int]
) -> None:
    b = Build(x=shape)
    if op == "conv":
        attributes = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    y = b(op, "x", shape=out, p={"weight": weight}, **attributes)
    graph = b.graph(b("bias", y, p={"bias": number(np.arange(3.0).reshape(bias), "b")}))
    after = fused(graph)
    assert ops(after) == [op]
    assert (after.nodes[0].name, after.nodes[0].sources) == ("n0", ("n0", "n1"))
    assert after.nodes[0].parameters["bias"].shape == (3,)
    assert_equal_functions(graph, after)


@pytest.mark.parametrize("bias", [(2, 3), (1,), (2, 1)])
def test_a_bias_of_another_shape_stays_apart(bias: Sequence[int]) -> None:
    b = Build(x=(2, 8))
    y = b("linear", "x", shape=(2, 3), p={"weight": number(np.ones((3, 8)))})
    assert ops(fused(b.graph(b("bias", y, p={"bias": number(np.ones(bias))})))) == ["linear", "bias"]


def test_a_bias_that_only_one_of_two_readers_adds_stays_apart() -> None:
    b = Build(x=(2, 8))
    y = b("linear", "x", shape=(2, 3), p={"weight": number(np.ones((3, 8)))})
    graph = b.graph(b("bias", y, p={"bias": number(np.ones(3))}), b("relu", y))
    assert ops(fused(graph)) == ["linear", "bias", "relu"]


UNARY = ["relu", "tanh", "sigmoid", "erf", "exp", "softplus", "identity", "abs", "hardsigmoid"]
STEP = st.tuples(
    st.sampled_from([*UNARY, "scale", "bias", "clip", "mul", "add", "sub", "maximum", "reduce_mean"]),
    st.integers(0, 50),
    st.integers(0, 50),
    st.sampled_from([-1.0, 0.5, 1.0, 3.0, 1.702, 0.0]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=14), st.integers(1, 3))
def test_any_graph_keeps_its_function(steps: Sequence[tuple[str, int, int, float]], outputs: int) -> None:
    b = Build(x=(2, 4), z=(2, 4))
    names = ["x", "z"]
    for op, first, second, constant in steps:
        a, c = names[-1 - first % len(names)], names[-1 - second % len(names)]
        if op == "scale":
            names.append(b(op, a, factor=constant))
        elif op == "bias":
            names.append(b(op, a, p={"bias": number(constant)}))
        elif op == "clip":
            names.append(b(op, a, min=0.0, max=6.0 if constant > 0 else None))
        elif op == "reduce_mean":
            names.append(b("expand", b(op, a, axes=(1,), shape=(2, 1)), shape=(2, 4)))
        else:
            names.append(b(op, a) if op in UNARY else b(op, a, c))
    graph = b.graph(*dict.fromkeys(names[-outputs:]))
    after = fuse(graph)
    assert_valid(after)
    assert fuse(after) is after
    assert (after.inputs, after.outputs) == (graph.inputs, graph.outputs)
    assert_equal_functions(graph, after)
