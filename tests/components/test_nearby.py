"""What an interpolation makes alike is summed by the next one: against autograd, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gnelint.analysis.propagation import analyse
from gnelint.components.attention import Softmax
from gnelint.ir.graph import Node
from gnelint.readers.torch.reader import trace_module
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.nearby import Nearby, same_along
from tests.components.harness import make

CHANNELS, SAMPLES, DRAWS = 24, 8, 4
SCALES = [(1.5, "bilinear"), (2, "bilinear"), (2, "bicubic"), (4, "bilinear")]


class Decoder(nn.Module):
    """Interpolations in a row, with rectified convolutions behind each or not."""

    def __init__(self, scale: float, count: int, mode: str, *, convolved: bool) -> None:
        super().__init__()
        self.scale, self.count, self.mode = scale, count, mode
        widths = range(count if convolved else 0)
        self.convolutions = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in widths)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.count):
            x = F.interpolate(x, scale_factor=self.scale, mode=self.mode)
            if self.convolutions:
                x = F.relu(self.convolutions[i](x))
        return x


class Candidates(nn.Module):
    """A vector of each position is copied for each of its candidates, and what is made of them is averaged: copies
    share along one axis only, and so does the average's gradient."""

    def __init__(self, operation: str, count: int, *, rectified: bool) -> None:
        super().__init__()
        self.operation, self.count, self.rectified = operation, count, rectified
        self.first, self.inner, self.last = (nn.Linear(CHANNELS, CHANNELS) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).unsqueeze(2).expand(-1, -1, self.count, -1)
        y = self.inner(y if not self.rectified else F.relu(y + self.last(y)))
        return self.last(y.sum(2) if self.operation == "sum" else y.mean(2))


class Pairs(nn.Module):
    """Sums of what two positions have, averaged over one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.inner, self.last = (nn.Linear(CHANNELS, CHANNELS) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.left(x).unsqueeze(2) + self.right(x).unsqueeze(1)
        return self.last(self.inner(F.relu(pairs)).mean(2))


def measured(module: nn.Module, shape: tuple[int, ...]) -> float:
    """log2 of the gradient's squared norm at the input, relative to the cotangent's, averaged over draws."""
    energies = []
    for _ in range(DRAWS):
        x = torch.randn(shape, dtype=torch.float64).requires_grad_()
        y = module(x)
        (gradient,) = torch.autograd.grad(y, x, cotangent := torch.randn_like(y))
        energies.append(float(gradient.square().sum() / cotangent.square().sum()))
    return math.log2(sum(energies) / len(energies))


@pytest.mark.parametrize("convolved", [False, True])
@pytest.mark.parametrize(
    ("scale", "mode", "count"),
    [(scale, mode, count) for scale, mode in SCALES for count in (1, 2, 3) if scale**count <= 16],
)
def test_interpolations_behind_each_other(scale: float, mode: str, count: int, convolved: bool) -> None:
    """Each one behind another lost 0.8 to 1.1 bits where neighbours were taken as independent."""
    torch.manual_seed(0)
    module = Decoder(scale, count, mode, convolved=convolved).double()
    size = {1.5: 8, 2: 6, 4: 4}[scale]
    shape = (SAMPLES, CHANNELS, size, size)
    prediction = analyse(trace_module(module, (torch.randn(shape, dtype=torch.float64),), name="decoder").graph)
    assert prediction.gradient_log2 == pytest.approx(measured(module, shape), abs=0.3 if convolved else 0.12)


def test_sums_along_one_axis() -> None:
    """By the matrix itself: W C W' of neighbours that are half alike, averaged over the sums."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 4))
    near = Nearby((2,), np.array([1.0, 0.5]))
    found, gain = near.mixed(2, weights)
    distance = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    exact = weights.T @ np.where(distance == 0, 1.0, np.where(distance == 1, 0.5, 0.0)) @ weights
    assert gain == pytest.approx(float(np.trace(exact)) / float((weights**2).sum()))
    here = float(np.trace(exact)) / 4
    assert found.on((4,), (2,)) == pytest.approx([float(np.diag(exact, d).mean()) / here for d in range(4)])


def test_steps_and_axes() -> None:
    lags = np.array([[1.0, 0.4], [0.5, 0.2], [0.1, 0.05]])
    near = Nearby((2, 3), lags)
    assert near.apart((2, 1)).every((2, 1)).lags == pytest.approx(lags)
    assert near.every((2, 2)).on((2, 1), (2, 3)) == pytest.approx(np.array([[1.0], [0.1]]))
    turned = near.moved({2: 3, 3: 1}.get)
    assert (turned.axes, turned.lags.tolist()) == ((1, 3), lags.T.tolist())
    assert near.moved({2: 1}.get).lags == pytest.approx([1.0, 0.5, 0.1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Candidates("sum", 4, rectified=False),
        lambda: Candidates("mean", 8, rectified=True),
        Pairs,
    ],
    ids=["copies summed", "copies rectified and averaged", "pairs averaged"],
)
def test_copies_along_one_axis(make: Callable[[], nn.Module]) -> None:
    """What is the same along one of several axes was taken as independent there: 2 bits too little for 4 copies."""
    torch.manual_seed(0)
    module = make().double()
    shape = (SAMPLES, 12, CHANNELS)
    prediction = analyse(trace_module(module, (torch.randn(shape, dtype=torch.float64),), name="copies").graph)
    assert prediction.gradient_log2 == pytest.approx(measured(module, shape), abs=0.45)


@pytest.mark.parametrize("axis", ["channels", "features"])
def test_a_vector_beside_each_position_is_shared_by_all(axis: str) -> None:
    """An embedding of the time laid beside a signal: what a layer makes of it all positions have in common."""
    shape = (2, 24, 40) if axis == "channels" else (2, 40, 24)
    last = 2 if axis == "channels" else 1
    copied = Moments.uniform(tuple(1 if i == last else n for i, n in enumerate(shape)), 0.0, 1.0).broadcast(shape)
    weight = np.random.default_rng(0).standard_normal((16, 24)) / 24**0.5
    attributes = {"strides": (1,), "pads": (0, 0), "dilations": (1,)} if axis == "channels" else {}
    kernel = weight[:, :, None] if axis == "channels" else weight
    out = tuple(16 if n == 24 else n for n in shape)
    op = "conv" if axis == "channels" else "linear"
    (y,) = make(op, [shape], [out], {"weight": kernel}, **attributes).forward([copied])
    assert y.position_covariance == pytest.approx(y.variance, rel=1e-3)
    assert not y.nearby


def test_beside_what_differs_it_is_shared_by_its_share_of_the_energy() -> None:
    """12 features of variance 1/4 that differ from position to position, 32 of variance 1 that do not, told in one cell
    or in one for each feature, which know of it themselves."""
    own = Moments.uniform((2, 40, 12), 0.0, 0.25)
    vector = Moments.uniform((2, 1, 32), 0.0, 1.0)
    weight = np.random.default_rng(0).standard_normal((16, 44)) / 44**0.5
    for told in (vector, vector.refined((Axis(2), Axis(1), Axis.full(32)))):
        parts = [own, told.broadcast((2, 40, 32))]
        (x,) = make("concat", [(2, 40, 12), (2, 40, 32)], [(2, 40, 44)], {}, axis=2).forward(parts)
        (y,) = make("linear", [(2, 40, 44)], [(2, 40, 16)], {"weight": weight}).forward([x])
        assert float(y.position_covariance.mean() / y.variance.mean()) == pytest.approx(32 / 35, abs=0.02)


def test_what_all_share_of_correlations_that_fall() -> None:
    near = Nearby((2,), np.array([1.0, 0.7, 0.4]))
    common, rest = near.shared({2: 3})
    assert common == pytest.approx(0.4)
    assert rest.lags == pytest.approx([1.0, 0.5])
    assert near.shared({2: 9}) == (0.0, near)  # entries further apart have nothing in common
    assert near.shared({1: 4, 2: 3}) == (0.0, near)


def test_a_softmax_row_sums_to_nothing() -> None:
    """What is added to all of a row of scores gets no gradient, where rows of one cell are several too."""
    g = Gradient.white((4, 6, 10))
    node = Node("softmax", "softmax", ("x",), ("y",), attributes={"axis": 2})
    softmax = Softmax(node, ((4, 6, 10),), ((4, 6, 10),))
    x = Moments.uniform((4, 6, 10), 0.0, 1.0)
    pulled = softmax.pull(x, softmax.map(x), g)
    assert pulled.summed_to((4, 6, 1)).total == pytest.approx(0.0, abs=1e-9 * pulled.total)


def test_coherence() -> None:
    """Copies add up to n^2, beside each other by the distance, and along two axes as the product."""
    assert same_along({1: 5}).coherence({1: 5}) == pytest.approx(5.0)
    assert same_along({1: 5, 3: 4}).coherence({1: 5, 3: 4}) == pytest.approx(20.0)
    assert same_along({1: 5}).coherence({2: 7}) == 1.0
    assert Nearby((1,), np.array([1.0, 0.5])).coherence({1: 4}) == pytest.approx(1.0 + 2 * 3 * 0.5 / 4)


def test_copies_behind_constants_of_either_sign_have_nothing_in_common() -> None:
    """A number for each of some features, as tables are turned into tokens: taken for one number, the norm behind took
    out all of it (6 bits)."""
    nearby = same_along({2: 48})
    signs = np.random.default_rng(0).standard_normal((1, 1, 48))
    assert nearby.by_constants(signs, 0.0).coherence({2: 48}) < 3.0
    assert nearby.by_constants(np.full((1, 1, 48), -2.0), 0.0) is nearby
    assert nearby.by_constants(np.full((1, 1, 1), 1.0), 3.0).coherence({2: 48}) == pytest.approx(1 + 47 / 4)
    assert not Nearby().by_constants(signs, 0.0)


class Beside(nn.Module):
    """Channels that an interpolation has made, beside others, read by a kernel of their own each and normalised."""

    def __init__(self, mode: str, others: int) -> None:
        super().__init__()
        self.mode, self.others = mode, others
        width = CHANNELS + others
        self.own, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        large = F.interpolate(x, scale_factor=2.0, mode=self.mode)
        beside = F.pad(x, (0, 12, 0, 12), mode="circular")[:, : self.others]
        return self.norm(self.own(torch.cat([large, beside], 1)))


@pytest.mark.parametrize(("mode", "others"), [("bilinear", 0), ("nearest", 0), ("bilinear", 12)])
def test_kernels_of_one_channel_behind_an_interpolation(mode: str, others: int) -> None:
    """Where a kernel's taps cancel each other little is left of what is alike, and a batch normalisation behind divides
    by that: the gradient there is larger than of independent entries, and cancels in the interpolation."""
    torch.manual_seed(5)
    module, shape = Beside(mode, others).double(), (SAMPLES, CHANNELS, 12, 12)
    inner: list[float] = []

    def keep(_: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> None:
        y.register_hook(lambda g: inner.append(float(g.square().mean())))

    hook = module.own.register_forward_hook(keep)
    true_end = measured(module, shape)
    hook.remove()
    prediction = analyse(trace_module(module, (torch.randn(shape, dtype=torch.float64),), name="beside").graph)
    conv = next(node for node in prediction.nodes if node.node.op == "conv")
    assert conv.gradient_log2 == pytest.approx(math.log2(sum(inner) / len(inner)), abs=0.25)
    assert prediction.gradient_log2 == pytest.approx(true_end, abs=0.25)


@pytest.mark.parametrize(("parts", "width"), [(2, 4), (2, 2), (3, 2)])
def test_averages_of_parts_keep_what_padding_has_made(parts: int, width: int) -> None:
    """Far from the border the mean of a channel is another one than beside it, in every sample: averages over parts of
    the map differ by that, and a batch normalisation behind divides by it."""
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(CHANNELS, 64, 3, padding=width, dilation=width, bias=False),
        nn.AdaptiveAvgPool2d(parts),
        nn.BatchNorm2d(64),
    ).double()
    shape = (SAMPLES, CHANNELS, 12, 12)
    prediction = analyse(trace_module(module, (torch.randn(shape, dtype=torch.float64),), name="parts").graph)
    assert prediction.gradient_log2 == pytest.approx(measured(module, shape), abs=0.5)
