"""Networks some of whose parameters can never move, each with the correction as its default."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """A frozen layer and a product of two thin matrices beside it (LoRA); what `zeros` names starts at zero."""

    def __init__(self, width: int, rank: int, zeros: str) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        nn.init.kaiming_normal_(self.base.weight, nonlinearity="relu")
        self.down, self.up = nn.Parameter(torch.zeros(rank, width)), nn.Parameter(torch.zeros(width, rank))
        if zeros == "up":
            nn.init.normal_(self.down, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.down.T) @ self.up.T


def low_rank(*, width: int = 64, rank: int = 4, depth: int = 4, zeros: str = "up") -> nn.Sequential:
    """Adapted layers with ReLU between them; `zeros` is "up", as it should be, or "both"."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [LowRank(width, rank, zeros), nn.ReLU()]
    return nn.Sequential(*layers)


class GateOfZero(nn.Module):
    """x + tanh(second(relu(first(y)))) * y: the gate starts closed; what `zeros` names starts at zero."""

    def __init__(self, width: int, zeros: str) -> None:
        super().__init__()
        self.branch = nn.Linear(width, width)
        self.first, self.second = (nn.Linear(width, width, bias=False) for _ in range(2))
        for layer in (self.branch, self.first):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        for layer in (self.second, self.first)[: 2 if zeros == "both" else 1]:
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x).relu()
        return x + torch.tanh(self.second(self.first(y).relu())) * y


def gates_of_zero(*, width: int = 32, depth: int = 3, zeros: str = "last") -> nn.Sequential:
    """Residual branches behind closed gates; `zeros` is "last", as it should be, or "both"."""
    return nn.Sequential(*(GateOfZero(width, zeros) for _ in range(depth)))


class ListedLayers(nn.Module):
    """Layers in a list that the module knows of, or does not."""

    def __init__(self, width: int, depth: int, registered: bool) -> None:
        super().__init__()
        layers = [nn.Linear(width, width) for _ in range(depth)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.layers = nn.ModuleList(layers) if registered else layers
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


def listed_layers(*, width: int = 32, depth: int = 4, registered: bool = True) -> ListedLayers:
    """A small classifier."""
    return ListedLayers(width, depth, registered)


class DroppedLayers(nn.Module):
    """Residual blocks of a convolution and a normalisation, which reads the convolution or, by mistake, the input."""

    def __init__(self, channels: int, depth: int, used: bool) -> None:
        super().__init__()
        self.used = used
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = conv(x)
            x = (x + norm(y if self.used else x)).relu()
        return x


def dropped_layers(*, channels: int = 8, depth: int = 3, used: bool = True) -> DroppedLayers:
    """A residual network."""
    return DroppedLayers(channels, depth, used)
