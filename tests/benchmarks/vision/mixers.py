"""Designs that mix tokens without attention, or with little of it, each after its paper's description."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.vision.attention import W, drawn
from tests.benchmarks.vision.parts import (
    Attention,
    Branches,
    ChannelLayerNorm,
    Function,
    LayerScale,
    OnImage,
    Residual,
    Tokens,
    Windows,
    conv,
    depthwise,
    head,
    mlp,
    on_tokens,
    prenorm,
)


class OverTokens(nn.Module):
    """A module of features, applied along the tokens."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x.transpose(1, 2)).transpose(1, 2)
        return found


class Affine(nn.Module):
    """A factor and a shift for each feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.alpha + self.beta


def resmlp() -> nn.Module:
    """ResMLP: no normalisation but affine maps (arXiv 2105.03404)."""

    def block() -> nn.Module:
        parts = (OverTokens(nn.Linear(64, 64)), mlp(W))
        return nn.Sequential(*[Residual(nn.Sequential(Affine(W), each, LayerScale(W))) for each in parts])

    return Tokens(W, [block() for _ in range(4)])


class Spatial(nn.Module):
    """gMLP's gate: half of the features times a projection of the other half along the tokens."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.norm, self.along = nn.LayerNorm(width), nn.Conv1d(tokens, tokens, 1)
        nn.init.ones_(self.along.bias)
        nn.init.normal_(self.along.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, -1)
        found: Tensor = value * self.along(self.norm(gate))
        return found


def gmlp() -> nn.Module:
    """gMLP (arXiv 2105.08050)."""

    def block() -> nn.Module:
        layers = [nn.LayerNorm(W), nn.Linear(W, 4 * W), nn.GELU(), Spatial(2 * W, 64), nn.Linear(2 * W, W)]
        return Residual(nn.Sequential(*layers))

    return Tokens(W, [block() for _ in range(4)])


def fnet() -> nn.Module:
    """FNet: the real part of a Fourier transform over tokens and features (arXiv 2105.03824)."""
    mixer = Function(lambda x: torch.fft.fft2(x).real)

    def block() -> nn.Module:
        return nn.Sequential(Residual(mixer), nn.LayerNorm(W), Residual(mlp(W)), nn.LayerNorm(W))

    return Tokens(W, [block() for _ in range(3)])


def gfnet() -> nn.Module:
    """Global filters: a product in the frequency domain (arXiv 2107.00645)."""

    class Filter(nn.Module):
        def __init__(self, side: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(0.5 * torch.randn(side, side // 2 + 1, W, 2))

        def forward(self, x: Tensor) -> Tensor:
            image = x.unflatten(1, (8, 8))
            spectrum = torch.fft.rfft2(image, dim=(1, 2), norm="ortho") * torch.view_as_complex(self.weight)
            return torch.fft.irfft2(spectrum, s=(8, 8), dim=(1, 2), norm="ortho").flatten(1, 2)

    return Tokens(W, [prenorm(W, Filter(8)) for _ in range(3)])


def poolformer() -> nn.Module:
    """PoolFormer, layer scales of 0.1 (arXiv 2111.11418)."""

    def block(c: int) -> nn.Module:
        pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        mixer = Function(lambda x: pool(x) - x)
        wide = nn.Sequential(nn.Conv2d(c, 4 * c, 1), nn.GELU(), nn.Conv2d(4 * c, c, 1))
        return nn.Sequential(
            *[Residual(nn.Sequential(nn.GroupNorm(1, c), each, LayerScale(c, 0.1, True))) for each in (mixer, wide)]
        )

    return nn.Sequential(nn.Conv2d(3, W, 7, 4, 2), *[block(W) for _ in range(4)], ChannelLayerNorm(W), head(W))


def fastvit() -> nn.Module:
    """FastViT: depthwise mixers with normalised branches, large kernels before the features (arXiv 2303.14189)."""

    def block(c: int) -> nn.Module:
        norm, mixed = nn.BatchNorm2d(c), Branches(depthwise(c), depthwise(c, 1), nn.BatchNorm2d(c))
        mixer = Residual(nn.Sequential(Function(lambda x: mixed(x) - norm(x)), LayerScale(c, 0.1, True)))
        mixer.inner.add_module("norm", norm)
        mixer.inner.add_module("mixed", mixed)
        wide = [depthwise(c, 7), nn.Conv2d(c, 3 * c, 1), nn.GELU(), nn.Conv2d(3 * c, c, 1), LayerScale(c, 0.1, True)]
        return nn.Sequential(mixer, Residual(nn.Sequential(*wide)))

    return nn.Sequential(
        conv(3, 48, 3, 2, act=nn.GELU), conv(48, 48, 3, 2, act=nn.GELU), *[block(48) for _ in range(3)], head(48)
    )


def mobilevit() -> nn.Module:
    """MobileViT: attention between the patches' pixels of equal place, put beside what it read (arXiv 2110.02178)."""

    class Unfolded(nn.Module):
        def __init__(self, c: int, width: int) -> None:
            super().__init__()
            self.enter = nn.Sequential(conv(c, c, act=nn.SiLU), nn.Conv2d(c, width, 1, bias=False))
            self.blocks = nn.Sequential(prenorm(width, Attention(width), mlp(width, 2, nn.SiLU)), nn.LayerNorm(width))
            self.back, self.mix = conv(width, c, 1, act=nn.SiLU), conv(2 * c, c, act=nn.SiLU)

        def forward(self, x: Tensor) -> Tensor:
            y = self.enter(x)
            batch, width, height, side = y.shape
            y = y.reshape(batch, width, height // 2, 2, side // 2, 2).permute(0, 3, 5, 2, 4, 1)
            y = self.blocks(y.reshape(batch * 4, -1, width)).reshape(batch, 2, 2, height // 2, side // 2, width)
            y = y.permute(0, 5, 3, 1, 4, 2).reshape(batch, width, height, side)
            found: Tensor = self.mix(torch.cat([x, self.back(y)], 1))
            return found

    def inverted(c: int) -> nn.Module:
        return Residual(
            nn.Sequential(conv(c, 4 * c, 1, act=nn.SiLU), depthwise(4 * c, act=nn.SiLU), conv(4 * c, c, 1, act=None))
        )

    return nn.Sequential(
        conv(3, 32, 3, 2, act=nn.SiLU),
        inverted(32),
        conv(32, 48, 3, 2, act=nn.SiLU),
        Unfolded(48, W),
        inverted(48),
        head(48),
    )


def efficientformer() -> nn.Module:
    """EfficientFormer: pooling on images, then attention with a bias (arXiv 2206.01191)."""

    def pooled(c: int) -> nn.Module:
        pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        wide = nn.Sequential(conv(c, 4 * c, 1, act=nn.GELU), conv(4 * c, c, 1, act=None))
        mixers = (Function(lambda x: pool(x) - x), wide)
        return nn.Sequential(*[Residual(nn.Sequential(each, LayerScale(c, 0.1, True))) for each in mixers])

    first = [conv(3, W, 3, 2), conv(W, W, 3, 2), pooled(W), pooled(W)]
    return drawn(nn.Sequential(*first, on_tokens(prenorm(W, Attention(W), scale=0.1)), head(W)))


def cvt() -> nn.Module:
    """CvT: queries, keys and values by depthwise kernels, keys and values at stride 2 (arXiv 2103.15808)."""

    class Convolved(nn.Module):
        def __init__(self, c: int, heads: int = 4) -> None:
            super().__init__()
            self.heads = heads
            self.near = nn.ModuleList(OnImage(depthwise(c, 3, stride)) for stride in (1, 2, 2))
            self.layers, self.out = nn.ModuleList(nn.Linear(c, c) for _ in range(3)), nn.Linear(c, c)

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = (
                layer(near(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for near, layer in zip(self.near, self.layers, strict=True)
            )
            y = functional.scaled_dot_product_attention(query, key, value)
            found: Tensor = self.out(y.transpose(1, 2).flatten(2))
            return found

    return Tokens(W, [prenorm(W, Convolved(W)) for _ in range(3)])


def botnet() -> nn.Module:
    """BoTNet: attention for the convolution of a bottleneck (arXiv 2101.11605)."""

    def block(attend: bool) -> nn.Module:
        middle = nn.Sequential(on_tokens(Attention(32)), nn.BatchNorm2d(32), nn.ReLU()) if attend else conv(32, 32)
        return Residual(nn.Sequential(conv(W, 32, 1), middle, conv(32, W, 1, act=None)), act=nn.ReLU())

    return nn.Sequential(conv(3, W, 3, 2), nn.MaxPool2d(2), block(False), block(True), block(True), head(W))


def nest() -> nn.Module:
    """NesT: attention in blocks, which a convolution and a maximum join (arXiv 2105.12723)."""
    join = OnImage(nn.Sequential(nn.Conv2d(W, 96, 3, padding=1), ChannelLayerNorm(96), nn.MaxPool2d(3, 2, 1)))
    embed = [nn.Conv2d(3, W, 4, 4), Function(lambda x: x.flatten(2).transpose(1, 2))]
    blocks = [
        *[prenorm(W, Windows(Attention(W), 8, 4)) for _ in range(2)],
        join,
        *[prenorm(96, Attention(96)) for _ in range(2)],
    ]
    return drawn(nn.Sequential(*embed, *blocks, nn.LayerNorm(96), Function(lambda x: x.mean(1)), nn.Linear(96, 10)))


def permutator() -> nn.Module:
    """Vision Permutator: features mixed along rows and columns (arXiv 2106.12368)."""

    class Permuted(nn.Module):
        def __init__(self, side: int, segments: int) -> None:
            super().__init__()
            self.rows, self.columns = (
                nn.Linear(side * W // segments, side * W // segments),
                nn.Linear(side * W // segments, side * W // segments),
            )
            self.own, self.out, self.segments = nn.Linear(W, W), nn.Linear(W, W), segments

        def along(self, x: Tensor, layer: nn.Module) -> Tensor:
            y = x.unflatten(-1, (self.segments, -1)).permute(0, 1, 3, 2, 4)
            y = layer(y.flatten(3)).unflatten(-1, (-1, W // self.segments))
            return y.permute(0, 1, 3, 2, 4).flatten(3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.unflatten(1, (8, 8))
            rows = self.along(x, self.rows)
            columns = self.along(x.transpose(1, 2), self.columns).transpose(1, 2)
            found: Tensor = self.out(rows + columns + self.own(x)).flatten(1, 2)
            return found

    return Tokens(W, [prenorm(W, Permuted(8, 8)) for _ in range(3)])


def shift_mlp() -> nn.Module:
    """S2-MLP: parts of the features moved by a place (arXiv 2106.07477)."""

    def moved(x: Tensor) -> Tensor:
        a, b, c, d = x.unflatten(1, (8, 8)).chunk(4, -1)
        parts = [a.roll(1, 1), b.roll(-1, 1), c.roll(1, 2), d.roll(-1, 2)]
        return torch.cat(parts, -1).flatten(1, 2)

    def block() -> nn.Module:
        mixer = nn.Sequential(nn.Linear(W, W), nn.GELU(), Function(moved), nn.Linear(W, W))
        return prenorm(W, mixer)

    return Tokens(W, [block() for _ in range(4)])


def davit() -> nn.Module:
    """DaViT: windows, then attention between the channels of groups; depthwise positions (arXiv 2204.03645)."""

    class Channels(Attention):
        def forward(self, x: Tensor) -> Tensor:
            query, key, value = (
                each.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1) for each in self.qkv(x).chunk(3, -1)
            )
            weights = (query * x.shape[1] ** -0.5 @ key.transpose(-2, -1)).softmax(-1)
            found: Tensor = self.out((weights @ value).permute(0, 3, 1, 2).flatten(2))
            return found

    def place() -> nn.Module:
        return Residual(OnImage(nn.Conv2d(W, W, 3, padding=1, groups=W)))

    return Tokens(W, [place(), prenorm(W, Windows(Attention(W), 8, 4)), place(), prenorm(W, Channels(W))])


def single_head() -> nn.Module:
    """SHViT: one head for a part of the channels, the rest beside it (arXiv 2401.16456)."""

    class Single(nn.Module):
        def __init__(self, c: int, part: int, key: int = 16) -> None:
            super().__init__()
            self.part, self.key = part, key
            self.norm, self.qkv = nn.GroupNorm(1, part), conv(part, 2 * key + part, 1, act=None)
            self.out = nn.Sequential(nn.ReLU(), conv(c, c, 1, act=None))

        def forward(self, x: Tensor) -> Tensor:
            first, rest = x[:, : self.part], x[:, self.part :]
            query, key, value = self.qkv(self.norm(first)).flatten(2).split([self.key, self.key, self.part], 1)
            weights = (query.transpose(-2, -1) @ key * self.key**-0.5).softmax(-1)
            y = (value @ weights.transpose(-2, -1)).reshape(first.shape)
            found: Tensor = self.out(torch.cat([y, rest], 1))
            return found

    def block(c: int) -> nn.Module:
        wide = nn.Sequential(conv(c, 2 * c, 1), conv(2 * c, c, 1, act=None))
        return nn.Sequential(Residual(depthwise(c)), Residual(Single(c, c // 4)), Residual(wide))

    return nn.Sequential(conv(3, 32, 3, 2), conv(32, W, 3, 2), *[block(W) for _ in range(3)], head(W))


def focalnet() -> nn.Module:
    """FocalNet: contexts of growing size, each weighed by a gate, times a query (arXiv 2203.11926)."""

    class Focal(nn.Module):
        def __init__(self, c: int, levels: int = 2) -> None:
            super().__init__()
            self.levels, self.enter = levels, nn.Conv2d(c, 2 * c + levels + 1, 1)
            kernels = [nn.Conv2d(c, c, 3 + 2 * i, padding=1 + i, groups=c, bias=False) for i in range(levels)]
            self.kernels, self.mix, self.out = nn.ModuleList(kernels), nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)

        def forward(self, x: Tensor) -> Tensor:
            query, context, gates = self.enter(x).split([x.shape[1], x.shape[1], self.levels + 1], 1)
            total = torch.zeros(())
            for level, kernel in enumerate(self.kernels):
                context = functional.gelu(kernel(context))
                total = total + context * gates[:, level : level + 1]
            total = total + functional.gelu(context.mean((2, 3), keepdim=True)) * gates[:, self.levels :]
            found: Tensor = self.out(query * self.mix(total))
            return found

    def block(c: int) -> nn.Module:
        wide = nn.Sequential(nn.Conv2d(c, 4 * c, 1), nn.GELU(), nn.Conv2d(4 * c, c, 1))
        return nn.Sequential(*[Residual(nn.Sequential(ChannelLayerNorm(c), each)) for each in (Focal(c), wide)])

    return nn.Sequential(
        nn.Conv2d(3, 48, 4, 4), ChannelLayerNorm(48), *[block(48) for _ in range(3)], ChannelLayerNorm(48), head(48)
    )
