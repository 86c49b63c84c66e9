"""Products of matrices and tensors, and the determinant."""

from __future__ import annotations

import torch
from torch import Tensor

from gnelint.measure.onnx_on_torch.call import Call
from gnelint.measure.onnx_on_torch.table import CannotRunError, operator


@operator("MatMul")
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """A B as numpy.matmul has it: leading axes broadcast, a 1-D operand is a row on the left, a column on the right."""
    return product(a, b)


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha A' B' + beta C, where A' and B' are transposed if the attributes say so and C broadcasts to the product."""
    left = a.mT if call.get("transA") else a
    right = b.mT if call.get("transB") else b
    result = _scaled(product(left, right), call.get("alpha"))
    if c is None:
        return result
    return result + _scaled(c, call.get("beta")).expand(result.shape)


@operator("Einsum")
def einsum(call: Call, *operands: Tensor) -> Tensor:
    """Einstein's sum over the operands, numpy's notation."""
    equation, first = call.need("equation"), operands[0]
    if first.dtype.is_floating_point or first.dtype.is_complex:
        return torch.einsum(equation, *operands)
    return torch.einsum(equation, *map(_integers, operands)).to(first.device, first.dtype)


@operator("Det")
def det(call: Call, x: Tensor) -> Tensor:
    """The determinant of each matrix in the last two axes."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return torch.linalg.det(x.float()).to(x.dtype)
    return torch.linalg.det(x)


def product(a: Tensor, b: Tensor) -> Tensor:
    """numpy.matmul of two tensors of one type."""
    if a.dtype.is_floating_point or a.dtype.is_complex:
        return torch.matmul(a, b)
    return torch.matmul(_integers(a), _integers(b)).to(a.device, a.dtype)


def _integers(x: Tensor) -> Tensor:
    """Where and in which type torch multiplies matrices of integers: not on a GPU."""
    return x.to("cpu", torch.int64)


def _scaled(x: Tensor, factor: float) -> Tensor:
    """factor x in the type of x."""
    if factor == 1.0:
        return x
    if x.dtype.is_floating_point:
        return x * factor
    if factor != int(factor):
        raise CannotRunError(f"integers times {factor:g}")
    return x * int(factor)
