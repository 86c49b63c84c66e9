"""Small networks with one mistake of initialisation each; the defaults are the corrected forms."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.common import ACTIVATIONS, initialize_layer_, linear


def widening_mlp(*, init: str = "he", inputs: int = 8, doublings: int = 8, narrowing: bool = False) -> nn.Sequential:
    """Linear layers that double the width, or double and halve it in turn, each with a ReLU."""
    widths = [inputs, *(64 * (1 + i % 2) if narrowing else inputs * 2 ** (i + 1) for i in range(doublings))]
    return nn.Sequential(*(m for pair in pairwise(widths) for m in (linear(*pair, init), nn.ReLU())))


def separable_conv(*, depth: int = 8, channels: int = 32, groups: int = 32, init: str = "he") -> nn.Sequential:
    """Grouped 3x3 and full 1x1 convolutions, each with a ReLU; `init` of the grouped: "he_out" forgets the groups."""
    layers: list[nn.Module] = []
    for index in range(depth):
        grouped = nn.Conv2d(channels if index else 3, channels, 3, padding=1, groups=groups if index else 1)
        mixing = nn.Conv2d(channels, channels, 1)
        initialize_layer_(grouped, init if index else "he")
        initialize_layer_(mixing, "he")
        layers += [grouped, nn.ReLU(), mixing, nn.ReLU()]
    return nn.Sequential(*layers)


def decoder(*, mode: str = "stride", stages: int = 5, channels: int = 64) -> nn.Sequential:
    """Transposed convolutions that halve the channels and double the size, each with a ReLU, then a 3x3 convolution.

    `mode` is the fan of the He variance: "fan_in" or "fan_out" as the framework counts them, or "stride": the inputs
    that reach one output.
    """
    layers: list[nn.Module] = []
    for stage in range(stages):
        wide, narrow = channels >> stage, channels >> (stage + 1)
        conv = nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)
        fan = {"fan_in": narrow * 16, "fan_out": wide * 16, "stride": wide * 4}[mode]
        nn.init.normal_(conv.weight, std=math.sqrt(2 / fan))
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU()]
    last = nn.Conv2d(channels >> stages, 3, 3, padding=1)
    initialize_layer_(last, "lecun")
    return nn.Sequential(*layers, last)


def leaky_mlp(
    *, slope: float = 0.2, a: float | None = None, depth: int = 24, width: int = 128, default: bool = False
) -> nn.Sequential:
    """Linear layers with leaky ReLU, drawn by He's formula for slope `a` (by default the one that is there), or by
    the framework."""
    gain = 1 / math.sqrt(1 + (slope if a is None else a) ** 2)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width) if default else linear(width, width, gain=gain), nn.LeakyReLU(slope)]
    return nn.Sequential(*layers)


def identity_mixers(*, width: int = 64, depth: int = 4) -> nn.Sequential:
    """Projections that start as the identity, as gated positional attention has them, between norms."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [nn.LayerNorm(width), layer, linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, linear(width, 10, "lecun"))


def shifted_mlp(
    *,
    depth: int = 8,
    width: int = 128,
    weight_mean: float = 0.0,
    bias: float = 0.0,
    activation: str = "relu",
    batch_norm: bool = False,
) -> nn.Sequential:
    """He layers and a head; `weight_mean` times 1/width is added to every hidden weight, `bias` to every bias."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = linear(width, width)
        with torch.no_grad():
            layer.weight.add_(weight_mean / width)
            layer.bias.add_(bias)
        layers += [layer, *([nn.BatchNorm1d(width)] if batch_norm else []), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, linear(width, 10, "lecun"))


def uneven_mlp(*, depth: int = 6, width: int = 128, factor: float = 4.0) -> nn.Sequential:
    """He layers and a head, hidden ones at `factor` times and 1/`factor` of the scale by turns; biases are drawn."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layer = linear(width, width, "he", factor if index % 2 == 0 else 1 / factor)
        nn.init.uniform_(layer.bias, -0.1, 0.1)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, linear(width, 10, "lecun"))


def symmetric_mlp(*, fill: str = "drawn", width: int = 64, depth: int = 3) -> nn.Sequential:
    """He layers and a head; hidden weights "drawn", one "constant", or the rows of half the units "copied"."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = linear(width, width)
        with torch.no_grad():
            if fill == "constant":
                layer.weight.fill_(1 / width)
            elif fill == "copied":
                layer.weight[width // 2 :] = layer.weight[: width // 2]
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, linear(width, 10, "lecun"))


def subpixel(*, channels: int = 8) -> nn.Sequential:
    """Upsampling by a convolution whose four filters for one output are equal on purpose (ICNR)."""
    first, conv = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 12, 3, padding=1)
    initialize_layer_(first, "he")
    initialize_layer_(conv, "lecun")
    with torch.no_grad():
        conv.weight.copy_(conv.weight[::4].repeat_interleave(4, 0))
    return nn.Sequential(first, nn.ReLU(), conv, nn.PixelShuffle(2))


def cut_mlp(*, zero: str = "none", activation: str = "relu", width: int = 64, depth: int = 4) -> nn.Sequential:
    """He layers and a head; the "middle" hidden layer or the "head" starts at zero."""
    layers: list[nn.Module] = []
    for index in range(depth):
        cut = zero == "middle" and index == depth // 2
        layers += [linear(width, width, "zero" if cut else "he"), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, linear(width, 10, "zero" if zero == "head" else "lecun"))


class TokenMLP(nn.Module):
    """Embedding, layer normalisation, a residual MLP, layer normalisation and logits over the vocabulary."""

    def __init__(self, width: int, vocabulary: int, embedding_std: float, head_std: float | None, scale: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=embedding_std)
        self.before, self.behind = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        initialize_layer_(self.up, "lecun")
        initialize_layer_(self.down, "lecun", 0.5)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if head_std is None:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=head_std)
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.down(functional.gelu(self.up(self.before(x))))
        return self.head(self.behind(x) * self.scale)


def token_mlp(
    *,
    width: int = 256,
    vocabulary: int = 512,
    embedding_std: float = 1.0,
    head_std: float | None = 0.0625,
    scale: float = 1.0,
) -> TokenMLP:
    """`head_std` None ties the head to the embedding; `scale` multiplies what the head reads."""
    return TokenMLP(width, vocabulary, embedding_std, head_std, scale)


class HalfMLP(nn.Module):
    """He layers times `gain` and a head, all in half precision."""

    def __init__(self, depth: int, width: int, gain: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.layers = nn.Sequential()
        for _ in range(depth):
            self.layers.extend([linear(width, width, gain=gain), nn.ReLU()])
        self.layers.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.to(self.dtype)).float()


def half_mlp(*, depth: int = 24, width: int = 128, gain: float = 1.0, bfloat16: bool = False) -> HalfMLP:
    """Layers in float16 or bfloat16."""
    return HalfMLP(depth, width, gain, torch.bfloat16 if bfloat16 else torch.float16)


class ScaledAttention(nn.Module):
    """Pre-norm attention written out, LeCun weights, logits times `scale`, in `depth` residual blocks, and a head."""

    def __init__(self, width: int, depth: int, scale: float, keep: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.maps = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(4)) for _ in range(depth))
        for maps in self.maps:
            for index, layer in enumerate(maps):
                initialize_layer_(layer, "lecun", keep if index == 3 else 1.0)
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        initialize_layer_(self.head, "lecun")
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        for norm, (query, key, value, out) in zip(self.norms, self.maps, strict=True):
            y = norm(x)
            logits = query(y) @ key(y).transpose(-1, -2) * self.scale
            x = x + out(torch.softmax(logits, -1) @ value(y))
        return self.head(self.last(x).mean(1))


def scaled_attention(*, width: int = 128, depth: int = 3, power: float = -0.5) -> ScaledAttention:
    """The logits are multiplied by width to the `power`: -0.5 is right, 0 leaves it out, 0.5 is reversed."""
    return ScaledAttention(width, depth, width**power, depth**-0.5)


def conditioned_mlp(
    *, init: str = "lecun", depth: int = 60, width: int = 64, activation: str = "tanh"
) -> nn.Sequential:
    """A deep chain of tanh layers, Gaussian or "orthogonal", whose phi is 1 where the second moment is 1."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [linear(width, width, init, 1.1), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)
