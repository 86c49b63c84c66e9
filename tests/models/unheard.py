"""Networks after public reports of signals that do not arrive where they should; `wrong` puts the mistake in.

reports.md says where each was reported.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn
from tests.models.unsteady import trunk


class Rotated(nn.Module):
    """Attention in heads whose only positions are rotations of queries and keys."""

    def __init__(self, width: int, heads: int, wrong: bool) -> None:
        super().__init__()
        self.heads, self.wrong, self.norm, self.out = heads, wrong, nn.LayerNorm(width), nn.Linear(width, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def rotate(self, x: Tensor) -> Tensor:
        length, half = x.shape[-2], x.shape[-1] // 2
        angles = torch.arange(length)[:, None] * 100.0 ** (-torch.arange(half) / half)
        left, right = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        y = self.norm(x)
        query, key, value = (layer(y).view(batch, time, self.heads, -1) for layer in (self.query, self.key, self.value))
        if self.wrong:
            query, key = self.rotate(query), self.rotate(key)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        if not self.wrong:
            query, key = self.rotate(query), self.rotate(key)
        shares = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return x + self.out((shares @ value).transpose(1, 2).reshape(batch, time, width))


def turned_heads(*, wrong: bool = False) -> nn.Module:
    """Wrong: rotated along the heads, before heads and positions change places."""
    blocks = [Rotated(64, 4, wrong) for _ in range(2)]
    return nn.Sequential(nn.Embedding(32, 64), *blocks, nn.LayerNorm(64), nn.Linear(64, 32))


class Denoiser(nn.Module):
    """A small denoiser that is told its time by sines."""

    def __init__(self, width: int, factor: float, rows: bool) -> None:
        super().__init__()
        self.factor, self.rows = factor, rows
        self.enter, self.time, self.out = nn.Linear(16, width), nn.Linear(32, width), trunk(width, width, 16)
        self.register_buffer("rates", torch.exp(-math.log(10000.0) * torch.arange(16) / 16))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        time = noise.sigmoid() * self.factor
        angles = time[:, None] * self.rates.repeat(2)
        code = angles.clone()
        if self.rows:
            code[::2] = angles[::2].sin()
            code[1::2] = angles[1::2].cos()
        else:
            code[:, ::2] = angles[:, ::2].sin()
            code[:, 1::2] = angles[:, 1::2].cos()
        return self.out(functional.silu(self.enter(x) + self.time(code)))


def step_rows(*, wrong: bool = False) -> nn.Module:
    """Wrong: every other sample gets sines and the rest cosines, where columns were meant."""
    return Denoiser(64, 1000.0, rows=wrong)


def flow_times(*, wrong: bool = False) -> nn.Module:
    """Wrong: times in [0, 1] under frequencies that are made for a thousand steps."""
    return Denoiser(64, 1.0 if wrong else 1000.0, rows=False)


class Posterior(nn.Module):
    """A variational autoencoder; returns what it makes and the divergence."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, trunk(16, 64)
        self.mean, self.spread, self.decoder = nn.Linear(64, 4), nn.Linear(64, 4), trunk(4, 64, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x).relu()
        mean, spread = self.mean(h), self.spread(h)
        logarithm = functional.softplus(spread) if self.wrong else spread
        code = mean + (0.5 * logarithm).exp() * torch.randn_like(mean)
        divergence = 0.5 * (logarithm.exp() + mean.pow(2) - 1 - logarithm).sum(-1).mean()
        return self.decoder(code), divergence


def wide_posterior(*, wrong: bool = False) -> nn.Module:
    """Wrong: a softplus on the logarithm of the variance keeps the deviation above 1."""
    return Posterior(wrong)


class Twofold(nn.Module):
    """A block of two convolutions behind each other."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.first(x)).relu()
        y = self.norms[1](self.second(x if self.wrong else y))
        return (x + y).relu()


def read_again(*, wrong: bool = False) -> nn.Module:
    """Wrong: the second convolution reads the block's input."""
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *(Twofold(16, wrong) for _ in range(4)), nn.Conv2d(16, 5, 1))


class Excited(nn.Module):
    """A convolution with channels that are weighted by what is squeezed out of the whole image."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.conv = wrong, drawn(nn.Sequential(nn.Conv2d(width, width, 3, padding=1)))
        self.squeeze, self.excite = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width, width, 1)
        if not wrong:
            self.excite = nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        s = functional.adaptive_avg_pool2d(x, 1)
        s = self.squeeze(x if self.wrong else s).relu()
        s = self.excite(x if self.wrong else s).sigmoid()
        return x * s


def excited_pixels(*, wrong: bool = False) -> nn.Module:
    """Wrong: each layer reads the block's input, so neither pooling nor the first of them counts."""
    return nn.Sequential(nn.Conv2d(3, 16, 1), *(Excited(16, wrong) for _ in range(3)), nn.Conv2d(16, 5, 1))


class StateSteps(nn.Module):
    """A selective scan whose step sizes are softplus of a bias that stands for a step."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.enter, self.leave, self.write = nn.Linear(8, width), nn.Linear(width, 5), nn.Linear(width, width)
        self.step = nn.Linear(width, width)
        nn.init.normal_(self.step.weight, std=0.1 * width**-0.5)
        logarithm = torch.empty(width).uniform_(math.log(1e-3), math.log(1e-1))
        with torch.no_grad():
            size = logarithm if wrong else logarithm.exp()
            self.step.bias.copy_(logarithm + torch.log1p(-torch.exp(-logarithm.exp())) if wrong else size.expm1().log())
        self.speed = nn.Parameter(torch.arange(1.0, width + 1).log())

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        state, outputs = torch.zeros_like(x[:, 0]), []
        for time in range(x.shape[1]):
            now = x[:, time]
            step = functional.softplus(self.step(now))
            state = (-step * self.speed.exp()).exp() * state + step * self.write(now)
            outputs.append(state)
        return self.leave(torch.stack(outputs, 1).mean(1))


def tiny_steps(*, wrong: bool = False) -> nn.Module:
    """Wrong: the inverse softplus of the step is taken of its logarithm: steps are squared, 1e-6 for 1e-3."""
    return StateSteps(16, wrong)


class Radiance(nn.Module):
    """Colours along rays of 16 samples, weighted by what their densities let through."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, trunk(3, width, width)
        self.density, self.colour = nn.Linear(width, 1), nn.Linear(width, 3)
        nn.init.normal_(self.density.weight, std=0.1 * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).relu()
        raw = self.density(h).squeeze(-1) - 1.0
        opaque = 1 - (-(raw.relu() if self.wrong else functional.softplus(raw)) * 0.5).exp()
        through = torch.cumprod(1 - opaque + 1e-10, -1)
        through = torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], -1)
        return ((opaque * through)[..., None] * self.colour(h).sigmoid()).sum(1)


def density(*, wrong: bool = False) -> nn.Module:
    """Wrong: a ReLU on densities that start below zero: all rays are black and nothing gets a gradient."""
    return Radiance(64, wrong)


class Views(nn.Module):
    """Two views of each sample; the predictor's output is to be like the other view's projection."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder, self.predictor = trunk(16, width, width), trunk(width, width // 4, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        first, second = self.encoder(x), self.encoder(x + 0.1 * y)
        losses = []
        for prediction, target in ((self.predictor(first), second), (self.predictor(second), first)):
            target = target if self.wrong else target.detach()
            losses.append(-functional.cosine_similarity(prediction, target).mean())
        return 0.5 * (losses[0] + losses[1])


def siamese_views(*, wrong: bool = False) -> nn.Module:
    """Wrong: both sides get the gradient, which one vector for all satisfies."""
    return Views(64, wrong)


class Thresholds(nn.Module):
    """A table whose entries are cut off below learnt thresholds."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, 32) * 0.25)
        self.threshold, self.head = nn.Parameter(torch.full((16, 1), start)), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        kept = (self.table.abs() - self.threshold.sigmoid()).relu() * self.table.sign()
        return self.head((x @ kept).relu())


def shut_thresholds(*, wrong: bool = False) -> nn.Module:
    """Wrong: they start at sigmoid(-150), whose derivative is 1e-66."""
    return Thresholds(-150.0 if wrong else -3.0)


class Towers(nn.Module):
    """The probability that a user takes an item: a sigmoid of the product of two towers."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.user, self.item = trunk(16, 128, width), trunk(8, 128, width)
        for tower in (self.user, self.item):
            nn.init.normal_(tower[2].weight, std=(2 / 128) ** 0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        user, item = self.user(x), self.item(y)
        if self.wrong:
            return (user * item).sum(-1).sigmoid()
        return (4 * functional.cosine_similarity(user, item)).sigmoid()


def tower_scores(*, wrong: bool = False) -> nn.Module:
    """Wrong: the product of 128 numbers of size 1 to 2 saturates the sigmoid."""
    return Towers(128, wrong)


class Pixels(nn.Module):
    """A classifier of bytes."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.body = nn.Sequential(nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1).float() * self.factor)


def divided_pixels(*, wrong: bool = False) -> nn.Module:
    """Wrong: divided by 255 twice."""
    return Pixels(255.0**-2 if wrong else 1 / 255)


class Controlled(nn.Module):
    """A network with a branch for a condition that starts without effect."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(16, width), nn.Linear(width, 5)
        self.enter, self.middle, self.leave = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.middle, self.leave) if wrong else (self.leave,):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        control = self.leave(self.middle(self.enter(condition).relu()).relu())
        return self.head((self.body(x) + control).relu())


def zero_controls(*, wrong: bool = False) -> nn.Module:
    """Wrong: two layers of zeros behind each other."""
    return Controlled(32, wrong)


class Placed(nn.Module):
    """Tokens with learnt positions."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.tokens, self.places = wrong, nn.Embedding(64, width), nn.Parameter(torch.randn(12, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(width, 64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + (self.places.data if self.wrong else self.places)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def frozen_places(*, wrong: bool = False) -> nn.Module:
    """Wrong: `.data` of the positions."""
    return Placed(32, wrong)


class Factors(nn.Module):
    """A factorisation machine over 20 fields."""

    def __init__(self, width: int, spread: float) -> None:
        super().__init__()
        self.factors, self.weights = nn.Embedding(500, width), nn.Embedding(500, 1)
        nn.init.normal_(self.factors.weight, std=spread)
        nn.init.zeros_(self.weights.weight)

    def forward(self, ids: Tensor) -> Tensor:
        each = self.factors(ids)
        pairs = 0.5 * (each.sum(1).pow(2) - each.pow(2).sum(1)).sum(-1)
        return (pairs + self.weights(ids).sum(1).squeeze(-1)).sigmoid()


def factor_machine(*, wrong: bool = False) -> nn.Module:
    """Wrong: factors are left at N(0, 1), and 190 products of them saturate the sigmoid."""
    return Factors(16, 1.0 if wrong else 0.1)


class Radial(nn.Module):
    """Units that answer to points close to their centres."""

    def __init__(self, units: int, rate: float) -> None:
        super().__init__()
        self.rate, self.centres, self.head = rate, nn.Parameter(torch.randn(units, 64)), nn.Linear(units, 5)

    def forward(self, x: Tensor) -> Tensor:
        distance = (x[:, None] - self.centres).pow(2).sum(-1)
        return self.head((-self.rate * distance).exp())


def radial_units(*, wrong: bool = False) -> nn.Module:
    """Wrong: of 64 dimensions every point is far from every centre, so all units are 0."""
    return Radial(32, 1.0 if wrong else 1 / 64)


class Features(nn.Module):
    """A generator of features and its distance from the encoder's, which have either sign."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.maker, self.encoder = wrong, trunk(8, 64, 16), trunk(16, 64, 16)
        self.encoder.requires_grad_(False)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        made = self.maker(noise)
        return ((made.relu() if self.wrong else made) - self.encoder(x)).pow(2).mean()


def negative_features(*, wrong: bool = False) -> nn.Module:
    """Wrong: a ReLU at the end of what is to be like numbers of either sign."""
    return Features(wrong)


class Transcriber(nn.Module):
    """The loss of a CTC model on fixed transcripts."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.rnn, self.head = wrong, nn.GRU(8, width, batch_first=True), nn.Linear(width, 6)
        self.register_buffer("texts", torch.randint(1, 6, (4, 5)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.rnn(x)[0]).transpose(0, 1)
        y = y if self.wrong else y.log_softmax(-1)
        lengths = (torch.full((4,), len(y)), torch.full((4,), 5))
        return functional.ctc_loss(y, self.texts, *lengths)


def raw_ctc(*, wrong: bool = False) -> nn.Module:
    """Wrong: the CTC loss of logits; it falls without bound while nothing is learnt."""
    return Transcriber(32, wrong)


class GatedExpert(nn.Module):
    """An expert that starts with a normalisation, and a gate on what it is given, or on what it gives."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.gate, self.norm = wrong, nn.Linear(width, 1), nn.LayerNorm(width, eps=0.0)
        self.expert = trunk(width, 64, width)

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).sigmoid()
        if self.wrong:
            return x + self.expert(self.norm(share * x))
        return x + share * self.expert(self.norm(x))


def normalised_gate(*, wrong: bool = False) -> nn.Module:
    """Wrong: what the gate multiplies the normalisation divides out again."""
    return nn.Sequential(nn.Linear(16, 32), *(GatedExpert(32, wrong) for _ in range(2)), nn.Linear(32, 5))


class Distilled(nn.Module):
    """The divergence of a student's classes from a teacher's."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.student, self.teacher = wrong, trunk(16, 64, 8), trunk(16, 64, 8)
        self.teacher.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        shares = (2 * self.teacher(x)).softmax(-1)
        logits = self.student(x)
        student = logits.softmax(-1) if self.wrong else logits.log_softmax(-1)
        return functional.kl_div(student, shares, reduction="batchmean")


def distilled(*, wrong: bool = False) -> nn.Module:
    """Wrong: kl_div wants logarithms and is given probabilities."""
    return Distilled(wrong)


class Memory(nn.Module):
    """A memory of eight slots, written and read by content, step after step."""

    def __init__(self, width: int, blank: bool) -> None:
        super().__init__()
        self.enter, self.key, self.erase = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, width)
        self.add, self.query, self.leave = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 5)
        self.register_buffer("slots", torch.zeros(8, width) if blank else torch.randn(8, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        memory = self.slots.expand(len(x), -1, -1)
        for time in range(x.shape[1]):
            now = x[:, time]
            where = (memory @ self.key(now)[..., None]).softmax(1)
            memory = memory * (1 - where * self.erase(now).sigmoid()[:, None]) + where * self.add(now)[:, None]
        where = (memory @ self.query(now)[..., None]).softmax(1)
        return self.leave((where * memory).sum(1))


def blank_memory(*, wrong: bool = False) -> nn.Module:
    """Wrong: all slots start at zero, so each write goes to all of them alike and they stay one."""
    return Memory(24, wrong)
