"""Networks with numbers that break at the first step, or that give away what the loss needs; corrected by default."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def _he(layer: nn.Linear) -> nn.Linear:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class CausalAttention(nn.Module):
    """One head, written out, whose mask adds a number to what is above the given diagonal."""

    def __init__(self, width: int, tokens: int, diagonal: int, number: float) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), diagonal=diagonal)
        self.register_buffer("mask", torch.zeros(tokens, tokens).masked_fill(hidden, number))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        logits = query @ key.transpose(1, 2) * x.shape[-1] ** -0.5 + self.mask
        return x + self.out(logits.softmax(-1) @ value)


def causal_attention(
    *, width: int = 32, tokens: int = 12, diagonal: int = 1, number: float = -math.inf
) -> CausalAttention:
    """Diagonal 1 hides the future; 0 hides the present too, and all of the first row."""
    return CausalAttention(width, tokens, diagonal, number)


class WeightNormedBranch(nn.Module):
    """x + b(relu(a(x))) with weight normalisation; the last layer is small, or zero in its direction."""

    def __init__(self, width: int, zero: str) -> None:
        super().__init__()
        first, last = _he(nn.Linear(width, width)), _he(nn.Linear(width, width))
        with torch.no_grad():
            last.weight.mul_(0.0 if zero == "direction" else 0.1)
        self.first, self.last = (nn.utils.parametrizations.weight_norm(layer) for layer in (first, last))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.first(x).relu())


def weight_normed_branch(*, width: int = 32, zero: str = "none") -> WeightNormedBranch:
    """`zero` is "none" or "direction"."""
    return WeightNormedBranch(width, zero)


class HalfNorm(nn.Module):
    """A normalisation written out in float16 behind a layer."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, 10)
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.half())
        c = y - y.mean(-1, keepdim=True)
        return self.last(c / torch.sqrt(c.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.gain)


def half_norm(*, width: int = 64, epsilon: float = 1e-3) -> nn.Module:
    """In float16."""
    return HalfNorm(width, epsilon).half()


class RootOfLayer(nn.Module):
    """A square root of a layer's output where that is positive, guarded in one of several ways."""

    def __init__(self, width: int, guard: str) -> None:
        super().__init__()
        self.guard = guard
        self.first, self.last = _he(nn.Linear(width, width)), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        if self.guard == "none":
            y = torch.sqrt(z)
        elif self.guard == "behind":
            y = torch.where(z > 0, torch.sqrt(z), z)
        elif self.guard == "before":
            y = torch.where(z > 0, torch.sqrt(torch.where(z > 0, z, torch.ones_like(z))), z)
        elif self.guard == "softplus":
            y = torch.sqrt(nn.functional.softplus(z))
        elif self.guard == "relu_epsilon":
            y = torch.sqrt(torch.relu(z) + 1e-4)
        elif self.guard == "relu":
            y = torch.sqrt(torch.relu(z))
        elif self.guard in ("length", "length_epsilon"):
            kept = z * (z > 1)
            y = torch.sqrt(kept**2 + kept.roll(1, -1) ** 2 + 1e-6 * (self.guard == "length_epsilon"))
        else:
            y = torch.sqrt(torch.relu(z) * (z > 1))
        return self.last(y)


def root_of_layer(*, width: int = 32, guard: str = "before") -> RootOfLayer:
    """`guard` is "before", "behind", "none", "softplus", "relu", "relu_epsilon", "length", "length_epsilon" or
    "mask"."""
    return RootOfLayer(width, guard)


def small_classifier(
    *, width: int = 64, classes: int = 10, head: str = "once", activation: bool = True
) -> nn.Sequential:
    """Three layers and a log-softmax; `head` is "once", or "twice" with a softmax in front of it."""
    layers: list[nn.Module] = []
    for inputs in (32, width):
        layers += [_he(nn.Linear(inputs, width)), *([nn.ReLU()] if activation else [])]
    layers.append(nn.Linear(width, 10))
    return nn.Sequential(*layers, *([nn.Softmax(-1)] if head == "twice" else []), nn.LogSoftmax(-1))


def rectified_regressor(*, width: int = 32, bias: float = 0.5) -> nn.Sequential:
    """One output behind a ReLU, with the bias of its layer."""
    last = nn.Linear(width, 1)
    nn.init.normal_(last.weight, std=width**-0.5)
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(_he(nn.Linear(16, width)), nn.Tanh(), last, nn.ReLU())


class Sine(nn.Module):
    """sin(w0 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30.0 * x)


def sine_network(*, width: int = 64, depth: int = 4, first: str = "first", hidden: str = "divided") -> nn.Sequential:
    """SIREN on two coordinates; the first layer drawn as the first should be, or as the hidden ones are; these divided
    by the sines' factor, or not."""
    layers: list[nn.Module] = []
    for place in range(depth):
        layer = nn.Linear(2 if place == 0 else width, width)
        inputs = layer.in_features
        bound = 1 / inputs if place == 0 and first == "first" else math.sqrt(6 / inputs) / 30.0
        bound *= 30.0 if place and hidden == "undivided" else 1.0
        nn.init.uniform_(layer.weight, -bound, bound)
        layers += [layer, Sine()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


class ScoredMean(nn.Module):
    """A mean over positions, weighted by learnt scores."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.way, self.score, self.value, self.out = (
            way,
            nn.Linear(width, 1),
            nn.Linear(width, width),
            nn.Linear(width, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        scores = self.score(x)
        if self.way == "positive":
            scores = functional.softplus(scores)
        weights = scores.softmax(1) if self.way == "softmax" else scores / (scores.sum(1, keepdim=True) + 1e-6)
        return self.out((weights * self.value(x)).sum(1))


def scored_mean(*, way: str = "softmax") -> nn.Module:
    """Shares by a softmax, or by dividing by the sum of scores: "positive" or "signed" ones."""
    return ScoredMean(32, way)


class FlowingGrid(nn.Module):
    """An image sampled where a grid and a small flow say."""

    def __init__(self, pixels: bool) -> None:
        super().__init__()
        self.flow, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
        grid = torch.stack([columns, rows], -1)
        self.register_buffer("grid", grid if pixels else (2 * grid + 1) / 16 - 1)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.get_buffer("grid") + 0.1 * self.flow(x).permute(0, 2, 3, 1)
        return self.head(functional.grid_sample(x, grid, align_corners=False))


def flowing_grid(*, pixels: bool = False) -> nn.Module:
    """With a grid of pixel numbers most samples lie outside of the image."""
    return FlowingGrid(pixels)
