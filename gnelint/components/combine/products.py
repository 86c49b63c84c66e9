"""Products and ratios of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gnelint.components.activation import cell_weights
from gnelint.components.base import Basis, Gradients, Inputs, NotModelledError, OneOutput, Remembered, component
from gnelint.components.combine.operands import aligned, is_flat, known
from gnelint.records import cached_property, replace
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.log_norm import entry_noise, ranked_before, stratified
from gnelint.theory.fields.moments import Moments


@component("mul")
class Multiply(OneOutput):
    """y = a b of independent factors: phi with respect to a is E b^2 (gating, squeeze and excite; theory 3.7)."""

    basis: ClassVar[Basis] = "theorem"
    assumptions: ClassVar[tuple[str, ...]] = ("the factors of a product are independent",)
    model_error_bits: ClassVar[float | None] = 0.12

    @cached_property
    def _ranked(self) -> Remembered[list[Moments]]:
        return Remembered()

    def _operands(self, inputs: Inputs) -> list[Moments]:
        """The factors; those of one sample, which are large together, with samples of unlike scale in cells."""
        operands = known(inputs)
        if not all(x.log_norm_variance for x in operands) or operands[0].shape != operands[1].shape:
            return operands
        return self._ranked.of(operands, lambda: [stratified(of_its_sample(x), 1.0) for x in operands])

    def joined(self, inputs: Inputs) -> Moments:
        operands = self._operands(inputs)
        whole = [x for x in operands if x.shape == tuple(self.output_shapes[0])]
        gated = whole[0] if len(whole) == 1 and all(x is whole[0] or is_flat(x) for x in operands) else None
        a, b = aligned([x if x is gated else x.flattened() for x in operands], self.output_shapes[0])
        profile = next((x.profile for x in (a, b) if not is_flat(x)), a.profile)
        mean = a.mean * b.mean
        variance = a.second * b.second - mean**2
        covariance = (a.position_covariance + a.mean**2) * (b.position_covariance + b.mean**2) - mean**2
        y = Moments.flat(a.axes, mean, variance, covariance, a.nonnegative and b.nonnegative)
        y = replace(y, positive=a.positive and b.positive)
        if y.nonnegative and not y.positive:
            y = replace(y, silent=1.0 - a.positive_share * b.positive_share)
        if gated is None:
            if not all(x.log_norm_variance for x in known(inputs)):
                return y
            fourth = y.second**2 * math.prod(_kurtosis(x) for x in known(inputs))
            return replace(y, log_norm_variance=entry_noise(y.second, fourth, y))
        # a gate that is one number for a whole channel changes nothing about where the channel has its energy
        return replace(
            y,
            profile=profile,
            channel_correlation=gated.channel_correlation,
            neighbours=gated.neighbours,
            nearby=gated.nearby,
        )

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        a, b = aligned([x.flattened() for x in self._operands(inputs)], self.output_shapes[0])
        shapes = [shape for shape in self.input_shapes if shape is not None]
        found = []
        for factor, shape, other in ((b, shapes[0], shapes[1]), (a, shapes[1], shapes[0])):
            if math.prod(shape) > math.prod(other):  # the factor is a gate
                found.append(self._through_gate(g, factor).summed_to(shape))
            else:
                found.append(self._scaled(g, factor).summed_to(shape))
        return tuple(ranked_before(each, x) for each, x in zip(found, known(inputs), strict=True))

    @staticmethod
    def _through_gate(g: Gradient, gate: Moments) -> Gradient:
        """The gradient at what a gate multiplies; one that is positive leaves alone on which entries it sits."""
        pulled = g.times(gate.axes, gate.second, gate.position_covariance + gate.mean**2, gate.mean**2)
        if not gate.nonnegative:
            return pulled
        known = g.refined(pulled.axes)
        return replace(pulled, mask_overlap=known.mask_overlap, lean=known.lean)

    @staticmethod
    def _scaled(g: Gradient, factor: Moments) -> Gradient:
        """The gradient at one operand, from the other; one that leans on large entries meets a large factor."""
        raised = factor.mean
        if g.lean.any():
            g = g.refined(factor.axes)
            factor = factor.refined(g.axes)
            raised = factor.mean + g.lean * np.sqrt(factor.variance)
        together = factor.position_covariance + raised**2
        return g.times(factor.axes, factor.second + raised**2 - factor.mean**2, together, raised**2)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        """With respect to a whole tensor that a gate b (one number for many of its entries) multiplies:
        E b^4 - (E b^2)^2 for a Gaussian b. What the gate itself adds is joined to it where blocks are put together."""
        gates = [x for x in inputs if x is not None and x.size < math.prod(self.output_shapes[0])]
        if len(gates) != 1:
            return None
        gate = gates[0].flattened()
        weight = cell_weights(gate)
        fourth = gate.mean**4 + 6.0 * gate.mean**2 * gate.variance + 3.0 * gate.variance**2
        return max(float((fourth * weight).sum()) - float((gate.second * weight).sum()) ** 2, 0.0)


def of_its_sample(x: Moments) -> Moments:
    """With what its other factor has too of the scatter of samples' scales: all but that of its own few entries."""
    own = entry_noise(x.second, _kurtosis(x) * x.second**2, x)
    return replace(x, log_norm_variance=max(x.log_norm_variance - own, 0.0))


def _kurtosis(x: Moments) -> float:
    """E x^4 / (E x^2)^2 of the entries of one cell: by the law of what is a function of a Gaussian, else as one."""
    if x.trace is None or x.trace.grid is None:
        second, fourth = x.second, 3.0 * x.variance**2 + 6.0 * x.mean**2 * x.variance + x.mean**4
    else:
        law = x.trace.law(x.trace.grid)
        squares = law.number.value**2
        second, fourth = law.mean(squares), law.mean(squares**2)
    return float(np.divide(fourth, second**2, out=np.full_like(second, 3.0), where=second > 0).mean())


@component("div")
class Divide(OneOutput):
    """y = a / b for b that stays away from 0: 1/b to second order in its relative variance.

    E 1/b = (1 + c) / m, E 1/b^2 = (1 + 3c) / m^2, c = Var b / m^2;  phi_a = E 1/b^2, phi_b = E a^2 / m^4

    Source: theory 3.3.3.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the divisor hardly fluctuates", "dividend and divisor are independent")

    def _parts(self, inputs: Inputs) -> tuple[Moments, Moments, np.ndarray]:
        a, b = aligned([x.flattened() for x in known(inputs)], self.output_shapes[0])
        relative = np.divide(b.variance, b.mean**2, out=np.full_like(b.mean, math.inf), where=b.mean != 0)
        if (relative > 0.25).any():
            raise NotModelledError("divides by a value that may be near 0")
        return a, b, relative

    def joined(self, inputs: Inputs) -> Moments:
        a, b, c = self._parts(inputs)
        mean = a.mean * (1 + c) / b.mean
        second = a.second * (1 + 3 * c) / b.mean**2
        covariance = a.position_covariance / b.mean**2
        return Moments.flat(a.axes, mean, second - mean**2, covariance, a.nonnegative and b.nonnegative)

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        a, b, c = self._parts(inputs)
        shapes = [shape for shape in self.input_shapes if shape is not None]
        return (
            g.times(b.axes, (1 + 3 * c) / b.mean**2, 1 / b.mean**2).summed_to(shapes[0]),
            g.times(
                a.axes, a.second * (1 + 10 * c) / b.mean**4, (a.position_covariance + a.mean**2) / b.mean**4
            ).summed_to(shapes[1]),
        )
