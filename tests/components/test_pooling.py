"""Pooling: averages are affine and exact, maxima are held to order statistics of the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gnelint.components import NotModelledError
from gnelint.components.pooling import adaptive_windows, maximum_cumulants
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from tests.components.harness import EXACT, Case, Input, dense_energy, make, verify

rng = torch.Generator().manual_seed(4)
OVERLAP = "the windows' sums share entries, taken as independent"


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Whatever ran before in this process: a test that holds must hold again."""
    rng.manual_seed(4)


def window(kernel: int, stride: int, pad: int = 0, dilation: int = 1, space: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "kernel": (kernel,) * space,
        "strides": (stride,) * space,
        "pads": (pad,) * 2 * space,
        "dilations": (dilation,) * space,
        **more,
    }


def average(
    name: str,
    function: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    *,
    position_correlation: float = 0.0,
    forward: float = EXACT,
    together: float | None = EXACT,
    because: str = "",
    op: str = "avg_pool",
    compare: bool = False,
) -> Case:
    each = Input(shape, 0.6, 1.2, 1, position_correlation=position_correlation)
    return Case(
        name,
        op,
        function,
        (each,),
        {},
        attributes,
        forward=forward,
        together=together,
        compares_covariance=compare,
        because=because,
    )


CASES = [
    average("plain", lambda x: F.avg_pool2d(x, 2), (1, 3, 4, 4), window(2, 2)),
    average("plain correlated", lambda x: F.avg_pool2d(x, 2), (1, 3, 4, 4), window(2, 2), position_correlation=0.5),
    average("three", lambda x: F.avg_pool2d(x, 3), (1, 3, 6, 6), window(3, 3)),
    average("overlap", lambda x: F.avg_pool2d(x, 3, 1), (1, 3, 5, 5), window(3, 1)),
    average("stride above kernel", lambda x: F.avg_pool2d(x, 1, 2), (1, 3, 4, 4), window(1, 2)),
    average(
        "padding counted", lambda x: F.avg_pool2d(x, 3, 1, 1), (1, 2, 4, 4), window(3, 1, 1, count_include_pad=True)
    ),
    average(
        "padding left out", lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), (1, 2, 4, 4), window(3, 1, 1)
    ),
    average("stem", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), (1, 2, 6, 6), window(3, 2, 1)),
    average("ceil", lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True), (1, 2, 5, 5), window(2, 2)),
    average(
        "ceil padded",
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        (1, 2, 6, 6),
        window(3, 2, 1, count_include_pad=True),
    ),
    average("line", lambda x: F.avg_pool1d(x, 4, 2), (2, 3, 10), window(4, 2, space=1)),
    average("volume", lambda x: F.avg_pool3d(x, 2), (1, 2, 4, 2, 4), window(2, 2, space=3)),
    average("image", lambda x: F.adaptive_avg_pool2d(x, 1), (2, 3, 3, 4), {}, op="global_avg_pool"),
    average(
        "correlated",
        lambda x: F.adaptive_avg_pool2d(x, 1),
        (2, 3, 3, 4),
        {},
        op="global_avg_pool",
        position_correlation=0.3,
    ),
    average("line", lambda x: F.adaptive_avg_pool1d(x, 1), (2, 3, 7), {}, op="global_avg_pool", compare=True),
    average(
        "to one",
        lambda x: F.adaptive_avg_pool2d(x, 1),
        (2, 3, 4, 4),
        {"output_size": (1, 1)},
        op="adaptive_avg_pool",
        position_correlation=0.3,
    ),
    average(
        "even", lambda x: F.adaptive_avg_pool2d(x, 2), (1, 3, 4, 6), {"output_size": (2, 2)}, op="adaptive_avg_pool"
    ),
    average(
        "even correlated",
        lambda x: F.adaptive_avg_pool2d(x, 2),
        (1, 3, 4, 6),
        {"output_size": (2, 2)},
        op="adaptive_avg_pool",
        position_correlation=0.4,
    ),
    average(
        "uneven",
        lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
        (1, 2, 5, 4),
        {"output_size": (3, 2)},
        op="adaptive_avg_pool",
        together=None,
        because=OVERLAP,
    ),
    average(
        "to more",
        lambda x: F.adaptive_avg_pool1d(x, 5),
        (1, 2, 3),
        {"output_size": (5,)},
        op="adaptive_avg_pool",
        together=None,
        because=OVERLAP,
    ),
]

INDEPENDENT = "entries are independent Gaussians, as assumed: sampling error only"
NORM = "the norm of k entries is taken to second order in 1/k"


def maximum(
    name: str,
    op: str,
    function: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    *,
    together: float | None = 1e-3,
    forward: float = 1e-3,
    gradient: float = 1e-3,
    because: str = INDEPENDENT,
) -> Case:
    each = Input(shape, 0.3, 1.5, 1)
    return Case(
        name,
        op,
        function,
        (each,),
        {},
        attributes,
        forward=forward,
        gradient=gradient,
        together=together,
        draws=50,
        because=because,
    )


WINNERS = "an entry that wins several windows receives the same number from each"

CASES += [
    maximum("plain", "max_pool", lambda x: F.max_pool2d(x, 2), (32, 2, 8, 8), window(2, 2)),
    maximum("line", "max_pool", lambda x: F.max_pool1d(x, 4), (32, 2, 16), window(4, 4, space=1)),
    maximum(
        "dilated",
        "max_pool",
        lambda x: F.max_pool1d(x, 2, 1, 0, 3),
        (32, 2, 16),
        window(2, 1, 0, 3, 1),
        together=None,
        because=WINNERS,
    ),
    maximum(
        "overlap",
        "max_pool",
        lambda x: F.max_pool2d(x, 3, 2),
        (32, 2, 9, 9),
        window(3, 2),
        together=None,
        because=WINNERS,
    ),
    maximum("image", "global_max_pool", lambda x: F.adaptive_max_pool2d(x, 1), (64, 2, 4, 4), {}),
    maximum("even", "adaptive_max_pool", lambda x: F.adaptive_max_pool2d(x, 2), (32, 2, 4, 8), {"output_size": (2, 2)}),
    maximum(
        "image",
        "global_lp_pool",
        lambda x: x.square().sum((2, 3), keepdim=True).sqrt(),
        (32, 2, 6, 6),
        {},
        forward=5e-3,
        gradient=5e-3,
        together=5e-3,
        because=NORM,
    ),
    maximum(
        "plain",
        "lp_pool",
        lambda x: F.lp_pool2d(x, 2, 4),
        (32, 2, 8, 8),
        window(4, 4, p=2),
        forward=2e-2,
        gradient=5e-3,
        together=5e-3,
        because=NORM,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_against_autograd(case: Case) -> None:
    verify(case)


def test_mean_of_a_rectified_image_survives_pooling() -> None:
    """Theory 3.4: k = 4 gives 0.1805 on white ReLU outputs, where phi times the second moment says
    0.031."""
    relu = make("relu", [(1, 1, 8, 8)], [(1, 1, 8, 8)])
    (x,) = relu.forward([Moments.uniform((1, 1, 8, 8), 0.0, 1.0)])
    (y,) = make("avg_pool", [(1, 1, 8, 8)], [(1, 1, 2, 2)], **window(4, 4)).forward([x])
    assert y.total_second == pytest.approx(0.1805, abs=5e-5)


@pytest.mark.parametrize(("count", "mean", "second"), [(4, 1.029375, 1.551329), (9, 1.485013, 2.562617)])
def test_order_statistics_of_the_theory(count: int, mean: float, second: float) -> None:
    found, variance, third, fourth = maximum_cumulants(count)
    draws = np.random.default_rng(0).standard_normal((400_000, count)).max(axis=1) - found
    assert third == pytest.approx((draws**3).mean(), rel=0.05)
    assert fourth == pytest.approx((draws**4).mean() - 3 * draws.var() ** 2, rel=0.15)
    assert found == pytest.approx(mean, abs=1e-6)
    assert variance + found**2 == pytest.approx(second, abs=1e-6)
    assert maximum_cumulants(1) == pytest.approx((0.0, 1.0, 0.0, 0.0), abs=1e-9)


def test_maximum_of_rectified_values() -> None:
    """max(relu(z)) is relu(max(z)): moments and the share of winners that overlap the mask, against draws."""
    shape, out = (1, 1, 2, 2), (1, 1, 1, 1)
    relu, pool = make("relu", [shape], [shape]), make("max_pool", [shape], [out], **window(2, 2))
    z = Moments.uniform(shape, -0.4, 1.3)
    (x,) = relu.forward([z])
    (y,) = pool.forward([x])
    (inner,) = pool.backward([x], [y], [Gradient.white(out)])
    assert inner is not None
    (outer,) = relu.backward([z], [x], [inner])
    assert outer is not None
    generator = torch.Generator().manual_seed(0)
    draws = -0.4 + 1.3**0.5 * torch.randn(400_000, 4, generator=generator, dtype=torch.float64)
    top = draws.amax(1).clamp(min=0)
    # the largest of four Gaussians is rectified as if it were one itself (sampling error: 0.1 %)
    assert y.total_mean == pytest.approx(float(top.mean()), rel=0.015)
    assert y.total_second == pytest.approx(float(top.square().mean()), rel=0.015)
    assert outer.total == pytest.approx(float((top > 0).double().mean()), abs=5e-3)


def test_global_average_s_gradient_is_the_same_everywhere() -> None:
    component = make("global_avg_pool", [(2, 3, 4, 4)], [(2, 3, 1, 1)])
    x = Moments.uniform((2, 3, 4, 4), 0.0, 1.0)
    y = component.forward([x])
    (g,) = component.backward([x], y, [Gradient.white((2, 3, 1, 1))])
    assert g is not None
    np.testing.assert_allclose(dense_energy(g), 1 / 256)
    np.testing.assert_allclose(g.position_covariance, 1 / 256)
    assert component.phi_variance([x], y) == 0.0


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 3), (4, 4), (3, 5), (10, 1), (224, 7)])
def test_adaptive_windows_are_those_of_torch(inputs: int, outputs: int) -> None:
    x = torch.zeros(1, 1, inputs, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda z: F.adaptive_avg_pool1d(z, outputs), x).reshape(outputs, inputs)
    for row, (start, stop) in zip(J, adaptive_windows(inputs, outputs), strict=True):
        assert row.nonzero().reshape(-1).tolist() == list(range(start, stop))


@pytest.mark.parametrize("op", ["lp_pool", "global_lp_pool"])
def test_other_powers_are_refused(op: str) -> None:
    attributes = window(2, 2, p=3) if op == "lp_pool" else {"p": 3}
    component = make(op, [(1, 1, 4, 4)], [(1, 1, 2, 2) if op == "lp_pool" else (1, 1, 1, 1)], **attributes)
    with pytest.raises(NotModelledError, match="p = 3"):
        component.forward([Moments.uniform((1, 1, 4, 4), 0.0, 1.0)])


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (2, 2)])
def test_one_winner_of_many_windows_gets_their_sum(kernel: int, stride: int) -> None:
    """Max pooling under a cotangent that all positions share."""
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(512, 1, 14, 14, generator=rng, dtype=torch.float64).requires_grad_()
    y = F.max_pool2d(x, kernel, stride, kernel // 2)
    shared = torch.randn(512, 1, 1, 1, generator=rng, dtype=torch.float64).expand(y.shape)
    (pulled,) = torch.autograd.grad(y, x, shared)
    pads, strides = (kernel // 2,) * 4, (stride, stride)
    attributes = {"kernel": (kernel, kernel), "strides": strides, "pads": pads, "dilations": (1, 1)}
    component = make("max_pool", [tuple(x.shape)], [tuple(y.shape)], **attributes)
    given = [Moments.uniform(tuple(x.shape), 0.0, 1.0)]
    whole = Gradient.flat(tuple(Axis(n) for n in y.shape), np.ones(1), 1.0)
    (found,) = component.backward(given, component.forward(given), [whole])
    assert found is not None
    measured = float((pulled**2).sum() / (shared**2).sum() * y.numel())
    assert found.total == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (2, 1)])
def test_maxima_of_windows_that_overlap_are_alike(kernel: int, stride: int) -> None:
    """What neighbours share is what an average over them keeps more."""
    x = torch.randn(40, 20, 25, 25, generator=rng, dtype=torch.float64).relu()
    y = F.max_pool2d(x, kernel, stride)
    size = y.shape[-1]
    pool = make("max_pool", [(4, 3, 25, 25)], [(4, 3, size, size)], **window(kernel, stride))
    (moments,) = make("relu", [(4, 3, 25, 25)], [(4, 3, 25, 25)]).forward([Moments.uniform((4, 3, 25, 25), 0.0, 1.0)])
    (found,) = pool.forward([moments])
    beside = float((((y - y.mean())[..., 1:]) * ((y - y.mean())[..., :-1])).mean() / y.var())
    assert found.neighbours == pytest.approx(beside, abs=0.03)
    assert float(found.variance.mean()) == pytest.approx(float(y.var()), rel=0.03)
    shape, halves = (4, 3, size, size), (4, 3, size // 2, size // 2)
    (kept,) = make("avg_pool", [shape], [halves], **window(2, 2, count_include_pad=False)).forward([found])
    assert float(kept.variance.mean()) == pytest.approx(float(F.avg_pool2d(y, 2).var()), rel=0.08)


def test_a_maximum_of_maxima_is_one_of_all_entries() -> None:
    x = torch.randn(20, 20, 33, 33, generator=rng, dtype=torch.float64).relu()
    y = F.max_pool2d(F.max_pool2d(x, 3, 2), 3, 1)
    (value,) = make("relu", [(4, 3, 33, 33)], [(4, 3, 33, 33)]).forward([Moments.uniform((4, 3, 33, 33), 0.0, 1.0)])
    for before, behind, stride in ((33, 16, 2), (16, 14, 1)):
        pool = make("max_pool", [(4, 3, before, before)], [(4, 3, behind, behind)], **window(3, stride))
        (value,) = pool.forward([value])
    assert float(value.mean.mean()) == pytest.approx(float(y.mean()), rel=0.01)
    assert float(value.variance.mean()) == pytest.approx(float(y.var()), rel=0.08)


def test_windows_at_the_border_have_smaller_maxima() -> None:
    shape = (4, 3, 6, 6)
    pool = make("max_pool", [shape], [shape], **window(3, 1, 1))
    (y,) = pool.forward([Moments.uniform(shape, 0.0, 1.0)])
    true = F.max_pool2d(torch.randn(4000, 3, 6, 6, generator=rng, dtype=torch.float64), 3, 1, 1)
    fixed = float(true.mean((0, 1)).var(unbiased=False) / true.var())
    assert y.channel_correlation.fixed == pytest.approx(fixed, abs=0.02)


@pytest.mark.parametrize("share", [0.2, 0.95])
def test_maxima_at_places_of_their_own_go_on_sharing_a_gradient(share: float) -> None:
    """What units share they share in front of their maxima, whether or not each has cells of its own there (Hiera's
    queries were 3.9 bits off): both of a pair of units have one winner in four."""
    component = make("reduce_max", [(2, 4, 16, 8)], [(2, 16, 8)], axes=(1,), keepdims=False)
    x = Moments.uniform((2, 4, 16, 8), 0.0, 1.0)
    y = component.forward([x])[0]
    axes = (Axis(2), Axis(16), Axis.full(8))
    g = Gradient.flat(axes, np.ones((1, 1, 8)), share)
    cells = (Axis(2), Axis.full(16), Axis.full(8))
    whole, cut = (component.backward([x], [y], [each])[0] for each in (g, g.refined(cells)))
    assert whole is not None
    assert cut is not None
    assert cut.total == pytest.approx(whole.total)
    sums = [each.summed_to((2, 1, 1, 8)).total for each in (whole, cut)]
    assert sums[0] == pytest.approx(g.total * (1.0 + 15.0 * share))
    assert sums[1] == pytest.approx(sums[0])
