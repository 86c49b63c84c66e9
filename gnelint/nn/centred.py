"""Layers whose filters are centred in every pass: w - E w takes the place of w, and w is what is trained.

A constant that is added to all of a centred layer's inputs changes none of its outputs, so the mean that an activation
leaves behind is gone again behind the next layer. `gnelint.nn.SecondMomentNorm2d` relies on that (arXiv 2001.00254).
State dicts, constructors and everything else are the plain layers'. For a layer that must keep its class there is the
same as a parametrization, `torch.nn.utils.parametrize.register_parametrization(layer, "weight", Centred())`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def centred(weight: Tensor) -> Tensor:
    """The weight minus the mean of each filter, over all axes but the first."""
    return weight - weight.mean(tuple(range(1, weight.dim())), keepdim=True)


class Centred(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A parametrization: the layer sees the weight with each filter centred; the weight as it was is trained."""

    def forward(self, weight: Tensor) -> Tensor:
        """w - E w."""
        return centred(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is trained of a weight that is assigned: itself."""
        return weight


class CentredLinear(nn.Linear):  # type: ignore[misc]
    """`torch.nn.Linear` with each row of the weight centred."""

    def forward(self, input: Tensor) -> Tensor:
        """x (w - E w)^T + b."""
        return functional.linear(input, centred(self.weight), self.bias)


class CentredConv1d(nn.Conv1d):  # type: ignore[misc]
    """`torch.nn.Conv1d` with each filter centred."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of the input with w - E w, plus the bias."""
        return self._conv_forward(input, centred(self.weight), self.bias)


class CentredConv2d(nn.Conv2d):  # type: ignore[misc]
    """`torch.nn.Conv2d` with each filter centred."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of the input with w - E w, plus the bias."""
        return self._conv_forward(input, centred(self.weight), self.bias)


class CentredConv3d(nn.Conv3d):  # type: ignore[misc]
    """`torch.nn.Conv3d` with each filter centred."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of the input with w - E w, plus the bias."""
        return self._conv_forward(input, centred(self.weight), self.bias)
