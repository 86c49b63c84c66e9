"""Operators that make tensors: constants, ranges, random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator

FLOAT = 1
"""ONNX's number for float32."""


@operator("ConstantOfShape")
def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    """A tensor of this shape, filled with the one number of the attribute; zeros without it."""
    sizes = shape.tolist()
    value = call.tensor("value")
    if value is None:
        return torch.zeros(sizes, dtype=call.dtype(FLOAT), device=call.device)
    if not isinstance(value, Tensor):
        raise CannotRunError("a tensor filled with text")
    return value.reshape(()).expand(sizes).clone()


@operator("Range")
def arange(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """start + i delta for i = 0, 1, ... below the limit."""
    if start.is_floating_point():
        return _floating_range(call, start, limit, delta)
    first, end, step = (int(bound.item()) for bound in (start, limit, delta))
    if step == 0:
        raise CannotRunError("a step of 0")
    return torch.arange(first, first + _steps(end - first, step) * step, step, device=call.device).to(start.dtype)


def _floating_range(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """A range of floats; float16 and bfloat16 are computed in float32."""
    with torch.no_grad():
        # The number of entries must not depend on the type that takes float32's place in this run.
        exact = torch.float32 if start.dtype in (call.dtype(FLOAT), torch.float16, torch.bfloat16) else start.dtype
        distance = float((limit.to(exact) - start.to(exact)).item())
        step = float(delta.item())
    if step == 0.0:
        raise CannotRunError("a step of 0")
    wide = torch.float32 if start.element_size() == 2 else start.dtype
    steps = torch.arange(max(math.ceil(distance / step), 0), device=call.device).to(wide)
    return (start.to(wide).reshape(()) + steps * delta.to(wide).reshape(())).to(start.dtype)


def _steps(distance: int, step: int) -> int:
    """ceil(distance / step), not below 0."""
    return max(-(-distance // step), 0)


@operator("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    """Ones on the diagonal k of a matrix of the shape of x, zeros elsewhere."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    return (columns - rows.unsqueeze(1) == call.get("k")).to(_dtype_like(call, x))


# --- random numbers -----------------------------------------------------------------------------------------------
# They are drawn on the CPU and in float64, so that they are the same on every device and in every precision.


@operator("RandomNormal")
def random_normal(call: Call) -> Tensor:
    """Normal random numbers in a tensor of the attribute's shape."""
    return _normal(call, call.need("shape"), call.dtype(call.get("dtype")))


@operator("RandomNormalLike")
def random_normal_like(call: Call, x: Tensor) -> Tensor:
    """Normal random numbers in a tensor of the shape of x."""
    return _normal(call, x.shape, _dtype_like(call, x))


@operator("RandomUniform")
def random_uniform(call: Call) -> Tensor:
    """Uniform random numbers in a tensor of the attribute's shape."""
    return _uniform(call, call.need("shape"), call.dtype(call.get("dtype")))


@operator("RandomUniformLike")
def random_uniform_like(call: Call, x: Tensor) -> Tensor:
    """Uniform random numbers in a tensor of the shape of x."""
    return _uniform(call, x.shape, _dtype_like(call, x))


@operator("Bernoulli")
def bernoulli(call: Call, x: Tensor) -> Tensor:
    """1 with the probability that x gives, else 0."""
    draws = torch.rand(x.shape, generator=_generator(call), dtype=torch.float64)
    return (draws.to(x.device) < x).to(_dtype_like(call, x))


@operator("Multinomial")
def multinomial(call: Call, x: Tensor) -> Tensor:
    """Classes drawn for each row by its unnormalised log-probabilities."""
    probabilities = x.detach().cpu().double().softmax(1)
    drawn = torch.multinomial(probabilities, call.get("sample_size"), replacement=True, generator=_generator(call))
    return drawn.to(x.device, call.dtype(call.get("dtype")))


def _normal(call: Call, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    draws = torch.randn(tuple(shape), generator=_generator(call), dtype=torch.float64)
    return (draws * call.get("scale") + call.get("mean")).to(call.device, dtype)


def _uniform(call: Call, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    draws = torch.rand(tuple(shape), generator=_generator(call), dtype=torch.float64)
    low, high = call.get("low"), call.get("high")
    return (draws * (high - low) + low).to(call.device, dtype)


def _dtype_like(call: Call, x: Tensor) -> torch.dtype:
    code = call.get("dtype")
    return x.dtype if code is None else call.dtype(code)


def _generator(call: Call) -> torch.Generator:
    """A source of random numbers that starts anew for each operation, so that runs repeat."""
    return torch.Generator().manual_seed(int(call.get("seed", 0)))
