"""Smooth activations: averages by quadrature, samples and positions stratified where their scale makes a difference.

Formulas for moments and gradients are those of `activation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from gnelint.components.activation import Pointwise
from gnelint.components.base import Inputs, Remembered, component
from gnelint.ops import record as ops
from gnelint.records import cached_property
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.log_norm import entry_noise, gaussian_noise, per_sample, ranked_before, stratified
from gnelint.theory.fields.maps import alike, positions_apart
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.arrays import NUMPY
from gnelint.theory.gaussian.quadrature import smooth_expectations
from gnelint.theory.gaussian.sensitivity import Sensitivity, sensitivity
from gnelint.theory.spectrum import Structure

_AVERAGED = {
    "values": (False, (1, 2)),
    "slopes": (True, (1, 2)),
    "fourth": (False, (4,)),
    "fourth slope": (True, (4,)),
}
"""What is averaged together: whether of the slope, and its powers."""


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
        inside = self._stratified(x)
        return ranked_before(super().pull(inside, y, cotangent), x)

    def curve(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.f(x), self.slope(x)

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

    def keeps_positive(self, x: Moments) -> bool:
        return x.positive or not x.nonnegative  # the ends of a range are not reached

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

    def _powers(self, names: Sequence[str], z: np.ndarray) -> Iterator[np.ndarray]:
        """What is averaged for these names, in their order; the function and its slope are worked out once."""
        worked: dict[bool, np.ndarray] = {}
        for name in names:
            of_slope, powers = _AVERAGED[name]
            if of_slope not in worked:
                worked[of_slope] = self.slope(z) if of_slope else self.f(z)
            first = worked[of_slope]
            for power in powers:
                yield first if power == 1 else first**2 if power == 2 else (first**2) ** 2

    def _expected(self, name: str, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, ...]:
        from hashlib import blake2b  # slow to import

        digest = blake2b(mean.tobytes() + variance.tobytes()).digest()
        if (name, mean.shape, digest) not in self._known:
            # On a map, whose cells are many, finding their places is half the cost. Where values are asked for, the
            # cells are the input's, and the rest will be too; where slopes alone are, the cells lie beside those.
            on_map = mean.ndim > 2 and math.prod(mean.shape[2:]) > 1
            names = tuple(_AVERAGED) if on_map and name == "values" else (name,)
            for each, found in self._integrated(names, mean, variance).items():
                self._known[each, mean.shape, digest] = found
        return self._known[name, mean.shape, digest]

    def _integrated(
        self, names: Sequence[str], mean: np.ndarray, variance: np.ndarray
    ) -> dict[str, tuple[np.ndarray, ...]]:
        found = [np.empty(mean.shape) for name in names for _ in _AVERAGED[name][1]]
        functions = partial(self._powers, names)
        for part in alike(mean, variance):  # one interpolation would hold them all to the error of the largest
            expected = smooth_expectations(
                functions, mean[part], variance[part], self.bend, settled=self.function.settled
            )
            for whole, some in zip(found, expected, strict=True):
                whole[part] = some
        rest = iter(found)
        return {name: tuple(next(rest) for _ in _AVERAGED[name][1]) for name in names}


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
