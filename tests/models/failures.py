"""The networks of the shared failures.md and cases like them: each mistake beside its correction.

Every builder draws from torch's global generator and takes the mistake as an argument: `linears(init="xavier")`. Linear
networks are 256 wide, convolutional ones have 32 channels on 16x16 and circular padding, unless the case is another.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tests.models.branched import ScaledStdConv
from tests.models.common import Residual, conv, initialize_layer_, linear
from tests.models.vit import Attention

Act = Callable[[], nn.Module]


def linears(
    *, depth: int = 20, width: int = 256, init: str = "he", gain: float = 1.0, act: Act = nn.ReLU
) -> nn.Sequential:
    """Square linear layers, each with an activation."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [linear(width, width, init, gain), act()]
    return nn.Sequential(*layers)


def convs(
    *,
    depth: int = 20,
    channels: int = 32,
    groups: int = 1,
    init: str = "he",
    gain: float = 1.0,
    act: Act = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """3x3 convolutions, each with an activation and, if asked for, a normalisation between."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, padding_mode="circular")
        initialize_layer_(conv, init, gain)
        layers += [conv, *([norm(channels)] if norm else []), act()]
    return nn.Sequential(*layers)


def leaky(*, slope: float, a: float) -> nn.Sequential:
    """Leaky ReLUs behind weights that were drawn for the slope `a`."""
    return linears(gain=1 / math.sqrt(1 + a * a), act=lambda: nn.LeakyReLU(slope))


def selu_dropout(*, dropout: Callable[[], nn.Module]) -> nn.Sequential:
    """LeCun weights, SELU, a dropout: one block."""
    return linears(init="lecun", act=lambda: nn.Sequential(nn.SELU(), dropout()))


def widening(*, init: str, first: int = 8, doublings: int = 5) -> nn.Sequential:
    """Convolutions that double the channels one after the other."""
    layers: list[nn.Module] = []
    for index in range(doublings):
        before = first * 2**index
        layers += [conv(before, 2 * before, init, bias=True, padding_mode="circular"), nn.ReLU()]
    return nn.Sequential(*layers)


def _conv(channels: int, gain: float = 1.0) -> nn.Conv2d:
    return conv(channels, channels, gain=gain, bias=True, padding_mode="circular")


def residual(*, depth: int = 20, channels: int = 32, first: float = 1.0, last: float = 1.0) -> nn.Sequential:
    """Two-conv residual blocks without normalisation; factors on the standard deviations of He."""
    return nn.Sequential(
        *(
            Residual(nn.Sequential(nn.ReLU(), _conv(channels, first), nn.ReLU(), _conv(channels, last)))
            for _ in range(depth)
        )
    )


def normalized_residual(
    *, depth: int = 20, channels: int = 32, order: str = "post", last: float = 1.0
) -> nn.Sequential:
    """Two-conv residual blocks with BatchNorm.

    Args:
        order: "pre" (BN ReLU conv, twice), "post" (conv BN ReLU conv BN, add, ReLU), "behind" (BN of the sum).
        last: scale of the last normalisation in a branch.
    """

    def block() -> nn.Module:
        norms = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        first, second = _conv(channels), _conv(channels)
        if order == "pre":
            return Residual(nn.Sequential(norms[0], nn.ReLU(), first, norms[1], nn.ReLU(), second))
        if order == "behind":
            behind = nn.Sequential(norms[1], nn.ReLU())
            return Residual(nn.Sequential(first, norms[0], nn.ReLU(), second), behind)
        nn.init.constant_(norms[1].weight, last)
        return Residual(nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1]), nn.ReLU())

    return nn.Sequential(*(block() for _ in range(depth)))


def transformer(
    *,
    depth: int = 12,
    width: int = 256,
    heads: int = 4,
    post: bool = False,
    alpha: float = 1.0,
    beta: float = 1.0,
    scaled: bool = False,
    std: float | None = None,
) -> nn.Sequential:
    """Blocks of attention and MLP on (batch, tokens, width).

    Args:
        post: normalise the sum (the original Transformer) and not the branch's input.
        alpha, beta: DeepNorm's factors on the shortcut and on the weights of values, projections and MLP.
        scaled: the two projections that write the residual stream times 1/sqrt(2 depth).
        std: of all weights; None stands for 1/sqrt(fan_in).
    """
    factor = 1 / math.sqrt(2 * depth) if scaled else 1.0
    return nn.Sequential(
        *(TransformerBlock(width, heads, post, alpha, beta, factor, std) for _ in range(depth)),
    )


class TransformerBlock(nn.Module):
    """One block of `transformer`."""

    def __init__(
        self, width: int, heads: int, post: bool, alpha: float, beta: float, factor: float, std: float | None
    ) -> None:
        super().__init__()
        self.mixer, self.first = Attention(width, heads, fused=True), nn.LayerNorm(width)
        self.up, self.down, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.LayerNorm(width)
        self.post, self.alpha = post, alpha
        for layer in (self.mixer.qkv, self.mixer.proj, self.up, self.down):
            nn.init.normal_(layer.weight, std=std or layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.mixer.qkv.weight[2 * width :] *= beta
            for layer in (self.mixer.proj, self.up, self.down):
                layer.weight *= beta
            for layer in (self.mixer.proj, self.down):
                layer.weight *= factor

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.first(self.alpha * x + self.mixer(x))
            return self.second(self.alpha * x + self.down(functional.gelu(self.up(x))))
        x = x + self.mixer(self.first(x))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Language(nn.Module):
    """Embedding, a pre-norm block, a norm and a head over the vocabulary, tied to the embedding if asked for."""

    def __init__(self, vocabulary: int, width: int, std: float, tied: bool, scale: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.block = TransformerBlock(width, 4, False, 1.0, 1.0, 1 / math.sqrt(2), None)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.words.weight, std=1.0)
        nn.init.normal_(self.readout.weight, std=std)
        if tied:
            self.readout.weight = self.words.weight
        self.scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.readout(self.norm(self.block(self.words(ids))))
        return logits if self.scale == 1.0 else logits * self.scale


def language(
    *, vocabulary: int = 4096, width: int = 512, std: float = 1.0, tied: bool = False, scale: float = 1.0
) -> Language:
    """A language model whose head has weights of standard deviation `std`, or those of the embedding times `scale`."""
    return Language(vocabulary, width, std, tied, scale)


class Scores(nn.Module):
    """Attention written out, with its scale at the place where the author put it."""

    def __init__(self, width: int, scale: str) -> None:
        super().__init__()
        self.norm, self.scale, self.width = nn.LayerNorm(width), scale, width
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        for layer in (self.q, self.k, self.v, self.o):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        scores = self.q(y) @ self.k(y).transpose(-2, -1)
        if self.scale == "before":
            scores = scores / math.sqrt(self.width)
        elif self.scale == "reversed":
            scores = scores * math.sqrt(self.width)
        weights = scores.softmax(-1)
        if self.scale == "behind":
            weights = weights / math.sqrt(self.width)
        return x + self.o(weights @ self.v(y))


def attention(*, scale: str = "before", depth: int = 2, width: int = 256) -> nn.Sequential:
    """Attention blocks of one head with the scale "before" the softmax, "behind" it, "reversed", or "none"."""
    return nn.Sequential(*(Scores(width, scale) for _ in range(depth)))


def vgg(*, std: float | None = None) -> nn.Sequential:
    """The 13 convolutions and the head of VGG-16 with weights N(0, std), or He."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        conv = nn.Conv2d(channels, width, 3, padding=1)
        initialize_layer_(conv, "he")
        if std is not None:
            nn.init.normal_(conv.weight, std=std)
        layers += [conv, nn.ReLU()]
        channels = width
    head = nn.Linear(channels, 10)
    initialize_layer_(head, "lecun")
    return nn.Sequential(*layers, nn.Flatten(), head)


def weight_norm(*, g: float, depth: int = 20, width: int = 256) -> nn.Sequential:
    """Linear layers under weight normalisation whose gains g are set by hand."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = parametrizations.weight_norm(nn.Linear(width, width))
        nn.init.constant_(layer.parametrizations.weight.original0, g)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def standardized(*, gamma: float, depth: int = 20, channels: int = 32) -> nn.Sequential:
    """Convolutions under scaled weight standardisation, with ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [ScaledStdConv(channels, channels, 3, gamma=gamma), nn.ReLU()]
    for layer in layers[::2]:
        layer.padding_mode = "circular"  # type: ignore[assignment]
    return nn.Sequential(*layers)


def normalized_linears(*, depth: int = 20, width: int = 256, skips: bool = False) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, with a shortcut around each if asked for."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width, bias=False)
        initialize_layer_(linear, "he")
        block = nn.Sequential(linear, nn.BatchNorm1d(width), nn.ReLU())
        layers.append(Residual(nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), linear)) if skips else block)
    return nn.Sequential(*layers)


# cases like them, of other widths, depths, activations and names


class Torso(nn.Module):
    """Layers that are called from nested modules of unhelpful names, some of them as functions."""

    def __init__(self, width: int, depth: int, factor: float) -> None:
        super().__init__()
        self.gamma = nn.ModuleList(nn.ModuleDict({"norm": nn.Linear(width, width)}) for _ in range(depth))
        for each in self.gamma:
            nn.init.normal_(each["norm"].weight, std=factor * width**-0.5)  # type: ignore[index]
            nn.init.zeros_(each["norm"].bias)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        for each in self.gamma:
            x = functional.gelu(each["norm"](x))  # type: ignore[index]
        return x


def nested_gelu(*, factor: float, depth: int = 36, width: int = 144) -> nn.Module:
    """GELU in 36 layers that their names call normalisations; the gradient needs a factor of 1.48."""
    return nn.Sequential(nn.Identity(), Torso(width, depth, factor))


def audio(*, init: str, depth: int = 32, channels: int = 48) -> nn.Sequential:
    """Convolutions over time with PReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv1d(channels, channels, 5, padding=2, padding_mode="circular")
        initialize_layer_(conv, init, 1.0 if init == "default" else 1 / math.sqrt(1 + 0.25**2))
        layers += [conv, nn.PReLU()]
    return nn.Sequential(*layers)


def separable(*, fan: str, depth: int = 16, channels: int = 24) -> nn.Sequential:
    """Depthwise and pointwise convolutions in turn; "out" draws by torch's fan_out, which ignores the groups."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, padding_mode="circular")
        pointwise = nn.Conv2d(channels, channels, 1)
        initialize_layer_(depthwise, "he" if fan == "in" else "he_out")
        initialize_layer_(pointwise, "he")
        layers += [depthwise, nn.ReLU(), pointwise, nn.ReLU()]
    return nn.Sequential(*layers)


def orthogonal(*, gain: float, depth: int = 30, width: int = 160) -> nn.Sequential:
    """Orthogonal weights under ReLU."""
    return linears(depth=depth, width=width, init="orthogonal", gain=gain)


def decoder(*, stride_aware: bool, depth: int = 8, channels: int = 16) -> nn.Sequential:
    """Transposed 4x4 convolutions of stride 2, and strided ones back, so that the size stays."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        up = nn.ConvTranspose2d(channels, channels, 4, 2, 1)
        down = nn.Conv2d(channels, channels, 2, 2)
        taps = 4 if stride_aware else 16
        nn.init.normal_(up.weight, std=math.sqrt(2 / (channels * taps)))
        nn.init.zeros_(up.bias)
        initialize_layer_(down, "he")
        layers += [up, nn.ReLU(), down, nn.ReLU()]
    return nn.Sequential(*layers)


def shifted(*, mean: float, depth: int = 20, width: int = 200) -> nn.Sequential:
    """He weights with a mean of `mean` standard deviations."""
    network = linears(depth=depth, width=width)
    with torch.no_grad():
        for layer in network[::2]:
            layer.weight += mean * math.sqrt(2 / width)
    return network


def constant(*, value: float | None, depth: int = 4, width: int = 100) -> nn.Sequential:
    """Layers whose weights are all one number; None draws them."""
    network = linears(depth=depth, width=width)
    if value is not None:
        for layer in network[::2]:
            nn.init.constant_(layer.weight, value)
    return network


def cut(*, zero: bool, depth: int = 6, width: int = 80) -> nn.Sequential:
    """A chain with one layer of zeros in the middle."""
    network = linears(depth=depth, width=width)
    if zero:
        nn.init.zeros_(network[depth // 2 * 2].weight)
    return network


def residual_mlp(*, depth: int = 24, width: int = 96, last: float = 1.0) -> nn.Sequential:
    """Residual MLP blocks with leaky ReLU and no normalisation."""

    def block() -> nn.Module:
        up, down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        initialize_layer_(up, "he")
        initialize_layer_(down, "lecun", last)
        return Residual(nn.Sequential(up, nn.LeakyReLU(0.1), down))

    return nn.Sequential(*(block() for _ in range(depth)))


def tanh_saturated(*, gain: float, depth: int = 12, width: int = 128) -> nn.Sequential:
    """Tanh behind weights of `gain` times LeCun's standard deviation."""
    return linears(depth=depth, width=width, init="lecun", gain=gain, act=nn.Tanh)


def dead_bias(*, bias: float, depth: int = 10, width: int = 128) -> nn.Sequential:
    """ReLU behind biases that keep most units off."""
    network = linears(depth=depth, width=width)
    for layer in network[::2]:
        nn.init.constant_(layer.bias, bias)
    return network
