"""MobileNet v1 (arXiv 1704.04861), v2 (1801.04381), v3-small (1905.02244) and EfficientNet-B0 (1905.11946)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from tests.models.common import ACTIVATIONS, kaiming_fan_out_


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: str = "relu6"
) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation != "identity":
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


class Gate(nn.Module):
    """Squeeze-and-excite with a chosen inner activation and gate."""

    def __init__(self, channels: int, squeezed: int, inner: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.inner, self.gate = inner, gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.inner(self.fc1(self.pool(x)))))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, optional gate, linear 1x1 projection; a shortcut where shapes agree."""

    def __init__(
        self,
        inputs: int,
        expanded: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        activation: str = "relu6",
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(conv_norm(inputs, expanded, 1, activation=activation))
        layers.append(conv_norm(expanded, expanded, kernel, stride, groups=expanded, activation=activation))
        if gate is not None:
            layers.append(gate)
        layers.append(conv_norm(expanded, outputs, 1, activation="identity"))
        self.branch = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.residual else self.branch(x)


class MobileNet(nn.Module):
    """Features, global pooling, classifier."""

    def __init__(self, features: list[nn.Module], classifier: list[nn.Module], linear_std: float | None) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(*classifier)
        kaiming_fan_out_(self)
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                bound = 1 / math.sqrt(layer.out_features)
                if linear_std is None:
                    nn.init.uniform_(layer.weight, -bound, bound)
                else:
                    nn.init.normal_(layer.weight, 0.0, linear_std)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def mobilenet_v1(*, classes: int = 100) -> MobileNet:
    """MobileNet v1: depthwise separable convolutions in a row, no shortcut."""
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    features: list[nn.Module] = [conv_norm(3, 32, 3, 2, activation="relu")]
    channels = 32
    for width, stride in plan:
        features.append(conv_norm(channels, channels, 3, stride, groups=channels, activation="relu"))
        features.append(conv_norm(channels, width, 1, activation="relu"))
        channels = width
    return MobileNet(features, [nn.Linear(channels, classes)], 0.01)


def mobilenet_v2(*, classes: int = 100) -> MobileNet:
    """MobileNet v2, initialised as in torchvision."""
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    features: list[nn.Module] = [conv_norm(3, 32, 3, 2)]
    channels = 32
    for expansion, width, depth, stride in plan:
        for index in range(depth):
            step = stride if index == 0 else 1
            features.append(InvertedResidual(channels, channels * expansion, width, stride=step))
            channels = width
    features.append(conv_norm(channels, 1280, 1))
    return MobileNet(features, [nn.Dropout(0.2), nn.Linear(1280, classes)], 0.01)


def mobilenet_v3_small(*, classes: int = 100) -> MobileNet:
    """MobileNet v3-small: hard-swish and squeeze-and-excite with a hard sigmoid."""
    plan = [  # kernel, expanded, outputs, excite, activation, stride
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hardswish", 2),
        (5, 240, 40, True, "hardswish", 1),
        (5, 240, 40, True, "hardswish", 1),
        (5, 120, 48, True, "hardswish", 1),
        (5, 144, 48, True, "hardswish", 1),
        (5, 288, 96, True, "hardswish", 2),
        (5, 576, 96, True, "hardswish", 1),
        (5, 576, 96, True, "hardswish", 1),
    ]
    features: list[nn.Module] = [conv_norm(3, 16, 3, 2, activation="hardswish")]
    channels = 16
    for kernel, expanded, width, excite, activation, stride in plan:
        gate = Gate(expanded, (expanded // 4 + 7) // 8 * 8, nn.ReLU(), nn.Hardsigmoid()) if excite else None
        block = InvertedResidual(
            channels, expanded, width, kernel=kernel, stride=stride, activation=activation, gate=gate
        )
        features.append(block)
        channels = width
    features.append(conv_norm(channels, 576, 1, activation="hardswish"))
    head = [nn.Linear(576, 1024), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1024, classes)]
    return MobileNet(features, head, 0.01)


def efficientnet_b0(*, classes: int = 100) -> MobileNet:
    """EfficientNet-B0: SiLU and squeeze-and-excite, initialised as in torchvision (no stochastic depth)."""
    plan = [  # expansion, kernel, stride, outputs, depth
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    ]
    features: list[nn.Module] = [conv_norm(3, 32, 3, 2, activation="silu")]
    channels = 32
    for expansion, kernel, stride, width, depth in plan:
        for index in range(depth):
            expanded = channels * expansion
            gate = Gate(expanded, max(channels // 4, 1), nn.SiLU(), nn.Sigmoid())
            step = stride if index == 0 else 1
            block = InvertedResidual(
                channels, expanded, width, kernel=kernel, stride=step, activation="silu", gate=gate
            )
            features.append(block)
            channels = width
    features.append(conv_norm(channels, 1280, 1, activation="silu"))
    return MobileNet(features, [nn.Dropout(0.2), nn.Linear(1280, classes)], None)
