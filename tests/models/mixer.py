"""MLP-Mixer (arXiv 2105.01601) and a Swin-like windowed transformer (2103.14030)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.models.common import truncated_normal_
from tests.models.vit import Attention


def mlp_of(width: int, hidden: int) -> nn.Sequential:
    """Two linear maps with a GELU between."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class MixerBlock(nn.Module):
    """An MLP over tokens, then one over channels, each behind LayerNorm."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(width, eps=1e-6), mlp_of(tokens, width // 2)
        self.norm2, self.channels = nn.LayerNorm(width, eps=1e-6), mlp_of(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches, blocks, mean over tokens, head."""

    def __init__(self, image: int, patch: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock((image // patch) ** 2, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


def mlp_mixer(*, image: int = 64, patch: int = 8, width: int = 192, depth: int = 8, classes: int = 100) -> Mixer:
    """A small MLP-Mixer."""
    return Mixer(image, patch, width, depth, classes)


class WindowBlock(nn.Module):
    """Attention inside windows of a (batch, height, width, channel) map that is first rolled by `shift`."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, fused=True)
        self.norm2, self.mlp = nn.LayerNorm(width), mlp_of(width, 4 * width)

    def attention(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        size = self.window
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.reshape(batch, height // size, size, width // size, size, channels).permute(0, 1, 3, 2, 4, 5)
        x = self.attn(x.reshape(-1, size * size, channels))
        x = x.reshape(batch, height // size, width // size, size, size, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, height, width, channels)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Four neighbours concatenated, normalised and mapped to twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    """Patch stem, stages of windowed blocks with merging between, mean, head (no relative position bias, no mask)."""

    def __init__(self, depths: tuple[int, ...], width: int, window: int, classes: int) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        stages: list[nn.Module] = []
        for index, depth in enumerate(depths):
            if index > 0:
                stages.append(PatchMerging(width))
                width *= 2
            stages += [WindowBlock(width, width // 32, window, window // 2 * (i % 2)) for i in range(depth)]
        self.stages, self.norm = nn.Sequential(*stages), nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        truncated_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x).permute(0, 2, 3, 1))
        return self.head(self.norm(self.stages(x)).mean((1, 2)))


def swin(*, depths: tuple[int, ...] = (2, 2, 6), width: int = 96, window: int = 4, classes: int = 100) -> Swin:
    """A small Swin-like transformer for 64x64 images."""
    return Swin(depths, width, window, classes)
