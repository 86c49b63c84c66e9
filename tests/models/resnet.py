"""ResNets (arXiv 1512.03385), pre-activation (1603.05027), wide (1605.07146), ResNeXt (1611.05431), SE (1709.01507)."""

from __future__ import annotations

from torch import Tensor, nn

from tests.models.common import kaiming_fan_out_


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class SqueezeExcite(nn.Module):
    """Channels gated by a sigmoid of the globally pooled input."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(self.pool(x)).relu()).sigmoid()


class Basic(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, groups: int = 1, base: int = 64, excite: bool = False):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcite(width) if excite else nn.Identity()
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return self.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1 down, 3x3 (with the stride, grouped in a ResNeXt), 1x1 up by four."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, groups: int = 1, base: int = 64, excite: bool = False):
        super().__init__()
        inner, outputs = width * base // 64 * groups, width * self.expansion
        self.conv1, self.bn1 = conv(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, stride, groups), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv(inner, outputs, 1), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcite(outputs) if excite else nn.Identity()
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.se(self.bn3(self.conv3(y)))
        return self.relu(y + self.downsample(x))


class PreActivation(nn.Module):
    """BatchNorm and ReLU ahead of each of two 3x3 convolutions; nothing follows the addition."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, groups: int = 1, base: int = 64, excite: bool = False):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.relu = nn.ReLU()
        plain = stride == 1 and inputs == width
        self.downsample = nn.Identity() if plain else conv(inputs, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.relu(self.bn2(y)))
        return y + self.downsample(x)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where shapes agree, else a 1x1 convolution with BatchNorm."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, global pooling, head."""

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck] | type[PreActivation],
        depths: tuple[int, ...],
        *,
        classes: int,
        zero_init_residual: bool = False,
        groups: int = 1,
        base: int = 64,
        excite: bool = False,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, depth in enumerate(depths):
            width, blocks = 64 * 2**stage, []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width, stride, groups, base, excite))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        kaiming_fan_out_(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, (Basic, Bottleneck)):
                    last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                    nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(*, classes: int = 100, zero_init_residual: bool = False) -> ResNet:
    """ResNet-18."""
    return ResNet(Basic, (2, 2, 2, 2), classes=classes, zero_init_residual=zero_init_residual)


def resnet50(*, classes: int = 100, zero_init_residual: bool = False) -> ResNet:
    """ResNet-50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes=classes, zero_init_residual=zero_init_residual)


def resnet101(*, classes: int = 100, zero_init_residual: bool = False) -> ResNet:
    """ResNet-101."""
    return ResNet(Bottleneck, (3, 4, 23, 3), classes=classes, zero_init_residual=zero_init_residual)


def wide_resnet50(*, classes: int = 100, zero_init_residual: bool = False) -> ResNet:
    """Wide ResNet-50-2: the inner width of each bottleneck doubled."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes=classes, zero_init_residual=zero_init_residual, base=128)


def preact_resnet18(*, classes: int = 100) -> ResNet:
    """Pre-activation ResNet-18 (with a post-activation stem)."""
    return ResNet(PreActivation, (2, 2, 2, 2), classes=classes)


def resnext50(*, classes: int = 100) -> ResNet:
    """ResNeXt-50 32x4d."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes=classes, groups=32, base=4)


def se_resnet18(*, classes: int = 100) -> ResNet:
    """ResNet-18 with squeeze-and-excite."""
    return ResNet(Basic, (2, 2, 2, 2), classes=classes, excite=True)
