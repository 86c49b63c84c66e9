"""Networks about activations and where normalisation stands: each mistake is an argument, its correction the default.

Linear networks are 128 wide, convolutional ones have 16 channels, unless the case is about the size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.models.branched import ScaledStdConv
from tests.models.common import ACTIVATIONS, Residual, conv, linear
from tests.models.transformer import PostNormBlock
from tests.models.vit import Block


def square(channels: int, gain: float = 1.0, bias: bool = False) -> nn.Conv2d:
    """A 3x3 convolution that keeps size and channels, without a border."""
    return conv(channels, channels, gain=gain, bias=bias, padding_mode="circular")


def unit_gain_chain(*, depth: int = 40, width: int = 128) -> nn.Sequential:
    """A plain chain whose phi is 1: what is left to judge is its variance."""
    return nn.Sequential(*(m for _ in range(depth) for m in (linear(width, width), nn.ReLU())))


def saturated_units(*, depth: int = 4, width: int = 128, scale: float = 1.0) -> nn.Sequential:
    """Layers with a normalisation of this scale before each tanh."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        norm = nn.BatchNorm1d(width)
        nn.init.constant_(norm.weight, scale)
        layers += [linear(width, width, "lecun"), norm, nn.Tanh()]
    return nn.Sequential(*layers)


class ExcitedMaps(nn.Module):
    """A residual block whose normalised branch is weighted by what is squeezed out of its averages."""

    def __init__(self, width: int, bias: float | None, scale: float) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        nn.init.constant_(self.norm.weight, scale)
        self.squeeze, self.excite = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)
        if bias is not None:
            nn.init.constant_(self.squeeze.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        shares = self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return (x + y * shares).relu()


def excited_maps(*, depth: int = 3, width: int = 32, bias: float | None = None, scale: float = 1.0) -> nn.Sequential:
    """Squeeze and excitation as the framework draws it: noise has averages of nearly 0, images do not.

    A scale of 0 is that of timm's residual networks: each block starts as its shortcut, gate or not.
    """
    blocks = [ExcitedMaps(width, bias, scale) for _ in range(depth)]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(width * 256, 10))


def silent_layers(*, depth: int = 3, width: int = 128, bias: float = 0.0, normalized: bool = False) -> nn.Sequential:
    """ReLU layers with this bias, of the layer or of the normalisation behind it."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(linear(width, width))
        if normalized:
            layers.append(nn.BatchNorm1d(width))
        nn.init.constant_(layers[-1].bias, bias)
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def bounded_shares(*, width: int = 64, way: str = "sigmoid") -> nn.Sequential:
    """Outputs between 0.5 and 1 by a sigmoid or a clamp of numbers about 0; codes that are shrunk by 5, or by 0.1."""
    body = [linear(width, width), nn.ReLU(), linear(width, 8, "lecun", gain=0.1)]
    ends: dict[str, list[nn.Module]] = {
        "sigmoid": [nn.Sigmoid()],
        "clamp": [nn.Hardtanh(0.5, 1.0)],
        "shrink": [nn.BatchNorm1d(8), nn.Softshrink(5.0), linear(8, 8, "lecun")],
        "slight": [nn.BatchNorm1d(8), nn.Softshrink(0.1), linear(8, 8, "lecun")],
    }
    return nn.Sequential(*body, *ends[way])


def straight_layers(*, width: int = 64, way: str = "clamp", bound: float = 1.0) -> nn.Sequential:
    """Layers with clamps at this bound between them, or with softplus of this beta."""
    kinds = {"clamp": lambda: nn.Hardtanh(-bound, bound), "softplus": lambda: nn.Softplus(bound)}
    layers = [each for _ in range(2) for each in (linear(width, width, "lecun"), kinds[way]())]
    return nn.Sequential(*layers, linear(width, 10, "lecun"))


def actor(*, width: int = 64, bound: float = 3e-3) -> nn.Sequential:
    """A deterministic policy: as the framework draws it, but for a last layer near zero in front of a tanh."""
    last = nn.Linear(width, 4)
    nn.init.uniform_(last.weight, -bound, bound)
    nn.init.uniform_(last.bias, -bound, bound)
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last, nn.Tanh())


def selu_layers(*, depth: int = 20, width: int = 128, dropout: float = 0.0) -> nn.Sequential:
    """LeCun weights and SELU, with a dropout behind each if asked for."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [linear(width, width, "lecun"), nn.SELU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def bounded_trunk(*, depth: int = 20, channels: int = 16, activation: str = "identity") -> nn.Sequential:
    """Residual blocks whose branch counts a quarter, with this activation on the sum."""
    return nn.Sequential(
        square(channels),
        *(Residual(nn.Sequential(nn.ReLU(), square(channels, 0.5)), ACTIVATIONS[activation]()) for _ in range(depth)),
    )


def normalized_sums(*, depth: int = 12, channels: int = 16, order: str = "pre") -> nn.Sequential:
    """Residual blocks of two convolutions.

    Args:
        order: where the second normalisation stands: "pre" (both ahead of their activation and convolution), "post" (in
            the branch, ReLU behind the sum), "behind" (on the sum), "rectified" (in the branch, a ReLU after it).
    """

    def block() -> nn.Module:
        norms, convs = (nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)), (square(channels), square(channels))
        if order == "pre":
            return Residual(nn.Sequential(norms[0], nn.ReLU(), convs[0], norms[1], nn.ReLU(), convs[1]))
        first = (convs[0], norms[0], nn.ReLU(), convs[1])
        if order == "behind":
            return Residual(nn.Sequential(*first), nn.Sequential(norms[1], nn.ReLU()))
        if order == "rectified":
            return Residual(nn.Sequential(*first, norms[1], nn.ReLU()))
        return Residual(nn.Sequential(*first, norms[1]), nn.ReLU())

    return nn.Sequential(square(channels), *(block() for _ in range(depth)))


def transformer_stack(*, depth: int = 12, width: int = 64, heads: int = 4, post: bool = False) -> nn.Sequential:
    """Pre-norm or post-norm blocks on (batch, tokens, width)."""
    blocks = [PostNormBlock(width, heads) if post else Block(width, heads, fused=True) for _ in range(depth)]
    for module in (module for block in blocks for module in block.modules()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return nn.Sequential(*blocks)


def normed_weights(*, depth: int = 20, width: int = 128, g: float = 2**0.5) -> nn.Sequential:
    """Weight-normalised layers of row norm g under ReLU."""

    def layer() -> nn.Module:
        normed = parametrizations.weight_norm(linear(width, width))
        with torch.no_grad():
            normed.parametrizations.weight.original0.fill_(g)
        return normed

    return nn.Sequential(*(m for _ in range(depth) for m in (layer(), nn.ReLU())))


def standardized_convs(*, depth: int = 20, channels: int = 16, gamma: float = 2**0.5) -> nn.Sequential:
    """Scaled standardised convolutions with ReLU, circular padding left out: the border loses the same in all."""
    return nn.Sequential(
        *(m for _ in range(depth) for m in (ScaledStdConv(channels, channels, 3, gamma=gamma), nn.ReLU()))
    )


def centred_layers(*, depth: int = 30, width: int = 128, centred: bool = True) -> nn.Sequential:
    """He layers with ReLU, the mean of every row taken out of it: what the inputs have in common is lost."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = linear(width, width)
        if centred:
            with torch.no_grad():
                layer.weight -= layer.weight.mean(1, keepdim=True)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def few_values(*, norm: str = "batch", channels: int = 16, pooled: bool = True, groups: int = 4) -> nn.Sequential:
    """A convolution, a pooling to one pixel or none, and a normalisation before the head."""
    kinds: dict[str, nn.Module] = {
        "batch": nn.BatchNorm2d(channels),
        "group": nn.GroupNorm(groups, channels),
        "layer": nn.GroupNorm(1, channels),
    }
    pool: nn.Module = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
    last = (
        (nn.Flatten(), nn.Linear(channels, 10))
        if pooled
        else (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    )
    return nn.Sequential(
        square(channels),
        nn.ReLU(),
        pool,
        square(channels) if not pooled else nn.Conv2d(channels, channels, 1),
        kinds[norm],
        nn.ReLU(),
        *last,
    )


def normalized_convs(
    *,
    depth: int = 6,
    channels: int = 16,
    bias: bool = False,
    scale: float = 1.0,
    spread: float = 0.0,
    seen: bool = False,
    norm: bool = True,
) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU.

    Args:
        bias: of the convolutions.
        scale, spread: mean and standard deviation of the normalisations' scales.
        seen: the running statistics are not those of a fresh layer.
    """
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(square(channels, bias=bias))
        if norm:
            made = nn.BatchNorm2d(channels)
            nn.init.normal_(made.weight, scale, spread)
            if seen:
                made.running_var.fill_(2.0)
            layers.append(made)
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def normalized_chain(*, depth: int = 40, width: int = 128, skips: bool = False) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, in a plain chain or each around a shortcut."""
    units = [nn.Sequential(linear(width, width), nn.BatchNorm1d(width), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*(Residual(unit) if skips else unit for unit in units))


class _Root(nn.Module):
    """sqrt(|x|): its slope has no second moment, so no number can be given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt()


def rooted(*, root: bool = True) -> nn.Sequential:
    """Two layers with a root between, or a ReLU."""
    return nn.Sequential(linear(32, 32), _Root() if root else nn.ReLU(), linear(32, 10))
