"""Matrices, embedding tables, and constants that are added or multiplied: exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from tests.components.harness import EXACT, Case, Input, make, verify

rng = torch.Generator().manual_seed(11)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Whatever ran before in this process: a test that holds must hold again."""
    rng.manual_seed(11)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def linear_case(name: str, shape: tuple[int, ...], out: int, *, bias: bool = False, scatter: bool = True) -> Case:
    weight = normal(out, shape[-1]) + 0.3
    offset = normal(out) if bias else None
    parameters = {"weight": weight} | ({"bias": offset} if bias else {})
    last = len(shape) - 1
    each = Input(shape, mean=0.4, variance=1.3, axis=last if scatter else None)
    return Case(name, "linear", lambda x: F.linear(x, weight, offset), (each,), parameters, output_axis=last)


def bias_case(name: str, shape: tuple[int, ...], constant: torch.Tensor, factor: float = 1.0, axis: int = 1) -> Case:
    attributes = {} if factor == 1.0 else {"factor": factor}
    each = Input(shape, 0.5, 1.0, axis)
    return Case(name, "bias", lambda x: x + factor * constant, (each,), {"bias": constant}, attributes, axis)


def scale_case(
    name: str,
    shape: tuple[int, ...],
    constant: torch.Tensor | None,
    factor: float = 1.0,
    reciprocal: bool = False,
    axis: int = 1,
    together: float | None = EXACT,
    because: str = "",
) -> Case:
    def function(x: torch.Tensor) -> torch.Tensor:
        if constant is None:
            return factor * x
        return factor * x / constant if reciprocal else factor * x * constant

    attributes = {"factor": factor, "reciprocal": reciprocal}
    parameters = {} if constant is None else {"scale": constant}
    each = Input(shape, 0.5, 1.0, axis)
    return Case(name, "scale", function, (each,), parameters, attributes, axis, together=together, because=because)


UNEVEN = "a factor that varies within a cell makes a constant cotangent uneven, which one covariance cannot say"

CASES = [
    linear_case("plain", (3, 5), 4),
    linear_case("wide bias", (2, 3), 7, bias=True),
    linear_case("tokens", (2, 3, 5), 4, bias=True),
    linear_case("tokens alike", (2, 3, 5), 4, scatter=False),
    linear_case("windows", (2, 2, 3, 4), 6),
    linear_case("one output", (4, 6), 1),
    linear_case("one input", (4, 1), 3),
    bias_case("channel", (2, 3, 4, 4), normal(3, 1, 1)),
    bias_case("last", (2, 4, 5), normal(5), axis=2),
    bias_case("negative factor", (2, 4, 5), normal(5), -0.5, axis=2),
    bias_case("positions", (2, 4, 5), normal(4, 5), axis=2),
    bias_case("everything", (2, 3, 4), normal(2, 3, 4), axis=1),
    bias_case("number", (2, 3), torch.tensor(0.7, dtype=torch.float64), axis=1),
    scale_case("number", (2, 3, 4), None, 0.25),
    scale_case("layer scale", (2, 4, 5), normal(5), axis=2),
    scale_case("channel", (2, 3, 4, 4), normal(3, 1, 1)),
    scale_case("reciprocal", (2, 3, 4), normal(3, 1) + 3, 2.0, True),
    scale_case("number tensor", (2, 3, 4), torch.tensor(0.7, dtype=torch.float64), 1.5),
    scale_case("positions", (2, 4, 5), normal(4, 5), axis=2, together=None, because=UNEVEN),
    scale_case("widened", (2, 1, 4), normal(3, 1), axis=2, together=None, because=UNEVEN),
]

OWN = {"embedding", "constant"}
"""Operations without an activation input, tested below."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_against_autograd(case: Case) -> None:
    verify(case)


def test_orthogonal_matrix_has_no_variance() -> None:
    weight = torch.linalg.qr(normal(8, 8)).Q
    component = make("linear", [(2, 8)], [(2, 8)], {"weight": weight})
    x = Moments.uniform((2, 8), 0.0, 1.0)
    assert component.phi_variance([x], component.forward([x])) == pytest.approx(0.0, abs=1e-12)


def test_known_mean_is_not_lost_in_a_dense_layer() -> None:
    """Theory 5.3: with a mean in both, the second moment is far above phi times the input's."""
    weight = 0.05 + normal(40, 300) / 300**0.5
    component = make("linear", [(4, 300)], [(4, 40)], {"weight": weight})
    x = Moments.uniform((4, 300), 0.7, 0.5)
    (y,) = component.forward([x])
    phi = component.phis([x], (y,))[0]
    assert phi is not None
    true = float((weight.sum(1) * 0.7).square().mean() + 0.5 * weight.square().sum() / 40)
    assert y.total_second == pytest.approx(true, rel=1e-9)
    assert y.total_second > 20 * phi * x.total_second


def test_transposed_storage_reads_the_same() -> None:
    """A weight stored as (in, out) and seen through a transposed view."""
    stored = normal(6, 4).numpy()
    x = Moments.uniform((3, 6), 0.5, 2.0)
    seen = make("linear", [(3, 6)], [(3, 4)], {"weight": stored.T})
    copied = make("linear", [(3, 6)], [(3, 4)], {"weight": np.ascontiguousarray(stored.T)})
    (a,), (b,) = seen.forward([x]), copied.forward([x])
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12)
    np.testing.assert_allclose(a.variance, b.variance, rtol=1e-12)
    assert seen.phis([x], (a,)) == pytest.approx(copied.phis([x], (b,)), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_narrow_weights_are_summed_in_wide_numbers(dtype: str) -> None:
    import ml_dtypes

    stored = normal(32, 700).numpy().astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    component = make("linear", [(2, 700)], [(2, 32)], {"weight": stored})
    x = Moments.uniform((2, 700), 0.0, 1.0)
    true = float((stored.astype(np.float64) ** 2).sum() / 32)
    phi = component.phis([x], component.forward([x]))[0]
    assert phi == pytest.approx(true, rel=1e-5)  # the sums themselves run in float32, as documented


def test_zero_weight_passes_nothing() -> None:
    component = make("linear", [(2, 4)], [(2, 3)], {"weight": np.zeros((3, 4))})
    x = Moments.uniform((2, 4), 0.0, 1.0)
    y = component.forward([x])
    assert y[0].total_second == 0.0
    assert component.phis([x], y) == (0.0,)
    assert component.phi_variance([x], y) == 0.0
    (g,) = component.backward([x], y, [Gradient.white((2, 3))])
    assert g is not None
    assert g.total == 0.0


def test_embedding_takes_the_table_s_columns() -> None:
    table = normal(50, 6)
    component = make("embedding", [(4, 9)], [(4, 9, 6)], {"weight": table})
    (y,) = component.forward([None])
    assert y.shape == (4, 9, 6)
    np.testing.assert_allclose(y.mean.reshape(-1), table.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(y.second.reshape(-1), table.square().mean(0), rtol=1e-9)
    assert component.backward([None], [y], [Gradient.white((4, 9, 6))]) == (None,)
    assert component.phis([None], [y]) == (1.0,)


def test_constant_keeps_its_cells() -> None:
    value = normal(1, 3, 5)
    component = make("constant", [], [(1, 3, 5)], {"value": value})
    (y,) = component.forward([])
    assert y.shape == (1, 3, 5)
    assert y.total_mean == pytest.approx(float(value.mean()), rel=1e-9)
    assert y.total_second == pytest.approx(float(value.square().mean()), rel=1e-9)
    assert component.backward([], [y], [Gradient.white((1, 3, 5))]) == ()


def test_zeros_plus_a_bias() -> None:
    """Adding to a value that is exactly zero (a zero-initialised branch) leaves the constant."""
    constant = normal(3, 1)
    component = make("bias", [(2, 3, 4)], [(2, 3, 4)], {"bias": constant})
    (y,) = component.forward([Moments.uniform((2, 3, 4), 0.0, 0.0)])
    assert y.total_second == pytest.approx(float(constant.square().mean()), rel=1e-12)


@pytest.mark.parametrize(("depth", "tolerance"), [(1, 0.02), (3, 0.3)])
def test_positive_weights_add_what_entries_share(depth: int, tolerance: float) -> None:
    """Averages over neighbours, one behind the other: taken for independent weights a third is off by a factor of 9.

    Exact for one; of powers, nodes that are near each other share more than others, which is averaged here."""
    rng = torch.Generator().manual_seed(2)
    edges = (torch.rand(12, 12, generator=rng, dtype=torch.float64) < 0.3).double() + torch.eye(12, dtype=torch.float64)
    near = edges / edges.sum(1, keepdim=True)
    shape = (4, 3, 12)
    part = make("linear", [shape], [shape], {"weight": near})
    x, values = Moments.flat((Axis(4), Axis.full(3), Axis(12)), np.full((1, 1, 1), 0.3), np.ones((1, 1, 1))), []
    for _ in range(depth):
        values.append(x)
        (x,) = part.forward([x])
    whole = torch.linalg.matrix_power(near, depth)
    assert float(x.mean.mean()) == pytest.approx(0.3)
    assert float(x.variance.mean()) == pytest.approx(float((whole @ whole.T).diagonal().mean()), rel=tolerance)
    pairs = (whole @ whole.T).sum() - (whole @ whole.T).diagonal().sum()
    assert float(x.position_covariance.mean()) == pytest.approx(float(pairs) / 132, rel=tolerance)
    g = Gradient.white(shape)
    for value in reversed(values):
        (found,) = part.backward([value], [x], [g])
        assert found is not None
        g = found
    assert g.total == pytest.approx(float((whole**2).sum()) * 12, rel=tolerance)
