"""Designs with attention or mixers of tokens, each after its paper's description, a few blocks deep."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.vision.parts import (
    Attention,
    ChannelLayerNorm,
    Function,
    Gate,
    LayerScale,
    OnImage,
    ReducedAttention,
    Residual,
    Tokens,
    Windows,
    conv,
    depthwise,
    head,
    mlp,
    on_tokens,
    prenorm,
    small,
)

W = 64


def drawn(module: nn.Module) -> nn.Module:
    small(module)
    return module


def cait() -> nn.Module:
    """CaiT: layer scales, and attention that mixes its heads before and behind the softmax (arXiv 2103.17239)."""

    class TalkingHeads(nn.Module):
        def __init__(self, width: int, heads: int = 4) -> None:
            super().__init__()
            self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.before, self.behind = nn.Linear(heads, heads), nn.Linear(heads, heads)

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = (
                each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1)
            )
            logits = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
            logits = self.before(logits.permute(0, 2, 3, 1)).softmax(-2)
            weights = self.behind(logits).permute(0, 3, 1, 2)
            found: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
            return found

    return Tokens(W, [prenorm(W, TalkingHeads(W), scale=0.1) for _ in range(3)])


def deit() -> nn.Module:
    """DeiT: a class token among the patches (arXiv 2012.12877)."""
    return Tokens(W, [prenorm(W, Attention(W)) for _ in range(4)], token=True)


def beit() -> nn.Module:
    """BEiT: layer scales, a bias for each distance, a class token beside the mean that is read (arXiv 2106.08254)."""

    class Biased(Attention):
        def __init__(self, width: int, tokens: int, heads: int = 4) -> None:
            super().__init__(width, heads)
            self.bias = nn.Parameter(0.02 * torch.randn(heads, tokens, tokens))

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = (
                each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1)
            )
            y = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
            found: Tensor = self.out(y.transpose(1, 2).flatten(2))
            return found

    class Mean(Tokens):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position)
            found: Tensor = self.classes(self.norm(x[:, 1:].mean(1)))
            return found

    return Mean(W, [prenorm(W, Biased(W, 65), scale=0.1) for _ in range(3)], token=True)


def eva() -> nn.Module:
    """EVA-02: gated features with a normalisation inside, rotated queries and keys (arXiv 2303.11331)."""

    class Gated(nn.Module):
        def __init__(self, width: int, hidden: int) -> None:
            super().__init__()
            self.gate, self.value = nn.Linear(width, hidden), nn.Linear(width, hidden)
            self.norm, self.out = nn.LayerNorm(hidden), nn.Linear(hidden, width)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.out(self.norm(functional.silu(self.gate(x)) * self.value(x)))
            return found

    class Rotated(Attention):
        def forward(self, x: Tensor) -> Tensor:
            query, key, value = (
                each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1)
            )
            half = query.shape[-1] // 2
            angle = torch.arange(x.shape[1])[:, None] / 10.0 ** (torch.arange(half) / half)
            query, key = (
                torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
                for a, b in (each.chunk(2, -1) for each in (query, key))
            )
            y = functional.scaled_dot_product_attention(query, key, value)
            found: Tensor = self.out(y.transpose(1, 2).flatten(2))
            return found

    return Tokens(W, [prenorm(W, Rotated(W), Gated(W, 170)) for _ in range(3)])


def hiera() -> nn.Module:
    """Hiera: windows first, the queries pooled by a maximum, a mean at the end (arXiv 2306.00989)."""

    class Pooled(nn.Module):
        def __init__(self, a: int, b: int, heads: int = 4) -> None:
            super().__init__()
            self.heads, self.norm, self.widen = heads, nn.LayerNorm(a), nn.Linear(a, b)
            self.qkv, self.out, self.mlp = (
                nn.Linear(a, 3 * b),
                nn.Linear(b, b),
                Residual(nn.Sequential(nn.LayerNorm(b), mlp(b))),
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            split = self.qkv(y).unflatten(1, (-1, 4)).chunk(3, -1)
            query, key, value = split[0].amax(2), split[1].flatten(1, 2), split[2].flatten(1, 2)
            query, key, value = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (query, key, value))
            y2 = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            found: Tensor = self.mlp(self.widen(y).unflatten(1, (-1, 4)).amax(2) + self.out(y2))
            return found

    blocks: list[nn.Module] = [prenorm(W, Windows(Attention(W), 8, 4)), Pooled(W, 96), prenorm(96, Attention(96))]
    embed = [nn.Conv2d(3, W, 7, 4, 3), Function(lambda x: x.flatten(2).transpose(1, 2))]
    last = [Function(lambda x: x.mean(1)), nn.LayerNorm(96), nn.Linear(96, 10)]
    return drawn(nn.Sequential(*embed, *blocks, *last))


def swin_v2() -> nn.Module:
    """Swin v2: cosines for logits, normalisations behind the branches, shifted windows (arXiv 2111.09883)."""

    class Cosine(Attention):
        def __init__(self, width: int, heads: int = 4) -> None:
            super().__init__(width, heads)
            self.scale = nn.Parameter(10.0 * torch.ones(heads, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = (
                each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1)
            )
            logits = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).transpose(-2, -1)
            found: Tensor = self.out(((logits * self.scale).softmax(-1) @ value).transpose(1, 2).flatten(2))
            return found

    class Shifted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.unflatten(1, (8, 8)).roll((2, 2), (1, 2)).flatten(1, 2))

    def block(shift: bool) -> nn.Module:
        mixer: nn.Module = Windows(Cosine(W), 8, 4)
        parts = [Shifted(mixer) if shift else mixer, mlp(W)]
        return nn.Sequential(*[Residual(nn.Sequential(each, nn.LayerNorm(W))) for each in parts])

    return Tokens(W, [block(i % 2 == 1) for i in range(4)])


def twins() -> nn.Module:
    """Twins: windows, then keys and values of a reduced image, positions by a depthwise kernel (arXiv 2104.13840)."""
    place = Residual(OnImage(nn.Conv2d(W, W, 3, padding=1, groups=W)))
    return Tokens(
        W, [prenorm(W, Windows(Attention(W), 8, 4)), place, *[prenorm(W, ReducedAttention(W, 8, 2)) for _ in range(2)]]
    )


def pvt() -> nn.Module:
    """PVT: keys and values of a reduced image (arXiv 2102.12122)."""
    return Tokens(W, [prenorm(W, ReducedAttention(W, 16, 4)) for _ in range(3)], patch=4, size=64)


def pvt_v2() -> nn.Module:
    """PVT v2: overlapping patches, a depthwise kernel between the feature layers (arXiv 2106.13797)."""

    def features(c: int) -> nn.Module:
        wide = OnImage(nn.Conv2d(4 * c, 4 * c, 3, padding=1, groups=4 * c))
        return nn.Sequential(nn.Linear(c, 4 * c), wide, nn.GELU(), nn.Linear(4 * c, c))

    embed = [nn.Conv2d(3, W, 7, 4, 3), Function(lambda x: x.flatten(2).transpose(1, 2)), nn.LayerNorm(W)]
    blocks = [prenorm(W, ReducedAttention(W, 8, 2), features(W)) for _ in range(3)]
    return drawn(nn.Sequential(*embed, *blocks, nn.LayerNorm(W), Function(lambda x: x.mean(1)), nn.Linear(W, 10)))


class Cross(nn.Module):
    """XCiT's attention between channels, of normalised queries and keys."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1) for each in self.qkv(x).chunk(3, -1)
        )
        query, key = functional.normalize(query, dim=-1), functional.normalize(key, dim=-1)
        weights = (query @ key.transpose(-2, -1) * self.temperature).softmax(-1)
        found: Tensor = self.out((weights @ value).permute(0, 3, 1, 2).flatten(2))
        return found


def xcit() -> nn.Module:
    """XCiT: attention between channels, then depthwise kernels, layer scales (arXiv 2106.09681)."""

    def block() -> nn.Module:
        near = nn.Sequential(
            nn.Conv2d(W, W, 3, padding=1, groups=W),
            nn.GELU(),
            nn.BatchNorm2d(W),
            nn.Conv2d(W, W, 3, padding=1, groups=W),
        )
        parts = (Cross(W), OnImage(near), mlp(W))
        return nn.Sequential(*[Residual(nn.Sequential(nn.LayerNorm(W), each, LayerScale(W))) for each in parts])

    return Tokens(W, [block() for _ in range(3)])


def edgenext() -> nn.Module:
    """EdgeNeXt: depthwise kernels of parts one after the other, then attention between channels (arXiv 2206.10589)."""

    class Parts(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(c // 4, c // 4, 3, padding=1, groups=c // 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            *parts, rest = x.chunk(4, 1)
            found: list[Tensor] = []
            for layer, part in zip(self.layers, parts, strict=True):
                found.append(layer(part + found[-1] if found else part))
            return torch.cat([*found, rest], 1)

    def local(c: int) -> nn.Module:
        wide = [nn.Conv2d(c, c, 5, padding=2, groups=c), ChannelLayerNorm(c)]
        return Residual(
            nn.Sequential(*wide, nn.Conv2d(c, 4 * c, 1), nn.GELU(), nn.Conv2d(4 * c, c, 1), LayerScale(c, 0.1, True))
        )

    first = [nn.Conv2d(3, 48, 4, 4), ChannelLayerNorm(48), local(48), local(48)]
    return drawn(
        nn.Sequential(*first, Parts(48), on_tokens(prenorm(48, Cross(48), scale=0.1)), ChannelLayerNorm(48), head(48))
    )


def tinyvit() -> nn.Module:
    """TinyViT: inverted residuals, then windows with a depthwise kernel on the trunk (arXiv 2207.10666)."""

    def inverted(c: int) -> nn.Module:
        wide = [conv(c, 3 * c, 1, act=nn.GELU), depthwise(3 * c, act=nn.GELU), conv(3 * c, c, 1, act=None)]
        return Residual(nn.Sequential(*wide), act=nn.GELU())

    def block(c: int) -> nn.Module:
        norm = nn.Sequential(nn.LayerNorm(c), Attention(c))
        parts = [Residual(Windows(norm, 8, 4)), OnImage(depthwise(c)), Residual(nn.Sequential(nn.LayerNorm(c), mlp(c)))]
        return nn.Sequential(*parts)

    first = [conv(3, 48, 3, 2, act=nn.GELU), inverted(48), conv(48, W, 3, 2, act=None)]
    tokens = Function(lambda x: x.flatten(2).transpose(1, 2))
    return drawn(
        nn.Sequential(
            *first, tokens, block(W), block(W), Function(lambda x: x.mean(1)), nn.LayerNorm(W), nn.Linear(W, 10)
        )
    )


def efficientvit() -> nn.Module:
    """EfficientViT: attention without a softmax, of rectified queries and keys, at two scales (arXiv 2205.14756)."""

    class Rectified(nn.Module):
        def __init__(self, c: int, width: int = 8) -> None:
            super().__init__()
            self.width, self.qkv = width, nn.Conv2d(c, 3 * c, 1, bias=False)
            near = nn.Conv2d(3 * c, 3 * c, 5, padding=2, groups=3 * c, bias=False)
            self.near = nn.Sequential(near, nn.Conv2d(3 * c, 3 * c, 1, groups=3 * c // width, bias=False))
            self.out = conv(2 * c, c, 1, act=None)

        def forward(self, x: Tensor) -> Tensor:
            batch, _, height, side = x.shape
            y = self.qkv(x)
            y = torch.cat([y, self.near(y)], 1).reshape(batch, -1, 3 * self.width, height * side).transpose(-1, -2)
            query, key, value = y.chunk(3, -1)
            query, key, value = query.relu(), key.relu(), functional.pad(value, (0, 1), value=1.0)
            y = query @ (key.transpose(-1, -2) @ value)
            y = y[..., :-1] / (y[..., -1:] + 1e-5)
            found: Tensor = self.out(y.transpose(-1, -2).reshape(batch, -1, height, side))
            return found

    def block(c: int) -> nn.Module:
        wide = [conv(c, 4 * c, 1, act=nn.Hardswish), depthwise(4 * c, act=nn.Hardswish), conv(4 * c, c, 1, act=None)]
        return nn.Sequential(Residual(Rectified(c)), Residual(nn.Sequential(*wide)))

    return nn.Sequential(
        conv(3, 32, 3, 2, act=nn.Hardswish), conv(32, 32, 3, 2, act=nn.Hardswish), block(32), block(32), head(32)
    )


def coatnet() -> nn.Module:
    """CoAtNet: inverted residuals behind a normalisation, then attention (arXiv 2106.04803)."""

    def inverted(c: int) -> nn.Module:
        wide = [
            conv(c, 4 * c, 1, act=nn.GELU),
            depthwise(4 * c, act=nn.GELU),
            Gate(4 * c, c, nn.GELU),
            nn.Conv2d(4 * c, c, 1),
        ]
        return Residual(nn.Sequential(nn.BatchNorm2d(c), *wide))

    first = [conv(3, W, 3, 2, act=nn.GELU), inverted(W), nn.MaxPool2d(2), inverted(W)]
    return drawn(
        nn.Sequential(*first, on_tokens(nn.Sequential(prenorm(W, Attention(W)), prenorm(W, Attention(W)))), head(W))
    )


def maxvit() -> nn.Module:
    """MaxViT: inverted residuals, windows, a grid (arXiv 2204.01697)."""

    def block(c: int) -> nn.Module:
        wide = [
            conv(c, 4 * c, 1, act=nn.GELU),
            depthwise(4 * c, act=nn.GELU),
            Gate(4 * c, c // 4, nn.SiLU),
            nn.Conv2d(4 * c, c, 1),
        ]
        attend = [prenorm(c, Windows(Attention(c), 8, 4)), prenorm(c, Windows(Attention(c), 8, 2, grid=True))]
        return nn.Sequential(Residual(nn.Sequential(nn.BatchNorm2d(c), *wide)), on_tokens(nn.Sequential(*attend)))

    return drawn(
        nn.Sequential(conv(3, 48, 3, 2, act=nn.GELU), conv(48, 48, 3, 2, act=None), block(48), block(48), head(48))
    )


def levit() -> nn.Module:
    """LeViT: batch normalisation of tokens, hardswish behind the heads (arXiv 2104.01136)."""

    class Norm(nn.Module):
        def __init__(self, a: int, b: int, scale: float = 1.0) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(a, b, bias=False), nn.BatchNorm1d(b)
            nn.init.constant_(self.norm.weight, scale)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            found: Tensor = self.norm(y.flatten(0, 1)).reshape_as(y)
            return found

    class Heads(nn.Module):
        def __init__(self, width: int, heads: int = 4) -> None:
            super().__init__()
            self.heads, self.qkv, self.out = heads, Norm(width, 4 * width), Norm(2 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            width = x.shape[-1]
            split = self.qkv(x).split([width, width, 2 * width], -1)
            query, key, value = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in split)
            y = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            found: Tensor = self.out(functional.hardswish(y))
            return found

    def block(c: int) -> nn.Module:
        return nn.Sequential(
            Residual(Heads(c)), Residual(nn.Sequential(Norm(c, 2 * c), nn.Hardswish(), Norm(2 * c, c)))
        )

    first = [
        conv(3, 32, 3, 2, act=nn.Hardswish),
        conv(32, W, 3, 2, act=None),
        Function(lambda x: x.flatten(2).transpose(1, 2)),
    ]
    return nn.Sequential(
        *first, block(W), block(W), block(W), Function(lambda x: x.mean(1)), nn.BatchNorm1d(W), nn.Linear(W, 10)
    )


def crossvit() -> nn.Module:
    """CrossViT: patches of two sizes; each branch's class token attends to the other's patches (arXiv 2103.14899)."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, W, 4, 4), nn.Conv2d(3, W, 8, 8)
            self.tokens = nn.Parameter(0.02 * torch.randn(2, 1, 1, W))
            self.own = nn.ModuleList(
                nn.Sequential(prenorm(W, Attention(W)), prenorm(W, Attention(W))) for _ in range(2)
            )
            self.norms = nn.ModuleList(nn.LayerNorm(W) for _ in range(4))
            self.query, self.pair, self.out = (nn.ModuleList(nn.Linear(W, n * W) for _ in range(2)) for n in (1, 2, 1))
            self.heads = nn.ModuleList(nn.Linear(W, 10) for _ in range(2))
            small(self)

        def forward(self, x: Tensor) -> Tensor:
            parts = []
            for embed, token, blocks in zip((self.fine, self.coarse), self.tokens, self.own, strict=True):
                y = embed(x).flatten(2).transpose(1, 2)
                parts.append(blocks(torch.cat([token.expand(len(x), -1, -1), y], 1)))
            total = torch.zeros(())
            for i in range(2):
                token, other = parts[i][:, :1], parts[1 - i][:, 1:]
                y = self.norms[i](torch.cat([token, other], 1))
                key, value = self.pair[i](y).chunk(2, -1)
                token = token + self.out[i](
                    functional.scaled_dot_product_attention(self.query[i](y[:, :1]), key, value)
                )
                total = total + self.heads[i](self.norms[2 + i](token[:, 0])) / 2.0
            return total

    return Pair()
