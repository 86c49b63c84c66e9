"""Convolutional designs, each after its paper's description, a few blocks deep."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.vision.parts import (
    Act,
    Branches,
    Gate,
    Residual,
    conv,
    depthwise,
    head,
)

C = 32


def stem(channels: int = C, act: Act | None = nn.ReLU) -> nn.Sequential:
    return conv(3, channels, 3, 2, act=act)


def repvgg() -> nn.Module:
    """RepVGG: 3 x 3, 1 x 1 and identity, each normalised (arXiv 2101.03697)."""

    def block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        same = [nn.BatchNorm2d(inputs)] if inputs == outputs and stride == 1 else []
        three, one = conv(inputs, outputs, 3, stride, act=None), conv(inputs, outputs, 1, stride, act=None)
        return nn.Sequential(Branches(three, one, *same), nn.ReLU())

    widths = [(3, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1), (64, 64, 1)]
    return nn.Sequential(*[block(*each) for each in widths], head(64))


def mobileone() -> nn.Module:
    """MobileOne: several depthwise branches, then several pointwise ones (arXiv 2206.04040)."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        same = [nn.BatchNorm2d(inputs)] if stride == 1 else []
        wide = [depthwise(inputs, 3, stride) for _ in range(3)] + [depthwise(inputs, 1, stride)]
        mix = [conv(inputs, outputs, 1, act=None) for _ in range(3)]
        alike = [nn.BatchNorm2d(inputs)] if inputs == outputs else []
        return nn.Sequential(Branches(*wide, *same), nn.ReLU(), Branches(*mix, *alike), nn.ReLU())

    return nn.Sequential(stem(), *[block(32, 64, 2), block(64, 64, 1), block(64, 64, 1), block(64, 64, 1)], head(64))


def repvit() -> nn.Module:
    """RepViT: BN(depthwise 3 x 3 + 1 x 1 + x), a gate, then a residual pair of pointwise layers (arXiv 2307.09283)."""

    def block(c: int, gated: bool) -> nn.Module:
        mixer = nn.Sequential(Branches(depthwise(c), nn.Conv2d(c, c, 1, groups=c), nn.Identity()), nn.BatchNorm2d(c))
        mlp = nn.Sequential(conv(c, 2 * c, 1, act=nn.GELU), conv(2 * c, c, 1, act=None))
        return nn.Sequential(mixer, *([Gate(c, c // 4)] if gated else []), Residual(mlp))

    return nn.Sequential(
        stem(act=nn.GELU), conv(C, 48, 3, 2, act=None), *[block(48, i % 2 == 0) for i in range(4)], head(48)
    )


class Aggregation(nn.Module):
    """One-shot aggregation: each layer reads the last, all are put side by side."""

    def __init__(self, inputs: int, inner: int, outputs: int, gate: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(inputs if i == 0 else inner, inner) for i in range(4))
        self.mix = conv(inputs + 4 * inner, outputs, 1)
        self.gate = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(outputs, outputs, 1), nn.Hardsigmoid()) if gate else None
        )
        self.same = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            found.append(layer(found[-1]))
        y = self.mix(torch.cat(found, 1))
        y = y if self.gate is None else y * self.gate(y)
        return x + y if self.same else y


def vovnet() -> nn.Module:
    """VoVNet (arXiv 1904.09730)."""
    blocks = [Aggregation(C, 16, 64, gate=False), nn.MaxPool2d(3, 2, 1), Aggregation(64, 24, 64, gate=False)]
    return nn.Sequential(stem(), *blocks, head(64))


def vovnet_ese() -> nn.Module:
    """VoVNet v2, with gates (arXiv 1911.06667)."""
    blocks = [Aggregation(C, 16, 64, gate=True), nn.MaxPool2d(3, 2, 1), Aggregation(64, 24, 64, gate=True)]
    return nn.Sequential(stem(), *blocks, head(64))


class Partial(nn.Module):
    """Cross stage partial: half of the channels go around the blocks."""

    def __init__(self, channels: int, *blocks: nn.Module, every: bool = False) -> None:
        super().__init__()
        half = channels // 2
        self.left, self.right = conv(channels, half, 1, act=nn.SiLU), conv(channels, half, 1, act=nn.SiLU)
        self.blocks, self.every = nn.ModuleList(blocks), every
        self.mix = conv(half * (2 + len(blocks) if every else 2), channels, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.left(x), self.right(x)]
        for block in self.blocks:
            found.append(block(found[-1]))
        y: Tensor = self.mix(torch.cat(found if self.every else [found[0], found[-1]], 1))
        return y


def _dark(c: int) -> nn.Module:
    return Residual(nn.Sequential(conv(c, c, 1, act=nn.SiLU), conv(c, c, act=nn.SiLU)))


def cspdarknet() -> nn.Module:
    """CSPDarknet (arXiv 1911.11929)."""
    down = [conv(C, 64, 3, 2, act=nn.SiLU)]
    return nn.Sequential(stem(act=nn.SiLU), *down, Partial(64, _dark(32), _dark(32)), Partial(64, _dark(32)), head(64))


def yolo_c2f() -> nn.Module:
    """YOLOv8's backbone: every block of a partial stage is read, pyramid pooling at the end."""

    class Pyramid(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.less, self.pool, self.mix = conv(c, c // 2, 1, act=nn.SiLU), nn.MaxPool2d(5, 1, 2), conv(2 * c, c, 1)

        def forward(self, x: Tensor) -> Tensor:
            found = [self.less(x)]
            for _ in range(3):
                found.append(self.pool(found[-1]))
            y: Tensor = self.mix(torch.cat(found, 1))
            return y

    stages = [conv(C, 64, 3, 2, act=nn.SiLU), Partial(64, _dark(32), _dark(32), every=True), Pyramid(64)]
    return nn.Sequential(stem(act=nn.SiLU), *stages, head(64))


def darknet53() -> nn.Module:
    """Darknet (arXiv 1804.02767)."""

    def leaky() -> nn.Module:
        return nn.LeakyReLU(0.1)

    def block(c: int) -> nn.Module:
        return Residual(nn.Sequential(conv(c, c // 2, 1, act=leaky), conv(c // 2, c, act=leaky)))

    return nn.Sequential(
        stem(act=leaky), block(C), conv(C, 64, 3, 2, act=leaky), *[block(64) for _ in range(3)], head(64)
    )


class Ghost(nn.Module):
    """Half of the channels by a cheap operation on the other half."""

    def __init__(self, inputs: int, outputs: int, act: Act | None = nn.ReLU) -> None:
        super().__init__()
        self.own, self.cheap = conv(inputs, outputs // 2, 1, act=act), depthwise(outputs // 2, act=act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(x)
        return torch.cat([x, self.cheap(x)], 1)


def ghostnet() -> nn.Module:
    """GhostNet (arXiv 1911.11907)."""

    def block(c: int, gate: bool) -> nn.Module:
        gated = [Gate(2 * c, c // 2, gate=nn.Hardsigmoid)] if gate else []
        return Residual(nn.Sequential(Ghost(c, 2 * c), *gated, Ghost(2 * c, c, None)))

    return nn.Sequential(stem(), conv(C, 48, 3, 2), *[block(48, i % 2 == 1) for i in range(4)], head(48))


def convmixer() -> nn.Module:
    """ConvMixer (arXiv 2201.09792)."""

    def block(c: int) -> nn.Module:
        wide = nn.Sequential(nn.Conv2d(c, c, 5, padding=2, groups=c), nn.GELU(), nn.BatchNorm2d(c))
        return nn.Sequential(Residual(wide), nn.Conv2d(c, c, 1), nn.GELU(), nn.BatchNorm2d(c))

    return nn.Sequential(
        nn.Conv2d(3, 64, 4, 4), nn.GELU(), nn.BatchNorm2d(64), *[block(64) for _ in range(5)], head(64)
    )


class Scales(nn.Module):
    """Res2Net's middle: parts of the channels, each convolved with what the part before became."""

    def __init__(self, channels: int, parts: int = 4) -> None:
        super().__init__()
        width = channels // parts
        self.layers = nn.ModuleList(conv(width, width) for _ in range(parts - 1))
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        first, *others = x.chunk(self.parts, 1)
        found = [first]
        for index, (part, layer) in enumerate(zip(others, self.layers, strict=True)):
            found.append(layer(part if index == 0 else part + found[-1]))
        return torch.cat(found, 1)


def _bottleneck(c: int, middle: nn.Module, inner: int = C) -> nn.Module:
    """A residual bottleneck around a module that keeps its channels."""
    return Residual(nn.Sequential(conv(c, inner, 1), middle, conv(inner, c, 1, act=None)), act=nn.ReLU())


def res2net() -> nn.Module:
    """Res2Net (arXiv 1904.01169)."""
    return nn.Sequential(stem(64), nn.MaxPool2d(3, 2, 1), *[_bottleneck(64, Scales(C)) for _ in range(4)], head(64))


class Selective(nn.Module):
    """Two kernels, weighed by a softmax of what both show on average."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            [conv(c, c), nn.Sequential(nn.Conv2d(c, c, 3, padding=2, dilation=2), nn.BatchNorm2d(c), nn.ReLU())]
        )
        self.less, self.more = nn.Linear(c, c // 2), nn.Linear(c // 2, 2 * c)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([path(x) for path in self.paths], 1)
        weights = self.more(self.less(stacked.sum(1).mean((2, 3))).relu()).unflatten(1, (2, -1)).softmax(1)
        return (stacked * weights[..., None, None]).sum(1)


def sknet() -> nn.Module:
    """Selective kernels (arXiv 1903.06586)."""
    return nn.Sequential(stem(64), nn.MaxPool2d(3, 2, 1), *[_bottleneck(64, Selective(C)) for _ in range(3)], head(64))


def resnest() -> nn.Module:
    """Split attention: parts of a convolution's channels, weighed by a softmax over the parts (arXiv 2004.08955)."""

    class Split(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.wide, self.less, self.more = conv(c, 2 * c, groups=2), conv(c, c // 2, 1), nn.Conv2d(c // 2, 2 * c, 1)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.wide(x).unflatten(1, (2, -1))
            weights = self.more(self.less(parts.sum(1).mean((2, 3), keepdim=True))).unflatten(1, (2, -1)).softmax(1)
            return (parts * weights).sum(1)

    return nn.Sequential(stem(64), nn.MaxPool2d(3, 2, 1), *[_bottleneck(64, Split(C)) for _ in range(3)], head(64))


class ChannelLine(nn.Module):
    """ECA: a gate from a convolution along the channels' averages."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.line(x.mean((2, 3))[:, None]).sigmoid()[:, 0]
        return x * gate[..., None, None]


def _basic(c: int, *gate: nn.Module) -> nn.Module:
    return Residual(nn.Sequential(conv(c, c), conv(c, c, act=None), *gate), act=nn.ReLU())


def eca_resnet() -> nn.Module:
    """ECA-Net (arXiv 1910.03151)."""
    return nn.Sequential(stem(), *[_basic(C, ChannelLine()) for _ in range(4)], head(C))


class Cbam(nn.Module):
    """Gates from averages and maxima, of channels, then of positions."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(c, c // 4), nn.ReLU(), nn.Linear(c // 4, c))
        self.place = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        gate = (self.fc(x.mean((2, 3))) + self.fc(x.amax((2, 3)))).sigmoid()
        x = x * gate[..., None, None]
        place = self.place(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
        return x * place


def cbam_resnet() -> nn.Module:
    """CBAM (arXiv 1807.06521)."""
    return nn.Sequential(stem(), *[_basic(C, Cbam(C)) for _ in range(3)], head(C))


class Coordinates(nn.Module):
    """Gates along rows and columns."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.less, self.rows, self.columns = (
            conv(c, c // 4, 1, act=nn.Hardswish),
            nn.Conv2d(c // 4, c, 1),
            nn.Conv2d(c // 4, c, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        lines = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)
        rows, columns = self.less(lines).split([height, x.shape[3]], 2)
        found: Tensor = x * self.rows(rows).sigmoid() * self.columns(columns.transpose(2, 3)).sigmoid()
        return found


def coordinate_attention() -> nn.Module:
    """Coordinate attention in inverted residuals (arXiv 2103.02907)."""

    def block(c: int) -> nn.Module:
        wide = [conv(c, 3 * c, 1, act=nn.ReLU6), depthwise(3 * c, act=nn.ReLU6), Coordinates(3 * c)]
        return Residual(nn.Sequential(*wide, conv(3 * c, c, 1, act=None)))

    return nn.Sequential(stem(), *[block(C) for _ in range(3)], head(C))


class Context(nn.Module):
    """A sum over positions weighed by a softmax, added to all of them."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(c, 1, 1)
        self.change = nn.Sequential(nn.Linear(c, c // 4), nn.LayerNorm(c // 4), nn.ReLU(), nn.Linear(c // 4, c))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weigh(x).flatten(2).softmax(-1)
        context = (x.flatten(2) @ weights.transpose(1, 2))[..., 0]
        return x + self.change(context)[..., None, None]


def gcnet() -> nn.Module:
    """Global context (arXiv 1904.11492)."""
    return nn.Sequential(stem(), *[_basic(C, Context(C)) for _ in range(3)], head(C))


class Resolutions(nn.Module):
    """HRNet: two resolutions, each block ends in an exchange."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.high, self.low = _basic(c), _basic(2 * c)
        self.down, self.up = conv(c, 2 * c, 3, 2, act=None), conv(2 * c, c, 1, act=None)

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        high, low = self.high(high), self.low(low)
        up = functional.interpolate(self.up(low), scale_factor=2, mode="nearest")
        return (high + up).relu(), (low + self.down(high)).relu()


class HRNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = stem(), conv(C, 2 * C, 3, 2)
        self.blocks = nn.ModuleList(Resolutions(C) for _ in range(3))
        self.last, self.head = conv(C, 2 * C, 3, 2), head(2 * C)

    def forward(self, x: Tensor) -> Tensor:
        high = self.stem(x)
        low = self.down(high)
        for block in self.blocks:
            high, low = block(high, low)
        found: Tensor = self.head(self.last(high) + low)
        return found


def hrnet() -> nn.Module:
    """HRNet (arXiv 1908.07919)."""
    return HRNet()


class Tree(nn.Module):
    """DLA: two blocks, aggregated by a pointwise layer."""

    def __init__(self, c: int, levels: int) -> None:
        super().__init__()
        self.left = _basic(c) if levels == 1 else Tree(c, levels - 1)
        self.right = _basic(c) if levels == 1 else Tree(c, levels - 1)
        self.root = conv(2 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x)
        found: Tensor = self.root(torch.cat([left, self.right(left)], 1))
        return found


def dla() -> nn.Module:
    """Deep layer aggregation (arXiv 1707.06484)."""
    return nn.Sequential(stem(), Tree(C, 2), conv(C, 48, 3, 2), Tree(48, 2), head(48))
