"""Scalar functions that are not activations by themselves: exp, log, powers, sines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from gnelint.components.activation import Pointwise
from gnelint.components.base import Basis, Inputs, NotModelledError, component
from gnelint.components.smooth import Smooth
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.quadrature import smooth_expectations

Function = Callable[[np.ndarray], np.ndarray]

_SMOOTH: dict[str, tuple[Function, Function]] = {
    "atan": (np.arctan, lambda x: 1.0 / (1.0 + x**2)),
    "asinh": (np.arcsinh, lambda x: 1.0 / np.sqrt(1.0 + x**2)),
    "sinh": (np.sinh, np.cosh),
    "cosh": (np.cosh, np.sinh),
}

_LIMITED: dict[str, tuple[Function, Function, Function, float, float]] = {
    # f, f', f'' and the open interval on which they are defined
    "log": (np.log, lambda x: 1 / x, lambda x: -1 / x**2, 0.0, np.inf),
    "sqrt": (np.sqrt, lambda x: 0.5 * x**-0.5, lambda x: -0.25 * x**-1.5, 0.0, np.inf),
    "tan": (
        np.tan,
        lambda x: 1 + np.tan(x) ** 2,
        lambda x: 2 * np.tan(x) * (1 + np.tan(x) ** 2),
        -np.pi / 2,
        np.pi / 2,
    ),
    "asin": (np.arcsin, lambda x: (1 - x**2) ** -0.5, lambda x: x * (1 - x**2) ** -1.5, -1.0, 1.0),
    "acos": (np.arccos, lambda x: -((1 - x**2) ** -0.5), lambda x: -x * (1 - x**2) ** -1.5, -1.0, 1.0),
    "acosh": (np.arccosh, lambda x: (x**2 - 1) ** -0.5, lambda x: -x * (x**2 - 1) ** -1.5, 1.0, np.inf),
    "atanh": (np.arctanh, lambda x: 1 / (1 - x**2), lambda x: 2 * x / (1 - x**2) ** 2, -1.0, 1.0),
}


@component("atan", "asinh", "sinh", "cosh")
class SmoothFunction(Smooth):
    """Smooth functions on the whole line, by quadrature (theory 3.3)."""

    def f(self, x: np.ndarray) -> np.ndarray:
        return _SMOOTH[self.node.op][0](x)

    def slope(self, x: np.ndarray) -> np.ndarray:
        return _SMOOTH[self.node.op][1](x)


@component("sin", "cos")
class Sinusoid(Smooth):
    """sin and cos, by quadrature.

    Of a number that is not known before the network runs (the step of a diffusion model, cast from an integer) the
    phase is taken as uniform: E f = 0, E f^2 = 1/2. That is exact for sin and cos of one argument together.

    Source: theory 3.3.3.
    """

    def forward(self, inputs: Inputs) -> tuple[Moments, ...]:
        if inputs[0] is None:
            return (Moments.uniform(self.shape, 0.0, 0.5),)
        return super().forward(inputs)

    def f(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(x) if self.node.op == "sin" else np.cos(x))

    def slope(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.cos(x) if self.node.op == "sin" else -np.sin(x))


@component("exp")
class Exponential(Pointwise):
    """f(x) = e^x: log-normal, E f^k = exp(k mu + k^2 q / 2; theory 3.3.1)."""

    @staticmethod
    def _power(k: float, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        exponent = k * mean + k**2 * variance / 2
        if np.any(exponent > 700):
            raise NotModelledError("exponentiates a value whose exponential overflows")
        return np.asarray(np.exp(exponent))

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._power(1, mean, variance), self._power(2, mean, variance)

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.values(mean, variance)

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return self._power(4, mean, variance)

    def keeps_nonnegative(self, x: Moments) -> bool:
        return True


class _Expansion(Pointwise):
    """f about the mean, to second order: for functions that are not defined everywhere, on values that hardly
    fluctuate."""

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the argument hardly fluctuates",)

    @abstractmethod
    def derivatives(self) -> tuple[Function, Function, Function]:
        """f, f' and f''."""

    @abstractmethod
    def domain(self) -> tuple[float, float]:
        """The open interval on which f is defined."""

    def _check(self, mean: np.ndarray, variance: np.ndarray) -> None:
        low, high = self.domain()
        reach = 2.5 * np.sqrt(variance)
        if np.any(mean - reach <= low) or np.any(mean + reach >= high):
            raise NotModelledError(f"takes {self.node.op} of a value that may leave the range where it is smooth")

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._check(mean, variance)
        f, slope, bend = self.derivatives()
        first = f(mean) + 0.5 * bend(mean) * variance
        scatter = slope(mean) ** 2 * variance + 0.5 * (bend(mean) * variance) ** 2
        return first, first**2 + scatter

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._check(mean, variance)
        _, slope, bend = self.derivatives()
        return slope(mean), slope(mean) ** 2 + bend(mean) ** 2 * variance

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        _, slope, bend = self.derivatives()
        return np.asarray(slope(mean) ** 4 + 6 * slope(mean) ** 2 * bend(mean) ** 2 * variance)


@component("log", "sqrt", "tan", "asin", "acos", "acosh", "atanh")
class LimitedFunction(_Expansion):
    """Functions with a limited domain (theory 3.3.3)."""

    def derivatives(self) -> tuple[Function, Function, Function]:
        f, slope, bend, _, _ = _LIMITED[self.node.op]
        return f, slope, bend

    def domain(self) -> tuple[float, float]:
        return _LIMITED[self.node.op][3:]


@component("reciprocal")
class Reciprocal(_Expansion):
    """f(x) = 1/x away from 0, of either sign (theory 3.3.3)."""

    def derivatives(self) -> tuple[Function, Function, Function]:
        return (lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3)

    def domain(self) -> tuple[float, float]:
        return -np.inf, np.inf

    def _check(self, mean: np.ndarray, variance: np.ndarray) -> None:
        if np.any(np.abs(mean) <= 2.5 * np.sqrt(variance)):
            raise NotModelledError("divides by a value that may be near 0")


@component("pow")
class Power(_Expansion):
    """f(x) = x^k: exact for whole k from 0 to 8, an expansion about a positive mean for others (theory 3.3.3)."""

    @property
    def _exponent(self) -> float:
        return float(self.node.attribute("exponent"))

    @property
    def _polynomial(self) -> bool:
        return self._exponent.is_integer() and 0 <= self._exponent <= 8

    def derivatives(self) -> tuple[Function, Function, Function]:
        k = self._exponent
        return (lambda x: x**k, lambda x: k * x ** (k - 1), lambda x: k * (k - 1) * x ** (k - 2))

    def domain(self) -> tuple[float, float]:
        return 0.0, np.inf

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self._polynomial:
            return super().values(mean, variance)
        k = int(self._exponent)
        first, second = smooth_expectations([lambda z: z**k, lambda z: z ** (2 * k)], mean, variance)
        return first, second

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self._polynomial:
            return super().slopes(mean, variance)
        k = int(self._exponent)
        if k == 0:
            return np.zeros_like(mean), np.zeros_like(mean)
        first, second = smooth_expectations(
            [lambda z: k * z ** (k - 1), lambda z: k**2 * z ** (2 * k - 2)], mean, variance
        )
        return first, second

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        if not self._polynomial:
            return super().fourth_slope(mean, variance)
        k = int(self._exponent)
        if k == 0:
            return np.zeros_like(mean)
        return smooth_expectations([lambda z: k**4 * z ** (4 * k - 4)], mean, variance)[0]

    def keeps_nonnegative(self, x: Moments) -> bool:
        return x.nonnegative or (self._polynomial and self._exponent % 2 == 0)


@component("step")
class Step(Pointwise):
    """floor, ceil, round, sign: the gradient is zero wherever it exists (theory 3.3)."""

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kind = str(self.node.attribute("kind"))
        functions: dict[str, Function] = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round": np.round,
            "sign": np.sign,
            "trunc": np.trunc,
        }
        if kind not in functions:
            raise NotModelledError(f"an unknown step function {kind}")
        f = functions[kind]
        first, second = smooth_expectations([f, lambda z: f(z) ** 2], mean, variance, 0.1)
        return first, second

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros_like(mean), np.zeros_like(mean)

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return np.zeros_like(mean)
