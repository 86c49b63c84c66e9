"""DenseNet-BC (arXiv 1608.06993), initialised as in torchvision."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """Bottleneck that adds `growth` features to what it reads."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(self.norm1(torch.cat(features, 1)).relu())
        return self.conv2(self.norm2(x).relu())


class DenseBlock(nn.Module):
    """Every layer reads the concatenation of all before it."""

    def __init__(self, depth: int, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(channels + index * growth, growth) for index in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


def transition(channels: int) -> nn.Sequential:
    """Half the channels, half the size."""
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2, 2)
    )


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between, final norm, head."""

    def __init__(self, depths: tuple[int, ...], *, growth: int, classes: int) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 7, 2, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        stages: list[nn.Module] = []
        for index, depth in enumerate(depths):
            stages.append(DenseBlock(depth, channels, growth))
            channels += depth * growth
            if index + 1 < len(depths):
                stages.append(transition(channels))
                channels //= 2
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stages(self.stem(x))).relu()
        return self.classifier(self.pool(x).flatten(1))


def densenet121(*, growth: int = 32, classes: int = 100) -> DenseNet:
    """DenseNet-121."""
    return DenseNet((6, 12, 24, 16), growth=growth, classes=classes)
