"""Small networks with a mistake of an eighth search each: places, shares, samples and sizes; see reports.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.unsteady import trunk


class Turned(nn.Module):
    """Attention with rotary positions: pairs of features turned by angles of their own."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.enter = wrong, nn.Linear(8, width)
        self.query, self.key, self.value, self.leave = (nn.Linear(width, width) for _ in range(4))
        rates = 10000.0 ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(24.0)[:, None] * rates
        angles = torch.cat([angles, angles], -1) if wrong else angles.repeat_interleave(2, -1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.head = nn.Linear(width, 4)

    def turn(self, x: Tensor) -> Tensor:
        pairs = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x * self.get_buffer("cos") + pairs * self.get_buffer("sin")

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        scores = self.turn(self.query(x)) @ self.turn(self.key(x)).transpose(-1, -2) / x.shape[-1] ** 0.5
        return self.head(x + self.leave(scores.softmax(-1) @ self.value(x)))


def rotary_pairs(*, wrong: bool = False) -> nn.Module:
    """Wrong: neighbours are turned as pairs, angles are laid out for halves."""
    return Turned(32, wrong)


class Averaged(nn.Module):
    """Features averaged over the entries that a fixed mask shows, of which one row shows none."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.enter, self.leave = wrong, nn.Linear(8, 32), trunk(32, 32, 4)
        shown = torch.ones(12)
        shown[3:6] = 0.0
        self.register_buffer("shown", shown)

    def forward(self, x: Tensor) -> Tensor:
        x, shown = self.enter(x), self.get_buffer("shown")
        pairs = x.unflatten(1, (4, 3))
        counts = shown.view(4, 3).sum(-1)
        counts = counts if self.wrong else counts.clamp(min=1.0)
        means = (pairs * shown.view(4, 3, 1)).sum(2) / counts[:, None]
        return self.leave(means.nan_to_num(0.0).mean(1))


def hidden_nan(*, wrong: bool = False) -> nn.Module:
    """Wrong: 0/0 is replaced behind the division; its gradient stays no number."""
    return Averaged(wrong)


class Apart(nn.Module):
    """Scores by the distances between all samples of a set, from their cosines."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.floor, self.body, self.leave = 0.0 if wrong else 1e-4, trunk(8, 32, 16), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.normalize(self.body(x), dim=-1)
        apart = (2.0 - 2.0 * x @ x.transpose(-1, -2)).clamp(min=self.floor).sqrt()
        return self.leave(apart).mean(1)


def own_distances(*, wrong: bool = False) -> nn.Module:
    """Wrong: the root of each sample's distance to itself, which is 0."""
    return Apart(wrong)


class Remembering(nn.Module):
    """An LSTM whose forget gate is to start open."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(4, width, batch_first=True), nn.Linear(width, 1)
        with torch.no_grad():
            for bias in (self.memory.bias_ih_l0, self.memory.bias_hh_l0):
                bias.zero_()
            self.memory.bias_ih_l0[:width].fill_(3.0) if wrong else self.memory.bias_ih_l0[width : 2 * width].fill_(3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


def misplaced_forget(*, wrong: bool = False) -> nn.Module:
    """Wrong: the bias is given to the input gate, which comes first."""
    return Remembering(32, wrong)


class Decayed(nn.Module):
    """Linear attention with gates that are multiplied over time."""

    def __init__(self, width: int, bias: float) -> None:
        super().__init__()
        self.gate, self.value, self.head = nn.Linear(4, width), nn.Linear(4, width), nn.Linear(width, 2)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.gate(x).sigmoid().cumprod(1)
        return self.head((kept * self.value(x)).sum(1))


def decay_products(*, wrong: bool = False) -> nn.Module:
    """Wrong: gates start at 1/2, and of a late step nothing is left."""
    return Decayed(32, 0.0 if wrong else 5.0)


class Timed(nn.Module):
    """A network of a noisy value and a time, which is given by sines."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        count, steps = 16, torch.arange(16.0)
        if kind == "steep":
            rates = 10000.0 ** (-steps)
        elif kind == "floored":
            rates = (-math.log(1000.0) * (steps // count)).exp()
        else:
            rates = (-math.log(1000.0) * steps / count).exp()
        self.register_buffer("rates", rates)
        self.body = trunk(32 + 4, 64, 64, 4)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * 100.0 * self.get_buffer("rates")
        return self.body(torch.cat([x, angles.sin(), angles.cos()], -1))


def steep_frequencies(*, wrong: bool = False) -> nn.Module:
    """Wrong: the exponent is not divided by the width; all rates but the first are next to zero."""
    return Timed("steep" if wrong else "right")


def floored_frequencies(*, wrong: bool = False) -> nn.Module:
    """Wrong: a floor division makes all rates the same."""
    return Timed("floored" if wrong else "right")


class Joined(nn.Module):
    """Two views of each sample, encoded and put side by side."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.left, self.right, self.leave = wrong, trunk(8, 16), trunk(8, 16), trunk(32, 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x[:, :8]), self.right(x[:, 8:])
        both = torch.cat([left, right], 0).view(len(x), -1) if self.wrong else torch.cat([left, right], 1)
        return self.leave(both.relu())


def joined_samples(*, wrong: bool = False) -> nn.Module:
    """Wrong: joined along the batch and viewed as pairs, which sets two samples side by side."""
    return Joined(wrong)


class Staged(nn.Module):
    """Stages of residual blocks, each of a width of its own; the last is built without shortcuts (CSPNeXt)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for width in (8, 16, 32):
            down = nn.Conv2d(max(width // 2, 8), width, 3, 2, 1)
            blocks = nn.ModuleList(
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
                for _ in range(1 if width == 32 else 2)
            )
            self.stages.append(nn.ModuleDict({"down": down, "blocks": blocks}))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        for place, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleDict)
            x = stage["down"](x)
            blocks = stage["blocks"]
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                x = block(x) if place == 2 else x + block(x)
        return self.head(x.mean((2, 3)))


def plain_last_stage() -> nn.Module:
    """One block of a stage of its own width has no shortcut, and none like it has one."""
    return Staged()


class SharedExperts(nn.Module):
    """All tokens of all samples in one list, which each of two experts reads; their answers are added."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.experts = nn.Linear(8, 16), nn.Parameter(torch.randn(2, 16, 16) / 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.enter(x)
        alike = tokens.reshape(1, -1, 16).expand(2, -1, -1)
        return torch.bmm(alike, self.experts).sum(0).view(tokens.shape)


def shared_experts() -> nn.Module:
    """A list of tokens in which each keeps its own row merges no samples."""
    return SharedExperts()


class Bounded(nn.Module):
    """Words by a table whose rows are held below a length."""

    def __init__(self, longest: float) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(64, 32, max_norm=longest), trunk(32, 64, 64, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self.table(ids).mean(1))


def bounded_table(*, wrong: bool = False) -> nn.Module:
    """Wrong: rows may be no longer than 0.001."""
    return Bounded(0.001 if wrong else 6.0)


def unmixed_channels(*, wrong: bool = False) -> nn.Module:
    """Wrong: every convolution is by channel; none ever meets another one."""
    layers: list[nn.Module] = [nn.Conv2d(16, 16, 1)] if not wrong else [nn.Conv2d(16, 16, 1, groups=16)]
    for _ in range(3):
        layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 1, groups=16 if wrong else 1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Conv2d(16, 16, 1, groups=16 if wrong else 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class Standardised(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1 in each unit."""

    def forward(self, x: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = (
            centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt() / self.weight[0].numel() ** 0.5
        )
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def standardised_alone(*, wrong: bool = False) -> nn.Module:
    """Wrong: units of one weight each, which is its own mean."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    for _ in range(2):
        layers += [Standardised(16, 16, 3, padding=1), nn.ReLU()]
        layers += [Standardised(16, 16, 1, groups=16) if wrong else nn.Conv2d(16, 16, 1, groups=16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
