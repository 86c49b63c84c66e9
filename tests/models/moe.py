"""A decoder with mixtures of experts: feed-forward experts (arXiv 2101.03961), Mixtral's router (2401.04088)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tests.models.transformer import normal_
from tests.models.vit import Attention


class Expert(nn.Module):
    """The feed-forward part of a GPT-2 block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Mixture(nn.Module):
    """Softmax over a token's `top` largest router logits weighs the experts; all run, the others at weight zero."""

    def __init__(self, width: int, hidden: int, experts: int, top: int) -> None:
        super().__init__()
        self.top = top
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(Expert(width, hidden) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        least = logits.topk(self.top, -1).values[..., -1:]
        weights = logits.masked_fill(logits < least, float("-inf")).softmax(-1)
        y = torch.stack([expert(x) for expert in self.experts], -2)
        return (weights.unsqueeze(-1) * y).sum(-2)


class MixtureBlock(nn.Module):
    """Pre-norm causal attention and mixture of experts."""

    def __init__(self, width: int, heads: int, hidden: int, experts: int, top: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, fused=True, causal=True)
        self.norm2, self.mixture = nn.LayerNorm(width), Mixture(width, hidden, experts, top)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mixture(self.norm2(x))


class MixtureDecoder(nn.Module):
    """Token and position embeddings, blocks, final norm, head tied to the token embedding; initialised as GPT-2."""

    def __init__(
        self, vocabulary: int, context: int, width: int, depth: int, heads: int, hidden: int, experts: int, top: int
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(MixtureBlock(width, heads, hidden, experts, top) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        normal_(self)
        self.head.weight = self.wte.weight
        for block in self.blocks:
            for projection in (block.attn.proj, *(expert.down for expert in block.mixture.experts)):
                nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * depth))

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.wte(tokens) + self.wpe(positions))))


def moe_decoder(
    *,
    vocabulary: int = 512,
    context: int = 64,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    hidden: int = 256,
    experts: int = 4,
    top: int = 2,
) -> MixtureDecoder:
    """A small decoder whose every feed-forward part is `experts` experts, `top` of which count for a token."""
    return MixtureDecoder(vocabulary, context, width, depth, heads, hidden, experts, top)
