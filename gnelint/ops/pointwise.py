"""Scalar functions that are not activations of a network by themselves."""

from __future__ import annotations

import math
from typing import Any

from gnelint.ops.record import (
    INF,
    Expanded,
    Formula,
    OnnxForm,
    Operation,
    Polynomials,
    Range,
    Scalar,
    Smooth,
    TorchForm,
)  # fmt: skip


def _called(name: str, doc: str, since: int, function: Scalar) -> Operation:
    """A function that ONNX (from an opset on) and torch have under one name."""
    onnx, torch = (OnnxForm(name.capitalize(), since),), (TorchForm(name),)
    return Operation(name, "pointwise", doc, function=function, onnx=onnx, torch=torch)


def _value(name: str) -> Formula:
    return lambda xp, x: getattr(xp, name)(x)


def _smooth(
    name: str, doc: str, since: int, slope: Formula, settled: bool = False, bounds: Range = (-INF, INF)
) -> Operation:
    return _called(name, doc, since, Smooth(value=_value(name), slope=slope, settled=settled, bounds=bounds))


def _expanded(
    name: str, doc: str, since: int, domain: Range, slope: Formula, curvature: Formula, bounds: Range = (-INF, INF)
) -> Operation:
    function = Expanded(value=_value(name), slope=slope, curvature=curvature, domain=domain, bounds=bounds)
    return _called(name, doc, since, function)


def _step(xp: Any, x: Any, kind: str) -> Any:
    return {"floor": xp.floor, "ceil": xp.ceil, "round": xp.round, "sign": xp.sign, "trunc": xp.trunc}[kind](x)


RECORDS = (
    _smooth("erf", "The error function: E f^2 = (2 / pi) asin(2q / (1 + 2q)) at mean 0.", 9,
            lambda xp, x: 2.0 / math.sqrt(math.pi) * xp.exp(-(x**2)), settled=True, bounds=(-1.0, 1.0)),
    _smooth("sin", "sin(x).", 7, lambda xp, x: xp.cos(x), bounds=(-1.0, 1.0)),
    _smooth("cos", "cos(x).", 7, lambda xp, x: -xp.sin(x), bounds=(-1.0, 1.0)),
    _smooth("atan", "arctan(x).", 7, lambda xp, x: 1.0 / (1.0 + x**2), bounds=(-math.pi / 2, math.pi / 2)),
    _smooth("asinh", "arsinh(x).", 9, lambda xp, x: 1.0 / xp.sqrt(1.0 + x**2)),
    _smooth("sinh", "sinh(x).", 9, lambda xp, x: xp.cosh(x)),
    _smooth("cosh", "cosh(x).", 9, lambda xp, x: xp.sinh(x)),
    _called("exp", "e^x: log-normal.", 6, Scalar(value=_value("exp"), bounds=(0.0, INF))),
    _called("abs", "|x|: phi = 1.", 6, Polynomials(
        value=_value("abs"), pieces=lambda: ((-INF, 0.0, (0.0, -1.0)), (0.0, INF, (0.0, 1.0))), bounds=(0.0, INF),
        idioms=({},))),
    _expanded("log", "The natural logarithm.", 6, (0.0, INF), lambda xp, x: 1 / x, lambda xp, x: -1 / x**2),
    _expanded("sqrt", "The square root.", 6, (0.0, INF), lambda xp, x: 0.5 * x**-0.5, lambda xp, x: -0.25 * x**-1.5,
              (0.0, INF)),
    _expanded("reciprocal", "1 / x away from 0, of either sign.", 6, (-INF, INF), lambda xp, x: -1 / x**2,
              lambda xp, x: 2 / x**3),
    _expanded("tan", "tan(x) between its poles at -pi/2 and pi/2.", 7, (-math.pi / 2, math.pi / 2),
              lambda xp, x: 1 + xp.tan(x) ** 2, lambda xp, x: 2 * xp.tan(x) * (1 + xp.tan(x) ** 2)),
    _expanded("asin", "arcsin(x).", 7, (-1.0, 1.0), lambda xp, x: (1 - x**2) ** -0.5,
              lambda xp, x: x * (1 - x**2) ** -1.5),
    _expanded("acos", "arccos(x).", 7, (-1.0, 1.0), lambda xp, x: -((1 - x**2) ** -0.5),
              lambda xp, x: -x * (1 - x**2) ** -1.5),
    _expanded("acosh", "arcosh(x).", 9, (1.0, INF), lambda xp, x: (x**2 - 1) ** -0.5,
              lambda xp, x: -x * (x**2 - 1) ** -1.5),
    _expanded("atanh", "artanh(x).", 9, (-1.0, 1.0), lambda xp, x: 1 / (1 - x**2),
              lambda xp, x: 2 * x / (1 - x**2) ** 2),
    Operation("pow", "pointwise", "x^exponent: exact for whole ones from 0 to 8, for others about a positive mean.",
              attributes={"exponent": ...}, onnx=(), torch=(TorchForm("square", given={"exponent": 2.0}),),
              function=Expanded(
                  value=lambda xp, x, exponent: x**exponent, domain=(0.0, INF),
                  slope=lambda xp, x, exponent: exponent * x ** (exponent - 1),
                  curvature=lambda xp, x, exponent: exponent * (exponent - 1) * x ** (exponent - 2))),
    Operation("step", "pointwise", "floor, ceil, round, sign, trunc: the gradient is zero.", attributes={"kind": ...},
              function=Scalar(value=_step),
              onnx=tuple(OnnxForm(name, since, given={"kind": name.lower()})
                         for name, since in (("Floor", 6), ("Ceil", 6), ("Round", 11), ("Sign", 9))),
              torch=tuple(TorchForm(name, given={"kind": name})
                          for name in ("floor", "ceil", "round", "trunc", "sign"))),
)  # fmt: skip
