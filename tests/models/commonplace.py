"""Small networks with an everyday mistake each: axes, masks, memories and sizes; see reports.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn
from tests.models.unsteady import trunk


class Spectrum(nn.Module):
    """Convolutions along a recording, then an LSTM over its frames."""

    def __init__(self, viewed: bool) -> None:
        super().__init__()
        self.viewed = viewed
        self.frames = nn.Sequential(
            nn.Conv1d(8, 32, 3, padding=1),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(32, 20, 3, padding=1),
        )
        self.memory, self.head = nn.LSTM(20, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.frames(x))
        batch, channels, time = x.shape
        x = x.view(batch, time, channels) if self.viewed else x.permute(0, 2, 1)
        return self.head(self.memory(x)[0][:, -1])


def viewed_frames(*, wrong: bool = False) -> nn.Module:
    """Wrong: `view` where channels and time are to change places."""
    return Spectrum(wrong)


class Tagger(nn.Module):
    """Scores of a tag for every word, classes first as the loss takes them."""

    def __init__(self, viewed: bool) -> None:
        super().__init__()
        self.viewed = viewed
        self.words, self.memory = nn.Embedding(40, 16), nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 7)

    def forward(self, x: Tensor) -> Tensor:
        batch, time = x.shape
        x = self.head(self.memory(self.words(x))[0])
        return x.view(batch, 7, time) if self.viewed else x.transpose(1, 2)


def viewed_tags(*, wrong: bool = False) -> nn.Module:
    """Wrong: `view` brings the classes in front of time."""
    return Tagger(wrong)


class Weighted(nn.Module):
    """A loss with a weight for every sample."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.crossed, self.body = crossed, trunk(12, 48, 1)

    def forward(self, x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        error = functional.mse_loss(self.body(x), target[:, None], reduction="none")
        return (error * weight).mean() if self.crossed else (error[:, 0] * weight).mean()


def sample_weights(*, wrong: bool = False) -> nn.Module:
    """Wrong: errors (n, 1) times weights (n,) are all pairs, so that the weights are lost."""
    return Weighted(wrong)


class Numbers(nn.Module):
    """Words by their numbers, or by an embedding."""

    def __init__(self, raw: bool) -> None:
        super().__init__()
        self.raw = raw
        self.words = None if raw else nn.Embedding(500, 16)
        self.memory, self.head = nn.LSTM(1 if raw else 16, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        given = x.float().unsqueeze(-1) if self.words is None else self.words(x)
        return self.head(self.memory(given)[0].mean(1))


def raw_tokens(*, wrong: bool = False) -> nn.Module:
    """Wrong: numbers of words go into the LSTM as they are, up to 499."""
    return Numbers(wrong)


class Padded(nn.Module):
    """A transformer over padded words, the first of which stands for the text."""

    def __init__(self, inverted: bool) -> None:
        super().__init__()
        self.inverted = inverted
        self.words, self.places = nn.Embedding(40, 32, padding_idx=0), nn.Parameter(torch.zeros(12, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x != 0 if self.inverted else x == 0
        return self.head(self.encoder(self.words(x) + self.places, src_key_padding_mask=hidden)[:, 0])


def inverted_padding(*, wrong: bool = False) -> nn.Module:
    """Wrong: True for words and False for padding, where True hides."""
    return Padded(wrong)


class Causal(nn.Module):
    """A language model with one layer of attention."""

    def __init__(self, width: int, factors: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(32, width), nn.Parameter(0.02 * torch.randn(16, width))
        self.norm, self.enter, self.leave = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 32)
        shown = torch.ones(16, 16).tril()
        self.register_buffer("mask", shown if factors else shown.bool())

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x) + self.places
        query, key, value = (
            each.unflatten(-1, (4, -1)).transpose(1, 2) for each in self.enter(self.norm(x)).chunk(3, -1)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.get_buffer("mask"))
        return self.head(self.last(x + self.leave(seen.transpose(1, 2).flatten(2))))


def factor_mask(*, wrong: bool = False) -> nn.Module:
    """Wrong: a mask of 0.0 and 1.0, which is added, where True and False were meant."""
    return Causal(32, wrong)


class Forecast(nn.Module):
    """The next value of a series, behind two layers of GRU."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.memory, self.body = nn.GRU(3, 32, 2, batch_first=batch_first), trunk(32, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.memory(x)
        return self.body(hidden[:, -1, :])


def forecast_axis(*, wrong: bool = False) -> nn.Module:
    """Wrong: no `batch_first` for samples that come first."""
    return Forecast(not wrong)


class Views(nn.Module):
    """The contrastive loss of two views."""

    def __init__(self, multiplied: bool) -> None:
        super().__init__()
        self.multiplied = multiplied
        self.encoder, self.project = trunk(24, 64, 32), nn.Sequential(nn.ReLU(), trunk(32, 32, 16))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = (functional.normalize(self.project(self.encoder(x)), dim=-1) for x in (left, right))
        logits = left @ right.T
        logits = logits * 0.1 if self.multiplied else logits / 0.1
        return -logits.log_softmax(-1).diagonal().mean()


def multiplied_temperature(*, wrong: bool = False) -> nn.Module:
    """Wrong: cosines times the temperature, where they are to be divided by it."""
    return Views(wrong)


class Series(nn.Module):
    """A transformer over a series, with codes of positions that the tutorial keeps as (time, 1, width)."""

    def __init__(self, width: int, samples: bool) -> None:
        super().__init__()
        self.samples, self.enter = samples, nn.Linear(2, width)
        place, rates = torch.arange(64.0)[:, None], (-math.log(1e4) * torch.arange(0, width, 2) / width).exp()
        code = torch.stack([(place * rates).sin(), (place * rates).cos()], -1).flatten(1)
        self.register_buffer("code", code[:, None])
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, code = self.enter(x), self.get_buffer("code")
        x = x + (code[: x.shape[0]] if self.samples else code[: x.shape[1]].transpose(0, 1))
        return self.head(self.encoder(x).mean(1))


def series_codes(*, wrong: bool = False) -> nn.Module:
    """Wrong: `code[:x.size(0)]`, which is the batch here."""
    return Series(32, wrong)


class Complete(nn.Module):
    """Nodes that are all joined with each other; a label for each."""

    def __init__(self, nodes: int, own: bool) -> None:
        super().__init__()
        self.own = own
        self.first, self.second, self.head = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.own_first, self.own_second = (nn.Linear(8, 32), nn.Linear(32, 32)) if own else (None, None)
        self.register_buffer("shares", torch.full((nodes, nodes), 1.0 / nodes))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.get_buffer("shares")
        for layer, own in ((self.first, self.own_first), (self.second, self.own_second)):
            met = layer(shares @ x)
            x = functional.relu(met if own is None else met + own(x))
        return self.head(x)


def complete_graph(*, wrong: bool = False) -> nn.Module:
    """Wrong: means over all nodes alone, which are the same for every node."""
    return Complete(10, not wrong)


class Wave(nn.Module):
    """A convolution with gates and its shortcut."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.shift, self.inner, self.outer = (
            reach,
            nn.Conv1d(width, width, 2, dilation=reach),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(functional.relu(self.inner(functional.pad(x, (self.shift, 0)))))


def grown_residuals(*, wrong: bool = False) -> nn.Module:
    """Wrong: 24 blocks add branches that nothing scales."""
    blocks = [drawn(Wave(16, 2 ** (place % 4))) for place in range(24)]
    for block in blocks:
        if not wrong:
            nn.init.zeros_(block.outer.weight)
    return nn.Sequential(nn.Conv1d(1, 16, 1), *blocks, nn.Conv1d(16, 1, 1))


class Started(nn.Module):
    """An LSTM that is given its first state."""

    def __init__(self, width: int, drawn_state: bool) -> None:
        super().__init__()
        self.width, self.drawn_state = width, drawn_state
        self.memory, self.head = nn.LSTM(2, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        make = torch.randn if self.drawn_state else torch.zeros
        state = make(1, x.shape[0], self.width, device=x.device), make(1, x.shape[0], self.width, device=x.device)
        return self.head(self.memory(x, state)[0][:, -1])


def random_state(*, wrong: bool = False) -> nn.Module:
    """Wrong: the first state is drawn in every pass."""
    return Started(16, wrong)


class Rows(nn.Module):
    """Rows of a table through an LSTM: each row's numbers as steps."""

    def __init__(self, samples: bool) -> None:
        super().__init__()
        self.samples = samples
        self.memory, self.head = nn.LSTM(10 if samples else 1, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.samples:
            return self.head(self.memory(x.view(1, x.shape[0], -1))[0].squeeze(0))
        return self.head(self.memory(x.unsqueeze(-1))[0][:, -1])


def rows_as_steps(*, wrong: bool = False) -> nn.Module:
    """Wrong: (1, samples, features), so that samples are steps of one series."""
    return Rows(wrong)


class Ranged(nn.Module):
    """Numbers of a table brought into [0, 1] in front of the layers."""

    def __init__(self, batch: bool) -> None:
        super().__init__()
        self.batch, self.body = batch, trunk(12, 48, 3)
        self.register_buffer("low", torch.full((12,), -3.0))
        self.register_buffer("high", torch.full((12,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        low, high = (x.min(), x.max()) if self.batch else (self.get_buffer("low"), self.get_buffer("high"))
        return self.body((x - low) / (high - low))


def batch_range(*, wrong: bool = False) -> nn.Module:
    """Wrong: by the smallest and largest number of the batch."""
    return Ranged(wrong)


def normalised_logits(*, wrong: bool = False) -> nn.Module:
    """Wrong: a layer norm behind the two logits, which makes them 1 and -1."""
    return nn.Sequential(trunk(16, 64, 64, 2), *([nn.LayerNorm(2, elementwise_affine=False)] if wrong else []))


def normalised_prices(*, wrong: bool = False) -> nn.Module:
    """Wrong: a batch normalisation behind the last layer of a regression."""
    return nn.Sequential(trunk(16, 64, 64, 1), *([nn.BatchNorm1d(1)] if wrong else []))


class Compressed(nn.Module):
    """An autoencoder of pictures with a code of three numbers."""

    def __init__(self, rectified: bool) -> None:
        super().__init__()
        self.encoder = trunk(64, 48, 3)
        self.activation = nn.ReLU() if rectified else nn.Identity()
        self.decoder = trunk(3, 48, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.activation(self.encoder(x.flatten(1)))).view_as(x)


def rectified_code(*, wrong: bool = False) -> nn.Module:
    """Wrong: a ReLU on the code."""
    return Compressed(wrong)


class Deep(nn.Module):
    """A series through layers of LSTM."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(4, 32, layers, batch_first=True), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


def deep_memory(*, wrong: bool = False) -> nn.Module:
    """Wrong: eight layers of LSTM, with nothing around them."""
    return Deep(8 if wrong else 1)


class Remembering(nn.Module):
    """An old kind of recurrence, with ReLUs, read at the end."""

    def __init__(self, identity: bool) -> None:
        super().__init__()
        self.memory, self.head = nn.RNN(2, 48, nonlinearity="relu", batch_first=True), nn.Linear(48, 1)
        if identity:
            nn.init.eye_(self.memory.weight_hh_l0)
            nn.init.normal_(self.memory.weight_ih_l0, 0.0, 0.05)
            nn.init.zeros_(self.memory.bias_ih_l0)
            nn.init.zeros_(self.memory.bias_hh_l0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[1][-1])


def rectified_memory(*, wrong: bool = False) -> nn.Module:
    """Wrong: the framework's draw of the recurrent matrix, for 60 steps."""
    return Remembering(not wrong)


class Neighbours(nn.Module):
    """Graph convolutions with the result of an activation lost."""

    def __init__(self, lost: bool) -> None:
        super().__init__()
        self.lost, self.layers, self.head = lost, nn.ModuleList(nn.Linear(16, 16) for _ in range(3)), nn.Linear(16, 4)
        ring = torch.eye(12) + torch.eye(12).roll(1, 0) + torch.eye(12).roll(-1, 0)
        self.register_buffer("shares", ring / 3.0)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(self.get_buffer("shares") @ x)
            if self.lost:
                functional.relu(x)
            else:
                x = functional.relu(x)
        return self.head(x)


def lost_activation(*, wrong: bool = False) -> nn.Module:
    """Wrong: `relu(x)` that nobody keeps."""
    return Neighbours(wrong)


class Summed(nn.Module):
    """Eight graph convolutions over a dense graph, with the sum or the mean of neighbours."""

    def __init__(self, nodes: int, summed: bool) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(8, 24), nn.Linear(24, 3)
        self.layers = nn.ModuleList(nn.Linear(24, 24) for _ in range(4))
        adjacency = torch.eye(nodes).maximum((torch.rand(nodes, nodes) < 0.4).float())
        self.register_buffer("adjacency", adjacency if summed else adjacency / adjacency.sum(1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = x + functional.relu(layer(self.get_buffer("adjacency") @ x))
        return self.head(x)


def summed_neighbours(*, wrong: bool = False) -> nn.Module:
    """Wrong: sums over neighbours, of which there are many."""
    return Summed(24, wrong)


def dropped_nearly(*, wrong: bool = False) -> nn.Module:
    """Wrong: dropouts of 0.9 in every layer."""
    share = 0.9 if wrong else 0.1
    return nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Dropout(share),
        nn.Linear(64, 64), nn.ReLU(), nn.Dropout(share),
        nn.Linear(64, 64), nn.ReLU(), nn.Dropout(share),
        nn.Linear(64, 1),
    )  # fmt: skip
