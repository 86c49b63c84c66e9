"""Functions of functions of one value against autograd: random expressions, and what they have in common by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Graph, Node, Parameter, Value
from gnelint.nn.arrays import TORCH
from gnelint.ops import VOCABULARY
from gnelint.readers.torch.reader import read_module
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.law import root_law
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.quadrature import GRIDS
from tests.components.harness import make

SAMPLES = 1 << 20
SHAPE = (1 << 10, 1 << 10)
TOLERANCE = 0.01
"""Beside five standard errors of the samples."""
_UNSURE = 0.02
"""Relative standard error from which on samples say nothing."""

Numbers = Mapping[str, float | str | None]
UNARY: tuple[tuple[str, Numbers], ...] = (
    *((name, {}) for name in ("relu", "abs", "tanh", "sigmoid", "exp", "sin", "cos", "erf", "mish", "hardswish")),
    ("gelu", {"approximate": "none"}), ("silu", {"beta": 1.0}), ("softplus", {"beta": 1.0}), ("elu", {"alpha": 0.7}),
    ("leaky_relu", {"alpha": 0.2}), ("clip", {"min": -0.5, "max": 1.5}), ("pow", {"exponent": 2.0}),
    ("pow", {"exponent": 3.0}), ("step", {"kind": "round"}), ("step", {"kind": "sign"}), ("stop_gradient", {}),
    ("scale", {"factor": -0.7}), ("scale", {"factor": 2.5}), ("shifted", {}),
)  # fmt: skip
BINARY = ("add", "sub", "mul", "maximum", "minimum", "straight_through", "chosen")


@dataclass(frozen=True)
class Step:
    """One operation on values that were made before, by their number; 0 is the input."""

    op: str
    numbers: Numbers
    operands: tuple[int, ...]


@st.composite
def expressions(draw: Callable[[Any], Any]) -> tuple[Step, ...]:
    """One to six operations; what nothing reads is joined to the last."""
    steps: list[Step] = []
    for number in range(draw(st.integers(1, 6))):
        operand = st.integers(max(0, number - 2), number)
        if number and draw(st.booleans()):
            steps.append(Step(draw(st.sampled_from(BINARY)), {}, (draw(operand), number)))
        else:
            op, numbers = draw(st.sampled_from(UNARY))
            steps.append(Step(op, numbers, (number,)))
    return tuple(steps)


def computed(steps: Sequence[Step], x: torch.Tensor) -> list[torch.Tensor]:
    """The input and what each operation makes, on torch."""
    values = [x]
    for step in steps:
        a, *rest = (values[index] for index in step.operands)
        if step.op == "stop_gradient":
            y = a.detach()
        elif step.op == "straight_through":
            y = rest[0] + (a - rest[0]).detach()
        elif step.op == "chosen":
            y = torch.where(a > 0.5, a, rest[0])
        elif step.op == "shifted":
            y = a + 0.3
        elif step.op == "scale":
            y = a * step.numbers["factor"]
        else:
            y = VOCABULARY[step.op].function.value(TORCH, a, *rest, **step.numbers)  # type: ignore[union-attr]
        values.append(y)
    return values


def predicted(steps: Sequence[Step], shape: tuple[int, ...] = SHAPE) -> Prediction:
    """The expression as a graph, analysed."""
    nodes: list[Node] = []
    values = {"v0": Value("v0", shape, "float32")}

    def emit(name: str, op: str, inputs: Sequence[str], numbers: Numbers, **parameters: np.ndarray) -> str:
        held = {role: _parameter(f"{name}.{role}", array) for role, array in parameters.items()}
        nodes.append(Node(name, op, tuple(inputs), (name,), held, numbers))
        dtype = "bool" if op == "compare" else "float32"
        values[name] = Value(name, shape if "value" not in parameters else (), dtype)
        return name

    for number, step in enumerate(steps, 1):
        name, operands = f"v{number}", [f"v{index}" for index in step.operands]
        if step.op == "chosen":
            bound = emit(f"{name}bound", "constant", (), {}, value=np.array(0.5))
            condition = emit(f"{name}above", "compare", (operands[0], bound), {"kind": "gt"})
            emit(name, "where", (condition, *operands), {})
        elif step.op == "shifted":
            emit(name, "bias", operands, {}, bias=np.array(0.3))
        else:
            emit(name, step.op, operands, step.numbers)
    return analyse(Graph("expression", "onnx", True, tuple(nodes), ("v0",), (f"v{len(steps)}",), values))


def _parameter(name: str, array: np.ndarray) -> Parameter:
    return Parameter(name, array.shape, "float64", lambda: array, provenance="data")


def estimate(numbers: torch.Tensor) -> tuple[float, float]:
    """Mean of the samples and its standard error."""
    return float(numbers.mean()), float(numbers.std()) / math.sqrt(numbers.numel())


@given(expressions())
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_random_expressions_agree_with_autograd(steps: tuple[Step, ...]) -> None:
    x = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    values = computed(steps, x)
    seconds = [estimate(value.detach() ** 2) for value in values]
    assume(all(math.isfinite(second) and error <= _UNSURE * second for second, error in seconds))
    y, (second, second_error) = values[-1], seconds[-1]
    slope = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros(SAMPLES)
    phi, phi_error = estimate(slope**2)
    assume(phi_error <= _UNSURE * phi)
    found = predicted(steps)
    last = found.nodes[-1]
    assert found.coverage == 1.0
    assert last.second_moment == pytest.approx(second, abs=5 * second_error + TOLERANCE * second)
    mean, mean_error = estimate(y.detach())
    assert last.mean == pytest.approx(mean, abs=5 * mean_error + TOLERANCE * math.sqrt(second))
    assert found.gradient_log2 is not None
    assert (found.cotangent_at != "output") == (phi == 0.0)  # where nothing passes, the cotangent is put elsewhere
    assert phi == 0.0 or 2.0**found.gradient_log2 == pytest.approx(phi, abs=5 * phi_error + TOLERANCE * phi)


def test_values_inside_an_expression_have_their_own_gradient() -> None:
    """exp(-x^2): the gradient at x^2 sees which x it is."""
    steps = (Step("pow", {"exponent": 2.0}, (0,)), Step("scale", {"factor": -1.0}, (1,)), Step("exp", {}, (2,)))
    found = {node.node.name: node.gradient_log2 for node in predicted(steps).nodes}
    assert found["v1"] == pytest.approx(math.log2(5.0**-0.5), abs=1e-3)  # E e^{-2 x^2}
    assert predicted(steps).gradient_log2 == pytest.approx(math.log2(4.0 * 5.0**-1.5), abs=1e-3)


def test_a_reshape_to_the_same_shape_changes_nothing() -> None:
    """x + sin(x)^2 as snakes of audio networks compute it, between two reshapes: phi = E (1 + sin 2x)^2."""
    steps = (Step("reshape", {}, (0,)), Step("sin", {}, (1,)), Step("pow", {"exponent": 2.0}, (2,)))
    found = predicted((*steps, Step("add", {}, (1, 3)), Step("reshape", {}, (4,))))
    assert found.coverage == 1.0
    assert found.gradient_log2 == pytest.approx(math.log2(1.0 + (1.0 - math.exp(-8.0)) / 2.0), abs=1e-3)


def test_an_infinite_average_has_no_number() -> None:
    found = predicted((Step("shifted", {}, (0,)), Step("reciprocal", {}, (1,))))
    assert found.coverage < 1.0
    assert found.gradient_log2 is None


@pytest.mark.parametrize("op", sorted({op for op, _ in UNARY} - {"shifted", "stop_gradient", "step", "scale"}))
def test_closed_forms_agree_with_the_grid(op: str) -> None:
    """A function beside a zero summand of the same value is taken by its law, alone by its own component."""
    numbers = next(numbers for name, numbers in UNARY if name == op)
    alone = predicted((Step(op, numbers, (0,)),))
    zero = (Step("stop_gradient", {}, (1,)), Step("sub", {}, (1, 2)), Step("stop_gradient", {}, (3,)))
    composed = predicted((Step(op, numbers, (0,)), *zero, Step("add", {}, (1, 4))))
    assert composed.nodes[-1].second_moment == pytest.approx(alone.nodes[-1].second_moment, rel=2e-3)
    assert composed.gradient_log2 == pytest.approx(alone.gradient_log2, abs=5e-3)


@pytest.mark.parametrize("op", ["relu", "hardswish", "gelu", "tanh"])
def test_affine_maps_behind_a_function_need_no_grid(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PaddleOCR has them behind each activation: a grid of a million numbers for each took 4.4 GB for one file."""
    numbers = next(numbers for name, numbers in UNARY if name == op)
    steps = (Step(op, numbers, (0,)), Step("scale", {"factor": 2.5}, (1,)), Step("shifted", {}, (2,)))
    made: list[object] = []
    monkeypatch.setattr("gnelint.components.composed.root_law", lambda x, grid: made.append(grid) or root_law(x, grid))
    found, alone = predicted(steps), predicted(steps[:1])
    assert not made
    mean, second = alone.nodes[-1].mean, alone.nodes[-1].second_moment
    assert mean is not None
    assert second is not None
    assert found.nodes[-1].second_moment == pytest.approx(6.25 * second + 1.5 * mean + 0.09, rel=1e-6)
    assert found.gradient_log2 == pytest.approx(alone.gradient_log2 + math.log2(6.25), abs=1e-6)  # type: ignore[operator]
    predicted((*steps, Step("sin", {}, (3,))))
    assert made  # what is neither Gaussian nor a function of one


def test_lerp_between_a_value_and_a_layer_of_it() -> None:
    """Half of x and half of an orthogonal map of it: phi is 1/4 + 1/4."""

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(64, 64)
            torch.nn.init.orthogonal_(self.layer.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.lerp(x, self.layer(x), 0.5)

    found = analyse(read_module(Mixed(), (torch.randn(32, 64),), name="mixed", training=True))
    assert found.gradient_log2 == pytest.approx(-1.0, abs=1e-3)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_on_many_cells_takes_bounded_memory(grid: int) -> None:
    """Samples, channels and positions in cells of their own, as behind padded convolutions: eight megabytes an array,
    of which each function of a chain keeps two."""
    shape = (5, 16, 8, 8)
    rng = np.random.default_rng(0)
    x = Moments.flat(tuple(Axis.full(size) for size in shape), rng.standard_normal(shape), rng.random(shape))
    found = root_law(x, grid)
    assert found.number.value.nbytes <= 8 << 20
    assert len(found.axes[1].starts) == 16


@pytest.mark.parametrize("channels", [1280, 6144])
def test_a_function_of_many_channels_is_one_function(channels: int) -> None:
    """max(x, 0)^2 of a value whose channels have cells of their own (primer, StarReLU): E f^2 = 3/2 Var^2, where a
    rectified value that is taken for Gaussian has half of it."""
    shape = (8, channels)
    variance = np.random.default_rng(0).uniform(0.9, 1.1, (1, channels))
    x = Moments.flat((Axis(8), Axis.full(channels)), np.zeros((1, channels)), variance)
    act, square = make("relu", [shape], [shape]), make("pow", [shape], [shape], exponent=2.0)
    (y,) = act.forward([x])
    (z,) = square.forward([y])
    assert z.total_second == pytest.approx(1.5 * float((variance**2).mean()), rel=0.02)
    (g,) = square.backward([y], [z], [Gradient.white(shape)])
    assert g is not None
    (g,) = act.backward([x], [y], [g])
    assert g is not None
    assert g.total / g.size == pytest.approx(2.0 * float(variance.mean()), rel=0.01)


class Trunk(torch.nn.Module):
    """ResNet-D before training: what an overlapping pooling leaves is rectified twice, beside a branch of zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.norm = torch.nn.Conv2d(width, width, 1), torch.nn.BatchNorm2d(width)
        self.branch, self.silent = torch.nn.Conv2d(width, width, 1), torch.nn.BatchNorm2d(width)
        self.average = torch.nn.AvgPool2d(2)
        torch.nn.init.zeros_(self.silent.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.mix(torch.nn.functional.max_pool2d(x, 3, 2, 1))).relu()
        averaged: torch.Tensor = self.average((x + self.silent(self.branch(x))).relu())
        return averaged


def test_a_function_of_a_function_remembers_what_lies_side_by_side() -> None:
    """The variance of the average was 0.5 bits too small where neighbours were forgotten."""
    torch.manual_seed(0)
    module, x = Trunk(64), torch.randn(8, 64, 64, 64)
    y = module(x).detach()
    found = analyse(read_module(module, (x,), name="trunk")).by_node["average"]
    assert found.second_moment - found.mean**2 == pytest.approx(float(y.var()), rel=0.1)
