"""Reading and writing by index against ONNX Runtime; derivatives; what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


def ints(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


# --- gather -------------------------------------------------------------------------------------------------------

INDICES = [torch.tensor(1), ints(2, -1, 0, 0), torch.tensor([[0, -3], [1, 2]], dtype=torch.int32), ints()]


@pytest.mark.parametrize("opset", [7, 13])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("indices", INDICES, ids=lambda indices: str(indices.tolist()))
def test_gather(opset: int, axis: int, indices: Tensor) -> None:
    assert_like_reference("Gather", [normal(3, 4, 3), indices], opset=opset, axis=axis)


def test_gather_from_a_vector_by_a_scalar() -> None:
    assert_like_reference("Gather", [normal(3), torch.tensor(-1)], opset=13)


@pytest.mark.parametrize(
    "dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.bool, torch.bfloat16]
)
def test_gather_of_any_type(dtype: torch.dtype) -> None:
    (found,) = run_node("Gather", [torch.tensor([[1, 0, 1]]).to(dtype), ints(-1, 1)], opset=21, axis=1)
    assert found.dtype is dtype
    assert found.long().tolist() == [[1, 0]]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(axis: int) -> None:
    indices = torch.tensor([[0, 1, -1], [-3, 2, 0]], dtype=torch.int32)
    assert_like_reference("GatherElements", [normal(3, 3), indices], opset=11, axis=axis)


def test_gather_elements_of_unsigned_integers() -> None:
    (found,) = run_node("GatherElements", [ints(7, -1).view(torch.uint64), ints(1, 0)], opset=13)
    assert found.view(torch.int64).tolist() == [-1, 7]


@pytest.mark.parametrize(
    "indices",
    [[0, -1], [[1], [-2]], [[[0, 1], [1, -1]]], [[0, 2, 3], [1, -1, -4]]],
    ids=str,
)
def test_gather_of_blocks(indices: Any) -> None:
    assert_like_reference("GatherND", [normal(2, 3, 4), torch.tensor(indices)], opset=11)


@pytest.mark.parametrize(
    ("batch", "indices"),
    [(1, [[2], [-1]]), (1, [[[0, 1], [2, -4]], [[1, 1], [0, 0]]]), (2, [[[1]] * 3, [[-1]] * 3])],
    ids=str,
)
def test_gather_of_blocks_in_a_batch(batch: int, indices: Any) -> None:
    assert_like_reference("GatherND", [normal(2, 3, 4), torch.tensor(indices)], opset=12, batch_dims=batch)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)], ids=str)
def test_columns(shape: tuple[int, ...]) -> None:
    inputs = [normal(*shape), torch.tensor([[3, 0]])]
    assert_like_reference("ArrayFeatureExtractor", inputs, opset=13, domain="ai.onnx.ml")


@pytest.mark.parametrize("opset", [9, 11])
@pytest.mark.parametrize("attributes", [{}, {"axis": 0}, {"axis": 1}], ids=str)
@pytest.mark.parametrize("condition", [[True, False, True], [False, True], [False]], ids=str)
def test_compress(opset: int, attributes: dict[str, int], condition: list[bool]) -> None:
    assert_like_reference("Compress", [normal(3, 4), torch.tensor(condition)], opset=opset, **attributes)


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("x", [[[0.0, 1.0], [2.0, 0.0]], [0.0], 3.0, 0.0], ids=str)
def test_indices_of_what_is_not_zero(opset: int, x: Any) -> None:
    assert_like_reference("NonZero", [torch.tensor(x)], opset=opset)


def test_indices_of_unsigned_integers_that_are_not_zero() -> None:
    (found,) = run_node("NonZero", [torch.tensor([0, 3]).to(torch.uint16)], opset=13)
    assert found.tolist() == [[1]]


@pytest.mark.parametrize("opset", [9, 11])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(opset: int, axis: int) -> None:
    inputs = [torch.tensor([[0, 2], [1, 5]]), torch.tensor(3), torch.tensor([0.5, 2.0])]
    assert_like_reference("OneHot", inputs, opset=opset, axis=axis)


def test_one_hot_counts_negative_indices_from_the_back() -> None:
    assert_like_reference("OneHot", [ints(-1, -3, -4, 3), ints(3), torch.tensor([0.0, 1.0])], opset=11)


def test_one_hot_of_floats() -> None:
    inputs = [torch.tensor([1.0, -1.0]), torch.tensor(3.0), torch.tensor([0.0, 1.0])]
    assert_like_reference("OneHot", inputs, opset=11)


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize("attributes", [{}, {"axis": 0}, {"axis": 1}], ids=str)
def test_unique(ordered: int, attributes: dict[str, int]) -> None:
    x = torch.tensor([[2.0, 1.0, 2.0, 3.0], [0.0, 1.0, 0.0, 1.0], [2.0, 1.0, 2.0, 3.0], [2.0, 0.0, 2.0, 9.0]])
    assert_like_reference("Unique", [x], opset=11, outputs=4, sorted=ordered, **attributes)


# --- scatter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op_type", "opset"), [("Scatter", 9), ("ScatterElements", 11), ("ScatterElements", 13)])
@pytest.mark.parametrize("axis", [0, 1])
def test_scatter(op_type: str, opset: int, axis: int) -> None:
    inputs = [normal(3, 4), torch.tensor([[0, 2], [1, 0]]), normal(2, 2)]
    assert_like_reference(op_type, inputs, opset=opset, axis=axis)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("axis", [0, -1])
def test_scatter_of_elements_with_reduction(reduction: str, axis: int) -> None:
    inputs = [normal(3, 4), torch.tensor([[0, -1], [0, 2], [1, -1]]), normal(3, 2)]
    assert_like_reference("ScatterElements", inputs, opset=18, axis=axis, reduction=reduction)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("indices", [[[0], [-1]], [[2, 0], [0, -1]], [[[0, 1]], [[1, 2]]]], ids=str)
def test_scatter_of_blocks(opset: int, indices: Any) -> None:
    where = torch.tensor(indices)
    x = normal(3, 4, 2)
    updates = normal(*where.shape[:-1], *x.shape[where.shape[-1] :], seed=1)
    assert_like_reference("ScatterND", [x, where, updates], opset=opset)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_scatter_of_blocks_with_reduction(reduction: str) -> None:
    inputs = [normal(3, 4), torch.tensor([[0], [-1], [0]]), normal(3, 4, seed=1)]
    assert_like_reference("ScatterND", inputs, opset=18, reduction=reduction)
    inputs = [normal(3, 4), torch.tensor([[0, 1], [-1, 2], [0, -3]]), normal(3, seed=1)]
    assert_like_reference("ScatterND", inputs, opset=18, reduction=reduction)


def test_scatter_leaves_its_input_alone() -> None:
    x = torch.zeros(3)
    run_node("ScatterND", [x, torch.tensor([[1]]), torch.ones(1)], opset=18)
    run_node("ScatterElements", [x, ints(1), torch.ones(1)], opset=18, reduction="add")
    assert x.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("reduction", "expected"), [("none", 2), ("add", 1), ("mul", 65534), ("max", 65535)])
def test_scatter_of_unsigned_integers(reduction: str, expected: int) -> None:
    x, new = (torch.tensor([number]).to(torch.uint16) for number in (65535, 2))
    (found,) = run_node("ScatterElements", [x, ints(0), new], opset=18, reduction=reduction)
    assert found.dtype is torch.uint16
    assert found.long().tolist() == [expected]


@pytest.mark.parametrize(("mode", "starts"), [("linear", (1, 0)), ("circular", (3, -1))])
def test_write_into_a_cache(mode: str, starts: tuple[int, int]) -> None:
    past, update = torch.zeros(2, 4, 1), torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    (found,) = run_node("TensorScatter", [past, update, ints(*starts)], opset=24, mode=mode)
    expected = [[0, 1, 2, 0], [3, 4, 0, 0]] if mode == "linear" else [[2, 0, 0, 1], [4, 0, 0, 3]]
    assert found.squeeze(-1).tolist() == expected


# --- derivatives and what is refused ------------------------------------------------------------------------------

X, ROWS = normal(3, 4, dtype=torch.float64), normal(2, 4, dtype=torch.float64)
REDUCED = [{"reduction": reduction} for reduction in ("none", "add", "mul", "max", "min")]
TWICE = torch.tensor([[0, 1, 2, 2], [0, 0, 2, 1]])


@pytest.mark.parametrize(
    ("op_type", "inputs", "opset", "attributes"),
    [
        ("Gather", [X, torch.tensor([[0, -1], [0, 0]])], 13, {"axis": 1}),
        ("GatherElements", [X, torch.tensor([[0, -1], [0, 0]])], 13, {"axis": 1}),
        ("GatherND", [X, torch.tensor([[0, -1], [0, 0], [0, -1]])], 13, {}),
        ("GatherND", [X, torch.tensor([[0], [0], [3]])], 13, {"batch_dims": 1}),
        ("Compress", [X, torch.tensor([True, False, True])], 11, {"axis": 0}),
        ("OneHot", [ints(0, 2), torch.tensor(3), torch.tensor([0.0, 1.0], dtype=torch.float64)], 11, {}),
        ("Unique", [X], 11, {}),
        ("TensorScatter", [X.reshape(3, 4, 1), normal(3, 2, 1, dtype=torch.float64), ints(0, 1, 2)], 24, {}),
        ("ScatterElements", [X, torch.tensor([[0, 1, 2, 2], [1, 0, 1, 0]]), ROWS], 18, {}),
        *[("ScatterElements", [X, TWICE, ROWS], 18, how) for how in REDUCED[1:]],
        *[("ScatterND", [X, torch.tensor([[2], [0]]), ROWS], 18, how) for how in REDUCED],
        *[("ScatterND", [X, torch.tensor([[1], [1]]), ROWS], 18, how) for how in REDUCED[1:]],
    ],
    ids=lambda value: str(value) if isinstance(value, (str, dict)) else "",
)
def test_derivatives(op_type: str, inputs: list[Tensor], opset: int, attributes: dict[str, Any]) -> None:
    def run(*moving: Tensor) -> Tensor:
        rest = iter(moving)
        given = [next(rest) if tensor.is_floating_point() else tensor for tensor in inputs]
        return run_node(op_type, given, opset=opset, settings=DOUBLE, **attributes)[0]

    moving = [tensor.clone().requires_grad_() for tensor in inputs if tensor.is_floating_point()]
    assert torch.autograd.gradcheck(run, moving, check_forward_ad=True)


@pytest.mark.parametrize(
    ("op_type", "inputs", "opset", "attributes", "problem"),
    [
        ("Gather", [normal(3), ints(3)], 13, {}, "an index beyond an axis of length 3"),
        ("Gather", [normal(3), ints(0)], 13, {"axis": 1}, "axis 1"),
        ("GatherElements", [normal(3), ints(-4)], 13, {}, "an index beyond"),
        ("GatherND", [normal(3, 3), torch.tensor([[0, 3]])], 13, {}, "an index beyond"),
        ("GatherND", [normal(3), torch.tensor([[0, 0]])], 13, {}, "indices of shape"),
        ("OneHot", [ints(-1), ints(3), torch.tensor([0.0, 1.0])], 9, {}, "negative indices before opset 11"),
        ("ScatterElements", [normal(3), ints(0), normal(1)], 18, {"reduction": "mean"}, 'reduction "mean"'),
        ("ScatterND", [normal(3), torch.tensor([[0]]), normal(2)], 18, {}, "updates of shape"),
        ("TensorScatter", [normal(1, 2, 1), normal(1, 1, 1), ints(2)], 24, {}, "a cache of length 2"),
        ("TensorScatter", [normal(2, 2), normal(2, 2)], 24, {"axis": 0}, "along the batch axis"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    op_type: str, inputs: list[Tensor], opset: int, attributes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ModelError, match=problem):
        run_node(op_type, inputs, opset=opset, **attributes)
