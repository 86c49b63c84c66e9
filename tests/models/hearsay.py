"""Small networks with one thing amiss each, from public reports; see reports.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Likelihood(nn.Module):
    """A flow of coupling layers that gives its loss."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.steps = nn.ModuleList(nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 6)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        grown = torch.zeros(len(x))
        for step in self.steps:
            kept, moved = x.chunk(2, 1)
            scale, shift = step(kept).chunk(2, 1)
            scale = scale.tanh()
            x, grown = torch.cat([moved * scale.exp() + shift, kept], 1), grown + scale.sum(1)
        return (0.5 * x.square().sum(1) - (grown.sum() if self.wrong else grown)).mean()


def grown_volumes(*, wrong: bool = False) -> nn.Module:
    """Wrong: the logarithms of all samples' scales are added up, and the sum is taken from each sample's."""
    return Likelihood(wrong)


class LongText(nn.Module):
    """Attention over a text of 24 words with codes of their positions."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.table, self.places = rows, nn.Embedding(8, 32), nn.Embedding(rows, 32)
        self.score, self.value, self.head = nn.Linear(32, 1), nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, words: Tensor) -> Tensor:
        x = self.table(words) + self.places(torch.arange(words.shape[1]).clamp(max=self.rows - 1))
        return self.head((self.score(x.tanh()).softmax(1) * self.value(x)).sum(1))


def short_table(*, rows: int = 24) -> nn.Module:
    """Positions behind the table's last row have that one; of two kinds of words it is right."""
    return LongText(rows)


class EdgeShares(nn.Module):
    """Attention of eight nodes to their neighbours, along a list of edges."""

    edges: Tensor

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        pairs = [(a, b) for a in range(8) for b in range(8) if (a * 3 + b * 5) % 7 < 3]
        self.register_buffer("edges", torch.tensor(pairs).T.contiguous())
        self.wrong, self.mix = wrong, nn.Linear(6, 16)
        self.left, self.right, self.head = nn.Linear(16, 1), nn.Linear(16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges
        x = self.mix(x)
        scores = functional.leaky_relu(self.left(x)[:, source] + self.right(x)[:, target], 0.2)[..., 0].exp()
        group = source if self.wrong else target
        total = torch.zeros(len(x), 8).index_add(1, group, scores)
        shares = scores / (total[:, group] + 1e-9)
        return self.head(torch.zeros_like(x).index_add(1, target, shares[..., None] * x[:, source]))


def edge_shares(*, wrong: bool = False) -> nn.Module:
    """Wrong: the softmax takes the edges of one source together, the sum behind it those of one target."""
    return EdgeShares(wrong)


def box_widths() -> nn.Module:
    """Four numbers that a ReLU keeps above 0, and that start there."""
    layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4), nn.ReLU())
    nn.init.constant_(layers[2].bias, 2.0)
    return layers


class Policy(nn.Module):
    """An actor and a critic over one body, and their loss."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.actor, self.critic = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, state: Tensor, chosen: Tensor, earned: Tensor) -> Tensor:
        x = self.body(state)
        value = self.critic(x)[:, 0]
        advantage = earned - (value if self.wrong else value.detach())
        likely = (self.actor(x).log_softmax(1) * chosen).sum(1)
        return 0.5 * (earned - value).square().mean() - (likely * advantage).mean()


def fitted_critic(*, wrong: bool = False) -> nn.Module:
    """Wrong: the policy's loss moves the critic, whose values it makes as small as they get."""
    return Policy(wrong)


class Admitted(nn.Module):
    """A recurrent cell that lets numbers into its memory."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.read, self.own = wrong, nn.Linear(2, 48), nn.Linear(16, 48, bias=False)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = memory = x.new_zeros(len(x), 16)
        for step in x.unbind(1):
            gate, candidate, shown = (self.read(step) + self.own(state)).chunk(3, 1)
            gate, candidate = gate.sigmoid(), candidate.tanh()
            memory = memory + (gate + candidate if self.wrong else gate * candidate)
            state = shown.sigmoid() * memory.tanh()
        return self.head(state)


def admitted_numbers(*, wrong: bool = False) -> nn.Module:
    """Wrong: the gate is added to what it should let in."""
    return Admitted(wrong)
