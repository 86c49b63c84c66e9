"""RegNetY-400MF (arXiv 2003.13678), initialised as in torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from tests.models.mobilenet import Gate, conv_norm


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 with the stride, squeeze-and-excite, 1x1, all of one width; ReLU after the addition."""

    def __init__(self, inputs: int, width: int, stride: int, group: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_norm(inputs, width, 1, activation="relu"),
            conv_norm(width, width, 3, stride, groups=width // group, activation="relu"),
            Gate(width, round(inputs / 4), nn.ReLU(), nn.Sigmoid()),
            conv_norm(width, width, 1, activation="identity"),
        )
        plain = stride == 1 and inputs == width
        self.shortcut = nn.Identity() if plain else conv_norm(inputs, width, 1, stride, activation="identity")
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.branch(x))


def regnet_y_400mf(*, classes: int = 100) -> nn.Sequential:
    """RegNetY-400MF: He fan_out convolutions (fan_out over all groups), head with std 0.01."""
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, activation="relu")]
    channels = 32
    for width, depth in ((48, 1), (104, 3), (208, 6), (440, 6)):
        for index in range(depth):
            layers.append(Bottleneck(channels, width, 2 if index == 0 else 1, 8))
            channels = width
    head = nn.Linear(channels, classes)
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):  # the biases of squeeze-and-excite stay as the framework drew them
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return network
