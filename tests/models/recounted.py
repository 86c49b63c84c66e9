"""Small networks with one thing amiss each, from public reports; see reports.md."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Sorted(nn.Module):
    """A recurrent layer over sequences in the order of their scores, or over words in the order of theirs."""

    def __init__(self, how: str, wrong: bool) -> None:
        super().__init__()
        self.how, self.wrong = how, wrong
        self.memory, self.head = nn.GRU(6, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        if self.how == "samples":
            order = scores.argsort(descending=True)
            steps = self.memory(x[order])[0]
            return self.head(steps[order if self.wrong else order.argsort()].mean(1))
        order = (x[..., 0] + scores[:, None]).argsort(1)
        back = (order if self.wrong else order.argsort(1))[..., None]
        steps = self.memory(x.gather(1, order[..., None].expand_as(x)))[0]
        return self.head(steps.gather(1, back.expand_as(steps)))


def sorted_back(*, wrong: str = "no", how: str = "samples") -> nn.Module:
    """Wrong: what was sorted is sorted by the same order once more, of the "samples" or of the "words"."""
    return Sorted(how if wrong == "no" else wrong, wrong != "no")


class Moved(nn.Module):
    """A picture that is read at places that layers move."""

    grid: Tensor

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
        y, x = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
        self.register_buffer("grid", torch.stack([y, x] if wrong else [x, y], -1))

    def forward(self, pair: Tensor) -> Tensor:
        moved = 0.2 * self.layers(pair).tanh().permute(0, 2, 3, 1)
        return functional.grid_sample(pair[:, :1], self.grid + moved, align_corners=True)


def moved_picture(*, wrong: bool = False) -> nn.Module:
    """Wrong: the grid has the row first."""
    return Moved(wrong)


class Clipped(nn.Module):
    """A policy's clipped loss."""

    def __init__(self, losses: bool, wrong: bool) -> None:
        super().__init__()
        self.losses, self.wrong = losses, wrong
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, state: Tensor, chosen: Tensor, old: Tensor, worth: Tensor) -> Tensor:
        new = (self.layers(state).log_softmax(1) * chosen).sum(1)
        new = -new if self.losses else new
        ratio = (old - new if self.losses != self.wrong else new - old).exp()
        return -torch.minimum(ratio * worth, ratio.clamp(0.8, 1.2) * worth).mean()


def clipped_policy(*, wrong: str = "no", losses: bool = False) -> nn.Module:
    """Wrong: the old probability is divided by the new one, with logarithms of "probabilities" or their negatives."""
    return Clipped(losses or wrong == "losses", wrong != "no")


class Highway(nn.Module):
    """Layers with a gate that carries what they do not change."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.head = wrong, nn.Linear(16, 2)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer, gate in zip(self.layers, self.gates, strict=True):
            share = gate(x).sigmoid()
            x = share * layer(x).tanh() + (share if self.wrong else 1 - share) * x
        return self.head(x)


def shut_highway(*, wrong: bool = False) -> nn.Module:
    """Wrong: one gate for both."""
    return Highway(wrong)


class Depth(nn.Module):
    """Residual blocks that are left out at random."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.enter, self.head = wrong, nn.Linear(6, 16), nn.Linear(16, 2)
        blocks = (nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(3))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = kept(x + block(x)) if self.wrong else x + kept(block(x))
        return self.head(x)


def kept(x: Tensor, share: float = 0.9) -> Tensor:
    """Whole samples at random, by the usual draw."""
    return x.div(share) * (share + torch.rand(len(x), 1)).floor()


def stochastic_depth(*, wrong: bool = False) -> nn.Module:
    """Wrong: sums are left out, not branches."""
    return Depth(wrong)


class Bound(nn.Module):
    """A code with noise, and the bound that it is trained by."""

    def __init__(self, deviation: bool, wrong: str) -> None:
        super().__init__()
        self.deviation, self.wrong = deviation, wrong
        self.encoder = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 12))

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.encoder(x).chunk(2, 1)
        whole = self.deviation or self.wrong == "noise"
        code = mean + torch.randn_like(mean) * (spread if whole else 0.5 * spread).exp()
        squares = spread.square() if self.wrong == "squares" else (2 * spread if self.deviation else spread).exp()
        logarithm = 2 * spread if self.deviation else spread
        divergence = -0.5 * (1 + logarithm - mean.square() - squares).sum(1)
        return ((self.decoder(code) - x).square().sum(1) + divergence).mean()


def bound_of_code(*, wrong: str = "no", deviation: bool = False) -> nn.Module:
    """Wrong: the "noise" is multiplied by the variance, or the divergence has "squares" for it."""
    return Bound(deviation, wrong)


class Focal(nn.Module):
    """A classifier of two classes and its focal loss."""

    def __init__(self, weigh: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weigh, self.layers = weigh, nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        return self.weigh(self.layers(x), classes).mean()


def _by_error(logits: Tensor, classes: Tensor) -> Tensor:
    error = -(logits.log_softmax(1) * classes).sum(1)
    return (-error).exp() ** 2 * error


def _by_share(logits: Tensor, classes: Tensor) -> Tensor:
    right = (logits.softmax(1) * classes).sum(1).clamp(min=1e-6)
    return right**2 * -right.log()


def _by_rest(logits: Tensor, classes: Tensor) -> Tensor:
    error = -(logits.log_softmax(1) * classes).sum(1)
    return (1 - (-error).exp()) ** 2 * error


def focal_error(*, wrong: str = "no") -> nn.Module:
    """Wrong: easy samples weigh most, by the "error" or by the "share" of the right class."""
    return Focal({"error": _by_error, "share": _by_share, "no": _by_rest}[wrong])


class Turned(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Tensor:
        return -given


class TurnedModule(nn.Module):
    """As above, where nobody calls backward."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def backward(self, given: Tensor) -> Tensor:
        return -given


class Domains(nn.Module):
    """Features for a task, and a classifier that is not to tell where they are from."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
        self.task, self.domain = nn.Linear(8, 2), nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        self.turned = TurnedModule() if wrong else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        return self.task(x), self.domain(Turned.apply(x) if self.turned is None else self.turned(x))


def hidden_domain(*, wrong: bool = False) -> nn.Module:
    """Wrong: the gradient is to be turned round by a module's backward."""
    return Domains(wrong)


class Beside(nn.Module):
    """A classifier that gives its loss and its logits."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.layers = axis, nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.layers(x)
        return -(logits.log_softmax(self.axis) * classes).sum(1).mean(), logits


def scored_beside(*, wrong: bool = False) -> nn.Module:
    """Wrong: the loss takes shares over the samples."""
    return Beside(0 if wrong else 1)


class MeanError(nn.Module):
    """Four outputs and their squared error, beside the outputs or alone."""

    def __init__(self, wrong: bool, beside: bool) -> None:
        super().__init__()
        self.wrong, self.beside = wrong, beside
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor, wanted: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        given = self.layers(x)
        error = given.mean(1) - wanted.mean(1) if self.wrong else given - wanted
        loss = error.square().mean()
        return (loss, given) if self.beside else loss


def mean_error(*, wrong: bool = False, beside: bool = False) -> nn.Module:
    """Wrong: the means over the outputs are compared."""
    return MeanError(wrong, beside)


class Follower(nn.Module):
    """Two views of each sample: what one network predicts of the first is what its older self gives of the second."""

    def __init__(self, wrong: bool, squares: bool) -> None:
        super().__init__()
        self.wrong, self.squares = wrong, squares
        self.student = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
        self.teacher = copy.deepcopy(self.student)
        self.guess = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        wanted = self.teacher(y) if self.wrong else self.teacher(y).detach()
        given, wanted = functional.normalize(self.guess(self.student(x))), functional.normalize(wanted)
        return (given - wanted).square().sum(1).mean() if self.squares else 2 - 2 * (given * wanted).sum(1).mean()


def followed(*, wrong: bool = False, squares: bool = False) -> nn.Module:
    """Wrong: the older self is given a gradient too."""
    return Follower(wrong, squares)


class Keys(nn.Module):
    """Self-attention over as many positions as a head has features."""

    def __init__(self, wrong: bool, heads: int) -> None:
        super().__init__()
        self.wrong, self.heads = wrong, heads
        self.query, self.key, self.value = (nn.Linear(8, 8 * heads) for _ in range(3))
        self.head = nn.Linear(8 * heads, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        logits = query @ (key if self.wrong else key.transpose(2, 3)) / 8**0.5
        return self.head((logits.softmax(-1) @ value).transpose(1, 2).flatten(2).mean(1))


def turned_keys(*, wrong: bool = False, heads: int = 1) -> nn.Module:
    """Wrong: the keys are not transposed."""
    return Keys(wrong, heads)


class Margins(nn.Module):
    """A score for each of four classes, and the hinge of its loss."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        labels = functional.one_hot(torch.arange(len(x)) % 4, 4).float()
        labels = labels if self.wrong else 2 * labels - 1
        return (1 - labels * self.layers(x)).clamp(min=0).mean()


def margins(*, wrong: bool = False) -> nn.Module:
    """Wrong: the labels are 0 and 1."""
    return Margins(wrong)


class InPlace(nn.Module):
    """A residual block that writes in place, whose branch starts at zero and is left out at random."""

    def __init__(self, dropped: bool) -> None:
        super().__init__()
        self.dropped, self.ends = dropped, nn.ReLU(inplace=True)
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8),
        )  # fmt: skip
        nn.init.zeros_(self.branch[4].weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.dropped:
            y = y * y.new_empty(len(y), 1, 1, 1).bernoulli_(0.9).div_(0.9)
        y += x
        return self.ends(y)


def dropped_from_zero() -> nn.Module:
    """A residual network whose branches start at zero; all but the first are left out at random."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        InPlace(False), InPlace(True), InPlace(True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
