"""Activations: functions of one variable that stand behind the layers of a network."""

from __future__ import annotations

import math
from typing import Any

from gnelint.ops.record import (
    INF,
    ExponentialBelow,
    Numbers,
    OnnxForm,
    Operation,
    Piece,
    Polynomials,
    Probe,
    Range,
    Smooth,
    TorchForm,
    rounded,
)  # fmt: skip


def _rectifier(below: Any) -> tuple[Piece, ...]:
    return (-INF, 0.0, (0.0, below)), (0.0, INF, (0.0, 1.0))


def _limits(min: float | None, max: float | None) -> Range:
    """The bounds; swapped ones leave the upper one, which everything is then."""
    low, high = -INF if min is None else float(min), INF if max is None else float(max)
    return (low, high) if low < high else (high, high)


def _bounded(min: float | None, max: float | None) -> tuple[Piece, ...]:
    low, high = _limits(min, max)
    if low == high:
        return ((-INF, INF, (high,)),)
    below: tuple[Piece, ...] = ((-INF, low, (low,)),) if low > -INF else ()
    above: tuple[Piece, ...] = ((high, INF, (high,)),) if high < INF else ()
    return (*below, (low, high, (0.0, 1.0)), *above)


def _hard_sigmoid(alpha: float, beta: float) -> tuple[Piece, ...]:
    if alpha == 0:
        return ((-INF, INF, (min(max(beta, 0.0), 1.0),)),)
    low, high = sorted((-beta / alpha, (1.0 - beta) / alpha))
    left, right = (0.0, 1.0) if alpha > 0 else (1.0, 0.0)
    return (-INF, low, (left,)), (low, high, (beta, alpha)), (high, INF, (right,))


def _gelu_inner(xp: Any, x: Any) -> Any:
    return xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _gelu(xp: Any, x: Any, approximate: str) -> Any:
    return 0.5 * x * (1.0 + _gelu_inner(xp, x)) if approximate == "tanh" else x * xp.normal_cdf(x)


def _gelu_slope(xp: Any, x: Any, approximate: str) -> Any:
    if approximate != "tanh":
        return xp.normal_cdf(x) + x * xp.normal_pdf(x)
    t = _gelu_inner(xp, x)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t**2) * math.sqrt(2 / math.pi) * (1.0 + 0.134145 * x**2)


def _silu_slope(xp: Any, x: Any, beta: float) -> Any:
    s = xp.sigmoid(beta * x)
    return s * (1.0 + beta * x * (1.0 - s))


def _mish_slope(xp: Any, x: Any) -> Any:
    t = xp.tanh(xp.softplus(x))
    return t + x * (1.0 - t**2) * xp.sigmoid(x)


def _sigmoid_slope(xp: Any, x: Any) -> Any:
    s = xp.sigmoid(x)
    return s * (1.0 - s)


# --- attributes, read off the values of what is written out -------------------------------------------------------


def _read_leaky_relu(y: Probe) -> Numbers | None:
    found = abs(y(1.0) - 1.0) < 1e-3 and abs(y(-1.0) + 1.0) > 1e-3
    return {"alpha": rounded(-y(-1.0))} if found else None


def _read_selu(y: Probe) -> Numbers | None:
    if not y(1.0) > 0.0 > y(-1.0):
        return None
    return {"alpha": rounded(y(-1.0) / y(1.0) / math.expm1(-1.0)), "gamma": rounded(y(1.0))}


def _read_elu(y: Probe) -> Numbers | None:
    found = _read_selu(y)
    return {"alpha": found["alpha"]} if found and found["gamma"] == 1.0 else None


def _read_silu(y: Probe) -> Numbers | None:
    return {"beta": rounded(math.log(y(1.0) / (1.0 - y(1.0))))} if 0.5 < y(1.0) < 1.0 else None


def _read_softplus(y: Probe) -> Numbers | None:
    return {"beta": rounded(math.log(2.0) / y(0.0))} if y(0.0) > 0.0 else None


def _read_hard_sigmoid(y: Probe) -> Numbers | None:
    alpha = (y(0.01) - y(0.0)) / 0.01
    return {"alpha": rounded(alpha), "beta": rounded(y(0.0))} if 0.0 < y(0.0) < 1.0 and alpha > 0.0 else None


RECORDS = (
    Operation("relu", "activation", "max(x, 0).",
              onnx=(OnnxForm("Relu", 6),), torch=(TorchForm("relu"),), module="ReLU", function=Polynomials(
                  pieces=lambda: ((-INF, 0.0, (0.0,)), (0.0, INF, (0.0, 1.0))), bounds=(0.0, INF), idioms=({},))),
    Operation("leaky_relu", "activation", "x for x > 0, alpha x below.", attributes={"alpha": 0.01},
              onnx=(OnnxForm("LeakyRelu", 6, {"alpha": "alpha"}),), module="LeakyReLU",
              torch=(TorchForm("leaky_relu", {"alpha": "negative_slope"}),),
              function=Polynomials(pieces=lambda alpha: _rectifier(alpha), idioms=_read_leaky_relu)),
    Operation("prelu", "activation", "x for x > 0, slope x below, with a slope for each channel or one for all.",
              parameters=("slope",), onnx=(), torch=(), module="PReLU",
              function=Polynomials(pieces=lambda slope: _rectifier(slope), idioms=())),
    Operation("elu", "activation", "x for x > 0, alpha (e^x - 1) below (arXiv 1511.07289).", attributes={"alpha": 1.0},
              onnx=(OnnxForm("Elu", 6, {"alpha": "alpha"}),), torch=(), module="ELU", function=ExponentialBelow(
                  value=lambda xp, x, alpha: xp.elu(x, alpha), coefficients=lambda alpha: (1.0, alpha, 1.0),
                  bounds=lambda alpha: (-abs(alpha), INF), idioms=_read_elu)),
    Operation("selu", "activation", "gamma x for x > 0, gamma alpha (e^x - 1) below (arXiv 1706.02515).",
              attributes={"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
              onnx=(OnnxForm("Selu", 6, {"alpha": "alpha", "gamma": "gamma"},
                             {"alpha": 1.6732631921768188, "gamma": 1.0507010221481323}),),
              torch=(TorchForm("selu"),), module="SELU", function=ExponentialBelow(
                  value=lambda xp, x, alpha, gamma: gamma * xp.elu(x, alpha),
                  coefficients=lambda alpha, gamma: (gamma, gamma * alpha, 1.0), idioms=_read_selu,
                  bounds=lambda alpha, gamma: (-abs(gamma * alpha), INF))),
    Operation("celu", "activation", "x for x > 0, alpha (e^{x / alpha} - 1) below (arXiv 1704.07483).",
              attributes={"alpha": 1.0}, onnx=(OnnxForm("Celu", 12, {"alpha": "alpha"}),),
              torch=(TorchForm("celu", {"alpha": "alpha"}),),
              module="CELU", function=ExponentialBelow(
                  value=lambda xp, x, alpha: xp.elu(x / alpha, 1.0) * alpha,
                  coefficients=lambda alpha: (1.0, alpha, 1.0 / alpha), bounds=lambda alpha: (-abs(alpha), INF),
                  idioms=())),
    Operation("gelu", "activation", "x Phi(x), or x / 2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (arXiv 1606.08415).",
              attributes={"approximate": "none"}, onnx=(OnnxForm("Gelu", 20, {"approximate": "approximate"}),),
              torch=(TorchForm("gelu", {"approximate": "approximate"}),), module="GELU", function=Smooth(
                  value=_gelu, slope=_gelu_slope, settled=True, bounds=(-0.171, INF),
                  idioms=({"approximate": "none"}, {"approximate": "tanh"}))),
    Operation("silu", "activation", "x sigmoid(beta x): swish; beta = 1.702 is the quick GELU (arXiv 1702.03118).",
              attributes={"beta": 1.0}, torch=(TorchForm("silu"),), module="SiLU",
              onnx=(OnnxForm("Swish", None, {"beta": "alpha"}),
                    OnnxForm("com.microsoft.QuickGelu", None, {"beta": "alpha"}, {"beta": 1.702})),
              function=Smooth(value=lambda xp, x, beta: x * xp.sigmoid(beta * x), slope=_silu_slope,
                              scaled_by="beta", settled=True, idioms=_read_silu,
                              bounds=lambda beta: (-0.2785 / abs(beta) if beta else -INF, INF))),
    Operation("mish", "activation", "x tanh(softplus(x)) (arXiv 1908.08681).",
              onnx=(OnnxForm("Mish", 18),), torch=(TorchForm("mish"),), module="Mish", function=Smooth(
                  value=lambda xp, x: x * xp.tanh(xp.softplus(x)), slope=_mish_slope, settled=True,
                  bounds=(-0.3089, INF), idioms=({},))),
    Operation("hardswish", "activation", "x min(max(x + 3, 0), 6) / 6 (arXiv 1905.02244).",
              onnx=(OnnxForm("HardSwish", 14),), torch=(TorchForm("hardswish"),), module="Hardswish",
              function=Polynomials(
                  value=lambda xp, x: x * xp.clip(x / 6.0 + 0.5, 0.0, 1.0), bounds=(-0.375, INF), idioms=({},),
                  pieces=lambda: ((-INF, -3.0, (0.0,)), (-3.0, 3.0, (0.0, 0.5, 1.0 / 6.0)), (3.0, INF, (0.0, 1.0))))),
    Operation("hardsigmoid", "activation", "min(max(alpha x + beta, 0), 1).",
              attributes={"alpha": 1.0 / 6.0, "beta": 0.5}, torch=(TorchForm("hardsigmoid"),), module="Hardsigmoid",
              onnx=(OnnxForm("HardSigmoid", 6, {"alpha": "alpha", "beta": "beta"}, {"alpha": 0.2}),),
              function=Polynomials(
                  value=lambda xp, x, alpha, beta: xp.clip(alpha * x + beta, 0.0, 1.0), pieces=_hard_sigmoid,
                  bounds=(0.0, 1.0), idioms=_read_hard_sigmoid)),
    Operation("clip", "activation", "min(max(x, min), max), None for no bound: hardtanh, relu6.",
              attributes={"min": None, "max": None}, onnx=(),
              torch=(TorchForm("relu6", given={"min": 0.0, "max": 6.0}),),
              function=Polynomials(value=lambda xp, x, min, max: xp.clip(x, min, max), pieces=_bounded, idioms=(),
                                   bounds=_limits)),
    Operation("tanh", "activation", "tanh(x).",
              onnx=(OnnxForm("Tanh", 6),), torch=(TorchForm("tanh"),), module="Tanh", function=Smooth(
                  value=lambda xp, x: xp.tanh(x), slope=lambda xp, x: 1.0 - xp.tanh(x) ** 2, settled=True,
                  bounds=(-1.0, 1.0), idioms=({},))),
    Operation("sigmoid", "activation", "1 / (1 + e^-x).",
              onnx=(OnnxForm("Sigmoid", 6),), torch=(TorchForm("sigmoid"),), module="Sigmoid", function=Smooth(
                  value=lambda xp, x: xp.sigmoid(x), slope=_sigmoid_slope, settled=True, bounds=(0.0, 1.0),
                  idioms=({},))),
    Operation("softplus", "activation", "log(1 + e^{beta x}) / beta.", attributes={"beta": 1.0},
              onnx=(OnnxForm("Softplus", 1),), torch=(TorchForm("softplus", {"beta": "beta"}),), module="Softplus",
              function=Smooth(
                  value=lambda xp, x, beta: xp.softplus(beta * x) / beta,
                  slope=lambda xp, x, beta: xp.sigmoid(beta * x), scaled_by="beta", settled=True, bounds=(0.0, INF),
                  idioms=_read_softplus)),
    Operation("softsign", "activation", "x / (1 + |x|); f'' jumps at 0, which costs the quadrature some digits.",
              onnx=(OnnxForm("Softsign", 1),), torch=(), function=Smooth(
                  value=lambda xp, x: x / (1.0 + xp.abs(x)), slope=lambda xp, x: 1.0 / (1.0 + xp.abs(x)) ** 2,
                  bounds=(-1.0, 1.0), idioms=({},))),
    Operation("log_sigmoid", "activation", "-log(1 + e^-x).",
              onnx=(), torch=(TorchForm("log_sigmoid"), TorchForm("log_sigmoid_forward")), function=Smooth(
                  value=lambda xp, x: -xp.softplus(-x), slope=lambda xp, x: xp.sigmoid(-x), settled=True,
                  bounds=(-INF, 0.0), idioms=({},))),
    Operation("thresholded_relu", "activation", "x for x > alpha, else 0.", attributes={"alpha": 1.0},
              onnx=(OnnxForm("ThresholdedRelu", 10, {"alpha": "alpha"}),), torch=(), function=Polynomials(
                  pieces=lambda alpha: ((-INF, alpha, (0.0,)), (alpha, INF, (0.0, 1.0))), idioms=(),
                  bounds=lambda alpha: (min(alpha, 0.0), INF))),
    Operation("shrink", "activation", "x - bias for x > lambd, x + bias for x < -lambd, else 0.",
              attributes={"lambd": 0.5, "bias": 0.0}, onnx=(OnnxForm("Shrink", 9, {"lambd": "lambd", "bias": "bias"}),),
              torch=(TorchForm("softshrink", {"lambd": "lambd", "bias": "lambd"}),
                     TorchForm("hardshrink", {"lambd": "lambd"}, {"bias": 0.0})),
              function=Polynomials(idioms=(), pieces=lambda lambd, bias: (
                  (-INF, -lambd, (bias, 1.0)), (-lambd, lambd, (0.0,)), (lambd, INF, (-bias, 1.0))))),
)  # fmt: skip
