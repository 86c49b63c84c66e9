"""Quantised tensors and their products against ONNX Runtime, and derivatives through scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from gnelint.errors import ModelError
from gnelint.measure.onnx_on_torch.call import Settings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from tests.measure.onnx_on_torch.nodes import (
    DOUBLE,
    assert_like_reference,
    node_model,
    run_model,
    run_node,
    run_reference,
)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def codes(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Quantised numbers from all of a type's range."""
    bounds = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(bounds.min, bounds.max + 1, shape, generator=generator, dtype=torch.int32).to(dtype)


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def scales(*shape: int) -> Tensor:
    """Powers of two, so that every implementation rounds the same numbers."""
    return 2.0 ** torch.randint(-4, 2, shape, generator=torch.Generator().manual_seed(sum(shape)))


TIES = torch.tensor([-1e9, -300.0, -1.5, -0.5, -0.25, 0.0, 0.5, 1.5, 2.5, 3.5, 127.5, 300.0, 1e9, float("inf")])


# --- to and from quantised tensors --------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 22])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_quantize_linear_rounds_half_to_even_and_saturates(opset: int, dtype: torch.dtype) -> None:
    assert_like_reference("QuantizeLinear", [TIES, scalar(0.5), scalar(3, dtype)], opset=opset)


def test_quantize_linear_without_a_zero_point_gives_uint8() -> None:
    assert_like_reference("QuantizeLinear", [TIES, scalar(0.5)], opset=13)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("opset", [13, 21])
def test_quantize_linear_takes_a_scale_per_axis(opset: int, axis: int) -> None:
    x = rand(3, 4, 5) * 9
    size = x.shape[axis]
    assert_like_reference("QuantizeLinear", [x, scales(size), codes(size)], opset=opset, axis=axis)


@pytest.mark.parametrize(("axis", "shape"), [(1, (3, 2, 5)), (-1, (3, 4, 3))])
def test_quantize_linear_takes_a_scale_per_block(axis: int, shape: tuple[int, ...]) -> None:
    inputs = [rand(3, 4, 5) * 9, scales(*shape), codes(*shape, dtype=torch.int8)]
    assert_like_reference("QuantizeLinear", inputs, opset=21, axis=axis, block_size=2)


@pytest.mark.parametrize("code", [TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16])
def test_quantize_linear_without_a_zero_point_gives_the_type_asked_for(code: int) -> None:
    x = torch.tensor([-7e4, -200.0, -0.5, 1.5, 200.0, 7e4])
    found = run_node("QuantizeLinear", [x, scalar(1)], opset=21, output_dtype=code)[0]
    bounds = torch.iinfo(found.dtype)
    assert found.tolist() == x.round().clamp(bounds.min, bounds.max).int().tolist()


@pytest.mark.parametrize(("saturate", "wanted"), [(1, [448.0, -448.0, 1.5]), (0, [float("nan"), float("nan"), 1.5])])
def test_quantize_linear_to_float8_saturates_unless_told_otherwise(saturate: int, wanted: list[float]) -> None:
    zero = torch.zeros((), dtype=torch.float8_e4m3fn)
    x = torch.tensor([1e5, -1e5, 3.0])
    found = run_node("QuantizeLinear", [x, scalar(2), zero], opset=19, saturate=saturate)[0]
    assert found.dtype is torch.float8_e4m3fn
    torch.testing.assert_close(found.float(), torch.tensor(wanted), equal_nan=True)


def test_quantize_linear_divides_in_the_precision_asked_for() -> None:
    x, scale = torch.tensor([2049.0]), scalar(1)
    narrow = run_node("QuantizeLinear", [x, scale, scalar(0, torch.int16)], opset=23, precision=TensorProto.FLOAT16)
    assert narrow[0].item() == 2048
    assert run_node("QuantizeLinear", [x, scale, scalar(0, torch.int16)], opset=23)[0].item() == 2049


@pytest.mark.parametrize("opset", [10, 13, 19, 22])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_dequantize_linear_agrees_with_onnx_runtime(opset: int, dtype: torch.dtype) -> None:
    inputs = [codes(3, 4, dtype=dtype), scalar(0.3), scalar(5, dtype)]
    assert_like_reference("DequantizeLinear", inputs, opset=opset)


def test_dequantize_linear_of_int32_agrees_with_onnx_runtime() -> None:
    assert_like_reference("DequantizeLinear", [codes(3, 4, dtype=torch.int32), scalar(1e-6)], opset=13)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_dequantize_linear_takes_a_scale_per_axis(axis: int) -> None:
    x = codes(3, 4, 5)
    size = x.shape[axis]
    assert_like_reference("DequantizeLinear", [x, rand(size), codes(size)], opset=13, axis=axis)


@pytest.mark.parametrize(("axis", "shape"), [(1, (3, 2, 5)), (-1, (3, 4, 3))])
def test_dequantize_linear_takes_a_scale_per_block(axis: int, shape: tuple[int, ...]) -> None:
    assert_like_reference(
        "DequantizeLinear", [codes(3, 4, 5), rand(*shape), codes(*shape)], opset=21, axis=axis, block_size=2
    )


def test_dequantize_linear_gives_the_type_asked_for() -> None:
    found = run_node("DequantizeLinear", [codes(3), scalar(0.5)], opset=23, output_dtype=TensorProto.FLOAT16)[0]
    assert found.dtype is torch.float16
    assert torch.equal(found.float(), codes(3) * 0.5)


@pytest.mark.parametrize("x", [rand(3, 4), rand(3, 4).abs() + 1, -rand(3, 4).abs() - 1, torch.zeros(3)])
def test_dynamic_quantize_linear_agrees_with_onnx_runtime(x: Tensor) -> None:
    assert_like_reference("DynamicQuantizeLinear", [x], opset=11, outputs=3)


# --- products -----------------------------------------------------------------------------------------------------

POINT = [scalar(0.25), scalar(120, torch.uint8)]
OUT = [scalar(64), scalar(110, torch.uint8)]


@pytest.mark.parametrize("opset", [10, 21])
@pytest.mark.parametrize(
    "inputs",
    [
        [codes(3, 4), *POINT, codes(4, 5), *POINT, *OUT],
        [codes(2, 3, 4), *POINT, codes(2, 4, 5), *POINT, *OUT],
        [codes(3, 4), *POINT, codes(4, 5, dtype=torch.int8), scales(5), codes(5, dtype=torch.int8), *OUT],
    ],
    ids=["matrices", "batch", "columns"],
)
def test_quantised_matmul_agrees_with_onnx_runtime(opset: int, inputs: list[Tensor | None]) -> None:
    assert_like_reference("QLinearMatMul", inputs, opset=opset)


def test_quantised_matmul_takes_a_scale_per_row() -> None:
    a, b, a_scale, a_zero = codes(3, 4), codes(4, 5), scales(3), codes(3)
    found = run_node("QLinearMatMul", [a, a_scale, a_zero, b, *POINT, *OUT], opset=10)[0]
    wide = (a.double() - a_zero[:, None]) * a_scale[:, None] @ ((b.double() - 120) * 0.25)
    assert found.tolist() == ((wide / 64).round() + 110).clamp(0, 255).tolist()


@pytest.mark.parametrize(
    "inputs",
    [
        [codes(3, 4), codes(4, 5)],
        [codes(3, 4), codes(4, 5, dtype=torch.int8), scalar(7, torch.uint8), scalar(-3, torch.int8)],
        [codes(2, 3, 4), codes(4, 5), scalar(7, torch.uint8), codes(5)],
    ],
    ids=["plain", "zero points", "columns"],
)
def test_integer_matmul_agrees_with_onnx_runtime(inputs: list[Tensor | None]) -> None:
    assert_like_reference("MatMulInteger", inputs, opset=10)


def test_integer_matmul_is_exact_for_long_sums() -> None:
    a, b = torch.full((1, 30_001), 255, dtype=torch.uint8), torch.full((30_001, 1), 255, dtype=torch.uint8)
    assert run_node("MatMulInteger", [a, b], opset=10)[0].item() == 30_001 * 255 * 255


CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"pads": [1, 0, 2, 1], "strides": [2, 1]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"dilations": [2, 1], "group": 2},
]


@pytest.mark.parametrize("attributes", CONVOLUTIONS)
def test_quantised_convolution_agrees_with_onnx_runtime(attributes: dict[str, Any]) -> None:
    # up to 64: on processors without VNNI the runtime adds pairs of products in 16 bits, and larger ones saturate
    w = codes(4, 4 // attributes.get("group", 1), 3, 2, dtype=torch.int8) // 2
    bias = torch.tensor([900, -800, 70, 0], dtype=torch.int32)
    inputs = [codes(2, 4, 7, 6), *POINT, w, scales(4), torch.zeros(4, dtype=torch.int8), *OUT, bias]
    assert_like_reference("QLinearConv", inputs, opset=10, **attributes)


def test_quantised_convolution_of_a_sequence_agrees_with_onnx_runtime() -> None:
    assert_like_reference("QLinearConv", [codes(2, 4, 7), *POINT, codes(3, 4, 3), *POINT, *OUT], opset=10)


@pytest.mark.parametrize("attributes", CONVOLUTIONS)
def test_integer_convolution_agrees_with_onnx_runtime(attributes: dict[str, Any]) -> None:
    w = codes(4, 4 // attributes.get("group", 1), 3, 2)
    inputs = [codes(2, 4, 7, 6), w, scalar(7, torch.uint8), scalar(9, torch.uint8)]
    assert_like_reference("ConvInteger", inputs, opset=10, **attributes)


# --- derivatives and refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [{"axis": 0}, {"axis": 1, "block_size": 2}], ids=["axis", "block"])
def test_derivatives_with_respect_to_a_scale_are_right(attributes: dict[str, Any]) -> None:
    x, zero = codes(3, 4), codes(3, 2) if "block_size" in attributes else codes(3)
    scale = rand(*zero.shape).double().requires_grad_()

    def function(given: Tensor) -> Tensor:
        return run_node("DequantizeLinear", [x, given, zero], opset=21, settings=DOUBLE, **attributes)[0]

    assert torch.autograd.gradcheck(function, [scale], check_forward_ad=True)


def test_derivative_with_respect_to_a_float8_tensor_is_the_scale() -> None:
    x = torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn).requires_grad_()
    run_node("DequantizeLinear", [x, scalar(0.5)], opset=19)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.float().tolist() == [0.5, 0.5]


def test_rounding_has_no_gradient() -> None:
    x = rand(3, 4).requires_grad_()
    assert not run_node("QuantizeLinear", [x, *POINT], opset=13)[0].requires_grad


@pytest.mark.parametrize(
    ("inputs", "attributes", "reason"),
    [
        ([codes(3, 4), rand(5)], {"axis": 0}, r"scales of shape \(5,\) for axis 0"),
        ([codes(3, 4), rand(2)], {"axis": 0, "block_size": 2}, "blocks of rank 1 for a tensor of rank 2"),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    inputs: list[Tensor | None], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        run_node("DequantizeLinear", inputs, opset=21, **attributes)


def test_products_in_8_bit_floats_are_refused() -> None:
    small = torch.ones(2, 2).to(torch.float8_e4m3fn)
    zero = torch.zeros((), dtype=torch.float8_e4m3fn)
    with pytest.raises(ModelError, match="a product in "):
        run_node("QLinearMatMul", [small, scalar(1), zero, small, scalar(1), zero, scalar(1), zero], opset=21)


@pytest.mark.parametrize(("code", "low", "high"), [(TensorProto.INT4, -8, 8), (TensorProto.UINT4, 0, 16)])
def test_four_bit_weights_are_leaves_of_their_real_size(tmp_path: Path, code: int, low: int, high: int) -> None:
    numbers = np.random.default_rng(0).integers(low, high, (6, 4))
    stored = [
        helper.make_tensor("q", code, (6, 4), numbers.ravel().tolist()),
        numpy_helper.from_array(np.float32(0.1), "s"),
        helper.make_tensor("z", code, (), [3]),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "four", ends[:1], ends[1:], stored),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "four.onnx")
    interpreter = open_interpreter(tmp_path / "four.onnx", Settings())
    interpreter.ask_gradients(frozenset({"w"}))
    x = torch.randn(2, 6)
    (found,) = interpreter.run({"x": x}).values()
    (wanted,) = run_reference(model, [x])
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert interpreter.leaves["w"].shape == (6, 4)
    assert interpreter.leaves["w"].requires_grad


def test_nothing_is_quantised_to_four_bits() -> None:
    model = node_model("QuantizeLinear", [torch.randn(3), torch.tensor(0.1)], opset=21, output_dtype=TensorProto.INT4)
    with pytest.raises(ModelError, match="tensors of type int4"):
        run_model(model, [torch.randn(3), torch.tensor(0.1)])
