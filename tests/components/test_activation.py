"""Activations and other scalar functions against an integral of torch's own value and derivative over the Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gnelint.components import NotModelledError
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from tests.components.harness import make

Function = Callable[[torch.Tensor], torch.Tensor]

GRID = [(0.0, 1.0), (0.7, 0.3), (-1.2, 4.0), (0.3, 0.01), (2.0, 9.0), (-0.5, 2.0)]
"""Means and variances of the channels that every activation is tried on."""

NEAR = [(3.0, 0.01), (2.5, 0.02)]
"""For functions that are modelled by an expansion about a mean far from where they are not smooth."""


@dataclass(frozen=True)
class Scalar:
    """A scalar function: where it has kinks, and what the component may be held to.

    `because` says where a tolerance comes from that is not the quadrature's own 1e-8.
    """

    op: str
    function: Function
    attributes: dict[str, Any] = field(default_factory=dict)
    kinks: tuple[float, ...] = ()
    tolerance: float = 1e-8
    grid: tuple[tuple[float, float], ...] = tuple(GRID)
    because: str = ""

    @property
    def id(self) -> str:
        return "-".join(
            [self.op, *(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.attributes.items())]
        )


CLOSED = 1e-9
EXPANDED = "to first order in c = variance / mean^2 = 0.003, without f' f''' in E f'^2: up to 6 c = 2 %"
TAIL = "the fourth power has its mass at four deviations, and the rule ends at eight"

CASES = [
    Scalar("relu", torch.relu, kinks=(0.0,)),
    Scalar("leaky_relu", F.leaky_relu, kinks=(0.0,)),
    Scalar("leaky_relu", lambda x: F.leaky_relu(x, 0.2), {"alpha": 0.2}, (0.0,)),
    Scalar("elu", F.elu, kinks=(0.0,)),
    Scalar("elu", lambda x: F.elu(x, 0.5), {"alpha": 0.5}, (0.0,)),
    Scalar("selu", F.selu, kinks=(0.0,)),
    Scalar(
        "selu",
        lambda x: 0.98173 * torch.where(x > 0, x, 0.43323 * torch.expm1(x.clamp(max=0))),
        {"gamma": 0.98173, "alpha": 0.43323},
        (0.0,),
    ),
    Scalar("celu", lambda x: F.celu(x, 0.7), {"alpha": 0.7}, (0.0,)),
    Scalar("gelu", F.gelu),
    Scalar("gelu", lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
    Scalar("silu", F.silu),
    Scalar("silu", lambda x: x * torch.sigmoid(1.702 * x), {"beta": 1.702}),
    Scalar("silu", lambda x: x * torch.sigmoid(0.3 * x), {"beta": 0.3}),
    Scalar("mish", F.mish),
    Scalar("hardswish", F.hardswish, kinks=(-3.0, 3.0)),
    Scalar("hardsigmoid", F.hardsigmoid, kinks=(-3.0, 3.0)),
    Scalar("hardsigmoid", lambda x: (0.2 * x + 0.5).clamp(0, 1), {"alpha": 0.2, "beta": 0.5}, (-2.5, 2.5)),
    Scalar("clip", F.hardtanh, {"min": -1.0, "max": 1.0}, (-1.0, 1.0)),
    Scalar("clip", F.relu6, {"min": 0.0, "max": 6.0}, (0.0, 6.0)),
    Scalar("clip", lambda x: x.clamp(min=-0.5), {"min": -0.5, "max": None}, (-0.5,)),
    Scalar("clip", lambda x: x.clamp(max=0.25), {"min": None, "max": 0.25}, (0.25,)),
    Scalar("tanh", torch.tanh),
    Scalar("sigmoid", torch.sigmoid),
    Scalar("softplus", F.softplus),
    Scalar("softplus", lambda x: F.softplus(x, beta=3.0, threshold=100), {"beta": 3.0}),
    Scalar(
        "softsign", F.softsign, kinks=(0.0,), tolerance=3e-3, because="the second derivative jumps at 0, as documented"
    ),
    Scalar("log_sigmoid", F.logsigmoid),
    Scalar("thresholded_relu", lambda x: F.threshold(x, 1.0, 0.0), kinks=(1.0,)),
    Scalar("thresholded_relu", lambda x: F.threshold(x, 0.3, 0.0), {"alpha": 0.3}, (0.3,)),
    Scalar("shrink", F.hardshrink, {"lambd": 0.5, "bias": 0.0}, (-0.5, 0.5)),
    Scalar("shrink", lambda x: F.softshrink(x, 0.4), {"lambd": 0.4, "bias": 0.4}, (-0.4, 0.4)),
    Scalar("erf", torch.erf),
    Scalar("exp", torch.exp, grid=((0.0, 1.0), (0.7, 0.3), (-1.2, 2.0))),
    Scalar("sin", torch.sin),
    Scalar("cos", torch.cos),
    Scalar("atan", torch.atan),
    Scalar("asinh", torch.asinh),
    Scalar("sinh", torch.sinh, tolerance=2e-6, grid=((0.0, 1.0), (0.7, 0.3)), because=TAIL),
    Scalar("cosh", torch.cosh, tolerance=2e-6, grid=((0.0, 1.0), (0.7, 0.3)), because=TAIL),
    Scalar("abs", torch.abs, kinks=(0.0,)),
    Scalar("pow", torch.square, {"exponent": 2.0}),
    Scalar("pow", lambda x: x**3, {"exponent": 3.0}),
    Scalar("pow", lambda x: x.clamp(min=1e-3) ** -0.5, {"exponent": -0.5}, (), 2.5e-3, tuple(NEAR), EXPANDED),
    Scalar("log", lambda x: x.clamp(min=1e-3).log(), {}, (), 2.5e-3, tuple(NEAR), EXPANDED),
    Scalar("sqrt", lambda x: x.clamp(min=1e-3).sqrt(), {}, (), 2.5e-3, tuple(NEAR), EXPANDED),
    Scalar("reciprocal", lambda x: 1 / x.clamp(min=1e-3), {}, (), 2.5e-3, tuple(NEAR), EXPANDED),
    Scalar("reciprocal", lambda x: 1 / x.clamp(max=-1e-3), {}, (), 2.5e-3, ((-3.0, 0.01),), EXPANDED),
    Scalar("tan", torch.tan, {}, (), 3e-3, ((0.3, 0.001), (0.05, 0.002)), EXPANDED),
    Scalar("asin", lambda x: x.clamp(-0.99, 0.99).asin(), {}, (), 3e-3, ((0.3, 0.001), (0.1, 0.002)), EXPANDED),
    Scalar("acos", lambda x: x.clamp(-0.99, 0.99).acos(), {}, (), 3e-3, ((0.3, 0.001), (0.1, 0.002)), EXPANDED),
    Scalar("acosh", lambda x: x.clamp(min=1.01).acosh(), {}, (), 2.5e-3, tuple(NEAR), EXPANDED),
    Scalar("atanh", lambda x: x.clamp(-0.99, 0.99).atanh(), {}, (), 3e-3, ((0.3, 0.001), (0.1, 0.002)), EXPANDED),
]

OWN = {"prelu", "step"}
"""Operations with a test of their own below."""


def integrate(case_function: Function, mean: float, variance: float, kinks: tuple[float, ...]) -> np.ndarray:
    """E f, E f^2, E f'^2 and E f'^4 by Gauss-Legendre on panels that break at the kinks; f' by automatic
    differentiation."""
    deviation = math.sqrt(variance)
    low, high = mean - 12 * deviation, mean + 12 * deviation
    edges = sorted({*np.linspace(low, high, 601), *(k for k in kinks if low < k < high)})
    points, weights = np.polynomial.legendre.leggauss(12)
    left, right = np.array(edges[:-1])[:, None], np.array(edges[1:])[:, None]
    z = ((left + right) / 2 + (right - left) / 2 * points).reshape(-1)
    density = np.exp(-0.5 * ((z - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
    weight = ((right - left) / 2 * weights).reshape(-1) * density
    x = torch.from_numpy(z).requires_grad_()
    y = case_function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    f, d = y.detach().numpy(), slope.numpy()
    return np.array([weight @ f, weight @ f**2, weight @ d**2, weight @ d**4])


def channels(grid: list[tuple[float, float]] | tuple[tuple[float, float], ...]) -> Moments:
    """A (2, channels, 3) tensor whose channels have these means and variances."""
    mean, variance = (np.array(column).reshape(1, -1, 1) for column in zip(*grid, strict=True))
    return Moments.flat((Axis(2), Axis.full(len(grid)), Axis(3)), mean, variance)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_against_the_integral(case: Scalar) -> None:
    x = channels(case.grid)
    component = make(case.op, [x.shape], [x.shape], **case.attributes)
    true = np.array([integrate(case.function, m, q, case.kinks) for m, q in case.grid])
    (y,) = component.forward([x])
    np.testing.assert_allclose(y.mean.reshape(-1), true[:, 0], rtol=case.tolerance, atol=case.tolerance)
    np.testing.assert_allclose(y.second.reshape(-1), true[:, 1], rtol=case.tolerance)
    (g,) = component.backward([x], [y], [Gradient.white(x.shape)])
    assert g is not None
    np.testing.assert_allclose(g.energy.reshape(-1), true[:, 2], rtol=10 * case.tolerance)
    (phi,) = component.phis([x], [y])
    assert phi == pytest.approx(g.total / x.size, rel=1e-12)
    variance = component.phi_variance([x], [y])
    square = float(true[:, 2].mean())
    assert variance == pytest.approx(
        true[:, 3].mean() - square**2, rel=40 * case.tolerance, abs=1e-9 + case.tolerance * square**2
    )


def test_erf_has_a_closed_form() -> None:
    for q in (0.1, 1.0, 10.0, 90.0):
        x = Moments.uniform((2, 3), 0.0, q)
        (y,) = make("erf", [(2, 3)], [(2, 3)]).forward([x])
        assert y.total_second == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-7)


@pytest.mark.parametrize("channelwise", [False, True])
def test_prelu(channelwise: bool) -> None:
    slopes = np.array([0.25, -0.5, 1.5, 0.0]) if channelwise else np.array([0.3])
    grid = [(0.4, 1.5)] * 4
    x = channels(grid)
    stored = slopes.reshape(-1, 1) if channelwise else slopes
    component = make("prelu", [x.shape], [x.shape], {"slope": stored})
    (y,) = component.forward([x])
    (g,) = component.backward([x], [y], [Gradient.white(x.shape)])
    assert g is not None
    for index, slope in enumerate(np.broadcast_to(slopes, 4)):
        true = integrate(lambda z, a=float(slope): torch.where(z > 0, z, a * z), 0.4, 1.5, (0.0,))
        assert y.mean.reshape(-1)[index] == pytest.approx(true[0], rel=1e-9)
        assert y.second.reshape(-1)[index] == pytest.approx(true[1], rel=1e-9)
        assert g.energy.reshape(-1)[index] == pytest.approx(true[2], rel=1e-9)
    (phi,) = component.phis([x], [y])
    assert phi == pytest.approx(g.total / x.size, rel=1e-12)


def test_prelu_slope_of_one_axis_belongs_to_the_channels() -> None:
    x = channels([(0.0, 1.0)] * 4)
    one = make("prelu", [x.shape], [x.shape], {"slope": np.array([0.1, 0.2, 0.3, 0.4])})
    two = make("prelu", [x.shape], [x.shape], {"slope": np.array([0.1, 0.2, 0.3, 0.4]).reshape(4, 1)})
    np.testing.assert_allclose(one.forward([x])[0].second, two.forward([x])[0].second)


@pytest.mark.parametrize("kind", ["floor", "ceil", "round", "sign", "trunc"])
def test_step_functions_pass_nothing(kind: str) -> None:
    x = Moments.uniform((2, 3), 0.3, 2.0)
    component = make("step", [(2, 3)], [(2, 3)], kind=kind)
    (y,) = component.forward([x])
    (g,) = component.backward([x], [y], [Gradient.white((2, 3))])
    assert g is not None
    assert g.total == 0.0
    assert component.phis([x], [y]) == (0.0,)
    rng = np.random.default_rng(0)
    z = getattr(np, kind)(0.3 + math.sqrt(2) * rng.standard_normal(400_000))
    # steps are integrated by a smooth rule with panels of 0.1: 0.02 covers it and the sampling error of 0.003
    assert y.total_mean == pytest.approx(float(z.mean()), abs=0.02)
    assert y.total_second == pytest.approx(float((z**2).mean()), rel=0.02)


def test_sines_of_an_unknown_number_have_a_random_phase() -> None:
    for op in ("sin", "cos"):
        (y,) = make(op, [(2, 3)], [(2, 3)]).forward([None])
        assert (y.total_mean, y.total_second) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("op", "attributes", "mean"),
    [("log", {}, 0.0), ("sqrt", {}, 0.1), ("reciprocal", {}, 0.5), ("pow", {"exponent": -0.5}, 0.5), ("asin", {}, 0.0)],
)
def test_outside_of_the_smooth_range_is_refused(op: str, attributes: dict[str, float], mean: float) -> None:
    x = Moments.uniform((2, 3), mean, 1.0)
    with pytest.raises(NotModelledError):
        make(op, [(2, 3)], [(2, 3)], **attributes).forward([x])


@pytest.mark.parametrize("case", [c for c in CASES if c.grid == tuple(GRID)], ids=lambda case: case.id)
def test_without_variance_it_is_the_function_itself(case: Scalar) -> None:
    x = Moments.uniform((2, 3), 0.8, 0.0)
    (y,) = make(case.op, [(2, 3)], [(2, 3)], **case.attributes).forward([x])
    true = float(case.function(torch.tensor(0.8, dtype=torch.float64)))
    assert y.total_mean == pytest.approx(true, rel=1e-12)
    assert y.total_second == pytest.approx(true**2, rel=1e-12)


@pytest.mark.parametrize("op", ["relu", "tanh", "gelu", "leaky_relu"])
def test_thousands_of_channels_agree_with_one_at_a_time(op: str) -> None:
    """Above a few hundred cells the expectations are interpolated, to 3e-5."""
    rng = np.random.default_rng(1)
    mean, variance = rng.normal(0, 0.5, 4000), rng.uniform(0.2, 3.0, 4000)
    axes = (Axis(2), Axis.full(4000))
    x = Moments.flat(axes, mean.reshape(1, -1), variance.reshape(1, -1))
    component = make(op, [x.shape], [x.shape])
    (y,) = component.forward([x])
    (g,) = component.backward([x], [y], [Gradient.white(x.shape)])
    assert g is not None
    for index in range(0, 4000, 371):
        one = Moments.uniform((2, 1), mean[index], variance[index])
        alone = make(op, [one.shape], [one.shape])
        (z,) = alone.forward([one])
        (h,) = alone.backward([one], [z], [Gradient.white(one.shape)])
        assert h is not None
        assert y.mean[0, index] == pytest.approx(z.total_mean, rel=3e-5, abs=3e-5)
        assert y.second[0, index] == pytest.approx(z.total_second, rel=3e-5)
        assert g.energy[0, index] == pytest.approx(h.total / 2, rel=3e-5)


@pytest.mark.parametrize("op", ["relu", "tanh", "gelu", "silu", "leaky_relu"])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_what_positions_share(op: str, correlation: float) -> None:
    """Covariance of two positions, in the value and behind a constant cotangent, against a sample of pairs.

    Both ends are exact; in between the rest beyond first order is put at order two, within 3 % of the variance.
    """
    mean, q = 0.4, 1.5
    shape = (2, 1, 2)
    x = Moments.flat(
        (Axis(2), Axis(1), Axis(2)),
        np.full((1, 1, 1), mean),
        np.full((1, 1, 1), q),
        np.full((1, 1, 1), q * correlation),
    )
    component = make(op, [shape], [shape])
    (y,) = component.forward([x])
    white = Gradient.white(shape)
    (g,) = component.backward([x], [y], [Gradient.flat(white.axes, np.ones(1), 1.0)])
    assert g is not None
    generator = torch.Generator().manual_seed(0)
    u, v, w = (torch.randn(400_000, generator=generator, dtype=torch.float64) for _ in range(3))
    pair = [mean + q**0.5 * (correlation**0.5 * w + (1 - correlation) ** 0.5 * each) for each in (u, v)]
    function = {"relu": torch.relu, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu, "leaky_relu": F.leaky_relu}[op]
    values, slopes = [], []
    for each in pair:
        z = each.requires_grad_()
        values.append(function(z))
        slopes.append(torch.autograd.grad(values[-1].sum(), z)[0])
    covariance = float(torch.stack(values).detach().cov(correction=0)[0, 1])
    product = float((slopes[0] * slopes[1]).mean())
    variance = float(values[0].detach().var())
    assert float(y.position_covariance.reshape(-1)[0]) == pytest.approx(covariance, abs=0.03 * variance)
    # the mean product of two slopes of a rectifier is an arcsine of the correlation, which the first order takes as a
    # line
    assert float(g.position_covariance.reshape(-1)[0]) == pytest.approx(
        product, rel=0.1 if correlation == 0.3 else 0.02
    )


def test_a_second_rectifier_is_free() -> None:
    """relu(relu(x)) is relu(x): the same mask counts once."""
    x = Moments.uniform((2, 3), 0.0, 1.0)
    relu = make("relu", [(2, 3)], [(2, 3)])
    (y,) = relu.forward([x])
    (z,) = relu.forward([y])
    assert (z.total_second, z.total_mean) == pytest.approx((y.total_second, y.total_mean))
    (inner,) = relu.backward([y], [z], [Gradient.white((2, 3))])
    assert inner is not None
    (outer,) = relu.backward([x], [y], [inner])
    assert outer is not None
    assert outer.total / 6 == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("name", ["relu", "relu6"])
def test_few_weights_leave_rectified_values_as_they_are(name: str) -> None:
    """Nine of them make no Gaussian: a rectifier behind a depthwise kernel sees what its cumulants say."""
    draws = torch.Generator().manual_seed(6)
    kernel = torch.randn(12, 1, 3, 3, generator=draws, dtype=torch.float64)
    shape = (64, 12, 8, 8)
    conv = make(
        "conv", [shape], [shape], {"weight": kernel}, strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), groups=12
    )
    top = {"relu": math.inf, "relu6": 6.0}[name]
    act = make("clip", [shape], [shape], min=0.0, max=top) if name == "relu6" else make("relu", [shape], [shape])
    norm = make("batch_norm", [shape], [shape], epsilon=0.0, training=True)
    x = Moments.uniform(shape, 0.0, 1.0)
    for part in (act, conv, norm, act):
        (x,) = part.forward([x])

    def rectified(value: torch.Tensor) -> torch.Tensor:
        return value.clamp(0.0, top)

    means, variances = [], []
    for _ in range(20):
        z = rectified(torch.randn(shape, generator=draws, dtype=torch.float64))
        y = F.batch_norm(F.conv2d(z, kernel, None, 1, 1, groups=12), None, None, training=True)
        y = rectified(y)
        means.append(float(y.mean()))
        variances.append(float(y.var((0, 2, 3)).mean()))
    x = x.flattened()
    assert float(x.mean.mean()) == pytest.approx(sum(means) / 20, rel=0.02)
    assert float(x.variance.mean()) == pytest.approx(sum(variances) / 20, rel=0.03)
