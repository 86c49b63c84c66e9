"""Pointwise layers that torch has no module for."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Scale(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """y = factor * x, with a factor that is not trained."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:
        """The input times the factor."""
        return input * self.factor

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"factor={self.factor:g}"


class ScaledELU(nn.Module):  # type: ignore[misc]
    """y = scale * x for x > 0, else scale * alpha * (exp(x) - 1): `torch.nn.SELU` with other coefficients.

    The coefficients that suit a depth: theory 6.7 (arXiv 2001.00254).
    """

    def __init__(self, alpha: float, scale: float) -> None:
        super().__init__()
        self.alpha, self.scale = alpha, scale

    def forward(self, input: Tensor) -> Tensor:
        """The activation of every entry."""
        return self.scale * functional.elu(input, self.alpha)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"alpha={self.alpha:g}, scale={self.scale:g}"
