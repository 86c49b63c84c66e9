"""Data movement against ONNX Runtime in old and new opsets; its derivatives; what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

MAX, MIN = torch.iinfo(torch.int64).max, torch.iinfo(torch.int64).min


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def ints(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


# --- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [{}, {"start": 1}, {"end": -1}, {"start": -2, "end": 3}, {"start": 2, "end": 1}, {"start": -9}],
    ids=str,
)
def test_shape_from_start_to_end(attributes: dict[str, int]) -> None:
    assert_like_reference("Shape", [normal(2, 3, 4)], opset=15, **attributes)


@pytest.mark.parametrize("op_type", ["Shape", "Size"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (4, 5)], ids=str)
def test_shape_and_size_in_early_opsets(op_type: str, shape: tuple[int, ...]) -> None:
    assert_like_reference(op_type, [torch.zeros(shape)], opset=7)


@pytest.mark.parametrize("opset", [7, 13, 14])
@pytest.mark.parametrize("wanted", [(0, -1), (-1,), (4, 0, 2), (2, 3, 2, 2)], ids=str)
def test_reshape(opset: int, wanted: tuple[int, ...]) -> None:
    assert_like_reference("Reshape", [normal(2, 3, 4), ints(*wanted)], opset=opset)


def test_reshape_takes_a_zero_for_a_length_if_allowed() -> None:
    assert_like_reference("Reshape", [torch.zeros(3, 0), ints(0, 7)], opset=14, allowzero=1)


def test_reshape_by_attribute() -> None:
    (found,) = run_node("Reshape", [normal(2, 3, 4)], opset=1, shape=[0, -1])
    assert found.shape == (2, 12)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 3, -1, -3])
def test_flatten(axis: int, shape: tuple[int, ...]) -> None:
    assert_like_reference("Flatten", [torch.ones(shape)], opset=11, axis=axis)


def test_flatten_of_a_scalar() -> None:
    (found,) = run_node("Flatten", [torch.tensor(2.0)], opset=13, axis=0)
    assert found.tolist() == [[2.0]]


@pytest.mark.parametrize("attributes", [{}, {"axes": [1]}, {"axes": [3, 1]}], ids=str)
def test_squeeze_by_attribute(attributes: dict[str, Any]) -> None:
    assert_like_reference("Squeeze", [normal(2, 1, 3, 1)], opset=7, **attributes)


@pytest.mark.parametrize("axes", [[], [ints(-1)], [ints(1, -1)]], ids=str)
def test_squeeze_by_input(axes: list[Tensor]) -> None:
    assert_like_reference("Squeeze", [normal(2, 1, 3, 1), *axes], opset=13)


@pytest.mark.parametrize("axes", [(0,), (4, 0), (2, 1)], ids=str)
def test_unsqueeze(axes: tuple[int, ...]) -> None:
    assert_like_reference("Unsqueeze", [normal(2, 3, 4)], opset=7, axes=axes)
    assert_like_reference("Unsqueeze", [normal(2, 3, 4), ints(*axes)], opset=13)


def test_unsqueeze_counts_negative_axes_in_the_result() -> None:
    assert_like_reference("Unsqueeze", [normal(2, 3), ints(-1, -3)], opset=13)


@pytest.mark.parametrize("attributes", [{}, {"perm": [1, 2, 0]}], ids=str)
def test_transpose(attributes: dict[str, Any]) -> None:
    assert_like_reference("Transpose", [normal(2, 3, 4)], opset=7, **attributes)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 1), (1, 1), (2, 1, 4)], ids=str)
def test_expand_goes_both_ways(shape: tuple[int, ...]) -> None:
    assert_like_reference("Expand", [normal(3, 1), ints(*shape)], opset=8)


# --- pieces -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_concat(axis: int) -> None:
    assert_like_reference("Concat", [normal(2, 3), normal(2, 3), normal(2, 3)], opset=7, axis=axis)


def test_concat_goes_along_axis_1_in_the_earliest_opset() -> None:
    (found,) = run_node("Concat", [normal(2, 3), normal(2, 1)], opset=1)
    assert found.shape == (2, 4)


@pytest.mark.parametrize("opset", [7, 11])
@pytest.mark.parametrize("attributes", [{"split": [1, 3, 2], "axis": 1}, {"axis": 1}, {}], ids=str)
def test_split_by_attribute(opset: int, attributes: dict[str, Any]) -> None:
    assert_like_reference("Split", [normal(3, 6)], opset=opset, outputs=3, **attributes)


def test_split_by_input_in_the_earliest_opset() -> None:
    found = run_node("Split", [normal(4), ints(3, 1)], opset=1, outputs=2, axis=0)
    assert [len(part) for part in found] == [3, 1]


def test_split_by_input() -> None:
    assert_like_reference("Split", [normal(3, 6), ints(0, 4, 2)], opset=13, outputs=3, axis=-1)
    assert_like_reference("Split", [normal(3, 6)], opset=13, outputs=2, axis=1)


def test_the_last_part_may_be_smaller_since_opset_18() -> None:
    assert_like_reference("Split", [normal(7)], opset=18, outputs=4, num_outputs=4)


@pytest.mark.parametrize(("opset", "length", "attributes"), [(13, 7, {}), (18, 5, {"num_outputs": 4})])
def test_parts_that_are_not_equal_are_refused(opset: int, length: int, attributes: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="in 4 equal parts"):
        run_node("Split", [normal(length)], opset=opset, outputs=4, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"starts": [1, 0], "ends": [3, MAX]},
        {"starts": [-3], "ends": [-1], "axes": [1]},
        {"starts": [2, 9], "ends": [1, 12], "axes": [0, 1]},
    ],
    ids=str,
)
def test_slice_by_attributes(attributes: dict[str, Any]) -> None:
    assert_like_reference("Slice", [normal(4, 5)], opset=7, **attributes)


@pytest.mark.parametrize("opset", [10, 13])
@pytest.mark.parametrize("length", [5, 1])
@pytest.mark.parametrize(
    ("start", "end", "step"),
    [
        (0, MAX, 1),
        (1, -1, 2),
        (-100, 100, 3),
        (4, 2, 1),
        (-1, MIN, -1),
        (MAX, MIN, -2),
        (3, 0, -1),
        (1, 3, -1),
        (-100, MIN, -1),
        (0, -100, -3),
        (100, -3, -2),
        (4, 0, -100),
        (0, MAX, MAX),
    ],
    ids=str,
)
def test_slice_with_steps(opset: int, length: int, start: int, end: int, step: int) -> None:
    inputs = [normal(3, length), ints(start), ints(end), ints(1), ints(step)]
    assert_like_reference("Slice", inputs, opset=opset)


def test_slice_of_several_axes() -> None:
    x = normal(4, 5, 6)
    assert_like_reference("Slice", [x, ints(1, 5), ints(4, 0), ints(-3, -1), ints(2, -2)], opset=13)
    assert_like_reference("Slice", [x, ints(1, 2), ints(3, -1)], opset=13)
    assert_like_reference("Slice", [x, ints(-1), ints(0), None, ints(-1)], opset=13)


def test_slice_by_32_bit_integers() -> None:
    start, end = torch.tensor([1], dtype=torch.int32), torch.tensor([2**31 - 1], dtype=torch.int32)
    assert_like_reference("Slice", [normal(4), start, end], opset=13)


@pytest.mark.parametrize("step", [1, -1])
def test_slice_of_nothing(step: int) -> None:
    assert_like_reference("Slice", [torch.zeros(2, 0), ints(0), ints(5), ints(1), ints(step)], opset=13)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint64, torch.float8_e4m3fn, torch.bool])
def test_slice_backwards_of_any_type(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]]).to(dtype)
    (found,) = run_node("Slice", [x, ints(-1, -1), ints(MIN, MIN), None, ints(-1, -1)], opset=21)
    assert found.dtype is dtype
    assert found.long().tolist() == [[0, 0, 1, 0], [1, 1, 0, 1]]


@pytest.mark.parametrize("opset", [7, 13])
def test_tile(opset: int) -> None:
    assert_like_reference("Tile", [normal(2, 3), ints(2, 3)], opset=opset)
    assert_like_reference("Tile", [normal(2, 3), ints(0, 1)], opset=opset)


def test_tile_along_one_axis_in_the_earliest_opset() -> None:
    x = normal(2, 3)
    (found,) = run_node("Tile", [x, torch.tensor(2.0), torch.tensor(1.0)], opset=1)
    assert torch.equal(found, torch.cat([x, x], 1))


# --- padding ------------------------------------------------------------------------------------------------------

MODES = ["constant", "edge", "reflect"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", [(0, 1, 2, 0), (1, 2, 1, 1), (-1, 1, 2, -2), (0, 0, 0, 0)], ids=str)
def test_pad_by_attribute(mode: str, pads: tuple[int, ...]) -> None:
    assert_like_reference("Pad", [normal(4, 5)], opset=7, mode=mode, pads=pads, value=1.5)


def test_pad_in_the_earliest_opset() -> None:
    (found,) = run_node("Pad", [torch.ones(2)], opset=1, paddings=[1, 2], value=7.0)
    assert found.tolist() == [7.0, 1.0, 1.0, 7.0, 7.0]


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("mode", MODES)
def test_pad_by_input(opset: int, mode: str) -> None:
    assert_like_reference("Pad", [normal(4, 5), ints(1, 2, 2, 0), torch.tensor(-2.5)], opset=opset, mode=mode)
    assert_like_reference("Pad", [normal(4, 5), ints(1, -2, -1, 2)], opset=opset, mode=mode)


@pytest.mark.parametrize("mode", [*MODES, "wrap"])
def test_pad_of_some_axes(mode: str) -> None:
    inputs = [normal(3, 4, 5), ints(1, 2, 0, 1), torch.tensor(2.0), ints(-1, 0)]
    assert_like_reference("Pad", inputs, opset=19, mode=mode)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("reflect", [2, 1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2]),
        ("edge", [1, 1, 1, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3]),
        ("wrap", [2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]),
    ],
)
def test_pad_goes_on_beyond_the_length(mode: str, expected: list[int]) -> None:
    (found,) = run_node("Pad", [ints(1, 2, 3), ints(5, 5)], opset=19, mode=mode)
    assert found.tolist() == expected


def test_pad_with_a_large_integer() -> None:
    (found,) = run_node("Pad", [ints(1), ints(0, 1), torch.tensor(2**62 + 1)], opset=18)
    assert found.tolist() == [1, 2**62 + 1]


def test_pad_with_a_logical_value() -> None:
    (found,) = run_node("Pad", [torch.tensor([False]), ints(1, 1), torch.tensor(True)], opset=13)
    assert found.tolist() == [True, False, True]


@pytest.mark.parametrize("lengths", [(3, 4), (2, 7), (7, 8), (5, 5)], ids=str)
def test_crop_or_pad_at_the_centre(lengths: tuple[int, int]) -> None:
    x = normal(5, 5)
    (found,) = run_node("CenterCropPad", [x, ints(*lengths)], opset=18)
    assert_like_reference("CenterCropPad", [x, ints(*lengths)], opset=18)
    assert found.shape == lengths


# --- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [{}, {"mode": "DCR"}, {"mode": "CRD"}], ids=str)
def test_depth_to_space(attributes: dict[str, Any]) -> None:
    assert_like_reference("DepthToSpace", [normal(2, 8, 2, 3)], opset=11, blocksize=2, **attributes)


@pytest.mark.parametrize("op_type", ["DepthToSpace", "SpaceToDepth"])
def test_depth_and_space_in_early_opsets(op_type: str) -> None:
    assert_like_reference(op_type, [normal(2, 8, 2, 4)], opset=7, blocksize=2)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_and_depth_are_inverse_to_each_other(mode: str) -> None:
    x = normal(2, 12, 2, 3)
    (deep,) = run_node("DepthToSpace", [x], opset=13, blocksize=2, mode=mode)
    (back,) = run_node("SpaceToDepth", [deep], opset=28, blocksize=2, mode=mode)
    assert torch.equal(back, x)


@pytest.mark.parametrize(("time", "batch"), [(0, 1), (1, 0)])
def test_reverse_sequence(time: int, batch: int) -> None:
    inputs = [normal(4, 4, 2), ints(1, 4, 2, 3)]
    assert_like_reference("ReverseSequence", inputs, opset=10, time_axis=time, batch_axis=batch)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [-9, -1, 0, 2, 9])
def test_triangle(upper: int, k: int) -> None:
    assert_like_reference("Trilu", [normal(2, 3, 4), torch.tensor(k)], opset=14, upper=upper)


def test_triangle_of_unsigned_integers() -> None:
    (found,) = run_node("Trilu", [torch.ones(2, 2).to(torch.uint16)], opset=14)
    assert found.long().tolist() == [[1, 1], [0, 1]]


# --- derivatives and what is refused ------------------------------------------------------------------------------

X = normal(4, 2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("op_type", "rest", "opset", "attributes"),
    [
        ("Reshape", [ints(-1, 4)], 14, {}),
        ("Flatten", [], 13, {}),
        ("Unsqueeze", [ints(0, -1)], 13, {}),
        ("Transpose", [], 13, {"perm": [2, 0, 1]}),
        ("Expand", [ints(3, 1, 1, 1)], 13, {}),
        ("Split", [ints(1, 3)], 13, {}),
        ("Slice", [ints(-1), ints(MIN), ints(0), ints(-2)], 13, {}),
        ("Tile", [ints(1, 2, 2)], 13, {}),
        ("CenterCropPad", [ints(2, 3, 2)], 18, {}),
        ("Trilu", [torch.tensor(1)], 14, {}),
        ("ReverseSequence", [ints(1, 3)], 10, {}),
        *[("Pad", [ints(1, 0, 1, -1, 1, 0)], 19, {"mode": mode}) for mode in (*MODES, "wrap")],
    ],
    ids=str,
)
def test_derivatives(op_type: str, rest: list[Tensor], opset: int, attributes: dict[str, Any]) -> None:
    def run(x: Tensor) -> Tensor:
        return run_node(op_type, [x, *rest], opset=opset, settings=DOUBLE, **attributes)[0]

    assert torch.autograd.gradcheck(run, X.clone().requires_grad_(), check_forward_ad=True)


def test_derivative_by_what_is_padded_with() -> None:
    def run(x: Tensor, constant: Tensor) -> Tensor:
        return run_node("Pad", [x, ints(1, 0, 0, 0, 2, 0), constant], opset=13, settings=DOUBLE)[0]

    moving = [X.clone().requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)]
    assert torch.autograd.gradcheck(run, moving, check_forward_ad=True)


@pytest.mark.parametrize("op_type", ["DepthToSpace", "SpaceToDepth"])
def test_derivatives_between_depth_and_space(op_type: str) -> None:
    def run(x: Tensor) -> Tensor:
        return run_node(op_type, [x], opset=13, settings=DOUBLE, blocksize=2)[0]

    x = normal(1, 4, 2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, x, check_forward_ad=True)


@pytest.mark.parametrize("op_type", ["Concat", "Squeeze"])
def test_derivatives_of_concat_and_squeeze(op_type: str) -> None:
    inputs = [normal(2, 1, 2, dtype=torch.float64).requires_grad_() for _ in range(2 if op_type == "Concat" else 1)]
    attributes = {"axis": -1} if op_type == "Concat" else {}

    def run(*given: Tensor) -> Tensor:
        return run_node(op_type, given, opset=13, settings=DOUBLE, **attributes)[0]

    assert torch.autograd.gradcheck(run, inputs, check_forward_ad=True)


@pytest.mark.parametrize(
    ("op_type", "inputs", "opset", "attributes", "problem"),
    [
        ("Slice", [normal(3), ints(0), ints(1), ints(0), ints(0)], 13, {}, "step 0"),
        ("Slice", [normal(3, 3), ints(0, 0), ints(1, 1), ints(1, -1)], 13, {}, "name one axis twice"),
        ("Squeeze", [normal(2, 1), ints(0)], 13, {}, "not all of length 1"),
        ("Squeeze", [normal(2, 1), ints()], 13, {}, "an empty list of axes"),
        ("Unsqueeze", [normal(2), ints(2, 3)], 13, {}, "axis 3 of a tensor with 3 axes"),
        ("Flatten", [normal(2, 2)], 13, {"axis": 3}, "axis 3"),
        ("Reshape", [normal(4), ints(3)], 13, {}, "shape"),
        ("Pad", [normal(4), ints(1, 1)], 13, {"mode": "mirror"}, 'mode "mirror"'),
        ("Pad", [normal(4), ints(1, 1, 1)], 13, {}, "3 pads for 1 axes"),
        ("Pad", [torch.zeros(0), ints(1, 1)], 13, {"mode": "edge"}, "an empty axis"),
        ("ReverseSequence", [normal(2, 2), ints(1, 1)], 10, {"time_axis": 1}, "time axis 1 and batch axis 1"),
        ("DepthToSpace", [normal(1, 4, 1, 1)], 13, {"blocksize": 2, "mode": "RGB"}, 'mode "RGB"'),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    op_type: str, inputs: list[Tensor], opset: int, attributes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ModelError, match=problem):
        run_node(op_type, inputs, opset=opset, **attributes)
