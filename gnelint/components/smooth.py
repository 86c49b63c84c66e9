"""Smooth activations: averages by quadrature, samples and positions stratified where their scale makes a difference.

Formulas for moments and gradients are those of `activation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b

import numpy as np

from gnelint.components.activation import Pointwise
from gnelint.components.base import Inputs, Remembered, component
from gnelint.ops import record as ops
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.log_norm import entry_noise, gaussian_noise, per_sample, ranked_before, stratified
from gnelint.theory.fields.maps import alike, positions_apart
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.arrays import NUMPY
from gnelint.theory.gaussian.quadrature import Function, smooth_expectations
from gnelint.theory.gaussian.sensitivity import Sensitivity, sensitivity
from gnelint.theory.spectrum import Structure


@component(ops.Smooth)
class Smooth(Pointwise):
    """Functions that bend over lengths of about `bend`, by quadrature (theory.quadrature)."""

    def f(self, x: np.ndarray) -> np.ndarray:
        """The function."""
        return np.asarray(self.function.value(NUMPY, x, **self.numbers))

    def slope(self, x: np.ndarray) -> np.ndarray:
        """Its derivative."""
        return np.asarray(self.function.slope(NUMPY, x, **self.numbers))

    @property
    def bend(self) -> float:
        """The shortest length over which the function bends."""
        by = self.function.scaled_by
        return 1.0 if by is None else 1.0 / max(abs(float(self.numbers[by])), 1e-6)

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
            expected = smooth_expectations(
                functions, mean[part], variance[part], self.bend, settled=self.function.settled
            )
            for whole, some in zip(found, expected, strict=True):
                whole[part] = some
        rest = iter(found)
        return {name: tuple(next(rest) for _ in self._averaged[name]) for name in names}


@component("sin", "cos")
class Sinusoid(Smooth):
    """sin and cos, by quadrature.

    Of a number that is not known before the network runs (the step of a diffusion model, cast from an integer) the
    phase is taken as uniform: E f = 0, E f^2 = 1/2. That is exact for sin and cos of one argument together.

    Source: theory 3.3.3.
    """

    def forward(self, inputs: Sequence[Moments | None]) -> tuple[Moments, ...]:
        if inputs[0] is None:
            return (Moments.uniform(self.shape, 0.0, 0.5),)
        return super().forward(inputs)
