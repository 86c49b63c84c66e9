"""What the fixture networks share: activations by name and weight initialisation by name."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}

GAINS: dict[str, float] = {
    "identity": 1.0,
    "relu": 1.414214,
    "leaky_relu": 1.414143,
    "prelu": 1.371989,
    "elu": 1.223429,
    "selu": 1.0,
    "gelu": 1.481114,
    "silu": 1.623320,
    "mish": 1.444755,
    "hardswish": 1.670076,
    "relu6": 1.414214,
    "tanh": 1.467414,
    "sigmoid": 4.722646,
    "softplus": 1.846229,
}
"""Factor on sqrt(1/fan_in) that makes a layer with its activation keep the gradient: E f'(z)^2 to the power -1/2 for z
of N(0, 1). SELU has its published 1 (LeCun), where activations keep mean 0 and variance 1 (by the gradient: 0.966)."""


def initialize_(weight: Tensor, init: str, gain: float = 1.0) -> None:
    """Draw a weight in place.

    Args:
        weight: (out, in/groups, *kernel).
        init: "he" (std sqrt(2/fan_in)), "he_out" (sqrt(2/fan_out)), "lecun" (sqrt(1/fan_in)), "xavier"
            (sqrt(2/(fan_in + fan_out))), "orthogonal", "delta_orthogonal" (arXiv 1806.05393), "zero", or "default"
            (what the framework drew).
        gain: factor on the standard deviation that `init` names.
    """
    taps = math.prod(weight.shape[2:])
    fan_in, fan_out = weight.shape[1] * taps, weight.shape[0] * taps
    variances = {"he": 2 / fan_in, "he_out": 2 / fan_out, "lecun": 1 / fan_in, "xavier": 2 / (fan_in + fan_out)}
    with torch.no_grad():
        if init in variances:
            weight.normal_(0.0, math.sqrt(variances[init]))
        elif init == "orthogonal":
            nn.init.orthogonal_(weight)
        elif init == "delta_orthogonal":
            weight.zero_()
            nn.init.orthogonal_(weight[(slice(None), slice(None), *(size // 2 for size in weight.shape[2:]))])
        elif init == "zero":
            weight.zero_()
        elif init != "default":
            raise ValueError(f"no initialisation called {init!r}")
        weight.mul_(gain)


def initialize_layer_(layer: nn.Module, init: str, gain: float = 1.0) -> None:
    """Initialise a linear or convolution layer; its bias becomes zero unless `init` is "default"."""
    initialize_(layer.weight, init, gain)
    if layer.bias is not None and init != "default":
        nn.init.zeros_(layer.bias)


def linear(inputs: int, outputs: int, init: str = "he", gain: float = 1.0) -> nn.Linear:
    """A linear layer, initialised."""
    layer = nn.Linear(inputs, outputs)
    initialize_layer_(layer, init, gain)
    return layer


def conv(
    inputs: int, outputs: int, init: str = "he", gain: float = 1.0, *, kernel: int = 3, bias: bool = False,
    padding_mode: str = "zeros",
) -> nn.Conv2d:  # fmt: skip
    """A convolution that keeps the size, initialised."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias, padding_mode=padding_mode)
    initialize_layer_(layer, init, gain)
    return layer


class Residual(nn.Module):
    """behind(keep * x + branch(x))."""

    def __init__(self, branch: nn.Module, behind: nn.Module | None = None, keep: float = 1.0) -> None:
        super().__init__()
        self.branch, self.behind, self.keep = branch, behind or nn.Identity(), keep

    def forward(self, x: Tensor) -> Tensor:
        return self.behind((x if self.keep == 1.0 else x * self.keep) + self.branch(x))


def kaiming_fan_out_(module: nn.Module) -> None:
    """The initialisation of torchvision's convolutional networks: convolutions He fan_out, normalisation at 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def truncated_normal_(module: nn.Module, std: float = 0.02) -> None:
    """The initialisation of ConvNeXt and ViT: every convolution and linear map trunc_normal, biases zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
