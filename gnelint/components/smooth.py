"""Smooth activations: averages by quadrature, samples and positions stratified where their scale makes a difference.

Formulas for moments and gradients are those of `activation`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from typing import ClassVar

import numpy as np

from gnelint.components.activation import Pointwise
from gnelint.components.base import Inputs, Remembered, component
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.log_norm import entry_noise, gaussian_noise, per_sample, ranked_before, stratified
from gnelint.theory.fields.maps import alike, positions_apart
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.quadrature import Function, smooth_expectations
from gnelint.theory.gaussian.sensitivity import Sensitivity, sensitivity
from gnelint.theory.gaussian.special import erf, normal_cdf, normal_pdf
from gnelint.theory.spectrum import Structure


class Smooth(Pointwise):
    """Activations that bend over lengths of about `bend`, by quadrature (theory.quadrature)."""

    settled: ClassVar[bool] = False
    """Whether it is a polynomial to rounding, away from 0."""

    @abstractmethod
    def f(self, x: np.ndarray) -> np.ndarray:
        """The function."""

    @abstractmethod
    def slope(self, x: np.ndarray) -> np.ndarray:
        """Its derivative."""

    @property
    def bend(self) -> float:
        """The shortest length over which the function bends."""
        return 1.0

    def map(self, x: Moments) -> Moments:
        if not x.log_norm_variance:
            return super().map(x)
        chi = self._sensitivity(x).chi
        before, x = gaussian_noise(x), self._stratified(x)
        y = super().map(x)
        fourth = self._expected("fourth", x.mean, x.variance)[0]
        fresh = max(entry_noise(y.second, fourth, y) - chi**2 * before, 0.0)  # chi^2 x.log_norm_variance has the rest
        return replace(y, log_norm_variance=chi**2 * x.log_norm_variance + fresh)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return ranked_before(super().pull(self._stratified(x), y, cotangent), x)

    @cached_property
    def _cells(self) -> Remembered[Moments]:
        return Remembered()

    def _stratified(self, x: Moments) -> Moments:
        """With samples of unlike scale in cells of their own, where that matters."""
        return self._cells.of((x,), lambda: self._cut(x)) if x.log_norm_variance else x

    def _cut(self, x: Moments) -> Moments:
        found = self._sensitivity(x)
        elasticity = max(abs(found.omega), found.chi - 1.0)
        return stratified(positions_apart(x, elasticity), elasticity)

    def _sensitivity(self, x: Moments) -> Sensitivity:
        """Of whole samples, whose entries are Gaussian over the channels as well."""
        mean, second = (per_sample(array, x) for array in (x.mean, x.second))
        return sensitivity(self, mean, np.maximum(second - mean**2, 0.0))

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        return super().phi_variance(self._stratified_inputs(inputs), outputs)

    def structure(self, inputs: Inputs, outputs: Sequence[Moments]) -> Structure:
        return super().structure(self._stratified_inputs(inputs), outputs)

    def _stratified_inputs(self, inputs: Inputs) -> list[Moments | None]:
        return [None if x is None else self._stratified(x) for x in inputs]

    def values(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = self._expected("values", mean, variance)
        return first, second

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = self._expected("slopes", mean, variance)
        return first, second

    def fourth_slope(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return self._expected("fourth slope", mean, variance)[0]

    @cached_property
    def _known(self) -> dict[tuple[str, tuple[int, ...], bytes], tuple[np.ndarray, ...]]:
        """Averages taken before: every pass over the graph asks for those of the same moments."""
        return {}

    @cached_property
    def _averaged(self) -> dict[str, tuple[Function, ...]]:
        return {
            "values": (self.f, lambda z: self.f(z) ** 2),
            "slopes": (self.slope, lambda z: self.slope(z) ** 2),
            "fourth": (lambda z: (self.f(z) ** 2) ** 2,),
            "fourth slope": (lambda z: (self.slope(z) ** 2) ** 2,),
        }

    def _expected(self, name: str, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, ...]:
        digest = blake2b(mean.tobytes() + variance.tobytes()).digest()
        if (name, mean.shape, digest) not in self._known:
            on_map = mean.ndim > 2 and math.prod(mean.shape[2:]) > 1  # many cells: finding their places is the cost
            for each, found in self._integrated(tuple(self._averaged) if on_map else (name,), mean, variance).items():
                self._known[each, mean.shape, digest] = found
        return self._known[name, mean.shape, digest]

    def _integrated(
        self, names: Sequence[str], mean: np.ndarray, variance: np.ndarray
    ) -> dict[str, tuple[np.ndarray, ...]]:
        functions = [function for name in names for function in self._averaged[name]]
        found = [np.empty(mean.shape) for _ in functions]
        for part in alike(mean, variance):  # one interpolation would hold them all to the error of the largest
            expected = smooth_expectations(functions, mean[part], variance[part], self.bend, settled=self.settled)
            for whole, some in zip(found, expected, strict=True):
                whole[part] = some
        rest = iter(found)
        return {name: tuple(next(rest) for _ in self._averaged[name]) for name in names}


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


@component("gelu")
class GELU(Smooth):
    """f(x) = x Phi(x), or its tanh form 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (arXiv 1606.08415).

    Source: theory 3.3.1 and 5.10.
    """

    settled: ClassVar[bool] = True

    def _inner(self, x: np.ndarray) -> np.ndarray:
        return np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))

    def f(self, x: np.ndarray) -> np.ndarray:
        if self.node.attribute("approximate") == "tanh":
            return 0.5 * x * (1.0 + self._inner(x))
        return np.asarray(x * normal_cdf(x))

    def slope(self, x: np.ndarray) -> np.ndarray:
        if self.node.attribute("approximate") == "tanh":
            t = self._inner(x)
            return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t**2) * math.sqrt(2 / math.pi) * (1.0 + 0.134145 * x**2)
        return np.asarray(normal_cdf(x) + x * normal_pdf(x))


@component("silu")
class SiLU(Smooth):
    """f(x) = x sigmoid(beta x): swish; beta = 1.702 is the quick GELU (arXiv 1702.03118; theory 3.3)."""

    settled: ClassVar[bool] = True

    @property
    def _beta(self) -> float:
        return float(self.node.attribute("beta"))

    @property
    def bend(self) -> float:
        return 1.0 / max(abs(self._beta), 1e-6)

    def f(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x * logistic(self._beta * x))

    def slope(self, x: np.ndarray) -> np.ndarray:
        s = logistic(self._beta * x)
        return s * (1.0 + self._beta * x * (1.0 - s))


@component("mish")
class Mish(Smooth):
    """f(x) = x tanh(softplus(x)) (arXiv 1908.08681; theory 3.3)."""

    settled: ClassVar[bool] = True

    def f(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x * np.tanh(np.logaddexp(0.0, x)))

    def slope(self, x: np.ndarray) -> np.ndarray:
        t = np.tanh(np.logaddexp(0.0, x))
        return np.asarray(t + x * (1.0 - t**2) * logistic(x))


@component("tanh")
class Tanh(Smooth):
    """f(x) = tanh(x; theory 3.3)."""

    settled: ClassVar[bool] = True

    def f(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.tanh(x))

    def slope(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(1.0 - np.tanh(x) ** 2)


@component("sigmoid")
class Sigmoid(Smooth):
    """f(x) = 1 / (1 + e^-x; theory 3.3)."""

    settled: ClassVar[bool] = True

    def f(self, x: np.ndarray) -> np.ndarray:
        return logistic(x)

    def slope(self, x: np.ndarray) -> np.ndarray:
        s = logistic(x)
        return s * (1.0 - s)

    def keeps_nonnegative(self, x: Moments) -> bool:
        return True


@component("softplus")
class Softplus(Smooth):
    """f(x) = log(1 + e^{beta x}) / beta (theory 3.3)."""

    settled: ClassVar[bool] = True

    @property
    def bend(self) -> float:
        return 1.0 / max(abs(float(self.node.attribute("beta"))), 1e-6)

    def f(self, x: np.ndarray) -> np.ndarray:
        beta = float(self.node.attribute("beta"))
        return np.asarray(np.logaddexp(0.0, beta * x) / beta)

    def slope(self, x: np.ndarray) -> np.ndarray:
        return logistic(float(self.node.attribute("beta")) * x)

    def keeps_nonnegative(self, x: Moments) -> bool:
        return True


@component("softsign")
class Softsign(Smooth):
    """f(x) = x / (1 + |x|); its second derivative jumps at 0, which costs the quadrature some digits (theory 3.3)."""

    def f(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x / (1.0 + np.abs(x)))

    def slope(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(1.0 / (1.0 + np.abs(x)) ** 2)


@component("log_sigmoid")
class LogSigmoid(Smooth):
    """f(x) = -log(1 + e^-x; theory 3.3)."""

    settled: ClassVar[bool] = True

    def f(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(-np.logaddexp(0.0, -x))

    def slope(self, x: np.ndarray) -> np.ndarray:
        return logistic(-x)


@component("erf")
class Erf(Smooth):
    """f(x) = erf(x): E f^2 = (2 / pi) asin(2q / (1 + 2q)) at mean 0 (theory 3.3.1)."""

    settled: ClassVar[bool] = True

    def f(self, x: np.ndarray) -> np.ndarray:
        return erf(x)

    def slope(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(2.0 / math.sqrt(math.pi) * np.exp(-(x**2)))
