"""What autograd says of a whole network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def measured_log2(module: nn.Module, x: Tensor) -> float:
    """log2 of the squared gradient norm at the input over that of one random cotangent."""
    x = x.detach().requires_grad_(True)
    y = module(x)
    probe = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, probe)
    return float((gradient.double().square().sum() / probe.double().square().sum()).log2())
