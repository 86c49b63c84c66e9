"""PoolFormer-S12 (arXiv 2111.11418), initialised as published."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.models.common import truncated_normal_


class PoolBlock(nn.Module):
    """Average pooling less the identity, then an MLP of 1x1 convolutions: normalised input, LayerScale, shortcut."""

    def __init__(self, width: int, layer_scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.mlp = nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1))
        self.scale1 = nn.Parameter(torch.full((width, 1, 1), layer_scale))
        self.scale2 = nn.Parameter(torch.full((width, 1, 1), layer_scale))
        truncated_normal_(self.mlp)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.scale1 * (self.pool(y) - y)
        return x + self.scale2 * self.mlp(self.norm2(x))


class PoolFormer(nn.Module):
    """Patch convolution, four stages with strided convolutions between, norm, mean, head."""

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], *, classes: int, layer_scale: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 7, 4, 2)]
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if index > 0:
                layers.append(nn.Conv2d(widths[index - 1], width, 3, 2, 1))
            layers += [PoolBlock(width, layer_scale) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.GroupNorm(1, widths[-1]), nn.Linear(widths[-1], classes)
        truncated_normal_(self.head)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x)).mean((-2, -1)))


def poolformer_s12(*, classes: int = 100, layer_scale: float = 1e-5) -> PoolFormer:
    """PoolFormer-S12; the patch and strided convolutions stay as the framework drew them, as in the authors' code."""
    return PoolFormer((2, 2, 6, 2), (64, 128, 320, 512), classes=classes, layer_scale=layer_scale)
