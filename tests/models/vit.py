"""Vision transformer (arXiv 2010.11929), pre-norm, initialised as in timm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.common import truncated_normal_


class Attention(nn.Module):
    """Self-attention with one qkv projection; `fused` picks torch's attention, else it is spelt out."""

    def __init__(self, width: int, heads: int, *, fused: bool, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.scale, self.fused, self.causal = heads, (width // heads) ** -0.5, fused, causal
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            logits = (q * self.scale) @ k.transpose(-2, -1)
            if self.causal:
                ahead = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
                logits = logits.masked_fill(ahead, float("-inf"))
            y = logits.softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int, *, fused: bool, causal: bool = False, ratio: int = 4) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads, fused=fused, causal=causal)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, learned positions, blocks, then the class token or the mean of the tokens into the head."""

    def __init__(
        self,
        *,
        image: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        pool: str,
        fused: bool,
        head_std: float,
    ) -> None:
        super().__init__()
        tokens = (image // patch) ** 2
        self.pool = pool
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if pool == "token" else None
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + (pool == "token"), width))
        self.blocks = nn.Sequential(*(Block(width, heads, fused=fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        truncated_normal_(self.blocks)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.head.weight, std=head_std) if head_std > 0 else nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.pos_embed))
        return self.head(x[:, 0] if self.pool == "token" else x.mean(1))


def vit(
    *,
    image: int = 64,
    patch: int = 8,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    classes: int = 100,
    pool: str = "token",
    fused: bool = True,
    head_std: float = 0.02,
) -> VisionTransformer:
    """ViT-Ti on small images; `pool` is "token" or "mean", `head_std=0` gives the zero head of the published recipe."""
    return VisionTransformer(
        image=image,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        classes=classes,
        pool=pool,
        fused=fused,
        head_std=head_std,
    )
