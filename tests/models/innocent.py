"""Small networks of designs that a rule must not blame, with what would be wrong about them as an argument."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.common import linear


class ScaledSum(nn.Module):
    """scale * (x + branch(x))."""

    def __init__(self, width: int, scale: float, gain: float) -> None:
        super().__init__()
        self.first, self.last, self.scale = linear(width, width), linear(width, width, "lecun", gain), scale

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.last(functional.relu(self.first(x)))) * self.scale


def scaled_sums(*, depth: int = 16, width: int = 64, scale: float = 0.5**0.5, gain: float = 1.0) -> nn.Sequential:
    """Residual MLP blocks whose sum is divided by sqrt(2); `gain` is a factor on the last layer of each branch."""
    return nn.Sequential(*(ScaledSum(width, scale, gain) for _ in range(depth)), linear(width, 10, "lecun"))


class GraphNetwork(nn.Module):
    """Layers on the features of nodes, each followed by a mean over the neighbours: relu(A linear(x))."""

    def __init__(self, depth: int, nodes: int, width: int) -> None:
        super().__init__()
        edges = (torch.rand(nodes, nodes) < 0.3).float()
        neighbours = ((edges + edges.T + torch.eye(nodes)) > 0).float()
        self.register_buffer("adjacency", neighbours / neighbours.sum(1, keepdim=True))
        self.layers = nn.ModuleList(linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = functional.relu(self.get_buffer("adjacency") @ layer(x))
        return x


def graph_network(*, depth: int = 4, nodes: int = 24, width: int = 16) -> GraphNetwork:
    """A graph network whose adjacency matrix, all positive, is no layer that one could draw otherwise."""
    return GraphNetwork(depth, nodes, width)


class MaskedAttention(nn.Module):
    """Attention of one head, spelled out, with constants beside its logits."""

    def __init__(self, tokens: int, width: int, mask: str, scale: float) -> None:
        super().__init__()
        self.project = nn.ModuleList(linear(width, width, "lecun") for _ in range(3))
        self.kind, self.scale = mask, scale
        self.sink, self.offset = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.linspace(-20, 20, tokens)[:, None])
        self.register_buffer("mask", torch.where(torch.ones(tokens, tokens).tril() > 0, 0.0, -100.0))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x) for layer in self.project)
        logits = query @ key.transpose(-1, -2) * self.scale
        if self.kind == "offset":  # the same for all keys of a query
            return (logits + self.offset).softmax(-1) @ value
        logits = logits + self.get_buffer("mask")
        if self.kind == "sink":
            logits = torch.cat([logits, self.sink.expand(*logits.shape[:-1], 1)], -1)
        return logits.softmax(-1)[..., : x.shape[1]] @ value


def masked_attention(
    *, tokens: int = 32, width: int = 64, mask: str = "added", scale: float = 64**-0.5
) -> MaskedAttention:
    """Causal attention: a mask of -100 that is "added", that and a "sink", or an "offset" for each query instead."""
    return MaskedAttention(tokens, width, mask, scale)


class SpectralConv(nn.Module):
    """A strided convolution with kernel W / (u^T W v), u and v from one step of a power iteration."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 4, 4) * (inputs * 16) ** -0.5)
        self.register_buffer("start", torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        right = functional.normalize(matrix.t() @ self.get_buffer("start"), dim=0)
        left = functional.normalize(matrix @ right, dim=0)
        return functional.conv2d(x, self.weight / (left @ matrix @ right), stride=2, padding=1)


def spectral_discriminator(*, channels: int = 16) -> nn.Sequential:
    """Convolutions under spectral normalisation and a head (SNGAN): the stored scale does nothing."""
    widths = (3, channels, 2 * channels, 4 * channels)
    layers = [module for pair in pairwise(widths) for module in (SpectralConv(*pair), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers, nn.Flatten(), linear(16 * channels, 1, "lecun"))


def trained_units(*, width: int = 64, shift: float = -2.0) -> nn.Sequential:
    """Two layers as training leaves them, heavy-tailed; `shift` is added to the biases behind a tanh.

    At -2 most inputs leave the units of the second layer at zero, but others do not; -20 is beyond what they can reach.
    """
    layers = [nn.Linear(width, width), nn.Linear(width, width)]
    for layer in layers:
        spikes = torch.where(torch.rand_like(layer.weight) < 0.05, 8.0, 0.5)
        layer.weight.data = layer.weight.data * spikes
        layer.bias.data = 0.3 * torch.randn(width)
    layers[1].bias.data += shift
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.ReLU(), linear(width, 10, "lecun"))


class ConvLSTM(nn.Module):
    """A convolutional LSTM, unrolled: gates, and a state that goes around them."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.read, self.recur = (nn.Conv2d(size, 4 * channels, 3, padding=1) for size in (inputs, channels))
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        hidden = carry = torch.zeros(len(x), self.channels, *x.shape[-2:])
        for step in range(x.shape[1]):
            add, keep, show, new = (self.read(x[:, step]) + self.recur(hidden)).chunk(4, 1)
            carry = keep.sigmoid() * carry + add.sigmoid() * new.tanh()
            hidden = show.sigmoid() * carry.tanh()
        return hidden


def conv_lstm(*, channels: int = 8) -> nn.Sequential:
    """A convolutional LSTM over the frames of a film, and a head."""
    return nn.Sequential(ConvLSTM(3, channels), nn.Conv2d(channels, 1, 1))


class LinearBranches(nn.Module):
    """BatchNorm(x + BatchNorm(depthwise(x))): a linear map of three parts (RepViT)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.inner, self.norm = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.inner(self.conv(x)))


def linear_branches(*, depth: int = 8, channels: int = 16) -> nn.Sequential:
    """Blocks whose branches hold no activation."""
    return nn.Sequential(*(LinearBranches(channels) for _ in range(depth)))


class DecayedSolve(nn.Module):
    """A gated delta rule in one chunk: keys that decay channel by channel, and a triangular system solved by rows."""

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.beta, self.decay, self.steps = nn.Linear(width, 1), nn.Linear(width, width), steps

    def forward(self, x: Tensor) -> Tensor:
        key = functional.normalize(self.key(x), dim=-1)
        beta, total = self.beta(x).sigmoid(), (-4.0 * functional.softplus(self.decay(x))).cumsum(1)
        ahead = torch.triu(torch.ones(self.steps, self.steps, dtype=torch.bool), 1)
        decay = (total[:, :, None] - total[:, None]).masked_fill(ahead[..., None], float("-inf")).exp()
        rows = -((key * beta)[:, :, None] * key[:, None] * decay).sum(-1)
        rows = rows.masked_fill(torch.eye(self.steps, dtype=torch.bool) | ahead, 0.0)
        for row in range(1, self.steps):
            own, above = rows[:, row, :row].clone(), rows[:, :row, :row].clone()
            rows[:, row, :row] = own + (own[..., None] * above).sum(-2)
        return self.out((rows + torch.eye(self.steps)) @ (self.value(x) * beta))


def decayed_solve(*, steps: int = 16) -> nn.Module:
    """What is predicted of exp(sum of decays) is carried by numbers that no draw holds; all outputs are of size 1."""
    return DecayedSolve(32, steps)


class BranchFirst(nn.Module):
    """Tokens are added to what a small branch makes of them, and not the other way round (XLNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.branch = nn.Embedding(64, 32), nn.Linear(32, 32, bias=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 64)
        for weight in (self.table.weight, self.branch.weight):
            nn.init.normal_(weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return self.head(self.norm(self.branch(x) + x))


def branch_first() -> nn.Module:
    """The first operand of the sum is not what the tokens are."""
    return BranchFirst()


class ResNetConvLayer(nn.Module):
    """A convolution of a residual network, called after the network (transformers)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.normalization, self.activation = nn.BatchNorm2d(channels), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.activation(self.normalization(self.convolution(x))))


class ResNetBasicLayer(nn.Module):
    """Two of them and the addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(ResNetConvLayer(channels), ResNetConvLayer(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x) + x)


def named_layers() -> nn.Module:
    """Parts of residual blocks are called after residual networks."""
    return nn.Sequential(nn.Conv2d(3, 16, 3), *(ResNetBasicLayer(16) for _ in range(2)), nn.Conv2d(16, 4, 1))


class EmptySum(nn.Module):
    """A running average in logarithms, whose largest exponent is -1e38 before anything was seen (RWKV)."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        key, value = self.key(x), self.value(x)
        above, below, most = torch.zeros_like(key[:, 0]), torch.zeros_like(key[:, 0]), torch.full_like(key[:, 0], -1e38)
        for step in range(x.shape[1]):
            largest = torch.maximum(most, key[:, step])
            before, now = (most - largest).exp(), (key[:, step] - largest).exp()
            above, below, most = before * above + now * value[:, step], before * below + now, largest
        return self.out(above / below)


def empty_sum() -> nn.Module:
    """Of nothing the exponential is zero on purpose."""
    return EmptySum()


class Windows(nn.Module):
    """An image in two windows, a class token before each: cut off, repeated for all windows and put back (RF-DETR)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(8, 16), nn.Linear(16, 4)
        self.first, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(13, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), self.enter(x)], 1) + self.places
        first, rest = x[:, :1], x[:, 1:]
        windows = rest.reshape(-1, 6, 16)
        return self.out(torch.cat([first.repeat(2, 1, 1), windows], 1).tanh().mean(1).view(-1, 2, 16).mean(1))


def windowed_image() -> nn.Module:
    """The class token is the same for all samples, in whatever order it is repeated."""
    return Windows()


class Edged(nn.Module):
    """All positions of all samples as rows, with a constant beside each (the ends of VITS's splines)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(8, 16), nn.Linear(17, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.enter(x).flatten(0, 1).tanh()
        return self.out(torch.cat([rows.new_ones(1, 1).expand(rows.shape[0], 1), rows], 1))


def edged_rows() -> nn.Module:
    """What stands beside the rows is no copy of any sample."""
    return Edged()


class PaddedOffsets(nn.Module):
    """Scores against the codes of a few offsets; those of all others are zeros (VITS)."""

    def __init__(self, width: int, offsets: int, length: int) -> None:
        super().__init__()
        self.query, self.value, self.pad = (
            nn.Linear(width, width),
            nn.Linear(2 * length - 1, width),
            length - offsets - 1,
        )
        self.codes = nn.Parameter(torch.randn(2 * offsets + 1, width) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        codes = functional.pad(self.codes, (0, 0, self.pad, self.pad))
        found: Tensor = self.value(torch.softmax(self.query(x) @ codes.T, -1))
        return found


def padded_offsets() -> nn.Module:
    """Attention to offsets of which most are out of reach."""
    return PaddedOffsets(16, 3, 12)


class SoftHistogram(nn.Module):
    """Features put softly into bins: shares that fall with the squared distance to the bins' centres."""

    def __init__(self, width: int, bins: int, sharpness: float) -> None:
        super().__init__()
        self.enter, self.leave = linear(width, width, "lecun"), linear(width * bins, 5, "lecun")
        self.register_buffer("centres", torch.linspace(-2.0, 2.0, bins))
        self.sharpness = sharpness * ((bins - 1) / 4.0) ** 2

    def forward(self, x: Tensor) -> Tensor:
        apart = (self.enter(x)[..., None] - self.get_buffer("centres")).square()
        return self.leave((-self.sharpness * apart).softmax(-1).flatten(1))


def soft_histogram(*, width: int = 16, bins: int = 16, sharpness: float = 1.0) -> SoftHistogram:
    """A number between two centres belongs to both, though most bins are far from it; not with sharpness 20."""
    return SoftHistogram(width, bins, sharpness)


class ResponseNorms(nn.Module):
    """Convolutions with local response normalisation between them."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.head = nn.LocalResponseNorm(5, alpha, k=2.0), nn.Linear(16, 4)
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(functional.relu(self.first(x)))
        return self.head(functional.relu(self.second(x)).mean((2, 3)))


def response_norms(*, alpha: float = 1e-4) -> nn.Module:
    """Fixed numbers scale the squares that are averaged, down to next to nothing beside what is added to them."""
    return ResponseNorms(alpha)


class NestedSums(nn.Module):
    """Residual blocks inside of residual groups inside of one shortcut over all of them."""

    def __init__(self, scale: float, groups: int) -> None:
        super().__init__()
        self.stem = self.normed(3, 1.0)
        self.groups = nn.ModuleList(
            nn.ModuleList(nn.Sequential(self.normed(16, 1.0), nn.ReLU(), self.normed(16, scale)) for _ in range(3))
            for _ in range(groups)
        )
        self.head = nn.Linear(16, 4)

    @staticmethod
    def normed(channels: int, scale: float) -> nn.Sequential:
        found = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        nn.init.constant_(found[1].weight, scale)
        return found

    def forward(self, x: Tensor) -> Tensor:
        whole = x = self.stem(x)
        for group in self.groups:
            entry = x
            for block in group:  # type: ignore[attr-defined]
                x = functional.relu(x + block(x))
            x = functional.relu(x + entry)
        return self.head(functional.relu(x + whole).mean((2, 3)))


def nested_sums(*, scale: float = 1.0, groups: int = 3) -> nn.Module:
    """Shortcuts over three blocks each, and one over all; `scale` is that at the end of each branch."""
    return NestedSums(scale, groups)


class ResBlock(nn.Module):
    """A residual block's body, which the module that holds it adds to something else."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = linear(width, width), linear(width, width, "lecun", 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(self.first(x)))


class ReversibleHalves(nn.Module):
    """y1 = x1 + f(x2), y2 = x2 + g(y1), of the halves of the features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f, self.g = ResBlock(width // 2), ResBlock(width // 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        left = left + self.f(right)
        return torch.cat([left, right + self.g(left)], -1)


def reversible_halves(*, depth: int = 3, width: int = 32) -> nn.Sequential:
    """Reversible blocks: each half gets what the other's body says."""
    return nn.Sequential(*(ReversibleHalves(width) for _ in range(depth)), linear(width, 10, "lecun"))


class MaskedPooling(nn.Module):
    """Steps pooled by attention, with a mask of lengths for each sample; here all are of one length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.scores, self.head = nn.Conv1d(width, width, 1), nn.Conv1d(width, 1, 1), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((x.shape[0], 1), x.shape[2])
        mask = (torch.arange(x.shape[2]) < lengths).float()[:, None]
        hidden = torch.tanh(self.inner(x))
        hidden = hidden - (mask / mask.sum(2, keepdim=True) * hidden).sum(2, keepdim=True)
        return self.head((torch.softmax(self.scores(hidden), 2) * hidden).sum(2))


def masked_pooling(*, width: int = 32) -> MaskedPooling:
    """A mask with a row for each sample of the batch, which says the same for all of them."""
    return MaskedPooling(width)


class SplineUnits(nn.Module):
    """Each input held against knots that all of them share, as hat functions, and a layer on all of these."""

    def __init__(self, width: int, knots: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-2, 2, knots).expand(width, knots).contiguous())
        self.mix, self.head = linear(width * knots, width, "lecun"), linear(width, 10, "lecun")

    def forward(self, x: Tensor) -> Tensor:
        hats = functional.relu(1.0 - (x[..., None] - self.get_buffer("knots")).abs())
        return self.head(functional.relu(self.mix(hats.flatten(1))))


def spline_units(*, width: int = 12, knots: int = 7) -> SplineUnits:
    """Equal rows of knots, which are no codes of positions."""
    return SplineUnits(width, knots)


class ComplexSum(nn.Module):
    """z + z.real of the complex values z of a Fourier transform: only its real half is doubled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.head = linear(width, width), linear(width, 10, "lecun")

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft(self.first(x), norm="ortho")
        return self.head((spectrum + spectrum.real).abs())


def complex_sum(*, width: int = 32) -> ComplexSum:
    """A sum of complex values with their real part."""
    return ComplexSum(width)


class CountedWords(nn.Module):
    """The mean of a text's words, of those that are no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(32, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        shown = (x != 0).float()
        return self.head((self.words(x) * shown[..., None]).sum(1) / shown.sum(1, keepdim=True))


def counted_words() -> nn.Module:
    """Divides by a count that is zero for a text without words alone."""
    return CountedWords()


class PooledTwice(nn.Module):
    """A cell that adds the average over a window twice, as a search for architectures found it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        return self.head((self.left(x) + self.right(x)).mean((2, 3)))


def pooled_twice() -> nn.Module:
    """As the cells of NASNet."""
    return PooledTwice()


class FieldScores(nn.Module):
    """For each field how well two of its vectors agree, and a layer on all of these."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.left(x) * self.right(x)).sum(-1))


def field_scores() -> nn.Module:
    """Products of vectors are summed over their features, and the head takes positions."""
    return FieldScores()


class Widened(nn.Module):
    """A residual block whose shortcut has a layer, a norm and an activation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)
        )
        self.shortcut = nn.Sequential(nn.Conv2d(4, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 3)
        nn.init.zeros_(self.branch[4].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.branch(x) + self.shortcut(x)).relu().mean((2, 3)))


def widened_shortcut() -> nn.Module:
    """The branch starts at zero beside a shortcut that bends."""
    return Widened()


class Factors(nn.Module):
    """Scores of pairs of features, and of each alone (a factorisation machine)."""

    def __init__(self) -> None:
        super().__init__()
        self.factors, self.alone = nn.Parameter(torch.randn(16, 8) / 2), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        pairs = (x @ self.factors).pow(2) - x.pow(2) @ self.factors.pow(2)
        return 0.5 * pairs.sum(1, keepdim=True) + self.alone(x)


def factor_scores() -> nn.Module:
    """Two heads are added, no branch to a shortcut."""
    return Factors()
