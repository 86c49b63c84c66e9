"""GoogLeNet with BatchNorm (arXiv 1409.4842), ShuffleNet v2 (1807.11164) and an NF-ResNet (2101.08692)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.common import kaiming_fan_out_
from tests.models.mobilenet import conv_norm


class Inception(nn.Module):
    """1x1, 3x3, 3x3 (for 5x5) and pooled branches, concatenated."""

    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int) -> None:
        super().__init__()
        self.branch1 = conv_norm(inputs, one, 1, activation="relu")
        self.branch2 = nn.Sequential(
            conv_norm(inputs, three[0], 1, activation="relu"), conv_norm(*three, 3, activation="relu")
        )
        self.branch3 = nn.Sequential(
            conv_norm(inputs, five[0], 1, activation="relu"), conv_norm(*five, 3, activation="relu")
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm(inputs, pooled, 1, activation="relu"))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def googlenet(*, classes: int = 100) -> nn.Sequential:
    """GoogLeNet without auxiliary heads, He fan_out convolutions."""
    plan = [  # 1x1, 3x3 (inner, outer), 5x5 (inner, outer), pooled
        (64, (96, 128), (16, 32), 32),
        (128, (128, 192), (32, 96), 64),
        None,
        (192, (96, 208), (16, 48), 64),
        (160, (112, 224), (24, 64), 64),
        (128, (128, 256), (24, 64), 64),
        (112, (144, 288), (32, 64), 64),
        (256, (160, 320), (32, 128), 128),
        None,
        (256, (160, 320), (32, 128), 128),
        (384, (192, 384), (48, 128), 128),
    ]
    layers: list[nn.Module] = [
        conv_norm(3, 64, 7, 2, activation="relu"),
        nn.MaxPool2d(3, 2, 1),
        conv_norm(64, 64, 1, activation="relu"),
        conv_norm(64, 192, 3, activation="relu"),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 192
    for widths in plan:
        if widths is None:
            layers.append(nn.MaxPool2d(3, 2, 1))
            continue
        layers.append(Inception(channels, *widths))
        channels = widths[0] + widths[1][1] + widths[2][1] + widths[3]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    network = nn.Sequential(*layers)
    kaiming_fan_out_(network)
    return network


class ShuffleUnit(nn.Module):
    """Half the channels pass by (at stride 2: through their own branch); the halves are concatenated and shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, self.split = outputs // 2, stride == 1
        source = inputs // 2 if self.split else inputs
        self.main = nn.Sequential(
            conv_norm(source, half, 1, activation="relu"),
            conv_norm(half, half, 3, stride, groups=half, activation="identity"),
            conv_norm(half, half, 1, activation="relu"),
        )
        self.side = (
            nn.Identity()
            if self.split
            else nn.Sequential(
                conv_norm(source, source, 3, stride, groups=source, activation="identity"),
                conv_norm(source, half, 1, activation="relu"),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1) if self.split else (x, x)
        y = torch.cat([self.side(a), self.main(b)], 1)
        batch, channels, height, width = y.shape
        return y.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(y.shape)


def shufflenet_v2(*, classes: int = 100) -> nn.Sequential:
    """ShuffleNet v2 x1.0, He fan_out convolutions."""
    layers: list[nn.Module] = [conv_norm(3, 24, 3, 2, activation="relu"), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for width, depth in ((116, 4), (232, 8), (464, 4)):
        for index in range(depth):
            layers.append(ShuffleUnit(channels, width, 2 if index == 0 else 1))
            channels = width
    layers += [conv_norm(channels, 1024, 1, activation="relu"), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers.append(nn.Linear(1024, classes))
    network = nn.Sequential(*layers)
    kaiming_fan_out_(network)
    return network


class ScaledStdConv(nn.Conv2d):
    """Convolution whose filters are standardised to variance gamma^2/fan_in, with a learned gain."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, gamma: float = 1.7139) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))
        self.target = gamma / math.sqrt(inputs * kernel * kernel)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        std = self.weight.var((1, 2, 3), keepdim=True, unbiased=False).add(1e-6).sqrt()
        weight = (self.weight - mean) / std * self.target * self.gain
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class NFBlock(nn.Module):
    """x + alpha * f(relu(x) / beta): no normalisation, variance followed analytically."""

    def __init__(self, inputs: int, outputs: int, stride: int, alpha: float, beta: float, skip_gain: float) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.conv1, self.conv2 = ScaledStdConv(inputs, outputs, 3, stride), ScaledStdConv(outputs, outputs, 3)
        self.downsample = ScaledStdConv(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None
        self.skip_gain = nn.Parameter(torch.tensor(skip_gain))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(x) * (1 / self.beta)
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv2(functional.relu(self.conv1(y)))
        return shortcut + y * self.alpha * self.skip_gain


def nf_resnet18(*, classes: int = 100, alpha: float = 0.2, skip_gain: float = 1.0) -> nn.Sequential:
    """A normaliser-free ResNet-18 with the variance of each block predicted as in the paper."""
    layers: list[nn.Module] = [ScaledStdConv(3, 64, 7, 2, gamma=1.0), nn.MaxPool2d(3, 2, 1)]
    channels, variance = 64, 1.0
    for stage, width in enumerate((64, 128, 256, 512)):
        for index in range(2):
            stride = 2 if stage > 0 and index == 0 else 1
            layers.append(NFBlock(channels, width, stride, alpha, math.sqrt(variance), skip_gain))
            variance = (1.0 if stride > 1 else variance) + alpha**2
            channels = width
    layers += [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    nn.init.normal_(layers[-1].weight, 0.0, 0.01)
    nn.init.zeros_(layers[-1].bias)
    return nn.Sequential(*layers)
