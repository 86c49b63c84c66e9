"""One of several values, entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import ClassVar

import numpy as np

from gnelint.components.base import Basis, Gradients, Inputs, OneOutput, component
from gnelint.components.combine.operands import aligned, known
from gnelint.records import replace
from gnelint.theory.fields.field import Effect
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.lengths import derivatives, mean_length
from gnelint.theory.gaussian.special import normal_cdf, normal_pdf


@component("maximum")
class Maximum(OneOutput):
    """The larger of independent Gaussians, two at a time (Clark, Operations Research 9, 1961).

    theta^2 = Var a + Var b, t = (E a - E b) / theta:  phi_a = Phi(t), phi_b = 1 - Phi(t)

    Source: theory 3.7.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the operands of a maximum are independent and Gaussian",)
    sign: ClassVar[float] = 1.0

    def _parts(self, inputs: Inputs) -> list[Moments]:
        return aligned([x.flattened() for x in known(inputs)], self.output_shapes[0])

    def _chance(self, own: Moments, other: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """P(own wins), theta and the density at the tie."""
        theta = np.sqrt(own.variance + other.variance)
        gap = self.sign * (own.mean - other.mean)
        t = np.divide(gap, theta, out=np.sign(gap) * 40.0, where=theta > 0)
        return normal_cdf(t), theta, normal_pdf(t)

    def _larger(self, own: Moments, other: Moments) -> Moments:
        win, theta, edge = self._chance(own, other)
        mean = own.mean * win + other.mean * (1 - win) + self.sign * theta * edge
        second = own.second * win + other.second * (1 - win) + self.sign * (own.mean + other.mean) * theta * edge
        return Moments.flat(own.axes, mean, second - mean**2)

    def _shares(self, parts: Sequence[Moments]) -> list[np.ndarray]:
        """How often each operand beats the largest of all others."""
        if len(parts) == 1:
            return [np.ones_like(parts[0].mean)]
        wins = []
        for index, own in enumerate(parts):
            others = [other for place, other in enumerate(parts) if place != index]
            wins.append(self._chance(own, reduce(self._larger, others))[0])
        total = sum(wins, np.zeros(1))
        return [win / total for win in wins]

    def joined(self, inputs: Inputs) -> Moments:
        return reduce(self._larger, self._parts(inputs))

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        parts = self._parts(inputs)
        shapes = [shape for shape in self.input_shapes if shape is not None]
        return tuple(
            g.times(part.axes, share, share**2).summed_to(shape)
            for part, share, shape in zip(parts, self._shares(parts), shapes, strict=True)
        )


@component("minimum")
class Minimum(Maximum):
    """The smaller of independent Gaussians: the maximum of their negatives, negated (theory 3.7)."""

    assumptions: ClassVar[tuple[str, ...]] = ("the operands of a minimum are independent and Gaussian",)
    sign: ClassVar[float] = -1.0


@component("hypot")
class Hypot(OneOutput):
    """The length of independent Gaussians, y^2 = c + sum x_i^2 (magnitudes of spectra): phi of each is E x_i^2 / y^2,
    together 1 without c.

    For two of mean 0 with deviations s and r it is s / (s + r) and r / (s + r). Source: theory 3.4, 3.7.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the operands of a length are independent and Gaussian",)

    def _entries(self, inputs: Inputs) -> tuple[list[Moments], list[tuple[np.ndarray, np.ndarray]], float]:
        parts = aligned([x.flattened() for x in known(inputs)], self.output_shapes[0])
        return parts, [(x.mean, x.variance) for x in parts], float(self.node.attribute("added"))

    def joined(self, inputs: Inputs) -> Moments:
        parts, entries, added = self._entries(inputs)
        mean = mean_length(entries, [1] * len(entries), added)
        second = sum((x.second for x in parts), np.full_like(mean, added))
        y = Moments.flat(parts[0].axes, mean, np.maximum(second - mean**2, 0.0), nonnegative=True)
        return replace(y, positive=added > 0 or any(x.positive or not x.nonnegative for x in parts))

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        parts, entries, added = self._entries(inputs)
        shapes = [shape for shape in self.input_shapes if shape is not None]
        return tuple(
            g.times(part.axes, share, direction**2).summed_to(shape)
            for part, (direction, share), shape in zip(parts, derivatives(entries, added), shapes, strict=True)
        )


@component("where")
class Where(OneOutput):
    """y = a where a condition holds, b elsewhere: each as often as the condition's mean says, half of the time where
    the condition is not known. Source: theory 3.9."""

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = (
        "the condition holds for its expected share of the entries (half of them where it is not known), whatever their"
        " values",
    )

    def _share(self, condition: Moments | None) -> float:
        return 0.5 if condition is None else min(max(condition.total_mean, 0.0), 1.0)

    def joined(self, inputs: Inputs) -> Moments:
        a, b = aligned([x.flattened() for x in known(inputs[1:])], self.output_shapes[0])
        p = self._share(inputs[0])
        mean = p * a.mean + (1 - p) * b.mean
        second = p * a.second + (1 - p) * b.second
        covariance = p**2 * a.position_covariance + (1 - p) ** 2 * b.position_covariance
        return Moments.flat(a.axes, mean, second - mean**2, covariance, a.nonnegative and b.nonnegative)

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        share = self._share(inputs[0])
        found: list[Gradient | None] = [None]
        for p, shape in zip((share, 1 - share), self.input_shapes[1:], strict=True):
            taken = g.behind(Effect.MOVED, (g.energy * p, g.position_covariance * p**2))
            found.append(None if shape is None else taken.summed_to(shape))
        return tuple(found)
