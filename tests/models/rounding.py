"""Networks after public reports in which numbers break; by default they are guarded, see reports.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn


class Squashed(nn.Module):
    """An action and the logarithm of its density, behind a tanh."""

    def __init__(self, width: int, guard: float) -> None:
        super().__init__()
        self.guard, self.body = guard, drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = self.body(x)
        action = u.tanh()
        return action, (-0.5 * u.pow(2) - (1 - action.pow(2) + self.guard).log()).sum(-1)


def squashed_action(*, guard: float = 1e-6) -> nn.Module:
    """Without a guard the logarithm of 1 - tanh^2."""
    return Squashed(64, guard)


class WrittenLosses(nn.Module):
    """Log-probabilities of classes and of the opposite of a score, fused or written out."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.fused, self.body = fused, drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU()))
        self.classes, self.score = nn.Linear(width, 8), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        classes, score = self.classes(y), self.score(y)
        if self.fused:
            return torch.cat([classes.log_softmax(-1), functional.logsigmoid(-score)], -1)
        return torch.cat([classes.softmax(-1).log(), (1 - score.sigmoid()).log()], -1)


def written_losses(*, fused: bool = True) -> nn.Module:
    """Not fused: the logarithm of a softmax, and of one less a sigmoid."""
    return WrittenLosses(64, fused)


class Distances(nn.Module):
    """Distances between all positions, themselves among them."""

    def __init__(self, width: int, guard: float) -> None:
        super().__init__()
        self.guard, self.head = guard, nn.Linear(12, 5)
        self.body = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 8)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        squares = (y[:, :, None] - y[:, None]).pow(2).sum(-1)
        return self.head((squares + self.guard).sqrt() if self.guard else squares.sqrt()).mean(1)


def all_distances(*, guard: float = 1e-2) -> nn.Module:
    """Without a guard the root of zeros on the diagonal."""
    return Distances(32, guard)


class Reduced(nn.Module):
    """Features behind a ReLU, some pruned, reduced by a function that is not defined or has no slope at zero."""

    def __init__(self, width: int, how: str, guard: float) -> None:
        super().__init__()
        self.how, self.guard = how, guard
        self.body, self.head = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU())), nn.Linear(width, 5)
        self.register_buffer("kept", (torch.arange(width) < width - 8).float())

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) * self.kept
        if self.how == "capsules":
            parts = y.reshape(y.shape[0], -1, 4)
            square = parts.pow(2).sum(-1, keepdim=True)
            y = (square / (1 + square) * parts / (square + self.guard).sqrt()).flatten(1)
        elif self.how == "shares":
            parts = y.reshape(y.shape[0], -1, 8)
            y = (parts / (parts.sum(-1, keepdim=True) + self.guard)).flatten(1)
        elif self.how == "deviation":
            square = (y - y.mean(0)).pow(2).mean(0)
            y = y + (square + self.guard).sqrt()
        else:
            parts = y.reshape(y.shape[0], -1, 4)
            y = (parts.pow(3).mean(-1, keepdim=True) + self.guard).pow(1 / 3).expand_as(parts).flatten(1)
        return self.head(y)


def reduced_units(*, how: str = "capsules", guard: float = 1e-3) -> nn.Module:
    """Ways: "capsules" (squashed), "shares" of a sum, the "deviation" over the batch, a "power" mean."""
    return Reduced(64, how, guard)
