"""L1 normalisation against its formula, and against BatchNorm where the two must agree."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from gnelint.nn import L1Norm1d, L1Norm2d, L1Norm3d

KINDS = [(L1Norm1d, (6, 3)), (L1Norm1d, (6, 3, 5)), (L1Norm2d, (4, 3, 5, 2)), (L1Norm3d, (4, 3, 2, 3, 2))]


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_is_the_formula_and_its_derivative(kind: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm, x = kind(3, eps=0.1, dtype=torch.float64), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    rows = x.movedim(1, -1).reshape(-1, 3)
    middle = rows.mean(0)
    spread = (rows - middle).abs().mean(0)
    expected = ((rows - middle) / (spread + 0.1) * norm.weight + norm.bias).view(x.movedim(1, -1).shape).movedim(-1, 1)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm.running_mean, 0.1 * middle.detach())
    torch.testing.assert_close(norm.running_deviation, 0.9 + 0.1 * spread.detach())
    assert torch.autograd.gradcheck(norm, (x,))
    assert torch.autograd.gradgradcheck(norm, (x,))
    norm.eval()
    still = (x - norm.running_mean.view(1, 3, *(1,) * (x.dim() - 2))) / (
        norm.running_deviation.view(1, 3, *(1,) * (x.dim() - 2)) + 0.1
    )
    affine = (parameter.view(1, 3, *(1,) * (x.dim() - 2)) for parameter in (norm.weight, norm.bias))
    torch.testing.assert_close(norm(x), still * next(affine) + next(affine))


def test_state_of_a_batch_norm_loads() -> None:
    old = nn.BatchNorm2d(3)
    old(torch.randn(64, 3, 16, 16) * 2 + 1)
    norm = L1Norm2d(3)
    assert norm.load_state_dict(old.state_dict()).missing_keys == []
    torch.testing.assert_close(norm.running_deviation, old.running_var.sqrt() * math.sqrt(2 / math.pi))
    torch.testing.assert_close(norm.running_mean, old.running_mean)


def test_empty_batch_errors_and_types() -> None:
    norm = L1Norm2d(3)
    norm(torch.zeros(0, 3, 4, 4, requires_grad=True)).sum().backward()
    assert torch.equal(norm.running_deviation, torch.ones(3))
    assert norm(torch.randn(2, 3, 4, 4).bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="4D"):
        norm(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(torch.zeros(1, 3, 1, 1))
