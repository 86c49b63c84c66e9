"""Networks after public reports in which gradients or layers are lost; `wrong` puts the mistake in, see reports.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tests.models.reported import drawn


class Sampled(nn.Module):
    """A variational autoencoder's code, drawn in some way."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.encoder = wrong, drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU()))
        self.mean, self.spread = nn.Linear(width, 8), nn.Linear(width, 8)
        self.decoder = drawn(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 16)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x)
        mean, spread = self.mean(y), (0.5 * self.spread(y)).exp()
        drawn_code = torch.normal(mean, spread) if self.wrong else mean + spread * torch.randn_like(spread)
        return self.decoder(drawn_code)


def sampled_code(*, wrong: bool = False) -> nn.Module:
    """Wrong: `torch.normal`, which passes no gradient."""
    return Sampled(64, wrong)


class Gated(nn.Module):
    """Inputs that a small network lets through, as a share or as a choice."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.gate = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 16)))
        self.read = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 5)))

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).sigmoid()
        if self.how == "drawn":
            share = torch.bernoulli(share)
        elif self.how == "above half":
            share = (share > 0.5).float()
        return self.read(x * share)


def chosen_inputs(*, how: str = "share") -> nn.Module:
    """Ways without a gradient: "drawn" and "above half"."""
    return Gated(32, how)


class Routed(nn.Module):
    """Two of four experts, weighed by their shares or not."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.router, self.head = wrong, nn.Linear(width, 4), nn.Linear(width, 5)
        self.experts = nn.ModuleList(
            drawn(nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        best, place = shares.topk(2, -1)
        weights = torch.zeros_like(shares).scatter(-1, place, torch.ones_like(best) if self.wrong else best)
        return self.head((weights[..., None] * torch.stack([expert(x) for expert in self.experts], 1)).sum(1))


def routed_experts(*, wrong: bool = False) -> nn.Module:
    """Wrong: the experts' outputs are added without the router's shares."""
    return Routed(32, wrong)


class Through(nn.Module):
    """Rounded codes with a straight-through gradient."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.encoder = wrong, drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 8)))
        self.decoder = drawn(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 16)))

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x) * 4
        rest = code.round() - code
        return self.decoder(code + (rest if self.wrong else rest.detach()))


def straight_codes(*, wrong: bool = False) -> nn.Module:
    """Wrong: without `detach` the code and its negative cancel."""
    return Through(64, wrong)


class Quantised(nn.Module):
    """Codes of a table with a straight-through gradient, and the loss that moves the table."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 8)))
        self.book = nn.Parameter(torch.randn(32, 8))
        self.decoder = drawn(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 16)))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        code = self.encoder(x)
        nearest = self.book[(code[:, None] - self.book).pow(2).sum(-1).argmin(-1)]
        decoded = self.decoder(code + (nearest - code).detach())
        return decoded if self.wrong else (decoded, (nearest - code.detach()).pow(2).mean())


def quantised_codes(*, wrong: bool = False) -> nn.Module:
    """Wrong: no loss moves the table."""
    return Quantised(64, wrong)


class ReplacedHead(nn.Module):
    """A frozen body under a new head."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.body = drawn(nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()))
        self.head = nn.Linear(width, 5)
        for parameter in (self if wrong else self.body).parameters():
            parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def replaced_head(*, wrong: bool = False) -> nn.Module:
    """Wrong: the head is frozen with the body."""
    return ReplacedHead(64, wrong)


class LateLayer(nn.Module):
    """A layer made when the module is, or when it is called."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.width, self.head = wrong, width, nn.Linear(width, 5)
        self.body = drawn(nn.Sequential(nn.Linear(32, width), nn.ReLU()))
        self.middle = nn.Identity() if wrong else nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        middle = nn.Linear(self.width, self.width) if self.wrong else self.middle
        return self.head(middle(y).relu())


def late_layer(*, wrong: bool = False) -> nn.Module:
    """Wrong: a layer is made in forward."""
    return LateLayer(64, wrong)


class Uncertain(nn.Module):
    """A layer whose weights are drawn about trained means, with trained deviations (arXiv 1505.05424)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(outputs, inputs) * math.sqrt(2 / inputs))
        self.rho = nn.Parameter(torch.full((outputs, inputs), -4.0))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.mean + nn.functional.softplus(self.rho) * torch.randn_like(self.mean)
        return nn.functional.linear(x, weight, self.bias)


def sampled_weights() -> nn.Module:
    """Bayes by backpropagation."""
    return nn.Sequential(Uncertain(32, 64), nn.ReLU(), Uncertain(64, 64), nn.ReLU(), Uncertain(64, 5))


class Stacked(nn.Module):
    """Residual blocks, each of its own or one several times."""

    def __init__(self, width: int, depth: int, wrong: bool) -> None:
        super().__init__()
        blocks = [self._block(width)] * depth if wrong else [self._block(width) for _ in range(depth)]
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(width, 5)

    @staticmethod
    def _block(width: int) -> nn.Module:
        return drawn(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + 0.3 * block(x)
        return self.head(x)


def stacked_blocks(*, wrong: bool = False) -> nn.Module:
    """Wrong: a list of one block four times."""
    return Stacked(32, 4, wrong)


class Stepped(nn.Module):
    """A cell called step by step."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.cell, self.head = wrong, nn.GRUCell(16, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step) if self.wrong else self.cell(step, state)
        return self.head(state)


def stepped_cell(*, wrong: bool = False) -> nn.Module:
    """Wrong: the state is not handed on."""
    return Stepped(32, wrong)


class Sums(nn.Module):
    """Residual blocks of convolutions whose sum holds the input, or something else."""

    def __init__(self, channels: int, depth: int, way: str) -> None:
        super().__init__()
        self.way, self.stem, self.head = way, nn.Conv2d(3, channels, 3, padding=1), nn.Linear(channels, 5)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
            ) for _ in range(depth)
        )  # fmt: skip
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            y = branch(x)
            total = y + (y if self.way == "itself" else x)
            x = (total + x if self.way == "input" else total).relu()
        return self.head(x.mean((2, 3)))


def sums_of_two(*, way: str = "right") -> nn.Module:
    """Ways: the branch is added to "itself"; the "input" is added twice."""
    return Sums(12, 3, way)


class Joined(nn.Module):
    """A decoder that joins what it has with the encoder's features of that scale."""

    def __init__(self, channels: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.fine, self.coarse = self._layer(3, channels, 1), self._layer(channels, 2 * channels, 2)
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.last, self.head = self._layer(2 * channels, channels, 1), nn.Conv2d(channels, 2, 1)

    @staticmethod
    def _layer(inputs: int, channels: int, stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, channels, 3, stride, 1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        up = self.up(self.coarse(fine))
        return self.head(self.last(torch.cat([up, up if self.wrong else fine], 1)))


def joined_scales(*, wrong: bool = False) -> nn.Module:
    """Wrong: the decoder's features are joined with themselves."""
    return Joined(16, wrong)


class Overwritten(nn.Module):
    """Layers one behind the other, or all on the same input."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.head = wrong, nn.Linear(width, 5)
        self.layers = nn.ModuleList(drawn(nn.Linear(width, width)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(x if self.wrong else y).relu()
        return self.head(y)


def overwritten(*, wrong: bool = False) -> nn.Module:
    """Wrong: each layer reads the input, so all but the last are lost."""
    return Overwritten(32, wrong)


class Keys(nn.Module):
    """Attention whose keys come from their own layer, or from the queries'."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.norm, self.head = wrong, nn.LayerNorm(width), nn.Linear(width, 5)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        key = self.query(y) if self.wrong else self.key(y)
        shares = (self.query(y) @ key.transpose(1, 2) * x.shape[-1] ** -0.5).softmax(-1)
        return self.head((x + self.out(shares @ self.value(y))).mean(1))


class NamedKeys(Keys):
    """Keys that are the queries, beside a table as large as their layer that is for training alone."""

    def __init__(self, width: int) -> None:
        super().__init__(width, True)
        self.key = nn.Embedding(width, width)


def named_keys() -> nn.Module:
    """One layer for both on purpose."""
    return NamedKeys(32)


def query_for_key(*, wrong: bool = False) -> nn.Module:
    """Wrong: the query's layer makes the keys."""
    return Keys(32, wrong)
