"""Softmax and its logarithm."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np

from gnelint.components.base import Basis, Unary, component
from gnelint.records import cached_property
from gnelint.theory.fields.field import Effect, Field
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.nearby import same_along
from gnelint.theory.gaussian.softmax import (
    SoftmaxMoments,
    capped_softmax_moments,
    kept_softmax_moments,
    softmax_moments,
    top_softmax_moments,
)

_SAMPLED = 24
"""For how many lengths of rows the softmax's moments are computed."""
IID_LOGITS = "logits are independent and Gaussian over the keys"


LOGITS_ERROR_BITS = 0.6
"""Bits, of a gradient that has passed a softmax."""


@component("softmax")
class Softmax(Unary):
    """p = softmax(x) over n entries: phi = E[S2 - 2 S3 + S2^2] / n, for independent Gaussian logits (theory 3.6).

    With a mask the same on average over its rows, each over the entries that it sees. With `top` the same over
    the largest logits of a row; the others have probability 0 and receive nothing. Where the row is not renormalised
    the sums of phi are over the largest, S2 over all: the others take part in the sum.
    """

    basis: ClassVar[Basis] = "theorem"
    assumptions: ClassVar[tuple[str, ...]] = (IID_LOGITS,)
    model_error_bits: ClassVar[float | None] = LOGITS_ERROR_BITS

    @property
    def _axis(self) -> int:
        return int(self.node.attribute("axis")) % len(self.shape)

    def _logit_variance(self, x: Moments) -> float:
        """Variance of a row's logits; what all entries of a row share drops out."""
        pooled = x.flattened().pooled(self._axis)
        own = np.maximum(pooled.variance - pooled.position_covariance, 0.0)
        return float(np.mean(own)) * (1.0 - max(self._shared(pooled), 0.0))

    def _moments(self, x: Moments) -> tuple[int, float, SoftmaxMoments]:
        """Entries of a row, E of the row's sum, and the moments of its entries."""
        count, variance = self.shape[self._axis], self._logit_variance(x)
        if "mask" in self.node.parameters:
            s2, k, _ = over_counts(self._seen.astype(float), variance)
            return count, 1.0, SoftmaxMoments(float(s2.mean()), float(k.mean()))
        top = self.node.attribute("top")
        if top is None:
            return count, 1.0, softmax_moments(count, variance)
        if self.node.attribute("renormalised"):
            return count, 1.0, top_softmax_moments(count, top, variance)
        return (count, *kept_softmax_moments(count, top, variance))

    @cached_property
    def _seen(self) -> np.ndarray:
        """How many entries each row of the mask lets through."""
        seen = np.asarray(self.node.parameters["mask"].array(), dtype=bool)
        seen = seen.reshape((1,) * (len(self.shape) - seen.ndim) + seen.shape)
        shape = list(seen.shape)
        shape[self._axis] = self.shape[self._axis]
        counts = np.broadcast_to(seen, shape).sum(axis=self._axis).reshape(-1)
        return np.asarray(np.where(counts > 0, counts, shape[self._axis]))  # a row that sees nothing: runtimes differ

    def map(self, x: Moments) -> Moments:
        count, whole, found = self._moments(x)
        even = whole / max(count, 1)
        variance = max(found.s2 / max(count, 1) - even**2, 0.0)
        return replace(Moments.uniform(self.shape, even, variance), nonnegative=True)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = cotangent.pooled(self._axis)
        # a cotangent that the whole row shares is annihilated, as far as the row sums to 1
        own, common = np.maximum(g.energy - g.position_covariance, 0.0), np.maximum(g.position_covariance, 0.0)
        alike = own * max(self._shared(g), 0.0)
        own, common = own - alike, common + alike
        count, _, found = self._moments(x)
        energy = (own * found.k + common * found.together) / max(count, 1)
        # a row's gradients add up to nothing, as far as its probabilities to 1: what is added to all of a row gets none
        covariance = -own * found.k / max(count, 1) / max(g.positions - 1, 1)
        return self._summing_to_nothing(g.behind(Effect.MOVED, (energy, covariance)))

    def _summing_to_nothing(self, g: Gradient) -> Gradient:
        """A gradient that adds up to nothing over each row, where rows of one cell are several."""
        count = self.shape[self._axis]
        if g.positions <= count or count < 2:
            return g
        return replace(g, nearby=same_along({self._axis: count}, -(1.0 - count / g.positions) / (count - 1.0)))

    def _shared(self, x: Field) -> float:
        """Correlation of two entries of a row, of what all rows of a cell do not share."""
        count = self.shape[self._axis]
        return (x.nearby.coherence({self._axis: count}) - 1.0) / (count - 1.0) if x.nearby and count > 1 else 0.0


@component("log_softmax")
class LogSoftmax(Softmax):
    """log softmax: J = I - 1 p^T, phi = 1 - 2/n + S2 (the identity minus the row's weighted sum).

    Of a cotangent that all entries of a row share, as a logsumexp behind sends it, n S2 - 1 is left: E (1 - n p)^2.
    Source: theory 3.6.
    """

    def map(self, x: Moments) -> Moments:
        count, variance = max(self.shape[self._axis], 1), self._logit_variance(x)
        return Moments.uniform(self.shape, -math.log(count) - variance / 2, variance)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        count = max(self.shape[self._axis], 1)
        g = cotangent.pooled(self._axis)
        s2 = softmax_moments(count, self._logit_variance(x)).s2
        common = np.clip(g.position_covariance, 0.0, g.energy) if g.positions == count else 0.0 * g.energy
        common = common + (g.energy - common) * max(self._shared(g), 0.0)
        energy = (g.energy - common) * (1.0 - 2.0 / count + s2) + common * max(count * s2 - 1.0, 0.0)
        found = g.behind(Effect.MOVED, (energy, 0.0 * g.position_covariance))
        return self._summing_to_nothing(found)


def over_counts(counts: np.ndarray, logit: float, cap: float | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """S and K of rows of so many independent logits, and the mean slope of a cap on them; computed for a few of them: n
    S hardly varies with n."""
    low, high = max(float(counts.min()), 1.0), max(float(counts.max()), 1.0)
    sampled = np.unique(np.rint(np.linspace(low, high, min(math.ceil(high - low) + 1, _SAMPLED))))
    each = [_row_moments(int(count), logit, cap) for count in sampled]
    at = np.clip(counts, sampled[0], sampled[-1])
    s2 = np.interp(at, sampled, sampled * np.array([m.s2 for m, _ in each])) / at
    k = np.interp(at, sampled, sampled * np.array([m.k for m, _ in each])) / at
    return s2, k, sum(slope for _, slope in each) / len(each)


def _row_moments(count: int, logit: float, cap: float | None) -> tuple[SoftmaxMoments, float]:
    return (softmax_moments(count, logit), 1.0) if cap is None else capped_softmax_moments(count, logit, cap)
