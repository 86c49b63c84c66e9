"""The designs of the paper's experiments (arXiv 2001.00254), narrow, each with what its theory says of a block.

A design is a body on (N, 24, 4, 4): what is predicted and measured. For training a convolution stands in front of it
and a linear layer behind. Convolutions are circular, so that no border takes a share of the gradient.

The statements are those of the paper's components and theorems as gnelint's theory (sections 3, 5 and 6) has them. phi
is of one layer or block with its activation and normalisation, `spread` the relative variance of its spectrum: 1 for
independent entries, 8/9 for a flat orthogonal 3x3 kernel, 0 for a delta-orthogonal one (theory 3.2), plus that of the
activation. Where a normalisation divides by a standard deviation, the paper's components take the mean of its input as
0, which gives phi(f) / E f^2; with the mean it is phi(f) / Var f (theory 5.2): both are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnelint.nn import CentredConv2d, L1Norm2d, ScaledELU, SecondMomentNorm2d, convert
from gnelint.theory.gaussian.selu import solve_selu
from tests.models.common import initialize_

_L1 = math.pi / 2
"""Variance of a Gaussian over its squared mean absolute deviation."""
WIDTH, SIDE = 24, 4
DEPTH = 32
"""Layers of the serial networks."""
BLOCKS = 8
"""Of the residual, dense and separable networks."""


@dataclass(frozen=True)
class Design:
    """One line of the table.

    Attributes:
        name: for people, and the key of its results.
        group: the experiment that it belongs to.
        make: draws the body.
        phi: of one block, what the paper's theory says; None where it differs from block to block.
        bits: log2 of the squared gradient norm from end to end, what the paper's theory says.
        corrected: the same with the means that theory 5.2 takes into account; None where nothing changes.
        spread: relative variance of one block's spectrum; None where the paper gives none.
    """

    name: str
    group: str
    make: Callable[[], nn.Module]
    phi: float | None
    bits: float
    corrected: float | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Unit:
    """An activation on z ~ N(0, 1): E f'(z)^2, relative variance of f'^2, E f(z)^2 and Var f(z) (theory 3.3)."""

    make: Callable[[], nn.Module]
    phi: float
    spread: float
    second: float
    variance: float


def leaky(slope: float, make: Callable[[], nn.Module], scale: float = 1.0) -> Unit:
    """A rectifier with a slope below 0, times a scale."""
    phi = (1 + slope**2) / 2 * scale**2
    mean = (1 - slope) / math.sqrt(2 * math.pi) * scale
    return Unit(make, phi, ((1 - slope**2) / (1 + slope**2)) ** 2, phi, phi - mean**2)


class ScaledPReLU(nn.Module):
    """sqrt(2 / (1 + a^2)) PReLU(x): phi is 1 whatever slope a is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        return functional.prelu(x, self.slope.reshape(1)) * torch.sqrt(2.0 / (1.0 + self.slope**2))


UNITS: dict[str, Unit] = {
    "ReLU": leaky(0.0, nn.ReLU),
    "tanh": Unit(nn.Tanh, 0.464402902448, 0.125839151514 / 0.464402902448**2, 0.394294490398, 0.394294490398),
    "leaky ReLU 0.18": leaky(0.18, partial(nn.LeakyReLU, 0.18)),
    "leaky ReLU 0.3": leaky(0.3, partial(nn.LeakyReLU, 0.3)),
    "leaky ReLU 0.5": leaky(0.5, partial(nn.LeakyReLU, 0.5)),
    "PReLU": leaky(0.25, nn.PReLU),
    "sPReLU": leaky(0.25, ScaledPReLU, math.sqrt(2 / (1 + 0.25**2))),
}
DRAWS: dict[str, tuple[str, float]] = {
    "Kaiming": ("lecun", 1.0),
    "orthogonal": ("orthogonal", 8 / 9),
    "delta-orthogonal": ("delta_orthogonal", 0.0),
}
"""The draw with phi 1 of `initialize_`, and its relative variance."""


def conv(
    init: str = "lecun", gain: float = 1.0, kind: type[nn.Conv2d] = nn.Conv2d, kernel: int = 3, groups: int = 1
) -> nn.Conv2d:
    """A circular convolution of as many channels, without a bias."""
    layer = kind(WIDTH, WIDTH, kernel, padding=kernel // 2, padding_mode="circular", groups=groups, bias=False)
    initialize_(layer.weight, init, gain)
    return layer


def serial(unit: Unit, init: str, gain: float, norm: type[nn.Module] | None, kind: type[nn.Conv2d]) -> nn.Module:
    """`DEPTH` layers in a row."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers.append(conv(init, gain, kind))
        if norm is not None:
            layers.append(norm(WIDTH))
        layers.append(unit.make())
    return nn.Sequential(*layers)


class WeightNormalised(nn.Conv2d):
    """Each filter centred, over its standard deviation, times sqrt(2 / fan_in): the paper's configuration."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, unbiased=False, keepdim=True)
        return self._conv_forward(x, (rows * math.sqrt(2 / rows.size(1))).view_as(self.weight), None)


class UnitNormalised(nn.Conv2d):
    """Each filter over its norm: weight normalisation as it starts with g = 1."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.flatten(1)
        return self._conv_forward(x, (rows / rows.norm(dim=1, keepdim=True)).view_as(self.weight), None)


class Residual(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), without norms where there are none."""

    def __init__(self, gains: tuple[float, float], norm: bool) -> None:
        super().__init__()
        self.first, self.last = conv("he", gains[0]), conv("he", gains[1])
        self.norm1, self.norm2 = (nn.BatchNorm2d(WIDTH) if norm else nn.Identity() for _ in range(2))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.relu(self.norm1(x)))
        return x + self.last(self.relu(self.norm2(y)))


class Dense(nn.Module):
    """A dense block: each layer adds `GROWTH` channels to all before."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH + GROWTH * index) for index in range(BLOCKS))
        self.convs = nn.ModuleList(
            nn.Conv2d(WIDTH + GROWTH * index, GROWTH, 3, padding=1, padding_mode="circular", bias=False)
            for index in range(BLOCKS)
        )
        for layer in self.convs:
            initialize_(layer.weight, "he")

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.convs, strict=True):
            x = torch.cat((x, layer(torch.relu(norm(x)))), 1)
        return x


GROWTH = 6


class Separable(nn.Module):
    """A depthwise and a 1x1 convolution, each with a normalisation and a ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.pointwise = conv("lecun", groups=WIDTH), conv("lecun", kernel=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)
        self.act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.depthwise(x)))
        return self.act(self.norm2(self.pointwise(x)))


def residual(norm: bool = False, gains: tuple[float, float] = (1.0, 1.0)) -> nn.Module:
    """`BLOCKS` residual blocks."""
    return nn.Sequential(*(Residual(gains, norm) for _ in range(BLOCKS)))


def converted(what: str, make: Callable[[], nn.Module]) -> nn.Module:
    """A network with its batch normalisations replaced and its filters centred."""
    return convert(convert(make(), what), "plain->centred")


def designs() -> Iterator[Design]:
    """All lines, experiment by experiment."""
    yield from _serial()
    yield from _normalised()
    yield from _selu()
    yield from _residual()
    yield from _others()


def _serial() -> Iterator[Design]:
    for name, unit in UNITS.items():
        for draw, (init, spread) in DRAWS.items():
            make = partial(serial, unit, init, unit.phi**-0.5, None, nn.Conv2d)
            yield Design(f"{name}, {draw}", "serial, 32 layers", make, 1.0, 0.0, spread=spread + unit.spread)


def _normalised() -> Iterator[Design]:
    kinds: list[tuple[str, type[nn.Module], type[nn.Conv2d], list[str]]] = [
        ("BatchNorm", nn.BatchNorm2d, nn.Conv2d, list(UNITS)),
        ("second moment, centred filters", SecondMomentNorm2d, CentredConv2d, ["ReLU", "leaky ReLU 0.3", "tanh"]),
        ("L1, centred filters", L1Norm2d, CentredConv2d, ["ReLU"]),
    ]
    for norm, layer, kind, names in kinds:
        for name in names:
            unit = UNITS[name]
            phi, exact = unit.phi / unit.second, unit.phi / unit.variance
            make = partial(serial, unit, "lecun", unit.phi**-0.5, layer, kind)
            # the first layer reads what has second moment 1, the others what an activation left
            first = math.log2(unit.phi * (_L1 if layer is L1Norm2d else 1.0))
            bits, corrected = (first + (DEPTH - 1) * math.log2(each) for each in (phi, exact))
            group = "serial, 32 layers, normalised"
            yield Design(f"{name}, Kaiming, {norm}", group, make, phi, bits, corrected, 1.0 + unit.spread)
    relu, group = UNITS["ReLU"], "weight normalisation, 32 layers"
    yield Design("ReLU, sqrt(2/fan_in), centred", group, partial(serial, relu, "lecun", 1.0, None, WeightNormalised),
                 1.0, 0.0, spread=2.0)  # fmt: skip
    yield Design(
        "ReLU, g = 1", group, partial(serial, relu, "lecun", 1.0, None, UnitNormalised), 0.5, -32.0, spread=2.0
    )


def _selu() -> Iterator[Design]:
    for gain in (1.0, math.sqrt(2.0)):
        for epsilon in (0.0716, 0.03):
            found = solve_selu(epsilon, gain)
            unit = Unit(partial(ScaledELU, found.alpha, found.scale), 0.0, 0.0, 0.0, 0.0)
            for draw in ("Kaiming", "orthogonal"):
                name = f"epsilon {epsilon:g}, gain {'1' if gain == 1.0 else 'sqrt 2'}, {draw}"
                if (epsilon, gain) == (0.0716, 1.0):
                    name += " (SELU)"
                make = partial(serial, unit, DRAWS[draw][0], gain, None, nn.Conv2d)
                yield Design(name, "SELU for a depth, 32 layers", make, 1 + epsilon, DEPTH * math.log2(1 + epsilon))


def _residual() -> Iterator[Design]:
    group, make = "residual, 8 blocks", partial(residual, True)
    second, l1 = (partial(converted, f"batchnorm->{kind}", make) for kind in ("smn", "l1"))
    yield Design("BatchNorm", group, make, None, *_stream(1.0))
    yield Design("second moment, centred filters", group, second, None, *_stream(1.0))
    yield Design("L1, centred filters", group, l1, None, *_stream(_L1))
    yield Design("no normalisation", group, residual, 2.0, float(BLOCKS))
    for power in (1.0, 2.0):
        gain = BLOCKS ** (-power / 4)
        each = 1 + BLOCKS**-power
        yield Design(f"the paper's Fixup, p = {power:g}", group, partial(residual, False, (gain, gain)), each,
                     BLOCKS * math.log2(each))  # fmt: skip
    yield Design("the original Fixup (1901.09321)", group, partial(residual, False, (BLOCKS**-0.5, 0.0)), 1.0, 0.0)


def _others() -> Iterator[Design]:
    # a concatenation of c channels and d new ones has phi (c + d phi_H) / (c + d) (theory 2.3); new channels have the
    # variance 1 - 1/pi of a ReLU's, where the paper's components see 1
    exact = 0.0
    for index in range(BLOCKS):
        channels = WIDTH + GROWTH * index
        branch = (WIDTH + GROWTH * index * math.pi / (math.pi - 1)) / channels
        exact += math.log2((channels + GROWTH * branch) / (channels + GROWTH))
    group = "dense, 8 layers"
    yield Design("BatchNorm", group, Dense, 1.0, 0.0, exact)
    yield Design("second moment, centred filters", group, partial(converted, "batchnorm->smn", Dense), 1.0, 0.0, exact)
    unit = UNITS["ReLU"]
    exact = math.log2(unit.phi) + (2 * BLOCKS - 1) * math.log2(unit.phi / unit.variance)
    group = "separable, 8 blocks"
    yield Design("BatchNorm", group, partial(_stack, Separable), 1.0, -1.0, exact)
    smn = partial(converted, "batchnorm->smn", partial(_stack, Separable))
    yield Design("second moment, centred filters", group, smn, 1.0, -1.0, exact)


def _stream(scale: float) -> tuple[float, float]:
    """Bits of the residual network whose normalisations divide by a deviation of 1 / sqrt(scale) standard ones.

    Block l adds a branch of phi 1 to a stream of second moment 1 + l (the paper's components) or, with the mean that
    the ReLUs leave, one of phi pi / (pi - 1) to a stream of variance 1 + l (1 - 1/pi) (theory 5.2).
    """
    centred = 1 - 1 / math.pi
    paper = sum(math.log2(1 + scale / (1 + block * scale)) for block in range(BLOCKS))
    exact = sum(math.log2(1 + scale / (1 + block * scale * centred) / centred) for block in range(BLOCKS))
    return paper, exact


def _stack(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(*(kind() for _ in range(BLOCKS)))
