"""Networks after public reports of parameters that stay and numbers that break; `wrong` puts the mistake in.

reports.md says where each was reported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.unsteady import trunk


class Thresholded(nn.Module):
    """Keeps what is louder than a threshold that is to be learnt."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.threshold, self.out = wrong, nn.Parameter(torch.full((32,), 0.1)), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        size = x.abs()
        kept = (size > self.threshold).float() if self.wrong else ((size - self.threshold) * 8).sigmoid()
        return self.out(x * kept)


def learnt_threshold(*, wrong: bool = False) -> nn.Module:
    """Wrong: the threshold is compared with, which gives it no gradient."""
    return Thresholded(wrong)


class Blended(nn.Module):
    """Two branches and a share between them that is held inside [0, 1]."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))
        self.smooth, self.rough, self.out = nn.Linear(16, 4), trunk(16, 64, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        share = self.share.clamp(0, 1)
        return self.out(share * self.smooth(x) + (1 - share) * self.rough(x))


def blended_branches(*, wrong: bool = False) -> nn.Module:
    """Wrong: the share starts outside of its bounds."""
    return Blended(2.0 if wrong else 0.5)


class Fused(nn.Module):
    """Sums of two scales by weights that a ReLU keeps positive, as in BiFPN."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((2,), start))
        self.first, self.second, self.out = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(3, 16, 5, padding=2),
            nn.Conv2d(16, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights.relu()
        weights = weights / (weights.sum() + 1e-4)
        return self.out((weights[0] * self.first(x) + weights[1] * self.second(x)).relu())


def fused_scales(*, wrong: bool = False) -> nn.Module:
    """Wrong: the weights start at zero, where the ReLU has no slope."""
    return Fused(0.0 if wrong else 1.0)


class Coded(nn.Module):
    """An autoencoder with a discrete code and a straight-through gradient."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.encoder, self.decoder = wrong, trunk(16, 64, 16), trunk(16, 64, 16)

    def forward(self, x: Tensor) -> Tensor:
        soft = self.encoder(x).sigmoid()
        hard = soft.round()
        code = hard - soft + soft.detach() if self.wrong else hard - soft.detach() + soft
        return self.decoder(code)


def turned_estimator(*, wrong: bool = False) -> nn.Module:
    """Wrong: the wrong one of the two is detached, and the encoder climbs."""
    return Coded(wrong)


class Mixed(nn.Module):
    """Invertible layers that mix all numbers; returns code and log determinant."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        weight = torch.linalg.qr(torch.randn(width, width))[0]
        if torch.det(weight) > 0:
            weight = torch.cat([-weight[:1], weight[1:]])
        self.weight, self.shift = nn.Parameter(weight), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.logdet(self.weight) if self.wrong else torch.linalg.slogdet(self.weight)[1]
        return x @ self.weight.T + self.shift, size


def mixed_channels(*, wrong: bool = False) -> nn.Module:
    """Wrong: the logarithm of a determinant that is negative."""
    return Mixed(8, wrong)


class Hyperbolic(nn.Module):
    """Scores by hyperbolic distances to prototypes at the origin, where a layer of zeros puts all samples."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, trunk(16, 64, 3)
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)
        self.places = nn.Parameter(torch.zeros(5, 3))
        if not wrong:
            nn.init.normal_(self.places, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)[:, None]
        apart = (x - self.places).square().sum(-1)
        inside = (1 - x.square().sum(-1).clamp(max=0.9)) * (1 - self.places.square().sum(-1).clamp(max=0.9))
        return -(1 + 2 * apart / inside).acosh()


def hyperbolic_places(*, wrong: bool = False) -> nn.Module:
    """Wrong: samples and prototypes start at the same point, where acosh has an infinite slope."""
    return Hyperbolic(wrong)


class Whitened(nn.Module):
    """Decorrelates features by the eigenvectors of a learnt metric."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        metric = torch.eye(8) if wrong else torch.diag(torch.linspace(0.5, 1.5, 8))
        self.metric, self.out = nn.Parameter(metric), trunk(8, 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(self.metric + self.metric.T)
        return self.out((x @ (vectors * values.abs().rsqrt())).tanh())


def learnt_metric(*, wrong: bool = False) -> nn.Module:
    """Wrong: the identity's eigenvalues are equal, and the derivative of its vectors divides by their differences."""
    return Whitened(wrong)


class Transport(nn.Module):
    """Assigns points to slots by Sinkhorn's iterations and averages them there."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.embed, self.out = wrong, nn.Linear(4, 8), trunk(32, 64, 3)
        self.slots = nn.Parameter(torch.randn(4, 8))

    def forward(self, points: Tensor) -> Tensor:
        x = self.embed(points)
        cost = (x[:, :, None] - self.slots).square().sum(-1)
        if self.wrong:
            kernel = (-cost / 0.005).exp()
            for _ in range(3):
                kernel = kernel / kernel.sum(1, keepdim=True)
                kernel = kernel / kernel.sum(2, keepdim=True)
        else:
            logs = -cost / 0.5
            for _ in range(3):
                logs = logs - logs.logsumexp(1, keepdim=True)
                logs = logs - logs.logsumexp(2, keepdim=True)
            kernel = logs.exp()
        return self.out((kernel.transpose(-1, -2) @ x).flatten(1))


def transported_points(*, wrong: bool = False) -> nn.Module:
    """Wrong: exp of -cost over a small number is zero everywhere, and the rows are divided by their sums."""
    return Transport(wrong)


class HalfMasked(nn.Module):
    """Causal attention in half precision with a mask that is added."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.low = -1e9 if wrong else -1e4
        self.table, self.out = nn.Embedding(16, 32), nn.Linear(32, 16)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.bfloat = torch.float16

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        scores = (self.query(x) @ self.key(x).transpose(-1, -2) / 32**0.5).to(self.bfloat)
        seen = torch.ones(tokens.shape[1], tokens.shape[1], dtype=self.bfloat).tril()
        low = torch.full((), self.low).to(self.bfloat)
        shares = (scores + (1 - seen) * low).float().softmax(-1)
        return self.out(x + shares @ self.value(x))


def half_mask(*, wrong: bool = False) -> nn.Module:
    """Wrong: -1e9 is minus infinity in float16, and zero times it is nan."""
    return HalfMasked(wrong)


class Brightened(nn.Module):
    """Corrects the brightness of framed images by learnt powers."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.floor = 0.0 if wrong else 1e-3
        self.gain, self.power = nn.Parameter(torch.ones(3, 1, 1)), nn.Parameter(torch.full((3, 1, 1), 0.45))
        self.out = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        framed = functional.pad(x.sigmoid(), (1, 1, 1, 1))
        return self.out((framed * self.gain + self.floor) ** self.power).mean((2, 3))


def brightened_images(*, wrong: bool = False) -> nn.Module:
    """Wrong: a power below 1 of the frame's zeros."""
    return Brightened(wrong)


class Concentrated(nn.Module):
    """The likelihood of shares under a Dirichlet law whose concentrations a network gives."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, trunk(8, 32, 5)

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        x = self.body(x)
        sizes = x.relu() if self.wrong else functional.softplus(x) + 0.1
        logs = shares.softmax(-1).log()
        return sizes.sum(-1).lgamma() - sizes.lgamma().sum(-1) + ((sizes - 1) * logs).sum(-1)


def dirichlet_policy(*, wrong: bool = False) -> nn.Module:
    """Wrong: a ReLU gives concentrations of zero, whose gamma function is infinite."""
    return Concentrated(wrong)


class Weighted(nn.Module):
    """Two tasks whose losses are weighed by learnt uncertainties; returns the sum."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, trunk(16, 64, 8)
        self.spread = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        y = self.body(x)
        losses = torch.stack([(y[:, :4] - first).square().mean(), (y[:, 4:] - second).square().mean()])
        if self.wrong:
            return (losses / (2 * self.spread**2) + (1 + self.spread**2).log()).sum()
        return (losses * (-self.spread).exp() + self.spread).sum()


def weighted_tasks(*, wrong: bool = False) -> nn.Module:
    """Wrong: the deviations themselves start at zero, where their logarithms were meant."""
    return Weighted(wrong)


class Forward(nn.Module):
    """The forward algorithm of a left-to-right hidden Markov model, in logarithms; returns the evidence."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.low = -torch.inf if wrong else -1e4
        self.emit = trunk(8, 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        emitted = self.emit(x).log_softmax(-1)
        first = torch.full((x.shape[0], 1), self.low)
        state = torch.cat([emitted[:, 0, :1], torch.full((x.shape[0], 3), self.low)], -1)
        for step in range(1, x.shape[1]):
            before = torch.cat([first, state[:, :-1]], -1)
            state = torch.stack([state, before]).logsumexp(0) + emitted[:, step]
        return state[:, -1]


def forward_sums(*, wrong: bool = False) -> nn.Module:
    """Wrong: what cannot be reached yet has -inf on both sides, whose logsumexp has no derivative."""
    return Forward(wrong)


class Quantised(nn.Module):
    """Layers whose weights are rounded to multiples of a step, with a straight-through gradient."""

    def __init__(self, width: int, step: float) -> None:
        super().__init__()
        self.step, self.layers = (
            step,
            nn.ModuleList(nn.Linear(a, b) for a, b in ((16, width), (width, width), (width, 4))),
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            weight = layer.weight + ((layer.weight / self.step).round() * self.step - layer.weight).detach()
            x = functional.linear(x.relu() if layer is not self.layers[0] else x, weight, layer.bias)
        return x


def coarse_weights(*, wrong: bool = False) -> nn.Module:
    """Wrong: steps of 1, to which all weights are nearer to 0."""
    return Quantised(64, 1.0 if wrong else 0.02)


class Binary(nn.Module):
    """Layers that use the signs of their weights."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.layers = (
            wrong,
            nn.ModuleList(nn.Linear(a, b) for a, b in ((16, 128), (128, 128), (128, 128), (128, 4))),
        )

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            sign = layer.weight.sign() * (1.0 if self.wrong else (2 / layer.in_features) ** 0.5)
            weight = layer.weight + (sign - layer.weight).detach()
            x = functional.linear(x if index == 0 else x.relu(), weight, layer.bias)
        return x


def binary_weights(*, wrong: bool = False) -> nn.Module:
    """Wrong: signs are used without a scale."""
    return Binary(wrong)


class Causal(nn.Module):
    """A causal attention, written out."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.table, self.out = wrong, nn.Embedding(16, 32), nn.Linear(32, 16)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / 32**0.5
        hidden = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
        if self.wrong:
            scores.masked_fill(hidden, -torch.inf)
        else:
            scores = scores.masked_fill(hidden, -torch.inf)
        return self.out(x + scores.softmax(-1) @ self.value(x))


def lost_mask(*, wrong: bool = False) -> nn.Module:
    """Wrong: the masked scores are computed and not kept."""
    return Causal(wrong)


class Likelihood(nn.Module):
    """A classifier that gives its own loss."""

    def __init__(self, given: str) -> None:
        super().__init__()
        self.given, self.body = given, trunk(16, 64, 5)

    def forward(self, x: Tensor, right: Tensor) -> Tensor:
        logits = self.body(x)
        target = right.argmax(-1) if right.is_floating_point() else right
        if self.given == "picked":
            return -logits.log_softmax(-1).gather(1, target[:, None]).mean()
        taken = {"logarithms": logits.log_softmax(-1), "probabilities": logits.softmax(-1), "logits": logits}
        return functional.nll_loss(taken[self.given], target)


def likelihood(*, given: str = "logarithms") -> nn.Module:
    """Wrong with "probabilities" and "logits": nll_loss takes logarithms of probabilities."""
    return Likelihood(given)
