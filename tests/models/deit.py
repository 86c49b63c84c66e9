"""DeiT with a distillation token (arXiv 2012.12877), initialised as published."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.models.common import truncated_normal_
from tests.models.vit import Block


class DistilledTransformer(nn.Module):
    """A vision transformer with two extra tokens, each with a head of its own; the logits are averaged."""

    def __init__(self, *, image: int, patch: int, width: int, depth: int, heads: int, classes: int, fused: bool):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, fused=fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head, self.head_dist = nn.Linear(width, classes), nn.Linear(width, classes)
        for part in (self.blocks, self.head, self.head_dist):
            truncated_normal_(part)
        for parameter in (self.cls_token, self.dist_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.dist_token)]
        x = self.norm(self.blocks(torch.cat([*tokens, x], 1) + self.pos_embed))
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


def deit_distilled(
    *,
    image: int = 64,
    patch: int = 8,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    classes: int = 100,
    fused: bool = True,
) -> DistilledTransformer:
    """DeiT-Ti distilled on small images (width 384 with 6 heads is DeiT-S), the heads averaged in training as well."""
    return DistilledTransformer(
        image=image, patch=patch, width=width, depth=depth, heads=heads, classes=classes, fused=fused
    )
