"""Small networks with a mistake of an eighth search each: sums, transforms, shares and losses; see reports.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.unsteady import trunk


class Linear(nn.Module):
    """Attention without a softmax: the sum of keys times values, read by queries."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.enter = wrong, nn.Linear(8, width)
        self.parts = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(4))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for part in self.parts:
            query, key, value = part(x).chunk(3, -1)
            read = query @ (key.transpose(-1, -2) @ value)
            x = x + (read if self.wrong else read / (x.shape[1] * x.shape[-1] ** 0.5))
        return self.head(x.mean(1))


def summed_attention(*, wrong: bool = False) -> nn.Module:
    """Wrong: nothing divides by the number of positions or the width."""
    return Linear(32, wrong)


class Spectral(nn.Module):
    """Layers on the spectrum of a signal."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.norm, self.body = "backward" if wrong else "ortho", trunk(66, 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.fft.fft(x, norm=self.norm).real
        spectrum = torch.fft.rfft(x, norm=self.norm)
        return self.body(torch.cat([spectrum.real, spectrum.imag], -1))


def unscaled_spectrum(*, wrong: bool = False) -> nn.Module:
    """Wrong: each transform multiplies by the root of its length."""
    return Spectral(wrong)


class Floored(nn.Module):
    """Logarithms of features that may be zero."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor, self.enter, self.leave = floor, nn.Linear(16, 32), trunk(32, 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave((self.enter(x).relu() + self.floor).log())


def deep_floor(*, wrong: bool = False) -> nn.Module:
    """Wrong: zeros become -69, beside which all else is equal."""
    return Floored(1e-30 if wrong else 0.5)


class Picked(nn.Module):
    """One position of each sample is picked."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body, self.head = wrong, trunk(4, 32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        x = self.body(x)
        picked = x[place].mean(1) if self.wrong else x[torch.arange(len(x)), place]
        return self.head(picked.relu())


def picked_samples(*, wrong: bool = False) -> nn.Module:
    """Wrong: the place picks from the batch."""
    return Picked(wrong)


class Ordinal(nn.Module):
    """Logits of ordered classes, sums of steps."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, trunk(16, 64, 256)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.body(x) * 8
        return steps.cumsum(-1) if self.wrong else steps / 8


def summed_logits(*, wrong: bool = False) -> nn.Module:
    """Wrong: sums over 256 classes; the first guess is as sure as it is random."""
    return Ordinal(wrong)


class Either(nn.Module):
    """Whether any of many parts is there: 1 less the product of what says no."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.body, self.score = trunk(4, 32, 32), nn.Linear(32, 1)
        nn.init.constant_(self.score.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        there = self.score(self.body(x).relu()).sigmoid()
        return 1.0 - (1.0 - there).prod(1)


def any_of_many(*, wrong: bool = False) -> nn.Module:
    """Wrong: each part starts at 1/2; of 128 the product is 0, and so is every derivative."""
    return Either(0.0 if wrong else -5.0)


class Pointing(nn.Module):
    """Coordinates of four points, means over the shares of a map."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.axis = 1 if wrong else 2
        self.maps = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 12), indexing="ij")
        self.register_buffer("places", torch.stack([rows, columns], -1).flatten(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        shares = (5.0 * self.maps(x).flatten(2)).softmax(self.axis)
        return (shares[..., None] * self.get_buffer("places")).sum(2)


def shares_over_points(*, wrong: bool = False) -> nn.Module:
    """Wrong: the softmax runs over the points, the mean over the places."""
    return Pointing(wrong)


class Waves(nn.Module):
    """Sines of random directions of the inputs."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(2, 128) * spread)
        self.body = trunk(256, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        angles = x @ self.get_buffer("directions")
        return self.body(torch.cat([angles.sin(), angles.cos()], -1))


def wild_frequencies(*, wrong: bool = False) -> nn.Module:
    """Wrong: frequencies of 1000; neighbours have nothing in common."""
    return Waves(1000.0 if wrong else 1.0)


class Gated(nn.Module):
    """Sequences through gated linear units."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.axis, width = (1, 16) if wrong else (2, 32)
        self.enter, self.leave = nn.Linear(4, width), trunk(16, 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(functional.glu(self.enter(x), self.axis).mean(1))


def gated_by_time(*, wrong: bool = False) -> nn.Module:
    """Wrong: the first half of time is gated by the second."""
    return Gated(wrong)


class Levelled(nn.Module):
    """Features divided by the largest of them."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.enter, self.leave = wrong, nn.Linear(16, 32), trunk(32, 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        largest = x.max() if self.wrong else x.amax(-1, keepdim=True)
        return self.leave(x / (largest + 1e-3))


def largest_of_all(*, wrong: bool = False) -> nn.Module:
    """Wrong: the largest of the whole batch."""
    return Levelled(wrong)


class Contrasted(nn.Module):
    """The contrastive loss of two views, all against all; returns it."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, trunk(8, 64, 16)

    def forward(self, x: Tensor) -> Tensor:
        codes = functional.normalize(self.body(torch.cat([x[:, :8], x[:, 8:]])), dim=-1)
        likeness, count = codes @ codes.T / 0.1, len(x)
        if not self.wrong:
            likeness = likeness.masked_fill(torch.eye(2 * count, dtype=torch.bool), -1e4)
        rows = torch.arange(2 * count)
        return -likeness.log_softmax(-1)[rows, (rows + count) % (2 * count)].mean()


def own_likeness(*, wrong: bool = False) -> nn.Module:
    """Wrong: each code is set against itself, too, which always wins."""
    return Contrasted(wrong)


class Inverse(nn.Module):
    """Depths, the inverse of what a layer gives."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, trunk(16, 64, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return 1.0 / x if self.wrong else 1.0 / (functional.softplus(x) + 0.1)


def inverse_of_any(*, wrong: bool = False) -> nn.Module:
    """Wrong: what is divided by passes through zero."""
    return Inverse(wrong)


class Offset(nn.Module):
    """Attention with learnt numbers for the distance of two positions."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.enter, self.parts, self.head = nn.Linear(4, 32), nn.Linear(32, 96), nn.Linear(32, 4)
        self.table = nn.Parameter(torch.zeros(31))
        apart = torch.arange(16)[:, None] - torch.arange(16)
        self.register_buffer("apart", apart.clamp(0, 0) + 15 if wrong else apart + 15)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        query, key, value = self.parts(x).chunk(3, -1)
        scores = query @ key.transpose(-1, -2) / 32**0.5 + self.table[self.get_buffer("apart")]
        return self.head(x + scores.softmax(-1) @ value)


def equal_offsets(*, wrong: bool = False) -> nn.Module:
    """Wrong: all distances are clamped to one, whose number the softmax takes out again."""
    return Offset(wrong)


class HardGate(nn.Module):
    """Features behind a hard gate."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.body, self.gate, self.leave = trunk(16, 32, 32), nn.Linear(16, 32), nn.Linear(32, 4)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.body(x) * functional.hardsigmoid(self.gate(x)))


def shut_hard_gate(*, wrong: bool = False) -> nn.Module:
    """Wrong: the gate starts where it is exactly zero, and flat."""
    return HardGate(-6.0 if wrong else 0.0)


class Causal(nn.Module):
    """Convolutions over time that are to see the past alone; the target is the next entry."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.frame = (0, 2) if wrong else (2, 0)
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 3) for a, b in ((4, 32), (32, 32), (32, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for index, layer in enumerate(self.layers):
            x = layer(functional.pad(x if index == 0 else x.relu(), self.frame))
        return x.transpose(1, 2)


def padded_behind(*, wrong: bool = False) -> nn.Module:
    """Wrong: padded at the end, so that each step sees the next ones."""
    return Causal(wrong)


class Clamped(nn.Module):
    """A critic whose weights are held within bounds."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound, self.layers = (
            bound,
            nn.ModuleList(nn.Linear(a, b) for a, b in ((16, 64), (64, 64), (64, 64), (64, 1))),
        )

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            weight = layer.weight.clamp(-self.bound, self.bound)
            x = functional.linear(x if index == 0 else functional.leaky_relu(x, 0.2), weight, layer.bias)
        return x


def clamped_weights(*, wrong: bool = False) -> nn.Module:
    """Wrong: the bound is 0.01, and next to all weights lie outside of it when they are drawn."""
    return Clamped(0.01 if wrong else 1.0)


class Convex(nn.Module):
    """A convex function: weights behind the first layer are not negative."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.factor, self.enter = 1.0 if wrong else 1.0 / width, nn.Linear(8, width)
        self.hidden = nn.ParameterList(nn.Parameter(torch.randn(width, width) * 0.3) for _ in range(3))
        self.skips = nn.ModuleList(nn.Linear(8, width) for _ in range(3))
        self.last = nn.Parameter(torch.randn(1, width) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).relu()
        for weight, skip in zip(self.hidden, self.skips, strict=True):
            y = (y @ (self.factor * weight.exp()).T + skip(x)).relu()
        return y @ (self.factor * self.last.exp()).T


def convex_layers(*, wrong: bool = False) -> nn.Module:
    """Wrong: exponentials of weights add up to the width at every layer."""
    return Convex(64, wrong)


class Tagged(nn.Module):
    """A class for each word; returns logarithms of probabilities."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.table, self.body = axis, nn.Embedding(32, 32), trunk(32, 64, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self.table(ids)).log_softmax(self.axis)


def classes_over_time(*, wrong: bool = False) -> nn.Module:
    """Wrong: the softmax runs over the words of a sentence."""
    return Tagged(1 if wrong else 2)


class OneGate(nn.Module):
    """A minimal gated recurrence."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.width = wrong, width
        self.gate, self.new, self.head = nn.Linear(4, width), nn.Linear(4, width), nn.Linear(width, 1)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), self.width)
        for step in range(x.shape[1]):
            gate, new = self.gate(x[:, step]).sigmoid(), self.new(x[:, step]).tanh()
            state = gate * state + gate * new if self.wrong else (1.0 - gate) * state + gate * new
        return self.head(state)


def one_gate(*, wrong: bool = False) -> nn.Module:
    """Wrong: the state is kept by the gate that lets in, not by the rest of it."""
    return OneGate(32, wrong)
