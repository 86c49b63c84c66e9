"""MatMul, Gemm, Einsum and Det against ONNX Runtime, and their derivatives."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gnelint.errors import ModelError
from tests.measure.onnx_on_torch.nodes import DOUBLE, assert_like_reference, run_node


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


def whole(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize(
    ("left", "right"),
    [((3,), (3,)), ((3,), (3, 4)), ((3,), (2, 3, 4)), ((2, 3), (3,)), ((5, 2, 3), (3,)), ((5, 1, 2, 3), (4, 3, 2))],
)
@pytest.mark.parametrize("opset", [1, 9, 13])
def test_matmul_is_numpys_for_every_rank(left: tuple[int, ...], right: tuple[int, ...], opset: int) -> None:
    a, b = normal(*left), normal(*right)
    (found,) = run_node("MatMul", [a, b], opset=opset)
    np.testing.assert_allclose(found, np.matmul(a.numpy(), b.numpy()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint32, torch.uint64])
def test_matmul_of_integers_is_exact(dtype: torch.dtype) -> None:
    a, b = whole(2, 3, 4, dtype=dtype), whole(4, 5, dtype=dtype)
    (found,) = run_node("MatMul", [a, b], opset=13)
    assert found.dtype is dtype
    assert (found.numpy() == a.numpy() @ b.numpy()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matmul_of_half_types_keeps_the_type(dtype: torch.dtype) -> None:
    a, b = normal(3, 4).to(dtype), normal(4, 2).to(dtype)
    (found,) = run_node("MatMul", [a, b], opset=13)
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), a.float() @ b.float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
@pytest.mark.parametrize("c", [(), (1,), (4,), (3, 1), (1, 4), (3, 4)])
def test_gemm_broadcasts_c(opset: int, c: tuple[int, ...]) -> None:
    inputs = [normal(2, 3), normal(4, 2), normal(*c)]
    assert_like_reference("Gemm", inputs, opset=opset, transA=1, transB=1, alpha=0.5, beta=2.0)


def test_gemm_without_c() -> None:
    assert_like_reference("Gemm", [normal(3, 2), normal(2, 4)], opset=11, alpha=0.25)


@pytest.mark.parametrize("opset", [1, 6])
def test_gemm_of_early_opsets_broadcasts_c_if_told_to(opset: int) -> None:
    a, b, c = normal(3, 2), normal(2, 4), normal(4)
    (found,) = run_node("Gemm", [a, b, c], opset=opset, broadcast=1, beta=3.0)
    torch.testing.assert_close(found, a @ b + 3 * c)


def test_gemm_of_integers() -> None:
    a, b, c = (whole(*shape, dtype=torch.int32) for shape in ((3, 2), (2, 4), (4,)))
    (found,) = run_node("Gemm", [a, b, c], opset=13, alpha=2.0)
    assert found.dtype is torch.int32
    assert (found.numpy() == 2 * (a.numpy() @ b.numpy()) + c.numpy()).all()


def test_gemm_of_integers_with_a_fraction_is_refused() -> None:
    a, b = whole(3, 2, dtype=torch.int32), whole(2, 4, dtype=torch.int32)
    with pytest.raises(ModelError, match=r"integers times 0\.5"):
        run_node("Gemm", [a, b], opset=13, alpha=0.5)


def test_gemm_does_not_let_c_widen_the_product() -> None:
    with pytest.raises(ModelError, match="Gemm"):
        run_node("Gemm", [normal(1, 2), normal(2, 4), normal(3, 4)], opset=13)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk", [(2, 3), (3, 4)]),
        ("bij, bjk -> bik", [(2, 2, 3), (2, 3, 4)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("ii", [(3, 3)]),
        ("i,j,k->kij", [(2,), (3,), (4,)]),
        ("b...d,hd->bh...", [(2, 3, 4), (5, 4)]),
        ("aB,Bc->ac", [(2, 3), (3, 4)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    assert_like_reference("Einsum", [normal(*shape) for shape in shapes], opset=12, equation=equation)


def test_einsum_of_integers_keeps_the_type() -> None:
    a, b = whole(2, 3, dtype=torch.int32), whole(3, 4, dtype=torch.int32)
    (found,) = run_node("Einsum", [a, b], opset=12, equation="ij,jk->ki")
    assert found.dtype is torch.int32
    assert (found.numpy() == (a.numpy() @ b.numpy()).T).all()


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (1, 1)])
def test_det(shape: tuple[int, ...]) -> None:
    assert_like_reference("Det", [normal(*shape)], opset=11)


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes"),
    [
        ("MatMul", [(2, 3), (3, 2)], {}),
        ("MatMul", [(3,), (2, 3, 2)], {}),
        ("Gemm", [(3, 2), (2, 3), (2,)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
        ("Einsum", [(2, 3), (3, 2)], {"equation": "ij,jk->ik"}),
        ("Det", [(3, 3)], {}),
    ],
)
def test_derivatives(op_type: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> None:
    inputs = [normal(*shape, dtype=torch.float64, seed=index).requires_grad_() for index, shape in enumerate(shapes)]
    run = partial(_first, op_type, attributes)
    assert torch.autograd.gradcheck(run, inputs, check_forward_ad=True)


def _first(op_type: str, attributes: dict[str, Any], *inputs: Tensor) -> Tensor:
    return run_node(op_type, inputs, opset=13, settings=DOUBLE, **attributes)[0]
