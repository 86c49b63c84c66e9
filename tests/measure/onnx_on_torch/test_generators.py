"""Constants, ranges, random numbers, Fourier transforms, windows and the mel scale."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from gnelint.errors import ModelError
from gnelint.measure.onnx_on_torch.call import Settings
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

HALF = Settings(float32=torch.bfloat16)


def scalar(value: float, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


# --- constants and ranges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[2, 3], [0, 2], []], ids=str)
@pytest.mark.parametrize("value", [None, np.float32([1.5]), np.int64([7]), np.array([True])], ids=str)
def test_constant(shape: list[int], value: np.ndarray | None) -> None:
    attributes = {} if value is None else {"value": numpy_helper.from_array(value)}
    if not shape:  # ONNX Runtime refuses an empty shape that is an input
        (found,) = run_node("ConstantOfShape", [torch.tensor(shape, dtype=torch.int64)], opset=9, **attributes)
        assert found.shape == ()
        assert found.item() == (0.0 if value is None else value[0])
        return
    assert_like_reference("ConstantOfShape", [torch.tensor(shape)], opset=9, **attributes)


@pytest.mark.parametrize("value", [None, helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])], ids=["zeros", "ones"])
def test_constant_has_the_type_of_the_run(value: Any) -> None:
    attributes = {} if value is None else {"value": value}
    (found,) = run_node("ConstantOfShape", [torch.tensor([2])], opset=9, settings=DOUBLE, **attributes)
    assert found.dtype is torch.float64


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("bounds", [(2, 9, 3), (10, 4, -2), (3, 3, 1), (5, 2, 1), (0, 7, 7), (-3, 4, 2)], ids=str)
def test_range(bounds: tuple[int, int, int], dtype: torch.dtype) -> None:
    assert_like_reference("Range", [scalar(bound, dtype) for bound in bounds], opset=11)


@pytest.mark.parametrize("settings", [Settings(), DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0, 0.1), (0.0, 0.3, 0.1), (0.1, 0.9, 0.2), (1.0, 0.0, -0.3)], ids=str)
def test_length_of_a_range_of_floats_is_that_of_float32(bounds: tuple[float, ...], settings: Settings) -> None:
    inputs = [scalar(bound, torch.float32) for bound in bounds]
    assert_like_reference("Range", inputs, opset=11)
    (found,) = run_node("Range", inputs, opset=11)
    (other,) = run_node("Range", inputs, opset=11, settings=settings)
    torch.testing.assert_close(other.float(), found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_range_of_a_narrow_type_is_computed_in_float32(dtype: torch.dtype) -> None:
    start, limit, delta = (scalar(bound, dtype) for bound in (0.1, 2.0, 0.1))
    (found,) = run_node("Range", [start, limit, delta], opset=27)
    steps = torch.arange(len(found)).float()
    assert found.equal((start.float() + steps * delta.float()).to(dtype))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_range_without_a_step_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ModelError, match="a step of 0"):
        run_node("Range", [scalar(bound, dtype) for bound in (0, 3, 0)], opset=11)


def test_derivatives_of_a_range() -> None:
    inputs = [scalar(bound, torch.float64).requires_grad_() for bound in (0.5, 3.1, 0.7)]
    assert torch.autograd.gradcheck(
        lambda a, d: _first("Range", 11, {}, a, inputs[1], d), inputs[::2], check_forward_ad=True
    )


@pytest.mark.parametrize("attributes", [{}, {"k": 1}, {"k": -2}, {"k": 9}, {"dtype": TensorProto.INT32}], ids=str)
def test_identity_matrix(attributes: dict[str, int]) -> None:
    assert_like_reference("EyeLike", [normal(3, 4)], opset=9, **attributes)


# --- random numbers -----------------------------------------------------------------------------------------------

LARGE = (400, 500)
# operator, shape as an input or an attribute, attributes, mean and standard deviation
RANDOM: list[tuple[str, bool, dict[str, Any], float, float]] = [
    ("RandomNormal", False, {}, 0.0, 1.0),
    ("RandomNormalLike", True, {"mean": 2.0, "scale": 3.0, "seed": 5.0}, 2.0, 3.0),
    ("RandomUniform", False, {}, 0.5, 12**-0.5),
    ("RandomUniformLike", True, {"low": -1.0, "high": 5.0, "seed": 5.0}, 2.0, 6 * 12**-0.5),
]


@pytest.mark.parametrize(("op_type", "like", "attributes", "mean", "deviation"), RANDOM, ids=str)
def test_random_numbers(op_type: str, like: bool, attributes: dict[str, Any], mean: float, deviation: float) -> None:
    given = attributes if like else {**attributes, "shape": LARGE}
    inputs = [torch.zeros(LARGE)] if like else []
    (found,) = run_node(op_type, inputs, opset=7, **given)
    (again,) = run_node(op_type, inputs, opset=7, settings=DOUBLE, **given)
    assert found.shape == LARGE
    assert again.dtype is torch.float64
    assert found.equal(again.float())
    assert found.mean().item() == pytest.approx(mean, abs=0.02)
    assert found.std().item() == pytest.approx(deviation, rel=0.01)


def test_another_seed_gives_other_numbers() -> None:
    first, second = (run_node("RandomNormal", [], opset=7, shape=[3], seed=seed)[0] for seed in (1.0, 2.0))
    assert not first.equal(second)


@pytest.mark.parametrize(("dtype", "expected"), [(None, torch.float32), (TensorProto.BOOL, torch.bool)])
def test_bernoulli(dtype: int | None, expected: torch.dtype) -> None:
    probabilities = torch.tensor([0.0, 0.3, 1.0]).expand(20000, 3)
    (found,) = run_node("Bernoulli", [probabilities], opset=15, **({} if dtype is None else {"dtype": dtype}))
    assert found.dtype is expected
    assert found.float().mean(0).tolist() == pytest.approx([0.0, 0.3, 1.0], abs=0.02)


@pytest.mark.parametrize(("code", "dtype"), [(TensorProto.INT32, torch.int32), (TensorProto.INT64, torch.int64)])
def test_multinomial(code: int, dtype: torch.dtype) -> None:
    scores = torch.tensor([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0]]).log() + 3
    (found,) = run_node("Multinomial", [scores], opset=7, sample_size=20000, dtype=code)
    assert found.dtype is dtype
    assert found[0].bincount().div(20000).tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.02)
    assert not found[1].any()


# --- Fourier transforms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("length", [None, 4, 9])
@pytest.mark.parametrize("inverse", [0, 1])
def test_transform_along_an_attribute(parts: int, length: int | None, inverse: int) -> None:
    inputs = [normal(2, 6, parts)] if length is None else [normal(2, 6, parts), scalar(length)]
    assert_like_reference("DFT", inputs, opset=17, axis=1, inverse=inverse)


@pytest.mark.parametrize("length", [None, 4, 9])
@pytest.mark.parametrize("axis", [1, -2])
def test_one_side_of_the_spectrum(length: int | None, axis: int) -> None:
    inputs = [normal(2, 6, 1), None if length is None else scalar(length), scalar(axis)]
    assert_like_reference("DFT", inputs, opset=20, onesided=1)


@pytest.mark.parametrize("length", [None, 6, 7])
def test_the_inverse_of_one_side_is_real(length: int | None) -> None:
    x = normal(2, 6 if length is None else length)
    spectrum = torch.view_as_real(torch.fft.rfft(x))
    inputs = [spectrum, None if length is None else scalar(length), scalar(1)]
    (found,) = run_node("DFT", inputs, opset=20, inverse=1, onesided=1)
    torch.testing.assert_close(found, x.unsqueeze(-1))


def test_axis_of_the_transform_is_the_last_of_the_signal_since_opset_20() -> None:
    x = normal(2, 3, 4, 2)
    (last,) = run_node("DFT", [x], opset=20)
    (first,) = run_node("DFT", [x], opset=17)
    z = torch.view_as_complex(x)
    torch.testing.assert_close(torch.view_as_complex(last), torch.fft.fft(z, dim=2))
    torch.testing.assert_close(torch.view_as_complex(first), torch.fft.fft(z, dim=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_transform_of_a_narrow_type(dtype: torch.dtype) -> None:
    (found,) = run_node("DFT", [normal(1, 6, 1).to(dtype)], opset=20)
    (wide,) = run_node("DFT", [normal(1, 6, 1)], opset=20)
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), wide, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize(("window", "length"), [(True, True), (True, False), (False, True)])
def test_short_time_transform(onesided: int, window: bool, length: bool) -> None:
    inputs = [
        normal(2, 11, 1), scalar(3), normal(4).abs() if window else None, *([scalar(4)] if length else []),
    ]  # fmt: skip
    assert_like_reference("STFT", inputs, opset=17, onesided=onesided)


def test_short_time_transform_of_a_complex_signal() -> None:
    x, window = normal(2, 8, 2), normal(4)
    (found,) = run_node("STFT", [x, scalar(2), window], opset=17, onesided=0)
    frames = torch.view_as_complex(x).unfold(1, 4, 2) * window
    torch.testing.assert_close(torch.view_as_complex(found), torch.fft.fft(frames))


@pytest.mark.parametrize(
    ("op_type", "inputs", "problem"),
    [
        ("DFT", [normal(1, 4, 2)], "one side of the spectrum of a complex signal"),
        ("DFT", [normal(1, 4, 3)], "3 parts of a complex number"),
        ("DFT", [normal(1, 4, 1), None, scalar(2)], "along axis 2"),
        ("STFT", [normal(1, 4, 2), scalar(1), normal(2)], "one side of the spectrum of a complex signal"),
        ("STFT", [normal(1, 4, 1), scalar(1), normal(2), scalar(3)], "a window of 2 for frames of 3"),
    ],
)
def test_transform_that_is_refused(op_type: str, inputs: list[Tensor | None], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        run_node(op_type, inputs, opset=20, onesided=1)


@pytest.mark.parametrize(
    ("op_type", "shape", "extra", "attributes"),
    [
        ("DFT", (2, 4, 1), [], {"onesided": 1}),
        ("DFT", (2, 4, 2), [], {"inverse": 1}),
        ("DFT", (2, 4, 2), [], {"inverse": 1, "onesided": 1}),
        ("STFT", (1, 7, 1), [scalar(2), normal(4, dtype=torch.float64)], {}),
    ],
)
def test_derivatives_of_a_transform(
    op_type: str, shape: tuple[int, ...], extra: list[Tensor], attributes: dict[str, int]
) -> None:
    x = normal(*shape, dtype=torch.float64).requires_grad_()
    run = partial(_first, op_type, 20, attributes)
    assert torch.autograd.gradcheck(lambda moving: run(moving, *extra), [x], check_forward_ad=True)


# --- windows and the mel scale ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("size", [2, 7, 10])
def test_window(op_type: str, periodic: int, size: int) -> None:
    assert_like_reference(op_type, [scalar(size)], opset=17, periodic=periodic)


@pytest.mark.parametrize(
    ("code", "settings", "dtype"),
    [(TensorProto.FLOAT, DOUBLE, torch.float64), (TensorProto.FLOAT, HALF, torch.bfloat16),
     (TensorProto.DOUBLE, Settings(), torch.float64)],
)  # fmt: skip
def test_window_has_the_type_that_it_is_asked_for(code: int, settings: Settings, dtype: torch.dtype) -> None:
    (found,) = run_node("HannWindow", [scalar(4)], opset=17, settings=settings, output_datatype=code)
    assert found.dtype is dtype
    assert found.tolist() == pytest.approx([0.0, 0.5, 1.0, 0.5])


@pytest.mark.parametrize("numbers", [(8, 64, 8192), (4, 16, 8192), (20, 128, 16000)], ids=str)
def test_mel_scale(numbers: tuple[int, int, int]) -> None:
    inputs = [*(scalar(number) for number in numbers), scalar(0.0, torch.float32), scalar(4000.0, torch.float32)]
    assert_like_reference("MelWeightMatrix", inputs, opset=17)


def _first(op_type: str, opset: int, attributes: dict[str, Any], *inputs: Tensor | None) -> Tensor:
    return run_node(op_type, inputs, opset=opset, settings=DOUBLE, **attributes)[0]
