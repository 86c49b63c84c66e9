"""Every record of the vocabulary: its formulas agree with each other and with torch, its names with ONNX and ATen, and
what is made of it elsewhere (kernels, modules, nodes of a file, recognition) is there and computes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import defs, helper
from torch import nn

from gnelint.fixes.edits import Substitute
from gnelint.fusion import fuse
from gnelint.measure.onnx_on_torch.table import find_kernel
from gnelint.nn.arrays import TORCH
from gnelint.ops import VOCABULARY
from gnelint.ops.record import Expanded, ExponentialBelow, OnnxForm, Operation, Polynomials, Scalar, Smooth, TorchForm
from gnelint.readers.onnx.ops.table import LOWERINGS as ONNX_LOWERINGS
from gnelint.readers.torch.ops.table import LOWERINGS as TORCH_LOWERINGS
from gnelint.theory.gaussian.arrays import NUMPY
from gnelint.writers.onnx.formulas import _arrays, pointwise
from gnelint.writers.onnx.fragments import Sketch
from gnelint.writers.torch.activations import made_of
from tests.fusion.test_graph import Build, number
from tests.measure.onnx_on_torch.nodes import run_model

SCALARS = {name: record for name, record in VOCABULARY.items() if isinstance(record.function, Scalar)}
TRIED: dict[str, dict[str, Any]] = {
    "leaky_relu": {"alpha": 0.2}, "prelu": {"slope": 0.3}, "elu": {"alpha": 0.6}, "celu": {"alpha": 0.7},
    "selu": {"alpha": 0.9, "gamma": 1.3}, "silu": {"beta": 1.7}, "softplus": {"beta": 2.0},
    "clip": {"min": -0.5, "max": 1.25}, "hardsigmoid": {"alpha": 0.2, "beta": 0.4}, "pow": {"exponent": 3.0},
    "step": {"kind": "floor"}, "thresholded_relu": {"alpha": 0.4}, "shrink": {"lambd": 0.3, "bias": 0.1},
}  # fmt: skip
"""Attributes that are not the defaults, and those that have none."""
POSITIVE = ("log", "sqrt", "reciprocal", "acosh")


def numbers(name: str) -> list[dict[str, Any]]:
    """Attributes to try an operation with: the defaults, others, and those of its idioms."""
    record = VOCABULARY[name]
    idioms = getattr(record.function, "idioms", None) or ()
    tried = [TRIED.get(name, {}), {}, *(() if callable(idioms) else idioms)]
    whole = [{**record.attributes, **given} for given in tried]
    return [one for one in whole if ... not in one.values() and set(record.parameters) <= set(one)]


def points(name: str) -> np.ndarray:
    """Where the function and its derivatives are defined."""
    low, high = getattr(SCALARS[name].function, "domain", (-4.0, 4.0))
    low, high = max(low, 0.5 if name in POSITIVE else -4.0), min(high, 4.0)
    return np.linspace(low, high, 41)[1:-1] + 1e-3


@pytest.mark.parametrize("name", SCALARS)
def test_values_lie_within_the_bounds_that_a_record_states(name: str) -> None:
    for given in numbers(name):
        low, high = SCALARS[name].function.range({key: given[key] for key in SCALARS[name].attributes})  # type: ignore[union-attr]
        found = np.asarray(value(name, NUMPY, points(name), **given), np.float64)
        assert low - 1e-9 <= found.min() <= found.max() <= high + 1e-9


def value(name: str, xp: Any, x: Any, **given: Any) -> Any:
    function = VOCABULARY[name].function
    assert function is not None
    return function.value(xp, x, **given)


CASES = [(name, given) for name in SCALARS for given in numbers(name)]


def test_every_library_has_every_function() -> None:
    written = vars(_arrays(Sketch("y", 21, "float32", lambda name: name)))
    assert vars(NUMPY).keys() == vars(TORCH).keys() == written.keys()


@pytest.mark.parametrize(("name", "given"), CASES, ids=str)
def test_numpy_and_torch_compute_the_same(name: str, given: dict[str, Any]) -> None:
    x = points(name)
    found = value(name, TORCH, torch.from_numpy(x), **given)
    np.testing.assert_allclose(value(name, NUMPY, x, **given), np.broadcast_to(found, x.shape), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "given"), CASES, ids=str)
def test_what_is_said_of_the_function_beside_its_value(name: str, given: dict[str, Any]) -> None:
    function, x = SCALARS[name].function, points(name)
    assert isinstance(function, Scalar)
    z = torch.from_numpy(x).requires_grad_()
    y = function.value(TORCH, z, **given)
    low, high = function.range(given)
    assert bool((y >= low).all() and (y <= high).all())
    if isinstance(function, (Smooth, Expanded)):
        (slope,) = torch.autograd.grad(y.sum(), z, create_graph=True)
        np.testing.assert_allclose(function.slope(NUMPY, x, **given), slope.detach(), rtol=1e-10, atol=1e-12)
    if isinstance(function, Expanded):
        (curvature,) = torch.autograd.grad(slope.sum(), z)
        np.testing.assert_allclose(function.curvature(NUMPY, x, **given), curvature, rtol=1e-10, atol=1e-12)
    if isinstance(function, Polynomials):
        np.testing.assert_allclose(y.detach(), function._in_pieces(NUMPY, x, **given), rtol=1e-12, atol=1e-12)
    if isinstance(function, ExponentialBelow):
        p, a, k = function.coefficients(**given)
        np.testing.assert_allclose(y.detach(), np.where(x > 0, p * x, a * np.expm1(k * x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", VOCABULARY)
def test_formulas_take_the_attributes(name: str) -> None:
    record = VOCABULARY[name]
    formulas = [getattr(record.function, part, None) for part in ("value", "slope", "curvature")]
    expected = {*record.attributes, *record.parameters} if record.function else set()
    for formula in formulas:
        if formula is not None and formula.__name__ != "_in_pieces":
            _, *taken = inspect.signature(formula).parameters
            assert set(taken[-len(expected) or len(taken) :]) == expected
    for given in (getattr(record.function, part, None) for part in ("pieces", "coefficients")):
        assert given is None or set(inspect.signature(given).parameters) == expected
    by = getattr(record.function, "scaled_by", None)
    assert by is None or by in record.attributes


# --- ONNX ---------------------------------------------------------------------------------------------------------

ONNX_FORMS = [(name, form) for name, record in VOCABULARY.items() for form in record.onnx or ()]


@pytest.mark.parametrize(("name", "form"), ONNX_FORMS, ids=lambda found: getattr(found, "op_type", found))
def test_onnx_knows_the_operator(name: str, form: OnnxForm) -> None:
    domain, _, op_type = form.op_type.rpartition(".")
    assert form.op_type in ONNX_LOWERINGS
    assert find_kernel(domain, op_type, 24) is not None
    if domain:
        return  # the onnx package has no schemas of them
    schema = defs.get_schema(op_type, 24)
    assert set(form.attributes.values()) <= set(schema.attributes)
    for ours, theirs in form.attributes.items():
        default = helper.get_attribute_value(schema.attributes[theirs].default_value)
        default = default.decode() if isinstance(default, bytes) else default
        expected = form.defaults.get(ours, VOCABULARY[name].attributes[ours])
        assert schema.attributes[theirs].required or default == (
            pytest.approx(expected, rel=1e-6) if isinstance(expected, float) else expected
        )
    if form.since is not None:
        defs.get_schema(op_type, form.since)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize(("name", "given"), CASES, ids=str)
def test_onnx_files_compute_it(name: str, given: dict[str, Any], opset: int) -> None:
    if name == "prelu" or given.get("kind") == "trunc":
        return
    names = iter(range(1000))
    sketch = Sketch("y", opset, "float32", lambda wanted: f"{wanted}_{next(names)}")
    fragment = sketch.finished(pointwise(sketch, name, given, "x"), "y")
    x = torch.from_numpy(points(name)).float()
    graph = helper.make_graph(
        list(fragment.nodes), "one", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(x.shape))],
        [helper.make_empty_tensor_value_info("y")],
        [onnx.numpy_helper.from_array(np.asarray(array), key) for key, array in fragment.constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    (found,) = run_model(model, [x])
    np.testing.assert_allclose(found, value(name, NUMPY, points(name), **given), rtol=2e-4, atol=1e-5)


# --- torch --------------------------------------------------------------------------------------------------------

TORCH_FORMS = [(name, form) for name, record in VOCABULARY.items() for form in record.torch or ()]


@pytest.mark.parametrize(("name", "form"), TORCH_FORMS, ids=lambda found: getattr(found, "name", found))
def test_torch_knows_the_operation(name: str, form: TorchForm) -> None:
    assert form.name in TORCH_LOWERINGS
    bare, _, overload = form.name.partition(".")
    library = torch.ops.prims if bare == "view_of" else torch.ops.aten
    packet = getattr(library, bare)
    overloads = [overload] if overload else packet.overloads()
    schemas = [{argument.name for argument in getattr(packet, each)._schema.arguments} for each in overloads]
    wanted = {*form.attributes.values(), *form.inputs} - ({"self"} if bare == "view_of" else set())
    assert any(wanted <= schema for schema in schemas)


@pytest.mark.parametrize(("name", "given"), [case for case in CASES if case[0] != "prelu"], ids=str)
def test_there_is_a_module(name: str, given: dict[str, Any]) -> None:
    defaults = VOCABULARY[name].attributes
    module = made_of(Substitute("n", name, {key: each for key, each in given.items() if each != defaults[key]}))
    x = torch.from_numpy(points(name))
    torch.testing.assert_close(module(x).double(), value(name, TORCH, x, **given), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name, record in VOCABULARY.items() if record.module])
def test_torch_has_the_module(name: str) -> None:
    assert issubclass(getattr(nn, VOCABULARY[name].module), nn.Module)


# --- idioms -------------------------------------------------------------------------------------------------------


class Traced:
    """A value of a canonical graph that formulas compute with."""

    def __init__(self, build: Build, name: str) -> None:
        self.build, self.name = build, name

    def op(self, op: str, *others: Any, **attributes: Any) -> Traced:
        names = [other.name for other in others]
        return Traced(self.build, self.build(op, self.name, *names, **attributes))

    def _with(self, other: Any, op: str, role: str, constant: float) -> Traced:
        if isinstance(other, Traced):
            return self.op(op, other)
        return self.op(role, p={role: number(constant)})

    def __add__(self, other: Any) -> Traced:
        return self._with(other, "add", "bias", other)

    def __sub__(self, other: Any) -> Traced:
        return self._with(other, "sub", "bias", 0.0 if isinstance(other, Traced) else -other)

    def __mul__(self, other: Any) -> Traced:
        return self._with(other, "mul", "scale", other)

    def __truediv__(self, other: Any) -> Traced:
        return self._with(other, "div", "scale", 0.0 if isinstance(other, Traced) else 1.0 / other)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Traced:
        return self * -1.0

    def __pow__(self, exponent: float) -> Traced:
        return self.op("pow", exponent=float(exponent))


def _traced() -> SimpleNamespace:
    def named(op: str) -> Callable[[Traced], Traced]:
        return lambda x: x.op(op)

    unary = {name: named(name) for name in vars(NUMPY) if name in SCALARS and not SCALARS[name].attributes}
    return SimpleNamespace(
        **unary,
        softplus=lambda x: (x.op("exp") + 1.0).op("log"),
        clip=lambda x, low, high: x.op("clip", min=low, max=high),
        elu=lambda x, alpha: x.op("relu") + (x.op("exp") + -1.0).op("clip", min=None, max=0.0) * alpha,
        normal_cdf=lambda x: ((x * 0.5**0.5).op("erf") + 1.0) * 0.5,
    )


WRITTEN_OUT = {
    "leaky_relu": lambda x, alpha: x.op("maximum", x * alpha),
    "relu": lambda x: (x + x.op("abs")) * 0.5,
    "abs": lambda x: x.op("maximum", -x),
    "tanh": lambda x: (x * 2.0).op("sigmoid") * 2.0 - 1.0,
    "sigmoid": lambda x: ((-x).op("exp") + 1.0).op("reciprocal"),
}
"""Of those whose formula is one operation, or chooses."""
IDIOMS = [case for case in CASES if getattr(SCALARS[case[0]].function, "idioms", None) and case[0] != "prelu"]


@pytest.mark.parametrize(("name", "given"), IDIOMS, ids=str)
def test_what_is_written_out_is_recognised(name: str, given: dict[str, Any]) -> None:
    build = Build(x=(4, 8))
    x = Traced(build, "x")
    formula = WRITTEN_OUT.get(name)
    y = formula(x, **given) if formula else value(name, _traced(), x, **given)
    assert isinstance(y, Traced)
    (found,) = fuse(build.graph(y.name)).nodes
    defaults = VOCABULARY[name].attributes
    expected = "elu" if name == "selu" and given["gamma"] == 1.0 else name
    assert found.op == expected
    for key in defaults:
        wanted = given[key]
        assert found.attribute(key) == (pytest.approx(wanted, rel=1e-4) if isinstance(wanted, float) else wanted)


# --- what is forgotten --------------------------------------------------------------------------------------------


def test_a_forgotten_part_is_named() -> None:
    with pytest.raises(ValueError, match="idle: a record of the family activation says its function, onnx, torch"):
        Operation("idle", "activation", "Nothing.")
    function = Scalar(value=lambda xp, x: x)
    with pytest.raises(ValueError, match="says its function's idioms"):
        Operation("idle", "activation", "Nothing.", function=function, onnx=(), torch=())
    with pytest.raises(ValueError, match="idle has no attribute alpha"):
        Operation(
            "idle", "pointwise", "Nothing.", function=function, onnx=(OnnxForm("Idle", 1, {"alpha": "a"}),), torch=()
        )


@pytest.mark.parametrize("name", VOCABULARY)
def test_says_what_it_is(name: str) -> None:
    assert VOCABULARY[name].doc.endswith(".")
    assert VOCABULARY[name].name == name
