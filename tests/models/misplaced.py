"""Networks after public reports of things that stand in the wrong place; `wrong` puts the mistake in.

reports.md says where each was reported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn
from tests.models.unsteady import trunk


class Temporal(nn.Module):
    """Causal convolutions of which the last step is read."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.enter = nn.Conv1d(4, 32, 1)
        self.dilations = [1 if wrong else 2**layer for layer in range(6)]
        self.layers = nn.ModuleList(nn.Conv1d(32, 32, 2, dilation=step) for step in self.dilations)
        self.out = nn.Linear(32, 4)
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer, step in zip(self.layers, self.dilations, strict=True):
            x = x + layer(functional.pad(x, (step, 0))).relu() * 0.5
        return self.out(x[:, :, -1])


def short_reach(*, wrong: bool = False) -> nn.Module:
    """Wrong: dilations do not grow, and the last step sees 7 of 64."""
    return Temporal(wrong)


def early_strides(*, wrong: bool = False) -> nn.Module:
    """Wrong: the stem for large images; of 16 pixels one is left when the blocks begin."""
    strides, size = ((4, 2, 2), 7) if wrong else ((1, 1, 2), 3)
    layers: list[nn.Module] = [nn.Conv2d(3, 32, size, strides[0], padding=size // 2), nn.BatchNorm2d(32), nn.ReLU()]
    for stride in (*strides[1:], 1, 1):
        layers += [nn.Conv2d(32, 32, 3, stride, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))


class Hourglass(nn.Module):
    """A small U-Net with one step down and up."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.down, self.up = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 32, 3, 4, 1),
            nn.ConvTranspose2d(32, 16, 4, 4),
        )
        self.join, self.out = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 3, 1)
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.enter(x).relu()
        y = self.up(self.down(fine).relu()).relu()
        return self.out(self.join(torch.cat([y, y if self.wrong else fine], 1)).relu())


def doubled_skip(*, wrong: bool = False) -> nn.Module:
    """Wrong: what comes up is joined to itself, not to what the encoder kept."""
    return Hourglass(wrong)


class Candidates(nn.Module):
    """Scores candidates for each question."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.question, self.answer = wrong, trunk(8, 32, 16), trunk(8, 32, 16)
        self.score = trunk(32, 64, 1)

    def forward(self, question: Tensor, answers: Tensor) -> Tensor:
        batch, count, width = answers.shape
        asked = self.question(question)
        asked = asked.repeat(count, 1) if self.wrong else asked.repeat_interleave(count, 0)
        given = self.answer(answers.reshape(batch * count, width))
        return self.score(torch.cat([asked, given], -1)).view(batch, count)


def paired_candidates(*, wrong: bool = False) -> nn.Module:
    """Wrong: `repeat` for `repeat_interleave` pairs each answer with another sample's question."""
    return Candidates(wrong)


class Shifted(nn.Module):
    """Mixes neighbours in time by moving a quarter of the channels either way."""

    def __init__(self, width: int, axis: int) -> None:
        super().__init__()
        self.axis, self.norm, self.layers = axis, nn.LayerNorm(width), trunk(width, width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        back, ahead, rest = y[..., :16], y[..., 16:32], y[..., 32:]
        return x + self.layers(torch.cat([back.roll(1, self.axis), ahead.roll(-1, self.axis), rest], -1))


def rolled_samples(*, wrong: bool = False) -> nn.Module:
    """Wrong: rolled along the batch."""
    blocks = [Shifted(64, 0 if wrong else 1) for _ in range(2)]
    return nn.Sequential(nn.Linear(4, 64), *blocks, nn.LayerNorm(64), nn.Linear(64, 4))


class BothWays(nn.Module):
    """Reads a sequence from both ends with two recurrent networks."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.axis = 0 if wrong else 1
        self.ahead, self.back = nn.GRU(4, 32, batch_first=True), nn.GRU(4, 32, batch_first=True)
        self.out = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        ahead, back = self.ahead(x)[0], self.back(x.flip(self.axis))[0].flip(self.axis)
        return self.out(torch.cat([ahead, back], -1))


def reversed_samples(*, wrong: bool = False) -> nn.Module:
    """Wrong: the batch is reversed, not time."""
    return BothWays(wrong)


class Drawn(nn.Module):
    """A small transformer whose positions are drawn, not learnt."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.table = wrong, nn.Embedding(16, 32)
        self.places = nn.Parameter(torch.randn(12, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.out = nn.Linear(32, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        places = torch.randn(tokens.shape[1], 32) if self.wrong else self.places
        return self.out(self.block(x + places))


def drawn_positions(*, wrong: bool = False) -> nn.Module:
    """Wrong: positions are drawn anew in each pass."""
    return Drawn(wrong)


class Noised(nn.Module):
    """A denoiser that makes its own noisy inputs; returns the squared error of the noise it finds."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        betas = torch.linspace(1e-4, 0.2, 50)
        self.register_buffer("kept", (betas if wrong else 1 - betas).cumprod(0)[10])
        self.body = trunk(16, 128, 16)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        return (self.body(self.kept.sqrt() * x + (1 - self.kept).sqrt() * noise) - x).square().mean()


def noise_schedule(*, wrong: bool = False) -> nn.Module:
    """Wrong: the product runs over beta, not 1 - beta, and nothing of the signal is left."""
    return Noised(wrong)


class Ordered(nn.Module):
    """A masked autoencoder (MADE) over 8 numbers."""

    def __init__(self, wrong: bool, own: bool) -> None:
        super().__init__()
        width = 64
        inputs, hidden = torch.arange(8), torch.arange(width) % 7
        inner = (lambda a, b: a > b) if wrong else (lambda a, b: a >= b)
        self.layers = nn.ModuleList(
            [nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 8)]
        )
        for index, (row, column) in enumerate(((hidden, inputs), (hidden, hidden), (hidden, hidden), (inputs, hidden))):
            mask = inner(row[:, None], column) if index < 3 or own else row[:, None] > column
            self.register_buffer(f"mask{index}", mask.float())

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = functional.linear(
                x if index == 0 else x.relu(), layer.weight * getattr(self, f"mask{index}"), layer.bias
            )
        return x


def masked_order(*, wrong: bool = False, own: bool = False) -> nn.Module:
    """Wrong: hidden masks ask for more, not for at least as much; few paths are left. Own: no mask asks for more."""
    return Ordered(wrong, own)


class Routed(nn.Module):
    """One expert a token, chosen by a router."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.router = wrong, nn.Linear(16, 4)
        self.experts = nn.ModuleList(trunk(16, 32, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        if self.wrong:
            best, chosen = logits.topk(1, -1)
            share = best.softmax(-1)
        else:
            share, chosen = logits.softmax(-1).topk(1, -1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        taken = outputs.gather(1, chosen[..., None].expand(-1, -1, 8))[:, 0]
        return taken * share


def single_expert(*, wrong: bool = False) -> nn.Module:
    """Wrong: softmax over the one score that was chosen."""
    return Routed(wrong)


class Adversary(nn.Module):
    """The generator's loss against a discriminator; returns it."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.generator, self.discriminator = wrong, trunk(4, 32, 8), trunk(8, 32, 1)
        self.discriminator.requires_grad_(False)

    def forward(self, noise: Tensor) -> Tensor:
        made = self.generator(noise)
        verdict = self.discriminator(made.detach() if self.wrong else made)
        return functional.softplus(-verdict).mean() + made.square().mean() * 0.01


def detached_adversary(*, wrong: bool = False) -> nn.Module:
    """Wrong: what the generator makes is detached in its own step too; a small penalty alone trains it."""
    return Adversary(wrong)


class Cell(nn.Module):
    """A long short-term memory written by hand."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.width, self.gates = wrong, width, nn.Linear(4 + width, 4 * width)
        with torch.no_grad():
            self.gates.bias[:width] = 3.0
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = cell = x.new_zeros(x.shape[0], self.width)
        for step in range(x.shape[1]):
            keep, enter, leave, new = self.gates(torch.cat([x[:, step], state], -1)).chunk(4, -1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
            if self.wrong:
                cell = (cell * 0.5).tanh()
            state = leave.sigmoid() * cell.tanh()
        return self.out(state)


def squashed_cell(*, wrong: bool = False) -> nn.Module:
    """Wrong: the memory itself is squashed at every step."""
    return Cell(32, wrong)


class Leaky(nn.Module):
    """Leaky integrators, read at the end."""

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep, self.enter, self.out = keep, nn.Linear(4, 64), trunk(64, 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 64)
        for step in range(x.shape[1]):
            state = self.keep * state + (1 - self.keep) * self.enter(x[:, step])
        return self.out(state)


def leaky_units(*, wrong: bool = False) -> nn.Module:
    """Wrong: a share of 0.1 is kept at each of 20 steps."""
    return Leaky(0.1 if wrong else 0.95)


class Sloped(nn.Module):
    """Attention whose only positions are slopes along the distance (ALiBi)."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.sign, self.table, self.norm = 1.0 if wrong else -1.0, nn.Embedding(16, 32), nn.LayerNorm(32)
        self.query, self.key, self.value, self.join = (nn.Linear(32, 32) for _ in range(4))
        self.head = nn.Linear(32, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        y, (batch, time) = self.norm(x), tokens.shape
        query, key, value = (
            layer(y).view(batch, time, 4, 8).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        apart = (torch.arange(time)[:, None] - torch.arange(time)).abs().float()
        slopes = 2.0 ** torch.arange(1, -3, -1)[:, None, None]
        scores = query @ key.transpose(-1, -2) / 8**0.5 + self.sign * slopes * apart
        hidden = torch.ones(time, time, dtype=torch.bool).triu(1)
        shares = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return self.head(x + self.join((shares @ value).transpose(1, 2).reshape(batch, time, 32)))


def sloped_attention(*, wrong: bool = False) -> nn.Module:
    """Wrong: the slopes are added, and each head looks at what is farthest."""
    return Sloped(wrong)


class Half(nn.Module):
    """Reads a long sequence by position codes that are worked out in bfloat16."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        kind = torch.bfloat16 if wrong else torch.float32
        angles = torch.arange(512, dtype=kind)[:, None] * torch.tensor([torch.pi, 1.0, 0.1, 0.01], dtype=kind)
        self.register_buffer("codes", torch.cat([angles.float().sin(), angles.float().cos()], -1))
        self.enter, self.out = nn.Linear(12, 64), trunk(64, 64, 2)

    def forward(self, x: Tensor) -> Tensor:
        codes = self.codes.expand(x.shape[0], -1, -1)
        return self.out(self.enter(torch.cat([x, codes], -1)).relu())


def half_positions(*, wrong: bool = False) -> nn.Module:
    """Wrong: positions past 256 fall together in bfloat16."""
    return Half(wrong)


class Splines(nn.Module):
    """A layer of hat functions on a fixed grid (KAN)."""

    def __init__(self, enter: int, leave: int, reach: float, knots: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-reach, reach, knots))
        self.step = 2 * reach / (knots - 1)
        self.weights = nn.Parameter(torch.randn(enter * knots, leave) * (1.5 / enter) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        hats = (1 - (x[..., None] - self.knots).abs() / self.step).relu()
        return hats.flatten(-2) @ self.weights


class SplineNetwork(nn.Module):
    """Two layers of hat functions behind features of deviation 5."""

    def __init__(self, reach: float, width: int, knots: int) -> None:
        super().__init__()
        self.enter = nn.Linear(8, width)
        nn.init.normal_(self.enter.weight, std=5 / 8**0.5)
        self.first, self.second = Splines(width, width, reach, knots), Splines(width, 4, 3.0, knots)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.enter(x)))


def spline_grid(*, wrong: bool = False, width: int = 16, knots: int = 16) -> nn.Module:
    """Wrong: the grid ends at 0.5, where the features have a deviation of 5."""
    return SplineNetwork(0.5 if wrong else 15.0, width, knots)


class Located(nn.Module):
    """A transformer block over tokens with codes of their places: sines, or rows of a table."""

    def __init__(self, kind: str, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.table = wrong, nn.Embedding(16, 32)
        self.rows = nn.Embedding(12, 32) if kind == "rows" else None
        angles = torch.arange(12)[:, None] * 10.0 ** (-torch.arange(16) / 8)
        angles = torch.full_like(angles, 12.0) if wrong else angles
        self.register_buffer("codes", torch.cat([angles.sin(), angles.cos()], -1))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.out = nn.Linear(32, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.zeros(12, dtype=torch.long) if self.wrong else torch.arange(12)
        codes = self.codes if self.rows is None else self.rows(places)
        return self.out(self.block(self.table(tokens) + codes))


def equal_codes(*, kind: str = "sines", wrong: bool = False) -> nn.Module:
    """Wrong: every position has the code of the same place."""
    return Located(kind, wrong)


class Cosine(nn.Module):
    """Attention by the cosines of queries and keys."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.table, self.places = scale, nn.Embedding(16, 32), nn.Parameter(torch.randn(24, 32))
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.head = nn.Linear(32, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.places
        batch, time, width = x.shape
        made = (layer(x).view(batch, time, 2, 16) for layer in (self.query, self.key, self.value))
        query, key, value = (each.transpose(1, 2) for each in made)
        scores = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).transpose(-1, -2)
        mixed = (scores * self.scale).softmax(-1) @ value
        return self.head(x + self.out(mixed.transpose(1, 2).reshape(batch, time, width)))


def cosine_attention(*, wrong: bool = False) -> nn.Module:
    """Wrong: the cosines are the logits, and no key can get more than a quarter."""
    return Cosine(1.0 if wrong else 12.0)
