"""Language models that embed no positions: LSTM and GRU read in order, ALiBi (arXiv 2108.12409) biases attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.transformer import normal_


class RecurrentLM(nn.Module):
    """Embedding, recurrent layers and an untied head, all as the framework draws them."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU], vocabulary: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = layer(width, width, num_layers=depth, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(tokens))[0])


def lstm_lm(*, vocabulary: int = 512, width: int = 128, depth: int = 2) -> RecurrentLM:
    """An LSTM language model."""
    return RecurrentLM(nn.LSTM, vocabulary, width, depth)


def gru_lm(*, vocabulary: int = 512, width: int = 128, depth: int = 2) -> RecurrentLM:
    """A GRU language model."""
    return RecurrentLM(nn.GRU, vocabulary, width, depth)


def alibi(heads: int, tokens: int, device: torch.device) -> Tensor:
    """(heads, query, key) biases: minus the distance back times a slope 2^(-8 h / heads), -inf ahead."""
    slopes = 2.0 ** (-8 / heads * torch.arange(1, heads + 1, device=device))
    positions = torch.arange(tokens, device=device)
    ahead = positions[None, :] - positions[:, None]
    return (slopes[:, None, None] * ahead).masked_fill(ahead > 0, float("-inf"))


class AlibiBlock(nn.Module):
    """Pre-norm attention under a bias and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def attention(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(y.transpose(1, 2).reshape(x.shape))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), bias)
        return x + self.mlp(self.norm2(x))


class AlibiDecoder(nn.Module):
    """Normalised token embedding, blocks, final norm, head tied to the embedding."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.norm0 = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(AlibiBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        normal_(self)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x, bias = self.norm0(self.embed(tokens)), alibi(self.heads, tokens.shape[1], tokens.device)
        for block in self.blocks:
            x = block(x, bias)
        return self.head(self.norm(x))


def alibi_decoder(*, vocabulary: int = 512, width: int = 128, depth: int = 6, heads: int = 4) -> AlibiDecoder:
    """A small BLOOM (arXiv 2211.05100); `heads` a power of two."""
    return AlibiDecoder(vocabulary, width, depth, heads)
