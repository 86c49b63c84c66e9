"""Operators of ONNX as canonical operations: attributes, conventions by opset, weights in the canonical layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from gnelint.errors import ModelError
from gnelint.ir.graph import UNMODELLED
from gnelint.readers.onnx.reader import read
from tests.readers.onnx.build import load, model, node, one, ops

MOVES = {"reshape", "transpose", "slice", "split", "identity", "expand"}
RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_conv(tmp_path: Path) -> None:
    w, b = weight(8, 2, 3, 3), weight(8)
    graph = one(tmp_path, "Conv", (2, 4, 9, 9), {"w": w, "b": b}, strides=[2, 1], pads=[1, 0, 1, 2], group=2)
    (conv,) = graph.nodes
    assert conv.op == "conv"
    assert (conv.attribute("strides"), conv.attribute("pads")) == ((2, 1), (1, 0, 1, 2))
    assert (conv.attribute("dilations"), conv.attribute("groups")) == ((1, 1), 2)
    assert graph.values["y"].shape == (2, 8, 5, 9)
    np.testing.assert_array_equal(conv.parameters["weight"].array(), w)
    np.testing.assert_array_equal(conv.parameters["bias"].array(), b)


@pytest.mark.parametrize(
    ("mode", "pads"), [("SAME_UPPER", (0, 0, 1, 1)), ("SAME_LOWER", (1, 1, 0, 0)), ("VALID", (0,) * 4)]
)
def test_auto_pad(mode: str, pads: tuple[int, ...], tmp_path: Path) -> None:
    graph = one(tmp_path, "Conv", (1, 2, 8, 8), {"w": weight(2, 2, 3, 3)}, strides=[2, 2], auto_pad=mode)
    assert graph.nodes[0].attribute("pads") == pads


def test_conv_transpose_output_shape(tmp_path: Path) -> None:
    graph = one(tmp_path, "ConvTranspose", (1, 2, 4, 4), {"w": weight(2, 3, 3, 3)}, strides=[2, 2], output_shape=[8, 8])
    (found,) = graph.nodes
    assert graph.values["y"].shape == (1, 3, 8, 8)
    pads, added = found.attribute("pads"), found.attribute("output_padding")
    assert [2 * 3 + 3 - pads[i] - pads[i + 2] + added[i] for i in range(2)] == [8, 8]


def test_matmul_and_add_are_a_linear_layer(tmp_path: Path) -> None:
    w, b = weight(6, 4), weight(4)
    nodes = [node("MatMul", ["x", "w"], ["m"], name="fc"), node("Add", ["b", "m"], ["y"], name="fc_bias")]
    graph = load(model(nodes, {"x": (2, 3, 6)}, weights={"w": w, "b": b}), tmp_path)
    (linear,) = graph.nodes
    assert (linear.name, linear.op, linear.sources) == ("fc", "linear", ("fc", "fc_bias"))
    np.testing.assert_array_equal(linear.parameters["weight"].array(), w.T)
    np.testing.assert_array_equal(linear.parameters["bias"].array(), b)
    assert "m" not in graph.values


def test_bias_is_not_merged_when_the_product_is_read_elsewhere(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    graph = load(model(nodes, {"x": (3, 6)}, ["y", "m"], {"w": weight(6, 4), "b": weight(4)}), tmp_path)
    assert ops(graph) == ["linear", "bias"]


def test_weight_on_the_left(tmp_path: Path) -> None:
    w = weight(5, 6)
    graph = load(model([node("MatMul", ["w", "x"], ["y"])], {"x": (2, 6, 3)}, weights={"w": w}), tmp_path)
    assert ops(graph) == ["transpose", "linear", "transpose"]
    assert graph.values["y"].shape == (2, 5, 3)
    np.testing.assert_array_equal(graph.nodes[1].parameters["weight"].array(), w)


@pytest.mark.parametrize(("flip_a", "flip_b", "alpha", "beta"), [(0, 1, 1.0, 1.0), (0, 0, 1.0, 1.0), (1, 0, 0.5, 2.0)])
def test_gemm(flip_a: int, flip_b: int, alpha: float, beta: float, tmp_path: Path) -> None:
    w, c = weight(4, 6) if flip_b else weight(6, 4), weight(4)
    shape = (6, 3) if flip_a else (3, 6)
    attributes: dict[str, Any] = {"transA": flip_a, "transB": flip_b, "alpha": alpha, "beta": beta}
    graph = one(tmp_path, "Gemm", shape, {"w": w, "c": c}, **attributes)
    linear = next(found for found in graph.nodes if found.op == "linear")
    np.testing.assert_array_equal(linear.parameters["weight"].array(), w if flip_b else w.T)
    if alpha == 1:
        assert ops(graph) == ["linear"]
        np.testing.assert_array_equal(linear.parameters["bias"].array(), c)
    else:
        assert ops(graph) == ["transpose", "linear", "scale", "bias"]
        assert graph.nodes[2].attribute("factor") == alpha
        assert graph.nodes[3].attribute("factor") == beta


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_takes_the_mode_of_the_reading(training: bool, tmp_path: Path) -> None:
    weights = {name: np.ones(3, np.float32) for name in "sbmv"}
    nodes = [node("BatchNormalization", ["x", *weights], ["y", "rm", "rv"], training_mode=1, epsilon=1e-3)]
    graph = load(model(nodes, {"x": (4, 3, 5, 5)}, ["y", "rm"], weights), tmp_path, training=training)
    (norm,) = graph.nodes
    assert norm.attribute("training") is training
    assert norm.attribute("epsilon") == pytest.approx(1e-3)
    assert sorted(norm.parameters) == ["bias", "running_mean", "running_var", "scale"]
    assert graph.outputs == ("y",)


def test_softmax_before_opset_13_flattens(tmp_path: Path) -> None:
    assert ops(one(tmp_path, "Softmax", (2, 3, 4), opset=11)) == ["reshape", "softmax", "reshape"]
    assert ops(one(tmp_path, "Softmax", (2, 3), opset=11)) == ["softmax"]
    new = one(tmp_path, "Softmax", (2, 3, 4), opset=13, axis=1)
    assert (ops(new), new.nodes[0].attribute("axis")) == (["softmax"], 1)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_reduce_axes(opset: int, tmp_path: Path) -> None:
    if opset < 18:
        graph = one(tmp_path, "ReduceMean", (2, 3, 4), opset=opset, axes=[-1, 1], keepdims=0)
    else:
        graph = one(tmp_path, "ReduceMean", (2, 3, 4), {"axes": np.array([-1, 1])}, opset=opset, keepdims=0)
    (found,) = graph.nodes
    assert (found.op, found.attribute("axes"), found.attribute("keepdims")) == ("reduce_mean", (1, 2), False)


def test_clip_forms(tmp_path: Path) -> None:
    old = one(tmp_path, "Clip", (2,), opset=6, min=0.0, max=6.0)
    new = one(tmp_path, "Clip", (2,), {"low": np.float32(0), "high": np.float32(6)}, opset=13)
    for graph in (old, new):
        assert (ops(graph), dict(graph.nodes[0].attributes)) == (["clip"], {"min": 0.0, "max": 6.0})
    assert ops(one(tmp_path, "Clip", (2,), {"low": np.float32(0)}, opset=13)) == ["relu"]


def test_group_norm_scale_by_group_or_channel(tmp_path: Path) -> None:
    by_group = {"s": np.array([1, 2], np.float32), "b": np.zeros(2, np.float32)}
    old = one(tmp_path, "GroupNormalization", (2, 4, 3, 3), by_group, opset=18, num_groups=2)
    np.testing.assert_array_equal(old.nodes[0].parameters["scale"].array(), [1, 1, 2, 2])
    by_channel = {"s": np.arange(4, dtype=np.float32), "b": np.zeros(4, np.float32)}
    new = one(tmp_path, "GroupNormalization", (2, 4, 3, 3), by_channel, opset=21, num_groups=2)
    np.testing.assert_array_equal(new.nodes[0].parameters["scale"].array(), [0, 1, 2, 3])


def test_ceil_mode_is_padding_at_the_end(tmp_path: Path) -> None:
    graph = one(tmp_path, "MaxPool", (1, 1, 6, 6), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    assert graph.values["y"].shape == (1, 1, 3, 3)
    assert graph.nodes[0].attribute("pads") == (0, 0, 1, 1)


def test_arithmetic_with_constants(tmp_path: Path) -> None:
    c = weight(4)
    for op, found in (("Add", "bias"), ("Sub", "bias"), ("Mul", "scale"), ("Div", "scale")):
        graph = one(tmp_path, op, (3, 4), {"c": c})
        assert ops(graph) == [found]
        np.testing.assert_array_equal(graph.nodes[0].parameters[found].array(), c)
    assert one(tmp_path, "Sub", (3, 4), {"c": c}).nodes[0].attribute("factor") == -1.0
    assert one(tmp_path, "Div", (3, 4), {"c": c}).nodes[0].attribute("reciprocal") is True
    half = one(tmp_path, "Mul", (3, 4), {"c": np.float32(0.5)})
    assert (half.nodes[0].attribute("factor"), dict(half.nodes[0].parameters)) == (0.5, {})
    reversed_ = load(model([node("Sub", ["c", "x"], ["y"])], {"x": (3, 4)}, weights={"c": c}), tmp_path)
    assert ops(reversed_) == ["scale", "bias"]
    square = load(model([node("Mul", ["x", "x"], ["y"])], {"x": (3,)}), tmp_path)
    assert (ops(square), square.nodes[0].attribute("exponent")) == (["pow"], 2.0)


def test_constant_that_broadcasts_the_input(tmp_path: Path) -> None:
    graph = one(tmp_path, "Add", (1, 4), {"c": weight(3, 1)})
    assert ops(graph) == ["expand", "bias"]
    assert graph.values["y"].shape == (3, 4)


@pytest.mark.parametrize(("start", "end", "step"), [(1, 5, 2), (-3, 9, 1), (5, -9, -2), (6, 0, -1)])
def test_slice_ranges(start: int, end: int, step: int, tmp_path: Path) -> None:
    bounds = {"s": np.array([start]), "e": np.array([end]), "a": np.array([1]), "k": np.array([step])}
    graph = one(tmp_path, "Slice", (2, 7), bounds)
    row = np.arange(7)
    for found in graph.nodes:
        if found.op == "flip":
            row = row[::-1]
        else:
            (s,), (e,), (k,) = (found.attribute(name) for name in ("starts", "ends", "steps"))
            assert 0 <= s <= e <= 7
            assert k > 0
            row = row[s:e:k]
    expected = np.arange(7)[slice(start, None if step < 0 and end < -7 else end, step)]
    np.testing.assert_array_equal(row, expected)
    assert graph.values["y"].shape == (2, len(expected))


@pytest.mark.parametrize(
    ("split", "sizes"), [(np.array(2), [2, 2, 1]), (np.array([3, 2]), [3, 2]), (np.array([5]), [5]), (None, [1] * 5)]
)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_parts_picked_from_a_sequence(
    split: np.ndarray | None, sizes: list[int], keepdims: int, tmp_path: Path
) -> None:
    weights = {"i": np.array(-1)} if split is None else {"split": split, "i": np.array(-1)}
    cut = node("SplitToSequence", ["x", *(["split"] if split is not None else [])], ["s"], axis=1, keepdims=keepdims)
    graph = load(model([cut, node("SequenceAt", ["s", "i"], ["y"])], {"x": (2, 5)}, weights=weights), tmp_path)
    dropped = split is None and not keepdims
    assert ops(graph) == ["split", *(["reshape"] * 5 if dropped else [])]
    assert graph.nodes[0].attribute("sizes") == tuple(sizes)
    assert graph.values[graph.outputs[0]].shape == ((2,) if dropped else (2, sizes[-1]))
    assert set(graph.values) == {"x", *(name for found in graph.nodes for name in found.outputs)}


def test_a_sequence_that_something_takes_whole_is_unmodelled(tmp_path: Path) -> None:
    nodes = [
        node("SplitToSequence", ["x", "split"], ["s"], axis=1),
        node("SequenceAt", ["s", "i"], ["first"]),
        node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    weights = {"split": np.array(2), "i": np.array(0)}
    graph = load(model(nodes, {"x": (2, 4)}, ["first", "y"], weights), tmp_path)
    assert ops(graph) == [UNMODELLED, "split", UNMODELLED]
    assert [found.source_op for found in graph.nodes] == ["SplitToSequence", "SplitToSequence", "ConcatFromSequence"]


def test_a_part_that_is_not_there_is_unmodelled(tmp_path: Path) -> None:
    nodes = [node("SplitToSequence", ["x", "split"], ["s"], axis=1), node("SequenceAt", ["s", "i"], ["y"])]
    graph = load(model(nodes, {"x": (2, 5)}, weights={"split": np.array(2), "i": np.array(3)}), tmp_path)
    assert [(found.op, found.source_op) for found in graph.nodes if "y" in found.outputs] == [
        (UNMODELLED, "SequenceAt")
    ]


def test_a_concatenation_reads_no_part_without_entries(tmp_path: Path) -> None:
    """Such a part has no moments: the whole was run on draws for it."""
    ends = {"from": np.array([4]), "to": np.array([4]), "axis": np.array([1])}
    cut = node("Slice", ["x", "from", "to", "axis"], ["none"])
    graph = load(model([cut, node("Concat", ["x", "none"], ["y"], axis=1)], {"x": (2, 4)}, weights=ends), tmp_path)
    assert ops(graph)[-1] == "identity"
    assert graph.nodes[-1].inputs == ("x",)
    parts = [cut, node("Concat", ["x", "none", "x"], ["y"], axis=1)]
    graph = load(model(parts, {"x": (2, 4)}, weights=ends), tmp_path)
    assert graph.nodes[-1].inputs == ("x", "x")
    assert graph.values["y"].shape == (2, 8)


def test_gather_forms(tmp_path: Path) -> None:
    table = weight(10, 4)
    nodes = [node("Gather", ["t", "ids"], ["y"])]
    proto = model(nodes, {"ids": (2, 3)}, weights={"t": table}, types={"ids": TensorProto.INT64})
    graph = load(proto, tmp_path)
    assert ops(graph) == ["embedding"]
    np.testing.assert_array_equal(graph.nodes[0].parameters["weight"].array(), table)
    select = one(tmp_path, "Gather", (2, 5, 4), {"i": np.array(-1)}, axis=1)
    assert ops(select) == ["slice", "reshape"]
    assert select.nodes[0].attribute("starts") == (4,)
    assert select.values["y"].shape == (2, 4)


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)], (2, 3, 4, 6)),
        ("bij,bjk->bki", [(2, 3, 4), (2, 4, 5)], (2, 5, 3)),
    ],
)
def test_einsum_of_two_values(equation: str, shapes: list[Any], expected: tuple[int, ...], tmp_path: Path) -> None:
    nodes = [node("Einsum", ["a", "b"], ["y"], equation=equation)]
    graph = load(model(nodes, {"a": shapes[0], "b": shapes[1]}), tmp_path)
    assert "matmul" in ops(graph)
    assert UNMODELLED not in ops(graph)
    assert graph.values["y"].shape == expected


def test_einsum_with_a_weight_is_a_linear_map(tmp_path: Path) -> None:
    w = weight(6, 2, 5)
    graph = one(tmp_path, "Einsum", (3, 4, 6), {"w": w}, equation="btd,dhk->bthk")
    linear = next(found for found in graph.nodes if found.op == "linear")
    np.testing.assert_array_equal(linear.parameters["weight"].array(), w.reshape(6, 10).T)
    assert graph.values["y"].shape == (3, 4, 2, 5)


def test_attention_23(tmp_path: Path) -> None:
    shape = (2, 6, 16)
    nodes = [node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=4, is_causal=1, softcap=30.0)]
    graph = load(model(nodes, {"q": shape, "k": shape, "v": shape}, opset=23), tmp_path)
    (found,) = graph.nodes
    assert (found.op, found.attribute("packed"), found.attribute("heads"), found.attribute("causal")) == (
        "attention", True, 4, True,
    )  # fmt: skip
    assert found.attribute("softcap") == 30.0


def test_unknown_operators_are_unmodelled_and_named(tmp_path: Path) -> None:
    nodes = [node("Fancy", ["x"], ["h"], domain="my.domain", name="odd"), node("Relu", ["h"], ["y"])]
    graph = load(model(nodes, {"x": (2, 3)}, domains={"my.domain": 1}), tmp_path)
    assert [(found.op, found.source_op) for found in graph.nodes] == [(UNMODELLED, "my.domain.Fancy"), ("relu", "Relu")]


def test_operator_read_through_its_definition(tmp_path: Path) -> None:
    weights = {"cos": weight(2, 8, 2), "sin": weight(2, 8, 2)}
    graph = one(tmp_path, "RotaryEmbedding", (2, 3, 8, 4), weights, opset=23)
    assert {"scale", "concat"} <= set(ops(graph)) <= {"scale", "concat", "sub", "add", *MOVES}
    assert graph.values["y"].shape == (2, 3, 8, 4)


def test_functions_are_expanded_with_their_attributes(tmp_path: Path) -> None:
    body = helper.make_node("LeakyRelu", ["h"], ["out"], name="act")
    body.attribute.append(AttributeProto(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="slope"))
    function = helper.make_function(
        "local", "Layer", ["a", "w"], ["out"], [helper.make_node("MatMul", ["a", "w"], ["h"], name="mm"), body],
        [helper.make_opsetid("", 17)], attributes=["slope"],
    )  # fmt: skip
    nodes = [
        node("Layer", ["x", "w1"], ["h"], domain="local", name="first", slope=0.1),
        node("Layer", ["h", "w2"], ["y"], domain="local", name="second", slope=0.2),
    ]
    weights = {"w1": weight(4, 5), "w2": weight(5, 6)}
    graph = load(model(nodes, {"x": (2, 4)}, weights=weights, functions=[function], domains={"local": 1}), tmp_path)
    assert [found.name for found in graph.nodes] == ["first/mm", "first/act", "second/mm", "second/act"]
    assert [found.attribute("alpha") for found in graph.nodes if found.op == "leaky_relu"] == pytest.approx([0.1, 0.2])
    assert graph.values[graph.outputs[0]].shape == (2, 6)


def _branches() -> dict[str, Any]:
    out = [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2, 3])]
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["o"], name="in_then")], "t", [], out)
    other = helper.make_graph([helper.make_node("Tanh", ["x"], ["o"], name="in_else")], "e", [], out)
    return {"then_branch": then, "else_branch": other}


def test_decided_branch_is_entered(tmp_path: Path) -> None:
    nodes = [node("If", ["c"], ["y"], name="if", **_branches())]
    graph = load(model(nodes, {"x": (2, 3)}, weights={"c": np.array(False)}), tmp_path)
    assert [(found.op, found.name) for found in graph.nodes] == [("tanh", "in_else")]


def test_undecided_branches_are_graphs_of_their_own(tmp_path: Path) -> None:
    nodes = [node("If", ["c"], ["y"], name="if", **_branches())]
    graph = load(model(nodes, {"x": (2, 3), "c": ()}, types={"c": TensorProto.BOOL}), tmp_path)
    (found,) = graph.nodes
    assert (found.op, found.source_op) == (UNMODELLED, "If")
    assert "x" in found.present_inputs
    assert {name: ops(body) for name, body in graph.subgraphs.items()} == {
        "if/then_branch": ["relu"], "if/else_branch": ["tanh"],
    }  # fmt: skip


def _hiding(kind: str) -> onnx.NodeProto:
    """Control flow that writes y; so does its body, from a value that it calls as the network calls its output."""

    def value(name: str, shape: list[int], code: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, code, shape)

    act, keep = helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Identity", ["go"], ["still"])
    if kind == "Loop":
        turns, go = value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL)
        results = [value("still", [], TensorProto.BOOL), value("y", [4, 3])]
        body = helper.make_graph([act, keep], "b", [turns, go, value("a", [4, 3])], results)
        return node("Loop", ["n", "c", "x"], ["y"], name="it", body=body)
    if kind == "Scan":
        body = helper.make_graph([act], "b", [value("a", [3])], [value("y", [3])])
        return node("Scan", ["x"], ["y"], name="it", num_scan_inputs=1, body=body)
    taken = helper.make_graph([helper.make_node("Tanh", ["x"], ["a"]), act], "t", [], [value("y", [4, 3])])
    return node("If", ["c"], ["y"], name="it", then_branch=taken, else_branch=taken)


@pytest.mark.parametrize("kind", ["Loop", "If", "Scan"])
def test_a_body_may_use_names_of_the_graph_around_it(tmp_path: Path, kind: str) -> None:
    nodes = [node("Tanh", ["y"], ["a"], name="last"), _hiding(kind)]
    proto = model(nodes, {"x": (4, 3), "c": ()}, ["a"], {"n": np.array(3)}, types={"c": TensorProto.BOOL})
    graph = load(proto, tmp_path)
    assert [found.name for found in graph.nodes if "/" not in found.name][-1] == "last"
    assert graph.nodes[-1].inputs == ("y",)
    assert graph.outputs == ("a",)


def test_a_branch_may_name_its_weights_as_the_graph_does(tmp_path: Path) -> None:
    out = [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2, 3])]
    own = np.full((3, 3), 2.0, np.float32)
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["h", "w"], ["o"], name="inside")],
        "t",
        [],
        out,
        [numpy_helper.from_array(own, "w")],
    )
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="outside"),
        node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch),
    ]
    weights = {"w": np.ones((3, 3), np.float32), "c": np.array(True)}
    graph = load(model(nodes, {"x": (2, 3)}, weights=weights), tmp_path)
    outside, inside = (found.parameters["weight"] for found in graph.nodes)
    assert (outside.name, inside.name) == ("w", "w (if)")
    assert (outside.array().max(), inside.array().max()) == (1.0, 2.0)


def test_a_branch_for_other_sizes_is_left_out(tmp_path: Path) -> None:
    """Two sampling rates in one file: no length of the input fits both branches, so that the other one is what runs."""

    def branch(size: int) -> onnx.GraphProto:
        out = [helper.make_tensor_value_info("o", TensorProto.FLOAT, [8, 4])]
        own = numpy_helper.from_array(np.ones((size, 4), np.float32), "w")
        return helper.make_graph([helper.make_node("MatMul", ["r", "w"], ["o"], name=f"of{size}")], "b", [], out, [own])

    def two(first: int, second: int, samples: int | str = "samples") -> onnx.ModelProto:
        decide = node("If", ["c"], ["y"], name="if", then_branch=branch(first), else_branch=branch(second))
        nodes = [node("Relu", ["x"], ["r"], name="relu"), decide]
        return model(nodes, {"x": (8, samples), "c": ()}, types={"c": TensorProto.BOOL})

    graph = load(two(512, 256), tmp_path)
    assert graph.values["x"].shape == (8, 512)
    assert not graph.subgraphs
    assert "if/else_branch does not fit these sizes and was left out." in graph.notes
    assert [(found.name, found.op) for found in graph.nodes] == [("relu", "relu"), ("of512", "linear")]
    assert graph.deciding == {"c"}
    with pytest.raises(ModelError, match="does not fit its inputs"):
        load(two(7, 9, 128), tmp_path)


def test_names_scopes_and_locations(tmp_path: Path) -> None:
    trace = (
        'File "/home/me/net.py", line 12, in forward\n  File "/x/site-packages/torch/nn/modules/conv.py", line 5, in f'
    )
    first = node("Conv", ["x", "w"], ["c"], name="/layer1/layer1.0/conv1/Conv")
    first.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    nodes = [first, node("Relu", ["c"], ["r"], name="/layer1/layer1.0/Relu"), node("Relu", ["r"], ["q"]),
             node("Add", ["r", "q"], ["y"], name="/layer1/layer1.0/Add")]  # fmt: skip
    graph = load(model(nodes, {"x": (1, 2, 4, 4)}, weights={"w": weight(2, 2, 1, 1)}), tmp_path)
    assert [found.scope for found in graph.nodes] == ["layer1.0", "layer1.0", "", "layer1.0"]
    assert graph.nodes[2].name == "Relu_q"
    place = graph.nodes[0].location
    assert place is not None
    assert (place.file, place.line) == ("/home/me/net.py", 12)


def test_folded_normalisation_is_said(tmp_path: Path) -> None:
    conv = node("Conv", ["x", "w"], ["y"])
    conv.metadata_props.add(key="pkg.onnxscript.rewriter.rule_name", value="FuseBatchNormIntoConv")
    graph = load(model([conv], {"x": (1, 2, 4, 4)}, weights={"w": weight(2, 2, 1, 1)}), tmp_path)
    assert any("folded normalisation" in note for note in graph.notes)


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    nodes = [node("Relu", ["h"], ["y"], name="b"), node("Tanh", ["x"], ["h"], name="a")]
    assert ops(load(model(nodes, {"x": (2,)}), tmp_path)) == ["tanh", "relu"]


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = tmp_path / "model.onnx"
    path.write_bytes(model([node("Relu", ["x"], ["y"])], {"x": (2,)}).SerializeToString())
    assert read(path).outputs == ("y",)
    code = (
        "import sys, pathlib; from gnelint.readers.onnx.reader import read; "
        f"read(pathlib.Path({str(path)!r})); print('torch' in sys.modules, 'onnx.reference' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_numbers_written_into_a_filled_constant_are_numbers(tmp_path: Path) -> None:
    """A filter bank that is scattered into zeros (torch's exporter writes sparse ones so) has weights, no stand-in."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    bank (float[N, 4] x) => (float[N, 3] y)
    <int64[1] size = {12}, int64[4] places = {0, 4, 8, 11}, float[4] numbers = {0.5, 1, 1.5, 2},
     int64[2] shape = {4, 3}>
    {
        zeros = ConstantOfShape <value = float[1] {0}> (size)
        flat = ScatterElements <axis = 0> (zeros, places, numbers)
        weight = Reshape (flat, shape)
        y = MatMul (x, weight)
    }"""
    path = tmp_path / "bank.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    (layer,) = read(path).nodes
    weight = layer.parameters["weight"]
    assert weight.provenance == "data"
    assert sorted(set(weight.array().ravel().tolist())) == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_noise_that_is_added_to_weights_leaves_them_weights(tmp_path: Path) -> None:
    """A noisy network's layer, its noise a product of two vectors, is a linear one as in the module."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    noisy (float[N, 4] x) => (float[N, 3] y)
    <float[3, 4] middle = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
     float[3, 4] spread = {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}>
    {
        rows = RandomNormal <shape = [3, 1]> ()
        columns = RandomNormal <shape = [1, 4]> ()
        noise = Mul (rows, columns)
        scaled = Mul (spread, noise)
        weight = Add (middle, scaled)
        turned = Transpose <perm = [1, 0]> (weight)
        y = MatMul (x, turned)
    }"""
    path = tmp_path / "noisy.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    (layer,) = read(path).nodes
    weight = layer.parameters["weight"]
    assert (layer.op, weight.transform, weight.kind) == ("linear", "random", "parameter")
    noise = (weight.array() - 1.0) / 2.0
    assert np.linalg.matrix_rank(noise, tol=1e-5) == 1
    assert len(np.unique(noise)) == noise.size


def test_what_is_decided_by_noise_is_no_constant(tmp_path: Path) -> None:
    """A mask that is drawn anew in every pass hides other entries each time."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    masked (float[2, 4] x) => (float[2, 4] y)
    <float[1] level = {0}>
    {
        noise = RandomNormal <shape = [2, 4]> ()
        drawn = Greater (noise, level)
        mask = Cast <to = 1> (drawn)
        y = Mul (x, mask)
    }"""
    path = tmp_path / "masked.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    assert "compare" in [node.op for node in read(path).nodes]


@pytest.mark.parametrize("measured", [True, False])
def test_what_fills_the_size_of_another_value_is_no_weight(tmp_path: Path, measured: bool) -> None:
    """Zeros like a value are the program's; of a size that the file states they stand for weights that it lacks."""
    size = "sizes = Shape (x)" if measured else "sizes = Identity (stated)"
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    filled (float[3, 4] x) => (float[3, 4] y) <int64[2] stated = {{3, 4}}>
    {{
        {size}
        zeros = ConstantOfShape <value = float[1] {{0}}> (sizes)
        y = Add (x, zeros)
    }}"""
    path = tmp_path / "filled.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    (added,) = (parameter for each in read(path).nodes for parameter in each.parameters.values())
    assert (added.kind, added.provenance) == (("constant", "data") if measured else ("parameter", "placeholder"))


def test_numbers_without_a_record_are_the_exporters(tmp_path: Path) -> None:
    """Where an exporter says what the parameters are, a single number that it says nothing of is none."""
    record = "pkg.torch.export.graph_signature.InputSpec.kind"
    values = {"slope": weight(1), "level": weight(1), "merged": weight(4)}
    nodes = [node("Mul", [x, w], [y]) for x, w, y in (("x", "slope", "a"), ("a", "level", "b"), ("b", "merged", "y"))]
    path = tmp_path / "m.onnx"
    proto = model(nodes, {"x": (2, 4)}, ("y",), values)
    value = helper.make_tensor_value_info("slope", TensorProto.FLOAT, (1,))
    value.metadata_props.add(key=record, value="PARAMETER")
    proto.graph.value_info.append(value)
    onnx.save(proto, path)
    kinds = {p.name: p.kind for each in read(path).nodes for p in each.parameters.values()}
    assert kinds == {"slope": "parameter", "level": "constant", "merged": "parameter"}


def test_a_number_that_values_are_compared_with_is_the_programs_wherever_it_is_read(tmp_path: Path) -> None:
    """TensorFlow's exporter writes one 0 for a mask's bound and for the state that a recurrence starts from."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    shared (float[3, 4] x) => (float[3, 4] y) <float zero = {0}, float[4] slope = {1, 2, 3, 4}, int64[2] size = {3, 4}>
    {
        positive = Greater (x, zero)
        mask = Cast <to = 1> (positive)
        state = Expand (zero, size)
        started = Add (x, state)
        steeper = Mul (started, slope)
        y = Mul (steeper, mask)
    }"""
    path = tmp_path / "shared.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    found = [leaf for each in read(path).nodes for p in each.parameters.values() for leaf in p.leaves]
    assert {leaf.kind for leaf in found if leaf.name == "zero"} == {"constant"}
    assert {leaf.kind for leaf in found if leaf.name == "slope"} == {"parameter"}


def test_types_that_a_file_mixes_are_named(tmp_path: Path) -> None:
    """torch's older exporter writes einsum over two types, which no size mends."""
    nodes = [
        node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        node("Einsum", ["x", "wide"], ["y"], equation="ab,ab->a"),
    ]
    with pytest.raises(ModelError, match="mixes float32 and float64: cast them"):
        load(model(nodes, {"x": (2, 4)}), tmp_path)
