"""Small networks of designs that a rule must not blame, with what would be wrong about them as an argument."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from tests.models.common import linear


class ScaledSum(nn.Module):
    """scale * (x + branch(x))."""

    def __init__(self, width: int, scale: float, gain: float) -> None:
        super().__init__()
        self.first, self.last, self.scale = linear(width, width), linear(width, width, "lecun", gain), scale

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.last(functional.relu(self.first(x)))) * self.scale


def scaled_sums(*, depth: int = 16, width: int = 64, scale: float = 0.5**0.5, gain: float = 1.0) -> nn.Sequential:
    """Residual MLP blocks whose sum is divided by sqrt(2); `gain` is a factor on the last layer of each branch."""
    return nn.Sequential(*(ScaledSum(width, scale, gain) for _ in range(depth)), linear(width, 10, "lecun"))
