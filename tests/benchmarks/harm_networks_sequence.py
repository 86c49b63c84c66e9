"""Transformers, mixers, gated and recurrent networks for `tests.benchmarks.harm`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32


class Attention(nn.Module):
    """Self-attention with four heads."""

    def __init__(self, width: int = WIDTH, heads: int = 4, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(n, t, width))


class PreNormBlock(nn.Module):
    def __init__(self, width: int = WIDTH, causal: bool = False, norm: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width) if norm else nn.Identity()
        self.norm2 = nn.LayerNorm(width) if norm else nn.Identity()
        self.attention = Attention(width, causal=causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    """Patches of two by two, blocks, the mean of the tokens."""

    def __init__(self, depth: int, norm: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, WIDTH))
        self.blocks = nn.Sequential(*[PreNormBlock(norm=norm) for _ in range(depth)])
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(y)).mean(1))


class Gpt(nn.Module):
    """Causal blocks; weights N(0, 0.02), the last layers of the branches scaled down by the depth."""

    def __init__(self, depth: int, tied: bool = False, words: int = 24, length: int = 12) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(words, WIDTH), nn.Embedding(length, WIDTH)
        self.blocks = nn.Sequential(*[PreNormBlock(causal=True) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, words, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 * ((2 * depth) ** -0.5 if last else 1.0))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if tied:
            self.head.weight = self.embedding.weight
        self.register_buffer("places", torch.arange(length))

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x) + self.position(self.places)
        return self.head(self.norm(self.blocks(y)))


class PostNormBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm1, self.norm2 = Attention(), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.down(F.relu(self.up(x))))


class PostNorm(nn.Module):
    """An encoder as of 2017."""

    def __init__(self, depth: int, words: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, WIDTH)
        self.blocks = nn.Sequential(*[PostNormBlock() for _ in range(depth)])
        self.head = nn.Linear(WIDTH, words)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(x)))


class TorchEncoder(nn.Module):
    """PyTorch's own layers."""

    def __init__(self, depth: int, first: bool, words: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.1, batch_first=True, norm_first=first)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, words)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(x) * WIDTH**0.5))


class Albert(nn.Module):
    """One post-normalised block used at every depth, and a narrow embedding."""

    def __init__(self, times: int, words: int = 24) -> None:
        super().__init__()
        self.times = times
        self.embedding, self.wide = nn.Embedding(words, 16), nn.Linear(16, WIDTH)
        self.block = PostNormBlock()
        self.head = nn.Linear(WIDTH, words)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(self.embedding(x))
        for _ in range(self.times):
            y = self.block(y)
        return self.head(y)


class DiTBlock(nn.Module):
    """Scales, shifts and gates from a condition, by a layer that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.attention = Attention()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        parts = self.modulation(F.silu(condition))[:, None].chunk(6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.down(F.gelu(self.up(self.norm2(x) * (1 + scale2) + shift2)))


class DiT(nn.Module):
    """The condition is read from the image's mean; the last layer starts small."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patches, self.condition = nn.Conv2d(1, WIDTH, 2, stride=2), nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList([DiTBlock() for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        condition = self.condition(F.adaptive_avg_pool2d(x, 2).flatten(1))
        y = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            y = block(y, condition)
        y = self.head(self.norm(y)).reshape(-1, 4, 4, 2, 2)
        return y.permute(0, 1, 3, 2, 4).reshape(-1, 1, 8, 8)


class MixerBlock(nn.Module):
    def __init__(self, places: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.tokens = nn.Sequential(nn.Linear(places, 2 * places), nn.GELU(), nn.Linear(2 * places, places))
        self.channels = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.blocks = nn.Sequential(*[MixerBlock(16) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(y)).mean(1))


class Glu(nn.Module):
    """Gated linear units in a row."""

    def __init__(self, depth: int, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(32 if k == 0 else width, 2 * width) for k in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.glu(layer(x), -1)
        return self.head(x)


class Mixture(nn.Module):
    """Experts that are all asked, weighted by a softmax."""

    def __init__(self, experts: int, width: int = 48) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(32, width), nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(experts)]
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        weights = torch.softmax(self.gate(x), -1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return self.head(F.relu(x + (weights[:, :, None] * outputs).sum(1)))


class Recurrent(nn.Module):
    """The last state of a recurrent layer, and a head."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, inputs: int = 16, classes: int = 6) -> None:
        super().__init__()
        self.cell = kind(inputs, WIDTH, num_layers=layers, batch_first=True)  # type: ignore[call-arg]
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Unrolled(nn.Module):
    """A tanh cell with an orthogonal recurrent matrix, written as a loop."""

    def __init__(self, inputs: int = 16, classes: int = 6) -> None:
        super().__init__()
        self.read, self.recur = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.orthogonal_(self.recur.weight)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.read(x[:, 0]))
        for step in range(1, x.shape[1]):
            h = torch.tanh(self.read(x[:, step]) + self.recur(h))
        return self.head(h)


class ConvLstm(nn.Module):
    """A convolutional LSTM over four images; also gives its state's mean."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.width = width
        self.gates = nn.Conv2d(3 + width, 4 * width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(x.shape[0], self.width, 8, 8)
        c = torch.zeros_like(h)
        for step in range(x.shape[1]):
            i, f, o, g = self.gates(torch.cat([x[:, step], h], 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h.mean((2, 3))), c.mean((1, 2, 3))


class Dilated(nn.Module):
    """A temporal network: causal convolutions, each twice as wide apart, with shortcuts."""

    def __init__(self, depth: int, inputs: int = 16, classes: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv1d(inputs, WIDTH, 1)
        self.layers = nn.ModuleList([nn.Conv1d(WIDTH, WIDTH, 2, dilation=2 ** (k % 3)) for k in range(depth)])
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x.transpose(1, 2))
        for layer in self.layers:
            y = F.relu(y + F.relu(layer(F.pad(y, (layer.dilation[0], 0)))))
        return self.head(y.mean(2))


class Wavenet(nn.Module):
    """Gated convolutions; the head reads the sum of what every layer hands out."""

    def __init__(self, depth: int, inputs: int = 16, classes: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv1d(inputs, WIDTH, 1)
        self.gated = nn.ModuleList([nn.Conv1d(WIDTH, 2 * WIDTH, 3, padding=1) for _ in range(depth)])
        self.skips = nn.ModuleList([nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(depth)])
        self.outs = nn.ModuleList([nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(depth)])
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x.transpose(1, 2))
        total = torch.zeros_like(y)
        for gated, skip, out in zip(self.gated, self.skips, self.outs, strict=True):
            a, b = gated(y).chunk(2, 1)
            z = torch.tanh(a) * torch.sigmoid(b)
            total = total + skip(z)
            y = y + out(z)
        return self.head(F.relu(total).mean(2))
