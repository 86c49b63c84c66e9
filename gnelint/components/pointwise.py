"""Scalar functions that are not activations by themselves: exp, log, powers, sines."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gnelint.components.activation import Pointwise
from gnelint.components.base import Basis, NotModelledError, component
from gnelint.ops.record import Expanded
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.arrays import NUMPY
from gnelint.theory.gaussian.quadrature import smooth_expectations


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

    def keeps_positive(self, x: Moments) -> bool:
        return True


@component(Expanded)
class Expansion(Pointwise):
    """f about the mean, to second order: for functions that are not defined everywhere, on values that hardly
    fluctuate."""

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the argument hardly fluctuates",)

    def _derivatives(self, mean: np.ndarray) -> list[np.ndarray]:
        """f, f' and f'' at the mean."""
        formulas = (self.function.value, self.function.slope, self.function.curvature)
        return [formula(NUMPY, mean, **self.numbers) for formula in formulas]

    def _check(self, mean: np.ndarray, variance: np.ndarray) -> None:
        reach, (low, high) = 2.5 * np.sqrt(variance), self.function.domain
        if np.any(mean - reach <= low) or np.any(mean + reach >= high):
            raise NotModelledError(f"takes {self.node.op} of a value that may leave the range where it is smooth")

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._check(mean, variance)
        f, slope, bend = self._derivatives(mean)
        first = f + 0.5 * bend * variance
        scatter = slope**2 * variance + 0.5 * (bend * variance) ** 2
        return first, first**2 + scatter

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._check(mean, variance)
        _, slope, bend = self._derivatives(mean)
        return slope, slope**2 + bend**2 * variance

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        _, slope, bend = self._derivatives(mean)
        return np.asarray(slope**4 + 6 * slope**2 * bend**2 * variance)


@component("reciprocal")
class Reciprocal(Expansion):
    """f(x) = 1/x away from 0, of either sign (theory 3.3.3)."""

    def _check(self, mean: np.ndarray, variance: np.ndarray) -> None:
        if np.any(np.abs(mean) <= 2.5 * np.sqrt(variance)):
            raise NotModelledError("divides by a value that may be near 0")


@component("pow")
class Power(Expansion):
    """f(x) = x^k: exact for whole k from 0 to 8, an expansion about a positive mean for others (theory 3.3.3)."""

    @property
    def _exponent(self) -> float:
        return float(self.node.attribute("exponent"))

    @property
    def _polynomial(self) -> bool:
        return self._exponent.is_integer() and 0 <= self._exponent <= 8

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

    def keeps_positive(self, x: Moments) -> bool:
        return x.positive or not x.nonnegative


@component("step")
class Step(Pointwise):
    """floor, ceil, round, sign: the gradient is zero wherever it exists (theory 3.3)."""

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        def f(z: np.ndarray) -> np.ndarray:
            return np.asarray(self.function.value(NUMPY, z, **self.numbers))

        first, second = smooth_expectations([f, lambda z: f(z) ** 2], mean, variance, 0.1)
        return first, second

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros_like(mean), np.zeros_like(mean)

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return np.zeros_like(mean)
