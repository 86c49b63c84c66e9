"""Selection, held to draws: the largest of a row, masks and what is scattered; softmax over the largest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gnelint.components import NotModelledError
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from tests.components.harness import Case, Input, constant_cotangent, make, verify

ORDER = "order statistics and their softmax come from draws, good to about 1 %"


def top_case(name: str, shape: tuple[int, ...], k: int, axis: int, largest: bool) -> Case:
    return Case(
        name,
        "top_k",
        lambda x: x.topk(k, axis, largest).values,
        (Input(shape, 0.3, 2.0),),
        {},
        {"axis": axis, "k": k, "largest": largest},
        None,
        forward=0.02,
        gradient=0.02,
        together=None,
        draws=40,
        because=ORDER,
    )


CASES = [
    top_case("one of four", (64, 8, 4), 1, 2, True),
    top_case("two of eight", (64, 4, 8), 2, 2, True),
    top_case("smallest", (64, 4, 8), 3, 2, False),
    top_case("middle axis", (64, 16, 4), 5, 1, True),
    top_case("rows", (64, 16), 4, 1, True),
]

OWN = {"top_mask", "one_hot", "compare", "logical", "scatter", "stop_gradient", "straight_through"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_against_autograd(case: Case) -> None:
    verify(case)


def test_a_stopped_gradient_is_zero_and_the_value_stays() -> None:
    x = Moments.uniform((4, 8), 0.5, 2.0)
    stopped = make("stop_gradient", (x.shape,), (x.shape,))
    assert stopped.forward([x]) == (x,)
    (gradient,) = stopped.backward([x], [x], [Gradient.white((4, 8))])
    assert gradient is not None
    assert gradient.total == 0.0
    assert stopped.phis([x], [x]) == (0.0,)


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other() -> None:
    z, x = Moments.uniform((4, 8), 0.0, 1.0), Moments.uniform((4, 8), 0.5, 2.0)
    through = make("straight_through", (z.shape, x.shape), (z.shape,))
    assert through.forward([z, x]) == (z,)
    assert through.phis([z, x], [z]) == (0.0, 1.0)


def chosen(x: Tensor, k: int) -> Tensor:
    return x.masked_fill(x < x.topk(k).values[..., -1:], float("-inf")).softmax(-1)


@pytest.mark.parametrize(
    ("count", "k", "variance"), [(4, 2, 0.05), (8, 2, 1.0), (16, 4, 3.0), (4, 1, 1.0), (4, 4, 1.0)]
)
def test_softmax_over_the_largest(count: int, k: int, variance: float) -> None:
    tolerance = 0.0 if k == 1 else 0.02
    verify(
        Case(
            "top",
            "softmax",
            lambda x: chosen(x, k),
            (Input((64, 8, count), 0.3, variance),),
            {},
            {"axis": -1, "top": k},
            None,
            forward=tolerance + 1e-9,
            gradient=tolerance + 1e-9,
            together=None,
            draws=40,
            because=ORDER,
        )
    )


@pytest.mark.parametrize(
    ("count", "k", "variance"), [(4, 2, 0.05), (8, 2, 1.0), (16, 4, 3.0), (4, 1, 1.0), (4, 4, 1.0)]
)
def test_softmax_of_which_the_largest_are_kept(count: int, k: int, variance: float) -> None:
    def kept(x: Tensor) -> Tensor:
        p = x.softmax(-1)
        return p * (p >= p.topk(k).values[..., -1:])

    attributes = {"axis": -1, "top": k, "renormalised": False}
    each = Input((64, 8, count), 0.3, variance)
    verify(
        Case("kept", "softmax", kept, (each,), {}, attributes, None, 0.02, 0.02, together=None, draws=40, because=ORDER)
    )
    component = make("softmax", [each.shape], [each.shape], **attributes)
    states = [each.moments()]
    row = Gradient.flat(states[0].axes, np.ones(1), 1.0)
    (g,) = component.backward(states, component.forward(states), [row])
    x = each.draw(torch.Generator().manual_seed(0)).requires_grad_()
    (pulled,) = torch.autograd.grad(kept(x).sum(), x)
    assert g is not None
    assert g.total == pytest.approx(float(pulled.square().sum()), rel=0.1, abs=1e-9)


@pytest.mark.parametrize("hidden", [False, True])
def test_mask_of_the_largest(hidden: bool) -> None:
    shape = (64, 5, 8)
    component = make("top_mask", [shape], [shape], axis=2, k=3, hidden=hidden)
    (y,) = component.forward([Moments.uniform(shape, 0.0, 1.0)])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = (x >= x.topk(3).values[..., -1:]) != hidden
    assert y.total_mean == pytest.approx(float(mask.double().mean()), rel=1e-12)
    assert y.total_second == pytest.approx(y.total_mean, rel=1e-12)
    assert component.backward([None], [y], [Gradient.white(shape)]) == (None,)


def test_one_hot_code() -> None:
    component = make("one_hot", [(2, 3)], [(2, 3, 5)])
    (y,) = component.forward([None])
    assert (y.total_mean, y.total_second) == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize(("kind", "below"), [("lt", True), ("le", True), ("gt", False), ("ge", False)])
def test_comparison_of_gaussians(kind: str, below: bool) -> None:
    a, b = Input((256, 8, 4), 0.3, 2.0), Input((256, 8, 1), -0.2, 0.5)
    component = make("compare", [a.shape, b.shape], [a.shape], kind=kind)
    (y,) = component.forward([a.moments(), b.moments()])
    generator = torch.Generator().manual_seed(0)
    true = np.mean([float(((a.draw(generator) < b.draw(generator)) == below).double().mean()) for _ in range(40)])
    assert y.total_mean == pytest.approx(true, abs=5 * 0.5 / (40 * 256 * 8) ** 0.5)


@pytest.mark.parametrize("kind", ["not", "and", "or", "xor"])
def test_joined_masks(kind: str) -> None:
    """The share of ones among all pairs of independent masks."""
    shares = (0.3,) if kind == "not" else (0.3, 0.6)
    masks = [Moments.uniform((10, 10), p, p * (1 - p)) for p in shares]
    (y,) = make("logical", [(10, 10)] * len(masks), [(10, 10)], kind=kind).forward(masks)
    first, second = (torch.arange(10)[:, None] < 3).expand(10, 10), (torch.arange(10) < 6).expand(10, 10)
    true = getattr(torch, f"logical_{kind}")(first, *([] if kind == "not" else [second]))
    assert y.total_mean == pytest.approx(float(true.double().mean()), rel=1e-12)


def test_joining_what_is_not_known_is_refused() -> None:
    with pytest.raises(NotModelledError):
        make("logical", [(2, 3)] * 2, [(2, 3)], kind="and").forward([None, Moments.uniform((2, 3), 0.5, 0.25)])


def test_comparison_of_what_is_not_known_is_refused() -> None:
    component = make("compare", [(2, 3), (2, 3)], [(2, 3)], kind="lt")
    with pytest.raises(NotModelledError):
        component.forward([None, Moments.uniform((2, 3), 0.0, 1.0)])


@pytest.mark.parametrize(("shape", "axis", "k"), [((64, 4, 8), 2, 2), ((32, 6, 5), 1, 4)])
def test_scattered_updates(shape: tuple[int, ...], axis: int, k: int) -> None:
    small = tuple(k if i == axis else size for i, size in enumerate(shape))
    x, updates = Input(shape, 0.3, 1.0), Input(small, -1.0, 2.0)
    component = make("scatter", [shape, small, small], [shape], axis=axis)
    states = [x.moments(), None, updates.moments()]
    outputs = component.forward(states)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(60):
        places = torch.rand(shape, generator=generator).argsort(axis).narrow(axis, 0, k)
        a, b = x.draw(generator).requires_grad_(), updates.draw(generator).requires_grad_()
        y = torch.scatter(a, axis, places, b)
        cotangent = torch.randn(shape, generator=generator, dtype=torch.float64)
        pulled = torch.autograd.grad(y, (a, b), cotangent)
        y = y.detach()
        rows.append([float(y.mean()), float(y.square().mean()), *(float(g.square().sum() / y.numel()) for g in pulled)])
    found = np.array(rows)
    phis = component.phis(states, outputs)
    predicted = np.array([outputs[0].total_mean, outputs[0].total_second, phis[0], phis[2]])
    assert np.all(np.abs(predicted - found.mean(axis=0)) < 5 * found.std(axis=0, ddof=1) / 60**0.5)


def test_scatter_into_a_part_of_other_axes_is_refused() -> None:
    component = make("scatter", [(4, 6), (3, 2), (3, 2)], [(4, 6)], axis=1)
    with pytest.raises(NotModelledError, match="other axes"):
        component.forward([Moments.uniform((4, 6), 0.0, 1.0), None, Moments.uniform((3, 2), 0.0, 1.0)])


def test_where_takes_as_many_as_a_known_mask_says() -> None:
    shape = (4, 8)
    mask, a, b = (Moments.uniform(shape, *numbers) for numbers in ((0.25, 0.1875), (0.0, 1.0), (1.0, 0.0)))
    component = make("where", [shape] * 3, [shape])
    (y,) = component.forward([mask, a, b])
    assert (y.total_mean, y.total_second) == pytest.approx((0.75, 1.0))
    assert component.phis([mask, a, b], [y])[1:] == pytest.approx((0.25, 0.75))
    g = component.backward([mask, a, b], [y], [constant_cotangent(shape, None)])[1]
    assert g is not None
    assert float(g.position_covariance.mean()) == pytest.approx(0.25**2)
