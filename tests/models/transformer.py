"""Language models: GPT-2 (pre-norm), BERT (post-norm), Llama (RMSNorm, SwiGLU, rotary positions, grouped heads)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.vit import Attention, Block


def normal_(module: nn.Module, std: float = 0.02) -> None:
    """Every linear map and embedding N(0, std), biases zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Embedding)):
            nn.init.normal_(layer.weight, std=std)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


class GPT2(nn.Module):
    """Token and position embeddings, causal pre-norm blocks, final norm, head tied to the token embedding."""

    def __init__(self, vocabulary: int, context: int, width: int, depth: int, heads: int, scaled: bool) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, fused=True, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        normal_(self)
        self.head.weight = self.wte.weight
        if scaled:
            for block in self.blocks:
                for projection in (block.attn.proj, block.mlp[2]):
                    nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * depth))

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.wte(tokens) + self.wpe(positions))))


def gpt2(
    *,
    vocabulary: int = 512,
    context: int = 64,
    width: int = 192,
    depth: int = 6,
    heads: int = 6,
    scaled: bool = True,
) -> GPT2:
    """A small GPT-2; `scaled` gives the projections that write the residual std 0.02/sqrt(2 depth), as published."""
    return GPT2(vocabulary, context, width, depth, heads, scaled)


class PostNormBlock(nn.Module):
    """Attention and MLP, each followed by the addition and then LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn, self.norm1 = Attention(width, heads, fused=True), nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class BERT(nn.Module):
    """Normalised embeddings, post-norm blocks, a linear head over the vocabulary."""

    def __init__(self, vocabulary: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.Sequential(*(PostNormBlock(width, heads) for _ in range(depth)))
        self.head = nn.Linear(width, vocabulary)
        normal_(self)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.blocks(self.norm(self.words(tokens) + self.positions(positions))))


def bert(*, vocabulary: int = 512, context: int = 64, width: int = 192, depth: int = 6, heads: int = 6) -> BERT:
    """A small BERT encoder."""
    return BERT(vocabulary, context, width, depth, heads)


class RMSNorm(nn.Module):
    """x / rms(x) times a scale, spelled out as in Llama's code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotary(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary position embedding of (batch, heads, tokens, width), halves rotated against each other."""
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angles = torch.outer(torch.arange(x.shape[-2], dtype=x.dtype, device=x.device), frequencies)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class LlamaBlock(nn.Module):
    """Grouped-query attention with rotary positions and a SwiGLU, both behind RMSNorm."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, kv_heads * self.size, bias=False)
        self.v = nn.Linear(width, kv_heads * self.size, bias=False)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], heads, self.size).transpose(1, 2)

    def attention(self, x: Tensor) -> Tensor:
        q, k = rotary(self.split(self.q(x), self.heads)), rotary(self.split(self.k(x), self.kv_heads))
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, self.split(self.v(x), self.kv_heads)))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(x.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """Token embedding, blocks, final norm, untied head."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(LlamaBlock(width, heads, kv_heads, 8 * width // 3) for _ in range(depth)))
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        normal_(self)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens))))


def llama(*, vocabulary: int = 512, width: int = 192, depth: int = 6, heads: int = 6, kv_heads: int = 2) -> Llama:
    """A small Llama."""
    return Llama(vocabulary, width, depth, heads, kv_heads)
