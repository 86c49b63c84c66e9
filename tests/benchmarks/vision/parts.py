"""What the designs are made of: convolutions with their normalisations, gates, windows, attention, heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Act = Callable[[], nn.Module]


class Residual(nn.Module):
    """x + scale f(x), or an activation of it; with a shortcut of its own where shapes change."""

    def __init__(
        self,
        inner: nn.Module,
        shortcut: nn.Module | None = None,
        act: nn.Module | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.inner, self.shortcut, self.act = inner, shortcut or nn.Identity(), act or nn.Identity()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.scale is not None:
            y = y * self.scale
        found: Tensor = self.act(self.shortcut(x) + y)
        return found


class LayerScale(nn.Module):
    """A factor for each feature of the last axis, or of the channels."""

    def __init__(self, width: int, value: float = 1e-1, channels_first: bool = False) -> None:
        super().__init__()
        self.gamma = nn.Parameter(value * torch.ones((width, 1, 1) if channels_first else (width,)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Branches(nn.Module):
    """Branches of one value, added up or put side by side."""

    def __init__(self, *branches: nn.Module, concat: bool = False) -> None:
        super().__init__()
        self.branches, self.concat = nn.ModuleList(branches), concat

    def forward(self, x: Tensor) -> Tensor:
        found = [branch(x) for branch in self.branches]
        if self.concat:
            return torch.cat(found, 1)
        total = found[0]
        for each in found[1:]:
            total = total + each
        return total


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalisation of the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Act | None = nn.ReLU
) -> nn.Sequential:
    """Convolution, batch normalisation, activation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), *([act()] if act else []))


def depthwise(channels: int, kernel: int = 3, stride: int = 1, act: Act | None = None) -> nn.Sequential:
    """The same for each channel by itself."""
    return conv(channels, channels, kernel, stride, channels, act)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int, hidden: int, inner: Act = nn.ReLU, gate: Act = nn.Sigmoid) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), inner(), nn.Conv2d(hidden, channels, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x * self.layers(x)
        return found


def head(channels: int, classes: int = 10) -> nn.Sequential:
    """Averages over positions, classes."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Tokens(nn.Module):
    """Patches as tokens, with positions and perhaps a class token; normalised and read at the end."""

    def __init__(
        self,
        width: int,
        blocks: list[nn.Module],
        patch: int = 4,
        size: int = 32,
        token: bool = False,
        classes: int = 10,
    ) -> None:
        super().__init__()
        count = (size // patch) ** 2
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if token else None
        self.position = nn.Parameter(0.02 * torch.randn(1, count + token, width))
        self.blocks, self.norm, self.classes = nn.Sequential(*blocks), nn.LayerNorm(width), nn.Linear(width, classes)
        small(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.position))
        found: Tensor = self.classes(x.mean(1) if self.token is None else x[:, 0])
        return found


def small(module: nn.Module, std: float = 0.02) -> None:
    """Linear layers as vision transformers draw them."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Attention(nn.Module):
    """Self-attention of several heads over tokens."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        y = functional.scaled_dot_product_attention(query, key, value)
        found: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return found


class ReducedAttention(nn.Module):
    """Keys and values of an image that is reduced first."""

    def __init__(self, width: int, side: int, reduce: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.query, self.pair, self.out = (nn.Linear(width, n * width) for n in (1, 2, 1))
        self.reduce, self.norm = nn.Conv2d(width, width, reduce, reduce), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, (self.side, self.side))
        less = self.norm(self.reduce(image).flatten(2).transpose(1, 2))
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.query(x), *self.pair(less).chunk(2, -1))
        )
        y = functional.scaled_dot_product_attention(query, key, value)
        found: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return found


def mlp(width: int, times: int = 4, act: Act = nn.GELU) -> nn.Sequential:
    """Two layers."""
    return nn.Sequential(nn.Linear(width, times * width), act(), nn.Linear(times * width, width))


def prenorm(
    width: int, mixer: nn.Module, channels: nn.Module | None = None, scale: float | None = None
) -> nn.Sequential:
    """A transformer's block: a mixer of tokens and one of features, each behind a layer normalisation."""
    parts = []
    for inner in (mixer, channels or mlp(width)):
        scaled = [LayerScale(width, scale)] if scale is not None else []
        parts.append(Residual(nn.Sequential(nn.LayerNorm(width), inner, *scaled)))
    return nn.Sequential(*parts)


class Windows(nn.Module):
    """A mixer of tokens in square windows of an image, or over a grid of it; tokens or channels last."""

    def __init__(self, mixer: nn.Module, side: int, window: int, grid: bool = False) -> None:
        super().__init__()
        self.mixer, self.side, self.window, self.grid = mixer, side, window, grid

    def forward(self, x: Tensor) -> Tensor:
        parts = self.side // self.window
        sizes = (self.window, parts) if self.grid else (parts, self.window)
        y = x.unflatten(1, (*sizes, *sizes))
        y = y.permute(0, 2, 4, 1, 3, 5) if self.grid else y.permute(0, 1, 3, 2, 4, 5)
        shape = y.shape
        y = self.mixer(y.reshape(-1, self.window**2, x.shape[-1])).reshape(shape)
        y = y.permute(0, 3, 1, 4, 2, 5) if self.grid else y.permute(0, 1, 3, 2, 4, 5)
        return y.reshape(x.shape)


def on_tokens(inner: nn.Module) -> nn.Sequential:
    """A mixer of tokens on an image, channels first."""
    return nn.Sequential(Function(lambda x: x.flatten(2).transpose(1, 2)), inner, Image())


class Image(nn.Module):
    """Tokens as a square image."""

    def forward(self, x: Tensor) -> Tensor:
        side = round(x.shape[1] ** 0.5)
        return x.transpose(1, 2).unflatten(2, (side, side))


class OnImage(nn.Module):
    """A module for images on tokens."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.image = inner, Image()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(self.image(x)).flatten(2).transpose(1, 2)
        return found
