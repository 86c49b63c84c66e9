"""Every lowering against the function it stands for: the graph, run with numbers, gives what the module gives."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import UNMODELLED, Graph
from gnelint.ops import VOCABULARY
from gnelint.readers.torch.emitter import Call, CannotLowerError, Emitter
from gnelint.readers.torch.ops.table import LOWERINGS
from gnelint.readers.torch.reader import read_module
from tests.evaluator import outputs

IMAGE, TOKENS, SIGNAL, VOLUME = (2, 4, 6, 6), (2, 5, 8), (2, 4, 9), (2, 4, 5, 6, 6)


class Function(nn.Module):
    """A function with weights of every shape that the cases below want."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(1)
        self.square = nn.Parameter(torch.randn(8, 8, generator=generator))
        self.vector = nn.Parameter(torch.randn(8, generator=generator))
        self.column = nn.Parameter(torch.randn(5, 1, generator=generator))
        self.stack = nn.Parameter(torch.randn(2, 8, 3, generator=generator))
        self.token = nn.Parameter(torch.randn(1, 1, 8, generator=generator))
        self.table = nn.Parameter(torch.randn(7, 8, generator=generator))
        self.positive = nn.Parameter(torch.rand(8, generator=generator) + 0.5)
        self.register_buffer("index", torch.tensor([3, 0, 2, 2]))
        self.register_buffer("pairs", torch.tensor([[0, 1, 5], [2, 4, 1]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class First(nn.Module):
    """A recurrent layer's hidden states over time."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class States(nn.Module):
    """Every layer's last states, side by side."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        states = self.layer(x)[1]
        return torch.cat(states, -1) if isinstance(states, tuple) else states


class Begun(nn.Module):
    """A recurrent layer that begins in a state computed from its input, and in one that is a constant."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        rows = layer.num_layers * (2 if layer.bidirectional else 1)
        self.register_buffer("start", torch.linspace(-1, 1, rows * 40).reshape(rows, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x[:1].expand_as(self.start) * 0.5
        states = (hidden, self.start) if isinstance(self.layer, nn.LSTM) else hidden
        return self.layer(x, states)[0]


class Cells(nn.Module):
    """A loop over a cell."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = (x[:, 0], x[:, 1]) if isinstance(self.cell, nn.LSTMCell) else x[:, 0]
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return torch.cat(state, -1) if isinstance(state, tuple) else state


MATRIX = torch.arange(64.0).reshape(8, 8).sin()


def written_spectrum(x: torch.Tensor) -> torch.Tensor:
    """As Fourier neural operators have it: the lowest frequencies times complex weights, all others 0."""
    spectrum = torch.fft.rfft(x, dim=1)
    kept = torch.zeros_like(spectrum)
    kept[:, :2] = torch.einsum("bfi,io->bfo", spectrum[:, :2], torch.complex(MATRIX, MATRIX.flip(0)))
    return torch.fft.irfft(torch.cat([kept[:, :1], kept[:, 1:].roll(1, -1)], 1), 5, 1)


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), IMAGE),
    "conv same": (nn.Conv2d(4, 6, 4, padding="same"), IMAGE),
    "conv circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), IMAGE),
    "conv reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), IMAGE),
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1, bias=False), SIGNAL),
    "conv3d": (nn.Conv3d(4, 2, 3, padding=(0, 1, 2)), VOLUME),
    "conv unbatched": (nn.Conv2d(4, 6, 3), IMAGE[1:]),
    "conv transpose": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), IMAGE),
    "conv transpose 1d": (nn.ConvTranspose1d(4, 6, 4, stride=2, dilation=2), SIGNAL),
    "batch norm": (nn.BatchNorm2d(4), IMAGE),
    "batch norm plain": (nn.BatchNorm2d(4, affine=False, track_running_stats=False), IMAGE),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), IMAGE),
    "group norm": (nn.GroupNorm(2, 4), IMAGE),
    "layer norm": (nn.LayerNorm((6, 6)), IMAGE),
    "rms norm": (nn.RMSNorm(8), TOKENS),
    "prelu": (nn.PReLU(4), IMAGE),
    "lstm": (First(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)), TOKENS),
    "lstm unbatched": (First(nn.LSTM(8, 6, bias=False)), TOKENS[1:]),
    "lstm states": (States(nn.LSTM(8, 6, 2, bidirectional=True)), TOKENS),
    "lstm with states": (Begun(nn.LSTM(8, 8, 2, bidirectional=True)), TOKENS),
    "gru": (First(nn.GRU(8, 6, 3)), TOKENS),
    "gru states": (States(nn.GRU(8, 6, 2, batch_first=True, bidirectional=True)), TOKENS),
    "gru with states": (Begun(nn.GRU(8, 8)), TOKENS),
    "rnn": (First(nn.RNN(8, 6, 2, nonlinearity="relu", bias=False, bidirectional=True)), TOKENS),
    "rnn states": (States(nn.RNN(8, 6)), TOKENS),
    "lstm cell": (Cells(nn.LSTMCell(8, 8)), TOKENS),
    "gru cell": (Cells(nn.GRUCell(8, 8, bias=False)), TOKENS),
    "rnn cell": (Cells(nn.RNNCell(8, 8, nonlinearity="relu")), TOKENS),
    "max pool": (nn.MaxPool2d(3, stride=2, padding=1), IMAGE),
    "max pool 1d": (nn.MaxPool1d(2), SIGNAL),
    "avg pool": (nn.AvgPool2d(2), IMAGE),
    "avg pool padded": (nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), IMAGE),
    "avg pool divisor": (nn.AvgPool2d(2, divisor_override=3), IMAGE),
    "adaptive one": (nn.AdaptiveAvgPool2d(1), IMAGE),
    "adaptive two": (nn.AdaptiveAvgPool2d((2, 3)), IMAGE),
    "adaptive same": (nn.AdaptiveAvgPool2d((6, 6)), IMAGE),
    "adaptive max": (nn.AdaptiveMaxPool2d(1), IMAGE),
    "upsample": (nn.Upsample(scale_factor=2), IMAGE),
    "upsample linear": (nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE),
    "upsample corners": (nn.Upsample(size=9, mode="bicubic", align_corners=True), IMAGE),
    "fold": (nn.Sequential(nn.Unfold(3, padding=1), nn.Fold((6, 6), 3, padding=1)), IMAGE),
    "pixel shuffle": (nn.PixelShuffle(2), IMAGE),
    "pixel unshuffle": (nn.PixelUnshuffle(2), IMAGE),
    "unfold": (nn.Unfold(3, padding=1, stride=2), IMAGE),
    "zero pad": (nn.ZeroPad2d((1, 2, 0, 1)), IMAGE),
    "replicate": (nn.ReplicationPad2d(1), IMAGE),
    "bilinear attention": (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), TOKENS),
    "flatten": (nn.Sequential(nn.Flatten(), nn.Linear(144, 3)), IMAGE),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), TOKENS),
}  # fmt: skip

FUNCTIONS: dict[str, Callable[[Function, Tensor], Tensor]] = {
    "add scalar": lambda m, x: 2 * (x + 3) - 1,
    "add alpha": lambda m, x: torch.add(x, m.vector, alpha=0.5),
    "one minus": lambda m, x: 1 - x,
    "constant minus": lambda m, x: m.vector - x,
    "difference": lambda m, x: x.relu() - x.tanh(),
    "scaled add": lambda m, x: torch.add(x.relu(), x.tanh(), alpha=3.0),
    "twice": lambda m, x: x + x,
    "square": lambda m, x: x * x,
    "gate": lambda m, x: x * x.sin(),
    "scale": lambda m, x: m.vector * x,
    "divide": lambda m, x: x / m.positive / 2,
    "quotient": lambda m, x: x / (x.exp() + 1),
    "inverse": lambda m, x: 1.0 / (x * x + 1),
    "rsqrt": lambda m, x: torch.rsqrt(x * x + 1),
    "negate": lambda m, x: -x,
    "broadcast up": lambda m, x: x[:, :1] + m.column * m.vector,
    "addcmul": lambda m, x: torch.addcmul(m.vector, x, m.positive, value=0.5),
    "lerp": lambda m, x: torch.lerp(x, x.relu(), 0.3),
    "lerp weight": lambda m, x: torch.lerp(m.vector, x, m.positive),
    "power of": lambda m, x: 2.0**x,
    "log1p": lambda m, x: torch.log1p(x.abs()),
    "linear flow": lambda m, x: F.linear(x, x[0]),
    "matmul right": lambda m, x: x @ m.square,
    "matmul vector": lambda m, x: x @ m.vector,
    "matmul left": lambda m, x: m.square @ x.mT,
    "matmul stack": lambda m, x: x @ m.stack,
    "matmul flows": lambda m, x: x @ x.mT,
    "bmm": lambda m, x: torch.bmm(x, x.transpose(1, 2)),
    "addmm": lambda m, x: torch.addmm(m.vector, x[0], m.square),
    "baddbmm": lambda m, x: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.5, alpha=2.0),
    "einsum": lambda m, x: torch.einsum("btd,de->bet", x, m.square),
    "einsum flows": lambda m, x: torch.einsum("bqd,bkd->bqk", x, x.relu()),
    "einsum heads": lambda m, x: torch.einsum("bqhd,bkhd->bhqk", x.unflatten(2, (2, 4)), x.unflatten(2, (2, 4))),
    "einsum moved": lambda m, x: torch.einsum("btd->tdb", x),
    "einsum of three": lambda m, x: torch.einsum("btd,bsd,bse->bte", x, x.relu(), x.tanh()),
    "einsum dots": lambda m, x: torch.einsum("...td,de->...et", x, m.square),
    "einsum summed": lambda m, x: torch.einsum("btd,bsd->bt", x, x.relu()),
    "einsum without arrow": lambda m, x: torch.einsum("btd,de", x, m.square),
    "gather along": lambda m, x: x.gather(1, m.index[:3].view(1, 3, 1).expand(2, 3, 8) % 5),
    "gather apart": lambda m, x: x.gather(2, (torch.arange(20).view(2, 5, 2) * 3) % 8),
    "put": lambda m, x: x.index_put((torch.tensor([0, 1, 1]), torch.tensor([4, 2, 0])), x[0, :3]),
    "put behind": lambda m, x: x.index_copy(1, torch.tensor([4, 2]), x[:, :2].tanh()),
    "put and added": lambda m, x: x.index_put((torch.tensor([1, 1]),), x.relu(), accumulate=True),
    "put by mask": lambda m, x: x.index_put((x > 0,), torch.tensor(0.25)),
    "index add": lambda m, x: x.index_add(1, torch.tensor([0, 3, 3]), x[:, :3].tanh(), alpha=0.5),
    "scatter add": lambda m, x: torch.zeros_like(x).scatter_add(1, m.index.view(1, 4, 1).expand(2, 4, 8) % 5, x),
    "scatter add apart": lambda m, x: x.scatter_add(2, torch.arange(20).view(2, 5, 2) * 3 % 8, x[..., :2]),
    "unfold": lambda m, x: x.unfold(1, 3, 2),
    "overlapping chunks": lambda m, x: torch.as_strided(x.contiguous(), (2, 2, 3, 8), (40, 16, 8, 1)),
    "chunk of its own": lambda m, x: torch.as_strided(x.contiguous(), (2, 1, 5, 8), (40, 20, 8, 1)),
    "chunks of turned memory": lambda m, x: torch.as_strided(
        x.reshape(5, 2, 8).transpose(0, 1).view(2, 1, 5, 8), (2, 3, 3, 8), (8, 16, 16, 1)
    ),
    "diagonal in memory": lambda m, x: torch.as_strided(x.contiguous(), (2, 5), (40, 9)),
    "every other": lambda m, x: x.slice_scatter(x[:, :3].tanh(), 1, 0, 5, 2),
    "index by mask": lambda m, x: x[:, torch.tensor([True, False, True, False, True])],
    "index apart": lambda m, x: x[torch.tensor([0, 1, 1]), :, torch.tensor([4, 2, 0])],
    "complex rotary": lambda m, x: (
        torch.view_as_real(
            torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(torch.ones(5, 1), torch.arange(5.0)[:, None])
        ).flatten(2)
    ),
    "times i": lambda m, x: (1j * x.relu() + x.tanh().type(torch.complex64) - (0.5 - 2j)).imag,
    "complex number": lambda m, x: (torch.fft.fft(x) * (0.5 + 2j) / (1 - 1j) - x + 3j).imag,
    "rotated by its own": lambda m, x: (x * torch.exp(1j * m.vector * x) + torch.polar(x.exp(), -x)).real,
    "complex layer": lambda m, x: F.linear(x.cfloat(), torch.complex(m.square, m.square.mT), 1j * m.vector).imag,
    "complex means": lambda m, x: (torch.fft.fft(x) - torch.fft.fft(x).mean(1, keepdim=True)).sum(0).real,
    "complex square": lambda m, x: ((-torch.fft.fft(x)).square() + torch.fft.fft(x) ** 2 - x.cfloat().conj()).real,
    "complex chosen": lambda m, x: torch.where(m.vector > 0, torch.fft.fft(x), 1j * x).imag,
    "rfft": lambda m, x: torch.fft.irfft(torch.fft.rfft(x, 12) * torch.fft.rfft(m.vector, 12), 12)[..., :8],
    "complex entries filled": lambda m, x: torch.fft.irfft(
        torch.fft.rfft(x, 12).masked_fill(torch.arange(7) > 2, 0.0 + 0.0j)
        + torch.fft.rfft(x.tanh(), 12).masked_fill(torch.arange(7) > 3, 2.0 + 1j),
        12,
    )[..., :8],
    "rfft of odd length": lambda m, x: torch.fft.irfft(torch.fft.rfft(x, dim=1, norm="ortho"), 5, 1, "ortho"),
    "fft": lambda m, x: torch.fft.ifft(torch.fft.fft(x, norm="forward").transpose(1, 2), dim=1).imag,
    "fft of two axes": lambda m, x: torch.fft.fft2(x).real,
    "spectral convolution": lambda m, x: written_spectrum(x),
    "product of spectra": lambda m, x: (torch.fft.fft(x) @ torch.fft.fft(x).mT.conj()).real,
    "spectrum by a real matrix": lambda m, x: (
        torch.einsum("btc,dc->btd", torch.fft.fft(x, dim=1), MATRIX.cfloat()).imag
    ),
    "kernels of samples": lambda m, x: F.conv2d(
        x[:, :4].reshape(1, 4, 4, 4), x.reshape(2, 40)[:, :36].reshape(4, 2, 3, 3), x[0, 0, :4], padding=1, groups=2
    ),
    "kernels of a line": lambda m, x: F.conv1d(x, x[0, :, :4].mT.reshape(2, 5, 2), stride=2, padding=1, dilation=2),
    "movedim": lambda m, x: x.movedim(0, -1).movedim((0, 2), (2, 1)).mT,
    "class token": lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), x], dim=1),
    "stack": lambda m, x: torch.stack([x, x.relu()], dim=2),
    "chunk": lambda m, x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1],
    "split sizes": lambda m, x: torch.split(x, [3, 5], -1)[1],
    "unbind": lambda m, x: x.unbind(1)[0] + x.unbind(1)[-1],
    "select": lambda m, x: x[:, -1],
    "slice": lambda m, x: x[:, 1:-1:2, ::3],
    "index": lambda m, x: x[:, m.index],
    "index pairs": lambda m, x: x[:, :3].reshape(2, 3, 8)[:, m.index % 3, m.index],
    "bias table": lambda m, x: x[:, :3] + m.table[m.pairs].sum(0),
    "index select": lambda m, x: torch.index_select(x, 1, m.index),
    "write select": lambda m, x: _written(x, lambda y: y[:, 0].zero_()),
    "write slice": lambda m, x: _written(x, lambda y: y[:, 1:3].mul_(2)),
    "write row": lambda m, x: _written(x, lambda y: y[:, -1].copy_(m.vector)),
    "expand": lambda m, x: x[:, :1].expand(-1, 4, -1),
    "repeat": lambda m, x: x.repeat(1, 2, 1),
    "repeat interleave": lambda m, x: x.repeat_interleave(3, dim=1),
    "roll": lambda m, x: torch.roll(x, (1, -2), (1, 2)),
    "flip": lambda m, x: x.flip(-1),
    "permute": lambda m, x: x.permute(2, 0, 1).contiguous().flatten(1),
    "mean": lambda m, x: x.mean(),
    "mean dims": lambda m, x: x.mean((0, 1), keepdim=True),
    "sum": lambda m, x: x.sum(-1),
    "amax": lambda m, x: x.amax(1),
    "max dim": lambda m, x: x.max(1).values,
    "max other": lambda m, x: torch.max(x, m.vector),
    "norm": lambda m, x: x.norm(dim=-1),
    "norm one": lambda m, x: x.norm(p=1, dim=-1),
    "normalize": lambda m, x: F.normalize(x, dim=-1),
    "variance": lambda m, x: x.var(-1),
    "variance mean": lambda m, x: torch.sub(*torch.var_mean(x, (0, 1), correction=0)),
    "standardise": lambda m, x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5),
    "cumsum": lambda m, x: x.cumsum(1),
    "tril": lambda m, x: (x @ x.mT).tril(),
    "inverted mask": lambda m, x: x.masked_fill(~(x > 0), 0.25),
    "joined masks": lambda m, x: x * ((x > 0.5) | ((x < -0.5) & ~(x.mT[:, :5, :1] > 1)) ^ (x > 2)),
    "antialias": lambda m, x: F.interpolate(x[None], (3, 4), mode="bicubic", antialias=True),
    "clamp": lambda m, x: x.clamp(-0.5, 0.7).clamp(min=-0.2),
    "clamp tensor": lambda m, x: torch.clamp(x, min=m.vector),
    "numbers as tensors": lambda m, x: (
        torch.clamp(x, torch.tensor(-math.inf), torch.tensor(0.5)).clamp(*map(torch.tensor, (-math.inf, math.inf)))
        + x.abs() ** torch.tensor(5.0).reciprocal()
    ),
    "where": lambda m, x: torch.where(m.vector > 0, x, x.tanh()),
    "masked fill": lambda m, x: x.masked_fill(m.vector > 0, 0.25),
    "glu": lambda m, x: F.glu(x),
    "threshold": lambda m, x: F.threshold(x, 0.3, 0.0),
    "softmax": lambda m, x: F.log_softmax(x, 1) + x.softmax(-1),
    "top values": lambda m, x: x.topk(3, 1).values + x.topk(3, 1, largest=False).values,
    "top mask": lambda m, x: x * (x >= x.topk(2).values[..., -1:]) + x * (x.topk(3).values[..., 2:] > x),
    "comparison": lambda m, x: torch.where(x > m.vector, x, 2 * x) + torch.where(x <= x.mT[:, :5, :1], x, 0.5),
    "one hot": lambda m, x: (F.one_hot(x.topk(2).indices, 8) * x.topk(2).values.unsqueeze(-1)).sum(-2),
    "scatter": lambda m, x: torch.zeros_like(x).scatter(-1, x.topk(2).indices, x.topk(2).values.softmax(-1)),
    "scatter value": lambda m, x: x * torch.zeros_like(x).scatter(-1, x.topk(2).indices, 1.0),
    "attention": lambda m, x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True),
    "attention three": lambda m, x: F.scaled_dot_product_attention(x, x, x, scale=0.2),
    "attention masked": lambda m, x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], m.column.mT),
    "weight standardised": lambda m, x: F.linear(x, (m.square - m.square.mean(1, keepdim=True)) / m.square.std()),
    "rotary": lambda m, x: x * torch.outer(torch.arange(5.0), m.vector).cos(),
    "group norm": lambda m, x: F.group_norm(x.mT, 2),
    "noise free": lambda m, x: x * torch.zeros_like(x) + x.new_ones(8),
    "cast": lambda m, x: x.double().float().to(x.device).type_as(m.vector),
    "no grad": lambda m, x: x + _without_grad(x),
    **{
        name: (lambda function: lambda m, x: function(x))(getattr(F, name))
        for name in ("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "tanh",
                     "hardsigmoid", "hardtanh", "sigmoid", "softplus", "softsign", "logsigmoid", "tanhshrink")
    },
}  # fmt: skip


def _written(x: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    y = x * 1.5
    write(y)
    return y


def _without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.relu()


def _agrees(module: nn.Module, shape: tuple[int, ...]) -> Graph:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    graph = read_module(module, (x,), name="case")
    assert not [node.source_op for node in graph.gradient_nodes if node.op == UNMODELLED]
    for node in graph.nodes:
        signature = VOCABULARY[node.op]
        assert set(node.attributes) <= set(signature.attributes), node.op
        assert {name for name, value in signature.attributes.items() if value is ...} <= set(node.attributes), node.op
        assert set(node.parameters) <= set(signature.parameters), node.op
    with torch.no_grad():
        expected = module(x)
        (found,) = outputs(graph, (x,))
    assert graph.values[graph.outputs[0]].shape == tuple(expected.shape)
    torch.testing.assert_close(found.to(expected.dtype), expected, rtol=2e-5, atol=2e-5)
    return graph


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    module, shape = MODULES[name]
    _agrees(module, shape)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    _agrees(Function(FUNCTIONS[name]), TOKENS)


LOWERED = {
    "twice": ["scale"],
    "square": ["pow"],
    "one minus": ["scale", "bias"],
    "difference": ["relu", "tanh", "sub"],
    "matmul right": ["linear"],
    "addmm": ["slice", "reshape", "linear"],
    "class token": ["constant", "expand", "concat"],
    "bias table": ["slice", "bias"],
    "weight standardised": ["linear"],
    "rotary": ["scale"],
    "noise free": ["scale", "bias"],
}


@pytest.mark.parametrize("name", LOWERED)
def test_what_it_becomes(name: str) -> None:
    graph = read_module(Function(FUNCTIONS[name]), (torch.zeros(TOKENS),), name=name)
    assert [node.op for node in graph.nodes] == LOWERED[name]


def test_folded_parameters_say_how_they_were_made() -> None:
    def transform(name: str) -> str | None:
        graph = read_module(Function(FUNCTIONS[name]), (torch.zeros(TOKENS),), name=name)
        return next(parameter.transform for parameter in graph.parameters())

    assert transform("weight standardised") == "weight_standardization"
    assert transform("bias table") == "computed"
    assert transform("addmm") is None


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (lambda x: F.dropout(x, 0.25), 0.75),
        (lambda x: F.dropout2d(x[..., None], 0.25), 0.75),
        (lambda x: x * torch.empty_like(x).bernoulli_(0.75).div_(0.75), 0.75),
        (lambda x: x * ((torch.rand_like(x) + 0.75).floor_() / 0.75), 0.75),
        (lambda x: x * ((torch.rand_like(x) < 0.75) / 0.75), 0.75),
        (lambda x: x * ((torch.rand_like(x) > 0.25) * (4 / 3)), 0.75),
        (lambda x: x * torch.bernoulli(torch.full(x.shape, 0.75)).div(0.75), 0.75),
    ],
)
def test_random_masks_are_dropout(function: Callable[[Tensor], Tensor], kept: float) -> None:
    graph = read_module(Function(lambda m, x: function(x)), (torch.zeros(TOKENS),), name="mask")
    (node,) = [node for node in graph.nodes if node.op not in ("reshape",)]
    assert node.op == "dropout"
    assert node.attribute("p") == pytest.approx(1 - kept)


@pytest.mark.parametrize(
    ("function", "kept", "factor", "alike"),
    [
        (lambda x: x * torch.empty_like(x).bernoulli_(0.75), 0.75, 1.0, ()),
        (lambda x: x * (torch.rand(2, 1, 1) + 0.75).floor_(), 0.75, 1.0, (1, 2)),
        (lambda x: x * (torch.rand(5, 1) < 0.75), 0.75, 1.0, (2,)),
        (lambda x: x * (3.0 - 3.0 * (torch.rand(2, 1, 1) < 0.75).float()), 0.25, 3.0, (1, 2)),
        (lambda x: x.div(0.75) * (torch.rand(2, 1, 1) > 0.25), 0.75, 1 / 0.75, (1, 2)),
        (lambda x: x * x.new_empty(2, 1, 1).bernoulli_(0.75).div_(0.75), 0.75, 1 / 0.75, (1, 2)),
        (lambda x: x * ((torch.rand(2, 1, 1) > 0.25) * (4 / 3)), 0.75, 1 / 0.75, (1, 2)),
        (lambda x: x * torch.bernoulli(torch.full((2, 1, 8), 0.75)).div(0.75), 0.75, 1 / 0.75, (1,)),
        (lambda x: (lambda m: x * m + (1 - m))(torch.empty_like(x).bernoulli_(0.5)), 0.5, 1.0, ()),
    ],
)
def test_masks_that_are_not_1_on_average_or_one_number_for_many_are_not_neutral(
    function: Callable[[Tensor], Tensor], kept: float, factor: float, alike: tuple[int, ...]
) -> None:
    """The gradient's squared norm is that of autograd, averaged over draws of the mask."""
    graph = read_module(Function(lambda m, x: function(x)), (torch.zeros(TOKENS),), name="mask")
    (node,) = [node for node in graph.nodes if node.op == "dropout"]
    assert (node.attribute("p"), node.attribute("inverted"), node.attribute("alike")) == (
        pytest.approx(1 - kept), False, alike
    )  # fmt: skip
    scales = [node.attribute("factor") for node in graph.nodes if node.op == "scale"]
    assert math.prod(scales) == pytest.approx(factor)
    predicted = analyse(graph).gradient_log2
    assert predicted is not None
    assert 2**predicted == pytest.approx(kept * factor**2)
    torch.manual_seed(0)
    x = torch.randn(TOKENS, dtype=torch.float64, requires_grad=True)
    norms = [float(torch.autograd.grad(function(x).sum(), x)[0].square().mean()) for _ in range(4000)]
    error = float(torch.tensor(norms).std()) / math.sqrt(len(norms))
    assert statistics.mean(norms) == pytest.approx(2**predicted, abs=4 * error)


@pytest.mark.parametrize("function", [F.alpha_dropout, F.feature_alpha_dropout])
def test_alpha_dropout_is_neutral(function: Callable[..., Tensor]) -> None:
    graph = read_module(Function(lambda m, x: function(x, 0.25, True)), (torch.zeros(TOKENS),), name="mask")
    assert [node.op for node in graph.nodes] == ["dropout", "identity"]
    assert graph.nodes[0].attribute("inverted")
    assert graph.nodes[0].attribute("alpha")


def test_a_drawn_mask_that_is_added_is_not_dropout() -> None:
    graph = read_module(
        Function(lambda m, x: x + torch.empty_like(x).bernoulli_(0.5)), (torch.zeros(TOKENS),), name="noise"
    )
    assert [node.op for node in graph.nodes] == ["bias"]


def test_an_operation_outside_the_vocabulary_is_named() -> None:
    graph = read_module(Function(lambda m, x: torch.linalg.qr(x).Q.relu()), (torch.zeros(TOKENS),), name="qr")
    (node,) = [node for node in graph.nodes if node.op == UNMODELLED]
    assert node.source_op == "aten.linalg_qr.default"
    assert node in graph.gradient_nodes


def test_every_listed_operation_has_a_lowering_or_carries_no_gradient() -> None:
    listed = Path(__file__).parents[4] / "shared" / "torch_ops.csv"
    if not listed.exists():
        pytest.skip("the list of operations lies beside the checkout, not in it")
    with listed.open() as file:
        names = {row["op"].split(".")[1] for row in csv.DictReader(file)}
    made_or_checked = {"getitem", "bernoulli", "new_empty", "empty_like", "arange", "zeros", "_assert_tensor_metadata"}
    assert names - set(LOWERINGS) - made_or_checked == set()


ROUTERS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "below the least": lambda m, x: x.masked_fill(x < x.topk(2).values[..., -1:], float("-inf")).softmax(-1),
    "least on the left": lambda m, x: torch.where(x.topk(2, 1).values[:, 1:] <= x, x, -1e9).softmax(1),
    "least by minimum": lambda m, x: torch.where(x >= x.topk(2).values.amin(-1, keepdim=True), x, -1e9).softmax(-1),
    "scattered": lambda m, x: _scattered(x).softmax(-1),
}


GATES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "masked": lambda m, x: (lambda p: p * (p >= p.topk(2).values[..., -1:]).to(p.dtype))(x.softmax(-1)),
    "masked by logits": lambda m, x: x.softmax(-1) * torch.zeros_like(x).scatter(-1, x.topk(2).indices, 1.0),
    "scattered": lambda m, x: (lambda p, top: torch.zeros_like(x).scatter(-1, top.indices, top.values))(
        *(lambda p: (p, p.topk(2)))(x.softmax(-1))
    ),
}


@pytest.mark.parametrize("form", GATES.values(), ids=GATES)
@pytest.mark.parametrize("renormalised", [False, True])
def test_gates_of_the_largest_are_one_node(form: Callable[[nn.Module, Tensor], Tensor], renormalised: bool) -> None:
    def gates(m: nn.Module, x: Tensor) -> Tensor:
        kept = form(m, x)
        return kept / kept.sum(-1, keepdim=True) if renormalised else kept

    graph = _agrees(Function(gates), TOKENS)
    found = [(node.op, node.attribute("top"), node.attribute("renormalised")) for node in graph.nodes]
    assert found == [("softmax", 2, renormalised)]


def _scattered(x: Tensor) -> Tensor:
    values, places = x.topk(2)
    return torch.full_like(x, float("-inf")).scatter(-1, places, values)


@pytest.mark.parametrize("form", ROUTERS.values(), ids=ROUTERS)
def test_a_softmax_over_the_largest_is_one_node(form: Callable[[nn.Module, Tensor], Tensor]) -> None:
    graph = _agrees(Function(form), TOKENS)
    assert [(node.op, node.attribute("top")) for node in graph.nodes] == [("softmax", 2)]


def test_a_softmax_behind_another_choice_is_left_alone() -> None:
    def form(m: nn.Module, x: Tensor) -> Tensor:
        return x.masked_fill(x <= x.topk(2).values[..., -1:], -1e9).softmax(-1)

    graph = _agrees(Function(form), TOKENS)
    assert [node.attribute("top") for node in graph.nodes if node.op == "softmax"] == [None]


SEEN = torch.ones(5, 8, dtype=torch.bool).tril(2)
HIDING: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "filled": lambda m, x: (x.tanh() * 3).masked_fill(~SEEN, float("-inf")).softmax(-1),
    "chosen": lambda m, x: torch.where(SEEN, x.tanh(), -1e9).softmax(-1),
    "added": lambda m, x: (x.tanh() + torch.zeros(5, 8).masked_fill(~SEEN, float("-inf"))).softmax(-1),
}


@pytest.mark.parametrize("form", HIDING.values(), ids=HIDING)
def test_a_constant_mask_is_a_softmax_s_own(form: Callable[[nn.Module, Tensor], Tensor]) -> None:
    graph = _agrees(Function(form), TOKENS)
    softmax = graph.nodes[-1]
    assert (softmax.op, set(softmax.parameters)) == ("softmax", {"mask"})
    assert not {"where", "bias", "constant"} & {node.op for node in graph.nodes}
    assert analyse(graph).coverage == 1.0


@pytest.mark.parametrize(
    "form",
    [
        lambda m, x: torch.where(SEEN, x.tanh(), -2.0).softmax(-1),  # hides nothing
        lambda m, x: torch.where(x > 0, x.tanh(), -1e9).softmax(-1),  # not known before it runs
        lambda m, x: (x.tanh() + torch.where(SEEN, 0.5, -1e9)).softmax(-1),
    ],
)
def test_other_masks_stay_in_front_of_the_softmax(form: Callable[[nn.Module, Tensor], Tensor]) -> None:
    graph = _agrees(Function(form), TOKENS)
    assert [set(node.parameters) for node in graph.nodes if node.op == "softmax"] == [set()]


def test_a_projected_hidden_state_is_not_modelled() -> None:
    graph = read_module(First(nn.LSTM(8, 6, proj_size=3)), (torch.zeros(TOKENS),), name="case")
    assert [node.source_op for node in graph.nodes if node.op == UNMODELLED] == ["aten.lstm.input"]


def test_packed_sequences_are_not_modelled() -> None:
    """No module with one can be traced; a program may still hold one."""
    node = fx.Graph().placeholder("packed")
    with pytest.raises(CannotLowerError, match="packed"):
        LOWERINGS["gru"](Emitter(), Call(node, {"data": None, "batch_sizes": None}, ()))


def test_a_stack_of_recurrent_layers_is_a_node_for_each_layer_and_direction() -> None:
    module = nn.LSTM(8, 6, 2, bidirectional=True, dropout=0.5)
    graph = read_module(First(module), (torch.zeros(TOKENS),), name="case", training=True)
    assert [node.op for node in graph.nodes] == [
        "transpose", "lstm", "lstm", "concat", "dropout", "lstm", "lstm", "concat", "transpose"
    ]  # fmt: skip
    layers = [node for node in graph.nodes if node.op == "lstm"]
    assert [node.attribute("reverse") for node in layers] == [False, True, False, True]
    assert [node.parameters["weight"].name for node in layers] == [
        "layer.weight_ih_l0", "layer.weight_ih_l0_reverse", "layer.weight_ih_l1", "layer.weight_ih_l1_reverse"
    ]  # fmt: skip
    assert all(len(node.outputs) == 1 for node in layers)
