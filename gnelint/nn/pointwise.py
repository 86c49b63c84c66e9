"""Pointwise layers that torch has no module for."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gnelint.nn.arrays import TORCH
from gnelint.ops import VOCABULARY


class Pointwise(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A function of one variable of gnelint's vocabulary."""

    def __init__(self, op: str, **attributes: Any) -> None:
        super().__init__()
        self.op, self.attributes = op, {**VOCABULARY[op].attributes, **attributes}

    def forward(self, input: Tensor) -> Any:
        """The function of every entry."""
        function = VOCABULARY[self.op].function
        assert function is not None, self.op
        return function.value(TORCH, input, **self.attributes)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join([self.op, *(f"{name}={value}" for name, value in self.attributes.items())])


class Scale(nn.Module):  # type: ignore[misc]
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


class ScaledELU(Pointwise):
    """y = scale * x for x > 0, else scale * alpha * (exp(x) - 1): `torch.nn.SELU` with other coefficients.

    The coefficients that suit a depth: theory 6.7 (arXiv 2001.00254).
    """

    def __init__(self, alpha: float, scale: float) -> None:
        super().__init__("selu", alpha=alpha, gamma=scale)
        self.alpha, self.scale = alpha, scale

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"alpha={self.alpha:g}, scale={self.scale:g}"
