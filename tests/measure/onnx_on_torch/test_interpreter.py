"""The walk over a model: weights wherever they are stored, functions, bodies, modes, and what cannot be run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from gnelint.errors import ModelError
from gnelint.measure.onnx_on_torch.call import Settings
from gnelint.measure.onnx_on_torch.interpreter import Interpreter, open_interpreter
from tests.measure.onnx_on_torch.nodes import run_reference

WEIGHT = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def model(nodes, initializers=(), functions=(), outputs=("y",), inputs=("x",), opset=17, **more) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in inputs]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "net", infos, results, list(initializers), **more)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=9)


def opened(tmp_path: Path, proto: onnx.ModelProto, settings: Settings | None = None) -> Interpreter:
    path = tmp_path / "model.onnx"
    onnx.save(proto, str(path))
    return open_interpreter(path, settings or Settings())


def stored(name: str = "w", array: np.ndarray = WEIGHT) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def in_initializer() -> onnx.ModelProto:
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], [stored()])


def in_constant() -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=stored())
    return model([constant, helper.make_node("MatMul", ["x", "w"], ["y"])])


def in_constant_of_shape() -> onnx.ModelProto:
    filled = helper.make_tensor("", TensorProto.FLOAT, [1], [0.5])
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["w"], value=filled)]
    return model([*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])], [stored("s", np.array([4, 4]))])


def in_branch() -> onnx.ModelProto:
    outputs = [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["b"])], "branch", [], outputs, [stored()])
    condition = numpy_helper.from_array(np.array(True), "c")
    return model([helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], [condition])


def in_function() -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=stored())
    body = [constant, helper.make_node("MatMul", ["a", "w"], ["b"])]
    function = helper.make_function("own", "Layer", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    return model([helper.make_node("Layer", ["x"], ["y"], domain="own", name="layer")], functions=[function])


def quantised() -> onnx.ModelProto:
    initializers = [stored("q", (8 * WEIGHT).round().astype(np.int8)), stored("s", np.float32(0.125))]
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, initializers)


STORED = [in_initializer, in_constant, in_constant_of_shape, in_branch, in_function, quantised]


@pytest.mark.parametrize("build", STORED)
def test_a_weight_is_a_leaf_wherever_it_is_stored(tmp_path: Path, build) -> None:
    interpreter = opened(tmp_path, build())
    interpreter.run({"x": X})
    (name,) = [name for name, leaf in interpreter.leaves.items() if leaf.shape == (4, 4)]
    interpreter.ask_gradients(frozenset({name}))
    (y,) = interpreter.run({"x": X}).values()
    np.testing.assert_allclose(y.detach().numpy(), run_reference(build(), [X])[0], rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(y.sum(), [interpreter.leaves[name]])
    torch.testing.assert_close(gradient, X.T @ torch.ones(3, 4))


def test_weights_are_the_same_leaves_in_every_run(tmp_path: Path) -> None:
    interpreter = opened(tmp_path, in_constant())
    interpreter.run({"x": X})
    (leaf,) = interpreter.leaves.values()
    interpreter.run({"x": X})
    assert interpreter.leaves["w"] is leaf


def test_external_data(tmp_path: Path) -> None:
    proto = in_initializer()
    convert_model_to_external_data(proto, location="weights.bin", size_threshold=0)
    onnx.save(proto, str(tmp_path / "model.onnx"))
    (y,) = open_interpreter(tmp_path / "model.onnx", Settings()).run({"x": X}).values()
    torch.testing.assert_close(y, X @ torch.from_numpy(WEIGHT))


def test_a_functions_attributes_and_their_defaults(tmp_path: Path) -> None:
    body = [helper.make_node("LeakyRelu", ["a"], ["b"])]
    body[0].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    defaults = [helper.make_attribute("slope", 0.5)]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Leaky", ["a"], ["b"], body, opsets, [], defaults)
    nodes = [
        helper.make_node("Leaky", ["x"], ["h"], domain="own"),
        helper.make_node("Leaky", ["h"], ["y"], domain="own", slope=0.1),
    ]
    (y,) = opened(tmp_path, model(nodes, functions=[function])).run({"x": X}).values()
    torch.testing.assert_close(y, torch.where(X < 0, 0.05 * X, X))


def test_a_loops_body_sees_the_names_outside(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("h", "z")]
    flags = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "still")]
    counter = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    nodes = [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("MatMul", ["h", "w"], ["z"])]
    body = helper.make_graph(nodes, "body", [counter, flags[0], ends[0]], [flags[1], ends[1]])
    count = numpy_helper.from_array(np.array(3), "n3")
    proto = model([helper.make_node("Loop", ["n3", "", "x"], ["y"], body=body)], [stored(), count])
    interpreter = opened(tmp_path, proto)
    interpreter.ask_gradients(frozenset({"w"}))
    (y,) = interpreter.run({"x": X}).values()
    w = torch.from_numpy(WEIGHT).requires_grad_()
    wanted = X @ w @ w @ w
    torch.testing.assert_close(y, wanted)
    (found,) = torch.autograd.grad(y.sum(), [interpreter.leaves["w"]])
    torch.testing.assert_close(found, torch.autograd.grad(wanted.sum(), [w])[0])


def batch_norm(training: int) -> onnx.ModelProto:
    names = ["x", "scale", "bias", "mean", "variance"]
    arrays = [np.full(4, value, np.float32) for value in (2.0, 1.0, 0.5, 4.0)]
    outputs = ["y", "m", "v"] if training else ["y"]
    node = helper.make_node("BatchNormalization", names, outputs, training_mode=training)
    return model([node], [stored(name, array) for name, array in zip(names[1:], arrays, strict=True)])


@pytest.mark.parametrize("training", [0, 1])
@pytest.mark.parametrize("mode", ["file", "batch", "running"])
def test_which_statistics_a_normalisation_uses(tmp_path: Path, training: int, mode: str) -> None:
    interpreter = opened(tmp_path, batch_norm(training), Settings(normalization=mode))
    (y,) = interpreter.run({"x": X}).values()
    of_batch = mode == "batch" or (mode == "file" and training)
    mean, variance = (X.mean(0), X.var(0, correction=0)) if of_batch else (torch.tensor(0.5), torch.tensor(4.0))
    torch.testing.assert_close(y, 2 * (X - mean) / (variance + 1e-5).sqrt() + 1, rtol=1e-4, atol=1e-5)
    assert interpreter.leaves["mean"].tolist() == [0.5] * 4


def test_an_unknown_operator_is_named_before_anything_runs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["h"], domain="own"), helper.make_node("Relu", ["h"], ["y"])]
    assert opened(tmp_path, model(nodes)).unsupported() == ("own.Mystery",)


def test_operands_that_do_not_fit_are_one_line_with_the_node(tmp_path: Path) -> None:
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], [stored("w", WEIGHT[:3])])
    with pytest.raises(ModelError, match=r'node "fc" \(MatMul\) cannot be run') as raised:
        opened(tmp_path, proto).run({"x": X})
    assert "\n" not in str(raised.value)


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    body = [helper.make_node("Layer", ["a"], ["b"], domain="own")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Layer", ["a"], ["b"], body, opsets)
    proto = model([helper.make_node("Layer", ["x"], ["y"], domain="own")], functions=[function])
    with pytest.raises(ModelError):
        opened(tmp_path, proto).run({"x": X})


@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_files_that_are_no_models(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.onnx"
    if damage == "truncated":
        path.write_bytes(in_initializer().SerializeToString()[:-20])
    if damage == "text":
        path.write_text("no model")
    with pytest.raises(ModelError):
        open_interpreter(path, Settings())


def test_the_watch_sees_values_by_their_names_and_may_replace_them(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    seen: list[str] = []

    def watch(name: str, tensor: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return torch.full_like(tensor, 3.0) if name == "h" else tensor

    (y,) = opened(tmp_path, model(nodes, [stored()])).run({"x": X}, watch).values()
    assert seen == ["x", "h", "y"]
    assert y.unique().tolist() == [3.0]
