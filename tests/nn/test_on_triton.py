"""The Triton kernels against torch's primitives: through Triton's interpreter, or on a card where there is one."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch

from gnelint.nn import SecondMomentNorm2d
from gnelint.nn.kernels import native
from tests.measure.device import DEVICE

if importlib.util.find_spec("triton") is None:
    reason = "triton is not installed: there is none but for Linux"
    pytest.skip(reason, allow_module_level=True)

from gnelint.nn.kernels import on_triton

SHAPES: list[tuple[int, ...]] = [
    (2, 5), (70, 3), (9, 70), (3, 4, 33), (4, 3, 5, 7), (1, 2, 70, 60), (130, 2, 3, 3), (2, 3, 2, 3, 2), (1, 3, 1, 2),
    (3, 1, 9, 1), (0, 3, 2, 2), (2, 3, 0, 4),
]  # fmt: skip
WANTED = {"weight": True, "residual": True, "relu": True, "second": True}
OPTIONS = [dict.fromkeys(WANTED, False), WANTED, {**WANTED, "residual": False}, {**WANTED, "relu": False}]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_are_torchs_primitives(shape: tuple[int, ...], last: bool, dtype: torch.dtype) -> None:
    for options in OPTIONS:
        assert_alike(shape, last, dtype, options)


@pytest.mark.skipif(DEVICE == "cpu", reason="no card was asked for: --device cuda")
@pytest.mark.parametrize("shape", [(16, 64, 112, 112), (128, 512, 7, 7), (32, 256, 14, 14), (8, 33, 31, 29)], ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sizes_of_networks(shape: tuple[int, ...], last: bool, dtype: torch.dtype) -> None:
    assert_alike(shape, last, dtype, WANTED)


def assert_alike(shape: tuple[int, ...], last: bool, dtype: torch.dtype, options: dict[str, bool]) -> None:
    """Forward and backward of both, on the same numbers."""
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(sizes, generator=generator).to(kind).to(DEVICE)

    x, dy, added = (normal(*shape, kind=dtype) for _ in range(3))
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight, bias = (normal(shape[1]), normal(shape[1])) if options["weight"] else (None, None)
    residual = added if options["residual"] else None
    dm = normal(shape[1]) if options["second"] else None
    given = (weight, bias, residual, 1e-3, options["relu"])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    (y, second), (expected, moment) = on_triton.forward(x, *given), native.forward(x, *given)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance * 4)
    torch.testing.assert_close(second, moment, rtol=1e-5 if dtype == torch.float32 else 1e-3, atol=1e-5)
    assert y.is_contiguous() or not expected.is_contiguous() or y.numel() == 0
    kept = (expected if options["relu"] else None, 1e-3, options["residual"])
    found = on_triton.backward(dy, dm, x, weight, moment, *kept)
    for ours, theirs in zip(found, native.backward(dy, dm, x, weight, moment, *kept), strict=True):
        scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.skipif(DEVICE == "cpu", reason="no card was asked for: --device cuda")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
def test_layers_on_a_card_are_those_on_the_cpu(dtype: torch.dtype, relu: bool) -> None:
    torch.manual_seed(0)
    norm, x = SecondMomentNorm2d(8, relu=relu), torch.randn(4, 8, 9, 7).to(dtype)
    found = []
    for device in ("cpu", "cuda"):
        layer, given = copy.deepcopy(norm).to(device), x.to(device).requires_grad_()
        layer(given, given).square().sum().backward()
        found.append([given.grad.cpu(), layer.weight.grad.cpu(), layer.running_second_moment.cpu()])
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 0.0])
@pytest.mark.parametrize("last", [False, True])
def test_odd_numbers_stay_in_their_channel(odd: float, last: bool) -> None:
    x = torch.randn(3, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x[:, 1] = odd
    if last:
        x = x.to(memory_format=torch.channels_last)
    (y, second), (expected, moment) = (k.forward(x, None, None, None, 1e-5, False) for k in (on_triton, native))
    torch.testing.assert_close(y, expected, equal_nan=True)
    torch.testing.assert_close(second, moment, equal_nan=True)
    dx, *_ = on_triton.backward(torch.ones_like(x), None, x, None, moment, None, 1e-5, False)
    assert torch.isfinite(dx[:, [0, 2]]).all()
