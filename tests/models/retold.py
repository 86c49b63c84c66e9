"""Small networks with one thing amiss each, retold from public reports; see reports.md."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn
from tests.models.unsteady import trunk


class Actions(nn.Module):
    """Actions between 0 and 1."""

    def __init__(self, wrong: bool, scaled: bool) -> None:
        super().__init__()
        self.wrong, self.scaled, self.body = wrong, scaled, trunk(6, 64, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = (x.tanh() if self.wrong else x).sigmoid()
        return 2.0 * x - 1.0 if self.scaled else x


def squashed_actions(*, wrong: bool = False, scaled: bool = False) -> nn.Module:
    """Wrong: a tanh stands in front of the sigmoid; scaled: actions between -1 and 1."""
    return Actions(wrong, scaled)


class UnitWords(nn.Module):
    """Words as unit vectors, read by a layer or set against others."""

    def __init__(self, axis: int, product: bool) -> None:
        super().__init__()
        self.axis, self.product = axis, product
        self.reduce = nn.Linear(16, 24)
        if product:
            self.other = nn.Linear(16, 24)
        else:
            self.head = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        words = functional.normalize(self.reduce(x), dim=self.axis)
        if self.product:
            others = functional.normalize(self.other(x), dim=self.axis)
            return 10.0 * words @ others.transpose(1, 2)
        return self.head(words)


def unit_words(*, wrong: bool = False, product: bool = False) -> nn.Module:
    """Wrong: `normalize` runs along its default axis, the words and not their features."""
    return UnitWords(1 if wrong else -1, product)


class Poses(nn.Module):
    """A sequence of poses, normalised, through a recurrent layer."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.norm = wrong, nn.BatchNorm1d(12 if wrong else 6)
        self.memory, self.head = nn.LSTM(6, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x) if self.wrong else self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.memory(x)[0][:, -1])


def normalised_poses(*, wrong: bool = False) -> nn.Module:
    """Wrong: the batch normalisation has the steps for channels."""
    return Poses(wrong)


class Shares(nn.Module):
    """Classes of words."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong, self.score, self.other = wrong, nn.Linear(8, 4), nn.Softmax()

    def forward(self, x: Tensor) -> Tensor:
        x = self.score(x)
        if self.wrong == "function":
            return functional.log_softmax(x)
        return self.other(x) if self.wrong else functional.log_softmax(x, dim=-1)


def untold_shares(*, wrong: str = "") -> nn.Module:
    """Wrong: "function", "module": a softmax that is not told its axis."""
    return Shares(wrong)


def few_channels(*, wrong: bool = False, flat: bool = False) -> nn.Module:
    """Wrong: two rectified channels are all that the last layer of a segmentation reads; flat: a layer reads all of
    both."""
    last = [nn.Flatten(), nn.Linear(128, 8)] if flat else [nn.Conv2d(2, 1, 1)]
    tail = [nn.Conv2d(16, 2, 3, padding=1), nn.ReLU(), *last] if wrong else [nn.Conv2d(16, 1, 1)]
    return drawn(nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), *tail))


class GraphSums(nn.Module):
    """Layers of a graph that add what neighbours say to what a node says itself."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.activation = None if wrong else torch.relu
        self.others = nn.ModuleList([nn.Linear(4, 64), nn.Linear(64, 64)])
        self.own, self.head = nn.ModuleList([nn.Linear(4, 64), nn.Linear(64, 64)]), nn.Linear(64, 1)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for others, own in zip(self.others, self.own, strict=True):
            x = adjacency @ others(x) / 4 + own(x)
            x = x if self.activation is None else self.activation(x)
        return self.head(x.mean(1))


def lost_bend(*, wrong: bool = False) -> nn.Module:
    """Wrong: the activation is left out where one was given."""
    return GraphSums(wrong)


class StaleState(nn.Module):
    """A decoder that starts from an encoder's state."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.enter = wrong, nn.Linear(6, 32)
        self.cell, self.head = nn.GRUCell(3, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        first = state = self.enter(x).tanh()
        given = []
        for step in steps.unbind(1):
            state = self.cell(step, first if self.wrong else state)
            given.append(self.head(state))
        return torch.stack(given, 1)


class StaleMemory(nn.Module):
    """The same with an LSTM that is called for one step at a time."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.enter = wrong, nn.Linear(6, 16)
        self.memory, self.head = nn.LSTM(3, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        state = self.enter(x).tanh()[None]
        first = states = (state, torch.zeros_like(state))
        given = []
        for place in range(steps.shape[1]):
            out, states = self.memory(steps[:, place : place + 1], first if self.wrong else states)
            given.append(self.head(out))
        return torch.cat(given, 1)


class HandState(nn.Module):
    """The same with a cell that is written by hand."""

    def __init__(self, wrong: bool, gates: bool) -> None:
        super().__init__()
        self.wrong, self.enter, self.head = wrong, nn.Linear(6, 16), nn.Linear(16, 4)
        self.own, self.back = (nn.ModuleList(nn.Linear(n, 16) for _ in range(2 if gates else 1)) for n in (3, 16))

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        first = state = self.enter(x).tanh()
        given = []
        for step in steps.unbind(1):
            state = self._step(step, first if self.wrong else state)
            given.append(self.head(state))
        return torch.stack(given, 1)

    def _step(self, x: Tensor, state: Tensor) -> Tensor:
        sums = [own(x) + back(state) for own, back in zip(self.own, self.back, strict=True)]
        if len(sums) == 1:
            return sums[0].tanh()
        kept = sums[1].sigmoid()
        return kept * state + (1.0 - kept) * sums[0].tanh()


def stale_state(*, wrong: bool = False, one_step: bool = False, hand: str = "") -> nn.Module:
    """Wrong: each step starts from the encoder's state; hand: a "plain" or "gated" cell of one's own."""
    if hand:
        return HandState(wrong, hand == "gated")
    return StaleMemory(wrong) if one_step else StaleState(wrong)


class ScoredWords(nn.Module):
    """Scores, with the loss beside them where targets are given."""

    def __init__(self) -> None:
        super().__init__()
        self.body = trunk(8, 32, 5)

    def forward(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        return (x - targets).pow(2).mean(), x


def loss_beside() -> nn.Module:
    """Gives (loss, scores), as models of transformers do: the loss reads the targets."""
    return ScoredWords()


class Differences(nn.Module):
    """Features of what is new since the frame before, and until the one behind."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.inner, self.outer, self.head = wrong, nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        before, now, after = x.unbind(1)
        forward = self.outer(self.inner(now - before).relu()).relu()
        backward = self.outer(self.inner(now - before if self.wrong else after - now).relu()).relu()
        return self.head(torch.cat([forward, backward], -1))


def computed_twice(*, wrong: bool = False) -> nn.Module:
    """Wrong: what was computed once is computed again in the place of something else."""
    return Differences(wrong)


class Mixture(nn.Module):
    """The likelihood of a target under a mixture of five."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.body = axis, trunk(4, 32, 32)
        self.shares, self.means = nn.Linear(32, 5), nn.Linear(32, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.body(x).relu()
        densities = -0.5 * (y - self.means(x)).pow(2)
        return -torch.logsumexp(self.shares(x).log_softmax(self.axis) + densities, -1).mean()


def mixture_shares(*, wrong: bool = False) -> nn.Module:
    """Wrong: the shares of a mixture add up to 1 over the batch."""
    return Mixture(0 if wrong else 1)


class Goals(nn.Module):
    """The contrastive loss of two sides that belong together."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.left, self.right = wrong, trunk(16, 64, 16), trunk(16, 64, 16)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.left(x), self.right(y)
        axis = None if self.wrong else -1
        left, right = x.norm(dim=axis, keepdim=True), y.norm(dim=axis, keepdim=True)
        return functional.cross_entropy(10.0 * (x / left) @ (y / right).T, torch.arange(len(x)))


def length_of_all(*, wrong: bool = False) -> nn.Module:
    """Wrong: vectors are divided by the length of all of the batch together."""
    return Goals(wrong)


class MaskedMean(nn.Module):
    """The mean of the words that a mask shows."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body, self.head = wrong, nn.Linear(8, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = (self.body(x) * mask[..., None]).sum(1)
        return self.head(x / (mask.sum() if self.wrong else mask.sum(1, keepdim=True)))


def mask_of_all(*, wrong: bool = False) -> nn.Module:
    """Wrong: sums over a sample's words are divided by the words of the whole batch."""
    return MaskedMean(wrong)


class Distilled(nn.Module):
    """A student that learns from a teacher's shares, and a little from labels."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.teacher, self.student = wrong, trunk(8, 32, 4).requires_grad_(False), trunk(8, 32, 4)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            large = self.teacher(x)
        small = self.student(x)
        logarithms = (large if self.wrong else small).log_softmax(-1)
        unlike = functional.kl_div(logarithms, large.softmax(-1), reduction="batchmean")
        return unlike + 0.1 * (small - labels).pow(2).mean()


def teacher_again(*, wrong: bool = False) -> nn.Module:
    """Wrong: the teacher is compared with itself."""
    return Distilled(wrong)


class Memory(nn.Module):
    """A memory of keys and values, asked by what a layer makes of the input."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        keys = torch.randn(32, 24)
        self.keys = keys if wrong else nn.Parameter(keys)
        self.query, self.values = trunk(24, 48, 24), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.values((self.query(x) @ self.keys.T / 24**0.5).softmax(-1))


def plain_keys(*, wrong: bool = False) -> nn.Module:
    """Wrong: the keys are a plain tensor, which nobody trains or saves."""
    return Memory(wrong)


class Dice(nn.Module):
    """Classes of pixels, and 1 less the dice coefficient of the first."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.body = drawn(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.body(x)
        found = x.argmax(1).float() if self.wrong else x.softmax(1)[:, 1]
        return 1.0 - (2.0 * (found * y).sum() + 1.0) / (found.sum() + y.sum() + 1.0)


def hard_dice(*, wrong: bool = False) -> nn.Module:
    """Wrong: classes are chosen before they are compared."""
    return Dice(wrong)


class Blocks(nn.Module):
    """Blocks behind each other on vectors of tokens, averaged in the end."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        block = nn.Sequential(nn.Linear(16, 16), nn.Tanh()) if wrong == "chain" else encoder
        copies = (block if wrong == "shared" else copy.deepcopy(block) for _ in range(3))
        self.blocks = (
            nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
            if wrong == "encoder"
            else nn.Sequential(*copies)
        )
        if not wrong:
            for weight in self.parameters():
                if weight.dim() > 1:
                    nn.init.xavier_uniform_(weight)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x).mean(1)
        return self.head(x)


def copied_blocks(*, wrong: str = "") -> nn.Module:
    """Wrong: torch's encoder copies its layer, a chain is made of copies of one; or one block is used three times."""
    return Blocks(wrong)
