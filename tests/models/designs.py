"""Designs that are known to train and that look like mistakes to a tool that judges one layer at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tests.models.common import Residual, conv, initialize_layer_
from tests.models.failures import TransformerBlock


class Scaled(nn.Module):
    """x + scale * branch(x) with a scale that is learned: one number (SkipInit, ReZero) or one a channel."""

    def __init__(self, branch: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.branch, self.scale = branch, nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


def _he(inputs: int, outputs: int, kernel: int = 3, gain: float = 1.0, fan: str = "he") -> nn.Conv2d:
    return conv(inputs, outputs, fan, gain, kernel=kernel, bias=True)


def _headed(channels: int, *blocks: nn.Module, std: float | None = None) -> nn.Sequential:
    """A max-pooled strided stem, blocks, and a pooled head of small weights."""
    head = nn.Linear(channels, 10)
    nn.init.normal_(head.weight, std=channels**-0.5 if std is None else std)
    nn.init.zeros_(head.bias)
    stem = nn.Conv2d(3, channels, 7, 2, 3)
    initialize_layer_(stem, "he")
    tail = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return nn.Sequential(stem, nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks, *tail)


class FixupBlock(nn.Module):
    """Scalar biases around each convolution, a scalar multiplier, the first convolution scaled, the last one zero."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.bias1a, self.bias1b, self.bias2a, self.bias2b = (nn.Parameter(torch.zeros(1)) for _ in range(4))
        self.conv1 = _he(channels, channels, gain=depth**-0.5)
        self.conv2 = _he(channels, channels, gain=0.0)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        y = (self.conv1(x + self.bias1a) + self.bias1b).relu()
        return (x + self.conv2(y + self.bias2a) * self.scale + self.bias2b).relu()


def fixup(*, depth: int = 18, channels: int = 32) -> nn.Sequential:
    """Fixup (arXiv 1901.09321); its head starts at zero."""
    return _headed(channels, *(FixupBlock(channels, depth) for _ in range(depth)), std=0.0)


def skip_init(*, depth: int = 24, channels: int = 32, scale: float = 0.0) -> nn.Sequential:
    """SkipInit (arXiv 2002.10444): each branch times a learned number that starts at 0."""
    blocks = (
        Scaled(
            nn.Sequential(nn.ReLU(), _he(channels, channels), nn.ReLU(), _he(channels, channels)),
            torch.full((1,), scale),
        )
        for _ in range(depth)
    )
    return _headed(channels, *blocks)


def rezero(*, depth: int = 32, width: int = 128) -> nn.Sequential:
    """ReZero (arXiv 2003.04887) on linear layers."""
    layers = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.xavier_normal_(linear.weight, gain=math.sqrt(2))
        layers.append(Scaled(nn.Sequential(linear, nn.ReLU()), torch.zeros(1)))
    return nn.Sequential(*layers)


def layer_scale(*, depth: int = 24, width: int = 128, scale: float = 1e-6) -> nn.Sequential:
    """LayerScale (arXiv 2103.17239): each branch times a vector that starts at 1e-6."""

    def mlp() -> nn.Module:
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (up, down):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(nn.LayerNorm(width), up, nn.GELU(), down)

    return nn.Sequential(*(Scaled(mlp(), torch.full((width,), scale)) for _ in range(depth)))


class _SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        found: Tensor = self.attention(y, y, y, need_weights=False)[0]
        return found


class ClassToken(nn.Module):
    """A token that hears of the others through branches alone."""

    def __init__(self, width: int, depth: int, scale: float) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks.append(Scaled(_SelfAttention(width), torch.full((width,), scale)))
            blocks += layer_scale(depth=1, width=width, scale=scale)
        self.blocks, self.norm, self.head = nn.Sequential(*blocks), nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        found: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return found


def class_token(*, depth: int = 6, width: int = 128, scale: float = 1e-5) -> ClassToken:
    """LayerScale around attention and a class token (DeiT III, arXiv 2204.07118)."""
    return ClassToken(width, depth, scale)


def bottlenecks(*, depth: int = 8, wide: int = 128, narrow: int = 32) -> nn.Sequential:
    """Plain bottlenecks with He over fan_out: each narrowing layer gains what the widening one loses."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        pair = _he(wide, narrow, fan="he_out"), _he(narrow, wide, fan="he_out")
        layers += [pair[0], nn.ReLU(), pair[1], nn.ReLU()]
    return nn.Sequential(*layers)


def residual_bottlenecks(*, depth: int = 8, wide: int = 128, narrow: int = 32) -> nn.Sequential:
    """The same as branches with BatchNorm, the last of them zero."""

    def block() -> nn.Module:
        norms = [nn.BatchNorm2d(narrow), nn.BatchNorm2d(narrow), nn.BatchNorm2d(wide)]
        nn.init.zeros_(norms[2].weight)
        convs = _he(wide, narrow, 1, fan="he_out"), _he(narrow, narrow, 3, fan="he_out"), _he(narrow, wide, 1)
        inner = [convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU(), convs[2], norms[2]]
        return Residual(nn.Sequential(*inner), nn.ReLU())

    return _headed(wide, *(block() for _ in range(depth)), std=0.01)


class TiedLanguage(nn.Module):
    """An embedding N(0, 1) that the head shares, its logits times width^-1/2."""

    def __init__(self, vocabulary: int, width: int, depth: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, width))
        factor = 1 / math.sqrt(2 * depth)
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4, False, 1.0, 1.0, factor, None) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        y = self.norm(self.blocks(nn.functional.embedding(ids, self.table)))
        return nn.functional.linear(y, self.table) * self.table.shape[1] ** -0.5


def tied_scaled(*, vocabulary: int = 1000, width: int = 128, depth: int = 6) -> TiedLanguage:
    """Tied embeddings with scaled logits."""
    return TiedLanguage(vocabulary, width, depth)


def small_head(*, depth: int = 6, channels: int = 48, std: float = 1e-3) -> nn.Sequential:
    """A plain convolutional network with a max-pooled strided stem whose head starts at next to nothing."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [_he(channels, channels), nn.ReLU()]
    return _headed(channels, *layers[:-1], std=std)
