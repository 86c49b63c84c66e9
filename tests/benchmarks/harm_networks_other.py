"""Autoencoders, graphs, sets, fields, flows and other kinds for `tests.benchmarks.harm`."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layers(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with activations in between."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs), act()]
    return nn.Sequential(*parts[:-1])


def autoencoder() -> nn.Module:
    return layers(32, 48, 24, 8, 24, 48, 32)


class TiedAutoencoder(nn.Module):
    """The decoder uses the encoder's matrices, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 24), nn.Linear(24, 12)
        self.bias1, self.bias2 = nn.Parameter(torch.zeros(24)), nn.Parameter(torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.second(torch.tanh(self.first(x))))
        y = torch.tanh(F.linear(z, self.second.weight.t(), self.bias1))
        return F.linear(y, self.first.weight.t(), self.bias2)


def conv_autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 1, 4, stride=2, padding=1),
    )


def upsampling() -> nn.Module:
    """A decoder of transposed convolutions with normalisation, as generators have it."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.Unflatten(1, (16, 2, 2)),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1),
    )


def adjacency(nodes: int = 12, normal: bool = True) -> Tensor:
    """Of a random graph with loops; divided by the roots of the degrees, or as it is."""
    a = (torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(3)) < 0.3).float()
    a = ((a + a.T + torch.eye(nodes)) > 0).float()
    degree = a.sum(1)
    return a / degree[:, None].sqrt() / degree[None].sqrt() if normal else a


class Gcn(nn.Module):
    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency())
        self.layers = nn.ModuleList([nn.Linear(16 if k == 0 else width, width) for k in range(depth)])
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(self.adjacency @ layer(x))
        return self.head(x.mean(1))


class Gin(nn.Module):
    """Sums over neighbours and over nodes."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency(normal=False))
        self.layers = nn.ModuleList([layers(16 if k == 0 else width, width, width) for k in range(depth)])
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(self.adjacency @ x))
        return self.head(x.sum(1))


class GatLayer(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(inputs, width, bias=False)
        self.source, self.target = nn.Linear(width, 1, bias=False), nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        v = self.value(x)
        scores = F.leaky_relu(self.source(v) + self.target(v).transpose(1, 2), 0.2)
        return torch.softmax(scores + mask, -1) @ v


class Gat(nn.Module):
    """Attention over neighbours, the others masked by a large negative number."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("mask", (adjacency(normal=False) - 1) * 1e9)
        self.layers = nn.ModuleList([GatLayer(16 if k == 0 else width, width) for k in range(depth)])
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.elu(layer(x, self.mask))
        return self.head(x.mean(1))


class DeepSets(nn.Module):
    """A sum over the elements of a set."""

    def __init__(self) -> None:
        super().__init__()
        self.element, self.rest = layers(16, 48, 48, 48), layers(48, 48, 48, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.element(x).sum(1))


class Siamese(nn.Module):
    """One network on both inputs; the squared distance of what it gives, and both codes."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = layers(24, 48, 48, 48, 16)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, v = self.tower(a), self.tower(b)
        return (u - v).square().sum(-1), u, v


class TwoHeads(nn.Module):
    """Classes and a number, from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(layers(32, 48, 48, 48), nn.ReLU())
        self.classes, self.number = layers(48, 48, 10), layers(48, 24, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.trunk(x)
        return self.classes(y), self.number(y)


class KanLayer(nn.Module):
    """A sum of Gaussian bumps of every input, and a linear part of its SiLU."""

    def __init__(self, inputs: int, outputs: int, bumps: int = 6) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-2, 2, bumps))
        self.spline = nn.Parameter(0.1 * torch.randn(outputs, inputs, bumps) / inputs**0.5)
        self.base = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((x[..., None] - self.centres) ** 2) * 2)
        return self.base(F.silu(x)) + torch.einsum("bik,oik->bo", bumps, self.spline)


class Kan(nn.Module):
    def __init__(self, depth: int, width: int = 16) -> None:
        super().__init__()
        widths = [8, *[width] * (depth - 1), 4]
        self.layers = nn.Sequential(*[KanLayer(a, b) for a, b in pairwise(widths)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Coupling(nn.Module):
    """Half of the numbers scale and shift the other half; the last layer starts at zero."""

    def __init__(self, width: int, swap: bool) -> None:
        super().__init__()
        self.half, self.swap = width // 2, swap
        self.inner = layers(self.half, 32, 32, 2 * self.half)
        nn.init.zeros_(self.inner[-1].weight)
        nn.init.zeros_(self.inner[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x[:, : self.half], x[:, self.half :]
        if self.swap:
            a, b = b, a
        scale, shift = self.inner(a).chunk(2, 1)
        scale = torch.tanh(scale)
        b = b * torch.exp(scale) + shift
        return torch.cat([b, a] if self.swap else [a, b], 1), scale.sum(1)


class RealNvp(nn.Module):
    def __init__(self, depth: int, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Coupling(width, bool(k % 2)) for k in range(depth)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(x.shape[0], dtype=x.dtype)
        for layer in self.layers:
            x, logdet = layer(x)
            total = total + logdet
        return x, total


class Nerf(nn.Module):
    """Sines of octaves, a trunk that reads them again in the middle, colour and density."""

    def __init__(self, octaves: int = 4, width: int = 48) -> None:
        super().__init__()
        self.register_buffer("octaves", 2.0 ** torch.arange(octaves))
        inputs = 3 + 6 * octaves
        self.before = nn.Sequential(layers(inputs, width, width, width), nn.ReLU())
        self.after = nn.Sequential(layers(inputs + width, width, width), nn.ReLU())
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        waves = (x[..., None] * self.octaves * math.pi).flatten(1)
        code = torch.cat([x, torch.sin(waves), torch.cos(waves)], 1)
        return self.head(self.after(torch.cat([code, self.before(code)], 1)))


class Sine(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else (6 / inputs) ** 0.5 / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


class Siren(nn.Module):
    """arXiv 2006.09661: the initialisation belongs to the frequency."""

    def __init__(self, depth: int, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[Sine(2 if k == 0 else width, width, k == 0) for k in range(depth - 1)])
        self.head = nn.Linear(width, 1)
        nn.init.uniform_(self.head.weight, -((6 / width) ** 0.5) / 30, (6 / width) ** 0.5 / 30)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class FourierFeatures(nn.Module):
    """Sines and cosines of a fixed random projection."""

    def __init__(self, inputs: int, count: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(inputs, count))

    def forward(self, x: Tensor) -> Tensor:
        waves = 2 * math.pi * x @ self.frequencies
        return torch.cat([torch.sin(waves), torch.cos(waves)], 1)


def fourier() -> nn.Module:
    return nn.Sequential(FourierFeatures(2, 32, 1.0), layers(64, 48, 48, 48, 1))


def pinn(depth: int) -> nn.Module:
    net = layers(2, *[32] * (depth - 1), 1, act=nn.Tanh)
    for part in net:
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            nn.init.zeros_(part.bias)
    return net


class Masked(nn.Linear):
    """A linear layer some of whose weights are held at zero."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Made(nn.Module):
    """arXiv 1502.03509: every output sees only the inputs before it."""

    def __init__(self, width: int = 12, hidden: int = 48) -> None:
        super().__init__()
        inputs, inner = torch.arange(width), torch.arange(hidden) % (width - 1)
        self.net = nn.Sequential(
            Masked((inner[:, None] >= inputs[None]).float()),
            nn.ReLU(),
            Masked((inner[:, None] >= inner[None]).float()),
            nn.ReLU(),
            Masked((inputs[:, None] > inner[None]).float()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Dueling(nn.Module):
    """A value and advantages, whose mean is taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(layers(8, 48, 48), nn.ReLU())
        self.value, self.advantage = layers(48, 32, 1), layers(48, 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.trunk(x)
        advantage = self.advantage(y)
        return self.value(y) + advantage - advantage.mean(1, keepdim=True)


def actor() -> nn.Module:
    """Orthogonal matrices and a last layer that is small on purpose, as policies have it."""
    net = layers(8, 64, 64, 4, act=nn.Tanh)
    for part in net:
        if isinstance(part, nn.Linear):
            nn.init.orthogonal_(part.weight, 2**0.5)
            nn.init.zeros_(part.bias)
    nn.init.orthogonal_(net[-1].weight, 0.01)
    return net


class Film(nn.Module):
    """Feature-wise scales and shifts read from the image's mean."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.reader = nn.Conv2d(3, width, 3, padding=1), nn.Linear(12, 16)
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(4)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width, affine=False) for _ in range(4)])
        self.films = nn.ModuleList([nn.Linear(16, 2 * width) for _ in range(4)])
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.reader(F.adaptive_avg_pool2d(x, 2).flatten(1)))
        y = self.stem(x)
        for conv, norm, film in zip(self.convs, self.norms, self.films, strict=True):
            scale, shift = film(code)[:, :, None, None].chunk(2, 1)
            y = y + F.relu(norm(conv(y)) * (1 + scale) + shift)
        return self.head(y.mean((2, 3)))


class Branches(nn.Module):
    """Kernels of several sizes side by side."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(inputs, 8, 1), nn.Conv2d(inputs, 8, 3, padding=1)
        self.five = nn.Sequential(nn.Conv2d(inputs, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 5, padding=2))

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 3, 1, 1)
        return F.relu(torch.cat([self.one(pooled), self.three(x), self.five(x)], 1))


def inception() -> nn.Module:
    blocks = [Branches(3 if k == 0 else 24) for k in range(4)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


def factored() -> nn.Module:
    """Every wide layer is two thin ones without an activation in between."""
    parts: list[nn.Module] = []
    for index in range(5):
        parts += [nn.Linear(32 if index == 0 else 48, 12, bias=False), nn.Linear(12, 48), nn.GELU()]
    return nn.Sequential(*parts, nn.Linear(48, 10))


def deep_linear(depth: int) -> nn.Module:
    return nn.Sequential(*[nn.Linear(32 if k == 0 else 48, 48) for k in range(depth - 1)], nn.Linear(48, 10))


class WordMean(nn.Module):
    """Tokens and the mean of all of them."""

    def __init__(self, words: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 32)
        self.rest = layers(64, 48, 48, words)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x)
        return self.rest(torch.cat([y, y.mean(1, keepdim=True).expand_as(y)], -1))
