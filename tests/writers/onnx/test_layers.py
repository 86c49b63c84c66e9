"""Layers are changed in the file as the action changes them in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gnelint.fixes.edits import (
    Action,
    CentreFilters,
    DropBias,
    EditTensor,
    InsertScale,
    InsertSecondMoment,
    Scale,
    SecondMoment,
    Substitute,
    applied,
)
from gnelint.ir.graph import Graph
from gnelint.readers.onnx.reader import read
from tests.readers.onnx.build import model, node
from tests.writers.onnx.written import assert_good, assert_same_function, outputs, write, written

SHAPE = (4, 3, 6, 6)
DRAW = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return DRAW.standard_normal(shape).astype(np.float32)


def save(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    opset: int = 17,
    shape: tuple[int, ...] = SHAPE,
    out: tuple[int | str, ...] = (4, 5, 6, 6),
    ir: int = 10,
) -> Path:
    proto = model(nodes, {"x": shape}, weights=weights, opset=opset)
    proto.ir_version = ir
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, out))
    path = folder / "model.onnx"
    onnx.save(proto, str(path))
    return path


def conv_net(folder: Path, activation: Sequence[onnx.NodeProto] | None = None, opset: int = 17, ir: int = 10) -> Path:
    """Convolution with bias, BatchNormalization, an activation from h to a, convolution."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["h"], name="bn"),
        *(activation or [node("Relu", ["h"], ["a"], name="act")]),
        node("Conv", ["a", "v"], ["y"], name="last", pads=[1, 1, 1, 1]),
    ]
    weights = {"w": draw(5, 3, 3, 3), "b": draw(5), "scale": draw(5), "shift": draw(5), "mean": draw(5)}
    weights |= {"var": np.abs(draw(5)) + 0.5, "v": draw(5, 5, 3, 3)}
    return save(folder, nodes, weights, opset, ir=ir)


def assert_as_planned(source: Path, actions: Sequence[Action], found: Graph, training: bool = True) -> None:
    """The file reads back as the graph that the actions give."""
    planned = applied(read(source, training=training), list(actions))
    assert [n.op for n in found.nodes] == [n.op for n in planned.nodes if n.op != "identity"]
    for one, other in zip(found.nodes, (n for n in planned.nodes if n.op != "identity"), strict=True):
        for role, parameter in one.parameters.items():
            np.testing.assert_allclose(parameter.array(), other.parameters[role].array(), rtol=1e-5, atol=1e-6)
        for name in other.attributes:
            if isinstance(other.attribute(name), float):
                assert one.attribute(name) == pytest.approx(other.attribute(name), rel=1e-6), name


@pytest.mark.parametrize(("opset", "ir"), [(9, 4), (13, 7), (17, 8), (21, 10), (23, 11)])
@pytest.mark.parametrize("inline", [False, True])
def test_batch_becomes_second_moment_normalisation(tmp_path: Path, opset: int, ir: int, inline: bool) -> None:
    source = conv_net(tmp_path, opset=opset, ir=ir)
    actions = [SecondMoment("bn"), CentreFilters("conv"), DropBias("conv")]
    proto, graph = written(source, actions, inline=inline)
    assert_as_planned(source, actions, graph)
    assert graph.node("conv").parameters["weight"].transform is not None
    names = {tensor.name for tensor in proto.graph.initializer}
    assert names >= {"w", "scale", "shift"}
    assert not names & {"b", "mean", "var"}
    if inline or opset < 12:
        assert not proto.functions
        assert proto.ir_version == ir
    else:
        assert [f.name for f in proto.functions] == ["SecondMomentNorm2d"]
        assert {o.domain: o.version for o in proto.opset_import} == {"": opset, "gnelint": 1}
        assert proto.ir_version == max(ir, 8)


def test_the_normalisation_computes_its_formula(tmp_path: Path) -> None:
    nodes = [node("BatchNormalization", ["x", "scale", "shift", "m", "v"], ["y"], name="bn")]
    scale, shift = draw(3), draw(3)
    weights = {"scale": scale, "shift": shift, "m": draw(3), "v": np.abs(draw(3))}
    source = save(tmp_path, nodes, weights, out=SHAPE)
    written(source, [SecondMoment("bn")])
    from tests.measure.onnx_on_torch.agreement import drawn_inputs

    x = drawn_inputs(source)["x"].astype(np.float64)
    norm = np.sqrt((x**2).mean(axis=(0, 2, 3), keepdims=True)) + 1e-5**0.5
    wanted = x / norm * scale.reshape(1, 3, 1, 1) + shift.reshape(1, 3, 1, 1)
    np.testing.assert_allclose(outputs(tmp_path / "fixed.onnx")["y"], wanted, rtol=1e-4, atol=1e-5)


def test_for_inference_it_folds_into_the_convolution(tmp_path: Path) -> None:
    source = conv_net(tmp_path)
    proto, graph = written(source, [SecondMoment("bn")], training=False)
    assert [n.op_type for n in proto.graph.node] == ["Conv", "Relu", "Conv"]
    before = read(source, training=False)
    bn, conv = before.node("bn").parameters, before.node("conv").parameters
    root = np.sqrt(bn["running_var"].array() + bn["running_mean"].array() ** 2) + 1e-5**0.5
    factors = bn["scale"].array() / root
    after = graph.node("conv").parameters
    np.testing.assert_allclose(after["weight"].array(), conv["weight"].array() * factors.reshape(5, 1, 1, 1), rtol=1e-5)
    np.testing.assert_allclose(after["bias"].array(), conv["bias"].array() * factors + bn["bias"].array(), rtol=1e-5)


def test_for_inference_without_a_convolution_it_is_a_scale_and_a_bias(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("BatchNormalization", ["r", "s", "b", "m", "v"], ["y"], name="bn")]
    weights = {"s": draw(3), "b": draw(3), "m": draw(3), "v": np.abs(draw(3))}
    proto, _ = written(save(tmp_path, nodes, weights, out=SHAPE), [SecondMoment("bn")], training=False)
    assert [n.op_type for n in proto.graph.node] == ["Relu", "Reshape", "Reshape", "Mul", "Add"] or [
        n.op_type for n in proto.graph.node
    ] == ["Relu", "Reshape", "Mul", "Reshape", "Add"]


SUBSTITUTES = [
    ("leaky_relu", {"alpha": 0.3}), ("elu", {"alpha": 1.3}), ("selu", {"alpha": 1.5, "gamma": 1.1}), ("relu", {}),
    ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {}), ("mish", {}), ("hardswish", {}), ("hardsigmoid", {}),
    ("clip", {"min": 0.0, "max": 6.0}), ("clip", {"max": 1.0}), ("tanh", {}), ("sigmoid", {}), ("softplus", {}),
    ("softplus", {"beta": 2.0}), ("softsign", {}), ("log_sigmoid", {}), ("thresholded_relu", {"alpha": 0.5}),
    ("celu", {"alpha": 0.7}), ("shrink", {"lambd": 0.4, "bias": 0.1}), ("identity", {}),
]  # fmt: skip


@pytest.mark.parametrize("opset", [9, 13, 20])
@pytest.mark.parametrize(("op", "attributes"), SUBSTITUTES)
def test_activations_are_substituted(tmp_path: Path, opset: int, op: str, attributes: dict[str, float]) -> None:
    if opset == 9 and op == "thresholded_relu":
        pytest.skip("not in this opset")
    source = conv_net(tmp_path, [node("Sigmoid", ["h"], ["a"], name="act")], opset=opset)
    action = Substitute("act", op, attributes)
    _, graph = written(source, [action])
    if op != "celu" or opset >= 12:  # before, it is written as a scaled elu, and read as one
        assert_as_planned(source, [action], graph)


WRITTEN_OUT = {
    "gelu": [
        node("Div", ["h", "root"], ["e1"]), node("Erf", ["e1"], ["e2"]), node("Add", ["e2", "one"], ["e3"]),
        node("Mul", ["h", "e3"], ["e4"]), node("Mul", ["e4", "half"], ["a"], name="act"),
    ],
    "silu": [node("Sigmoid", ["h"], ["g"]), node("Mul", ["h", "g"], ["a"], name="act")],
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize("op", ["leaky_relu", "identity"])
def test_written_out_activations_are_substituted_whole(tmp_path: Path, name: str, op: str) -> None:
    source = conv_net(tmp_path, WRITTEN_OUT[name])
    proto = onnx.load(str(source))
    for constant, number in (("root", 2**0.5), ("one", 1.0), ("half", 0.5)):
        if name == "gelu":
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(number), constant))
    onnx.save(proto, str(source))
    assert read(source).node("act").op == name
    found, graph = written(source, [Substitute("act", op)])
    assert_as_planned(source, [Substitute("act", op)], graph)
    assert not {"root", "one", "half"} & {tensor.name for tensor in found.graph.initializer}
    assert len(found.graph.node) == 3 + (op != "identity")


def test_a_bias_goes_from_every_kind_of_layer(tmp_path: Path) -> None:
    product = node("MatMul", ["x", "w"], ["h"], name="l")
    cases = {
        "gemm": [node("Gemm", ["x", "w", "b"], ["y"], name="l")],
        "add": [product, node("Add", ["h", "b"], ["y"], name="add")],
        "left": [product, node("Add", ["b", "h"], ["y"], name="add")],
    }
    for opset in (9, 13, 21):
        for name, nodes in cases.items():
            source = save(tmp_path, nodes, {"w": draw(3, 5), "b": draw(5)}, opset, shape=(2, 3), out=(2, 5))
            proto, graph = written(source, [DropBias("l")])
            assert [n.op for n in graph.nodes] == ["linear"], name
            assert "bias" not in graph.nodes[0].parameters
            assert "b" not in {tensor.name for tensor in proto.graph.initializer}
            assert [info.name for info in proto.graph.output] == ["y"]


def test_a_dropped_bias_that_something_else_reads_stays(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="l"),
        node("Add", ["h", "b"], ["a"], name="add"),
        node("Relu", ["a"], ["r"]),
        node("Add", ["r", "b"], ["y"]),
    ]
    source = save(tmp_path, nodes, {"w": draw(3, 5), "b": draw(5)}, shape=(2, 3), out=(2, 5))
    proto, _ = written(source, [DropBias("l")])
    assert [n.op_type for n in proto.graph.node] == ["MatMul", "Relu", "Add"]
    assert "b" in {tensor.name for tensor in proto.graph.initializer}


def test_what_the_file_says_of_a_removed_bias_goes_too(tmp_path: Path) -> None:
    source = conv_net(tmp_path, ir=3, opset=9)
    proto = onnx.load(str(source))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    proto.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, (5,)))
    proto.graph.quantization_annotation.add(tensor_name="b")
    onnx.save(proto, str(source))
    found, _ = written(source, [DropBias("conv")])
    for field in (found.graph.initializer, found.graph.input, found.graph.value_info):
        assert "b" not in {entry.name for entry in field}
    assert len(found.graph.quantization_annotation) == 0
    assert found.ir_version == 3


def test_a_quantised_bias_goes_with_its_dequantisation(tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["b"]),
        node("Conv", ["x", "w", "b"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    weights = {"w": draw(5, 3, 3, 3), "q": np.arange(5, dtype=np.int32), "s": np.float32(0.1)}
    proto, _ = written(save(tmp_path, nodes, weights), [DropBias("conv")])
    assert [n.op_type for n in proto.graph.node] == ["Conv"]
    assert {tensor.name for tensor in proto.graph.initializer} == {"w"}


@pytest.mark.parametrize("opset", [7, 17])
@pytest.mark.parametrize("value", ["x", "h", "y"])
def test_a_value_is_scaled_for_all_that_read_it(tmp_path: Path, opset: int, value: str) -> None:
    nodes = [node("Relu", ["x"], ["h"]), node("Sigmoid", ["h"], ["g"]), node("Mul", ["h", "g"], ["y"])]
    source = save(tmp_path, nodes, {}, opset, out=SHAPE)
    actions = [InsertScale(value, 0.5), InsertScale(f"{value}/scale", 3.0)]
    proto, graph = written(source, actions)
    assert [info.name for info in proto.graph.output] == ["y"]
    factors = [n.attribute("factor") for n in graph.nodes if n.op == "scale"]
    assert factors == [0.5, 3.0]
    metadata = [e.value for n in proto.graph.node if n.op_type == "Mul" for e in n.metadata_props if "factor" in e.key]
    assert metadata == ["0.5", "3"]


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 6), SHAPE, (2, 3, 4, 4, 4)])
def test_a_new_normalisation_stands_behind_a_value(tmp_path: Path, shape: tuple[int, ...], inline: bool) -> None:
    nodes = [node("Tanh", ["x"], ["h"]), node("Tanh", ["h"], ["y"])]
    source = save(tmp_path, nodes, {}, shape=shape, out=shape)
    for value in ("h", "y"):
        action = InsertSecondMoment(value, 3)
        _, graph = written(source, [action], inline=inline)
        assert [n.op for n in graph.nodes].count("second_moment_norm") == 1
        assert_as_planned(source, [action], graph)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("inline", [False, True])
def test_other_types_than_single_precision_are_normalised(tmp_path: Path, dtype: type, inline: bool) -> None:
    proto = model([node("Relu", ["x"], ["h"]), node("Relu", ["h"], ["y"])], {"x": (4, 3, 5)}, opset=17)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto.graph.input[0].type.tensor_type.elem_type = code
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", code, (4, 3, 5)))
    path = tmp_path / "model.onnx"
    onnx.save(proto, str(path))
    assert write(path, [InsertSecondMoment("h", 3)], tmp_path / "fixed.onnx", inline=inline) == ()
    onnx.checker.check_model(str(tmp_path / "fixed.onnx"), full_check=True)
    graph = read(tmp_path / "fixed.onnx")
    assert [n.op for n in graph.nodes] == ["relu", "second_moment_norm", "relu"]


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_filters_of_every_layer_are_centred_in_every_pass(tmp_path: Path, opset: int) -> None:
    layers = {
        "conv": (node("Conv", ["x", "w"], ["y"], name="l"), (2, 3, 6, 6), (5, 3, 3, 3), (2, 5, 4, 4)),
        "transpose": (node("ConvTranspose", ["x", "w"], ["y"], name="l"), (2, 3, 6, 6), (3, 5, 3, 3), (2, 5, 8, 8)),
        "matmul": (node("MatMul", ["x", "w"], ["y"], name="l"), (2, 3), (3, 5), (2, 5)),
        "gemm": (node("Gemm", ["x", "w", "b"], ["y"], name="l", transB=1), (2, 3), (5, 3), (2, 5)),
    }
    for layer, shape, weight, out in layers.values():
        weights = {"w": draw(*weight)} | ({"b": draw(5)} if "b" in layer.input else {})
        source = save(tmp_path, [layer], weights, opset, shape=shape, out=out)
        actions = [CentreFilters("l"), EditTensor("w", Scale(2.0))]
        _, graph = written(source, actions)
        assert_as_planned(source, actions, graph)


def test_what_cannot_be_made_is_said_and_nothing_is_changed(tmp_path: Path) -> None:
    body = [node("Relu", ["a"], ["b"], name="inner")]
    function = helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    proto = model(
        [node("F", ["x"], ["h"], domain="local", name="call"), node("Relu", ["h"], ["y"])],
        {"x": (2, 3)}, functions=[function], domains={"local": 1},
    )  # fmt: skip
    source = tmp_path / "model.onnx"
    onnx.save(proto, str(source))
    unmade = write(source, [InsertSecondMoment("h", 3)], tmp_path / "fixed.onnx", training=False)
    assert "no statistics" in unmade[0].reason
    assert not (tmp_path / "fixed.onnx").exists()


def test_a_dropped_bias_before_a_normalisation_keeps_the_function(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("InstanceNormalization", ["c", "s", "t"], ["y"], name="norm"),
    ]
    source = save(tmp_path, nodes, {"w": draw(5, 3, 3, 3), "b": draw(5), "s": draw(5), "t": draw(5)})
    written(source, [DropBias("conv")])
    assert_same_function(source, tmp_path / "fixed.onnx")
    assert_good(tmp_path / "fixed.onnx")
