"""Convolutions against ONNX Runtime, and their derivatives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

SIZES = {1: (11,), 2: (9, 10), 3: (6, 7, 8)}
KERNEL = (3, 2, 3)
PADS = {1: [1, 2], 2: [2, 1, 0, 0], 3: [1, 1, 0, 0, 0, 1]}
ALONG = [(1, 1), (2, 1), (3, 2)]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("stride", "dilation"), ALONG)
@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID"])
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_strides_dilations_and_uneven_pads(op_type: str, auto_pad: str, stride: int, dilation: int, rank: int) -> None:
    pads = {"pads": PADS[rank]} if auto_pad == "NOTSET" else {}
    shape = (6, 2) if op_type == "Conv" else (4, 3)
    inputs = [normal(2, 4, *SIZES[rank]), normal(*shape, *KERNEL[:rank]), normal(6)]
    steps = {"strides": [stride] * rank, "dilations": [dilation] * rank}
    assert_like_reference(op_type, inputs, opset=11, auto_pad=auto_pad, group=2, **steps, **pads)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("op_type", "opset"), [("Conv", 1), ("Conv", 11), ("ConvTranspose", 11)])
def test_same_padding(op_type: str, opset: int, auto_pad: str, stride: int, rank: int) -> None:
    inputs = [normal(2, 4, *SIZES[rank]), normal(4, 4, *(3, 4, 3)[:rank])]
    assert_like_reference(op_type, inputs, opset=opset, auto_pad=auto_pad, strides=[stride] * rank)


def test_same_padding_of_a_transposed_kernel_below_the_stride_fills_up_with_zeros() -> None:
    inputs = [torch.ones(1, 1, 2), torch.ones(1, 1, 2)]
    (found,) = run_node("ConvTranspose", inputs, opset=22, auto_pad="SAME_UPPER", strides=[3])
    assert found.flatten().tolist() == [1, 1, 0, 1, 1, 0]


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_same_padding_counts_the_dilated_kernel(auto_pad: str) -> None:
    weight = normal(3, 3, 3)
    (found,) = run_node("Conv", [normal(1, 3, 8), weight], opset=22, auto_pad=auto_pad, dilations=[2])
    (wanted,) = run_node("Conv", [normal(1, 3, 8), weight], opset=22, pads=[2, 2], dilations=[2])
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("output_shape", [[20, 22], [17, 19], [18, 21]])
def test_transposed_to_an_output_shape(output_shape: list[int], auto_pad: str) -> None:
    inputs = [normal(2, 4, 9, 10), normal(4, 3, 3, 4), normal(3)]
    given = {"output_shape": output_shape, "auto_pad": auto_pad, "strides": [2, 2]}
    assert_like_reference("ConvTranspose", inputs, opset=11, **given)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 0, 1, 1]])
@pytest.mark.parametrize("extra", [[1, 0], [1, 2]])
def test_transposed_with_output_padding(extra: list[int], pads: list[int]) -> None:
    inputs = [normal(2, 4, 5, 6), normal(4, 3, 3, 4), normal(3)]
    assert_like_reference("ConvTranspose", inputs, opset=11, pads=pads, output_padding=extra, strides=[2, 3])


@pytest.mark.parametrize(("group", "offset_group"), [(1, 1), (2, 2), (1, 4), (4, 1)])
@pytest.mark.parametrize("masked", [True, False])
def test_deformable(group: int, offset_group: int, masked: bool) -> None:
    x, weight = normal(2, 4, 7, 8), normal(4, 4 // group, 3, 2)
    offset, mask = normal(2, offset_group * 12, 4, 7), normal(2, offset_group * 6, 4, 7)
    inputs = [x, weight, offset, normal(4), mask] if masked else [x, weight, offset]
    steps = {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}
    assert_like_reference("DeformConv", inputs, opset=19, group=group, offset_group=offset_group, **steps)


@pytest.mark.parametrize("rank", [1, 3])
def test_deformable_without_offsets_is_conv_in_every_rank(rank: int) -> None:
    x, weight = normal(2, 4, *SIZES[rank]), normal(6, 2, *KERNEL[:rank])
    given = {"group": 2, "pads": PADS[rank], "strides": [2] * rank, "opset": 22}
    (wanted,) = run_node("Conv", [x, weight], **given)
    kernel = weight[0, 0].numel()
    offset = torch.zeros(2, kernel * rank, *wanted.shape[2:])
    (found,) = run_node("DeformConv", [x, weight, offset], **given)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_col2im_is_the_transpose_of_taking_windows(rank: int) -> None:
    sizes, kernel = (5, 6, 4)[:rank], (2, 3, 2)[:rank]
    pads, steps = PADS[rank], {"strides": [2, 1, 1][:rank], "dilations": [1, 2, 1][:rank]}
    picks = torch.eye(math.prod(kernel)).reshape(-1, 1, *kernel)
    image = normal(2, 1, *sizes)
    (windows,) = run_node("Conv", [image, picks], opset=22, pads=pads, **steps)
    columns = normal(*windows.shape)
    inputs = [columns.flatten(2), torch.tensor(sizes), torch.tensor(kernel)]
    (found,) = run_node("Col2Im", inputs, opset=18, pads=pads, **steps)
    torch.testing.assert_close((found * image).sum(), (columns * windows).sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_half_precision(op_type: str, dtype: torch.dtype) -> None:
    inputs = [normal(1, 4, 6, 6).to(dtype), normal(4, 4, 3, 3).to(dtype)]
    (found,) = run_node(op_type, inputs, opset=22, pads=[1, 0, 0, 1])
    (wanted,) = run_node(op_type, [tensor.float() for tensor in inputs], opset=22, pads=[1, 0, 0, 1])
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.05)


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes"),
    [
        ("Conv", [(1, 2, 5), (2, 1, 2), (2,)], {"group": 2, "pads": [0, 1], "dilations": [2]}),
        ("Conv", [(1, 1, 3, 4), (2, 1, 2, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
        ("ConvTranspose", [(1, 2, 3), (2, 1, 3), (2,)], {"group": 2, "pads": [1, 0], "strides": [2]}),
        ("ConvTranspose", [(1, 1, 2, 3), (1, 2, 2, 2)], {"output_shape": [4, 5], "strides": [2, 2]}),
        ("DeformConv", [(1, 2, 3, 3), (2, 1, 2, 2), (1, 8, 2, 2), (2,), (1, 4, 2, 2)], {"group": 2}),
    ],
)
def test_derivatives(op_type: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> None:
    inputs = [normal(*shape, dtype=torch.float64, seed=index).requires_grad_() for index, shape in enumerate(shapes)]

    def run(*given: Tensor) -> Tensor:
        return run_node(op_type, given, opset=22, settings=DOUBLE, **attributes)[0]

    assert torch.autograd.gradcheck(run, inputs, check_forward_ad=True)


def test_derivatives_of_col2im() -> None:
    columns = normal(1, 4, 6, dtype=torch.float64).requires_grad_()

    def run(given: Tensor) -> Tensor:
        shapes = [torch.tensor([2, 3]), torch.tensor([2, 2])]
        return run_node("Col2Im", [given, *shapes], opset=18, pads=[1, 0, 0, 1], settings=DOUBLE)[0]

    assert torch.autograd.gradcheck(run, columns, check_forward_ad=True)


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "why"),
    [
        ("Conv", [(1, 1, 2, 2, 2, 2), (1, 1, 1, 1, 1, 1)], {}, "a kernel of 4 axes on 4 spatial axes"),
        ("Conv", [(1, 1, 4, 4), (1, 1, 2, 2)], {"pads": [1, 1]}, "pads of 2 entries where 4 belong"),
        ("ConvTranspose", [(1, 1, 4), (1, 1, 2)], {"auto_pad": "SAME"}, 'auto_pad "SAME"'),
        ("DeformConv", [(1, 1, 4, 4), (1, 1, 2, 2), (1, 8, 4, 4)], {}, "offsets for"),
    ],
)
def test_refused(op_type: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        run_node(op_type, [normal(*shape) for shape in shapes], opset=22, **attributes)
