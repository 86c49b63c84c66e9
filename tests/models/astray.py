"""Small networks that take a wrong turn in forward each: axes, states and heads; see reports.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn
from tests.models.unsteady import trunk


class HeadsOfToken(nn.Module):
    """Attention with four heads over 16 tokens, read at the last one."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.places = nn.Linear(8, 32), nn.Parameter(0.1 * torch.randn(1, 16, 32))
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.leave, self.head = nn.Linear(32, 32), trunk(32, 32, 1)

    def split(self, x: Tensor) -> Tensor:
        x = x.view(x.shape[0], x.shape[1], 4, 8)
        return x if self.wrong else x.transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x) + self.places
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        shares = (query @ key.transpose(-2, -1) / math.sqrt(8)).softmax(-1)
        y = shares @ value
        y = y if self.wrong else y.transpose(1, 2)
        x = x + self.leave(y.reshape(x.shape))
        return self.head(x[:, -1])


def heads_of_token(*, wrong: bool = False) -> nn.Module:
    """Wrong: heads and positions are not swapped, so that the heads of one token attend to each other."""
    return HeadsOfToken(wrong)


class SpelledAttention(nn.Module):
    """Attention written as einsums."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.sum = "bqk,bvd->bqd" if wrong else "bqk,bkd->bqd"
        self.query, self.key, self.value, self.head = (
            nn.Linear(8, 16),
            nn.Linear(8, 16),
            nn.Linear(8, 16),
            trunk(24, 32, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.einsum("bqd,bkd->bqk", self.query(x), self.key(x)) / 4.0
        return self.head(torch.cat([x, torch.einsum(self.sum, logits.softmax(-1), self.value(x))], -1))


def spelled_attention(*, wrong: bool = False) -> nn.Module:
    """Wrong: two letters for the keys, so that shares are added up to 1 and all values are summed."""
    return SpelledAttention(wrong)


class StackedMemory(nn.Module):
    """A classifier of series: the last state of the second of two layers."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer, self.memory, self.head = layer, nn.LSTM(4, 32, num_layers=2, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, (state, _) = self.memory(x)
        return self.head(state[self.layer])


def stacked_memory(*, wrong: bool = False) -> nn.Module:
    """Wrong: the state of the first layer is read, so that the second one is never trained."""
    return StackedMemory(0 if wrong else -1)


class CellLoop(nn.Module):
    """An LSTM cell in a loop over time, read at the end.

    Args:
        wrong: "lost": the memory is thrown away at every step; "swapped": the states change places.
    """

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong, self.cell, self.head = wrong, nn.LSTMCell(3, 32), nn.Linear(32, 1)
        nn.init.constant_(self.cell.bias_ih[32:64], 3.0)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 32)
        memory = x.new_zeros(x.shape[0], 32)
        for step in x.unbind(1):
            if self.wrong == "lost":
                state, _ = self.cell(step, (state, memory))
            else:
                state, memory = self.cell(step, (memory, state) if self.wrong == "swapped" else (state, memory))
        return self.head(state)


def lost_memory(*, wrong: str = "") -> nn.Module:
    """Wrong: see `CellLoop`."""
    return CellLoop(wrong)


class BothWays(nn.Module):
    """A tagger that reads its words forward and backward by two layers."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.words = wrong, nn.Embedding(20, 16)
        self.forth, self.back = nn.GRU(16, 24, batch_first=True), nn.GRU(16, 24, batch_first=True)
        self.head = nn.Linear(48, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        forth, back = self.forth(x)[0], self.back(x.flip(1))[0]
        return self.head(torch.cat([forth, back if self.wrong else back.flip(1)], -1))


def unturned_back(*, wrong: bool = False) -> nn.Module:
    """Wrong: what was read backward is not turned round again, so that each word gets the features of another."""
    return BothWays(wrong)


class Surrogate(nn.Module):
    """The clipped objective of a policy: states, preferences (of the action taken), advantages, the old logarithms."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.policy = wrong, trunk(6, 32, 4)

    def score(self, x: Tensor, action: Tensor) -> Tensor:
        return self.policy(x).log_softmax(-1).gather(1, action).squeeze(1)

    def forward(self, x: Tensor, preference: Tensor, advantage: Tensor, old: Tensor) -> Tensor:
        action = preference.argmax(1, keepdim=True)
        score = self.score(x, action)
        ratio = (score - (self.score(x, action) if self.wrong else old)).exp()
        return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


def policy_ratio(*, wrong: bool = False) -> nn.Module:
    """Wrong: the old policy is the new one, asked again, so that the ratio is 1 and has no gradient."""
    return Surrogate(wrong)


class WordsToScores(nn.Module):
    """Words with codes of their places, one layer of attention, the mean."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.words = wrong, nn.Embedding(12, 32)
        place, rate = torch.arange(16.0)[:, None], torch.exp(torch.arange(0, 32, 2) * (-math.log(1e4) / 32))
        codes = torch.zeros(16, 32)
        codes[:, 0::2], codes[:, 1::2] = (place * rate).sin(), (place * rate).cos()
        self.register_buffer("codes", codes)
        self.mix = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        return self.head(self.mix(x * self.codes if self.wrong else x + self.codes).mean(1))


def multiplied_codes(*, wrong: bool = False) -> nn.Module:
    """Wrong: words are multiplied by the codes of their places, of which half are zero at the first."""
    return WordsToScores(wrong)


class RotaryLayer(nn.Module):
    """Attention over turned queries and keys, to be told by distances alone."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.words = wrong, nn.Embedding(12, 32)
        self.query, self.key, self.value, self.head = (
            nn.Linear(32, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 32),
            trunk(32, 64, 12),
        )
        rates = 1.0 / 100 ** (torch.arange(0, 32, 2) / 32)
        angles = torch.arange(24.0)[:, None] * torch.cat([rates, rates])
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turned(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * self.cos + torch.cat([-right, left], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        query, key = self.turned(self.query(x)), self.key(x)
        key = key if self.wrong else self.turned(key)
        shares = (query @ key.transpose(1, 2) / math.sqrt(32)).softmax(-1)
        return self.head(shares @ self.value(x))


def half_rotary(*, wrong: bool = False) -> nn.Module:
    """Wrong: queries are turned by their place and keys are not."""
    return RotaryLayer(wrong)


class CausalReader(nn.Module):
    """A classifier of words through causal attention."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place, self.words, self.places = place, nn.Embedding(12, 32), nn.Parameter(0.02 * torch.randn(24, 32))
        self.mix = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, 4)
        self.register_buffer("later", torch.ones(24, 24, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.words(x) + self.places, src_mask=self.later)[:, self.place])


def causal_first(*, wrong: bool = False) -> nn.Module:
    """Wrong: the first position is read, which causal attention shows nothing but itself."""
    return CausalReader(0 if wrong else -1)


class TokensMean(nn.Module):
    """A norm behind a block of tokens and the mean over them."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.enter, self.body = axis, nn.Linear(8, 24), trunk(24, 48, 24)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.head(self.norm(x + self.body(x)).mean(self.axis))


def features_mean(*, wrong: bool = False) -> nn.Module:
    """Wrong: the mean is taken over the features, behind a norm that makes that zero."""
    return TokensMean(-1 if wrong else 1)


class Points(nn.Module):
    """A classifier of point clouds: a layer for each point, and the maximum over the points."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.points = drawn(nn.Sequential(nn.Conv1d(3, 32, 1), nn.ReLU(), nn.Conv1d(32, 64, 1), nn.ReLU()))
        self.head = trunk(64, 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.points(x).amax(self.axis))


def pooled_features(*, wrong: bool = False) -> nn.Module:
    """Wrong: the maximum runs over the features, so that points in another order are another cloud."""
    return Points(1 if wrong else 2)


class Larger(nn.Module):
    """Pictures twice as large, by a convolution whose channels become pixels."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.body = drawn(nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 12, 3, padding=1)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.wrong:
            return y.view(x.shape[0], 3, 2 * x.shape[2], 2 * x.shape[3])
        return functional.pixel_shuffle(y, 2)


def unshuffled_pixels(*, wrong: bool = False) -> nn.Module:
    """Wrong: channels become pixels by a view."""
    return Larger(wrong)


class Frames(nn.Module):
    """Frames through one network, its features averaged over time."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body, self.head = wrong, trunk(12, 32, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps = x.shape[:2]
        y = self.body(x.reshape(batch * steps, -1))
        return self.head(y.view(steps, batch, -1).mean(0) if self.wrong else y.view(batch, steps, -1).mean(1))


def swapped_back(*, wrong: bool = False) -> nn.Module:
    """Wrong: samples and steps come back in another order than they were put together."""
    return Frames(wrong)


class Rows(nn.Module):
    """A table's rows through a recurrent layer of one step each, or all as one series."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.memory, self.head = wrong, nn.GRU(8, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0] if self.wrong else self.memory(x[:, None])[0][:, -1])


def unbatched_rows(*, wrong: bool = False) -> nn.Module:
    """Wrong: a batch without an axis of time is one series to a recurrent layer."""
    return Rows(wrong)


class TextLines(nn.Module):
    """A reader of lines: columns of a convolution's picture are the steps of a recurrent layer."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.picture = drawn(nn.Sequential(nn.Conv2d(1, 16, 3, (2, 1), 1), nn.ReLU()))
        self.memory, self.head = nn.GRU(64, 32, batch_first=True, bidirectional=True), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.picture(x)
        columns = x.shape[3]
        x = x.view(x.shape[0], columns, -1) if self.wrong else x.permute(0, 3, 1, 2).flatten(2)
        return self.head(self.memory(x)[0])


def viewed_columns(*, wrong: bool = False) -> nn.Module:
    """Wrong: a view makes steps of what are channels and rows."""
    return TextLines(wrong)


class Boxes(nn.Module):
    """Two boxes for each cell of a grid: five numbers and three classes each."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.body = drawn(nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()))
        self.boxes = nn.Conv2d(32, 16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.boxes(self.body(x))
        batch, _, rows, columns = x.shape
        if self.wrong:
            x = x.view(batch, 2, rows, columns, 8)
        else:
            x = x.view(batch, 2, 8, rows, columns).permute(0, 1, 3, 4, 2)
        return torch.cat([x[..., :2].sigmoid(), x[..., 2:4]], -1), x[..., 4:]


def viewed_boxes(*, wrong: bool = False) -> nn.Module:
    """Wrong: the numbers of a box are a view of the grid, not moved behind it."""
    return Boxes(wrong)
