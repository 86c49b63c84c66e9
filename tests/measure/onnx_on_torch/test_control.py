"""Branches and loops against ONNX Runtime, and derivatives through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from gnelint.errors import ModelError
from gnelint.measure.onnx_on_torch import control
from gnelint.measure.onnx_on_torch.tensors import onnx_code
from tests.measure.onnx_on_torch.nodes import DOUBLE, run_model, run_reference

Shape = Sequence[int | str] | None


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def floating(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def flag(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def model(nodes: list[onnx.NodeProto], inputs: dict[str, Tensor], outputs: list[str], opset: int) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(name, onnx_code(x.dtype), list(x.shape)) for name, x in inputs.items()]
    results = [floating(name, None) for name in outputs]
    graph = helper.make_graph(nodes, "whole", infos, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def assert_agrees(whole: onnx.ModelProto, inputs: dict[str, Tensor]) -> tuple[Any, ...]:
    found, wanted = run_model(whole, list(inputs.values())), run_reference(whole, list(inputs.values()))
    for output, expected in zip(found, wanted, strict=True):
        assert tuple(output.shape) == expected.shape
        np.testing.assert_allclose(output.numpy(), expected, rtol=1e-5, atol=1e-5)
    return found


# --- If -----------------------------------------------------------------------------------------------------------


def choice(inputs: dict[str, Tensor], opset: int) -> onnx.ModelProto:
    """relu(x) or x^2, x seen from inside."""
    yes = helper.make_graph([helper.make_node("Relu", ["x"], ["a"])], "yes", [], [floating("a", None)])
    no = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["b"])], "no", [], [floating("b", None)])
    node = helper.make_node("If", ["go"], ["y"], then_branch=yes, else_branch=no)
    return model([node], inputs, ["y"], opset)


@pytest.mark.parametrize("opset", [7, 11, 17])
@pytest.mark.parametrize("go", [torch.tensor(True), torch.tensor(False), torch.tensor([True])])
def test_if_runs_the_branch_that_its_condition_names(opset: int, go: Tensor) -> None:
    inputs = {"go": go, "x": rand(3)}
    assert_agrees(choice(inputs, opset), inputs)


# --- Loop ---------------------------------------------------------------------------------------------------------


def looping(
    inputs: dict[str, Tensor],
    *,
    trips: int | None,
    start: bool | None,
    stop: int,
    scanned: Shape = ("n",),
    opset: int = 17,
) -> onnx.ModelProto:
    """b = a w in each iteration until number `stop`; relu(b) is collected."""
    body = helper.make_graph(
        [
            helper.make_node("Constant", [], ["end"], value=helper.make_tensor("end", TensorProto.INT64, [], [stop])),
            helper.make_node("Less", ["i", "end"], ["more"]),
            helper.make_node("Mul", ["a", "w"], ["b"]),
            helper.make_node("Relu", ["b"], ["s"]),
        ],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), flag("on"), floating("a", None)],
        [flag("more"), floating("b", None), floating("s", scanned)],
    )
    nodes = []
    if trips is not None:
        value = helper.make_tensor("m", TensorProto.INT64, [], [trips])
        nodes.append(helper.make_node("Constant", [], ["m"], value=value))
    if start is not None:
        value = helper.make_tensor("c", TensorProto.BOOL, [], [start])
        nodes.append(helper.make_node("Constant", [], ["c"], value=value))
    names = ["" if trips is None else "m", "" if start is None else "c", "x"]
    nodes.append(helper.make_node("Loop", names, ["y", "all"], body=body))
    return model(nodes, inputs, ["y", "all"], opset)


@pytest.mark.parametrize("opset", [9, 11, 17, 21])
@pytest.mark.parametrize(
    ("trips", "start", "stop", "iterations"),
    [
        (3, True, 9, 3),
        (9, True, 1, 2),
        (2**63 - 1, True, 3, 4),
        (3, None, 9, 3),
        (None, True, 2, 3),
        (None, None, 2, 3),
    ],
)
def test_loop_ends_where_its_count_or_condition_says(
    opset: int, trips: int | None, start: bool | None, stop: int, iterations: int
) -> None:
    inputs = {"x": rand(2), "w": rand(2) + 1}
    found = assert_agrees(looping(inputs, trips=trips, start=start, stop=stop, opset=opset), inputs)
    assert found[1].shape == (iterations, 2)


@pytest.mark.parametrize(("trips", "start"), [(0, True), (3, False)])
def test_loop_without_an_iteration_passes_its_start_on(trips: int, start: bool) -> None:
    inputs = {"x": rand(2), "w": rand(2)}
    found = assert_agrees(looping(inputs, trips=trips, start=start, stop=9, scanned=[2]), inputs)
    assert torch.equal(found[0], inputs["x"])
    assert found[1].shape == (0, 2)


def test_derivatives_of_a_loop_are_right() -> None:
    inputs = {"x": rand(2), "w": rand(2) + 1}
    whole = looping(inputs, trips=3, start=True, stop=9)
    wide = [x.double().requires_grad_() for x in inputs.values()]
    assert torch.autograd.gradcheck(lambda *given: run_model(whole, given, DOUBLE), wide, check_forward_ad=True)


def test_loop_without_an_iteration_and_a_shape_is_refused() -> None:
    inputs = {"x": rand(2), "w": rand(2)}
    with pytest.raises(ModelError, match=r'no iteration, and the shape of "s" is unknown'):
        run_model(looping(inputs, trips=0, start=True, stop=9), list(inputs.values()))


def test_endless_loop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_MAX_ITERATIONS", 20)
    inputs = {"x": rand(2), "w": rand(2)}
    with pytest.raises(ModelError, match="a loop of more than 20 iterations"):
        run_model(looping(inputs, trips=None, start=None, stop=1000), list(inputs.values()))


# --- Scan ---------------------------------------------------------------------------------------------------------


def scanning(inputs: dict[str, Tensor], opset: int, **attributes: Any) -> onnx.ModelProto:
    """The running sum of v w over two scanned inputs; the sum itself and v - w are collected."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["v", "w"], ["product"]),
            helper.make_node("Add", ["sum", "product"], ["next"]),
            helper.make_node("Identity", ["next"], ["one"]),
            helper.make_node("Sub", ["v", "w"], ["two"]),
        ],
        "body",
        [floating("sum", None), floating("v", None), floating("w", None)],
        [floating("next", None), floating("one", None), floating("two", None)],
    )
    lengths = [""] if opset < 9 and "lengths" not in inputs else []
    node = helper.make_node(
        "Scan", [*lengths, *inputs], ["last", "first", "second"], body=body, num_scan_inputs=2, **attributes
    )
    return model([node], inputs, ["last", "first", "second"], opset)


@pytest.mark.parametrize("opset", [9, 11, 17])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scan_input_directions": [1, 0], "scan_output_directions": [0, 1]},
        {"scan_input_axes": [1, 0], "scan_output_axes": [0, 1]},
    ],
    ids=["plain", "directions", "axes"],
)
def test_scan_goes_along_the_axes_and_directions_it_is_told(opset: int, attributes: dict[str, Any]) -> None:
    inputs = {"start": rand(3), "vs": rand(3, 3) + 1, "ws": rand(3, 3)}
    assert_agrees(scanning(inputs, opset, **attributes), inputs)


@pytest.mark.parametrize("attributes", [{}, {"directions": [1, 0]}], ids=["plain", "directions"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 2])])
def test_scan_of_a_batch_ends_with_each_sequence(attributes: dict[str, Any], lengths: Tensor | None) -> None:
    data = {"start": rand(2, 3), "vs": rand(2, 4, 3) + 1, "ws": rand(2, 4, 3)}
    inputs = data if lengths is None else {"lengths": lengths, **data}
    assert_agrees(scanning(inputs, 8, **attributes), inputs)


@pytest.mark.parametrize("opset", [8, 17])
def test_derivatives_of_a_scan_are_right(opset: int) -> None:
    shape = (1, 2) if opset == 8 else (2,)
    inputs = {"start": rand(*shape), "vs": rand(*shape[:-1], 3, 2), "ws": rand(*shape[:-1], 3, 2) + 1}
    whole = scanning(inputs, opset)
    wide = [x.double().requires_grad_() for x in inputs.values()]
    assert torch.autograd.gradcheck(lambda *given: run_model(whole, given, DOUBLE), wide, check_forward_ad=True)


# --- SequenceMap --------------------------------------------------------------------------------------------------


def test_sequence_map_runs_its_body_on_each_entry() -> None:
    body = helper.make_graph(
        [helper.make_node("Mul", ["entry", "factor"], ["scaled"]), helper.make_node("Relu", ["scaled"], ["positive"])],
        "body",
        [floating("entry", None), floating("factor", None)],
        [floating("scaled", None), floating("positive", None)],
    )
    nodes = [
        helper.make_node("SequenceConstruct", ["a", "b"], ["parts"]),
        helper.make_node("SequenceMap", ["parts", "w"], ["scaled_parts", "positive_parts"], body=body),
        helper.make_node("ConcatFromSequence", ["scaled_parts"], ["y"], axis=0),
        helper.make_node("ConcatFromSequence", ["positive_parts"], ["z"], axis=0),
    ]
    inputs = {"a": rand(2, 3), "b": rand(1, 3), "w": rand(3)}
    assert_agrees(model(nodes, inputs, ["y", "z"], 17), inputs)
