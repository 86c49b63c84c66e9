"""ModernBERT (arXiv 2412.13663): an encoder with rotary positions, GeGLU, and attention in a window but every third."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.transformer import rotary


def truncated_(layer: nn.Module, std: float) -> None:
    """Weight N(0, std) cut off at two standard deviations, bias zero."""
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)


class RotaryBlock(nn.Module):
    """Pre-norm attention within `window` tokens to either side (None: all) and GeGLU; the first block has one norm."""

    def __init__(self, width: int, heads: int, hidden: int, window: int | None, *, first: bool, out_std: float) -> None:
        super().__init__()
        self.heads, self.window, self.base = heads, window, 160000.0 if window is None else 10000.0
        self.norm1 = nn.Identity() if first else nn.LayerNorm(width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.qkv, self.o = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)
        for layer, std in ((self.qkv, 0.02), (self.o, out_std), (self.up, 0.02), (self.down, out_std)):
            truncated_(layer, std)

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None
        if self.window is not None:
            positions = torch.arange(tokens, device=x.device)
            mask = (positions[None, :] - positions[:, None]).abs() <= self.window
        y = functional.scaled_dot_product_attention(rotary(q, self.base), rotary(k, self.base), v, attn_mask=mask)
        return self.o(y.transpose(1, 2).reshape(x.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y, gate = self.up(self.norm2(x)).chunk(2, -1)
        return x + self.down(functional.gelu(y) * gate)


class RotaryEncoder(nn.Module):
    """Normalised token embedding, blocks, final norm, and a dense layer before the head tied to the embedding."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, hidden: int, window: int) -> None:
        super().__init__()
        out_std = 0.02 / math.sqrt(2 * depth)
        self.embed, self.norm0 = nn.Embedding(vocabulary, width), nn.LayerNorm(width, bias=False)
        self.blocks = nn.Sequential(
            *(
                RotaryBlock(width, heads, hidden, window if i % 3 else None, first=i == 0, out_std=out_std)
                for i in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width, bias=False)
        self.dense, self.act = nn.Linear(width, width, bias=False), nn.GELU()
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocabulary)
        truncated_(self.embed, 0.02)
        truncated_(self.dense, out_std)
        nn.init.zeros_(self.head.bias)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.norm0(self.embed(tokens))))
        return self.head(self.norm1(self.act(self.dense(x))))


def rotary_encoder(
    *, vocabulary: int = 512, width: int = 128, depth: int = 6, heads: int = 4, hidden: int = 192, window: int = 8
) -> RotaryEncoder:
    """A small ModernBERT; `window` is how many tokens to either side its local blocks see."""
    return RotaryEncoder(vocabulary, width, depth, heads, hidden, window)
