"""T5 (arXiv 1910.10683): encoder and decoder with relative position biases, RMSNorm and unscaled attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.transformer import RMSNorm


def buckets(tokens: int, count: int, furthest: int, *, causal: bool, device: torch.device) -> Tensor:
    """(query, key) numbers of the bucket that a distance falls in: one each when near, logarithmic up to `furthest`."""
    positions = torch.arange(tokens, device=device)
    ahead = positions[None, :] - positions[:, None]
    offset = torch.zeros_like(ahead)
    if causal:
        distance = (-ahead).clamp(min=0)
    else:
        count //= 2
        offset, distance = (ahead > 0).long() * count, ahead.abs()
    exact = count // 2
    growth = (distance.clamp(min=1).float() / exact).log() / math.log(furthest / exact)
    far = (exact + (growth * (count - exact)).long()).clamp(max=count - 1)
    return offset + torch.where(distance < exact, distance, far)


class PositionBias(nn.Module):
    """A learned number for every head and bucket of distances, -inf for what a causal query may not see."""

    def __init__(self, heads: int, count: int = 32, furthest: int = 128, *, causal: bool) -> None:
        super().__init__()
        self.count, self.furthest, self.causal = count, furthest, causal
        self.weight = nn.Embedding(count, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        found = buckets(length, self.count, self.furthest, causal=self.causal, device=tokens.device)
        bias = self.weight(found).permute(2, 0, 1)
        if self.causal:
            bias = bias.masked_fill(torch.ones_like(found, dtype=torch.bool).triu(1), float("-inf"))
        return bias


class Attention(nn.Module):
    """Attention of `x` to `source` without 1/sqrt(width); the initialisation of q makes up for it."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size, inner = heads, size, heads * size
        self.q, self.k = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.v, self.o = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        nn.init.normal_(self.q.weight, std=(width * size) ** -0.5)
        nn.init.normal_(self.k.weight, std=width**-0.5)
        nn.init.normal_(self.v.weight, std=width**-0.5)
        nn.init.normal_(self.o.weight, std=inner**-0.5)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.size).transpose(1, 2)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(source)), self.split(self.v(source))
        logits = q @ k.transpose(-2, -1)
        if bias is not None:
            logits = logits + bias
        return self.o((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear maps with ReLU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wi, self.wo = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        nn.init.normal_(self.wi.weight, std=width**-0.5)
        nn.init.normal_(self.wo.weight, std=hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(functional.relu(self.wi(x)))


class Block(nn.Module):
    """Pre-norm self-attention, attention to the encoder's output where there is one, and feed-forward."""

    def __init__(self, width: int, heads: int, size: int, hidden: int, *, cross: bool) -> None:
        super().__init__()
        self.norm1, self.attn = RMSNorm(width), Attention(width, heads, size)
        self.norm2 = RMSNorm(width) if cross else None
        self.cross = Attention(width, heads, size) if cross else None
        self.norm3, self.mlp = RMSNorm(width), FeedForward(width, hidden)

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, bias)
        if self.cross is not None:
            x = x + self.cross(self.norm2(x), memory)
        return x + self.mlp(self.norm3(x))


class Stack(nn.Module):
    """Blocks that share one position bias, and the final norm."""

    def __init__(self, width: int, depth: int, heads: int, size: int, hidden: int, *, decoder: bool) -> None:
        super().__init__()
        self.bias = PositionBias(heads, causal=decoder)
        self.blocks = nn.ModuleList(Block(width, heads, size, hidden, cross=decoder) for _ in range(depth))
        self.norm = RMSNorm(width)
        nn.init.normal_(self.bias.weight.weight, std=width**-0.5)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        bias = self.bias(x)
        for block in self.blocks:
            x = block(x, bias, memory)
        return self.norm(x)


class T5(nn.Module):
    """One embedding for the encoder, the decoder and the head; both read the same tokens."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, size: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.encoder = Stack(width, depth, heads, size, hidden, decoder=False)
        self.decoder = Stack(width, depth, heads, size, hidden, decoder=True)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.scale = width**-0.5
        nn.init.normal_(self.embed.weight, std=1.0)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(self.decoder(x, self.encoder(x)) * self.scale)


def t5(
    *, vocabulary: int = 512, width: int = 128, depth: int = 4, heads: int = 4, size: int = 32, hidden: int = 512
) -> T5:
    """A small T5 with `depth` blocks on either side, `size` the width of a head."""
    return T5(vocabulary, width, depth, heads, size, hidden)
