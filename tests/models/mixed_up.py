"""Networks after public reports in which axes are mixed up; `wrong` puts the mistake in, see reports.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn


def codes(length: int, width: int) -> Tensor:
    """Sines and cosines of positions, (length, width)."""
    angle = torch.arange(length)[:, None] * torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
    return torch.cat([angle.sin(), angle.cos()], -1)


class Written(nn.Module):
    """One head of attention, written out, with a mask that hides later positions in some way.

    Args:
        axis: of the softmax.
        way: what the mask does: "hide" (before the softmax), "zero", "tiny", "times", "plus", "slight", "late",
            "replaced" (logits times 0, and -1e4 added, as in GPT-1).
    """

    def __init__(self, width: int, time: int, axis: int = -1, way: str = "none") -> None:
        super().__init__()
        self.axis, self.way = axis, way
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 16)
        self.register_buffer("hidden", torch.ones(time, time, dtype=torch.bool).triu(1))

    def shares(self, logits: Tensor) -> Tensor:
        fill = {"hide": -math.inf, "zero": 0.0, "tiny": 1e-9}.get(self.way)
        if fill is not None:
            logits = logits.masked_fill(self.hidden, fill)
        elif self.way == "times":
            logits = logits * (~self.hidden).float()
        elif self.way == "replaced":
            logits = logits * (~self.hidden).float() - 1e4 * self.hidden.float()
        elif self.way in ("plus", "slight"):
            logits = logits + self.hidden.float() * (1.0 if self.way == "plus" else -1e-9)
        found = logits.softmax(self.axis)
        return found.masked_fill(self.hidden, 0) if self.way == "late" else found

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        return self.head(x + self.out(self.shares(query @ key.transpose(1, 2) * x.shape[-1] ** -0.5) @ value))


def asking_queries(*, wrong: bool = False) -> nn.Module:
    """Wrong: the softmax runs along the queries."""
    return Written(32, 12, 1 if wrong else 2)


def hidden_positions(*, way: str = "hide") -> nn.Module:
    """Ways that hide nothing: "zero", "tiny", "times", "plus", "slight"; "late" hides shares."""
    return Written(32, 12, way=way)


class LastStates(nn.Module):
    """The last states of a bidirectional recurrent layer, side by side."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.rnn = wrong, nn.GRU(24, width, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(4 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        _, states = self.rnn(x)
        return self.head((states if self.wrong else states.transpose(0, 1)).reshape(x.shape[0], -1))


def last_states(*, wrong: bool = False) -> nn.Module:
    """Wrong: (layers, batch, width) is reshaped to (batch, layers * width)."""
    return LastStates(16, wrong)


class Patches(nn.Module):
    """Patches of an image as tokens."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.patch = wrong, nn.Conv2d(3, width, 4, stride=4)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x)
        tokens = y.reshape(y.shape[0], -1, y.shape[1]) if self.wrong else y.flatten(2).transpose(1, 2)
        return self.head((tokens + self.mix(self.norm(tokens))).mean(1))


def patches(*, wrong: bool = False) -> nn.Module:
    """Wrong: (batch, channels, height, width) is reshaped to (batch, positions, channels)."""
    return Patches(24, wrong)


class CodedTokens(nn.Module):
    """Tokens with codes added along one axis, in front of an encoder layer."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.embedding, self.head = wrong, nn.Embedding(64, width), nn.Linear(width, 64)
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.register_buffer("codes", codes(40, width))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        own = self.codes[: x.shape[0]][:, None] if self.wrong else self.codes[: x.shape[1]]
        return self.head(self.layer(x + own))


def coded_tokens(*, wrong: bool = False) -> nn.Module:
    """Wrong: the codes are added along the batch."""
    return CodedTokens(32, wrong)


class Dueling(nn.Module):
    """The value of a state, and the advantage of each action over their mean."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.value, self.advantage = wrong, nn.Linear(width, 1), nn.Linear(width, 4)
        self.body = drawn(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        advantage = self.advantage(y)
        return self.value(y) + advantage - (advantage.mean() if self.wrong else advantage.mean(1, keepdim=True))


def dueling_values(*, wrong: bool = False) -> nn.Module:
    """Wrong: the mean is taken over the batch as well."""
    return Dueling(64, wrong)


class SquaredError(nn.Module):
    """A regression with its loss."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, drawn(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1)))

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        y = self.body(x)
        return ((y if self.wrong else y.squeeze(1)) - target).pow(2).mean()


def squared_error(*, wrong: bool = False) -> nn.Module:
    """Wrong: (n, 1) less (n,) is (n, n)."""
    return SquaredError(64, wrong)


class BothDirections(nn.Module):
    """A bidirectional layer, read at the last step or at the end of each direction."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.width = wrong, width
        self.rnn, self.head = nn.GRU(16, width, batch_first=True, bidirectional=True), nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        ends = torch.cat([y[:, -1, : self.width], y[:, 0, self.width :]], -1)
        return self.head(y[:, -1] if self.wrong else ends)


def both_directions(*, wrong: bool = False) -> nn.Module:
    """Wrong: the backward half is read where it begins."""
    return BothDirections(32, wrong)


class LastSample(nn.Module):
    """A recurrent layer read at the last step."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.rnn, self.head = wrong, nn.GRU(16, width, batch_first=True), nn.Linear(width, 5)
        with torch.no_grad():
            self.rnn.bias_ih_l0[width : 2 * width] += 2.0

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.head(y[-1] if self.wrong else y[:, -1])


def last_sample(*, wrong: bool = False) -> nn.Module:
    """Wrong: the last sample of the batch is taken for the last step."""
    return LastSample(32, wrong)


class WholeNorm(nn.Module):
    """A causal block whose norms run over features, or over positions too."""

    def __init__(self, width: int, time: int, wrong: bool) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm([time, width] if wrong else width), nn.Linear(width, 3 * width)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 16)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(functional.scaled_dot_product_attention(query, key, value, is_causal=True))
        return self.head(self.norm(x))


def whole_norm(*, wrong: bool = False) -> nn.Module:
    """Wrong: the norm behind the causal attention takes its statistics over positions."""
    return WholeNorm(32, 12, wrong)


def row_scores(*, wrong: bool = False) -> nn.Module:
    """Wrong: the softmax of classes runs along the batch."""
    body = drawn(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5)))
    return nn.Sequential(body, nn.Softmax(0 if wrong else 1))


class Induced(nn.Module):
    """Learnt queries look at a set, as many of them as heads: axes of one size that are not one axis."""

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, width) * width**-0.5)
        self.look, self.norm = nn.MultiheadAttention(width, 4, batch_first=True), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        found = self.look(self.queries.expand(len(x), -1, -1), x, x)[0]
        return self.norm(found)


def induced_set() -> nn.Module:
    """4 samples of 16 entries for 4 heads: what is read of the set has 16 rows, one for each sample and query."""
    return nn.Sequential(Induced(32, 4), nn.Linear(32, 10))
