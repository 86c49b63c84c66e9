"""Networks after public reports of parts that are put together wrong; `wrong` puts the mistake in, see reports.md."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn


class Attention(nn.Module):
    """Attention in heads with queries and keys that are normalised layers' outputs of unit scale."""

    def __init__(self, width: int, heads: int, scale: float, where: str) -> None:
        super().__init__()
        self.heads, self.scale, self.where = heads, scale, where
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        y = self.norm(x)
        query, key, value = (
            layer(y).view(batch, time, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        logits = query @ key.transpose(-1, -2)
        axis = 1 if self.where == "heads" else -1
        ahead, behind = (1.0, self.scale) if self.where == "behind" else (self.scale, 1.0)
        shares = (logits * ahead).softmax(axis) * behind
        return x + self.out((shares @ value).transpose(1, 2).reshape(batch, time, width))


def attention_factor(*, where: str = "logits", scaled: bool = True) -> nn.Module:
    """The factor 1/sqrt(d) on the "logits", "behind" the softmax, or missing; or the softmax over the "heads"."""
    scale = 64**-0.5 if scaled else 1.0
    return nn.Sequential(*(Attention(128, 2, scale, where) for _ in range(2)), nn.LayerNorm(128), nn.Linear(128, 8))


class Layered(nn.Module):
    """An encoder of blocks that are to read each other."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.embed, self.head = wrong, nn.Linear(16, width), nn.Linear(width, 5)
        self.blocks = drawn(nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(x)
        y = embedded
        for block in self.blocks:
            y = block(embedded if self.wrong else y)
        return self.head(y)


def encoder_blocks(*, wrong: bool = False) -> nn.Module:
    """Wrong: every block reads the embedding, so only the last one counts."""
    return Layered(32, wrong)


class SameIndex(nn.Module):
    """A loop over the layers of a list."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.head = wrong, nn.Linear(width, 5)
        self.layers = drawn(nn.ModuleList(nn.Linear(width, width) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        for number in range(len(self.layers)):
            x = functional.relu(self.layers[0 if self.wrong else number](x))
        return self.head(x)


def counted_layers(*, wrong: bool = False) -> nn.Module:
    """Wrong: the loop calls the first layer each time."""
    return SameIndex(32, wrong)


class Stepped(nn.Module):
    """A GRU cell called in a loop, each step classified by the last state."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.cell, self.head, self.width = wrong, nn.GRUCell(16, width), nn.Linear(width, 5), width

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(x.shape[0], self.width)
        state = start
        for place in range(x.shape[1]):
            state = self.cell(x[:, place], start if self.wrong else state)
        return self.head(state)


def carried_state(*, wrong: bool = False) -> nn.Module:
    """Wrong: each step begins with the zeros of the first, so only the last one is read."""
    return Stepped(32, wrong)


class DeepNorm(nn.Module):
    """Feed-forward blocks that normalise a weighted sum."""

    def __init__(self, width: int, blocks: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.alpha = wrong, (2 * blocks) ** 0.25
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(blocks)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, gain=(8 * blocks) ** -0.25)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + self.alpha * block(x) if self.wrong else norm(self.alpha * x + block(x))
        return self.head(x)


def deep_norm(*, wrong: bool = False) -> nn.Module:
    """Wrong: the factor on the branch, and the norm is never called."""
    return DeepNorm(64, 12, wrong)


class Alpha(nn.Module):
    """An alpha matte beside its foreground, both in [0, 1]."""

    def __init__(self, channels: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.body = drawn(nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()))
        self.out = nn.Conv2d(channels, 4, 1)
        nn.init.constant_(self.out.bias, -4.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(self.body(x))
        return y.clamp(0.0, 1.0) if self.wrong else y.sigmoid()


def bounded_matte(*, wrong: bool = False) -> nn.Module:
    """Wrong: a clamp, which is at its bound with no gradient for practically every pixel; right: a sigmoid."""
    return Alpha(16, wrong)


class GraphScores(nn.Module):
    """Graph attention: the score of a pair is the sum of a number of each node."""

    def __init__(self, width: int, bent: bool) -> None:
        super().__init__()
        self.bent, self.layer = bent, nn.Linear(width, width)
        self.own, self.other = nn.Linear(width, 1, bias=False), nn.Linear(width, 1, bias=False)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        scores = self.own(y) + self.other(y).transpose(1, 2)
        if self.bent:
            scores = functional.leaky_relu(scores, 0.2)
        return self.head(functional.elu(scores.softmax(-1) @ y))


def graph_scores(*, wrong: bool = False) -> nn.Module:
    """Wrong: without an activation the softmax takes the node's own number out again."""
    return GraphScores(32, not wrong)


class Frames(nn.Module):
    """Frames of a clip as images of their own, then a mean over time."""

    def __init__(self, channels: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.conv, self.head = wrong, nn.Conv2d(3, channels, 3, padding=1), nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, time, height, width = x.shape
        frames = x if self.wrong else x.transpose(1, 2)
        y = functional.relu(self.conv(frames.reshape(batch * time, channels, height, width)))
        return self.head(y.mean((2, 3)).view(batch, time, -1).mean(1))


def clip_frames(*, wrong: bool = False) -> nn.Module:
    """Wrong: channels and time are not swapped before time joins the batch."""
    return Frames(8, wrong)


class OneClass(nn.Module):
    """A classifier of two classes with one output."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU()))
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        score = self.out(self.body(x))
        return score.softmax(-1) if self.wrong else score.sigmoid()


def single_score(*, wrong: bool = False) -> nn.Module:
    """Wrong: the softmax of one score, which is 1."""
    return OneClass(32, wrong)


class Spiking(nn.Module):
    """A layer of spiking units over some steps: leak, spike above a threshold, reset."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.first, self.second = wrong, drawn(nn.Linear(16, width)), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        current, count = self.first(x), torch.zeros(x.shape[0], 5)
        potential = torch.zeros_like(current)
        for _ in range(4):
            potential = 0.9 * potential + current
            spike = (potential > 1.0).float()
            if not self.wrong:
                smooth = torch.sigmoid(4 * (potential - 1.0))
                spike = smooth + (spike - smooth).detach()
            potential = potential - spike.detach()
            count = count + self.second(spike)
        return count


def spiking_units(*, wrong: bool = False) -> nn.Module:
    """Wrong: the comparison has no surrogate gradient."""
    return Spiking(32, wrong)


class ByName(nn.Module):
    """One branch for each kind of input, chosen by name."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        branches = {name: drawn(nn.Sequential(nn.Linear(8, width), nn.ReLU())) for name in ("left", "right")}
        self.branches = branches if wrong else nn.ModuleDict(branches)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return self.head(torch.cat([self.branches["left"](left), self.branches["right"](right)], -1))


def named_branches(*, wrong: bool = False) -> nn.Module:
    """Wrong: the branches are kept in a plain dictionary."""
    return ByName(16, wrong)


class Pooled(nn.Module):
    """Convolutions with instance normalisation, averaged over the picture and classified."""

    def __init__(self, channels: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.body = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.InstanceNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.InstanceNorm2d(channels),
        )  # fmt: skip
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if not self.wrong:
            y = functional.relu(y)
        return self.head(y.mean((2, 3)))


def normalised_pool(*, wrong: bool = False) -> nn.Module:
    """Wrong: the mean of what has just been given mean 0 is 0."""
    return Pooled(16, wrong)


class GeneralisedMean(nn.Module):
    """Pooling by the mean of a power."""

    def __init__(self, channels: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.power = wrong, 2.5
        self.conv, self.head = nn.Conv2d(3, channels, 3, padding=1), nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if not self.wrong:
            y = y.clamp(min=1e-6)
        return self.head(y.pow(self.power).mean((2, 3)).pow(1 / self.power))


def power_pool(*, wrong: bool = False) -> nn.Module:
    """Wrong: numbers of either sign to a broken power."""
    return GeneralisedMean(8, wrong)


class Squeezed(nn.Module):
    """Channels that are weighed by what a small network makes of their means."""

    def __init__(self, channels: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.conv = wrong, nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.down, self.up = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)
        drawn(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.conv(x))
        weights = self.up(functional.relu(self.down(y.mean((2, 3)))))
        if not self.wrong:
            weights = 2 * weights.sigmoid()
        return y * weights[..., None, None]


class SqueezedNet(nn.Module):
    """Six such blocks and a head."""

    def __init__(self, channels: int, wrong: bool) -> None:
        super().__init__()
        self.stem, self.head = drawn(nn.Conv2d(3, channels, 3, padding=1)), nn.Linear(channels, 5)
        self.blocks = nn.Sequential(*(Squeezed(channels, wrong) for _ in range(6)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))


def squeezed_blocks(*, wrong: bool = False) -> nn.Module:
    """Wrong: the weights are not squashed, so they are near 0 and of either sign."""
    return SqueezedNet(16, wrong)


class Judge(nn.Module):
    """A discriminator that tells its batch's spread to itself."""

    def __init__(self, width: int, guard: float) -> None:
        super().__init__()
        self.guard, self.body = guard, drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU()))
        self.head = nn.Linear(width + 1, 1)
        self.register_buffer("kept", (torch.arange(width) < width - 4).float())

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) * self.kept
        spread = (y - y.mean(0, keepdim=True)).pow(2).mean(0).add(self.guard).sqrt().mean()
        return self.head(torch.cat([y, spread.expand(y.shape[0], 1)], -1))


def batch_spread(*, wrong: bool = False) -> nn.Module:
    """Wrong: the root of a variance that is 0 for units that are pruned."""
    return Judge(32, 0.0 if wrong else 1e-8)


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, channels: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.conv1 = wrong, nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y if self.wrong else x + y)


def residual_blocks(*, wrong: bool = False) -> nn.Module:
    """Wrong: blocks that are called residual give back their branch alone."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *(ResidualBlock(16, wrong) for _ in range(6)), head)


class GatedUnit(nn.Module):
    """A shortcut beside a body that a gate of its own averages weighs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body, self.gate = ResidualBlock(channels, wrong=True), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]


def gated_residuals() -> nn.Module:
    """Bodies that are called residual blocks and do not add: the unit that holds each does, behind a gate."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *(GatedUnit(16) for _ in range(6)), head)


class Regression(nn.Module):
    """A regression with its loss inside."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, drawn(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1)))

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        found = self.body(x)
        return functional.mse_loss(found if self.wrong else found.squeeze(-1), target)


def own_loss(*, wrong: bool = False) -> nn.Module:
    """Wrong: (n, 1) against (n,), so that each sample meets the target of each."""
    return Regression(32, wrong)


class DetachedShortcut(nn.Module):
    """Residual blocks."""

    def __init__(self, width: int, blocks: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.stem, self.head = wrong, nn.Linear(16, width), nn.Linear(width, 5)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            y = block(x)
            x = x + (y.data if self.wrong else y)
        return self.head(x)


def detached_branches(*, wrong: bool = False) -> nn.Module:
    """Wrong: `.data` of each branch, so that no branch ever learns."""
    return DetachedShortcut(32, 4, wrong)


class Gathered(nn.Module):
    """Encodings of the parts of a sequence, gathered in a table by copying."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.width = wrong, width
        self.encoder = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU()))
        self.reader, self.head = nn.GRU(width, width, batch_first=True), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.encoder(x[:, place]) for place in range(x.shape[1])]
        table = torch.zeros(x.shape[0], x.shape[1], self.width)
        if self.wrong:
            with torch.no_grad():
                for place, part in enumerate(parts):
                    table[:, place] = part
        else:
            table = torch.stack(parts, 1)
        return self.head(self.reader(table)[0].mean(1))


def gathered_parts(*, wrong: bool = False) -> nn.Module:
    """Wrong: the parts are copied under `no_grad`."""
    return Gathered(32, wrong)


class CountedLoop(nn.Module):
    """Layers of a list, called by their numbers."""

    def __init__(self, width: int, layers: int, called: int) -> None:
        super().__init__()
        self.called, self.head = called, nn.Linear(width, 5)
        self.layers = drawn(nn.ModuleList(nn.Linear(width, width) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        for number in range(self.called):
            x = functional.relu(self.layers[number](x))
        return self.head(x)


def counted_loop(*, wrong: bool = False) -> nn.Module:
    """Wrong: the loop ends one layer too early."""
    return CountedLoop(32, 4, 3 if wrong else 4)


class CellLoop(nn.Module):
    """An LSTM cell called in a loop, its last state classified."""

    def __init__(self, width: int, forget: float) -> None:
        super().__init__()
        self.width, self.cell, self.head = width, nn.LSTMCell(16, width), nn.Linear(width, 5)
        nn.init.constant_(self.cell.bias_ih[width : 2 * width], forget)

    def forward(self, x: Tensor) -> Tensor:
        state = memory = torch.zeros(x.shape[0], self.width)
        for place in range(x.shape[1]):
            state, memory = self.cell(x[:, place], (state, memory))
        return self.head(state)


def looped_cell(*, wrong: bool = False) -> nn.Module:
    """Wrong: the forget gate starts at a half."""
    with torch.no_grad():
        return CellLoop(32, 0.0 if wrong else 2.0)


class TimeNorm(nn.Module):
    """A picture and a step's code, which is added before or behind an instance normalisation."""

    def __init__(self, channels: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.norm = wrong, nn.InstanceNorm2d(channels, affine=True)
        self.first, self.second = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 3, 3, padding=1)
        self.step = nn.Linear(8, channels)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        y, code = self.first(x), self.step(step)[:, :, None, None]
        y = self.norm(y + code) if self.wrong else self.norm(y) + code
        return self.second(functional.silu(y))


def step_code(*, wrong: bool = False) -> nn.Module:
    """Wrong: in front of the normalisation, which takes out what is the same all over a channel."""
    return TimeNorm(16, wrong)


class Ensemble(nn.Module):
    """Critics whose weights are slices of one tensor."""

    def __init__(self, members: int, width: int, alike: bool) -> None:
        super().__init__()
        sizes, own = (12, width, width, 1), 1 if alike else members
        self.weights = nn.ParameterList(
            nn.Parameter((torch.randn(own, a, b) * (2 / a) ** 0.5).repeat(members // own, 1, 1))
            for a, b in pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x.expand(len(self.weights[0]), -1, -1)
        for weight in self.weights[:2]:
            y = functional.relu(torch.bmm(y, weight))
        return torch.bmm(y, self.weights[2]).squeeze(-1).transpose(0, 1)


def stacked_critics(*, wrong: bool = False) -> nn.Module:
    """Wrong: one critic's draw, repeated."""
    return Ensemble(5, 32, wrong)


class NumberedWeights(nn.Module):
    """Weights that are used as they are, in two values, or as bare numbers."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.way, self.head = way, nn.Linear(width, 5)
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        signs = weight.sign() * self.weight.shape[0] ** -0.5
        if self.way == "through":
            weight = weight + (signs - weight).detach()
        elif self.way == "signs":
            weight = signs
        elif self.way == "data":
            weight = weight.data
        return self.head(torch.tanh(functional.linear(x, weight)))


def used_weights(*, way: str = "through") -> nn.Module:
    """Ways without a gradient: "signs" and "data"."""
    return NumberedWeights(32, way)


class Scored(nn.Module):
    """Labels of which any number hold, with the loss inside."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.body = wrong, drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU()))
        self.out = nn.Linear(width, 6)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        scores = self.out(self.body(x))
        return functional.binary_cross_entropy_with_logits(scores.sigmoid() if self.wrong else scores, target)


def own_scores(*, wrong: bool = False) -> nn.Module:
    """Wrong: a sigmoid in front of a loss that applies its own."""
    return Scored(32, wrong)


class PickedExperts(nn.Module):
    """The experts of a token are named by indices, whose comparisons choose among the router's weights."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        weights, picked = self.router(x).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        shares = [((picked == at) * weights).sum(-1, keepdim=True) for at in range(len(self.experts))]
        return torch.stack([share * expert(x) for share, expert in zip(shares, self.experts, strict=True)]).sum(0)


def picked_experts() -> nn.Module:
    """A gradient comes to the router through the weights, past a mask that is no number."""
    return PickedExperts(16, 4)


class Slots(nn.Module):
    """Learnt queries that every sample is given share its positions out among them."""

    def __init__(self, width: int, slots: int) -> None:
        super().__init__()
        self.slots, self.query = nn.Parameter(torch.randn(1, slots, width)), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(self.slots.expand(len(x), -1, -1))
        return torch.softmax(query @ x.transpose(1, 2) / x.shape[-1] ** 0.5, 1) @ x


def learnt_slots() -> nn.Module:
    """Samples start from the same queries, and are meant to."""
    return Slots(16, 4)
