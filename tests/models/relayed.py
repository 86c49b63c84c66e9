"""Small networks with one thing amiss each, from public reports; see reports.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.unsteady import trunk


class Energies(nn.Module):
    """What a question finds in a sequence: the energies of additive attention."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong
        self.source, self.state = nn.Linear(10, 32), nn.Linear(6, 32)
        self.mix, self.score, self.head = nn.Linear(64, 48), nn.Linear(48, 1), nn.Linear(32, 4)

    def forward(self, x: Tensor, question: Tensor) -> Tensor:
        words, state = self.source(x).relu(), self.state(question).relu()
        repeated = state[:, None].expand(-1, x.shape[1], -1)
        if self.wrong == "repeated":
            repeated = state[:, None].repeat(1, x.shape[1], 1)
        energies = self.mix(torch.cat([repeated, words], -1))
        energies = self.score(energies if self.wrong else energies.tanh())
        return self.head((energies.softmax(1) * words).sum(1))


def plain_energies(*, wrong: str = "") -> nn.Module:
    """Wrong: "expanded", "repeated": no tanh between the layers of the energies: the question's part cancels."""
    return Energies(wrong)


class PaddedWords(nn.Module):
    """A self-attention over a padded text."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong, self.table = wrong, nn.Embedding(12, 32)
        self.places = nn.Parameter(0.5 * torch.randn(12, 32))
        self.query, self.key, self.value, self.head = (nn.Linear(32, n) for n in (32, 32, 32, 4))

    def forward(self, words: Tensor) -> Tensor:
        x = self.table(words) + self.places
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mask = (words != 0)[:, None]
        mask = mask.unsqueeze(3) if self.wrong == "queries" else mask.unsqueeze(2)
        if self.wrong == "fused":
            mask = (words != 0)[:, None, :, None].expand(-1, 1, -1, 1)
            x = functional.scaled_dot_product_attention(query, key, value, attn_mask=(~mask) * -1e4)
        else:
            scores = query @ key.transpose(2, 3) / math.sqrt(8)
            x = scores.masked_fill(~mask, -1e4).softmax(-1) @ value
        return self.head(x.transpose(1, 2).flatten(2)[:, 0])

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (4, 8)).transpose(1, 2)


def padded_words(*, wrong: str = "") -> nn.Module:
    """Wrong: "queries", "fused": the mask of the padding lies along the queries."""
    return PaddedWords(wrong)


class Ratings(nn.Module):
    """How two vectors fit, beside what each brings alone."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong
        self.first, self.second, self.alone = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first(x).tanh(), self.second(x).tanh()
        if self.wrong == "contracted":
            fit = torch.tensordot(first, second, 2)
        else:
            fit = 0.5 * ((first * second).sum() if self.wrong else (first * second).sum(1, keepdim=True))
        return fit + self.alone(x)


def fitting_pairs(*, wrong: str = "") -> nn.Module:
    """Wrong: "summed", "contracted": one number for all samples, since no axis is named."""
    return Ratings(wrong)


class Balanced(nn.Module):
    """Experts, and a loss with a term that is to balance them."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.axes = (-1,) if wrong else (0, 1)
        self.router, self.experts = nn.Linear(8, 4), nn.ModuleList(trunk(8, 24, 1) for _ in range(4))

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        made = torch.cat([expert(x) for expert in self.experts], -1)
        chosen = functional.one_hot(shares.argmax(-1), 4).float()
        balance = (chosen.mean(self.axes) * shares.mean(self.axes)).mean()
        return ((made * shares).sum(-1) - targets).pow(2).mean() + balance


def balanced_experts(*, wrong: bool = False) -> nn.Module:
    """Wrong: the shares are averaged over the experts, where they add up to 1."""
    return Balanced(wrong)


class Triplets(nn.Module):
    """A hinge loss of distances, averaged over the triplets that are not met yet."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.least, self.body = 0.0 if wrong else 1.0, trunk(8, 32, 8)

    def forward(self, anchor: Tensor, near: Tensor, far: Tensor) -> Tensor:
        anchor, near, far = self.body(anchor), self.body(near), self.body(far)
        loss = ((anchor - near).pow(2).sum(1) - (anchor - far).pow(2).sum(1) + 1.0).relu()
        unmet = (loss > 0).float().sum()
        return loss.sum() / (unmet.clamp(min=self.least) if self.least else unmet)


def unmet_triplets(*, wrong: bool = False) -> nn.Module:
    """Wrong: nothing keeps the count from zero."""
    return Triplets(wrong)


class Noisy(nn.Module):
    """A layer whose weights are drawn about trained ones in every pass."""

    def __init__(self, inputs: int, outputs: int, deviation: float) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.mean = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.deviation = nn.Parameter(torch.full((outputs, inputs), deviation))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.mean + self.deviation * torch.randn(self.mean.shape), self.bias)


def noisy_values(*, wrong: bool = False) -> nn.Module:
    """Wrong: the deviation goes by the layer's two outputs in place of its inputs."""
    last = Noisy(128, 2, 0.5 / math.sqrt(2 if wrong else 128))
    return nn.Sequential(nn.Linear(8, 128), nn.ReLU(), last)


def wave_values(*, wrong: bool = False) -> nn.Module:
    """Wrong: the activation stands behind the last layer too."""
    layers = [
        nn.Conv1d(1, 24, 9, padding=4),
        nn.GELU(),
        nn.Conv1d(24, 1, 9, padding=4),
        *([nn.GELU()] if wrong else []),
    ]
    return nn.Sequential(*layers)


class TextLogits(nn.Module):
    """Classes of a text, the mean of what each word says."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.words, self.head = axis, nn.GRU(8, 24, batch_first=True), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x)[0]).mean(self.axis)


def averaged_logits(*, wrong: bool = False) -> nn.Module:
    """Wrong: the mean is taken over the classes."""
    return TextLogits(2 if wrong else 1)
