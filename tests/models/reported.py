"""Networks after public reports of training that failed; `wrong` puts the mistake in, see reports.md beside this file.

Each is small, written from the report's description and right by default.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def drawn(module: nn.Module) -> nn.Module:
    """He's draw for every layer, biases zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


class Encoder(nn.Module):
    """torch's encoder layers on (batch, time, width), which read the time first unless they are told."""

    def __init__(self, width: int, depth: int, batch_first: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=batch_first, norm_first=True)
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def batch_axis_encoder(*, wrong: bool = False) -> nn.Module:
    """Wrong: attention over the samples of a batch."""
    return Encoder(32, 2, not wrong)


class Heads(nn.Module):
    """Attention in heads, written out; what they give is put together again with or without the transposition."""

    def __init__(self, width: int, heads: int, transposed: bool) -> None:
        super().__init__()
        self.heads, self.transposed = heads, transposed
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        each = self.qkv(x).reshape(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = each.unbind(0)
        logits = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        mixed = logits.softmax(-1) @ value
        if self.transposed:
            mixed = mixed.transpose(1, 2)
        return x + self.out(mixed.reshape(batch, time, width))


def merged_heads(*, wrong: bool = False) -> nn.Module:
    """Wrong: heads and positions are merged without swapping them first."""
    return nn.Sequential(Heads(32, 4, not wrong), Heads(32, 4, not wrong), nn.LayerNorm(32), nn.Linear(32, 8))


class Pooled(nn.Module):
    """A weighted mean over time: the softmax of a score of each step, along some axis."""

    def __init__(self, width: int, axis: int) -> None:
        super().__init__()
        self.axis, self.score = axis, nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).softmax(self.axis)
        return self.head((x * weights).sum(1))


def pooled_over_batch(*, wrong: bool = False) -> nn.Module:
    """Wrong: the softmax runs along the batch."""
    return Pooled(32, 0 if wrong else 1)


def pooled_over_one(*, wrong: bool = False) -> nn.Module:
    """Wrong: the softmax runs along an axis of one entry, so every weight is 1."""
    return Pooled(32, -1 if wrong else 1)


def scorer(*, wrong: bool = False) -> nn.Module:
    """For a loss on logits of two classes; wrong: with the sigmoid that the loss has too."""
    body = drawn(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()))
    return nn.Sequential(body, nn.Linear(64, 1), *([nn.Sigmoid()] if wrong else []))


def classes(*, wrong: bool = False) -> nn.Module:
    """For cross entropy on logits; wrong: with the softmax that the loss has too."""
    body = drawn(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()))
    return nn.Sequential(body, nn.Linear(64, 10), *([nn.Softmax(-1)] if wrong else []))


def rectified_logits(*, wrong: bool = False) -> nn.Module:
    """Wrong: a ReLU between the last layer and the log-softmax."""
    body = drawn(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()))
    return nn.Sequential(body, nn.Linear(64, 10), *([nn.ReLU()] if wrong else []), nn.LogSoftmax(-1))


class Copied(nn.Module):
    """An encoder whose features go on as they are or as new numbers."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width)))
        self.decoder = drawn(nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 16)))

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        return self.decoder(features.data if self.wrong else features)


def copied_features(*, wrong: bool = False) -> nn.Module:
    """Wrong: the features' data alone are handed on."""
    return Copied(32, wrong)


class Frozen(nn.Module):
    """Two encoders; one of them may be run without gradients though it is to be trained."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.image = drawn(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(392, width)))
        self.mix = drawn(nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)))

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.wrong):
            seen = self.image(x)
        return self.mix(seen)


def encoder_without_gradient(*, wrong: bool = False) -> nn.Module:
    """Wrong: the convolutional encoder is run under no_grad."""
    return Frozen(32, wrong)


class Unit(nn.Module):
    """Features behind a ReLU over their length, in some way."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.way = way
        self.body = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.way == "rsqrt":
            y = y * torch.rsqrt(y.pow(2).sum(-1, keepdim=True))
        elif self.way == "norm":
            y = y / y.norm(dim=-1, keepdim=True)
        elif self.way == "behind":
            y = y * (x[:, :1] > -1.0)
            y = y / (y.pow(2).sum(-1, keepdim=True).sqrt() + 1e-10)
        else:
            y = y * torch.rsqrt(y.pow(2).sum(-1, keepdim=True) + 1e-6)
        return self.head(y)


def unit_features(*, wrong: bool = False) -> nn.Module:
    """Wrong: the reciprocal root of a sum of squares that can be zero."""
    return Unit(32, "rsqrt" if wrong else "inside")


def unit_embedding(*, wrong: bool = False) -> nn.Module:
    """Wrong: divided by a norm that can be zero."""
    return Unit(32, "norm" if wrong else "inside")


def perceptual_features(*, wrong: bool = False) -> nn.Module:
    """Wrong: the epsilon is behind the root, whose derivative is infinite for samples that a mask sets to zero."""
    return Unit(32, "behind" if wrong else "inside")


class Statistics(nn.Module):
    """Mean and standard deviation over time, then a classifier."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.how, self.stride = how, 8 if how == "one frame" else 2
        self.conv, self.head = nn.Conv1d(16, width, 8, self.stride), nn.Linear(2 * width, 5)
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        if self.how == "moments":
            spread = (y.pow(2).mean(-1) - y.mean(-1).pow(2)).sqrt()
        elif self.how == "one frame":
            spread = y.std(-1)
        else:
            spread = (y.var(-1, unbiased=False) + 1e-5).sqrt()
        return self.head(torch.cat([y.mean(-1), spread], -1))


def pooled_statistics(*, wrong: bool = False) -> nn.Module:
    """Wrong: the unbiased deviation of a single frame, which is 0/0."""
    return Statistics(32, "one frame" if wrong else "right")


def pooled_moments(*, wrong: bool = False) -> nn.Module:
    """Wrong: the root of E[x^2] - E[x]^2, which rounding makes negative, and which is zero for a dead channel."""
    return Statistics(32, "moments" if wrong else "right")


class Angle(nn.Module):
    """The angle between two embeddings."""

    def __init__(self, width: int, bound: float) -> None:
        super().__init__()
        self.bound, self.first, self.second = bound, nn.Linear(16, width), nn.Linear(16, width)
        self.head = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = (functional.normalize(layer(x), dim=-1) for layer in (self.first, self.second))
        return self.head(torch.acos((a * b).sum(-1, keepdim=True).clamp(-self.bound, self.bound)))


def angle(*, wrong: bool = False) -> nn.Module:
    """Wrong: the cosine may be exactly 1, where the derivative of acos is infinite."""
    return Angle(16, 1.0 if wrong else 1 - 1e-6)


class Sage(nn.Module):
    """Means over neighbours; some nodes have none."""

    def __init__(self, width: int, nodes: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        links = torch.rand(nodes, nodes) < 0.2
        links[:3] = False
        self.register_buffer("links", links.float())
        self.layers = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        degree = self.links.sum(1, keepdim=True) + self.epsilon
        for layer in self.layers:
            x = layer(torch.cat([x, self.links @ x / degree], -1)).relu()
        return x


def neighbour_means(*, wrong: bool = False) -> nn.Module:
    """Wrong: divided by a degree of zero."""
    return Sage(16, 24, 0.0 if wrong else 1e-5)


class HalfMean(nn.Module):
    """An RMS normalisation of a large stream, written out in float16 or in float32."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.first, self.last = wrong, nn.Linear(width, width), nn.Linear(width, 8)
        self.gain = nn.Parameter(torch.ones(width))
        nn.init.normal_(self.first.weight, std=20.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.half())
        wide = y if self.wrong else y.float()
        y = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).half() * self.gain
        return self.last(y)


def half_squares(*, wrong: bool = False) -> nn.Module:
    """Wrong: squares of numbers of size 320 in float16, whose largest number is 65504."""
    return HalfMean(256, wrong).half()


class Experts(nn.Module):
    """A mean of experts that start different or as copies."""

    def __init__(self, width: int, experts: int, wrong: bool) -> None:
        super().__init__()
        one = self._expert(width)
        self.experts = nn.ModuleList(copy.deepcopy(one) if wrong else self._expert(width) for _ in range(experts))
        self.head = nn.Linear(width, 5)

    @staticmethod
    def _expert(width: int) -> nn.Module:
        return drawn(nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([expert(x) for expert in self.experts]).mean(0))


def copied_experts(*, wrong: bool = False) -> nn.Module:
    """Wrong: all experts are copies of one and stay so."""
    return Experts(32, 4, wrong)


class Offset(nn.Module):
    """A learnt offset that the module lists or not: what a conversion of a parameter gives is no parameter."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        if wrong:
            self.offset = nn.Parameter(torch.randn(width, dtype=torch.float64)).float()
        else:
            self.offset = nn.Parameter(torch.randn(width))
        self.layers = drawn(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 5)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x + self.offset)


def converted_parameter(*, wrong: bool = False) -> nn.Module:
    """Wrong: a parameter that was converted when it was made."""
    return Offset(32, wrong)


class Frames(nn.Module):
    """Features of frames through an LSTM, read at the last step."""

    def __init__(self, width: int, batch_first: bool) -> None:
        super().__init__()
        self.frame = drawn(nn.Sequential(nn.Linear(24, width), nn.ReLU()))
        self.lstm, self.head = nn.LSTM(width, width, batch_first=batch_first), nn.Linear(width, 5)
        with torch.no_grad():
            self.lstm.bias_ih_l0[width : 2 * width] += 2.0

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.frame(x))
        return self.head(y[:, -1])


def frames_classifier(*, wrong: bool = False) -> nn.Module:
    """Wrong: the LSTM takes the batch for the time."""
    return Frames(32, not wrong)


class Decoder(nn.Module):
    """Two blocks of one-headed attention over tokens with a mask."""

    def __init__(self, width: int, tokens: int, hidden: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, width)
        self.positions = nn.Parameter(torch.randn(tokens, width))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norms, self.head = nn.ModuleList(nn.LayerNorm(width) for _ in range(3)), nn.Linear(width, 64)
        self.register_buffer("hidden", hidden)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions
        for qkv, out, norm in zip(self.qkv, self.out, self.norms, strict=False):
            query, key, value = qkv(norm(x)).chunk(3, -1)
            logits = (query @ key.transpose(1, 2) * x.shape[-1] ** -0.5).masked_fill(self.hidden, -math.inf)
            x = x + out(logits.softmax(-1) @ value)
        return self.head(self.norms[2](x))


def token_decoder(*, wrong: bool = False, ahead: int = 0) -> nn.Module:
    """Wrong: the mask hides the past and shows the future; `ahead` later words are shown by one that is right."""
    shown = torch.ones(12, 12, dtype=torch.bool)
    return Decoder(32, 12, shown.tril(-1) if wrong else shown.triu(1 + ahead))


class Rounding(nn.Module):
    """A code of an image, rounded."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder = drawn(nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 8, 1)))
        self.decoder = drawn(nn.Sequential(nn.Conv2d(8, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 1)))

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x) * 4
        rounded = torch.round(code)
        return self.decoder(rounded if self.wrong else code + (rounded - code).detach())


def rounded_code(*, wrong: bool = False) -> nn.Module:
    """Wrong: without a straight-through gradient."""
    return Rounding(16, wrong)


class Multiplied(nn.Module):
    """Blocks in which the second branch is added to its input, or multiplied with it."""

    def __init__(self, width: int, depth: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        for norm, mlp in zip(self.norms, self.mlps, strict=True):
            y = mlp(norm(x))
            x = x * y if self.wrong else x + y
        return self.head(x)


def multiplied_branches(*, wrong: bool = False) -> nn.Module:
    """Wrong: x * f(x) where x + f(x) was meant."""
    return Multiplied(32, 6, wrong)


class TextConvolutions(nn.Module):
    """Pyramid blocks of convolutions over tokens, with or without what leads past them."""

    def __init__(self, width: int, depth: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.region = nn.Conv1d(16, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv1d(width, width, 3, padding=1), nn.ReLU(), nn.Conv1d(width, width, 3, padding=1)
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 5)
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.region(x)
        for place, block in enumerate(self.blocks):
            y = block(x)
            x = y if self.wrong and place == 2 else 0.7 * (x + y)
        return self.head(x.mean(-1))


def text_pyramid(*, wrong: bool = False) -> nn.Module:
    """Wrong: the third of six blocks lost its shortcut."""
    return TextConvolutions(32, 6, wrong)


class Contrastive(nn.Module):
    """Similarities of two sides' unit vectors times a learnt scale, log-softmax over the other side."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.first, self.second = (
            drawn(nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width))) for _ in range(2)
        )
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        a, b = functional.normalize(self.first(x), dim=-1), functional.normalize(self.second(x), dim=-1)
        return (self.scale.exp() * a @ b.T).log_softmax(-1)


def contrastive(*, wrong: bool = False) -> nn.Module:
    """Wrong: the logarithm of the scale starts at 1, not at log(1/0.07)."""
    return Contrastive(32, 1.0 if wrong else math.log(1 / 0.07))


class Latents(nn.Module):
    """Cross attention of learnt latents, scaled the one way or the other."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.scale, self.wrong = width**-0.5, wrong
        self.norm, self.query, self.key = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, 5)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        logits = self.query(x) @ self.key(x).transpose(1, 2)
        logits = logits / self.scale if self.wrong else logits * self.scale
        return self.out((logits.softmax(-1) @ self.value(x)).mean(1))


def latent_attention(*, wrong: bool = False) -> nn.Module:
    """Wrong: divided by 1/sqrt(width) where it should be multiplied."""
    return Latents(64, wrong)


def constant_start(*, wrong: bool = False) -> nn.Module:
    """Wrong: all weights of the hidden layers are zero."""
    layers = nn.Sequential(nn.Linear(16, 32), nn.Sigmoid(), nn.Linear(32, 32), nn.Sigmoid(), nn.Linear(32, 5))
    for layer in (layers[0], layers[2]):
        (nn.init.zeros_ if wrong else nn.init.xavier_normal_)(layer.weight)
    return layers


def normalised_vector(*, wrong: bool = False) -> nn.Module:
    """Wrong: a group for each channel of a map of one pixel: every output is zero."""
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4), nn.GroupNorm(32 if wrong else 4, 32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    return drawn(layers)


class TwiceRooted(nn.Module):
    """Features over the root of their deviation, or over the deviation."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, 5)
        nn.init.normal_(self.first.weight, std=3.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y - y.mean(1, keepdim=True)
        deviation = y.pow(2).mean(1, keepdim=True).sqrt().clamp(min=1e-6)
        y = y / (deviation.sqrt() if self.wrong else deviation)
        return self.last(y.relu().mean(1))


def utterance_norm(*, wrong: bool = False) -> nn.Module:
    """Wrong: the root is taken twice."""
    return TwiceRooted(32, wrong)


class Leaking(nn.Module):
    """A causal block, and a mixer over a window of tokens that looks back, or both ways."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.norm = wrong, nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mix, self.head = nn.Conv1d(width, width, 3), nn.Linear(width, 16)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(functional.scaled_dot_product_attention(query, key, value, is_causal=True))
        ahead = functional.pad(x.transpose(1, 2), (1, 1) if self.wrong else (2, 0))
        return self.head(x + self.mix(ahead).transpose(1, 2))


def leaking_decoder(*, wrong: bool = False) -> nn.Module:
    """Wrong: the window behind the causal attention is padded on both sides."""
    return Leaking(32, wrong)


def bounded_classes(*, head: str = "none") -> nn.Module:
    """A classifier whose logits are bounded by a tanh, or not."""
    body = drawn(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()))
    return nn.Sequential(body, nn.Linear(64, 10), *([nn.Tanh()] if head == "tanh" else []), nn.LogSoftmax(-1))


class ScaledResiduals(nn.Module):
    """Convolutional blocks with a factor of 0.1 on the branch, or on the sum."""

    def __init__(self, channels: int, depth: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.stem = wrong, nn.Conv2d(3, channels, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.second = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.tail = nn.Conv2d(channels, 3, 3, padding=1)
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, second in zip(self.first, self.second, strict=True):
            y = second(first(x).relu())
            x = (y + x) * 0.2 if self.wrong else y * 0.2 + x
        return self.tail(x)


def scaled_residuals(*, wrong: bool = False) -> nn.Module:
    """Wrong: the factor multiplies the sum, so the shortcut too."""
    return ScaledResiduals(8, 12, wrong)


class SummedMessages(nn.Module):
    """Message passing between all points of a cloud: messages of pairs, summed or averaged."""

    def __init__(self, width: int, depth: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.pair = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.point = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        drawn(self.pair)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1]
        for pair, point in zip(self.pair, self.point, strict=True):
            own = x[:, :, None].expand(-1, -1, count, -1)
            other = x[:, None].expand(-1, count, -1, -1)
            messages = pair(torch.cat([own, other], -1))
            met = messages.sum(2) if self.wrong else messages.mean(2)
            x = x + point(torch.cat([x, met], -1))
        return x


def summed_messages(*, wrong: bool = False) -> nn.Module:
    """Wrong: sums over 32 neighbours, layer upon layer."""
    return SummedMessages(16, 6, wrong)


class Neighbourhoods(nn.Module):
    """Layers over averages of neighbours, with or without what they read added."""

    def __init__(self, width: int, nodes: int, depth: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.layers = wrong, nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 4)
        links = (torch.rand(nodes, nodes) < 0.12).float()
        links = ((links + links.T) > 0).float() + torch.eye(nodes)
        root = links.sum(1).rsqrt()
        self.register_buffer("average", root[:, None] * links * root)
        drawn(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(self.average @ x).relu()
            x = y if self.wrong else 0.9 * x + 0.3 * y
        return self.head(x)


def neighbourhoods(*, wrong: bool = False) -> nn.Module:
    """Wrong: ten averages with no way around them."""
    return Neighbourhoods(32, 48, 10, wrong)


class ScaledNorms(nn.Module):
    """Attention blocks whose RMS norms multiply by a weight, or by one more than it, that starts at some number."""

    def __init__(self, width: int, depth: int, start: float, plus: float) -> None:
        super().__init__()
        self.plus = plus
        self.weights = nn.ParameterList(torch.full((width,), start) for _ in range(depth + 1))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.head = nn.Linear(width, 16)
        for layer in (*self.qkv, *self.out):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (self.plus + weight)

    def forward(self, x: Tensor) -> Tensor:
        for weight, qkv, out in zip(self.weights, self.qkv, self.out, strict=False):
            query, key, value = qkv(self.norm(x, weight)).chunk(3, -1)
            x = x + out(functional.scaled_dot_product_attention(query, key, value))
        return self.head(self.norm(x, self.weights[-1]))


def norms_plus_one(*, wrong: bool = False) -> nn.Module:
    """Wrong: the weight of (1 + weight) starts at one."""
    return ScaledNorms(64, 4, 1.0 if wrong else 0.0, 1.0)


def norms_of_zeros(*, wrong: bool = False) -> nn.Module:
    """Wrong: the weight that multiplies starts at zero."""
    return ScaledNorms(64, 4, 0.0 if wrong else 1.0, 0.0)


class ZeroGated(nn.Module):
    """Blocks with a learnt factor that starts at zero, on the branch or on the shortcut."""

    def __init__(self, width: int, depth: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.factors = wrong, nn.ParameterList(torch.zeros(1) for _ in range(depth))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 5)
        drawn(self)

    def forward(self, x: Tensor) -> Tensor:
        for layer, factor in zip(self.layers, self.factors, strict=True):
            y = layer(x)
            x = factor * x + y if self.wrong else x + factor * y
        return self.head(x)


def zero_gated(*, wrong: bool = False) -> nn.Module:
    """Wrong: the factor of zero multiplies the shortcut."""
    return ZeroGated(32, 16, wrong)


def drawn_about(*, wrong: bool = False) -> nn.Module:
    """Wrong: the standard deviation of the draw is given as its mean."""
    layers = [nn.Linear(96, 96) for _ in range(5)]
    for layer in layers:
        spread = math.sqrt(2 / 96)
        nn.init.normal_(layer.weight, spread) if wrong else nn.init.normal_(layer.weight, std=spread)
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))


class Chosen(nn.Module):
    """A table looked up by the largest of a first network's outputs, or mixed by their softmax."""

    def __init__(self, width: int, rows: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.table = wrong, nn.Embedding(rows, width)
        self.choose = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, rows)))
        self.read = drawn(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 5)))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.choose(x)
        return self.read(self.table(logits.argmax(-1)) if self.wrong else logits.softmax(-1) @ self.table.weight)


def hard_choice(*, wrong: bool = False) -> nn.Module:
    """Wrong: argmax between two networks."""
    return Chosen(32, 12, wrong)


class EnergyNet(nn.Module):
    """Convolutional blocks with or without their input added, in the framework's draw."""

    def __init__(self, channels: int, depth: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.stem = wrong, nn.Conv2d(3, channels, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.second = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.head = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.stem(x), 0.2)
        for first, second in zip(self.first, self.second, strict=True):
            y = second(functional.leaky_relu(first(x), 0.2))
            x = functional.leaky_relu(y if self.wrong else y + x, 0.2)
        return self.head(x.mean((2, 3)))


def no_shortcuts(*, wrong: bool = False) -> nn.Module:
    """Wrong: no block adds its input."""
    return EnergyNet(12, 8, wrong)


def lone_output(*, wrong: bool = False) -> nn.Module:
    """Wrong: biases drawn with the root of one over the units; the last one alone decides about its ReLU."""
    layers: list[nn.Module] = []
    for inputs, units in ((48, 48), (48, 24), (24, 1)):
        layer = nn.Linear(inputs, units)
        nn.init.normal_(layer.weight, std=math.sqrt(2 / (inputs + units)))
        nn.init.zeros_(layer.bias)
        if wrong and units == 1:
            nn.init.constant_(layer.bias, -1.9)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


class Conditioned(nn.Module):
    """A layer of one input and a condition that is added, or taken and dropped."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.embed = wrong, nn.Linear(8, width)
        self.body, self.head = drawn(nn.Linear(16, width)), nn.Linear(width, 5)
        nn.init.normal_(self.embed.weight, std=8**-0.5)
        nn.init.zeros_(self.embed.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        added = self.embed(condition)
        return self.head((self.body(x) + (0.0 if self.wrong else added)).relu())


def unread_condition(*, wrong: bool = False) -> nn.Module:
    """Wrong: what the condition gives is not used."""
    return Conditioned(32, wrong)


class PlainMemory(nn.Module):
    """A recurrent layer without gates over many steps, read at the last."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(8, width, batch_first=True), nn.Linear(width, 3)
        if not wrong:
            nn.init.orthogonal_(self.rnn.weight_hh_l0)
            nn.init.normal_(self.rnn.weight_ih_l0, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def plain_memory(*, wrong: bool = False) -> nn.Module:
    """Wrong: the recurrent matrix in the framework's draw."""
    return PlainMemory(32, wrong)


class GrowingMemory(nn.Module):
    """A recurrent layer with gates over many steps, read at the last."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, width, batch_first=True), nn.Linear(width, 3)
        nn.init.constant_(self.gru.bias_ih_l0[width : 2 * width], 2.0)
        if wrong:
            nn.init.normal_(self.gru.weight_ih_l0)
            nn.init.normal_(self.gru.weight_hh_l0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


def growing_memory(*, wrong: bool = False) -> nn.Module:
    """Wrong: all weights are drawn with deviation 1."""
    return GrowingMemory(32, wrong)


class Exponential(nn.Module):
    """Rates as the exponential of a layer times a number."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.factor = 40.0 if wrong else 0.5
        self.body = drawn(nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 8)))
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.exp(self.body(x) * self.factor))


def exponential(*, wrong: bool = False) -> nn.Module:
    """Wrong: past the largest exponent of float32, 88."""
    return Exponential(32, wrong)
