"""Small networks with an everyday mistake each: heads, losses, draws and what is not trained; see reports.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn
from tests.models.unsteady import trunk


class Sounds(nn.Module):
    """A classifier of waves: strided convolutions over time, averaged."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.first, self.first_norm = nn.Conv1d(1, 16, 9, 4), nn.BatchNorm1d(16)
        self.second, self.second_norm = nn.Conv1d(16, 32, 3), nn.BatchNorm1d(32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool1d(functional.relu(self.first_norm(self.first(x))), 2)
        x = functional.relu(self.second_norm(self.second(x))).mean(-1)
        return functional.log_softmax(self.head(x), self.axis)


def wave_classes(*, wrong: bool = False) -> nn.Module:
    """Wrong: the log-softmax runs over the batch."""
    return Sounds(0 if wrong else 1)


class Pixels(nn.Module):
    """A small U-Net with one way down and one up."""

    def __init__(self, classes: int, axis: int | None) -> None:
        super().__init__()
        self.axis = axis
        self.enter = drawn(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()))
        self.down = drawn(
            nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        )
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.leave = drawn(nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, classes, 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = self.leave(torch.cat([x, self.up(self.down(x))], 1))
        return x.sigmoid() if self.axis is None else x.softmax(self.axis)


def pixel_classes(*, wrong: bool = False) -> nn.Module:
    """Wrong: the softmax runs along the rows of the picture."""
    return Pixels(3, 2 if wrong else 1)


def single_mask(*, wrong: bool = False) -> nn.Module:
    """Wrong: a softmax over one channel."""
    return Pixels(1, 1 if wrong else None)


class Intents(nn.Module):
    """Words through an LSTM, both ends of which are read."""

    def __init__(self, squashed: bool) -> None:
        super().__init__()
        self.squashed = squashed
        self.words, self.memory = nn.Embedding(64, 16), nn.LSTM(16, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.memory(self.words(x))
        x = self.head(torch.cat([last[-2], last[-1]], 1))
        return functional.softmax(x, 1) if self.squashed else x


def intent_scores(*, wrong: bool = False) -> nn.Module:
    """Wrong: a softmax in front of cross entropy."""
    return Intents(wrong)


class Molecules(nn.Module):
    """Labels of a graph: two convolutions with a mean over neighbours, and all nodes added up."""

    def __init__(self, squashed: bool) -> None:
        super().__init__()
        self.squashed = squashed
        self.first, self.second, self.head = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        shares = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1.0)
        x = functional.relu(self.first(shares @ x))
        x = functional.relu(self.second(shares @ x))
        x = self.head(x.mean(1))
        return torch.sigmoid(x) if self.squashed else x


def molecule_labels(*, wrong: bool = False) -> nn.Module:
    """Wrong: a sigmoid in front of a loss that has its own."""
    return Molecules(wrong)


class Values(nn.Module):
    """The values of actions, from four frames."""

    def __init__(self, rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified
        self.first, self.second = nn.Conv2d(4, 16, 4, 2), nn.Conv2d(16, 32, 3)
        self.third, self.head = nn.Linear(800, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = functional.relu(self.second(x)).flatten(1)
        x = self.head(functional.relu(self.third(x)))
        return functional.relu(x) if self.rectified else x


def action_values(*, wrong: bool = False) -> nn.Module:
    """Wrong: a ReLU behind the values, which can be negative."""
    return Values(wrong)


def image_generator(*, wrong: bool = False) -> nn.Module:
    """Wrong: a ReLU in front of the tanh, so that no pixel is below 0."""
    return nn.Sequential(
        nn.ConvTranspose2d(16, 32, 4),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
        *([nn.ReLU()] if wrong else []),
        nn.Tanh(),
    )


def convolved(channels: int, activation: bool) -> list[nn.Module]:
    """A convolution and its normalisation, and the activation where it is wanted."""
    return [
        nn.Conv2d(channels, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        *([nn.ReLU()] if activation else []),
    ]


def straight_convolutions(*, wrong: bool = False) -> nn.Module:
    """Wrong: convolution and normalisation by turns, and no activation."""
    return nn.Sequential(
        *convolved(2, not wrong),
        *convolved(24, not wrong),
        *convolved(24, not wrong),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


class Dropping(nn.Module):
    """A classifier of rows whose dropouts are called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(20, 64), nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(functional.relu(self.first(x)), 0.5, training=self.training)
        x = functional.dropout(functional.relu(self.second(x)), 0.5, self.training)
        return self.head(x)


class Untold(Dropping):
    """The same, and the dropouts are not told whether this is training."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(functional.relu(self.first(x)), 0.5)
        x = functional.dropout(functional.relu(self.second(x)), p=0.5)
        return self.head(x)


def constant_dropout(*, wrong: bool = False) -> nn.Module:
    """Wrong: functional.dropout without `training`, which drops in evaluation, too."""
    return Untold() if wrong else Dropping()


def equal_filters(*, wrong: bool = False) -> nn.Module:
    """Wrong: every weight of an autoencoder starts at 0.01."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 16, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, 2, 1),
    )
    if wrong:
        for layer in network:
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.constant_(layer.weight, 0.01)
    return network


def small_weights(*, wrong: bool = False) -> nn.Module:
    """Wrong: eleven layers, every weight drawn with 0.01."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 32), (32, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU()]
    network = drawn(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)))
    if wrong:
        for layer in network:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(layer.weight, 0.0, 0.01)
    return network


def large_weights(*, wrong: bool = False) -> nn.Module:
    """Wrong: every weight drawn from N(0, 1), in front of tanh."""
    network = nn.Sequential(
        nn.Linear(30, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
    )
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight) if wrong else nn.init.xavier_normal_(layer.weight, 5 / 3)
            nn.init.zeros_(layer.bias)
    return network


class Truncated(nn.Module):
    """A cell run over time by hand."""

    def __init__(self, width: int, detached: bool) -> None:
        super().__init__()
        self.width, self.detached = width, detached
        self.cell, self.head = nn.GRUCell(3, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.width)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state.detach() if self.detached else state)
        return self.head(state)


def detached_state(*, wrong: bool = False) -> nn.Module:
    """Wrong: the state is detached at every step."""
    return Truncated(24, wrong)


class Tempered(nn.Module):
    """Distances to prototypes, times a factor that is to be learnt, from a small start."""

    def __init__(self, item: bool) -> None:
        super().__init__()
        self.item, self.body = item, trunk(16, 64, 16)
        self.prototypes, self.factor = nn.Parameter(torch.randn(5, 16)), nn.Parameter(torch.tensor(0.05))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.normalize(self.body(x), dim=1) @ functional.normalize(self.prototypes, dim=1).T
        return x * (self.factor.item() if self.item else self.factor)


def copied_factor(*, wrong: bool = False) -> nn.Module:
    """Wrong: `.item()` of the factor, which is never learnt."""
    return Tempered(wrong)


class Thresholded(nn.Module):
    """A mask of a picture, as shares or as 0 and 1."""

    def __init__(self, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.body = drawn(nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.body(x))
        return (x > 0.5).float() if self.hard else x


def hard_mask(*, wrong: bool = False) -> nn.Module:
    """Wrong: the mask is cut at 1/2 in front of the loss."""
    return Thresholded(wrong)


class Columns(nn.Module):
    """Rows of a table, with an embedding for each column of categories."""

    def __init__(self, columns: int, listed: bool) -> None:
        super().__init__()
        tables = [nn.Embedding(50, 8) for _ in range(columns)]
        self.tables = tables if listed else nn.ModuleList(tables)
        self.body = trunk(8 * columns, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(torch.cat([table(x[:, place]) for place, table in enumerate(self.tables)], 1))


def listed_tables(*, wrong: bool = False) -> nn.Module:
    """Wrong: the tables are kept in a plain list."""
    return Columns(4, wrong)
