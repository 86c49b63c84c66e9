"""Reductions, indices of extremes, cumulative sums, softmax and losses against ONNX Runtime; their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

REDUCTIONS = (
    "ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip
NORMALIZERS = ("Softmax", "LogSoftmax", "Hardmax")


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def positive(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return normal(*shape, dtype=dtype).abs() + 0.5


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize(
    "attributes",
    [{}, {"axes": [1]}, {"axes": [2, 0], "keepdims": 0}, {"axes": [0, 1, 2]}, {"keepdims": 0}],
    ids=str,
)
@pytest.mark.parametrize("opset", [7, 11])
def test_reduction_with_axes_as_attribute(op_type: str, attributes: dict[str, Any], opset: int) -> None:
    assert_like_reference(op_type, [positive(2, 3, 4)], opset=opset, tolerance=1e-4, **attributes)


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("axes", [None, (), (-1,), (0, -2)], ids=str)
@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduction_with_axes_as_input(op_type: str, axes: tuple[int, ...] | None, noop: int, keepdims: int) -> None:
    inputs = [positive(2, 3, 4)] if axes is None else [positive(2, 3, 4), ints(*axes)]
    settings = {"noop_with_empty_axes": noop, "keepdims": keepdims}
    assert_like_reference(op_type, inputs, opset=18, tolerance=1e-4, **settings)


@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_reduction_of_a_scalar(op_type: str) -> None:
    (found,) = run_node(op_type, [torch.tensor(2.0)], opset=18)
    expected = {"ReduceSumSquare": 4.0, "ReduceLogSum": np.log(2.0)}.get(op_type, 2.0)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("op_type", "expected"),
    [
        ("ReduceSum", 0), ("ReduceProd", 1), ("ReduceSumSquare", 0), ("ReduceL1", 0), ("ReduceL2", 0),
        ("ReduceMax", float("-inf")), ("ReduceMin", float("inf")), ("ReduceLogSum", float("-inf")),
        ("ReduceLogSumExp", float("-inf")),
    ],
)  # fmt: skip
def test_reduction_of_an_empty_set(op_type: str, expected: float) -> None:
    (found,) = run_node(op_type, [torch.zeros(2, 0, 3), ints(1)], opset=18, keepdims=0)
    assert found.tolist() == [[expected] * 3] * 2


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL2"])
def test_reduction_of_integers(op_type: str) -> None:
    x = torch.tensor([[-3, 2, 0], [-2, -2, 5]], dtype=torch.int32)
    assert_like_reference(op_type, [x], opset=13, **({"keepdims": 0} if op_type == "ReduceSum" else {"axes": [1]}))


@pytest.mark.parametrize("dtype", [torch.uint32, torch.uint64])
def test_reduction_of_unsigned_integers(dtype: torch.dtype) -> None:
    x = torch.tensor([[3, 2], [7, 5]]).to(dtype)
    (found,) = run_node("ReduceMax", [x, ints(1)], opset=18, keepdims=0)
    assert found.dtype is dtype
    assert found.long().tolist() == [3, 7]


def test_reduction_of_the_largest_unsigned_integers_is_refused() -> None:
    x = torch.tensor([-1, 1]).view(torch.uint64)
    with pytest.raises(ModelError, match="unsigned integers"):
        run_node("ReduceMax", [x], opset=18)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("attributes", [{}, {"axis": 1}, {"axis": -1, "keepdims": 0}], ids=str)
def test_index_of_the_extreme_with_ties(op_type: str, last: int, attributes: dict[str, Any]) -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 1.0], [3.0, 1.0, 1.0, 3.0], [3.0, 1.0, 1.0, 3.0]])
    assert_like_reference(op_type, [x], opset=12, select_last_index=last, **attributes)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_index_of_the_extreme_in_early_opsets(op_type: str) -> None:
    assert_like_reference(op_type, [normal(3, 4)], opset=7, axis=1)


def test_index_of_the_extreme_of_unsigned_integers() -> None:
    (found,) = run_node("ArgMax", [torch.tensor([2, 9, 4]).to(torch.uint16)], opset=13, keepdims=0)
    assert found.item() == 1


TIES = torch.tensor([[1.0, 3.0, 3.0, 2.0, 1.0], [0.0, 0.0, 5.0, 0.0, 5.0]])


def test_top_k_with_k_as_attribute() -> None:
    assert_like_reference("TopK", [TIES], opset=9, outputs=2, k=3)


def test_top_k_with_k_as_input() -> None:
    assert_like_reference("TopK", [TIES, ints(3)], opset=10, outputs=2, axis=1)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize(("axis", "k"), [(0, 1), (-1, 4), (1, 5)])
def test_top_k_of_equals_goes_by_the_index(largest: int, axis: int, k: int) -> None:
    assert_like_reference("TopK", [TIES, ints(k)], opset=11, outputs=2, axis=axis, largest=largest)


def test_top_k_in_any_order_gives_the_same_entries() -> None:
    values, indices = run_node("TopK", [TIES, ints(2)], opset=11, outputs=2, sorted=0)
    assert sorted(values[0].tolist()) == [3.0, 3.0]
    assert (TIES.gather(1, indices) == values).all()


def test_top_k_of_unsigned_integers() -> None:
    values, indices = run_node("TopK", [torch.tensor([4, 9, 7]).to(torch.uint32), ints(2)], opset=11, outputs=2)
    assert values.dtype is torch.uint32
    assert values.long().tolist() == [9, 7]
    assert indices.tolist() == [1, 2]


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [torch.tensor(0), torch.tensor(-1, dtype=torch.int32)], ids=["first", "last"])
def test_cumulative_sum(exclusive: int, reverse: int, axis: Tensor) -> None:
    assert_like_reference("CumSum", [normal(3, 4), axis], opset=11, exclusive=exclusive, reverse=reverse)


def test_cumulative_sum_of_integers_keeps_the_type() -> None:
    assert_like_reference("CumSum", [torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor(0)], opset=14)


def test_exclusive_sum_survives_an_infinite_entry() -> None:
    (found,) = run_node("CumSum", [torch.tensor([1.0, float("inf"), 2.0]), torch.tensor(0)], opset=14, exclusive=1)
    assert found.tolist() == [0.0, 1.0, float("inf")]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, [2, 6, 24]),
        ({"exclusive": 1}, [1, 2, 6]),
        ({"reverse": 1}, [24, 12, 4]),
        ({"exclusive": 1, "reverse": 1}, [12, 4, 1]),
    ],
    ids=str,
)
def test_cumulative_product(attributes: dict[str, int], expected: list[int]) -> None:
    (found,) = run_node("CumProd", [torch.tensor([2.0, 3.0, 4.0]), torch.tensor(0)], opset=26, **attributes)
    assert found.tolist() == expected


@pytest.mark.parametrize("op_type", NORMALIZERS)
@pytest.mark.parametrize("attributes", [{}, {"axis": 0}, {"axis": 2}], ids=str)
@pytest.mark.parametrize("opset", [7, 11, 12])
def test_softmax_flattens_before_opset_13(op_type: str, attributes: dict[str, int], opset: int) -> None:
    assert_like_reference(op_type, [normal(2, 3, 4)], opset=opset, **attributes)


@pytest.mark.parametrize("op_type", NORMALIZERS)
def test_softmax_flattens_from_a_negative_axis(op_type: str) -> None:
    assert_like_reference(op_type, [normal(2, 3, 4)], opset=11, axis=-2)


@pytest.mark.parametrize("op_type", NORMALIZERS)
@pytest.mark.parametrize("attributes", [{}, {"axis": 0}, {"axis": -2}], ids=str)
def test_softmax_takes_one_axis_since_opset_13(op_type: str, attributes: dict[str, int]) -> None:
    assert_like_reference(op_type, [normal(2, 3, 4)], opset=13, **attributes)


LABELS = torch.tensor([[0, 2], [1, 2]])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [None, 2])
def test_cross_entropy(reduction: str, weighted: bool, ignored: int | None) -> None:
    inputs = [normal(2, 3, 2), LABELS] + ([positive(3)] if weighted else [])
    attributes = {"reduction": reduction} | ({} if ignored is None else {"ignore_index": ignored})
    expected = torch.nn.functional.cross_entropy(
        inputs[0],
        LABELS,
        inputs[2] if weighted else None,
        reduction=reduction,
        ignore_index=-100 if ignored is None else ignored,
    )
    loss, log_probabilities = run_node("SoftmaxCrossEntropyLoss", inputs, opset=13, outputs=2, **attributes)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(log_probabilities, inputs[0].log_softmax(1))


@pytest.mark.parametrize("opset", [12, 13, 22])
def test_an_ignored_class_need_not_be_one(opset: int) -> None:
    scores, labels = normal(4, 3).log_softmax(1), torch.tensor([0, -1, 2, -1], dtype=torch.int32)
    (found,) = run_node("NegativeLogLikelihoodLoss", [scores, labels], opset=opset, ignore_index=-1)
    torch.testing.assert_close(found, -(scores[0, 0] + scores[2, 2]) / 2)


def test_an_ignored_sample_gives_no_gradient_even_where_its_loss_is_infinite() -> None:
    scores = torch.tensor([[float("-inf"), 0.0], [-1.0, -0.5]], requires_grad=True)
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    (loss,) = run_node("NegativeLogLikelihoodLoss", [scores, ints(0, 1), weight], opset=13, ignore_index=0)
    gradients = torch.autograd.grad(loss, [scores, weight])
    assert gradients[0].tolist() == [[0.0, 0.0], [0.0, -1.0]]
    assert bool(gradients[1].isfinite().all())


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ModelError, match='reduction "max"'):
        run_node("SoftmaxCrossEntropyLoss", [normal(2, 3), ints(0, 1)], opset=13, reduction="max")


def differentiable() -> list[Any]:
    """Operator, inputs, opset, outputs, attributes."""
    x = positive(2, 3, dtype=torch.float64)
    found: list[Any] = [(name, [x, ints(-1)], 18, {}) for name in REDUCTIONS]
    found += [(name, [x], 18, {"noop_with_empty_axes": 1}) for name in ("ReduceLogSum", "ReduceL1")]
    found += [(name, [x], opset, {"axis": 0}) for name in NORMALIZERS[:2] for opset in (11, 13)]
    found += [("CumSum", [x, torch.tensor(1)], 14, {"exclusive": 1, "reverse": 1})]
    found += [("CumProd", [x, torch.tensor(1)], 26, {"exclusive": 1})]
    found += [("TopK", [x, ints(2)], 11, {"largest": 0})]
    labels, weight = ints(2, 0), positive(3, dtype=torch.float64)
    found += [("SoftmaxCrossEntropyLoss", [x, labels, weight], 13, {"reduction": r}) for r in ("none", "mean")]
    found += [("NegativeLogLikelihoodLoss", [x, labels, weight], 13, {"ignore_index": 2})]
    return found


@pytest.mark.parametrize(("op_type", "inputs", "opset", "attributes"), differentiable(), ids=lambda v: str(v)[:24])
def test_derivatives(op_type: str, inputs: list[Tensor], opset: int, attributes: dict[str, Any]) -> None:
    outputs = 2 if op_type == "TopK" else 1

    def run(*moving: Tensor) -> Tensor:
        given, rest = list(inputs), list(moving)
        for index, tensor in enumerate(inputs):
            if tensor.is_floating_point():
                given[index] = rest.pop(0)
        return run_node(op_type, given, opset=opset, outputs=outputs, settings=DOUBLE, **attributes)[0]

    moving = [tensor.clone().requires_grad_() for tensor in inputs if tensor.is_floating_point()]
    assert torch.autograd.gradcheck(run, moving, check_forward_ad=True)


def test_the_norm_has_a_derivative_at_nothing() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    (norm,) = run_node("ReduceL2", [x], opset=18)
    assert bool(torch.autograd.grad(norm, x)[0].isfinite().all())
