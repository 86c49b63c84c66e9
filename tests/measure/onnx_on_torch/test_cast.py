"""Conversions between types, against ONNX Runtime where it has them."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from gnelint.errors import ModelError
from gnelint.measure.onnx_on_torch.call import Settings
from gnelint.measure.onnx_on_torch.tensors import onnx_code
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_model, run_node

NUMERIC = (
    torch.float32, torch.float64, torch.float16, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8,
    torch.uint16, torch.uint32, torch.uint64, torch.bool,
)  # fmt: skip
HALF = Settings(float32=torch.bfloat16)
INFINITE = float("inf")


def text_model(op_type: str, to: int, source: int) -> onnx.ModelProto:
    """A Cast between text and numbers."""
    node = helper.make_node(op_type, ["x"], ["y"], to=to)
    x, y = helper.make_tensor_value_info("x", source, None), helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph([node], "one", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(NUMERIC, 2)), ids=str)
def test_small_numbers_keep_their_value(source: torch.dtype, target: torch.dtype) -> None:
    assert_like_reference("Cast", [torch.tensor([0, 1, 3, 100]).to(source)], opset=13, to=onnx_code(target))


@pytest.mark.parametrize("target", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.uint32])
def test_integers_lose_their_higher_bits(target: torch.dtype) -> None:
    x = torch.tensor([-1, 200, 40000, 2**33 + 5, -(2**31)])
    assert_like_reference("Cast", [x], opset=13, to=onnx_code(target))


def test_floats_are_cut_to_integers() -> None:
    assert_like_reference("Cast", [torch.tensor([-2.7, -0.5, 0.5, 2.7])], opset=9, to=TensorProto.INT32)


def test_every_number_but_zero_is_true() -> None:
    x = torch.tensor([0.0, -0.0, 0.1, float("nan"), INFINITE])
    (found,) = run_node("Cast", [x], opset=13, to=TensorProto.BOOL)
    assert found.tolist() == [False, False, True, True, True]


def test_the_first_opset_names_types_by_words() -> None:
    (found,) = run_node("Cast", [torch.tensor([1.5])], opset=1, to="INT64")
    assert found.dtype is torch.int64


@pytest.mark.parametrize("settings", [DOUBLE, HALF], ids=["float64", "bfloat16"])
def test_float32_is_the_type_that_the_run_computes_in(settings: Settings) -> None:
    (cast,) = run_node("Cast", [torch.tensor([1, 2])], opset=13, settings=settings, to=TensorProto.FLOAT)
    (like,) = run_node("CastLike", [torch.tensor([1, 2]), torch.zeros(1)], opset=15, settings=settings)
    assert cast.dtype is settings.float32
    assert like.dtype is settings.float32


# float8 type, its largest number, and what becomes of numbers beyond it that are not saturated
EIGHT_BITS = [
    (torch.float8_e4m3fn, 448.0, "nan"), (torch.float8_e4m3fnuz, 240.0, "nan"), (torch.float8_e5m2, 57344.0, "inf"),
    (torch.float8_e5m2fnuz, 57344.0, "nan"),
]  # fmt: skip


@pytest.mark.parametrize("source", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("target", "largest", "beyond"), EIGHT_BITS, ids=str)
def test_numbers_too_large_for_eight_bits(
    source: torch.dtype, target: torch.dtype, largest: float, beyond: str
) -> None:
    x = torch.tensor([1e5, INFINITE, -INFINITE, largest, 1.0], dtype=source)
    (saturated,) = run_node("Cast", [x], opset=19, to=onnx_code(target))
    (unsaturated,) = run_node("Cast", [x], opset=19, to=onnx_code(target), saturate=0)
    assert saturated.dtype is target
    assert saturated.float().tolist() == [largest, largest, -largest, largest, 1.0]
    end = float(beyond)
    np.testing.assert_equal(unsaturated.float().tolist(), [end, end, -end, largest, 1.0])


@pytest.mark.parametrize(("x", "expected"), [(464.0, 448.0), (464.5, float("nan")), (-470.0, float("nan"))])
def test_numbers_that_round_to_the_largest_one_are_not_beyond_it(x: float, expected: float) -> None:
    (found,) = run_node("Cast", [torch.tensor(x)], opset=19, to=TensorProto.FLOAT8E4M3FN, saturate=0)
    np.testing.assert_equal(found.float().item(), expected)


def test_gradients_in_eight_bits_are_refused() -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ModelError, match="gradients in 8 bits"):
        run_node("Cast", [x], opset=19, to=TensorProto.FLOAT8E5M2)


@pytest.mark.parametrize("target", [TensorProto.INT4, TensorProto.FLOAT4E2M1])
def test_types_that_torch_lacks_are_refused(target: int) -> None:
    with pytest.raises(ModelError, match="tensors of type"):
        run_node("Cast", [torch.ones(2)], opset=23, to=target)


def test_a_gradient_returns_in_the_type_of_the_operand() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (found,) = run_node("Cast", [x], opset=13, to=TensorProto.DOUBLE)
    (gradient,) = torch.autograd.grad((found**2).sum(), x)
    assert gradient.dtype is torch.float32
    assert gradient.tolist() == [2.0, 4.0]


# --- text ---------------------------------------------------------------------------------------------------------


def test_text_to_floats() -> None:
    text = np.array([["3.5", "-1e2"], ["+INF", "NaN"]], dtype=object)
    (found,) = run_model(text_model("Cast", TensorProto.FLOAT, TensorProto.STRING), [text])
    np.testing.assert_equal(found.numpy(), np.array([[3.5, -100.0], [np.inf, np.nan]], dtype=np.float32))


def test_text_to_integers_is_exact() -> None:
    text = np.array([str(2**62 + 1), "-3", "1e3"], dtype=object)
    (found,) = run_model(text_model("Cast", TensorProto.INT64, TensorProto.STRING), [text])
    assert found.tolist() == [2**62 + 1, -3, 1000]


@pytest.mark.parametrize("settings", [Settings(), DOUBLE], ids=["float32", "float64"])
def test_floats_are_written_briefly_in_every_run(settings: Settings) -> None:
    x = torch.tensor([0.1, -2.5], dtype=torch.float32)
    (found,) = run_model(text_model("Cast", TensorProto.STRING, TensorProto.FLOAT), [x], settings)
    assert found.tolist() == ["0.1", "-2.5"]


def test_truth_values_and_text_are_not_converted() -> None:
    with pytest.raises(ModelError, match="truth values"):
        run_model(text_model("Cast", TensorProto.STRING, TensorProto.BOOL), [torch.tensor([True])])
    text = np.array(["1"], dtype=object)
    with pytest.raises(ModelError, match="truth values"):
        run_model(text_model("Cast", TensorProto.BOOL, TensorProto.STRING), [text])


# --- bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [Settings(), DOUBLE], ids=["float32", "float64"])
def test_bits_of_float32_are_the_same_in_every_run(settings: Settings) -> None:
    x = torch.tensor([1.0, -2.5])
    (bits,) = run_node("BitCast", [x], opset=26, settings=settings, to=TensorProto.INT32)
    (back,) = run_node("BitCast", [bits], opset=26, settings=settings, to=TensorProto.FLOAT)
    assert bits.equal(x.view(torch.int32))
    assert back.dtype is settings.float32
    assert back.tolist() == [1.0, -2.5]


def test_bits_of_another_width_are_refused() -> None:
    with pytest.raises(ModelError, match="the bits of"):
        run_node("BitCast", [torch.ones(2, dtype=torch.float16)], opset=26, to=TensorProto.INT32)
