"""Data movement and reductions: entries are moved, copied and added, and so are their moments."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gnelint.components import NotModelledError
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from tests.components.harness import EXACT, Case, Input, dense_energy, dense_moments, make, verify


def case(
    name: str,
    op: str,
    function: Callable[[torch.Tensor], Any],
    shape: tuple[int, ...],
    *,
    channel: int | None = 1,
    output: int | None = 1,
    mean: float = 0.6,
    position_correlation: float = 0.0,
    together: float | None = EXACT,
    compares_covariance: bool = False,
    forward: float = EXACT,
    gradient: float = EXACT,
    variance: float | None = EXACT,
    because: str = "",
    **attributes: Any,
) -> Case:
    return Case(
        name,
        op,
        function,
        (Input(shape, mean, 1.2, channel, position_correlation=position_correlation),),
        {},
        attributes,
        output,
        forward,
        gradient,
        together,
        variance,
        compares_covariance,
        because=because,
    )


def depth_to_space_dcr(x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, h * 2, w * 2)


def space_to_depth(x: torch.Tensor) -> torch.Tensor:
    """As ONNX orders it: the block's place comes before the channel."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, c * 4, h // 2, w // 2)


def exclusive_cumsum(x: torch.Tensor) -> torch.Tensor:
    return x.cumsum(1) - x


def reshape(
    name: str, shape: tuple[int, ...], new: tuple[int, ...], axis: int | None = 1, output_axis: int | None = 1
) -> Case:
    return case(
        name,
        "reshape",
        lambda x: x.reshape(new),
        shape,
        channel=axis,
        output=output_axis,
        together=None,
        because="channels of the output are not those of the input",
    )


WINDOWS = {"kernel": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
LINEAR = "neighbouring outputs share their inputs"

CASES = [
    case("plain", "identity", lambda x: x, (2, 3, 4)),
    case("plain", "dropout", lambda x: x, (2, 3, 4), p=0.3),
    reshape("merge positions", (2, 3, 4, 5), (2, 3, 20)),
    reshape("split positions", (2, 3, 20), (2, 3, 4, 5)),
    reshape("flatten", (2, 3, 2, 2), (2, 12)),
    reshape("unflatten", (2, 12), (2, 3, 4)),
    reshape("split channels", (2, 6, 4), (2, 2, 3, 4), output_axis=2),
    reshape("merge channels", (2, 2, 3, 4), (2, 6, 4), axis=2),
    reshape("heads", (2, 5, 6), (2, 5, 2, 3), axis=2, output_axis=3),
    reshape("batch and tokens", (2, 4, 6), (8, 6), axis=2),
    reshape("squeeze", (2, 3, 1, 1), (2, 3)),
    reshape("unsqueeze", (2, 3), (1, 2, 1, 3), output_axis=3),
    reshape("entangled", (2, 3, 4), (2, 4, 3), output_axis=1),
    case("tokens", "transpose", lambda x: x.transpose(1, 2), (2, 3, 4), output=2, perm=(0, 2, 1)),
    case("image", "transpose", lambda x: x.permute(0, 2, 3, 1), (2, 3, 4, 2), output=3, perm=(0, 2, 3, 1)),
    case(
        "cycle",
        "transpose",
        lambda x: x.permute(2, 0, 1),
        (2, 3, 4),
        output=2,
        together=None,
        perm=(2, 0, 1),
        because="axis 0 of the output is not the batch",
    ),
    case("channels", "slice", lambda x: x[:, 1:3], (2, 4, 3), axes=(1,), starts=(1,), ends=(3,), steps=(1,)),
    case(
        "positions",
        "slice",
        lambda x: x[:, :, 1:4],
        (2, 2, 5),
        axes=(2,),
        starts=(1,),
        ends=(4,),
        steps=(1,),
        together=None,
        because="the zeros around it have no position of their own",
    ),
    case(
        "token",
        "slice",
        lambda x: x[:, :1],
        (2, 5, 3),
        channel=2,
        output=2,
        axes=(1,),
        starts=(0,),
        ends=(1,),
        steps=(1,),
    ),
    case(
        "to the end",
        "slice",
        lambda x: x[:, :, 2:],
        (2, 2, 5),
        axes=(2,),
        starts=(2,),
        ends=(2**63 - 1,),
        steps=(1,),
        together=None,
        because="as above",
    ),
    case("steps", "slice", lambda x: x[:, ::2, 1::3], (2, 5, 7), axes=(1, 2), starts=(0, 1), ends=(5, 7), steps=(2, 3)),
    case("negative", "slice", lambda x: x[:, -3:-1], (2, 5, 3), axes=(1,), starts=(-3,), ends=(-1,), steps=(1,)),
    case("reversed", "slice", lambda x: x.flip(1), (2, 4, 3), axes=(1,), starts=(-1,), ends=(-(2**63),), steps=(-1,)),
    case(
        "reversed steps",
        "slice",
        lambda x: x.flip(1)[:, ::2],
        (2, 5, 3),
        axes=(1,),
        starts=(4,),
        ends=(-99,),
        steps=(-2,),
    ),
    Case(
        "channels",
        "split",
        lambda x: x.split([1, 2, 3], 1),
        (Input((2, 6, 3), 0.4, 1.2, 1),),
        {},
        {"axis": 1, "sizes": (1, 2, 3)},
    ),
    Case(
        "tokens",
        "split",
        lambda x: x.split([1, 4], 1),
        (Input((2, 5, 3), 0.4, 1.2, 2),),
        {},
        {"axis": 1, "sizes": (1, 4)},
        output_axis=2,
        together=None,
        because="two blocks of positions with a common number each",
    ),
    Case(
        "whole",
        "split",
        lambda x: x.split([5], 1),
        (Input((2, 5, 3), 0.4, 1.2, 2),),
        {},
        {"axis": -2, "sizes": (5,)},
        output_axis=2,
    ),
    Case(
        "rows",
        "gather",
        lambda x: x[:, [0, 0, 2, 1]],
        (Input((2, 3, 4), 0.4, 1.2, 1),),
        {"indices": np.array([0, 0, 2, 1])},
        {"axis": 1},
    ),
    Case(
        "negative",
        "gather",
        lambda x: x[:, [-1, 0]],
        (Input((2, 3, 4), 0.4, 1.2, 1),),
        {"indices": np.array([-1, 0])},
        {"axis": 1},
    ),
    Case("token", "gather", lambda x: x[:, 0], (Input((2, 3, 4), 0.4, 1.2, 2),), {"indices": np.array(0)}, {"axis": 1}),
    Case(
        "table",
        "gather",
        lambda x: x[:, [[0, 1], [2, 2]]],
        (Input((2, 3, 4), 0.4, 1.2, 2),),
        {"indices": np.array([[0, 1], [2, 2]])},
        {"axis": 1},
        output_axis=3,
        together=None,
        because="the picked positions are not all positions",
    ),
    case("zeros", "pad", lambda x: F.pad(x, (1, 2, 0, 1)), (2, 3, 3, 4), pads=(0, 0, 0, 1, 0, 0, 1, 2)),
    case("zeros line", "pad", lambda x: F.pad(x, (2, 2)), (2, 3, 5), pads=(0, 0, 2, 0, 0, 2)),
    case("channels", "pad", lambda x: F.pad(x, (0, 0, 1, 2)), (2, 3, 4), pads=(0, 1, 0, 0, 2, 0)),
    case("value", "pad", lambda x: F.pad(x, (1, 1), value=0.7), (2, 3, 4), pads=(0, 0, 1, 0, 0, 1), value=0.7),
    case(
        "reflect",
        "pad",
        lambda x: F.pad(x, (1, 1, 2, 1), mode="reflect"),
        (2, 3, 4, 4),
        pads=(0, 0, 2, 1, 0, 0, 1, 1),
        mode="reflect",
        together=None,
        because="copies are not at like positions",
    ),
    case(
        "edge",
        "pad",
        lambda x: F.pad(x, (2, 1), mode="replicate"),
        (2, 3, 4),
        pads=(0, 0, 2, 0, 0, 1),
        mode="edge",
        together=None,
        because="copies are not at like positions",
    ),
    case(
        "wrap",
        "pad",
        lambda x: F.pad(x, (2, 1), mode="circular"),
        (2, 3, 4),
        pads=(0, 0, 2, 0, 0, 1),
        mode="wrap",
        together=None,
        because="copies are not at like positions",
    ),
    case(
        "crop",
        "pad",
        lambda x: x[:, :, 1:4],
        (2, 3, 5),
        pads=(0, 0, -1, 0, 0, -1),
        together=None,
        because="as for slice",
    ),
    case("nearest", "upsample", lambda x: F.interpolate(x, scale_factor=2), (1, 2, 3, 3), mean=0.6),
    case(
        "nearest line",
        "upsample",
        lambda x: F.interpolate(x, size=7),
        (1, 2, 3),
        together=None,
        because="some entries are copied more often than others",
    ),
    case(
        "nearest correlated",
        "upsample",
        lambda x: F.interpolate(x, scale_factor=2),
        (1, 2, 3, 3),
        position_correlation=0.5,
    ),
    case(
        "bilinear",
        "upsample",
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        (1, 2, 4, 4),
        mode="linear",
        together=None,
        because=LINEAR,
    ),
    case(
        "linear down",
        "upsample",
        lambda x: F.interpolate(x, size=3, mode="linear"),
        (1, 2, 6),
        mode="linear",
        together=None,
        because=LINEAR,
    ),
    *(
        case(
            f"{mode} {size} {'corners' if corners else ''}{'antialias' if antialias else ''}",
            "upsample",
            partial(F.interpolate, size=size, mode=mode, align_corners=corners or None, antialias=antialias),
            (1, 1, 5, 6),
            mode={"bilinear": "linear", "bicubic": "cubic"}[mode],
            coordinates="align_corners" if corners else "half_pixel",
            antialias=antialias,
            cubic=-0.5 if antialias else -0.75,
            together=None,
            because=LINEAR,
        )
        for mode in ("bilinear", "bicubic")
        for size in ((9, 4), (3, 11))
        for corners, antialias in ((False, False), (True, False), (False, True))
    ),
    case("batch", "expand", lambda x: x.expand(4, 3, 2), (1, 3, 2)),
    case("positions", "expand", lambda x: x.expand(2, 3, 5), (2, 3, 1), compares_covariance=True),
    case("two axes", "expand", lambda x: x.expand(2, 3, 4, 2), (2, 3, 1, 1), compares_covariance=True),
    case("rank", "expand", lambda x: x.expand(2, 5, 3), (3,), channel=0, output=2),
    case(
        "channels",
        "tile",
        lambda x: x.tile(1, 2, 1),
        (2, 3, 2),
        together=None,
        because="copies are in different channels",
    ),
    case("positions", "tile", lambda x: x.tile(1, 1, 3), (2, 3, 2), together=None, because=LINEAR),
    case("roll", "roll", lambda x: x.roll((1, 2), (2, 3)), (2, 3, 3, 4), axes=(2, 3), shifts=(1, 2)),
    Case(
        "channels",
        "roll",
        lambda x: x.roll(1, 1),
        (Input((2, 3, 4), 0.4, 1.2, 2),),
        {},
        {"axes": (1,), "shifts": (1,)},
        output_axis=2,
    ),
    case("space", "flip", lambda x: x.flip(2), (2, 3, 4), axes=(2,)),
    case(
        "CRD",
        "depth_to_space",
        lambda x: F.pixel_shuffle(x, 2),
        (1, 8, 2, 3),
        together=None,
        block=2,
        mode="CRD",
        because="channels become positions",
    ),
    case(
        "DCR",
        "depth_to_space",
        depth_to_space_dcr,
        (1, 8, 2, 3),
        together=None,
        block=2,
        mode="DCR",
        because="channels become positions",
    ),
    case(
        "plain",
        "space_to_depth",
        space_to_depth,
        (1, 2, 4, 6),
        together=None,
        block=2,
        because="positions become channels",
    ),
    case(
        "patches",
        "unfold",
        lambda x: F.unfold(x, 2, stride=2),
        (1, 3, 4, 4),
        together=None,
        variance=None,
        **WINDOWS,
        because="positions become channels",
    ),
    case(
        "patches",
        "fold",
        lambda x: F.fold(x, (4, 4), 2, stride=2),
        (1, 12, 4),
        together=None,
        variance=None,
        **WINDOWS,
        because="channels become positions",
    ),
    case(
        "mean",
        "reduce_mean",
        lambda x: x.mean((2, 3), keepdim=True),
        (2, 3, 4, 2),
        axes=(2, 3),
        compares_covariance=True,
    ),
    case(
        "mean correlated",
        "reduce_mean",
        lambda x: x.mean((2, 3), keepdim=True),
        (2, 3, 4, 2),
        axes=(2, 3),
        position_correlation=0.4,
    ),
    case("mean dropped", "reduce_mean", lambda x: x.mean(1), (2, 4, 3), channel=2, output=1, axes=(1,), keepdims=False),
    case(
        "mean over channels",
        "reduce_mean",
        lambda x: x.mean(1, keepdim=True),
        (2, 4, 3),
        channel=1,
        output=2,
        axes=(1,),
        together=None,
        because="channels of the output are positions of the input",
    ),
    case(
        "mean of everything",
        "reduce_mean",
        lambda x: x.mean((0, 1), keepdim=True),
        (2, 4),
        output=None,
        axes=(0, 1),
        together=None,
        because="one number for the whole batch",
    ),
    case("sum", "reduce_sum", lambda x: x.sum(2), (2, 3, 4), axes=(2,), keepdims=False),
    case(
        "sum correlated",
        "reduce_sum",
        lambda x: x.sum(2),
        (2, 3, 4),
        axes=(2,),
        keepdims=False,
        position_correlation=0.4,
    ),
    case(
        "sum batch",
        "reduce_sum",
        lambda x: x.sum(0, keepdim=True),
        (4, 3),
        axes=(0,),
        together=None,
        because="one number for the whole batch",
    ),
    Case(
        "positions", "cumsum", lambda x: x.cumsum(1), (Input((2, 5, 3), 0.4, 1.2, 2),), {}, {"axis": 1}, output_axis=2
    ),
    Case(
        "exclusive",
        "cumsum",
        exclusive_cumsum,
        (Input((2, 5, 3), 0.4, 1.2, 2),),
        {},
        {"axis": 1, "exclusive": True},
        output_axis=2,
    ),
    Case(
        "reverse",
        "cumsum",
        lambda x: x.flip(1).cumsum(1).flip(1),
        (Input((2, 5, 3), 0.4, 1.2, 2),),
        {},
        {"axis": 1, "reverse": True},
        output_axis=2,
    ),
    Case(
        "correlated",
        "cumsum",
        lambda x: x.cumsum(1),
        (Input((2, 5, 3), 0.4, 1.2, 2, position_correlation=0.5),),
        {},
        {"axis": 1},
        output_axis=2,
    ),
]

LARGEST = "independent Gaussians, as assumed, so only the sampling error is left"
NORM = "the norm of k entries fluctuates by 1/sqrt(2k): second order in that"

CASES += [
    Case(
        "positions",
        "reduce_max",
        lambda x: x.amax(2, keepdim=True),
        (Input((64, 3, 7), 0.4, 1.5, 1),),
        {},
        {"axes": (2,)},
        draws=60,
        forward=1e-3,
        gradient=1e-3,
        together=1e-3,
        because=LARGEST,
    ),
    Case(
        "positions",
        "reduce_min",
        lambda x: x.amin((2, 3)),
        (Input((64, 3, 3, 4), 0.4, 1.5, 1),),
        {},
        {"axes": (2, 3), "keepdims": False},
        draws=60,
        forward=1e-3,
        gradient=1e-3,
        together=1e-3,
        because=LARGEST,
    ),
    Case(
        "channels",
        "reduce_l2",
        lambda x: x.norm(dim=2, keepdim=True),
        (Input((64, 3, 24), 0.3, 1.5, 1),),
        {},
        {"axes": (2,)},
        draws=40,
        forward=2e-3,
        gradient=2e-3,
        together=2e-3,
        because=NORM,
    ),
    Case(
        "pairs",
        "reduce_l2",
        lambda x: x.norm(dim=3),
        (Input((64, 3, 24, 2), 0.0, 1.5, 1),),
        {},
        {"axes": (3,), "keepdims": False},
        draws=40,
        forward=2e-3,
        gradient=2e-3,
        together=2e-3,
        because=LARGEST,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_against_autograd(case: Case) -> None:
    verify(case)


def test_zero_padding_of_the_theory() -> None:
    component = make("pad", [(1, 8)], [(1, 12)], pads=(0, 2, 0, 2))
    x = Moments.uniform((1, 8), 0.0, 1.0)
    y = component.forward([x])
    assert component.phis([x], y) == pytest.approx((2 / 3,))
    assert component.phi_variance([x], y) == pytest.approx(2 / 9)
    assert y[0].total_second == pytest.approx(2 / 3)


def test_slice_of_one_token_keeps_the_rest_at_zero() -> None:
    component = make("slice", [(2, 5, 3)], [(2, 1, 3)], axes=(1,), starts=(0,), ends=(1,), steps=(1,))
    x = Moments.uniform((2, 5, 3), 0.0, 1.0)
    (g,) = component.backward([x], component.forward([x]), [Gradient.white((2, 1, 3))])
    assert g is not None
    energy = dense_energy(g)
    assert np.all(energy[:, 0] == 1.0)
    assert np.all(energy[:, 1:] == 0.0)


def test_class_token_stays_apart_from_the_patches() -> None:
    """Cells {class token, the rest} along the tokens survive a slice, and come back out of one."""
    axes = (Axis(2), Axis(6, (1,)), Axis(3))
    x = Moments.flat(axes, np.array([5.0, 0.0]).reshape(1, 2, 1), np.array([0.0, 2.0]).reshape(1, 2, 1))
    front = make("slice", [(2, 6, 3)], [(2, 1, 3)], axes=(1,), starts=(0,), ends=(1,), steps=(1,)).forward([x])[0]
    rest = make("slice", [(2, 6, 3)], [(2, 5, 3)], axes=(1,), starts=(1,), ends=(6,), steps=(1,)).forward([x])[0]
    assert (front.total_mean, front.total_second) == (5.0, 25.0)
    assert (rest.total_mean, rest.total_second) == (0.0, 2.0)


def test_gather_by_an_index_that_is_computed() -> None:
    """Without known indices every row is as likely: moments of the average row, the gradient spread evenly."""
    component = make("gather", [(6, 3), (4,)], [(4, 3)], axis=0)
    x = Moments.flat((Axis(6), Axis.full(3)), np.arange(3.0).reshape(1, 3), np.ones((1, 3)))
    (y,) = component.forward([x, None])
    np.testing.assert_allclose(dense_moments(y)[0], np.broadcast_to(np.arange(3.0), (4, 3)))
    (g, none) = component.backward([x, None], [y], [Gradient.white((4, 3))])
    assert none is None
    assert g is not None
    assert g.total == pytest.approx(12.0)
    with pytest.raises(NotModelledError):
        component.forward([None, None])


def test_gradients_of_a_split_that_is_used_in_part() -> None:
    component = make("split", [(2, 6, 3)], [(2, 2, 3), (2, 4, 3)], axis=1, sizes=(2, 4))
    x = Moments.uniform((2, 6, 3), 0.0, 1.0)
    y = component.forward([x])
    (g,) = component.backward([x], y, [None, Gradient.white((2, 4, 3))])
    assert g is not None
    energy = dense_energy(g)
    assert np.all(energy[:, :2] == 0)
    assert np.all(energy[:, 2:] == 1)
    assert component.backward([x], y, [None, None]) == (None,)


@pytest.mark.parametrize("stride", [1, 2])
def test_overlapping_patches(stride: int) -> None:
    """phi is the fraction of taps inside the image."""
    unfold = torch.nn.Unfold(3, padding=1, stride=stride)
    J = torch.autograd.functional.jacobian(unfold, torch.zeros(1, 2, 4, 4, dtype=torch.float64))
    out = tuple(J.shape[:3])
    component = make(
        "unfold", [(1, 2, 4, 4)], [out], kernel=(3, 3), strides=(stride,) * 2, pads=(1,) * 4, dilations=(1, 1)
    )
    x = Moments.uniform((1, 2, 4, 4), 0.0, 1.0)
    y = component.forward([x])
    phi = float(J.square().sum()) / math.prod(out)
    assert component.phis([x], y) == pytest.approx((phi,), rel=1e-9)
    assert y[0].total_second == pytest.approx(phi, rel=1e-9)


def test_upsampling_what_all_positions_share_keeps_it() -> None:
    component = make("upsample", [(1, 2, 4)], [(1, 2, 8)], mode="linear")
    x = Moments.flat((Axis(1), Axis(2), Axis(4)), np.zeros((1, 1, 1)), np.ones((1, 1, 1)), np.ones((1, 1, 1)))
    (y,) = component.forward([x])
    assert y.total_second == pytest.approx(1.0)
    (g,) = component.backward([x], [y], [Gradient.flat((*x.axes[:2], Axis(8)), np.ones(1), 1.0)])
    assert g is not None
    # every input receives about two outputs' worth, coherently: sum_x (sum_p w_px)^2 / 4
    weights = F.interpolate(torch.eye(4, dtype=torch.float64)[None], scale_factor=2, mode="linear")[0]
    assert g.total == pytest.approx(2 * float(weights.sum(1).square().sum()), rel=1e-9)


@pytest.mark.parametrize("axis", [2, 3])
def test_upsampling_positions_in_cells_of_their_own(axis: int) -> None:
    """As behind a part that was run on draws: nothing broadcast such cells, and the map was run as well."""
    rng = np.random.default_rng(0)
    axes = tuple(Axis.full(size) if place == axis else Axis(size) for place, size in enumerate((2, 3, 4, 4)))
    shape = tuple(each.count for each in axes)
    x = Moments.flat(axes, rng.random(shape), rng.random(shape))
    (y,) = make("upsample", [(2, 3, 4, 4)], [(2, 3, 8, 8)], mode="nearest").forward([x])
    assert (y.shape, y.mean.shape) == ((2, 3, 8, 8), (1, 1, 1, 1))
    assert y.total_mean == pytest.approx(x.total_mean)
    assert y.total_second == pytest.approx(x.total_second)


def test_tiling_an_axis_of_one_entry_is_broadcasting() -> None:
    """The batch stays the first axis: copies of a key head for its query heads share what the head has, no more."""
    before, behind = (4, 3, 1, 5, 2), (4, 3, 2, 5, 2)
    axes = (Axis(4), Axis(3), Axis(1), Axis(5), Axis.full(2))
    ones = np.ones((1, 1, 1, 1, 2))
    x, g = Moments.flat(axes, 0.5 * ones, 2.0 * ones, 0.3 * ones), (*axes[:2], Axis(2), *axes[3:])
    tile, expand = (make(op, [before], [behind]) for op in ("tile", "expand"))
    np.testing.assert_array_equal(tile.forward([x])[0].position_covariance, expand.forward([x])[0].position_covariance)
    cotangent = Gradient.flat(g, ones, 0.2 * ones)
    first, second = (one.backward([x], one.forward([x]), [cotangent])[0] for one in (tile, expand))
    assert first is not None
    assert second is not None
    assert first.shape == second.shape == before
    np.testing.assert_array_equal(first.energy, second.energy)
    np.testing.assert_array_equal(first.position_covariance, second.position_covariance)


@pytest.mark.parametrize(
    ("op", "attributes", "before", "behind"),
    [
        ("roll", {"axes": (1,), "shifts": (1,)}, (2, 4, 3), (2, 4, 3)),
        ("flip", {"axes": (-1,)}, (2, 4, 3), (2, 4, 3)),
        ("tile", {}, (2, 3), (4, 2, 9)),
        ("expand", {}, (3, 1), (2, 3, 4)),
        ("reshape", {}, (2, 0, 3), (0, 6)),
        ("identity", {}, (), ()),
    ],
)
def test_odd_shapes_keep_their_total(
    op: str, attributes: dict[str, Any], before: tuple[int, ...], behind: tuple[int, ...]
) -> None:
    component = make(op, [before], [behind], **attributes)
    x = Moments.uniform(before, 0.5, 2.0)
    (y,) = component.forward([x])
    assert y.shape == behind
    assert y.total_mean == pytest.approx(0.5)
    assert y.total_second == pytest.approx(2.25)
    (g,) = component.backward([x], [y], [Gradient.white(behind)])
    assert g is not None
    assert g.shape == before
    assert g.total == pytest.approx(math.prod(behind))


@pytest.mark.parametrize(("stride", "padding", "mean"), [(1, 1, 0.0), (2, 0, 0.7)])
def test_overlapping_windows_add_up(stride: int, padding: int, mean: float) -> None:
    """phi, both moments and the gradient's energy from the whole Jacobian."""
    fold = torch.nn.Fold((5, 5), 3, padding=padding, stride=stride)
    side = (5 + 2 * padding - 3) // stride + 1
    columns = (1, 18, side**2)
    J = torch.autograd.functional.jacobian(fold, torch.zeros(columns, dtype=torch.float64))
    out = tuple(J.shape[:4])
    matrix = J.reshape(math.prod(out), -1)
    component = make(
        "fold", [columns], [out], kernel=(3, 3), strides=(stride,) * 2, pads=(padding,) * 4, dilations=(1, 1)
    )
    x = Moments.uniform(columns, mean, 1.0)
    (y,) = component.forward([x])
    assert component.phis([x], [y]) == pytest.approx((float(matrix.square().sum()) / len(matrix),), rel=1e-9)
    assert y.total_mean == pytest.approx(mean * float(matrix.sum(1).mean()), rel=1e-9, abs=1e-12)
    second = matrix.square().sum(1) + (mean * matrix.sum(1)) ** 2
    assert y.total_second == pytest.approx(float(second.mean()), rel=1e-9)


def test_the_largest_of_rectified_values_knows_that_it_passed() -> None:
    """max over positions of ReLU(z) is ReLU(max z): both moments, and a gradient that the rectifier lets through."""
    shape, generator = (400, 5, 16), torch.Generator().manual_seed(0)
    z = 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64) - 0.4
    true = z.relu().amax(2)
    relu, largest = make("relu", [shape], [shape]), make("reduce_max", [shape], [shape[:2]], axes=(2,), keepdims=False)
    x = Moments.uniform(shape, -0.4, 1.5**2)
    (rectified,) = relu.forward([x])
    (y,) = largest.forward([rectified])
    assert y.total_mean == pytest.approx(float(true.mean()), rel=0.02)  # 2000 draws
    assert y.total_second == pytest.approx(float(true.square().mean()), rel=0.03)
    (g,) = largest.backward([rectified], [y], [Gradient.white(shape[:2])])
    (pulled,) = relu.backward([x], [rectified], [g])
    assert pulled is not None
    assert pulled.total == pytest.approx(float((true > 0).sum()), rel=0.01)


@pytest.mark.parametrize("alike", [(), (1,), (2,), (1, 2)])
def test_a_mask_that_divides_by_nothing_removes_what_it_does_not_keep(alike: tuple[int, ...]) -> None:
    """Against the average over all masks, each with its probability: moments, covariances and gradients."""
    shape, kept = (1, 3, 2), 0.75
    narrow = tuple(1 if index in alike else size for index, size in enumerate(shape))
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * math.prod(narrow))
    masks = masks.reshape(-1, math.prod(narrow))
    chances = torch.where(masks > 0, kept, 1 - kept).prod(1)
    wide = masks.reshape(-1, *narrow).expand(-1, *shape).reshape(len(masks), -1)
    both = torch.einsum("k,ki,kj->ij", chances, wide, wide).numpy()  # E m m'
    apart = ~np.eye(len(both), dtype=bool)

    component = make("dropout", [shape], [shape], p=1 - kept, inverted=False, alike=alike)
    x = Moments.flat(tuple(map(Axis, shape)), np.array(0.4), np.array(1.5), np.array(0.6))
    (y,) = component.forward([x])
    second = both * np.where(apart, 0.6 + 0.4**2, 1.5 + 0.4**2)
    assert y.total_mean == pytest.approx(kept * 0.4)
    assert y.total_second == pytest.approx(float(np.diag(second).mean()))
    assert float(y.position_covariance.mean()) == pytest.approx(float(second[apart].mean()) - (kept * 0.4) ** 2)
    (g,) = component.backward([x], [y], [Gradient.flat(x.axes, np.array(2.0), 1.3)])
    assert g is not None
    assert g.total == pytest.approx(2.0 * float(np.diag(both).sum()))
    assert float(g.position_covariance.mean()) == pytest.approx(1.3 * float(both[apart].mean()))
    assert component.phis([x], [y]) == pytest.approx((kept,))
    spectrum = (wide**4).mean(1) - 2 * kept * (wide**2).mean(1) + kept**2
    assert component.phi_variance([x], [y]) == pytest.approx(float((chances * spectrum).sum()))
