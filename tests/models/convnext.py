"""ConvNeXt (arXiv 2201.03545), initialised as published."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.common import truncated_normal_


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (batch, channel, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, 1x1 up by four, GELU, 1x1 down, LayerScale, shortcut."""

    def __init__(self, width: int, layer_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Patch stem, four stages with downsampling between, pooled and normalised head."""

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], *, classes: int, layer_scale: float) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0], eps=1e-6)]
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if index > 0:
                stages += [ChannelNorm(widths[index - 1], eps=1e-6), nn.Conv2d(widths[index - 1], width, 2, 2)]
            stages += [Block(width, layer_scale) for _ in range(depth)]
        self.features = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], classes)
        truncated_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean((2, 3))))


def convnext_tiny(
    *,
    depths: tuple[int, ...] = (3, 3, 9, 3),
    widths: tuple[int, ...] = (96, 192, 384, 768),
    classes: int = 100,
    layer_scale: float = 1e-6,
) -> ConvNeXt:
    """ConvNeXt-T."""
    return ConvNeXt(depths, widths, classes=classes, layer_scale=layer_scale)
