"""Networks after public reports of parameters that start wrong; `wrong` puts the mistake in, see reports.md."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.reported import drawn


class Bert(nn.Module):
    """Two transformer blocks that normalise their sums, on tokens, with a head for each position."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(12, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True)
            for _ in range(2)
        )
        self.head = nn.Linear(width, vocabulary)
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.tokens(ids) + self.places.weight)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def drawn_norms(*, wrong: bool = False) -> nn.Module:
    """Wrong: the loop that draws the layers draws scale and shift of the norms as well."""
    model = Bert(64, 32)
    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm) and wrong:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.normal_(layer.bias, std=0.02)
    return model


def swapped_norms(*, wrong: bool = False) -> nn.Module:
    """Wrong: scales of zero and shifts of one."""
    model = Bert(64, 32)
    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm) and wrong:
            nn.init.zeros_(layer.weight)
            nn.init.ones_(layer.bias)
    return model


def zero_tokens(*, wrong: bool = False) -> nn.Module:
    """Wrong: the row of the padding token is to be zero, and the whole table becomes it."""
    model = Bert(64, 32)
    with torch.no_grad():
        if wrong:
            model.tokens.weight[None] = 0.0
        else:
            model.tokens.weight[0] = 0.0
    return model


def learnt_places(*, wrong: bool = False) -> nn.Module:
    """Wrong: the tokens' table is drawn small, the one of positions is left at torch's N(0, 1)."""
    model = Bert(64, 32)
    nn.init.normal_(model.tokens.weight, std=0.02)
    nn.init.normal_(model.places.weight, std=1.0 if wrong else 0.02)
    return model


class Decoder(nn.Module):
    """A pre-norm decoder of two blocks, its head the tokens' table or a layer of its own."""

    def __init__(self, vocabulary: int, width: int, tied: bool, spread: float) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
        nn.init.normal_(self.head.weight, std=spread)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for up, down, norm in zip(self.up, self.down, self.norms, strict=True):
            x = x + down(functional.gelu(up(norm(x))))
        return self.head(self.norm(x))


def loud_head(*, wrong: bool = False) -> nn.Module:
    """Wrong: the head's weights have variance 1 where it should be 1/width, so the loss starts at ten times ln(n)."""
    return Decoder(256, 256, False, 1.0 if wrong else 256**-0.5)


def tied_head(*, wrong: bool = False) -> nn.Module:
    """Wrong: the table that the head shares is left at torch's N(0, 1)."""
    return Decoder(256, 256, True, 1.0 if wrong else 0.02)


class StateSpace(nn.Module):
    """A selective state space layer, its scan written out; the step is softplus of a projection with a bias."""

    def __init__(self, width: int, states: int, step: float) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.Linear(width, width)
        self.step, self.mix = nn.Linear(width, width), nn.Linear(width, 2 * states, bias=False)
        self.rates = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(width, 1))
        self.out, self.states = nn.Linear(width, width), states
        nn.init.normal_(self.step.weight, std=0.02)
        nn.init.constant_(self.step.bias, step)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self.inner(self.norm(x)))
        step = functional.softplus(self.step(y))
        write, read = self.mix(y).chunk(2, -1)
        keep = torch.exp(-step[..., None] * self.rates.exp())
        new = (step * y)[..., None] * write[:, :, None]
        state, outputs = torch.zeros_like(new[:, 0]), []
        for place in range(x.shape[1]):
            state = keep[:, place] * state + new[:, place]
            outputs.append((state * read[:, place, None]).sum(-1))
        return x + self.out(torch.stack(outputs, 1))


def state_space(*, wrong: bool = False) -> nn.Module:
    """Wrong: the bias of the step is zeroed with all others, so a step forgets half or more (0.69 in place of 0.01)."""
    bias = 0.0 if wrong else math.log(math.expm1(0.01))
    return nn.Sequential(StateSpace(16, 4, bias), nn.LayerNorm(16), LastStep(16, 4))


class LastStep(nn.Module):
    """A linear layer on the last step."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[:, -1])


def _bent(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(inputs, outputs), nn.ReLU()


class Critics(nn.Module):
    """Two critics of state and action; the lower value counts."""

    def __init__(self, width: int, alike: bool) -> None:
        super().__init__()
        hidden = ((12, width), (width, width))
        first, second = (
            drawn(nn.Sequential(*(part for a, b in hidden for part in _bent(a, b)), nn.Linear(width, 1)))
            for _ in range(2)
        )
        self.first, self.second = first, second
        if alike:
            second.load_state_dict(copy.deepcopy(first.state_dict()))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        both = torch.cat([state, action], -1)
        return torch.minimum(self.first(both), self.second(both))


def twin_critics(*, wrong: bool = False) -> nn.Module:
    """Wrong: both start with the same numbers."""
    return Critics(32, wrong)


class Spread(nn.Module):
    """A variational encoder: mean and log variance of wide features, the code drawn from them and decoded."""

    def __init__(self, wide: int, gain: float, bounded: bool) -> None:
        super().__init__()
        self.bounded, self.body = bounded, drawn(nn.Sequential(nn.Linear(16, wide), nn.ReLU()))
        self.mean, self.log_variance = nn.Linear(wide, 8), nn.Linear(wide, 8)
        nn.init.normal_(self.log_variance.weight, std=gain)
        self.decoder = drawn(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 16)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        log_variance = self.log_variance(y)
        if self.bounded:
            log_variance = log_variance.clamp(-10.0, 5.0)
        spread = (0.5 * log_variance).exp()
        return self.decoder(self.mean(y) + spread * torch.randn_like(spread))


def wide_variance(*, wrong: bool = False) -> nn.Module:
    """Wrong: the log variance of 4096 summed features is far past what `exp` can give, and nothing bounds it."""
    return Spread(4096, 1.0 if wrong else 0.01, not wrong)


class Film(nn.Module):
    """Blocks whose features are scaled and shifted by a condition."""

    def __init__(self, width: int, blocks: int, plus_one: bool) -> None:
        super().__init__()
        self.plus_one, self.stem = plus_one, drawn(nn.Linear(16, width))
        self.layers = drawn(nn.ModuleList(nn.Linear(width, width) for _ in range(blocks)))
        self.scales = nn.ModuleList(nn.Linear(8, 2 * width) for _ in range(blocks))
        for layer in self.scales:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        for layer, scales in zip(self.layers, self.scales, strict=True):
            scale, shift = scales(condition).chunk(2, -1)
            if self.plus_one:
                scale = 1 + scale
            x = functional.relu(scale * layer(x) + shift)
        return self.head(x)


def film(*, wrong: bool = False) -> nn.Module:
    """Wrong: the scale is what the zero layer gives, not 1 plus that."""
    return Film(64, 3, not wrong)


class Slots(nn.Module):
    """Learnt queries that read a set by attention, each giving a box."""

    def __init__(self, width: int, queries: int, alike: bool) -> None:
        super().__init__()
        start = torch.zeros(queries, width) if alike else torch.randn(queries, width)
        self.queries, self.norm = nn.Parameter(start), nn.LayerNorm(width)
        self.read = nn.MultiheadAttention(width, 4, batch_first=True)
        self.boxes = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.expand(x.shape[0], -1, -1)
        found = queries + self.read(queries, x, x, need_weights=False)[0]
        return self.boxes(self.norm(found))


def learnt_queries(*, wrong: bool = False) -> nn.Module:
    """Wrong: all queries start as the same vector, and nothing else tells them apart."""
    return Slots(32, 6, wrong)


class Memory(nn.Module):
    """A recurrent layer, its last step classified."""

    def __init__(self, memory: nn.Module, width: int) -> None:
        super().__init__()
        self.memory, self.head = memory, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


def constant_memory(*, wrong: bool = False) -> nn.Module:
    """Wrong: all weights of the LSTM are set to one number, so its units stay alike."""
    memory = nn.LSTM(16, 32, batch_first=True)
    for name, each in memory.named_parameters():
        if "bias" in name:
            nn.init.zeros_(each)
            each.data[32:64] = 2.0
        elif wrong:
            nn.init.constant_(each, 0.05)
    return Memory(memory, 32)


def small_memory(*, wrong: bool = False) -> nn.Module:
    """Wrong: the recurrent matrix of a plain RNN is drawn with deviation 0.01 where it should be orthogonal."""
    memory = nn.RNN(16, 32, batch_first=True)
    if wrong:
        nn.init.trunc_normal_(memory.weight_hh_l0, std=0.01)
    else:
        nn.init.orthogonal_(memory.weight_hh_l0)
    return Memory(memory, 32)


class Background(nn.Module):
    """Features beside those of a learnt background, compared by cosines."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.body = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width)))
        self.background = nn.Parameter(torch.zeros(1, width) if wrong else torch.randn(1, width))
        self.classes = nn.Parameter(torch.randn(5, width))

    def forward(self, x: Tensor) -> Tensor:
        known = torch.cat([self.classes, self.background])
        known = known / known.norm(dim=-1, keepdim=True)
        return 16 * functional.normalize(self.body(x), dim=-1) @ known.T


def empty_background(*, wrong: bool = False) -> nn.Module:
    """Wrong: a parameter of uninitialised memory, here zeros, is divided by its length."""
    return Background(32, wrong)


def selu_at_default(*, wrong: bool = False) -> nn.Module:
    """Wrong: a deep SELU network at torch's default draw."""
    layers: list[nn.Module] = []
    for _ in range(16):
        layer = nn.Linear(64, 64)
        if not wrong:
            nn.init.normal_(layer.weight, std=64**-0.5)
            nn.init.zeros_(layer.bias)
        layers += [layer, nn.SELU()]
    return nn.Sequential(*layers, nn.Linear(64, 5))
