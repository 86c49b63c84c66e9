"""Sequences and optionals: what is done to them, against ONNX Runtime where it has tensors at both ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, run_model, run_reference

A, B, C = (torch.full((2, 3), float(number)) for number in (1, 2, 3))


def model(nodes: list[onnx.NodeProto], inputs: list[Tensor], *, opset: int = 15) -> onnx.ModelProto:
    """A model of inputs x0, x1, ... and the last node's output."""
    infos = [
        helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(x.detach().numpy().dtype), list(x.shape))
        for i, x in enumerate(inputs)
    ]
    result = helper.make_empty_tensor_value_info(nodes[-1].output[0])
    graph = helper.make_graph(nodes, "sequence", infos, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(op_type: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


ABC = node("SequenceConstruct", "x0 x1 x2", "abc")
JOINED = {"axis": 0, "new_axis": 1}


def same(found: Any, expected: Any) -> bool:
    """Whether results agree, sequences entry by entry."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found.shape == expected.shape and np.array_equal(found.numpy(), expected)


def assert_like_onnx_runtime(nodes: list[onnx.NodeProto], inputs: list[Tensor], *, opset: int = 15) -> None:
    given = model(nodes, inputs, opset=opset)
    (found,), (expected,) = run_model(given, inputs), run_reference(given, inputs)
    assert same(found, expected)


@pytest.mark.parametrize("position", [0, 2, -1, -3])
def test_entry_at_a_position(position: int) -> None:
    assert_like_onnx_runtime([ABC, node("SequenceAt", "abc x3")], [A, B, C, torch.tensor(position)])


@pytest.mark.parametrize("position", [0, 1, 3, -1, -3])
def test_insert(position: int) -> None:
    inserted = node("SequenceInsert", "abc x3 x4", "more")
    inputs = [A, B, C, torch.zeros(2, 3), torch.tensor(position)]
    assert_like_onnx_runtime([ABC, inserted, node("ConcatFromSequence", "more", **JOINED)], inputs)


def test_insert_at_the_end() -> None:
    inserted = node("SequenceInsert", "abc x3", "more")
    assert_like_onnx_runtime(
        [ABC, inserted, node("ConcatFromSequence", "more", **JOINED)], [A, B, C, torch.zeros(2, 3)]
    )


@pytest.mark.parametrize("position", [[], [torch.tensor(0)], [torch.tensor(-2)], [torch.tensor(2)]], ids=str)
def test_erase(position: list[Tensor]) -> None:
    erased = node("SequenceErase", "abc x3" if position else "abc", "less")
    assert_like_onnx_runtime([ABC, erased, node("ConcatFromSequence", "less", **JOINED)], [A, B, C, *position])


def test_a_sequence_is_not_changed_by_what_is_made_of_it() -> None:
    nodes = [ABC, node("SequenceErase", "abc", "less"), node("SequenceInsert", "abc x0", "more")]
    assert_like_onnx_runtime([*nodes, node("SequenceLength", "abc")], [A, B, C])


def test_empty_sequence() -> None:
    empty = node("SequenceEmpty", "", "none", dtype=TensorProto.FLOAT)
    assert_like_onnx_runtime([empty, node("SequenceLength", "none")], [])
    nodes = [empty, node("SequenceInsert", "none x0", "one"), node("SequenceAt", "one x1")]
    assert_like_onnx_runtime(nodes, [A, torch.tensor(0)])


@pytest.mark.parametrize(
    "attributes", [{"axis": 0}, {"axis": -1}, {"axis": 0, "new_axis": 1}, {"axis": -1, "new_axis": 1}], ids=str
)
def test_join(attributes: dict[str, int]) -> None:
    assert_like_onnx_runtime([ABC, node("ConcatFromSequence", "abc", **attributes)], [A, B, C])


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_split_into_single_entries(keepdims: int, axis: int) -> None:
    inputs = [torch.arange(6.0).reshape(2, 3)]
    assert_like_onnx_runtime([node("SplitToSequence", "x0", keepdims=keepdims, axis=axis)], inputs)


@pytest.mark.parametrize("lengths", [2, 5, 1, 7, [4, 1], [0, 5]], ids=str)
def test_split(lengths: int | list[int]) -> None:
    inputs = [torch.arange(10.0).reshape(2, 5), torch.tensor(lengths)]
    assert_like_onnx_runtime([node("SplitToSequence", "x0 x1", axis=1)], inputs)


def test_parts_of_a_given_length_keep_their_axis() -> None:
    inputs = [torch.arange(4.0), torch.tensor(1)]
    (found,) = run_model(model([node("SplitToSequence", "x0 x1", keepdims=0)], inputs), inputs)
    assert [tuple(part.shape) for part in found] == [(1,)] * 4


def test_optional_of_a_tensor() -> None:
    nodes = [node("Optional", "x0", "maybe"), node("OptionalGetElement", "maybe")]
    assert_like_onnx_runtime(nodes, [A])
    assert_like_onnx_runtime([nodes[0], node("OptionalHasElement", "maybe")], [A])


def test_optional_of_a_sequence() -> None:
    nodes = [ABC, node("Optional", "abc", "maybe"), node("OptionalGetElement", "maybe", "back")]
    assert_like_onnx_runtime([*nodes, node("SequenceLength", "back")], [A, B, C])


EMPTY = node("Optional", "", "maybe", type=helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))


def test_empty_optional() -> None:
    (found,) = run_model(model([EMPTY, node("OptionalHasElement", "maybe")], []), [])
    assert found.item() is False


def test_a_tensor_is_an_optional_that_has_an_element() -> None:
    assert_like_onnx_runtime([node("OptionalHasElement", "x0")], [A], opset=18)
    assert_like_onnx_runtime([node("OptionalGetElement", "x0")], [A], opset=18)


def test_left_out_input_has_no_element() -> None:
    (found,) = run_model(model([node("OptionalHasElement", "")], [], opset=18), [])
    assert found.item() is False


def test_derivatives_through_a_sequence() -> None:
    nodes = [
        node("SplitToSequence", "x0 x1", "parts"),
        node("SequenceAt", "parts x2", "part"),
        node("Optional", "part", "maybe"),
        node("OptionalGetElement", "maybe", "element"),
        node("SequenceInsert", "parts element", "more"),
        node("ConcatFromSequence", "more", axis=0),
    ]
    fixed = [torch.tensor([2, 1]), torch.tensor(0)]
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(moving: Tensor) -> Tensor:
        return run_model(model(nodes, [moving, *fixed]), [moving, *fixed], DOUBLE)[0]

    assert torch.autograd.gradcheck(run, x.requires_grad_(), check_forward_ad=True)


@pytest.mark.parametrize(
    ("nodes", "inputs", "problem"),
    [
        ([ABC, node("SequenceAt", "abc x3")], [A, B, C, torch.tensor(3)], "position 3 in a sequence of 3"),
        ([ABC, node("SequenceErase", "abc x3")], [A, B, C, torch.tensor(-4)], "position -4"),
        ([ABC, node("SequenceInsert", "abc x0 x3")], [A, B, C, torch.tensor(4)], "position 4"),
        ([EMPTY, node("OptionalGetElement", "maybe")], [], "an empty optional"),
        ([node("SplitToSequence", "x0 x1")], [A, torch.tensor(0)], "parts of length 0"),
        (
            [node("SequenceEmpty", "", "none"), node("ConcatFromSequence", "none", axis=0)],
            [],
            "an empty sequence",
        ),
    ],
    ids=["at", "erase", "insert", "optional", "split", "concat"],
)
def test_what_makes_no_sense_is_refused(nodes: list[onnx.NodeProto], inputs: list[Tensor], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        run_model(model(nodes, inputs), inputs)
