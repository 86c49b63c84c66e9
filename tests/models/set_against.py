"""Networks where a value is drowned, scaled or made by another part of the network; corrected by default."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class OwnNorm(nn.Module):
    """x - mean(x), divided by a power of its variance."""

    def __init__(self, width: int, power: float) -> None:
        super().__init__()
        self.power, self.scale = power, nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True) + 1e-5
        return centred / variance**self.power * self.scale


class NormedMlp(nn.Module):
    """norm(x + mlp(x) / 2)."""

    def __init__(self, width: int, power: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        for layer in (self.up, self.down):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.norm = OwnNorm(width, power)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + 0.5 * self.down(self.up(x).relu()))


def own_norms(*, width: int = 64, depth: int = 4, power: float = 0.5) -> nn.Sequential:
    """Post-norm blocks; a power of 1/2 is a normalisation."""
    return nn.Sequential(*(NormedMlp(width, power) for _ in range(depth)))


class TokenCodes(nn.Module):
    """Token embeddings times a scale, sines of the position, and a head."""

    def __init__(self, width: int, tokens: int, scale: float | None) -> None:
        super().__init__()
        self.scale = width**0.5 if scale is None else scale
        self.embedding = nn.Embedding(512, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        angles = torch.arange(tokens)[:, None] * torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
        self.register_buffer("codes", torch.cat([angles.sin(), angles.cos()], -1))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 512)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.embedding(ids) * self.scale + self.codes))


def token_codes(*, width: int = 128, tokens: int = 32, scale: float | None = None) -> TokenCodes:
    """Scaled by the square root of the width if no other scale is given."""
    return TokenCodes(width, tokens, scale)


class Hypernetwork(nn.Module):
    """Layers whose weights others make from the last numbers of the input."""

    def __init__(self, width: int, condition: int, depth: int, default: bool) -> None:
        super().__init__()
        self.width = width
        self.makers = nn.ModuleList(nn.Linear(condition, width * width) for _ in range(depth))
        for maker in self.makers:
            if not default:
                nn.init.normal_(maker.weight, std=math.sqrt(2 / (width * condition)))
                nn.init.zeros_(maker.bias)

    def forward(self, x: Tensor) -> Tensor:
        x, condition = x[:, : self.width], x[:, self.width :]
        for maker in self.makers:
            weight = maker(condition).view(-1, self.width, self.width)
            x = torch.bmm(weight, x.unsqueeze(-1)).squeeze(-1).relu()
        return x


def hypernetwork(*, width: int = 48, condition: int = 16, depth: int = 4, default: bool = False) -> Hypernetwork:
    """The makers at the framework's default, or drawn for what they make."""
    return Hypernetwork(width, condition, depth, default)


class SequenceClassifier(nn.Module):
    """An LSTM read at its last step or at all, with a bias of its forget gate."""

    def __init__(self, width: int, forget: float, last: bool) -> None:
        super().__init__()
        self.last, self.lstm, self.head = last, nn.LSTM(width, width, batch_first=True), nn.Linear(width, 5)
        with torch.no_grad():
            self.lstm.bias_ih_l0[width : 2 * width] += forget

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.head(y[:, -1] if self.last else y)


def sequence_classifier(*, width: int = 32, forget: float = 2.0, last: bool = True) -> SequenceClassifier:
    """A small one."""
    return SequenceClassifier(width, forget, last)


class SpatialTransformer(nn.Module):
    """A network that samples its image by a transformation that it computes, and classifies it."""

    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.locate, self.theta = nn.Linear(256, 32), nn.Linear(32, 6)
        self.conv, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)
        nn.init.kaiming_normal_(self.locate.weight, nonlinearity="relu")
        if zero:
            nn.init.zeros_(self.theta.weight)
            with torch.no_grad():
                self.theta.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta(self.locate(x.flatten(1)).relu()).view(-1, 2, 3)
        grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
        y = nn.functional.grid_sample(x, grid, align_corners=False)
        return self.head(self.conv(y).relu().mean((2, 3)))


def spatial_transformer(*, zero: bool = True) -> SpatialTransformer:
    """Starts at the identity, or at random."""
    return SpatialTransformer(zero)


class SoftLookup(nn.Module):
    """Rows of a table, mixed by the probabilities of a choice, and a layer that reads them."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.choose, self.table = nn.Linear(width, rows), nn.Embedding(rows, width)
        self.read = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.read.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.choose(x).softmax(-1) @ self.table.weight).relu()


def soft_lookup(*, width: int = 32, rows: int = 20) -> SoftLookup:
    """A differentiable choice."""
    return SoftLookup(width, rows)
