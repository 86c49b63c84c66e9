"""The theory's README: its test vectors and tables by the code, its formulas by Jacobians and draws.

What other tests hold is named there, section by section; here is the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.nn import functional as F

from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.selu import solve_selu
from gnelint.theory.gaussian.sensitivity import sensitivity
from gnelint.theory.gaussian.softmax import softmax_moments
from tests.components.harness import make
from tests.theory.bounds import shallow_network_tail

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "gnelint" / "theory" / "README.md").read_text(encoding="utf-8")
PI = math.pi

Pair = tuple[float, float | None]


def section(number: str) -> str:
    """The text below a heading, up to the next."""
    return re.split(r"^#+ ", TEXT.split(f"# {number} ", 1)[1], maxsplit=1, flags=re.M)[0]


def rows(number: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(number).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def digits(text: str) -> float:
    """Half of the last digit that a table prints."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


# --- the text itself -------------------------------------------------------------------------------------


def test_sections_are_numbered_in_order() -> None:
    numbers = [tuple(map(int, n.split("."))) for n in re.findall(r"^#+ (\d+(?:\.\d+)*) ", TEXT, flags=re.M)]
    assert numbers == sorted(set(numbers))
    for before, number in pairwise(numbers):
        assert number[-1] == 1 or (*number[:-1], number[-1] - 1) == before[: len(number)], f"{number} after {before}"


def test_named_tests_and_references_exist() -> None:
    assert [path for path in re.findall(r"`((?:tests|reports)/[^`]+)`", TEXT) if not (ROOT / path).exists()] == []
    listed = set(re.findall(r"^(\d+)\. ", TEXT.partition("## References")[2], flags=re.M))
    prose = re.sub(r"^(\||    ).*", "", TEXT, flags=re.M)
    cited = {n for group in re.findall(r" \[(\d+(?:, \d+)*)\]", prose) for n in group.split(", ")}
    assert cited == listed


# --- test vectors ----------------------------------------------------------------------------------------


def jacobian(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    y = function(x)
    return torch.autograd.functional.jacobian(function, x).reshape(y.numel(), x.numel())


def spectrum(J: Any) -> tuple[float, float]:
    """phi and V of a matrix."""
    J = np.asarray(J)
    gram = J @ J.T
    phi = float(np.trace(gram)) / len(gram)
    return phi, float((gram**2).sum()) / len(gram) - phi**2


def of(
    op: str, x: tuple[int, ...] | Moments, out: tuple[int, ...] | None = None, p: dict[str, Any] | None = None, **a: Any
) -> Pair:
    """phi and V of a component on a value, by default N(0, 1)."""
    x = x if isinstance(x, Moments) else Moments.uniform(x, 0.0, 1.0)
    component = make(op, [x.shape], [out or x.shape], p, **a)
    y = component.forward([x])
    (phi,) = component.phis([x], y)
    assert phi is not None
    return phi, component.phi_variance([x], y)


def conv(
    weight: np.ndarray, size: int, out: int, *, op: str = "conv", stride: int = 1, pad: int = 0, dilation: int = 1,
    groups: int = 1,
) -> Pair:  # fmt: skip
    channels = weight.shape[0] if op == "conv_transpose" else weight.shape[1] * groups
    return of(
        op, (1, channels, size, size), (1, weight.shape[1 if op == "conv_transpose" else 0], out, out),
        {"weight": weight}, strides=(stride,) * 2, pads=(pad,) * 4, dilations=(dilation,) * 2, groups=groups,
    )  # fmt: skip


def independent(s2: float, shape: tuple[int, ...], size: int, out: int, **a: int) -> Pair:
    """By a kernel of one number, which has the energies of independent entries and no spread of row norms: a Gaussian's
    2 s^2 phi is added."""
    phi, variance = conv(np.full(shape, s2**0.5), size, out, **a)
    assert variance is not None
    return phi, variance + 2.0 * s2 * phi


def known(values: Sequence[float], axis: int) -> Moments:
    """Numbers along one axis of (batch, features)."""
    axes = (Axis(1), Axis.full(len(values))) if axis else (Axis.full(len(values)), Axis(1))
    line = np.reshape(np.asarray(values, float), (1, -1) if axis else (-1, 1))
    return Moments.flat(axes, line, np.zeros(1))


ONES = np.ones((1, 1, 3, 3))
POOL: dict[str, Any] = {"kernel": (3, 3), "strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1)}
SQUARES: dict[str, Any] = {"kernel": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
FROZEN = {"scale": np.array([1.0, 2]), "running_mean": np.zeros(2), "running_var": np.array([4.0, 1])}

MAPS: dict[str, Callable[[], Pair]] = {
    "dense [[1, 2, 0], [0, 1, -1]]": lambda: of(
        "linear", (1, 3), (1, 2), {"weight": np.array([[1.0, 2, 0], [0, 1, -1]])}
    ),
    "conv of ones 3x3 on 4x4, pad 1": lambda: conv(ONES, 4, 4, pad=1),
    "conv of ones 3x3 on 4x4, pad 1, stride 2": lambda: conv(ONES, 4, 2, pad=1, stride=2),
    "conv of ones 3x3 on 4x4": lambda: conv(ONES, 4, 2),
    "conv of ones 3x3 on 5x5, pad 2, dilation 2": lambda: conv(ONES, 5, 5, pad=2, dilation=2),
    "depthwise ones 3x3 on 4x4, 2 channels, pad 1": lambda: conv(np.ones((2, 1, 3, 3)), 4, 4, pad=1, groups=2),
    "transposed ones 2x2 on 3x3, stride 2": lambda: (
        conv(np.ones((1, 1, 2, 2)), 3, 6, op="conv_transpose", stride=2)[0],
        spectrum(
            jacobian(
                lambda x: F.conv_transpose2d(x, torch.ones(1, 1, 2, 2, dtype=torch.float64), stride=2),
                zeros(1, 1, 3, 3),
            )
        )[1],
    ),
    "transposed ones 3x3 on 4x4, pad 1": lambda: conv(ONES, 4, 4, op="conv_transpose", pad=1),
    "independent 8 -> 16, 3x3 on 8x8, pad 1, s^2 2/72": lambda: independent(2 / 72, (16, 8, 3, 3), 8, 8, pad=1),
    "independent 8 -> 16, 3x3 on 8x8, pad 1, stride 2, s^2 2/72": lambda: independent(
        2 / 72, (16, 8, 3, 3), 8, 4, pad=1, stride=2
    ),
    "independent depthwise 8, 3x3 on 8x8, pad 1, s^2 2/9": lambda: independent(
        2 / 9, (8, 1, 3, 3), 8, 8, pad=1, groups=8
    ),
    "independent 3 -> 64, 7x7 on 32x32, pad 3, stride 2, s^2 2/147": lambda: independent(
        2 / 147, (64, 3, 7, 7), 32, 16, pad=3, stride=2
    ),
    "independent 8 -> 16, 1x1 on 8x8, stride 2, s^2 1/8": lambda: independent(1 / 8, (16, 8, 1, 1), 8, 4, stride=2),
    "average 2x2 on 4x4": lambda: of("avg_pool", (1, 1, 4, 4), (1, 1, 2, 2), **SQUARES, count_include_pad=False),
    "average 3x3 on 4x4, stride 1, pad 1, padding counted": lambda: of(
        "avg_pool", (1, 1, 4, 4), **POOL, count_include_pad=True
    ),
    "average 3x3 on 4x4, stride 1, pad 1, padding not counted": lambda: of(
        "avg_pool", (1, 1, 4, 4), **POOL, count_include_pad=False
    ),
    "batch normalisation of [1, 2, 3, 6]": lambda: of("batch_norm", known([1, 2, 3, 6], 0), training=True, epsilon=0.0),
    "layer normalisation of [1, 2, 3, 6]": lambda: of("layer_norm", known([1, 2, 3, 6], 1), axes=(1,), epsilon=0.0),
    "root mean square normalisation of [1, 2, 2, 4]": lambda: of(
        "rms_norm", known([1, 2, 2, 4], 1), axes=(1,), epsilon=0.0
    ),
    "frozen batch normalisation, gamma (1, 2), variance (4, 1)": lambda: of(
        "batch_norm", (2, 2), p=FROZEN, training=False, epsilon=0.0
    ),
    "softmax of four equal logits": lambda: of("softmax", Moments.uniform((2, 4), 0.7, 0.0)),
    "softmax of [0, ln 2]": lambda: spectrum(
        jacobian(lambda x: torch.softmax(x, 0), torch.tensor([0, math.log(2)], dtype=torch.float64))
    ),
    "x + relu(x), half positive": lambda: spectrum(jacobian(lambda x: x + F.relu(x), torch.tensor([1.0, -1.0]))),
    "slope 0.2 below zero, 3 of 4 positive": lambda: of(
        "leaky_relu", Moments.uniform((2, 3), float(stats.norm.ppf(0.75)), 1.0), alpha=0.2
    ),
    "a b by a, b = [1, 2, 3]": lambda: of("scale", (2, 3), p={"scale": np.array([1.0, 2, 3])}, factor=1.0),
    "expand to 5 copies": lambda: of("expand", (1, 3), (5, 3)),
    "gather rows [0, 0, 2, 1, 0, 0]": lambda: of(
        "gather", (3, 4), (6, 4), {"indices": np.array([0, 0, 2, 1, 0, 0])}, axis=0
    ),
    "zero padding from 8 to 12": lambda: of("pad", (1, 8), (1, 12), pads=(0, 2, 0, 2)),
}


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def test_every_map_is_evaluated() -> None:
    assert [label for label, *_ in rows("8.1")] == list(MAPS)


@pytest.mark.parametrize(("label", "phi", "variance"), rows("8.1"))
def test_maps(label: str, phi: str, variance: str) -> None:
    found, rel = MAPS[label](), 1e-9 if label.startswith("independent") else 1e-10
    assert found[0] == pytest.approx(float(Fraction(phi)), rel=rel)
    if variance:
        assert found[1] == pytest.approx(float(Fraction(variance)), rel=rel, abs=1e-12)


@pytest.mark.parametrize(("count", "variance", "s2", "phi"), rows("8.2"))
def test_softmax_of_independent_logits(count: str, variance: str, s2: str, phi: str) -> None:
    found = softmax_moments(int(count), float(variance))
    assert (found.s2, found.k / int(count)) == pytest.approx((float(s2), float(phi)), rel=1e-5)


ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "ReLU": ("relu", {}),
    "LeakyReLU 0.01": ("leaky_relu", {"alpha": 0.01}),
    "PReLU 0.25": ("leaky_relu", {"alpha": 0.25}),
    "ELU 1": ("elu", {}),
    "SELU": ("selu", {}),
    "GELU erf": ("gelu", {}),
    "GELU tanh": ("gelu", {"approximate": "tanh"}),
    "SiLU": ("silu", {}),
    "Mish": ("mish", {}),
    "Hardswish": ("hardswish", {}),
    "HardTanh": ("clip", {"min": -1.0, "max": 1.0}),
    "ReLU6": ("clip", {"min": 0.0, "max": 6.0}),
    "Tanh": ("tanh", {}),
    "Sigmoid": ("sigmoid", {}),
    "Softplus": ("softplus", {}),
}


def activation(name: str, mean: float = 0.0, variance: float = 1.0) -> tuple[float, ...]:
    """phi, V, E y^2 and E y."""
    op, attributes = ACTIVATIONS[name]
    x = Moments.uniform((2, 3), mean, variance)
    (y,) = make(op, [x.shape], [x.shape], **attributes).forward([x])
    phi, spread = of(op, x, **attributes)
    assert spread is not None
    return phi, spread, y.total_second, y.total_mean


@pytest.mark.parametrize(("name", "mean", "variance", "expected"), [(r[0], r[1], r[2], r[3:]) for r in rows("8.3")])
def test_activations(name: str, mean: str, variance: str, expected: list[str]) -> None:
    found = activation(name, float(mean), float(variance))
    assert found == pytest.approx([float(each) for each in expected], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("name", "expected"), [(r[0], r[1:]) for r in rows("3.3")])
def test_table_of_activations(name: str, expected: list[str]) -> None:
    phi, variance, second, mean = activation(name)
    found = (phi, variance, second, mean, phi / (second - mean**2))
    for value, text in zip(found, expected, strict=True):
        assert value == pytest.approx(float(text), abs=1.01 * digits(text))


@pytest.mark.parametrize("row", rows("6.7"))
def test_coefficients_of_selu(row: list[str]) -> None:
    gain = math.sqrt(2.0) if row[0] == "sqrt 2" else float(row[0])
    found = solve_selu(float(row[1]), gain)
    component = make("selu", [(2, 3)], [(2, 3)], gamma=found.scale, alpha=found.alpha)
    x = Moments.uniform((2, 3), 0.0, gain**2)
    (y,) = component.forward([x])
    (phi,) = component.phis([x], [y])
    assert phi is not None
    assert (gain**2 * phi, y.total_second) == pytest.approx((1.0 + float(row[1]), 1.0), rel=1e-9)
    for value, text in zip((found.scale, found.alpha, found.slope, y.total_mean), row[2:], strict=True):
        assert value == pytest.approx(float(text), abs=1.2 * digits(text))


# --- formulas, by section --------------------------------------------------------------------------------


def average(draw: Callable[[], np.ndarray], count: int) -> tuple[float, float, float]:
    """phi, V and the standard error of phi_2 over draws."""
    found = np.array([spectrum(draw()) for _ in range(count)])
    seconds = found[:, 1] + found[:, 0] ** 2
    phi, second = float(found[:, 0].mean()), float(seconds.mean())
    return phi, second - phi**2, float(seconds.std()) / math.sqrt(count)


def test_2_5_bound() -> None:
    assert shallow_network_tail(100, 0.05, 5) == pytest.approx(68.4, abs=0.05)
    assert shallow_network_tail(100, 0.01, 5) == pytest.approx(0.0089, abs=5e-5)


def test_3_1_independent_entries() -> None:
    rng = np.random.default_rng(0)
    m, n, s2, w = 12, 9, 0.2, 0.3
    draws: list[tuple[float, Callable[[], np.ndarray]]] = [
        (3.0, lambda: rng.normal(size=(m, n)) * s2**0.5),
        (1.8, lambda: rng.uniform(-1, 1, size=(m, n)) * (3 * s2) ** 0.5),
        (1.0, lambda: rng.choice([-1.0, 1.0], size=(m, n)) * s2**0.5),
    ]
    for kurtosis, draw in draws:
        phi, variance, error = average(draw, 4000)
        assert phi == pytest.approx(n * s2, rel=0.01)
        assert variance == pytest.approx(n * s2**2 * (m + kurtosis - 2), abs=4 * error)
    phi, variance, error = average(lambda: w + rng.normal(size=(m, n)) * s2**0.5, 4000)
    mean = n * (s2 + w**2)
    said = n * s2**2 * (m + n + 1) + m * n**2 * w**4 + 2 * n * s2 * w**2 * (m + n + 1) - mean**2
    assert (phi, variance) == (pytest.approx(mean, rel=0.01), pytest.approx(said, abs=4 * error))


@pytest.mark.parametrize(("m", "n"), [(24, 40), (40, 24)])
def test_3_1_orthogonal(m: int, n: int) -> None:
    r = min(1.0, n / m)
    weight = torch.nn.init.orthogonal_(torch.empty(m, n, dtype=torch.float64), gain=1.3)
    assert spectrum(weight) == pytest.approx((1.69 * r, 1.69**2 * r * (1 - r)), abs=1e-9)


@pytest.mark.parametrize(("correction", "share"), [(0, 1.0), (1, 1 - 1 / 72)])
def test_3_1_weight_normalisation(correction: int, share: float) -> None:
    rows_ = np.random.default_rng(0).normal(size=(16, 72))
    scaled = (rows_ - rows_.mean(1, keepdims=True)) / rows_.std(1, ddof=correction, keepdims=True) * (2 / 72) ** 0.5
    assert spectrum(scaled)[0] == pytest.approx(2 * share, rel=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "share"), [(3, 1, 1.0), (3, 2, 25 / 81), (2, 2, 1 / 4), (1, 2, 1.0)])
def test_3_2_away_from_borders(kernel: int, stride: int, share: float) -> None:
    phi, variance = independent(0.01, (48, 32, kernel, kernel), 256, (256 - kernel) // stride + 1, stride=stride)
    assert variance is not None
    assert variance / phi**2 == pytest.approx(48 / 32 * share, rel=0.05)


def circular(kernel: torch.Tensor, size: int) -> Pair:
    """By a Fourier transform, one matrix for each frequency."""
    J = torch.fft.fft2(kernel, s=(size, size)).permute(2, 3, 0, 1)
    gram = J @ J.mH
    phi = float(gram.diagonal(dim1=2, dim2=3).real.sum(2).mean()) / len(kernel)
    return phi, float((gram.abs() ** 2).sum((2, 3)).mean()) / len(kernel) - phi**2


def test_3_2_circular_and_orthogonal_kernels() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(6, 5, 3, 3, generator=generator, dtype=torch.float64)
    J = jacobian(lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), kernel), zeros(1, 5, 6, 6))
    assert circular(kernel, 6) == pytest.approx(spectrum(J), rel=1e-9)
    flat = torch.nn.init.orthogonal_(torch.empty(8, 72, dtype=torch.float64), generator=generator)
    phi, variance = circular(flat.reshape(8, 8, 3, 3), 10)
    assert (phi, variance) == (pytest.approx(1.0), pytest.approx(1 - 1 / 9, rel=0.06))
    delta = zeros(8, 8, 3, 3)
    delta[:, :, 1, 1] = torch.nn.init.orthogonal_(torch.empty(8, 8, dtype=torch.float64), generator=generator)
    assert circular(delta, 10) == pytest.approx((1.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("q", [0.3, 1.0, 4.0])
def test_3_3_1_closed_forms_of_gelu(q: float) -> None:
    a, u = q / (1 + q), 1 + 2 * q
    arc = 0.25 + math.asin(a) / (2 * PI)
    phi, _, second, mean = activation("GELU erf", 0.0, q)
    assert mean == pytest.approx(q / math.sqrt(2 * PI * (1 + q)), rel=1e-7)
    assert phi == pytest.approx(arc + q / (PI * (1 + q) * u**0.5) + q / (2 * PI * u**1.5), rel=1e-7)
    assert second == pytest.approx(q * arc + q**2 / (PI * (1 + q) * u**0.5), rel=1e-7)


def test_3_4_winners_of_two_windows() -> None:
    found = of("max_pool", (1, 1, 201, 201), (1, 1, 100, 100), **{**POOL, "strides": (2, 2), "pads": (0,) * 4})[1]
    assert found == pytest.approx(4 * 3 / 15 + 4 / 17, rel=0.02)
    assert pytest.approx(1.035, abs=5e-4) == 4 * 3 / 15 + 4 / 17


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_3_5_normalised_sets(eps: float) -> None:
    n = 40
    x = 1.7 * torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.4
    v, square = float(x.var(correction=0)), float(x.square().mean())
    rho, rho2, t = v / (v + eps), square / (square + eps), square**0.5 / (square**0.5 + eps)

    def phi(function: Callable[[torch.Tensor], torch.Tensor]) -> float:
        return spectrum(jacobian(function, x))[0]

    batch = phi(lambda z: (z - z.mean()) / (z.var(correction=0) + eps).sqrt())
    assert batch == pytest.approx((1 - (1 + 2 * rho - rho**2) / n) / (v + eps), rel=1e-9)
    root = phi(lambda z: z / (z.square().mean() + eps).sqrt())
    assert root == pytest.approx((1 - (2 * rho2 - rho2**2) / n) / (square + eps), rel=1e-9)
    beside = phi(lambda z: z / (z.square().mean().sqrt() + eps))
    assert beside == pytest.approx((1 - (2 * t - t**2) / n) / (square**0.5 + eps) ** 2, rel=1e-9)
    assert phi(lambda z: z / z.norm()) == pytest.approx((1 - 1 / n) / (n * square), rel=1e-9)
    gamma = torch.linspace(0.5, 1.5, n, dtype=torch.float64)
    layer = phi(lambda z: gamma * (z - z.mean()) / z.var(correction=0).sqrt())
    known_ = gamma**2 * (1 - 1 / n - (x - x.mean()) ** 2 / v / n) / v
    assert layer == pytest.approx(float(known_.mean()), rel=1e-9)


def test_3_5_variance_absolute_deviation_and_inflation() -> None:
    n = 400
    x = torch.from_numpy(stats.norm.ppf((np.arange(n) + 0.5) / n)) * 2 + 1  # as near to a Gaussian as a set can be
    v = float(x.var(correction=0))
    _, batch = spectrum(jacobian(lambda z: (z - z.mean()) / z.var(correction=0).sqrt(), x))
    assert batch == pytest.approx((1 - 2 / n) * 2 / n / v**2, rel=1e-9)
    _, root = spectrum(jacobian(lambda z: z / z.square().mean().sqrt(), x))
    assert root == pytest.approx((1 - 1 / n) / n / float(x.square().mean()) ** 2, rel=1e-9)
    mean = (x - x.mean()).abs().mean()
    phi, _ = spectrum(jacobian(lambda z: (z - z.mean()) / (z - z.mean()).abs().mean(), x))
    assert (1 - phi * float(mean) ** 2) * n == pytest.approx(3 - PI / 2, rel=0.01)
    assert float(mean) == pytest.approx(math.sqrt(2 * v / PI), rel=0.01)
    chi = stats.chi2(9)  # of ten Gaussian entries: v = chi / 10, whose relative variance is 2 / 9
    assert chi.expect(lambda c: 10 / c, lb=1e-9) == pytest.approx(1 / (0.9 * (1 - 2 / 9)), rel=1e-4)


@pytest.mark.parametrize("name", ["Sigmoid", "SiLU", "GELU erf"])
def test_3_7_gated_units(name: str) -> None:
    """The energy of each row of J, f U + u f' G for an input of ones, over independent rows."""
    rng = np.random.default_rng(0)
    up, gate = (rng.normal(size=(20_000, 384)) / 384**0.5 for _ in range(2))
    u, g = up.sum(1), torch.from_numpy(gate.sum(1)).requires_grad_()
    f = {"Sigmoid": torch.sigmoid, "SiLU": F.silu, "GELU erf": F.gelu}[name](g)
    (slope,) = torch.autograd.grad(f.sum(), g)
    energy = ((f.detach().numpy()[:, None] * up + (u * slope.numpy())[:, None] * gate) ** 2).sum(1)
    phi, _, second, _ = activation(name)
    assert energy.mean() == pytest.approx(second + phi, abs=4 * energy.std() / math.sqrt(energy.size))


def test_3_7_a_gate_taken_apart() -> None:
    z, weight = np.polynomial.hermite_e.hermegauss(80)
    s = 1 / (1 + np.exp(-z))
    apart = float((s**2 + (z * s * (1 - s)) ** 2) @ weight) / math.sqrt(2 * PI)
    assert (apart, activation("SiLU")[0]) == pytest.approx((0.3171, 0.3795), abs=5e-5)
    assert spectrum(jacobian(lambda x: x * x, torch.tensor([3.0])))[0] == 4 * 9


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_3_7_dropout(p: float) -> None:
    for scale, phi, variance in ((1 / (1 - p), 1 / (1 - p), p / (1 - p) ** 3), (1.0, 1 - p, p * (1 - p))):
        second, fourth = ((1 - p) * scale**power for power in (2, 4))
        assert (second, fourth - second**2) == pytest.approx((phi, variance), rel=1e-12)


def test_4_2_where_energies_do_not_add() -> None:
    rng = np.random.default_rng(0)
    n, s, depth, tau = 112, 0.5, 6, 0.3

    def weight() -> np.ndarray:
        return np.asarray(rng.normal(size=(n, n)) / n**0.5)

    def mean(draw: Callable[[], np.ndarray]) -> float:
        return average(draw, 30)[0]

    w = weight()
    assert spectrum(w + w)[0] == pytest.approx(4 * spectrum(w)[0])
    assert mean(lambda: w.T @ w) == pytest.approx(2.0, rel=0.05)
    branch = mean(lambda: np.eye(n) + s * (tau * np.eye(n) + weight()))
    assert branch == pytest.approx(1 + s**2 * (1 + tau**2) + 2 * s * tau, rel=0.02)
    shared = sum(math.comb(depth, k) ** 2 * s ** (2 * k) for k in range(depth + 1))
    assert (shared, 1.25**depth) == pytest.approx((31.2, 3.81), abs=0.05)
    assert mean(lambda: np.linalg.matrix_power(np.eye(n) + s * weight(), depth)) == pytest.approx(shared, rel=0.1)
    x = torch.linspace(-1, 1, 1000)
    assert spectrum(jacobian(lambda z: z + F.relu(z), x))[0] == pytest.approx(2.5)


def test_4_1_residual_blocks() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        x, J = rng.normal(size=112), np.eye(112)
        for _ in range(6):
            w = rng.normal(size=(112, 112)) * (2 / 112) ** 0.5
            J = J + 0.5 * w @ ((x > 0)[:, None] * J)
            x = x + 0.5 * w @ np.maximum(x, 0)
        found.append(spectrum(J)[0])
    assert np.mean(found) == pytest.approx(1.25**6, rel=0.04)


def test_5_2_what_centring_costs() -> None:
    assert pytest.approx(1.467, abs=5e-4) == PI / (PI - 1)
    assert math.prod(1 + 1 / (1 + level * (1 - 1 / PI)) for level in range(24)) == pytest.approx(55.0, abs=0.05)
    z, weight = np.polynomial.hermite_e.hermegauss(120)
    first = 0.5 * float((1 / (0.5 - 1 / (2 * PI) + z**2 / (2 * PI))) @ weight) / math.sqrt(2 * PI)
    assert first == pytest.approx(1.125, abs=5e-4)
    # centred rows of phi 2 keep the gradient, and the forward second moment shrinks
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(4000, 352)), 0)
    rows_ = rng.normal(size=(352, 352))
    rows_ = (rows_ - rows_.mean(1, keepdims=True)) / rows_.std(1, keepdims=True) * (2 / 352) ** 0.5
    assert ((x @ rows_.T) ** 2).mean() / 2 / (x**2).mean() == pytest.approx(1 - 1 / PI, rel=0.01)


def test_5_3_the_mean_of_the_weights() -> None:
    rng = np.random.default_rng(0)
    n, w, mu = 300, 0.05, 0.7
    weight = rng.normal(size=(200, n)) * (2 / n) ** 0.5 + w
    x = rng.normal(size=(4000, n)) + mu
    phi = spectrum(weight)[0]
    said = phi + mu**2 * (weight.sum(1) ** 2).mean()
    assert ((x @ weight.T) ** 2).mean() == pytest.approx(said, rel=0.02)
    mean = n * (2 / n + w**2) + mu**2 * (2 + n**2 * w**2)
    assert mean == pytest.approx(114, abs=0.5)
    assert said == pytest.approx(mean, rel=0.05)
    assert n * (2 / n + w**2) * (1 + mu**2) == pytest.approx(4.1, abs=0.05)


def test_5_10_gelu_of_small_signals() -> None:
    q = 1e-3
    found = sensitivity(make("gelu", [(2, 3)], [(2, 3)]), np.zeros(1), np.array([q]))  # type: ignore[arg-type]
    assert found.chi - 1 == pytest.approx(6 * q / PI, rel=0.01)


def test_6_gains_and_spreads() -> None:
    for name, gain, forward in (("GELU erf", 2.194, 2.352), ("SiLU", 2.635, None), ("Tanh", 2.153, None)):
        phi, _, second, _ = activation(name)
        assert 1 / phi == pytest.approx(gain, abs=6e-4)
        assert forward is None or 1 / second == pytest.approx(forward, abs=6e-4)
    for name, c in (("ReLU", 1.0), ("Tanh", 0.58), ("SELU", 0.32)):
        phi, variance, *_ = activation(name)
        assert variance / phi**2 == pytest.approx(c, abs=5e-3)
    for power, total in ((2, 1.03), (1.5, 1.19), (1, 2.68)):
        assert (1 + 32.0**-power) ** 32 == pytest.approx(total, abs=5e-3)


def test_7_1_probes() -> None:
    rng = np.random.default_rng(0)
    m, draws = 60, 20_000
    J = rng.normal(size=(m, 90)) / 90**0.5
    A = J @ J.T
    phi, variance = spectrum(J)
    second, trace4 = variance + phi**2, float(np.trace(np.linalg.matrix_power(A, 4)))
    gauss, signs = rng.normal(size=(draws, m)), rng.choice([-1.0, 1.0], size=(draws, m))
    for probes, spread in ((gauss, second), (signs, second - float((np.diag(A) ** 2).mean()))):
        found = ((probes @ J) ** 2).sum(1) / m
        assert (found.mean(), found.std()) == pytest.approx((phi, math.sqrt(2 * spread / m)), rel=0.03)
    twice = ((gauss @ A) ** 2).sum(1) / m
    assert twice.mean() == pytest.approx(second, rel=0.01)
    assert twice.std() / second == pytest.approx(math.sqrt(2 * trace4) / (m * second), rel=0.03)
    pairs = ((gauss[0::2] @ A) * gauss[1::2]).sum(1) ** 2 / m
    assert pairs.mean() == pytest.approx(second, rel=0.05)


def test_7_2_the_spectrum_of_a_weight() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(20):
        gram = (w := rng.normal(size=(40, 160))) @ w.T
        found.append(40 * float((gram**2).sum()) / float(np.trace(gram)) ** 2 - 1)
    assert np.mean(found) == pytest.approx(41 / 160, rel=0.02)


def test_11_1_the_ratio_is_1_on_average() -> None:
    whole, _ = integrate.quad(lambda u: (1 - math.exp(-u) * (1 + u)) / u**2, 0, np.inf)  # p = e^-u
    assert whole == pytest.approx(1.0, abs=1e-6)
