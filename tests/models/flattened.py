"""Networks after public reports in which functions are flat, missing or in the wrong place; see reports.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn


def leaky_classifier(*, slope: float = 0.01) -> nn.Module:
    """Two hidden layers with leaky ReLUs."""
    act = nn.LeakyReLU(slope)
    return drawn(nn.Sequential(nn.Linear(32, 64), act, nn.Linear(64, 64), nn.LeakyReLU(slope), nn.Linear(64, 5)))


def normalised_classifier(*, activation: bool = True) -> nn.Module:
    """Two hidden layers with batch normalisation, with or without an activation behind it."""
    layers: list[nn.Module] = []
    for inputs in (32, 64):
        layers += [nn.Linear(inputs, 64), nn.BatchNorm1d(64), *([nn.ReLU()] if activation else [])]
    return drawn(nn.Sequential(*layers, nn.Linear(64, 5)))


def dropped_units(*, share: float = 0.2, behind: bool = False) -> nn.Module:
    """Two hidden layers with dropout, and perhaps one behind the last layer."""
    layers: list[nn.Module] = []
    for inputs in (32, 64):
        layers += [nn.Linear(inputs, 64), nn.ReLU(), nn.Dropout(share)]
    return drawn(nn.Sequential(*layers, nn.Linear(64, 5), *([nn.Dropout(share)] if behind else [])))


class Highway(nn.Module):
    """Layers that a gate mixes with what they read."""

    def __init__(self, width: int, depth: int, bias: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(drawn(nn.Linear(width, width)) for _ in range(depth))
        self.gates, self.head = nn.ModuleList(nn.Linear(width, width) for _ in range(depth)), nn.Linear(width, 5)
        for gate in self.gates:
            nn.init.constant_(gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer, gate in zip(self.layers, self.gates, strict=True):
            share = gate(x).sigmoid()
            x = share * layer(x).relu() + (1 - share) * x
        return self.head(x)


def gated_layers(*, bias: float = -2.0, depth: int = 1) -> nn.Module:
    """A bias of -20 shuts all gates."""
    return Highway(32, depth, bias)


def softmax_layers(*, wrong: bool = False) -> nn.Module:
    """Wrong: softmaxes for activations."""
    layers: list[nn.Module] = []
    for inputs in (32, 64):
        layers += [nn.Linear(inputs, 64), nn.Softmax(-1) if wrong else nn.ReLU()]
    return drawn(nn.Sequential(*layers, nn.Linear(64, 5)))


def rectified_score(*, wrong: bool = False) -> nn.Module:
    """Wrong: a ReLU in front of the last sigmoid."""
    body = drawn(nn.Sequential(nn.Linear(32, 64), nn.ReLU()))
    return nn.Sequential(body, nn.Linear(64, 1), *([nn.ReLU()] if wrong else []), nn.Sigmoid())


class Cosines(nn.Module):
    """Classes by the cosines with learnt directions, times a number."""

    def __init__(self, width: int, factor: float) -> None:
        super().__init__()
        self.factor, self.directions = factor, nn.Parameter(torch.randn(10, width) * 0.1)
        self.body = drawn(nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width)))

    def forward(self, x: Tensor) -> Tensor:
        cosines = functional.linear(
            functional.normalize(self.body(x), dim=-1), functional.normalize(self.directions, dim=-1)
        )
        return cosines if self.factor == 1 else self.factor * cosines


def cosine_classes(*, factor: float = 16.0) -> nn.Module:
    """Bare cosines with a factor of 1."""
    return Cosines(64, factor)


class Turned(nn.Module):
    """Features of length 1 against learnt directions."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.body, self.directions = (
            axis,
            drawn(nn.Sequential(nn.Linear(64, 64), nn.ReLU())),
            nn.Linear(64, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.directions(8 * functional.normalize(self.body(x), dim=self.axis))
        return found


def turned_features(*, axis: int = 1) -> nn.Module:
    """Along axis 0 each feature is divided by its length over the batch."""
    return Turned(axis)


class Pairs(nn.Module):
    """Similarities of two views of a batch, scaled by a fixed temperature or by a learnt number."""

    def __init__(self, width: int, factor: float, learnt: bool) -> None:
        super().__init__()
        self.first, self.second = (
            drawn(nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width))) for _ in range(2)
        )
        self.factor = nn.Parameter(torch.tensor(factor)) if learnt else factor

    def forward(self, x: Tensor) -> Tensor:
        a, b = functional.normalize(self.first(x), dim=-1), functional.normalize(self.second(x), dim=-1)
        return (
            (a @ b.T) * self.factor.exp()
            if isinstance(self.factor, Tensor)
            else ((a @ b.T) * self.factor).log_softmax(-1)
        )


def tempered_pairs(*, factor: float = 1 / 0.07) -> nn.Module:
    """0.07 multiplies where it should divide."""
    return Pairs(64, factor, False)


def scaled_pairs(*, start: float = 2.659) -> nn.Module:
    """The logarithm of a learnt scale starts at `start`, and the loss is outside."""
    return Pairs(64, start, True)


def gated_memory(*, bias: float = 3.0) -> nn.Module:
    """A GRU over many steps, read at the last, whose update gate starts at some bias."""
    return GatedMemory(32, bias)


class GatedMemory(nn.Module):
    """A GRU and a head on its last step."""

    def __init__(self, width: int, bias: float) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(16, width, batch_first=True), nn.Linear(width, 5)
        with torch.no_grad():
            self.rnn.bias_ih_l0[width : 2 * width] += bias

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])
