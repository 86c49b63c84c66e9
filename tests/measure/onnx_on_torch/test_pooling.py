"""Pooling against ONNX Runtime, and its derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

SIZES = {1: (11,), 2: (9, 10), 3: (6, 7, 8)}
KERNEL = (3, 2, 3)
PADS = {1: [1, 2], 2: [2, 1, 0, 0], 3: [1, 1, 0, 0, 0, 1]}
WINDOWS = [
    ("NOTSET", 1, 1), ("NOTSET", 3, 2), ("NOTSET", 2, 1), ("VALID", 3, 2), ("SAME_UPPER", 2, 1), ("SAME_LOWER", 3, 1),
]  # fmt: skip


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


def windows(auto_pad: str, stride: int, dilation: int, rank: int) -> dict[str, Any]:
    pads = {"pads": PADS[rank]} if auto_pad == "NOTSET" else {}
    dilations = {"dilations": [dilation] * rank} if dilation > 1 else {}
    return {"kernel_shape": KERNEL[:rank], "strides": [stride] * rank, "auto_pad": auto_pad, **dilations, **pads}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("auto_pad", "stride", "dilation"), WINDOWS)
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("storage_order", [0, 1])
def test_max_pool_and_its_indices(
    storage_order: int, ceil_mode: int, auto_pad: str, stride: int, dilation: int, rank: int
) -> None:
    given = windows(auto_pad, stride, dilation, rank)
    x = normal(2, 3, *SIZES[rank])
    assert_like_reference(
        "MaxPool", [x], opset=12, outputs=2, ceil_mode=ceil_mode, storage_order=storage_order, **given
    )


@pytest.mark.parametrize("opset", [1, 7, 8, 10, 11])
def test_max_pool_of_older_opsets(opset: int) -> None:
    x = normal(1, 2, 7, 8)
    assert_like_reference("MaxPool", [x], opset=opset, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_max_pool_of_integers(dtype: torch.dtype) -> None:
    x = torch.randint(0, 255, (1, 2, 5, 6), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_like_reference("MaxPool", [x], opset=12, outputs=2, kernel_shape=[2, 3], pads=[0, 1, 1, 2])


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("auto_pad", "stride", "dilation"), WINDOWS)
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool(
    count_include_pad: int, ceil_mode: int, auto_pad: str, stride: int, dilation: int, rank: int
) -> None:
    given = windows(auto_pad, stride, dilation, rank)
    x = normal(2, 3, *SIZES[rank])
    assert_like_reference(
        "AveragePool", [x], opset=19, ceil_mode=ceil_mode, count_include_pad=count_include_pad, **given
    )


@pytest.mark.parametrize("opset", [7, 10, 11])
def test_average_pool_of_older_opsets(opset: int) -> None:
    x = normal(1, 2, 7, 8)
    given = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}
    assert_like_reference("AveragePool", [x], opset=opset, count_include_pad=1, **given)


def test_average_pool_of_opset_1_leaves_pads_out() -> None:
    (found,) = run_node("AveragePool", [torch.ones(1, 1, 4)], opset=1, kernel_shape=[3], pads=[1, 1])
    assert torch.equal(found, torch.ones(1, 1, 4))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("auto_pad", "stride", "dilation"), WINDOWS)
@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(p: int, auto_pad: str, stride: int, dilation: int, rank: int) -> None:
    given = windows(auto_pad, stride, dilation, rank)
    assert_like_reference("LpPool", [normal(2, 3, *SIZES[rank])], opset=18, p=p, ceil_mode=1, **given)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global_pools(op_type: str, rank: int) -> None:
    assert_like_reference(op_type, [normal(2, 3, *SIZES[rank])], opset=7)


def test_global_lp_pool_takes_p() -> None:
    assert_like_reference("GlobalLpPool", [normal(2, 3, 4, 5)], opset=2, p=3)


@pytest.mark.parametrize("size", [4, 5])
def test_max_unpool_puts_entries_where_max_pool_found_them(size: int) -> None:
    x = normal(2, 3, size, size)
    y, index = run_node("MaxPool", [x], opset=12, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    shape = torch.tensor(x.shape)
    assert_like_reference("MaxUnpool", [y, index, shape], opset=11, kernel_shape=[2, 2], strides=[2, 2])


def test_max_unpool_infers_the_shape() -> None:
    y, index = run_node("MaxPool", [normal(1, 2, 4, 6)], opset=12, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    assert_like_reference("MaxUnpool", [y, index], opset=9, kernel_shape=[2, 2], strides=[2, 2])


@pytest.mark.parametrize("spatial_scale", [1.0, 0.5, 0.3])
def test_max_roi_pool(spatial_scale: float) -> None:
    regions = [[0, 0, 0, 5, 5], [1, 2, 3, 20, 9], [0, 3, 3, 2, 1], [1, -3, -4, 4, 4.6], [0, 40, 40, 60, 60]]
    inputs = [normal(2, 3, 9, 10), torch.tensor(regions)]
    assert_like_reference("MaxRoiPool", inputs, opset=1, pooled_shape=[3, 2], spatial_scale=spatial_scale)


def test_max_roi_pool_of_no_regions() -> None:
    (found,) = run_node("MaxRoiPool", [normal(1, 3, 4, 4), torch.zeros(0, 5)], opset=22, pooled_shape=[2, 1])
    assert found.shape == (0, 3, 2, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool", "LpPool"])
def test_half_precision(op_type: str, rank: int, dtype: torch.dtype) -> None:
    x = normal(1, 2, *SIZES[rank]).to(dtype)
    given = windows("NOTSET", 2, 1, rank)
    (found,) = run_node(op_type, [x], opset=22, **given)
    (wanted,) = run_node(op_type, [x.float()], opset=22, **given)
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("op_type", "shape", "attributes"),
    [
        ("MaxPool", (1, 2, 5), {"kernel_shape": [2], "pads": [1, 0]}),
        ("MaxPool", (1, 1, 4, 3), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", (1, 1, 2, 3, 3), {"kernel_shape": [2, 2, 2]}),
        ("AveragePool", (1, 1, 4, 3), {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1]}),
        ("AveragePool", (1, 2, 6), {"kernel_shape": [2], "dilations": [2], "pads": [1, 1]}),
        ("AveragePool", (1, 1, 2, 3, 3), {"kernel_shape": [2, 2, 2], "count_include_pad": 1}),
        ("LpPool", (1, 1, 4, 3), {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1]}),
        ("LpPool", (1, 2, 6), {"kernel_shape": [2], "dilations": [2], "p": 3}),
        ("GlobalAveragePool", (2, 2, 2, 2), {}),
        ("GlobalMaxPool", (2, 2, 2, 2), {}),
        ("GlobalLpPool", (2, 2, 2, 2), {"p": 3}),
    ],
)
def test_derivatives(op_type: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    def run(x: Tensor) -> Tensor:
        return run_node(op_type, [x], opset=22, settings=DOUBLE, **attributes)[0]

    x = normal(*shape, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, x, check_forward_ad=True)


@pytest.mark.parametrize("op_type", ["LpPool", "GlobalLpPool"])
def test_the_gradient_of_a_norm_of_zeros_is_zero(op_type: str) -> None:
    x = torch.zeros(1, 1, 4, requires_grad=True)
    attributes = {"kernel_shape": [2]} if op_type == "LpPool" else {}
    run_node(op_type, [x], opset=22, **attributes)[0].sum().backward()
    assert torch.equal(x.grad, torch.zeros(1, 1, 4))


def test_among_equal_entries_the_gradient_goes_to_one() -> None:
    x = torch.ones(1, 1, 3, requires_grad=True)
    run_node("GlobalMaxPool", [x], opset=22)[0].sum().backward()
    assert x.grad is not None
    assert sorted(x.grad.flatten().tolist()) == [0, 0, 1]


def test_derivatives_of_unpooling() -> None:
    index = torch.tensor([[[[5, 7], [13, 15]]]])

    def run(x: Tensor) -> Tensor:
        return run_node("MaxUnpool", [x, index], opset=22, kernel_shape=[2, 2], strides=[2, 2], settings=DOUBLE)[0]

    x = normal(1, 1, 2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, x, check_forward_ad=True)


def test_derivatives_of_max_roi_pool() -> None:
    rois = torch.tensor([[0, 1, 0, 3, 4], [0, 2, 2, 9, 9]], dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        return run_node("MaxRoiPool", [x, rois], opset=22, pooled_shape=[2, 2], settings=DOUBLE)[0]

    x = normal(1, 1, 5, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, x, check_forward_ad=True)


@pytest.mark.parametrize(
    ("shape", "attributes", "why"),
    [
        ((1, 1, 2, 2, 2, 2), {"kernel_shape": [1, 1, 1, 1]}, "a kernel of 4 axes on 4 spatial axes"),
        ((1, 1, 4, 4), {"kernel_shape": [2]}, "a kernel of 1 axes on 2 spatial axes"),
        ((1, 1, 2), {"kernel_shape": [3]}, "windows of"),
    ],
)
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool", "LpPool"])
def test_refused(op_type: str, shape: tuple[int, ...], attributes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        run_node(op_type, [normal(*shape)], opset=22, **attributes)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalLpPool"])
def test_refused_without_spatial_axes(op_type: str) -> None:
    with pytest.raises(ModelError, match="an input without spatial axes"):
        run_node(op_type, [normal(2, 3)], opset=22)
