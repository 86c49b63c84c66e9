"""Convolutions of every kind: gradients and moments per channel are exact, the spectrum's variance for independent
kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from tests.components.harness import (
    Case,
    Input,
    component_of,
    dense_energy,
    dense_moments,
    everywhere,
    jacobian,
    make,
    pairs,
    per_channel,
    together,
    verify,
)

rng = torch.Generator().manual_seed(3)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Whatever ran before in this process: a test that holds must hold again."""
    rng.manual_seed(3)


def conv_case(
    name: str,
    shape: tuple[int, ...],
    out: int,
    kernel: tuple[int, ...],
    *,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
    mean: float = 0.4,
) -> Case:
    space = len(shape) - 2
    weight = torch.randn(out, shape[1] // groups, *kernel, generator=rng, dtype=torch.float64) + 0.1
    offset = torch.randn(out, generator=rng, dtype=torch.float64) if bias else None
    convolve = (F.conv1d, F.conv2d, F.conv3d)[space - 1]
    return Case(
        name,
        "conv",
        lambda x: convolve(x, weight, offset, stride, pad, dilation, groups),
        (Input(shape, mean, 1.2, 1),),
        {"weight": weight} | ({"bias": offset} if bias else {}),
        {"strides": (stride,) * space, "pads": (pad,) * 2 * space, "dilations": (dilation,) * space, "groups": groups},
        together=None,
        variance=None,
        because="cotangents that positions share meet overlapping taps, taken as independent weights",
    )


def transposed_case(
    name: str,
    shape: tuple[int, ...],
    out: int,
    kernel: tuple[int, ...],
    *,
    stride: int = 1,
    pad: int = 0,
    extra: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> Case:
    space = len(shape) - 2
    weight = torch.randn(shape[1], out // groups, *kernel, generator=rng, dtype=torch.float64) + 0.1
    offset = torch.randn(out, generator=rng, dtype=torch.float64) if bias else None
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[space - 1]
    return Case(
        name,
        "conv_transpose",
        lambda x: convolve(x, weight, offset, stride, pad, extra, groups, dilation),
        (Input(shape, 0.4, 1.2, 1),),
        {"weight": weight} | ({"bias": offset} if bias else {}),
        {
            "strides": (stride,) * space,
            "pads": (pad,) * 2 * space,
            "dilations": (dilation,) * space,
            "groups": groups,
            "output_padding": (extra,) * space,
        },
        together=None,
        variance=None,
        because="as for conv",
    )


CASES = [
    conv_case("valid", (1, 2, 6, 6), 3, (3, 3)),
    conv_case("same", (1, 2, 5, 5), 3, (3, 3), pad=1, bias=True),
    conv_case("same no mean", (1, 2, 5, 5), 3, (3, 3), pad=1, mean=0.0),
    conv_case("stride", (1, 2, 7, 7), 4, (3, 3), stride=2, pad=1),
    conv_case("stride even", (1, 2, 8, 6), 4, (3, 3), stride=2, pad=1),
    conv_case("stem", (1, 3, 9, 9), 2, (7, 7), stride=2, pad=3),
    conv_case("dilation", (1, 2, 7, 7), 3, (3, 3), pad=2, dilation=2),
    conv_case("dilation stride", (1, 2, 9, 9), 3, (3, 3), pad=2, dilation=2, stride=3),
    conv_case("groups", (1, 6, 4, 4), 4, (3, 3), pad=1, groups=2, bias=True),
    conv_case("depthwise", (1, 4, 5, 5), 4, (3, 3), pad=1, groups=4),
    conv_case("depthwise multiplier", (1, 3, 4, 4), 6, (3, 3), pad=1, groups=3),
    conv_case("pointwise", (1, 5, 3, 3), 4, (1, 1)),
    conv_case("pointwise stride", (1, 5, 4, 4), 4, (1, 1), stride=2),
    conv_case("patches", (1, 3, 8, 8), 5, (4, 4), stride=4),
    conv_case("pad above kernel", (1, 2, 3, 3), 2, (3, 3), pad=3),
    conv_case("rectangle", (1, 2, 5, 6), 3, (1, 5), pad=2),
    conv_case("line", (2, 3, 9), 4, (3,), pad=1, bias=True),
    conv_case("line stride dilation", (2, 3, 12), 4, (3,), stride=2, dilation=3, pad=1),
    conv_case("volume", (1, 2, 3, 4, 4), 3, (2, 3, 3), pad=1),
    transposed_case("plain", (1, 2, 4, 4), 3, (3, 3)),
    transposed_case("double", (1, 3, 3, 3), 2, (2, 2), stride=2, bias=True),
    transposed_case("generator", (1, 3, 3, 3), 2, (4, 4), stride=2, pad=1),
    transposed_case("output padding", (1, 3, 3, 3), 2, (3, 3), stride=2, pad=1, extra=1),
    transposed_case("groups", (1, 4, 3, 3), 6, (3, 3), stride=2, pad=1, groups=2),
    transposed_case("dilation", (1, 2, 4, 4), 3, (3, 3), dilation=2, pad=1),
    transposed_case("line", (2, 3, 5), 4, (4,), stride=3, pad=1),
    transposed_case("volume", (1, 2, 2, 3, 3), 3, (2, 2, 2), stride=2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_against_autograd(case: Case) -> None:
    verify(case)


def one_conv(
    op: str,
    weight: np.ndarray,
    shape: tuple[int, ...],
    out: tuple[int, ...],
    *,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> tuple[float, float | None]:
    component = make(
        op,
        [shape],
        [out],
        {"weight": weight},
        strides=(stride, stride),
        pads=(pad,) * 4,
        dilations=(dilation, dilation),
        groups=groups,
    )
    x = Moments.uniform(shape, 0.0, 1.0)
    y = component.forward([x])
    (phi,) = component.phis([x], y)
    assert phi is not None
    return phi, component.phi_variance([x], y)


def test_variance_of_a_random_kernel_s_spectrum() -> None:
    """The variance for independent entries, against drawn kernels: one kernel of 8 x 6 x 9 entries scatters by some
    per cent."""
    generator = torch.Generator().manual_seed(0)
    seen, said = [], []
    for _ in range(8):
        weight = torch.randn(6, 8, 3, 3, generator=generator, dtype=torch.float64) / 72**0.5
        x = torch.zeros(1, 8, 6, 6, dtype=torch.float64)
        J = torch.autograd.functional.jacobian(lambda z, w=weight: F.conv2d(z, w, padding=1), x).reshape(216, 288)
        gram = J @ J.T
        phi = gram.trace() / 216
        seen.append(float(gram.square().sum() / 216 - phi**2))
        said.append(one_conv("conv", weight.numpy(), (1, 8, 6, 6), (1, 6, 6, 6), pad=1)[1])
    error = np.std(seen, ddof=1) / 8**0.5
    assert np.mean(said) == pytest.approx(np.mean(seen), abs=5 * error)


def test_padding_darkens_the_border() -> None:
    """Energy along each axis follows the number of taps inside; exact for white inputs in one dimension."""
    weight = torch.randn(4, 3, 5, generator=rng, dtype=torch.float64).numpy()
    component = make("conv", [(1, 3, 9)], [(1, 4, 9)], {"weight": weight}, strides=(1,), pads=(2, 2), dilations=(1,))
    x = Moments.uniform((1, 3, 9), 0.0, 1.0)
    (y,) = component.forward([x])
    J = torch.autograd.functional.jacobian(
        lambda z: F.conv1d(z, torch.from_numpy(weight), padding=2), torch.zeros(1, 3, 9, dtype=torch.float64)
    ).reshape(36, 27)
    true = J.square().sum(1).reshape(4, 9).mean(0).numpy()
    np.testing.assert_allclose(dense_moments(y)[1].mean(axis=(0, 1)), true, rtol=1e-9)
    (g,) = component.backward([x], [y], [Gradient.white((1, 4, 9))])
    assert g is not None
    np.testing.assert_allclose(
        dense_energy(g).mean(axis=(0, 1)), J.square().sum(0).reshape(3, 9).mean(0).numpy(), rtol=1e-9
    )


def test_a_border_in_cells_of_its_own_is_seen() -> None:
    """What an activation or a normalisation has put into cells: the next window reads a weak border as one."""
    line = np.array([0.4, 0.9, 1.3, 1.3, 0.9, 0.4])
    variance = np.broadcast_to(line[:, None] * line, (1, 3, 6, 6))
    weight = torch.randn(3, 1, 3, 3, generator=rng, dtype=torch.float64).numpy()
    attributes = {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1), "groups": 3}
    component = make("conv", [(8, 3, 6, 6)], [(8, 3, 6, 6)], {"weight": weight}, **attributes)
    x = Moments.flat((Axis(8), *(Axis.full(size) for size in (3, 6, 6))), np.zeros(1), variance)
    (y,) = component.forward([x])
    true = F.conv2d(torch.from_numpy(variance.copy()), torch.from_numpy(weight**2), padding=1, groups=3).numpy()
    found = dense_moments(y)[1][:1]
    np.testing.assert_allclose(found.mean(axis=(2, 3)), true.mean(axis=(2, 3)), rtol=1e-9)  # by channel
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), true.mean(axis=(0, 1, 2)), rtol=0.05)  # by column


def test_two_padded_convolutions_in_a_row() -> None:
    """The second one sees the first one's border: the product of phis alone would be too high or too low there.

    Averaged over kernels: the second's taps are then independent of the first's outputs.
    """
    generator = torch.Generator().manual_seed(2)
    true, said = [], []
    for _ in range(24):
        w1, w2 = (torch.randn(16, 16, 3, 3, generator=generator, dtype=torch.float64) / 12 for _ in range(2))
        g = torch.randn(1, 16, 4, 4, generator=generator, dtype=torch.float64)
        x = torch.zeros(1, 16, 4, 4, dtype=torch.float64, requires_grad=True)
        pulled = torch.autograd.grad(F.conv2d(F.conv2d(x, w1, padding=1), w2, padding=1), x, g)[0]
        true.append(float(pulled.square().sum() / 256))
        attributes = {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1)}
        shape = (1, 16, 4, 4)
        first = make("conv", [shape], [shape], {"weight": w1}, **attributes)
        second = make("conv", [shape], [shape], {"weight": w2}, **attributes)
        z = Moments.uniform(shape, 0.0, 1.0)
        (h,) = first.forward([z])
        (back,) = second.backward([h], second.forward([h]), [Gradient.white(shape)])
        (front,) = first.backward([z], [h], [back])
        assert front is not None
        said.append(front.total / 256)
    error = np.std(true, ddof=1) / 24**0.5
    assert np.mean(said) == pytest.approx(np.mean(true), abs=4 * error)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_between_zeros_only_some_taps_meet(shared: float) -> None:
    """Zeros put between entries and a kernel that interpolates them: pairs of taps were counted as if both saw an
    entry everywhere (0.5 bit too much)."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    weight = torch.outer(taps, taps)[None, None] / 16
    component = make(
        "conv", [(2, 1, 19, 19)], [(2, 1, 16, 16)], {"weight": weight.numpy()},
        strides=(1, 1), pads=(0,) * 4, dilations=(1, 1),
    )  # fmt: skip
    there = torch.zeros(19, 19, dtype=torch.float64)
    there[2:18:2, 2:18:2] = 1.0
    line = there[2].numpy() * 19 / 8
    few = (8 / 19) ** 2  # of all entries; of pairs its square
    cells = tuple(Axis(size) for size in (2, 1, 19, 19))
    arrays = (np.array(0.5 * few**0.5), np.array(few), np.array(shared * few**2))
    x = Moments(cells, (None, None, line, line), *(a.reshape(1, 1, 1, 1) for a in arrays))
    (y,) = component.forward([x])
    flat = there.reshape(-1)
    covariance = flat[:, None] * flat * (0.25 + shared) + torch.diag(flat * (1.0 - shared))
    matrix = torch.autograd.functional.jacobian(
        lambda z: F.conv2d(z.reshape(1, 1, 19, 19), weight).reshape(-1), torch.zeros(361, dtype=torch.float64)
    )
    found = matrix @ covariance @ matrix.T
    pairs = (float(found.sum()) - float(found.trace())) / (256 * 255)
    mean = float((matrix @ flat).mean()) / 2
    assert y.total_second == pytest.approx(float(found.diagonal().mean()), rel=1e-6)
    assert y.total_mean == pytest.approx(mean, rel=1e-6)
    assert float(y.position_covariance.mean()) == pytest.approx(pairs - mean**2, abs=0.02)


def test_border_through_two_convolutions_is_counted_once_more() -> None:
    """Three taps on four positions: per axis sum_p count(p)^2 / (3^2 4) = 13/18 behind two, where phi^2 says
    (10/12)^2."""
    weight = np.full((4, 4, 3, 3), 1 / 6)
    attributes = {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1)}
    shape = (1, 4, 4, 4)
    component = make("conv", [shape], [shape], {"weight": weight}, **attributes)
    x = Moments.uniform(shape, 0.0, 1.0)
    y = component.forward([x])
    (once,) = component.backward([x], y, [Gradient.white(shape)])
    assert once is not None
    apart = replace(once, position_covariance=0.0 * once.energy)  # as behind a kernel of its own, whose taps have signs
    (twice,) = component.backward([x], y, [apart])
    assert twice is not None
    assert once.total / 64 == pytest.approx((10 / 12) ** 2, rel=1e-9)
    assert twice.total / 64 == pytest.approx((13 / 18) ** 2, rel=1e-9)


@pytest.mark.parametrize("shared", ["mean-free", 0.0, 0.5, 1.0])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_positions_share(case: Case, shared: float | str) -> None:
    """The covariance of two positions' gradients behind cotangents that share nothing, half, all, or sum to zero."""
    component = component_of(case)
    matrix, _, (shape,) = jacobian(case)
    inputs = [each.moments() for each in case.inputs]
    outputs = component.forward(inputs)
    positions = int(np.prod(shape[2:]))
    c = -1.0 / max(positions - 1, 1) if isinstance(shared, str) else shared
    axes = tuple(Axis.full(n) if i == 1 else Axis(n) for i, n in enumerate(shape))
    (found,) = component.backward(inputs, outputs, [Gradient.flat(axes, np.ones(1), c)])
    assert found is not None
    pair = together(shape, 1)
    true = matrix.T @ ((1.0 - c) * np.eye(len(pair)) + c * pair) @ matrix
    energy = per_channel(np.diag(true).reshape(component.input_shape), 1)
    assert per_channel(dense_energy(found), 1) == pytest.approx(energy, rel=0.005, abs=1e-9)
    covariance = pairs(true, component.input_shape, 1)
    known = ~np.isnan(covariance)
    predicted = per_channel(everywhere(found.position_covariance, found), 1)
    assert predicted[known] == pytest.approx(covariance[known], abs=0.002 * float(energy.max()))
