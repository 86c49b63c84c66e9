"""Sampling, regions and boxes against ONNX Runtime, and their derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

REGIONS = [[0, 0, 4, 4], [1.2, 0.5, 30, 9], [-3, -2, 3, 4.5], [4, 4, 2, 2], [40, 40, 44, 44]]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype) * (high - low) + low


@pytest.mark.parametrize(
    ("opset", "mode"),
    [(16, "bilinear"), (16, "bicubic"), (16, "nearest"), (20, "linear"), (22, "cubic"), (22, "nearest")],
)
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(align: int, padding: str, opset: int, mode: str) -> None:
    inputs = [normal(2, 3, 5, 6), uniform(2, 4, 5, 2, low=-1.7, high=1.7)]
    assert_like_reference("GridSample", inputs, opset=opset, mode=mode, padding_mode=padding, align_corners=align)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample_of_volumes(align: int, padding: str, mode: str) -> None:
    inputs = [normal(2, 3, 3, 4, 5), uniform(2, 4, 5, 3, 3, low=-1.7, high=1.7)]
    assert_like_reference("GridSample", inputs, opset=20, mode=mode, padding_mode=padding, align_corners=align)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_places_in_large_images_are_told_apart_in_half_precision(dtype: torch.dtype) -> None:
    x = torch.arange(1024.0).reshape(1, 1, 1, 1024)
    grid = torch.tensor([[[[0.5, 0.0]]]])
    (found,) = run_node("GridSample", [x.to(dtype), grid.to(dtype)], opset=22)
    (wanted,) = run_node("GridSample", [x, grid], opset=22)
    torch.testing.assert_close(found.float(), wanted, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_a_place_that_is_no_number_gives_no_number(padding: str, mode: str) -> None:
    grid = torch.tensor([[[[torch.nan, 0.0], [0.0, 0.0]]]])
    (found,) = run_node("GridSample", [torch.ones(1, 1, 3, 3), grid], opset=22, mode=mode, padding_mode=padding)
    assert found.isnan().flatten().tolist() == [True, False]


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("lengths", [(4, 5), (4, 5, 3), (1, 3)])
def test_affine_grid_is_torchs(lengths: tuple[int, ...], align: int) -> None:
    theta = normal(2, len(lengths), len(lengths) + 1)
    (found,) = run_node("AffineGrid", [theta, torch.tensor([2, 3, *lengths])], opset=20, align_corners=align)
    wanted = torch.nn.functional.affine_grid(theta, [2, 3, *lengths], align_corners=bool(align))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2, 3])
@pytest.mark.parametrize(("opset", "coordinates"), [(10, None), (16, "half_pixel"), (16, "output_half_pixel")])
def test_roi_align(opset: int, coordinates: str | None, ratio: int, mode: str) -> None:
    given: dict[str, Any] = {"coordinate_transformation_mode": coordinates} if coordinates else {}
    given |= {"mode": mode, "sampling_ratio": ratio, "output_height": 3, "output_width": 2, "spatial_scale": 0.5}
    inputs = [normal(2, 3, 9, 10), torch.tensor(REGIONS), torch.tensor([0, 1, 1, 0, 1])]
    assert_like_reference("RoiAlign", inputs, opset=opset, **given)


def test_roi_align_of_no_regions() -> None:
    inputs = [normal(1, 3, 4, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)]
    (found,) = run_node("RoiAlign", inputs, opset=22, output_height=2)
    assert found.shape == (0, 3, 2, 1)


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("overlap", [0.1, 0.5])
@pytest.mark.parametrize("least", [None, 0.4])
@pytest.mark.parametrize("most", [0, 3, 100])
def test_non_max_suppression(most: int, least: float | None, overlap: float, centred: int) -> None:
    boxes = torch.cat([uniform(2, 30, 2), uniform(2, 30, 2, high=0.4)], -1) if centred else uniform(2, 30, 4)
    scores = uniform(2, 3, 30).round(decimals=1)
    limits = [torch.tensor([most]), torch.tensor([overlap]), None if least is None else torch.tensor([least])]
    assert_like_reference("NonMaxSuppression", [boxes, scores, *limits], opset=11, center_point_box=centred)


def test_non_max_suppression_keeps_none_unless_told_how_many() -> None:
    assert_like_reference("NonMaxSuppression", [uniform(1, 5, 4), uniform(1, 1, 5)], opset=10)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_derivatives_of_grid_sample(padding: str, mode: str) -> None:
    def run(x: Tensor, grid: Tensor) -> Tensor:
        return run_node("GridSample", [x, grid], opset=22, mode=mode, padding_mode=padding, settings=DOUBLE)[0]

    x = normal(1, 1, 3, 4, dtype=torch.float64).requires_grad_()
    grid = uniform(1, 2, 1, 2, low=-1.3, high=1.3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, grid), check_forward_ad=True)


def test_second_derivatives_of_grid_sample() -> None:
    def run(x: Tensor, grid: Tensor) -> Tensor:
        return run_node("GridSample", [x, grid], opset=22, settings=DOUBLE)[0]

    x = normal(1, 1, 2, 3, dtype=torch.float64).requires_grad_()
    grid = uniform(1, 1, 2, 2, low=-0.9, high=0.9, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(run, (x, grid))


def test_derivatives_of_affine_grid() -> None:
    def run(theta: Tensor) -> Tensor:
        return run_node("AffineGrid", [theta, torch.tensor([1, 1, 2, 3])], opset=20, settings=DOUBLE)[0]

    assert torch.autograd.gradcheck(run, normal(1, 2, 3, dtype=torch.float64).requires_grad_(), check_forward_ad=True)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_derivatives_of_roi_align(ratio: int, mode: str) -> None:
    given = {"mode": mode, "sampling_ratio": ratio, "output_height": 2, "output_width": 2}

    def run(x: Tensor, rois: Tensor) -> Tensor:
        return run_node("RoiAlign", [x, rois, torch.tensor([0, 0])], opset=16, settings=DOUBLE, **given)[0]

    x = normal(1, 1, 4, 5, dtype=torch.float64).requires_grad_()
    rois = torch.tensor([[0.3, 0.2, 3.1, 2.3], [1.1, 0.7, 2.4, 3.3]], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, rois), check_forward_ad=True)


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "why"),
    [
        ("GridSample", [(1, 1, 3, 3), (1, 2, 2, 2)], {"mode": "area"}, 'mode "area"'),
        ("GridSample", [(1, 1, 3, 3), (1, 2, 2, 2)], {"padding_mode": "wrap"}, 'padding_mode "wrap"'),
        ("RoiAlign", [(1, 1, 3, 3), (1, 4), (1,)], {"mode": "sum"}, 'mode "sum"'),
    ],
)
def test_refused(op_type: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        run_node(op_type, [normal(*shape) for shape in shapes], opset=22, **attributes)
