"""RepVGG-A0 (arXiv 2101.03697) as it is trained, with the framework's own initialisation."""

from __future__ import annotations

from torch import Tensor, nn

from tests.models.mobilenet import conv_norm


class RepBlock(nn.Module):
    """3x3, 1x1 and, where shapes agree, the identity, each behind its own BatchNorm; ReLU of their sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.three = conv_norm(inputs, outputs, 3, stride, activation="identity")
        self.one = conv_norm(inputs, outputs, 1, stride, activation="identity")
        self.identity = nn.BatchNorm2d(inputs) if stride == 1 and inputs == outputs else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.three(x) + self.one(x)
        return self.relu(y if self.identity is None else y + self.identity(x))


def repvgg_a0(*, classes: int = 100) -> nn.Sequential:
    """RepVGG-A0 in its training form."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((48, 1), (48, 2), (96, 4), (192, 14), (1280, 1)):
        for index in range(depth):
            layers.append(RepBlock(channels, width, 2 if index == 0 else 1))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
