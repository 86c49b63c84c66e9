"""Residual, dense and gated networks with a mistake of structure or scale, each beside its correction by an argument.

Small: 16 channels on 16x16 or 32 to 64 units wide; what counts is the depth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.common import ACTIVATIONS, Residual, conv, linear


def last_norm(
    *,
    depth: int = 20,
    channels: int = 16,
    last: float = 1.0,
    act: str = "relu",
    keep: float = 1.0,
    pooled: bool = False,
) -> nn.Sequential:
    """Two-conv BatchNorm blocks.

    Args:
        last: the scale of the last normalisation in each.
        act: stands on the trunk.
        keep: factor on each shortcut.
        pooled: a mean over all pixels and a classifier behind the blocks.
    """
    blocks: list[nn.Module] = [conv(3, channels)]
    for _ in range(depth):
        norm = nn.BatchNorm2d(channels)
        nn.init.constant_(norm.weight, last)
        inner = (conv(channels, channels), nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels), norm)
        blocks.append(Residual(nn.Sequential(*inner), behind=ACTIVATIONS[act](), keep=keep))
    if pooled:
        blocks += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(channels, 10, "lecun")]
    return nn.Sequential(*blocks)


def scaled_shortcut(*, depth: int = 30, width: int = 32, keep: float = 1.0) -> nn.Sequential:
    """Pre-norm MLP blocks, zero-initialised, whose shortcut is multiplied by `keep`."""

    def branch() -> nn.Module:
        return nn.Sequential(nn.LayerNorm(width), linear(width, width), nn.ReLU(), linear(width, width, gain=0.0))

    return nn.Sequential(*(Residual(branch(), keep=keep) for _ in range(depth)), linear(width, 10, "lecun"))


def skipinit(*, depth: int = 24, width: int = 32, scale: float = 1.0, norm: bool = False) -> nn.Sequential:
    """MLP blocks whose branch ends in a learnt scalar (SkipInit, ReZero) that starts at `scale`."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = linear(width, 2 * width), linear(2 * width, width)
            self.norm = nn.LayerNorm(width) if norm else nn.Identity()
            self.alpha = nn.Parameter(torch.full((1,), scale))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.alpha * self.last(functional.relu(self.first(self.norm(x))))

    return nn.Sequential(*(Scaled() for _ in range(depth)), linear(width, 10, "lecun"))


class GatedMlp(nn.Module):
    """x + w2(silu(w1 norm(x)) * w3 norm(x)), with factors on the standard deviations 1/sqrt(fan_in)."""

    def __init__(self, width: int, value: float, last: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.w1, self.w3 = linear(width, 2 * width, "lecun"), linear(width, 2 * width, "lecun", value)
        self.w2 = linear(2 * width, width, "lecun", last)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.w2(functional.silu(self.w1(y)) * self.w3(y))


def gated_mlps(*, depth: int = 24, width: int = 32, scaled: str = "last") -> nn.Sequential:
    """Gated pre-norm blocks; the factor 1/sqrt(depth) is on the layer that writes the trunk ("last"), on another, or
    on "none"."""
    factor = depth**-0.5
    value, last = (factor if scaled == "value" else 1.0), (factor if scaled == "last" else 1.0)
    return nn.Sequential(*(GatedMlp(width, value, last) for _ in range(depth)), linear(width, 10, "lecun"))


def prenorm_mlps(*, depth: int = 64, width: int = 32, gain: float = 1.0, odd: float = 1.0) -> nn.Sequential:
    """Pre-norm MLP blocks; `gain` is a factor on the layers that write the trunk, `odd` one on that in the middle."""

    def branch(factor: float) -> nn.Module:
        inner = linear(width, 2 * width), nn.GELU(), linear(2 * width, width, "he", factor)
        return nn.Sequential(nn.LayerNorm(width), *inner)

    factors = [gain * (odd if index == depth // 2 else 1.0) for index in range(depth)]
    return nn.Sequential(*(Residual(branch(factor)) for factor in factors), linear(width, 10, "lecun"))


class Growing(nn.Module):
    """concat(x, relu(layer(x)))."""

    def __init__(self, inputs: int, growth: int, gain: float) -> None:
        super().__init__()
        self.layer = linear(inputs, growth, "he", gain)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, functional.relu(self.layer(x))], 1)


def dense(*, depth: int = 24, width: int = 32, growth: int = 16, gain: float = 1.0) -> nn.Sequential:
    """A dense block without normalisation; `gain` is a factor on He."""
    layers: list[nn.Module] = [Growing(width + index * growth, growth, gain) for index in range(depth)]
    return nn.Sequential(*layers, linear(width + depth * growth, 10, "lecun"))


class Gate(nn.Module):
    """relu(layer(x)) gated by a sigmoid of the pooled channels ("excite"), or not."""

    def __init__(self, channels: int, kind: str, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.layer = conv(channels, channels)
        self.gate = None if kind == "none" else conv(channels, channels, "lecun", kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.layer(x))
        if self.gate is None:
            return y
        gate = torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(y, 1)))
        return y * gate if self.factor == 1.0 else y * gate * self.factor


def gates(*, depth: int = 16, channels: int = 16, kind: str = "excite", factor: float = 1.0) -> nn.Sequential:
    """Gated convolutions one behind the other; `factor` multiplies what a gate lets through."""
    return nn.Sequential(conv(3, channels), *(Gate(channels, kind, factor) for _ in range(depth)))


class Fork(nn.Module):
    """Two branches side by side; the weights of one are multiplied by `gain`, or a trained scale starts it there."""

    def __init__(self, width: int, gain: float, scaled: bool) -> None:
        super().__init__()
        self.left, self.right = linear(width, width // 2), linear(width, width // 2, "he", 1.0 if scaled else gain)
        self.scale = nn.Parameter(torch.full((width // 2,), gain)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        right = functional.relu(self.right(x))
        return torch.cat([functional.relu(self.left(x)), right if self.scale is None else self.scale * right], 1)


def forks(*, depth: int = 3, width: int = 64, gain: float = 1.0, scaled: bool = False) -> nn.Sequential:
    """Parallel branches that are concatenated."""
    return nn.Sequential(*(Fork(width, gain, scaled) for _ in range(depth)), linear(width, 10, "lecun"))


class Highway(nn.Module):
    """t(x) h(x) + (1 - t(x)) x with a gate t that starts nearly closed (arXiv 1505.00387)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.gate = linear(width, width), linear(width, width, "lecun")
        nn.init.constant_(self.gate.bias, -4.0)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        return gate * functional.relu(self.layer(x)) + (1 - gate) * x


def highway(*, depth: int = 20, width: int = 64) -> nn.Sequential:
    """Highway layers, which carry their input on at the start."""
    return nn.Sequential(linear(width, width), *(Highway(width) for _ in range(depth)), linear(width, 10, "lecun"))


def one_layer_off(*, depth: int = 8, width: int = 64, gain: float = 1.0, norm: bool = False) -> nn.Sequential:
    """He layers with ReLU, one in the middle with weights times `gain`; with `norm`, a LayerNorm behind it."""
    layers: list[nn.Module] = []
    for index in range(depth):
        odd = index == depth // 2
        layers.append(linear(width, width, "he", gain if odd else 1.0))
        if odd and norm:
            layers.append(nn.LayerNorm(width))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, linear(width, 10, "lecun"))


def narrow_mlp(*, depth: int = 100, width: int = 16) -> nn.Sequential:
    """He layers with ReLU; the narrower, the more the gradient depends on the draw."""
    layers = [module for _ in range(depth) for module in (linear(width, width), nn.ReLU())]
    return nn.Sequential(linear(16, width), nn.ReLU(), *layers)


def waist(*, width: int = 128, narrow: int = 2) -> nn.Sequential:
    """A classifier of `width` whose middle layer has `narrow` units."""
    body = linear(width, width), nn.ReLU(), linear(width, narrow), nn.ReLU(), linear(narrow, width), nn.ReLU()
    return nn.Sequential(*body, linear(width, 10, "lecun"))


class Rounded(nn.Module):
    """A classifier on an encoder's output, rounded or not, beside a classifier on the input itself."""

    def __init__(self, width: int, rounds: bool) -> None:
        super().__init__()
        self.encoder, self.head = linear(width, width), linear(width, 10, "lecun")
        self.side, self.rounds = linear(width, 10, "lecun"), rounds

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.encoder(x))
        return self.head(torch.round(y) if self.rounds else y) + self.side(x)


def rounded(*, width: int = 32, rounds: bool = True) -> Rounded:
    """An encoder behind a rounding, which passes no gradient, beside a layer that gets one."""
    return Rounded(width, rounds)


class Switched(nn.Module):
    """A second branch times a mask that nobody trains."""

    mask: Tensor

    def __init__(self, width: int, on: bool, frozen: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 10)
        mask = torch.full((width,), float(on))
        if frozen:
            self.mask = nn.Parameter(mask, requires_grad=False)
        else:
            self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.tanh(self.first(x)) + self.mask * torch.tanh(self.second(x)))
        return found


def switched(*, on: bool = False, frozen: bool = False) -> Switched:
    """A network one branch of which a mask of zeros leaves out: a buffer, or a frozen parameter, as the symbolic branch
    of a KAN has it at its start."""
    return Switched(32, on, frozen)


class PlainUNet(nn.Module):
    """Two levels without normalisation; what the way down computes is concatenated to the way up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = _pair(3, width), _pair(width, 2 * width), _pair(2 * width, 2 * width)
        self.up2, self.up1 = _pair(4 * width, width), _pair(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(functional.max_pool2d(a, 2))
        c = self.middle(functional.max_pool2d(b, 2))
        d = self.up2(torch.cat([functional.interpolate(c, scale_factor=2.0), b], 1))
        found: Tensor = self.head(self.up1(torch.cat([functional.interpolate(d, scale_factor=2.0), a], 1)))
        return found


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class Fire(nn.Module):
    """A narrow 1x1 convolution, then 1x1 and 3x3 ones side by side, concatenated (arXiv 1602.07360)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, width // 2, 1)
        self.one = nn.Conv2d(width // 2, width // 2, 1)
        self.three = nn.Conv2d(width // 2, width // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x))
        return torch.cat([functional.relu(self.one(x)), functional.relu(self.three(x))], 1)


def _drawn(net: nn.Module, gain: float | None) -> nn.Module:
    """He's normal draw times `gain`; the framework's own where that is None."""
    for layer in net.modules():
        if gain is not None and isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.weight.mul_(gain)
    return net


def plain_unet(*, width: int = 16, gain: float | None = 1.0) -> nn.Module:
    """(batch, 3, 16, 16) to a map: ten layers, of which the inner six lie between concatenations."""
    return _drawn(PlainUNet(width), gain)


def fire_modules(*, depth: int = 6, width: int = 32, gain: float | None = 1.0) -> nn.Module:
    """(batch, 32, 8, 8) to the same shape: SqueezeNet's modules, one behind the other."""
    return _drawn(nn.Sequential(*(Fire(width) for _ in range(depth))), gain)
