"""Convolutional designs of the years of transformers, and some that are older, each after its paper's description."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.vision.parts import (
    Act,
    Branches,
    ChannelLayerNorm,
    Gate,
    LayerScale,
    Residual,
    conv,
    depthwise,
    head,
)

C = 32


def stem(channels: int = C, act: Act | None = nn.ReLU) -> nn.Sequential:
    return conv(3, channels, 3, 2, act=act)


class Standardized(nn.Conv2d):
    """A convolution of weights with mean 0 and variance 1 over the fan-in, with a gain."""

    gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True, unbiased=False)
        fan = weight[0].numel()
        weight = (weight - mean) * torch.rsqrt(variance * fan + 1e-4) * self.gain
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, 1, self.groups)


def nfnet() -> nn.Module:
    """NFNet: weights standardised, residual branches scaled by what enters (arXiv 2102.06171)."""

    class Scaled(nn.Module):
        def __init__(self, c: int, beta: float) -> None:
            super().__init__()
            self.one, self.two = Standardized(c, c, 3, padding=1), Standardized(c, c, 3, padding=1)
            self.gate, self.beta = Gate(c, c // 2), beta

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(functional.gelu(x / self.beta) * 1.7015)
            y = self.gate(self.two(functional.gelu(y) * 1.7015)) * 2.0
            return x + 0.2 * y

    blocks = [Scaled(48, (1.0 + 0.04 * i) ** 0.5) for i in range(5)]
    return nn.Sequential(Standardized(3, 48, 3, 2, 1), *blocks, nn.GELU(), head(48))


def big_transfer() -> nn.Module:
    """BiT: group normalisation before each standardised convolution (arXiv 1912.11370)."""

    def block(c: int) -> nn.Module:
        norms = [nn.Sequential(nn.GroupNorm(8, n), nn.ReLU()) for n in (c, c // 2, c // 2)]
        convs = [Standardized(c, c // 2, 1), Standardized(c // 2, c // 2, 3, padding=1), Standardized(c // 2, c, 1)]
        return Residual(nn.Sequential(*[layer for pair in zip(norms, convs, strict=True) for layer in pair]))

    first = [Standardized(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*first, *[block(64) for _ in range(4)], nn.GroupNorm(8, 64), nn.ReLU(), head(64))


class Bands(nn.Module):
    """InceptionNeXt's mixer: parts of the channels by a square, a row and a column, the rest as it is."""

    def __init__(self, c: int) -> None:
        super().__init__()
        part = self.part = c // 4
        self.square = nn.Conv2d(part, part, 3, padding=1, groups=part)
        self.row = nn.Conv2d(part, part, (1, 7), padding=(0, 3), groups=part)
        self.column = nn.Conv2d(part, part, (7, 1), padding=(3, 0), groups=part)

    def forward(self, x: Tensor) -> Tensor:
        rest, a, b, c = x.chunk(4, 1)
        return torch.cat([rest, self.square(a), self.row(b), self.column(c)], 1)


def _metanext(c: int, mixer: nn.Module, norm: nn.Module, scale: float = 1e-1) -> nn.Module:
    pointwise = [nn.Conv2d(c, 4 * c, 1), nn.GELU(), nn.Conv2d(4 * c, c, 1)]
    return Residual(nn.Sequential(mixer, norm, *pointwise, LayerScale(c, scale, channels_first=True)))


def inception_next() -> nn.Module:
    """InceptionNeXt (arXiv 2303.16900)."""
    first = [nn.Conv2d(3, 48, 4, 4), nn.BatchNorm2d(48)]
    return nn.Sequential(*first, *[_metanext(48, Bands(48), nn.BatchNorm2d(48)) for _ in range(4)], head(48))


class ResponseNorm(nn.Module):
    """Channels relative to each other's norms over positions (ConvNeXt v2); gamma not at its zero."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(0.5 * torch.ones(1, c, 1, 1)), nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        return self.gamma * (x * norm / (norm.mean(1, keepdim=True) + 1e-6)) + self.beta + x


def convnext_v2() -> nn.Module:
    """ConvNeXt v2 (arXiv 2301.00808)."""

    def block(c: int) -> nn.Module:
        wide = nn.Conv2d(c, c, 7, padding=3, groups=c)
        layers = [
            wide,
            ChannelLayerNorm(c),
            nn.Conv2d(c, 4 * c, 1),
            nn.GELU(),
            ResponseNorm(4 * c),
            nn.Conv2d(4 * c, c, 1),
        ]
        return Residual(nn.Sequential(*layers))

    first = [nn.Conv2d(3, 40, 4, 4), ChannelLayerNorm(40)]
    return nn.Sequential(
        *first,
        *[block(40) for _ in range(3)],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(40),
        nn.Linear(40, 10),
    )


class Star(nn.Module):
    """StarNet's block: two pointwise layers, multiplied."""

    def __init__(self, c: int, times: int = 3) -> None:
        super().__init__()
        self.wide, self.left, self.right = depthwise(c, 7), nn.Conv2d(c, times * c, 1), nn.Conv2d(c, times * c, 1)
        self.back, self.last = conv(times * c, c, 1, act=None), nn.Conv2d(c, c, 7, padding=3, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x)
        y = self.back(functional.relu6(self.left(y)) * self.right(y))
        found: Tensor = x + self.last(y)
        return found


def starnet() -> nn.Module:
    """StarNet (arXiv 2403.19967)."""
    return nn.Sequential(stem(act=nn.ReLU6), *[Star(C) for _ in range(3)], nn.BatchNorm2d(C), head(C))


class LargeKernel(nn.Module):
    """VAN: x times a chain of depthwise kernels and a pointwise one."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.before, self.after = nn.Sequential(nn.Conv2d(c, c, 1), nn.GELU()), nn.Conv2d(c, c, 1)
        self.near = nn.Conv2d(c, c, 5, padding=2, groups=c)
        self.far, self.mix = nn.Conv2d(c, c, 7, padding=9, groups=c, dilation=3), nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        found: Tensor = self.after(y * self.mix(self.far(self.near(y)))) + x
        return found


def mixing(c: int, factor: int, mixer: Callable[[int], nn.Module]) -> nn.Module:
    """A mixer over positions and a convolutional perceptron of `factor` times the width, each on a scaled branch."""
    wide = nn.Sequential(
        nn.Conv2d(c, factor * c, 1),
        nn.Conv2d(factor * c, factor * c, 3, padding=1, groups=factor * c),
        nn.GELU(),
        nn.Conv2d(factor * c, c, 1),
    )
    branches = (mixer(c), wide)
    return nn.Sequential(
        *[Residual(nn.Sequential(nn.BatchNorm2d(c), each, LayerScale(c, 0.1, True))) for each in branches]
    )


def van() -> nn.Module:
    """Visual attention network (arXiv 2202.09741)."""

    return nn.Sequential(conv(3, C, 7, 4, act=None), *[mixing(C, 2, LargeKernel) for _ in range(3)], head(C))


class Orders(nn.Module):
    """MogaNet's gated aggregation of several depthwise kernels."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gate, self.value, self.out = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        self.first = nn.Conv2d(c, c, 5, padding=2, groups=c)
        low, mid = c // 8, 3 * c // 8
        self.sizes = (c - low - mid, low, mid)
        self.mid = nn.Conv2d(mid, mid, 5, padding=4, groups=mid, dilation=2)
        self.low = nn.Conv2d(low, low, 7, padding=9, groups=low, dilation=3)

    def forward(self, x: Tensor) -> Tensor:
        rest, low, mid = self.first(self.value(x)).split(self.sizes, 1)
        value = torch.cat([rest, self.low(low), self.mid(mid)], 1)
        found: Tensor = self.out(functional.silu(self.gate(x)) * functional.silu(value))
        return found


def moganet() -> nn.Module:
    """MogaNet (arXiv 2211.03295)."""

    return nn.Sequential(
        conv(3, C, 3, 2, act=nn.GELU), conv(C, C, 3, 2, act=None), *[mixing(C, 4, Orders) for _ in range(3)], head(C)
    )


def replknet() -> nn.Module:
    """RepLKNet: a large depthwise kernel beside a small one (arXiv 2203.06717)."""

    def block(c: int) -> nn.Module:
        mixer = [conv(c, c, 1), Branches(depthwise(c, 13), depthwise(c, 5)), nn.ReLU(), conv(c, c, 1, act=None)]
        mlp = [nn.BatchNorm2d(c), conv(c, 4 * c, 1, act=nn.GELU), conv(4 * c, c, 1, act=None)]
        return nn.Sequential(Residual(nn.Sequential(nn.BatchNorm2d(c), *mixer)), Residual(nn.Sequential(*mlp)))

    return nn.Sequential(stem(), conv(C, C, 3, 2), *[block(C) for _ in range(3)], head(C))


class Recursive(nn.Module):
    """HorNet's gated convolution: products of growing order."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.sizes = [c // 4, c // 2, c]
        self.enter, self.out = nn.Conv2d(c, c // 4 + c // 4 + c // 2 + c, 1), nn.Conv2d(c, c, 1)
        total = sum(self.sizes)
        self.kernel = nn.Conv2d(total, total, 7, padding=3, groups=total)
        self.steps = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(self.sizes, self.sizes[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        first, rest = self.enter(x).split([self.sizes[0], sum(self.sizes)], 1)
        parts = self.kernel(rest).split(self.sizes, 1)
        y = first * parts[0]
        for step, part in zip(self.steps, parts[1:], strict=True):
            y = step(y) * part
        found: Tensor = self.out(y)
        return found


def hornet() -> nn.Module:
    """HorNet (arXiv 2207.14284)."""

    def block(c: int) -> nn.Module:
        mlp = nn.Sequential(nn.Conv2d(c, 4 * c, 1), nn.GELU(), nn.Conv2d(4 * c, c, 1))
        return nn.Sequential(*[Residual(nn.Sequential(ChannelLayerNorm(c), each)) for each in (Recursive(c), mlp)])

    recursive = [block(C) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(3, C, 4, 4), ChannelLayerNorm(C), *recursive, head(C))


def _inverted(
    c: int, out: int, stride: int, kernel: int, gate: bool, act: Act = nn.SiLU, fused: bool = False
) -> nn.Module:
    """An inverted residual block."""
    wide = (
        [conv(c, 4 * c, 3, stride, act=act)]
        if fused
        else [conv(c, 4 * c, 1, act=act), depthwise(4 * c, kernel, stride, act)]
    )
    layers = nn.Sequential(*wide, *([Gate(4 * c, c, act)] if gate else []), conv(4 * c, out, 1, act=None))
    return Residual(layers) if stride == 1 and c == out else layers


def mnasnet() -> nn.Module:
    """MnasNet (arXiv 1807.11626)."""
    shapes = [(C, 24, 2, 3, False), (24, 24, 1, 3, False), (24, 40, 1, 5, True), (40, 40, 1, 5, True)]
    return nn.Sequential(stem(), *[_inverted(*each, act=nn.ReLU) for each in shapes], head(40))


def efficientnet_v2() -> nn.Module:
    """EfficientNet v2: fused blocks first (arXiv 2104.00298)."""
    fused = [_inverted(24, 24, 1, 3, False, fused=True), _inverted(24, 48, 2, 3, False, fused=True)]
    blocks = [_inverted(48, 48, 1, 3, True), _inverted(48, 48, 1, 3, True)]
    return nn.Sequential(stem(24, nn.SiLU), *fused, *blocks, conv(48, 128, 1, act=nn.SiLU), head(128))


def mixnet() -> nn.Module:
    """MixNet: depthwise kernels of several sizes (arXiv 1907.09595)."""

    class Mixed(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            part = c // 4
            self.convs = nn.ModuleList(nn.Conv2d(part, part, k, padding=k // 2, groups=part) for k in (3, 5, 7, 9))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([layer(part) for layer, part in zip(self.convs, x.chunk(4, 1), strict=True)], 1)

    def block(c: int) -> nn.Module:
        middle = [conv(c, 4 * c, 1), Mixed(4 * c), nn.BatchNorm2d(4 * c), nn.ReLU()]
        return Residual(nn.Sequential(*middle, conv(4 * c, c, 1, act=None)))

    return nn.Sequential(stem(), *[block(C) for _ in range(3)], head(C))


def squeezenet() -> nn.Module:
    """SqueezeNet: no normalisation (arXiv 1602.07360)."""

    def fire(c: int, less: int, more: int) -> nn.Module:
        wide = Branches(nn.Conv2d(less, more, 1), nn.Conv2d(less, more, 3, padding=1), concat=True)
        return nn.Sequential(nn.Conv2d(c, less, 1), nn.ReLU(), wide, nn.ReLU())

    first = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    last = [nn.Conv2d(128, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*first, fire(64, 16, 64), fire(128, 16, 64), fire(128, 32, 64), *last)


def xception() -> nn.Module:
    """Xception (arXiv 1610.02357)."""

    def separable(a: int, b: int) -> list[nn.Module]:
        return [
            nn.ReLU(),
            nn.Conv2d(a, a, 3, padding=1, groups=a, bias=False),
            nn.Conv2d(a, b, 1, bias=False),
            nn.BatchNorm2d(b),
        ]

    def entry(a: int, b: int) -> nn.Module:
        return Residual(
            nn.Sequential(*separable(a, b), *separable(b, b), nn.MaxPool2d(3, 2, 1)), conv(a, b, 1, 2, act=None)
        )

    middle = [Residual(nn.Sequential(*[layer for _ in range(3) for layer in separable(64, 64)])) for _ in range(2)]
    return nn.Sequential(stem(), entry(C, 64), *middle, nn.ReLU(), head(64))


def pyramidnet() -> nn.Module:
    """PyramidNet: channels grow by a few a block, the shortcut is padded with zeros (arXiv 1610.02915)."""

    class Growing(nn.Module):
        def __init__(self, a: int, b: int) -> None:
            super().__init__()
            one, two = nn.Conv2d(a, b, 3, padding=1, bias=False), nn.Conv2d(b, b, 3, padding=1, bias=False)
            self.layers = nn.Sequential(nn.BatchNorm2d(a), one, nn.BatchNorm2d(b), nn.ReLU(), two, nn.BatchNorm2d(b))
            self.more = b - a

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.layers(x) + functional.pad(x, (0, 0, 0, 0, 0, self.more))
            return found

    blocks = [Growing(C + 8 * i, C + 8 * i + 8) for i in range(4)]
    return nn.Sequential(stem(act=None), *blocks, nn.BatchNorm2d(64), nn.ReLU(), head(64))


def dual_path() -> nn.Module:
    """Dual path network: some channels are added, some put beside (arXiv 1707.01629)."""

    class Dual(nn.Module):
        def __init__(self, c: int, same: int, more: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(conv(c, C, 1), conv(C, C, groups=4), conv(C, same + more, 1, act=None))
            self.same = same

        def forward(self, x: Tensor) -> Tensor:
            y = self.layers(x)
            return torch.cat([x[:, : self.same] + y[:, : self.same], x[:, self.same :], y[:, self.same :]], 1)

    return nn.Sequential(
        stem(48), *[Dual(48 + 8 * i, 40, 8) for i in range(4)], nn.BatchNorm2d(80), nn.ReLU(), head(80)
    )


class Blur(nn.Module):
    """A fixed smoothing kernel at stride 2."""

    def __init__(self, c: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4.0
        self.register_buffer("kernel", (line[:, None] * line).expand(c, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, stride=2, padding=1, groups=x.shape[1])


def tresnet() -> nn.Module:
    """TResNet: pixels to channels first, blurred strides (arXiv 2003.13630)."""

    def leaky() -> nn.Module:
        return nn.LeakyReLU(0.001)

    down = Residual(
        nn.Sequential(conv(C, 64, act=leaky), Blur(64), conv(64, 64, act=None), Gate(64, 16)),
        nn.Sequential(nn.AvgPool2d(2), conv(C, 64, 1, act=None)),
        nn.LeakyReLU(0.001),
    )
    return nn.Sequential(nn.PixelUnshuffle(4), conv(48, C, act=leaky), _block(C), _block(C), down, _block(64), head(64))


def _block(c: int) -> nn.Module:
    return Residual(nn.Sequential(conv(c, c), conv(c, c, act=None)), act=nn.ReLU())


def fractalnet() -> nn.Module:
    """FractalNet: a column's depth doubles, columns are averaged (arXiv 1605.07648)."""

    class Fractal(nn.Module):
        def __init__(self, c: int, columns: int) -> None:
            super().__init__()
            self.short = conv(c, c)
            self.long = nn.Sequential(Fractal(c, columns - 1), Fractal(c, columns - 1)) if columns > 1 else None

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.short(x) if self.long is None else (self.short(x) + self.long(x)) / 2.0
            return found

    return nn.Sequential(stem(), Fractal(C, 3), nn.MaxPool2d(2), Fractal(C, 2), head(C))


def fasternet() -> nn.Module:
    """FasterNet: a convolution of a quarter of the channels (arXiv 2303.03667)."""

    class Quarter(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.part = c // 4
            self.layer = nn.Conv2d(self.part, self.part, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.layer(x[:, : self.part]), x[:, self.part :]], 1)

    def block(c: int) -> nn.Module:
        return Residual(nn.Sequential(Quarter(c), conv(c, 2 * c, 1), nn.Conv2d(2 * c, c, 1, bias=False)))

    return nn.Sequential(conv(3, 48, 4, 4, act=None), *[block(48) for _ in range(5)], head(48))


def network_in_network() -> nn.Module:
    """Network in network: dropout and no normalisation (arXiv 1312.4400)."""

    def stage(a: int, b: int, kernel: int) -> list[nn.Module]:
        pairs = [nn.Conv2d(a, b, kernel, padding=kernel // 2), nn.Conv2d(b, b, 1), nn.Conv2d(b, b, 1)]
        return [layer for each in pairs for layer in (each, nn.ReLU())]

    middle = [nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(0.5), *stage(64, 64, 5), nn.AvgPool2d(3, 2, 1)]
    return nn.Sequential(*stage(3, 64, 5), *middle, *stage(64, 64, 3), head(64))


def shufflenet() -> nn.Module:
    """ShuffleNet: grouped pointwise layers and a shuffle (arXiv 1707.01083)."""

    def block(c: int, groups: int = 4) -> nn.Module:
        less = conv(c, c // 4, 1, groups=groups)
        layers = [less, nn.ChannelShuffle(groups), depthwise(c // 4), conv(c // 4, c, 1, groups=groups, act=None)]
        return Residual(nn.Sequential(*layers), act=nn.ReLU())

    return nn.Sequential(stem(64), nn.MaxPool2d(3, 2, 1), *[block(64) for _ in range(4)], head(64))


def conditional_kernels() -> nn.Module:
    """CondConv: kernels mixed for every sample (arXiv 1904.04971)."""

    class Mixture(nn.Module):
        def __init__(self, c: int, experts: int = 4) -> None:
            super().__init__()
            self.route, self.weight = (
                nn.Linear(c, experts),
                nn.Parameter(torch.randn(experts, c, c, 3, 3) * (2.0 / (9 * c)) ** 0.5),
            )

        def forward(self, x: Tensor) -> Tensor:
            share = self.route(x.mean((2, 3))).sigmoid()
            kernels = torch.einsum("be,eoihw->boihw", share, self.weight).flatten(0, 1)
            y = functional.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels, padding=1, groups=len(x))
            return y.reshape(x.shape)

    blocks = [Residual(nn.Sequential(Mixture(C), nn.BatchNorm2d(C)), act=nn.ReLU()) for _ in range(2)]
    return nn.Sequential(stem(), *blocks, head(C))
