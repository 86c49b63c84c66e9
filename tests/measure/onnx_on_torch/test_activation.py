"""Activations against ONNX Runtime or their formulas; their derivatives."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node

X = torch.tensor([[-50.0, -2.2, -0.7, -0.1], [0.1, 0.7, 2.2, 50.0]])
# operator, attributes, the first opset that ONNX Runtime has it in
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("Relu", {}, 7), ("LeakyRelu", {}, 7), ("LeakyRelu", {"alpha": 0.2}, 7), ("LeakyRelu", {"alpha": -0.2}, 16),
    ("ThresholdedRelu", {}, 10), ("ThresholdedRelu", {"alpha": -0.3}, 10), ("Elu", {}, 7), ("Elu", {"alpha": 2.0}, 7),
    ("Selu", {}, 7), ("Selu", {"alpha": 2.0, "gamma": 3.0}, 7), ("Celu", {}, 12), ("Celu", {"alpha": 2.0}, 12),
    ("Softplus", {}, 7), ("Sigmoid", {}, 7), ("HardSigmoid", {}, 7), ("HardSigmoid", {"alpha": 0.5, "beta": 0.6}, 7),
    ("Softsign", {}, 7), ("Gelu", {}, 20), ("Gelu", {"approximate": "tanh"}, 20), ("HardSwish", {}, 14),
    ("Mish", {}, 18), ("Shrink", {}, 9), ("Shrink", {"lambd": 1.0, "bias": 0.5}, 9),
]  # fmt: skip
GATES: list[tuple[str, dict[str, Any], int]] = [("Swish", {}, 24), ("Swish", {"alpha": 1.7}, 24)]


@pytest.mark.parametrize(("op_type", "attributes", "opset"), CASES, ids=str)
def test_activation(op_type: str, attributes: dict[str, Any], opset: int) -> None:
    assert_like_reference(op_type, [X], opset=opset, **attributes)


@pytest.mark.parametrize(
    ("op_type", "attributes", "expected"),
    [
        ("LeakyRelu", {}, torch.where(X < 0, 0.01 * X, X)),
        ("Elu", {}, torch.where(X < 0, X.exp() - 1, X)),
        ("Selu", {}, 1.0507 * torch.where(X < 0, 1.6732 * (X.exp() - 1), X)),
        ("HardSigmoid", {}, (0.2 * X + 0.5).clamp(0, 1)),
    ],
    ids=str,
)
def test_defaults_of_the_first_opset(op_type: str, attributes: dict[str, Any], expected: Tensor) -> None:
    (found,) = run_node(op_type, [X], opset=1, **attributes)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 1.7])
def test_swish(alpha: float) -> None:
    (found,) = run_node("Swish", [X], opset=24, alpha=alpha)
    torch.testing.assert_close(found, X / (1 + torch.exp(-alpha * X)))


@pytest.mark.parametrize("alpha", [1.0, 1.7])
def test_gated_linear_unit(alpha: float) -> None:
    (found,) = run_node("SwiGLU", [X, X.flip(1)], opset=28, alpha=alpha)
    torch.testing.assert_close(found, X / (1 + torch.exp(-alpha * X)) * X.flip(1))


def test_gate_of_another_shape_is_refused() -> None:
    with pytest.raises(ModelError, match="a gate of shape"):
        run_node("SwiGLU", [X, X[0]], opset=28)


@pytest.mark.parametrize("opset", [7, 9, 16])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (2, 3, 4)], ids=str)
def test_slopes_broadcast_to_x(opset: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, slope = torch.randn(2, 3, 4, generator=generator), torch.randn(shape, generator=generator)
    assert_like_reference("PRelu", [x, slope], opset=opset)


def test_slopes_do_not_widen_x() -> None:
    with pytest.raises(ModelError, match="PRelu"):
        run_node("PRelu", [X[:1], torch.ones(2, 1)], opset=16)


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("shape", [(3,), (1,), ()], ids=str)
def test_slopes_of_early_opsets_belong_to_channels(opset: int, shape: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    slope = torch.arange(1.0, 4.0)[: max(shape, default=1)].reshape(shape)
    (found,) = run_node("PRelu", [x, slope], opset=opset)
    torch.testing.assert_close(found, torch.where(x < 0, x * slope.reshape(-1, 1, 1), x))


def test_slopes_of_early_opsets_have_one_axis() -> None:
    with pytest.raises(ModelError, match="slopes of shape"):
        run_node("PRelu", [X, torch.ones(2, 4)], opset=6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint32, torch.uint64])
def test_integers_with_a_slope(dtype: torch.dtype) -> None:
    x = torch.tensor([-2, 3] if dtype.is_signed else [2, 3]).to(dtype)
    (found,) = run_node("PRelu", [x, torch.tensor([5]).to(dtype)], opset=16)
    assert found.dtype is dtype
    assert found.tolist() == ([-10, 3] if dtype.is_signed else [2, 3])


@pytest.mark.parametrize(("op_type", "expected"), [("Relu", [0, 0, 0, 3]), ("Shrink", [-2, 0, 0, 1])])
def test_activation_of_integers(op_type: str, expected: list[int]) -> None:
    attributes = {"bias": 1.5, "lambd": 1.0} if op_type == "Shrink" else {}
    (found,) = run_node(op_type, [torch.tensor([-4, -1, 0, 3], dtype=torch.int8)], opset=14, **attributes)
    assert found.dtype is torch.int8
    assert found.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("op_type", "attributes", "opset"), [*CASES, *GATES], ids=str)
def test_activation_keeps_a_narrow_type(
    op_type: str, attributes: dict[str, Any], opset: int, dtype: torch.dtype
) -> None:
    (found,) = run_node(op_type, [X.to(dtype)], opset=opset, **attributes)
    (wide,) = run_node(op_type, [X.to(dtype).float()], opset=opset, **attributes)
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), wide, rtol=2e-2, atol=2e-2)


def test_softplus_is_exact_in_float64() -> None:
    x = torch.tensor([18.0, 21.0, 30.0, 45.0, 800.0], dtype=torch.float64)
    (found,) = run_node("Softplus", [x], opset=22)
    torch.testing.assert_close(found, torch.logaddexp(x, torch.zeros_like(x)), rtol=1e-15, atol=0.0)


@pytest.mark.parametrize(("op_type", "attributes", "opset"), [*CASES, *GATES], ids=str)
def test_derivative(op_type: str, attributes: dict[str, Any], opset: int) -> None:
    x = X.double()[:, 1:-1].requires_grad_()
    assert torch.autograd.gradcheck(partial(_first, op_type, opset, attributes), [x], check_forward_ad=True)


@pytest.mark.parametrize(
    ("op_type", "opset", "second"), [("PRelu", 6, (4,)), ("PRelu", 16, (4,)), ("SwiGLU", 28, (2, 4))], ids=str
)
def test_derivatives_of_two_operands(op_type: str, opset: int, second: tuple[int, ...]) -> None:
    x = X.double().clamp(-4, 4).requires_grad_()
    other = torch.rand(second, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(partial(_first, op_type, opset, {}), [x, other], check_forward_ad=True)


def _first(op_type: str, opset: int, attributes: dict[str, Any], *inputs: Tensor) -> Tensor:
    return run_node(op_type, inputs, opset=opset, settings=DOUBLE, **attributes)[0]
