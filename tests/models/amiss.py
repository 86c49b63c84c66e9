"""Small networks with one thing amiss each: losses that they give, cut gradients, sums and shares; see reports.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn
from tests.models.unsteady import trunk


class Coded(nn.Module):
    """An autoencoder with a drawn code that gives its own loss.

    Args:
        wrong: "summed": the divergence is summed where the error is averaged; "turned": its sign; "detached": the code.
    """

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong, self.encoder, self.decoder = wrong, trunk(64, 64, 16), trunk(8, 64, 64)

    def forward(self, x: Tensor) -> Tensor:
        mean, log = self.encoder(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (0.5 * log).exp()
        error = (self.decoder(code.detach() if self.wrong == "detached" else code) - x).pow(2)
        divergence = -0.5 * (1 + log - mean.pow(2) - log.exp())
        if self.wrong == "summed":
            return error.mean() + divergence.sum()
        if self.wrong == "turned":
            return error.sum(-1).mean() - divergence.sum(-1).mean()
        return error.sum(-1).mean() + 0.1 * divergence.sum(-1).mean()


def coded(*, wrong: str = "") -> nn.Module:
    """Wrong: see `Coded`."""
    return Coded(wrong)


class Gaussian(nn.Module):
    """The mean and the deviation of a target."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.least, self.most = (2.0, -5.0) if wrong else (-5.0, 2.0)
        self.body, self.mean, self.log = trunk(8, 64, 64), nn.Linear(64, 1), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x).relu()
        return self.mean(x), self.log(x).clamp(self.least, self.most).exp()


def crossed_clamp(*, wrong: bool = False) -> nn.Module:
    """Wrong: the ends of a clamp are swapped, which makes it a constant."""
    return Gaussian(wrong)


class SharedNorm(nn.Module):
    """Three convolutions and batch normalisations."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(drawn(nn.Conv2d(inputs, 16, 3, padding=1, bias=False)) for inputs in (3, 16, 16))
        norm = nn.BatchNorm2d(16)
        self.norms = nn.ModuleList([norm] * 3 if wrong else [nn.BatchNorm2d(16) for _ in range(3)])
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x)).relu()
        return self.head(x.mean((2, 3)))


def shared_norm(*, wrong: bool = False) -> nn.Module:
    """Wrong: one batch normalisation behind three layers, whose statistics it mixes for evaluation."""
    return SharedNorm(wrong)


class OwnSwish(torch.autograd.Function):
    """x sigmoid(x) with a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return cotangent * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


class BrokenSwish(OwnSwish):
    """Its derivative alone, without what comes back."""

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.sigmoid() * (1 + x * (1 - x.sigmoid()))


class Swishes(nn.Module):
    """Three layers with an activation that is written by hand."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.swish = BrokenSwish if wrong else OwnSwish
        self.first, self.second, self.third = nn.Linear(12, 64), nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.swish.apply(self.second(self.swish.apply(self.first(x)))))


def forgotten_chain(*, wrong: bool = False) -> nn.Module:
    """Wrong: a backward of one's own gives the derivative and drops what comes back."""
    return Swishes(wrong)


class PlainTensor(nn.Module):
    """A bilinear score with a matrix of its own."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 16), nn.Linear(6, 16)
        matrix = 0.3 * torch.randn(16, 16)
        self.matrix = matrix.requires_grad_() if wrong else nn.Parameter(matrix)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((self.left(x).tanh() @ self.matrix) * self.right(y)).sum(-1, keepdim=True)


def plain_tensor(*, wrong: bool = False) -> nn.Module:
    """Wrong: the matrix requires a gradient and is no parameter."""
    return PlainTensor(wrong)


class HandShares(nn.Module):
    """Attention over 12 tokens with a softmax that is written by hand."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.score, self.value, self.head = wrong, trunk(8, 32, 1), nn.Linear(8, 32), trunk(32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.score(x).exp()
        shares = shares / (shares.sum() if self.wrong else shares.sum(1, keepdim=True))
        return self.head((shares * self.value(x)).sum(1))


def hand_shares(*, wrong: bool = False) -> nn.Module:
    """Wrong: the sum that shares are divided by runs over the whole batch."""
    return HandShares(wrong)


class PooledWords(nn.Module):
    """Tokens weighed by a score and added up."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.words, self.score, self.head = axis, nn.Embedding(12, 32), trunk(32, 16, 1), nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        pooled = (self.score(x).softmax(1) * x).sum(self.axis, keepdim=True)
        return self.head(torch.cat([x[:, :1], pooled.expand_as(x)[:, :1]], 1).mean(1))


def summed_batch(*, wrong: bool = False) -> nn.Module:
    """Wrong: the weighed tokens are summed over the batch."""
    return PooledWords(0 if wrong else 1)


class HandUnit(nn.Module):
    """A gated recurrent unit that is written by hand."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.update, self.reset, self.candidate = nn.Linear(35, 32), nn.Linear(35, 32), nn.Linear(35, 32)
        self.start, self.head = nn.Linear(3, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = self.start(x[:, 0])
        for step in x[:, 1:].unbind(1):
            both = torch.cat([step, state], 1)
            update, reset = self.update(both).sigmoid(), self.reset(both).sigmoid()
            candidate = self.candidate(torch.cat([step, reset * state], 1)).tanh()
            state = (1 - update) * state + update * (state if self.wrong else candidate)
        return self.head(state)


def own_state(*, wrong: bool = False) -> nn.Module:
    """Wrong: the state is mixed with itself, not with the candidate."""
    return HandUnit(wrong)


class MaskedWeights(nn.Module):
    """Layers whose weights are multiplied by a fixed mask."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.first, self.second, self.head = nn.Linear(12, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        self.register_buffer("mask", (torch.rand(64, 64) < 0.5).float())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.second.weight * self.mask
        weight = nn.Parameter(weight) if self.wrong else weight
        x = functional.linear(self.first(x).relu(), 2.0 * weight, self.second.bias).relu()
        return self.head(x)


def rewrapped_weights(*, wrong: bool = False) -> nn.Module:
    """Wrong: what is computed of a weight is made a parameter of its own in forward."""
    return MaskedWeights(wrong)


class Twins(nn.Module):
    """How far two pictures lie apart, for the pair of each row."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.body, self.head = axis, trunk(12, 32, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        apart = (self.body(x) - self.body(y)).pow(2)
        return apart.sum(self.axis)


def apart_over_batch(*, wrong: bool = False) -> nn.Module:
    """Wrong: the squares are summed over the batch, one number a feature."""
    return Twins(0 if wrong else 1)


class Matching(nn.Module):
    """Tokens of two sides, their cosines and the best for each."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.left, self.right = axis, nn.Linear(8, 32), nn.Linear(8, 32)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        left = functional.normalize(self.left(x), dim=self.axis)
        right = functional.normalize(self.right(y), dim=self.axis)
        return 10.0 * left @ right.transpose(1, 2)


def default_axis(*, wrong: bool = False) -> nn.Module:
    """Wrong: `normalize` of three axes runs along the second by default, not along the features."""
    return Matching(1 if wrong else -1)


class Started(nn.Module):
    """Residual blocks behind a factor that starts at zero."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(12, 32), nn.Linear(32, 3)
        self.blocks = nn.ModuleList(trunk(32, 64, 32) for _ in range(3))
        factors = [torch.zeros(1) for _ in range(3)]
        self.factors = factors if wrong else nn.ParameterList(factors)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block, factor in zip(self.blocks, self.factors, strict=True):
            x = x + factor * block(x)
        return self.head(x)


def fixed_zero(*, wrong: bool = False) -> nn.Module:
    """Wrong: the factors are tensors, not parameters, and stay zero."""
    return Started(wrong)
