"""Plain and residual stacks without normalisation (unless asked for): one layer repeated, nothing else."""

from __future__ import annotations

import math

from torch import Tensor, nn

from tests.models.common import ACTIVATIONS, GAINS, initialize_layer_


def drawn_as(init: str, gain: float, activation: str) -> tuple[str, float]:
    """The arguments of `initialize_layer_`: "critical" is LeCun times the factor of `GAINS` for the activation."""
    return ("lecun", gain * GAINS[activation]) if init == "critical" else (init, gain)


def plain_conv(
    *,
    depth: int = 20,
    channels: int = 64,
    inputs: int = 3,
    activation: str = "relu",
    init: str = "he",
    gain: float = 1.0,
    batch_norm: bool = False,
    padding_mode: str = "zeros",
) -> nn.Sequential:
    """`depth` 3x3 convolutions, each with an activation behind it; `gain` multiplies the weights that `init` names.

    `init` is one of `initialize_`, or "critical": phi 1 where the activation reads N(0, 1).
    """
    init, gain = drawn_as(init, gain, activation)
    layers: list[nn.Module] = []
    for index in range(depth):
        conv = nn.Conv2d(inputs if index == 0 else channels, channels, 3, padding=1, padding_mode=padding_mode)
        initialize_layer_(conv, init, gain)
        layers.append(conv)
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def plain_mlp(
    *,
    depth: int = 20,
    width: int = 256,
    activation: str = "relu",
    init: str = "he",
    gain: float = 1.0,
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """`depth` square linear layers, each with an activation behind it, no head; `init` and `gain` of `plain_conv`."""
    init, gain = drawn_as(init, gain, activation)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        initialize_layer_(linear, init, gain)
        layers.append(linear)
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(ACTIVATIONS[activation]())
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class ResidualConv(nn.Module):
    """x + conv2(relu(conv1(relu(x)))): He weights give the branch phi 1, so the block 2."""

    def __init__(self, channels: int, first_gain: float, last_gain: float, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.bn2 = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        initialize_layer_(self.conv1, "he", first_gain)
        initialize_layer_(self.conv2, "he", last_gain)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu1(self.bn1(x)))
        return x + self.conv2(self.relu2(self.bn2(y)))


def residual_conv(
    *,
    depth: int = 25,
    channels: int = 64,
    fixup: bool = False,
    last_gain: float | None = None,
    batch_norm: bool = False,
) -> nn.Sequential:
    """A stem convolution and `depth` two-conv residual blocks.

    Args:
        fixup: first convolution of each block times depth^-1/2, last one zero.
        last_gain: factor on the last convolution of each block, in place of the one that `fixup` implies.
        batch_norm: ahead of each ReLU of the branch (a pre-activation ResNet).
    """
    first = 1 / math.sqrt(depth) if fixup else 1.0
    last = last_gain if last_gain is not None else (0.0 if fixup else 1.0)
    stem = nn.Conv2d(3, channels, 3, padding=1)
    initialize_layer_(stem, "he")
    return nn.Sequential(stem, *(ResidualConv(channels, first, last, batch_norm) for _ in range(depth)))
