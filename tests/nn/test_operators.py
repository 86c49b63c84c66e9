"""The operators of second moment normalisation against the same written out in standard operations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from gnelint.nn import SecondMomentNorm2d, backend
from gnelint.nn.kernels import native
from gnelint.nn.operators import evaluated, normalised, written_out

SHAPES: list[tuple[int, ...]] = [
    (2, 1), (5, 3), (64, 7), (9000, 2), (4, 3, 5), (1, 3, 1), (3, 1, 9), (4, 3, 5, 7), (1, 3, 1, 2), (3, 1, 9, 1),
    (2, 33, 7, 7), (2, 2, 130, 70), (130, 2, 3, 3), (3, 20, 14, 14), (2, 3, 2, 3, 2),
    (0, 3), (0, 3, 4, 4), (2, 3, 0, 4), (2, 0, 3, 3),
]  # fmt: skip
LAYOUTS = ("contiguous", "last", "strided", "transposed")
OPTIONS = [
    {},
    {"weight": True, "bias": True},
    {"weight": True, "relu": True},
    {"bias": True, "residual": True},
    {"weight": True, "bias": True, "residual": True, "relu": True},
]


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, otherwise in memory."""
    if layout == "last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        return x.repeat_interleave(2, -1)[..., ::2]
    return x.transpose(0, -1).contiguous().transpose(0, -1) if layout == "transposed" else x.contiguous()


def drawn(shape: tuple[int, ...], dtype: torch.dtype, layout: str, options: dict[str, bool]) -> list[Any]:
    """x, weight, bias, residual and relu."""
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    x = laid_out((normal(*shape) * 1.5 + 0.7).to(dtype), layout).requires_grad_()
    kind = torch.promote_types(dtype, torch.float32)
    weight, bias = (
        normal(shape[1]).to(kind).requires_grad_() if options.get(name) else None for name in ("weight", "bias")
    )
    residual = normal(*shape).to(dtype).requires_grad_() if options.get("residual") else None
    return [x, weight, bias, residual, options.get("relu", False)]


def gradients(y: Tensor, second: Tensor, inputs: list[Any]) -> list[Tensor]:
    known = [tensor for tensor in inputs if isinstance(tensor, Tensor)]
    generator = torch.Generator().manual_seed(0)
    dy = torch.randn(y.shape, generator=generator).to(y.dtype)
    return list(torch.autograd.grad([y, second], known, [dy, torch.linspace(-1, 1, len(second)).to(second.dtype)]))


def both(inputs: list[Any], eps: float) -> list[tuple[Tensor, Tensor]]:
    *tensors, relu = inputs
    x, weight, bias, residual = tensors
    assert x.requires_grad
    return [
        normalised(x, weight, bias, residual, eps, relu),
        written_out(x, None, weight, bias, residual, eps, relu),
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_fused_is_written_out(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for layout in LAYOUTS:
        for options in OPTIONS:
            inputs = drawn(shape, dtype, layout, options)
            (y, second), (expected, moment) = both(inputs, 1e-2)
            of = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
            tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
            assert y.dtype == dtype
            torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance * of)
            if expected.numel() > 0:
                torch.testing.assert_close(second, moment, rtol=tolerance, atol=tolerance)
            # where the rectifier is at its edge the two may differ in which side they see: same outputs, same mask
            for found, wanted in zip(gradients(y, second, inputs), gradients(expected, moment, inputs), strict=True):
                scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
                torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 2), (2, 2, 2, 3), (2, 2, 1, 2, 2), (4, 1, 1, 1)], ids=str)
def test_derivatives(shape: tuple[int, ...], layout: str, options: dict[str, bool]) -> None:
    *inputs, relu = drawn(shape, torch.float64, layout, options)
    known = [index for index, tensor in enumerate(inputs) if tensor is not None]

    def function(*given: Tensor) -> tuple[Tensor, Tensor]:
        filled: list[Any] = [None] * 4
        for index, tensor in zip(known, given, strict=True):
            filled[index] = tensor
        return normalised(*filled, 0.25, relu)

    tensors = [inputs[index] for index in known]
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_third_derivatives() -> None:
    x, weight, bias, *_ = drawn((3, 2, 2, 2), torch.float64, "contiguous", OPTIONS[1])

    def slope(x: Tensor, weight: Tensor) -> Tensor:
        y, _ = normalised(x, weight, bias, None, 0.25, False)
        (dx,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        return dx

    assert torch.autograd.gradgradcheck(slope, (x, weight))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 3)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "last"])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_is_no_number_stays_in_its_channel(shape: tuple[int, ...], layout: str, odd: float) -> None:
    inputs = drawn(shape, torch.float32, layout, OPTIONS[1])
    with torch.no_grad():
        inputs[0][1, 1] = odd
    (y, second), (expected, moment) = both(inputs, 1e-5)
    torch.testing.assert_close(y, expected, equal_nan=True)
    torch.testing.assert_close(second, moment, equal_nan=True)
    (dx, *_), (wanted, *_) = gradients(y, second, inputs), gradients(expected, moment, inputs)
    others = [0, 2]
    torch.testing.assert_close(dx[:, others], wanted[:, others])
    assert torch.isfinite(dx[:, others]).all()


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_a_channel_of_zeros(eps: float, layout: str) -> None:
    inputs = drawn((4, 3, 5, 3), torch.float32, layout, OPTIONS[1])
    with torch.no_grad():
        inputs[0][:, 1] = 0.0
    (y, second), (expected, moment) = both(inputs, eps)
    torch.testing.assert_close(y, expected)
    for found, wanted in zip(gradients(y, second, inputs), gradients(expected, moment, inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert torch.isfinite(found).all()


def test_many_rows_are_added_up_in_blocks() -> None:
    x = laid_out(torch.randn(3, 4, 400, 400) + 0.5, "last")
    exact = x.double().square().sum((0, 2, 3))
    torch.testing.assert_close(native.squares(x).double(), exact, rtol=5e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 3), (0, 3, 2, 2)], ids=str)
def test_evaluation(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for options in OPTIONS:
        x, weight, bias, residual, relu = drawn(shape, dtype, "last", options)
        second = torch.tensor([4.0, 0.0, 0.25], dtype=dtype)
        found = evaluated(x, second, weight, bias, residual, 1e-2, relu)
        expected, _ = written_out(x, second, weight, bias, residual, 1e-2, relu)
        tolerance = 1e-2 if dtype.itemsize < 4 else 1e-5
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_operators_are_registered_well(layout: str) -> None:
    x, weight, bias, residual, relu = drawn((4, 3, 5, 3), torch.float32, layout, OPTIONS[4])
    forward = torch.ops.gnelint.second_moment_norm.default
    kinds = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(forward, (x, weight, bias, residual, 1e-3, relu), test_utils=kinds)
    y, second = forward(x, weight, bias, residual, 1e-3, relu)
    given = (torch.randn_like(y), None, x.detach(), weight.detach(), second.detach(), y.detach(), 1e-3, True)
    torch.library.opcheck(torch.ops.gnelint.second_moment_norm_backward.default, given, test_utils=kinds)


def test_the_choice_is_visible() -> None:
    assert backend().name == "native"
    assert backend("mps").name == "eager"
    assert backend("cuda").name in ("triton", "eager")
    assert "triton" in str(backend("cuda"))
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    assert "Forward" in type(normalised(x, None, None, None, 1e-5, False)[0].grad_fn).__name__


def test_where_operators_cannot_stand_the_function_is_written_out() -> None:
    norm, x = SecondMomentNorm2d(3).double(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    stacked = torch.stack([x, 2 * x])
    each = torch.func.vmap(lambda one: normalised(one, norm.weight, norm.bias, None, 1e-5, False)[0])(stacked)
    torch.testing.assert_close(each[1], normalised(2 * x, norm.weight, norm.bias, None, 1e-5, False)[0])
    _, tangent = torch.func.jvp(lambda x: normalised(x, None, None, None, 1e-5, False)[0], (x,), (x,))
    assert tangent.abs().max() < 1e-4  # y does not depend on the scale of x, but for eps
    assert normalised(x.to("meta"), None, None, None, 1e-5, False)[0].shape == x.shape


class Block(nn.Module):
    """A residual block with what is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), SecondMomentNorm2d(3, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x), x)


def test_fused_layers_are_the_three_by_themselves() -> None:
    torch.manual_seed(0)
    block, x = Block(), torch.randn(4, 3, 5, 5)
    plain = SecondMomentNorm2d(3)
    for training in (True, False):
        expected = torch.relu(plain.train(training)(block.conv(x)) + x)
        torch.testing.assert_close(block.train(training)(x), expected)
    torch.testing.assert_close(block.norm.running_second_moment, plain.running_second_moment)
    with pytest.raises(RuntimeError, match="residual of shape"):
        block.norm(x, x[:, :, :1])


def test_under_fx_and_autocast() -> None:
    block, x = Block(), torch.randn(4, 3, 5, 5)
    traced = fx.symbolic_trace(copy.deepcopy(block))
    torch.testing.assert_close(traced(x), block(x))
    torch.testing.assert_close(traced.norm.running_second_moment, block.norm.running_second_moment)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.float32  # the residual's: a sum with a wider tensor
    torch.testing.assert_close(y, block(x), rtol=0.1, atol=0.1)


@pytest.mark.slow
def test_compiled() -> None:
    block, x = Block(), torch.randn(4, 3, 5, 5)
    twin = copy.deepcopy(block)
    compiled = torch.compile(block, fullgraph=True)
    for module in (compiled, twin):
        module(x).square().sum().backward()
    torch.testing.assert_close(block.conv.weight.grad, twin.conv.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(block.norm.running_second_moment, twin.norm.running_second_moment)
