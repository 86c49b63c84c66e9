"""Normalisations, trained and frozen, against draws; their formulas against the theory's vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gnelint.analysis.propagation import analyse
from gnelint.components import NotModelledError
from gnelint.readers.torch.reader import trace_module
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.channel_correlation import ChannelCorrelation
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from tests.components.harness import EXACT, Case, Input, make, verify

rng = torch.Generator().manual_seed(8)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Whatever ran before in this process: a test that holds must hold again."""
    rng.manual_seed(8)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


SMALL_SET = "1/s^2 and its fluctuation are taken to first order in 1/N"
UNEVEN_GAMMA = (
    "what the projection gives to entries of small gamma fluctuates with s^2: a few 1/N more of a small number"
)


def sampled(
    name: str,
    op: str,
    function: Callable[[torch.Tensor], torch.Tensor],
    each: Input,
    *,
    parameters: dict[str, Any] | None = None,
    output_axis: int = 1,
    forward: float = 0.01,
    gradient: float = 0.02,
    together: float | None = 0.02,
    because: str = SMALL_SET,
    draws: int = 60,
    **attributes: Any,
) -> Case:
    return Case(
        name,
        op,
        function,
        (each,),
        parameters or {},
        attributes,
        output_axis,
        forward,
        gradient,
        together,
        draws=draws,
        because=because,
    )


def smn(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    axes = tuple(i for i in range(x.ndim) if i != 1)
    return x / (x.square().mean(axes, keepdim=True).sqrt() + eps)


def l1(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.abs().mean(-1, keepdim=True) + 1e-5)


GAMMA, BETA = normal(3), normal(3)
MEAN, VARIANCE = normal(3), normal(3).square() + 0.3
LAST, SHIFT = 1.0 + 0.5 * normal(24), normal(24)
IMAGE = Input((8, 3, 4, 4), 0.4, 1.3, 1)
ROWS = Input((64, 3), 0.4, 1.3, 1)
TOKENS = Input((8, 5, 24), 0.2, 1.3)
UNEVEN = Input((8, 5, 24), 0.2, 1.3, 2, scatter=0.3)
SHARED = Input((8, 3, 4, 4), 0.4, 1.3, 1, position_correlation=0.5)


def frozen(x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, MEAN, VARIANCE, GAMMA, BETA, False, eps=1e-3)


STORED = {"scale": GAMMA, "bias": BETA, "running_mean": MEAN, "running_var": VARIANCE}

CASES = [
    sampled("train", "batch_norm", lambda x: F.batch_norm(x, None, None, training=True), IMAGE, training=True),
    sampled("train rows", "batch_norm", lambda x: F.batch_norm(x, None, None, training=True), ROWS, training=True),
    sampled(
        "train affine",
        "batch_norm",
        lambda x: F.batch_norm(x, None, None, GAMMA, BETA, True, eps=0.5),
        IMAGE,
        parameters={"scale": GAMMA, "bias": BETA},
        training=True,
        epsilon=0.5,
    ),
    sampled(
        "train correlated",
        "batch_norm",
        lambda x: F.batch_norm(x, None, None, training=True),
        SHARED,
        training=True,
        forward=0.02,
        gradient=0.05,
        together=0.05,
        draws=200,
        because="half of the variance has 8 samples only: 1/s^2 fluctuates by 10 %, taken to first order",
    ),
    Case(
        "eval", "batch_norm", frozen, (Input((2, 3, 3, 2), 0.4, 1.3, 1),), STORED, {"training": False, "epsilon": 1e-3}
    ),
    Case(
        "eval rows", "batch_norm", frozen, (Input((4, 3), 0.4, 1.3, 1),), STORED, {"training": False, "epsilon": 1e-3}
    ),
    sampled(
        "plain",
        "layer_norm",
        lambda x: F.layer_norm(x, (24,)),
        TOKENS,
        axes=(-1,),
        output_axis=2,
        together=0.06,
        because=SMALL_SET,
    ),
    sampled(
        "affine",
        "layer_norm",
        lambda x: F.layer_norm(x, (24,), LAST, SHIFT, 0.1),
        TOKENS,
        axes=(2,),
        epsilon=0.1,
        parameters={"scale": LAST, "bias": SHIFT},
        output_axis=2,
        gradient=0.06,
        together=0.06,
        because=UNEVEN_GAMMA,
    ),
    sampled(
        "uneven",
        "layer_norm",
        lambda x: F.layer_norm(x, (24,)),
        UNEVEN,
        axes=(2,),
        output_axis=2,
        forward=0.03,
        gradient=0.04,
        together=0.06,
        because=SMALL_SET + "; each entry takes part in its own variance",
    ),
    sampled(
        "two axes",
        "layer_norm",
        lambda x: F.layer_norm(x, (5, 24)),
        TOKENS,
        axes=(1, 2),
        output_axis=2,
        together=0.06,
        because=SMALL_SET,
    ),
    sampled(
        "groups",
        "group_norm",
        lambda x: F.group_norm(x, 2),
        Input((16, 6, 4, 4), 0.4, 1.3),
        groups=2,
        together=0.06,
        because=SMALL_SET,
    ),
    sampled(
        "groups affine",
        "group_norm",
        lambda x: F.group_norm(x, 2, LAST[:6], SHIFT[:6]),
        Input((16, 6, 4, 4), 0.4, 1.3),
        groups=2,
        parameters={"scale": LAST[:6], "bias": SHIFT[:6]},
        together=0.06,
        because=SMALL_SET,
    ),
    sampled(
        "one group",
        "group_norm",
        lambda x: F.group_norm(x, 1),
        Input((16, 4, 4, 4), 0.4, 1.3),
        groups=1,
        together=0.06,
        because=SMALL_SET,
    ),
    sampled("image", "instance_norm", lambda x: F.instance_norm(x), Input((16, 3, 5, 5), 0.4, 1.3, 1), draws=100),
    sampled(
        "affine",
        "instance_norm",
        lambda x: F.instance_norm(x, weight=GAMMA, bias=BETA),
        Input((16, 3, 5, 5), 0.4, 1.3, 1),
        parameters={"scale": GAMMA, "bias": BETA},
        draws=100,
    ),
    sampled(
        "plain",
        "rms_norm",
        lambda x: F.rms_norm(x, (24,), eps=1e-5),
        TOKENS,
        axes=(-1,),
        output_axis=2,
        together=0.06,
        because=SMALL_SET,
    ),
    sampled(
        "affine",
        "rms_norm",
        lambda x: F.rms_norm(x, (24,), LAST, eps=0.3),
        TOKENS,
        axes=(-1,),
        epsilon=0.3,
        output_axis=2,
        parameters={"scale": LAST},
        gradient=0.06,
        together=0.06,
        because=UNEVEN_GAMMA,
    ),
    sampled("train", "second_moment_norm", smn, IMAGE, training=True),
    sampled("train eps", "second_moment_norm", lambda x: smn(x, 0.5), IMAGE, training=True, epsilon=0.5),
    Case(
        "eval",
        "second_moment_norm",
        lambda x: x * (GAMMA / (VARIANCE.sqrt() + 1e-2)).reshape(3, 1) + BETA.reshape(3, 1),
        (Input((2, 3, 4), 0.4, 1.3, 1),),
        {"scale": GAMMA, "bias": BETA, "running_second_moment": VARIANCE},
        {"training": False, "epsilon": 1e-2},
        variance=EXACT,
    ),
    sampled(
        "plain",
        "l1_norm",
        l1,
        TOKENS,
        axes=(-1,),
        output_axis=2,
        forward=0.03,
        gradient=0.04,
        together=0.06,
        because="mean |x| for its Gaussian expectation: relative fluctuation 0.57/N, twice",
    ),
    sampled(
        "plain",
        "l2_normalize",
        lambda x: F.normalize(x, dim=-1),
        TOKENS,
        axes=(-1,),
        output_axis=2,
        gradient=0.11,
        together=0.06,
        because="E[1/||x||^2] for 1/E||x||^2: 2/D of 24",
    ),
    sampled(
        "channels",
        "local_response_norm",
        lambda x: F.local_response_norm(x, 5),
        Input((4, 8, 4, 4), 0.0, 1.3),
        size=5,
        forward=0.01,
        gradient=0.01,
        together=0.01,
        because="alpha is small, the divisor constant to 1e-4",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_against_autograd(case: Case) -> None:
    verify(case)


def entries(values: list[float]) -> Moments:
    """One sample whose entries are known numbers."""
    return Moments.flat((Axis(1), Axis.full(len(values))), np.array([values]), np.zeros((1, len(values))))


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("batch_norm", lambda z: F.batch_norm(z, None, None, training=True, eps=1e-12)),
        ("second_moment_norm", lambda z: smn(z, 0.0)),
    ],
)
def test_variance_of_a_batch_s_spectrum(op: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Per channel a^2 (1 - k/N) k/N with a = 1/s^2, against the Jacobian of one batch of known numbers: k = 2 with a
    mean to take out, 1 without."""
    values = normal(12, 1)
    J = torch.autograd.functional.jacobian(function, values).reshape(12, 12)
    gram = J @ J.T
    phi = float(gram.trace() / 12)
    component = make(op, [(12, 1)], [(12, 1)], training=True, epsilon=0.0)
    centred = op == "batch_norm"
    square = float(values.var(correction=0)) * 12 / 11 if centred else float(values.square().mean())
    x = Moments.uniform((12, 1), 0.0, square)
    variance = component.phi_variance([x], component.forward([x]))
    assert variance == pytest.approx(float(gram.square().sum() / 12) - phi**2, rel=1e-9)


def test_what_centring_costs_a_normalised_chain() -> None:
    """Theory 5.2: linear, ReLU, batch norm has the gain pi / (pi - 1) = 1.467 per layer, not 1."""
    width, batch = 64, 4096
    weight = normal(width, width) * (2 / width) ** 0.5
    z = Moments.uniform((batch, width), 0.0, 1.0)
    relu = make("relu", [z.shape], [z.shape])
    linear = make("linear", [z.shape], [z.shape], {"weight": weight})
    norm = make("batch_norm", [z.shape], [z.shape], training=True)
    (h,) = relu.forward([z])
    (u,) = linear.forward([h])
    (y,) = norm.forward([u])
    (g,) = norm.backward([u], [y], [Gradient.white(z.shape)])
    (g,) = linear.backward([h], [u], [g])
    (g,) = relu.backward([z], [h], [g])
    assert g is not None
    # one weight: row norms scatter by sqrt(2/64), their reciprocal's mean by 2/64
    assert g.total / g.size == pytest.approx(math.pi / (math.pi - 1), rel=0.05)


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "message"),
    [
        ("batch_norm", (1, 3), {"training": True}, "single value"),
        ("batch_norm", (4, 3), {"training": False}, "stored statistics"),
        ("second_moment_norm", (4, 3), {"training": False}, "stored second moment"),
        ("instance_norm", (4, 3, 1, 1), {}, "single value"),
        ("layer_norm", (4, 1), {"axes": (1,), "epsilon": 0.0}, "without any variance"),
    ],
)
def test_degenerate_uses_are_refused(op: str, shape: tuple[int, ...], attributes: dict[str, Any], message: str) -> None:
    component = make(op, [shape], [shape], **attributes)
    with pytest.raises(NotModelledError, match=message):
        component.forward([Moments.uniform(shape, 0.0, 1.0)])


def test_a_constant_cotangent_loses_its_mean_over_the_batch_only() -> None:
    """Per channel one number in N; a cotangent that positions share loses one part in the batch size."""
    shape = (4, 2, 8, 8)
    component = make("batch_norm", [shape], [shape], training=True)
    x = Moments.uniform(shape, 0.0, 1.0)
    y = component.forward([x])
    axes = (Axis(4), Axis.full(2), Axis(8), Axis(8))
    (g,) = component.backward([x], y, [Gradient.flat(axes, np.ones(1), 1.0)])
    assert g is not None
    assert g.total / g.size == pytest.approx(0.75, rel=0.02)


@pytest.mark.parametrize(("x_alike", "g_alike"), [(0.0, 1.0), (0.9, 0.9), (0.5, 0.8)])
def test_what_positions_share_of_input_and_gradient_is_taken_out_together(x_alike: float, g_alike: float) -> None:
    """h xhat then has a mean over the batch alone: few samples remove much, however many positions there are."""
    shape = (8, 16, 4, 4)
    component = make("batch_norm", [shape], [shape], epsilon=1e-9, training=True)
    generator = torch.Generator().manual_seed(0)

    def draw(alike: float) -> torch.Tensor:
        common = torch.randn((8, 16, 1, 1), generator=generator, dtype=torch.float64)
        own = torch.randn(shape, generator=generator, dtype=torch.float64)
        return alike**0.5 * common + (1.0 - alike) ** 0.5 * own

    energy = pairs = 0.0
    for _ in range(400):
        x, cotangent = draw(x_alike).requires_grad_(), draw(g_alike)
        (pulled,) = torch.autograd.grad(F.batch_norm(x, None, None, training=True, eps=1e-9), x, cotangent)
        energy += float(pulled.square().mean()) / 400
        pairs += float(pulled.mean((2, 3)).square().mean()) / 400
    x_moments = replace(Moments.uniform(shape, 0.0, 1.0), position_covariance=np.full((1,) * 4, x_alike))
    white = Gradient.white(shape)
    # the cells of both are channels: what entries share, those of one channel share
    axes = tuple(Axis.full(size) if index == 1 else Axis(size) for index, size in enumerate(shape))
    x_moments, white = x_moments.refined(axes), white.refined(axes)
    cotangents = [replace(white, position_covariance=g_alike * white.energy)]
    (found,) = component.backward([x_moments], component.forward([x_moments]), cotangents)
    assert found is not None
    got = float(found.energy.mean())
    got_pairs = float(found.energy.mean()) / 16 + float(found.position_covariance.mean()) * 15 / 16
    assert got == pytest.approx(energy, rel=0.06)
    assert got_pairs == pytest.approx(pairs, rel=0.1)


def test_one_value_less_itself_passes_no_gradient() -> None:
    shape = (4, 8, 1, 1)
    component = make("group_norm", [shape], [shape], groups=8)
    x = Moments.uniform(shape, 0.0, 0.3)
    (found,) = component.backward([x], component.forward([x]), [Gradient.white(shape)])
    assert found is not None
    assert found.total == 0.0


def test_l2_normalisation_keeps_the_share_that_positions_have_in_common() -> None:
    """Long vectors: what is divided by is far from one."""
    shape = (64, 16, 48)
    component = make("l2_normalize", [shape], [shape], axes=(-1,))
    x = Moments.uniform(shape, 0.0, 9.0)
    white = Gradient.white(shape)
    cotangent = replace(white, position_covariance=0.2 * white.energy)
    (found,) = component.backward([x], component.forward([x]), [cotangent])
    assert found is not None
    assert float(found.position_covariance.mean() / found.energy.mean()) == pytest.approx(0.2, rel=0.05)


class PostNorm(nn.Module):
    """A stack of x -> LayerNorm(x + W x), of a width at which one position's features scatter."""

    def __init__(self, width: int = 12, blocks: int = 5, factor: float = 0.4) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks + 1))
        self.branches = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=factor / math.sqrt(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](self.first(x))
        for norm, branch in zip(self.norms[1:], self.branches, strict=True):
            x = norm(x + branch(x))
        return x


def test_what_a_normalisation_has_levelled_does_not_scatter_at_the_next() -> None:
    """E[1/s^2] s^2 of every block but the first is near 1: without that each gained 0.4 bit here."""
    errors = []
    for seed in range(6):
        torch.manual_seed(seed)
        module, x = PostNorm().double(), normal(16, 8, 4)
        prediction = analyse(trace_module(module, (x,), name="post").graph)
        levelled = module.norms[0](module.first(x)).detach().requires_grad_()
        y = levelled
        for norm, branch in zip(module.norms[1:], module.branches, strict=True):
            y = norm(y + branch(y))
        cotangent = normal(*y.shape)
        (gradient,) = torch.autograd.grad(y, levelled, cotangent)
        truth = math.log2(float(gradient.square().sum() / cotangent.square().sum()))
        predicted = prediction.by_node["norms.0"].gradient_log2
        assert predicted is not None
        errors.append(predicted - truth)
    assert sum(errors) / len(errors) == pytest.approx(0.0, abs=0.25)


def test_means_that_are_known_do_not_scatter_with_what_features_have_in_common() -> None:
    """Four features of known means and little noise, which is one number for all: s^2 is that of the means."""
    means = np.array([2.0, -1.0, 0.5, -1.5])
    shape = (2, 8, 4)
    axes = (Axis(2), Axis(8), Axis.full(4))
    x = Moments.flat(axes, means.reshape(1, 1, 4), np.full((1, 1, 4), 0.01))
    x = replace(x, channel_correlation=ChannelCorrelation(same=1.0))
    component = make("layer_norm", [shape], [shape], axes=(2,), epsilon=0.0)
    y = component.forward([x])
    (phi,) = component.phis([x], y)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.from_numpy(means) + 0.1 * torch.randn((4096, 1), generator=generator, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: torch.nn.functional.layer_norm(row, (4,), eps=0.0)))(
        drawn
    )
    assert phi == pytest.approx(float(jacobians.square().sum(dim=(1, 2)).mean()) / 4.0, rel=0.02)


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("epsilon", [1.0, 100.0])
def test_a_statistic_far_below_epsilon_does_not_scatter_what_is_divided_by(op: str, epsilon: float) -> None:
    """Eight directions make 64 features: s^2 of one position scatters by 2 / 8, s^2 + eps only by rho^2 of that."""
    features, directions = 64, 8
    generator = torch.Generator().manual_seed(0)
    mixing = torch.linalg.qr(torch.randn((features, directions), generator=generator, dtype=torch.float64))[0]
    drawn = torch.randn((2048, directions), generator=generator, dtype=torch.float64) @ mixing.T * math.sqrt(8.0)
    function = F.layer_norm if op == "layer_norm" else F.rms_norm
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: function(row, (features,), eps=epsilon)))(drawn)
    x = replace(Moments.uniform((2, 8, features), 0.0, 1.0), channel_correlation=ChannelCorrelation(1.0 / directions))
    component = make(op, [x.shape], [x.shape], axes=(2,), epsilon=epsilon)
    (phi,) = component.phis([x], component.forward([x]))
    truth = float(jacobians.square().sum(dim=(1, 2)).mean()) / features
    assert phi == pytest.approx(truth, rel=0.03)  # a quarter and a third too much without


@pytest.mark.parametrize(("values", "tolerance"), [(2, 1.0), (3, 0.8), (4, 0.25), (5, 0.15), (8, 0.12)])
def test_few_values_have_the_law_of_their_variance(values: int, tolerance: float) -> None:
    """Of two only epsilon lets anything through, and that in the few channels in which they are nearly alike: 3.3 bits
    too little before, of four 0.5 too much."""
    errors = []
    for seed in range(4):
        torch.manual_seed(seed)
        module = torch.nn.Sequential(
            torch.nn.Linear(16, 512), torch.nn.BatchNorm1d(512), torch.nn.Linear(512, 64)
        ).double()
        prediction = analyse(trace_module(module, (normal(values, 16),), name="few").graph)
        said, true = prediction.by_node["0"].gradient_log2, 0.0
        for _ in range(8):
            x = module[0](normal(values, 16)).detach().requires_grad_()
            cotangent = normal(values, 64)
            (gradient,) = torch.autograd.grad(module[2](module[1](x)), x, cotangent)
            true += float(gradient.square().sum() / cotangent.square().sum()) / 8
        assert said is not None
        errors.append(said - math.log2(true))
    assert sum(errors) / len(errors) == pytest.approx(0.0, abs=tolerance)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.Flatten(2)])
def test_averages_of_what_a_batch_norm_has_centred_are_centred(pool: nn.Module) -> None:
    """An average over positions keeps the average over samples at nothing, so that the next batch norm takes no eighth
    out of the variance of 8 values: 0.36 bits too much passed before."""
    errors = []
    for seed in range(4):
        torch.manual_seed(seed)
        first = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), pool)
        rest = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 64))
        module = Pooled(first, rest).double()
        said = analyse(trace_module(module, (normal(8, 3, 4, 4),), name="pooled").graph).by_node["rest.0"].gradient_log2
        true = 0.0
        for _ in range(8):
            x = module.rest[0](module.pooled(normal(8, 3, 4, 4))).detach().requires_grad_()
            cotangent = normal(8, 64)
            (gradient,) = torch.autograd.grad(module.rest[1:](x), x, cotangent)
            true += float(gradient.square().sum() / cotangent.square().sum()) / 8
        assert said is not None
        errors.append(said - math.log2(true))
    assert sum(errors) / len(errors) == pytest.approx(0.0, abs=0.12)


class Pooled(nn.Module):
    """A part on maps, the mean of what is left of them, and a part on that."""

    def __init__(self, first: nn.Module, rest: nn.Sequential) -> None:
        super().__init__()
        self.first, self.rest = first, rest

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.first(x).flatten(2).mean(2)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.rest(self.pooled(x))
        return found


@pytest.mark.parametrize("by_layer", [True, False])
def test_what_all_positions_share_is_not_in_an_instance_norm_s_divisor(by_layer: bool) -> None:
    """Its scatter was taken for that of what is left of them: 2 bits too much, for 16 times as much shared as not.
    An input that is added to all of them was taken for numbers of their own: 5.6 bits too little."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.norm = nn.Linear(64, 64), nn.InstanceNorm1d(64)
            self.all = nn.Linear(64, 64) if by_layer else nn.Identity()
            self.head = nn.Linear(64, 64)

        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            y = self.norm((0.5 * self.own(x) + 2.0 * self.all(c).unsqueeze(1)).transpose(1, 2))
            found: torch.Tensor = self.head(y.transpose(1, 2))
            return found

    module, inputs = Shared().double(), (normal(8, 20, 64), normal(8, 64))
    said = analyse(trace_module(module, inputs, name="shared").graph).by_node["own"].gradient_log2
    own: list[torch.Tensor] = []
    module.own.register_forward_hook(lambda *values: own.append(values[-1]))
    y = module(*inputs)
    cotangents = [torch.randn_like(y) for _ in range(8)]
    found = [torch.autograd.grad(y, own[0], g / g.norm(), retain_graph=True)[0] for g in cotangents]
    true = math.log2(sum(float(gradient.square().sum()) / 8 for gradient in found))
    assert said == pytest.approx(true, abs=0.15)
