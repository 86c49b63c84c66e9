"""Activations that torch computes by kernels of its own, and gates; the others have their formula in a record."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gnelint.measure.onnx_on_torch.broadcasting import NUMPY_SINCE
from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

# --- rectifiers ---------------------------------------------------------------------------------------------------


@operator("Relu")
def relu(call: Call, x: Tensor) -> Tensor:
    """max(x, 0)."""
    return x.relu()


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """x, below 0 alpha x."""
    return functional.leaky_relu(x, call.get("alpha"))


@operator("PRelu")
def prelu_per_channel(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """x, below 0 slope x, with one slope for all or one for each channel, which is axis 1."""
    if slope.numel() == 1:
        return _with_slope(x, slope.reshape(()))
    if slope.dim() != 1:
        raise CannotRunError(f"slopes of shape {list(slope.shape)}")
    return _with_slope(x, slope.reshape(slope.shape + (1,) * (x.dim() - 2)))


@operator("PRelu", since=NUMPY_SINCE)
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """x, below 0 slope x, with slopes that broadcast to x."""
    return _with_slope(x, slope)


def _with_slope(x: Tensor, slope: Tensor) -> Tensor:
    if x.dtype in (torch.uint32, torch.uint64):
        return x  # nothing is below 0
    return torch.where(x < 0, slope.expand(x.shape) * x, x)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """x above alpha, else 0."""
    return functional.threshold(x, call.get("alpha", 1.0), 0.0)


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    """max(x, 0) + min(0, alpha (exp(x / alpha) - 1))."""
    return functional.celu(x, call.get("alpha"))


# --- x times a sigmoid --------------------------------------------------------------------------------------------


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    """x Phi(x), Phi the normal distribution function, or its approximation by tanh."""
    return functional.gelu(x, approximate=call.get("approximate"))


@operator("HardSwish")
def hard_swish(call: Call, x: Tensor) -> Tensor:
    """x max(0, min(1, x / 6 + 1/2))."""
    return functional.hardswish(x)


@operator("Mish")
def mish(call: Call, x: Tensor) -> Tensor:
    """x tanh(log(1 + exp(x)))."""
    return functional.mish(x)


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    """x sigmoid(alpha x)."""
    return gated(x, call.get("alpha"))


@operator("SwiGLU")
def swiglu(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """a sigmoid(alpha a) b, for a and b of one shape."""
    if a.shape != b.shape:
        raise CannotRunError(f"a gate of shape {list(a.shape)} for {list(b.shape)}")
    return gated(a, call.get("alpha")) * b


def gated(x: Tensor, alpha: float) -> Tensor:
    """x sigmoid(alpha x)."""
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


# --- shrinkage ----------------------------------------------------------------------------------------------------


@operator("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    """x + bias below -lambd, x - bias above lambd, 0 between; of integers cut to an integer."""
    wide = x if x.is_floating_point() else x.double()
    bias, end = call.get("bias"), call.get("lambd")
    zero = torch.zeros((), dtype=wide.dtype, device=wide.device)
    outside = torch.where(wide > end, wide - bias, zero)
    return torch.where(wide < -end, wide + bias, outside).to(x.dtype)
