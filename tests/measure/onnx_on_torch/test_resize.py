"""Resize and Upsample against ONNX Runtime, and their derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

SCALES = [[1, 1, 2, 2], [1, 1, 0.6, 1.5], [1, 1, 0.4, 0.34], [1, 1, 1.8, 0.7]]
SIZES = [[2, 3, 7, 9], [2, 3, 3, 4], [2, 3, 1, 1], [2, 3, 10, 3]]
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
X = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
NONE = torch.tensor([])


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 1.5, 2.5], [1, 1, 1, 3]])
def test_upsample(scales: list[float], mode: str) -> None:
    assert_like_reference("Upsample", [X], opset=7, mode=mode, scales=[float(scale) for scale in scales])
    assert_like_reference("Upsample", [X, torch.tensor(scales).float()], opset=9, mode=mode)


@pytest.mark.parametrize(("opset_1", "opset_7"), [("nearest", "nearest"), ("bilinear", "linear")])
def test_upsample_of_opset_1(opset_1: str, opset_7: str) -> None:
    (found,) = run_node("Upsample", [X], opset=1, mode=opset_1, height_scale=2.0, width_scale=3.0)
    (wanted,) = run_node("Upsample", [X], opset=7, mode=opset_7, scales=[1.0, 1.0, 2.0, 3.0])
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", SCALES)
def test_resize_of_opset_10(scales: list[float], mode: str) -> None:
    assert_like_reference("Resize", [X, torch.tensor(scales).float()], opset=10, mode=mode)


@pytest.mark.parametrize("opset", [11, 13, 18, 19])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_sizes_in_every_coordinate_mode(coordinates: str, mode: str, opset: int) -> None:
    for sizes in SIZES:
        inputs = [X, NONE, NONE if opset == 11 else None, torch.tensor(sizes)]
        assert_like_reference("Resize", inputs, opset=opset, mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(
    ("coordinates", "opset"),
    [("half_pixel", 13), ("pytorch_half_pixel", 13), ("asymmetric", 13), ("tf_half_pixel_for_nn", 11),
     ("half_pixel_symmetric", 19)],
)  # fmt: skip
@pytest.mark.parametrize("scales", SCALES)
def test_scales_in_every_coordinate_mode(scales: list[float], coordinates: str, opset: int, mode: str) -> None:
    inputs = [X, NONE, torch.tensor(scales).float()]
    assert_like_reference("Resize", inputs, opset=opset, mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("sizes", SIZES)
def test_nearest_entry_in_every_rounding(sizes: list[int], coordinates: str, rounding: str) -> None:
    given = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": coordinates}
    assert_like_reference("Resize", [X, None, None, torch.tensor(sizes)], opset=13, **given)


def test_lengths_are_rounded_down_in_float32() -> None:
    inputs = [torch.randn(1, 1, 10), None, torch.tensor([1, 1, 0.7])]
    assert run_node("Resize", inputs, opset=13)[0].shape == (1, 1, 7)
    assert run_node("Resize", inputs, opset=13, settings=DOUBLE)[0].shape == (1, 1, 7)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("exclude_outside", [0, 1])
def test_cubic_coefficient(exclude_outside: int, sizes: list[int]) -> None:
    given = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": exclude_outside}
    assert_like_reference("Resize", [X, None, None, torch.tensor(sizes)], opset=13, **given)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("sizes", [[2, 3], [3, 9], [10, 12], [1, 1]])
def test_antialias(sizes: list[int], mode: str) -> None:
    inputs = [X, None, None, torch.tensor(sizes)]
    assert_like_reference("Resize", inputs, opset=18, mode=mode, axes=[2, 3], antialias=1)


def test_antialias_leaving_out_what_is_outside_is_torchs() -> None:
    inputs = [X, None, None, torch.tensor([2, 3])]
    given = {"mode": "linear", "antialias": 1, "exclude_outside": 1, "axes": [2, 3]}
    (found,) = run_node("Resize", inputs, opset=18, **given)
    wanted = torch.nn.functional.interpolate(X, (2, 3), mode="bilinear", antialias=True)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop_and_resize_extrapolates(mode: str) -> None:
    roi = torch.tensor([0, 0, 0.1, -0.2, 1, 1, 0.7, 1.3])
    given = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
    assert_like_reference("Resize", [X, roi, None, torch.tensor([2, 3, 7, 4])], opset=13, **given)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_aspect_ratio_is_kept(policy: str, mode: str) -> None:
    inputs = [X, None, None, torch.tensor([8, 7])]
    assert_like_reference("Resize", inputs, opset=18, mode=mode, axes=[2, 3], keep_aspect_ratio_policy=policy)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64])
def test_integers_are_rounded_and_do_not_overflow(dtype: torch.dtype) -> None:
    top = torch.iinfo(dtype).max if dtype is not torch.int64 else 100
    x = torch.tensor([0, 0, top, top]).to(dtype).reshape(1, 1, 4)
    (found,) = run_node("Resize", [x, None, None, torch.tensor([1, 1, 8])], opset=13, mode="cubic")
    real = [x.double(), None, None, torch.tensor([1, 1, 8])]
    (wanted,) = run_node("Resize", real, opset=13, mode="cubic")
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    assert found.tolist() == wanted.round().clamp(least, most).to(dtype).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_half_precision(mode: str, dtype: torch.dtype) -> None:
    sizes = [None, None, torch.tensor([2, 3, 9, 4])]
    (found,) = run_node("Resize", [X.to(dtype), *sizes], opset=13, mode=mode)
    (wanted,) = run_node("Resize", [X.to(dtype).float(), *sizes], opset=13, mode=mode)
    assert torch.equal(found, wanted.to(dtype))


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "nearest"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"mode": "cubic"},
        {"mode": "cubic", "antialias": 1, "exclude_outside": 1},
        {"mode": "linear", "antialias": 1},
    ],
)
@pytest.mark.parametrize("sizes", [[5, 7], [1, 2]])
def test_derivatives(sizes: list[int], attributes: dict[str, Any]) -> None:
    def run(x: Tensor) -> Tensor:
        inputs = [x, None, None, torch.tensor(sizes)]
        return run_node("Resize", inputs, opset=18, axes=[2, 3], settings=DOUBLE, **attributes)[0]

    x = X[:1, :1, :3, :4].double().requires_grad_()
    assert torch.autograd.gradcheck(run, x, check_forward_ad=True)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"mode": "area"}, 'mode "area"'),
        ({"nearest_mode": "even"}, 'nearest_mode "even"'),
        ({"coordinate_transformation_mode": "whole_pixel"}, 'coordinate_transformation_mode "whole_pixel"'),
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, "without a start and an end per axis"),
        ({"keep_aspect_ratio_policy": "loose"}, 'keep_aspect_ratio_policy "loose"'),
        ({"antialias": 1}, "antialias of the nearest entry"),
    ],
)
def test_refused(attributes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        run_node("Resize", [X, None, None, torch.tensor([2, 3, 4, 4])], opset=19, **attributes)


def test_refused_without_scales_and_sizes() -> None:
    with pytest.raises(ModelError, match="neither scales nor sizes"):
        run_node("Resize", [X, NONE, NONE], opset=11)
