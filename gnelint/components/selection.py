"""Which entries are taken: the largest of a row, masks of 0 and 1, and what is written to chosen places.

Routers of mixtures of experts are built of these. A mask of unknown pattern is 0 or 1 with the expected share of ones,
independent of the values it multiplies; the values that were picked for their size know that they are large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import ClassVar

import numpy as np

from gnelint.components.base import (
    Basis,
    Component,
    Cotangents,
    Gradients,
    Inputs,
    NotModelledError,
    OneOutput,
    Opaque,
    component,
)
from gnelint.components.combine.operands import aligned, known
from gnelint.theory.fields.cells import Axis
from gnelint.theory.fields.field import Effect, put
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.special import normal_cdf

_PATTERN = "a mask's pattern is independent of the values: ones in their expected share"


@lru_cache(maxsize=1024)
def top_moments(count: int, top: int) -> tuple[float, float, float]:
    """E of an entry, of its square and of the product of two different ones among the `top` largest of `count`
    independent N(0, 1) values; by draws with a fixed seed, good to about 1 %."""
    draws = max(256, (1 << 18) // count)
    values = np.random.default_rng(0).standard_normal((draws, count))
    values = np.partition(values, count - top, axis=1)[:, count - top :]
    square = float((values**2).mean())
    whole = float((values.sum(axis=1) ** 2).mean())
    pair = (whole - top * square) / (top * (top - 1)) if top > 1 else 0.0
    return float(values.mean()), square, pair


@component("stop_gradient")
class StopGradient(OneOutput):
    """y = x, and no gradient passes (detach, no_grad)."""

    def joined(self, inputs: Inputs) -> Moments:
        return known(inputs)[0]

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        return (g.scaled(0.0),)


@component("straight_through")
class StraightThrough(OneOutput):
    """y = z with the gradient of y = x (arXiv 1308.3432)."""

    def joined(self, inputs: Inputs) -> Moments:
        return known(inputs)[0]

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        return (g.scaled(0.0), g)


class _Mask(Opaque):
    """A tensor of 0 and 1 through which no gradient passes; y = 1 with probability `_share`."""

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = (_PATTERN,)

    def _share(self, inputs: Inputs) -> float:
        raise NotImplementedError

    def joined(self, inputs: Inputs) -> Moments:
        share = self._share(inputs)
        return replace(Moments.uniform(self.output_shapes[0], share, share * (1.0 - share)), nonnegative=True)


@component("top_mask")
class TopMask(_Mask):
    """1 at the k largest (smallest) of a row's n entries, or everywhere else where they are hidden: k/n of them.

    Source: theory 3.9.
    """

    def _share(self, inputs: Inputs) -> float:
        share = float(self.node.attribute("k") / self.output_shapes[0][self.node.attribute("axis")])
        return 1.0 - share if self.node.attribute("hidden") else share


@component("one_hot")
class OneHot(_Mask):
    """1 at one of n classes (theory 3.9)."""

    def _share(self, inputs: Inputs) -> float:
        return float(1.0 / self.output_shapes[0][self.node.attribute("axis")])


@component("compare")
class Compare(_Mask):
    """a < b or a > b of independent Gaussians: P = Phi((E b - E a) / sqrt(Var a + Var b)).

    Source: theory 3.9.
    """

    assumptions: ClassVar[tuple[str, ...]] = (_PATTERN, "what is compared is independent and Gaussian")

    def _share(self, inputs: Inputs) -> float:
        a, b = aligned([x.flattened().only() for x in known(inputs)], self.output_shapes[0])
        gap, variance = float((b.mean - a.mean).mean()), float((a.variance + b.variance).mean())
        if variance <= 0.0:
            raise NotModelledError("compares constants")
        below = float(normal_cdf(np.array(gap / np.sqrt(variance))))
        return below if self.node.attribute("kind") in ("lt", "le") else 1.0 - below


@component("logical")
class Logical(_Mask):
    """Masks joined entry by entry: not 1 - p, and p q, or p + q - p q, xor p + q - 2 p q (theory 3.9)."""

    assumptions: ClassVar[tuple[str, ...]] = (_PATTERN, "masks that are joined are independent of each other")

    def _share(self, inputs: Inputs) -> float:
        if any(x is None for x in inputs):
            raise NotModelledError("joins masks whose share of ones is not known")
        first, *others = (x.total_mean for x in known(inputs))
        kind = self.node.attribute("kind")
        if kind == "not":
            return 1.0 - first
        (second,) = others
        both = first * second
        return {"and": both, "or": first + second - both, "xor": first + second - 2 * both}[kind]


@component("top_k")
class TopK(Component):
    """The k largest (smallest) of n entries of a row, and their indices: phi = 1; an input entry is picked with
    probability k/n and receives what its place receives.

    Values are order statistics of independent Gaussians; indices are as likely to be any.

    Source: theory 3.9.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = ("the entries of a row are independent and Gaussian",)
    fixed_phi_variance: ClassVar[float | None] = 0.0

    @property
    def _index(self) -> int:
        return int(self.node.attribute("axis")) % len(self.output_shapes[0])

    def forward(self, inputs: Inputs) -> tuple[Moments, ...]:
        (x,) = known(inputs)
        index, shape = self._index, self.output_shapes[0]
        count, top = x.shape[index], shape[index]
        x = x.flattened().pooled(index)
        sign = 1.0 if self.node.attribute("largest") else -1.0
        first, square, pair = top_moments(count, top)
        free = np.maximum(x.variance - x.position_covariance, 0.0)
        alone = all(size == 1 for i, size in enumerate(shape) if i not in (0, index))  # the row is all of the sample
        together = free * (pair - first**2) if alone and top > 1 else 0.0 * free
        axes = put(x.axes, index, Axis(top))
        mean = x.mean + sign * np.sqrt(free) * first
        variance = free * (square - first**2) + x.position_covariance
        found = [Moments.flat(axes, mean, variance, x.position_covariance + together, x.nonnegative)]
        for _ in self.output_shapes[1:]:
            found.append(Moments.uniform(shape, (count - 1) / 2, (count**2 - 1) / 12))
        return tuple(found)

    def backward(self, inputs: Inputs, outputs: Sequence[Moments], cotangents: Cotangents) -> Gradients:
        g, shape = cotangents[0], self.input_shape
        if g is None:
            return (None,)
        index = self._index
        share = self.output_shapes[0][index] / shape[index]
        g = g.pooled(index)
        axes, profile = put(g.axes, index, Axis(shape[index])), put(g.profile, index, None)
        return (g.behind(Effect.MOVED, (g.energy * share, g.position_covariance * share**2), axes, profile),)

    def phis(self, inputs: Inputs, outputs: Sequence[Moments]) -> tuple[float | None, ...]:
        """1: the indices, which carry no gradient, do not count."""
        return (1.0,)


@component("scatter")
class Scatter(OneOutput):
    """y = x, but the updates at k of n entries along one axis: phi = 1 - k/n for x, k/n for the updates.

    Source: theory 3.9.
    """

    basis: ClassVar[Basis] = "approximate"
    assumptions: ClassVar[tuple[str, ...]] = (
        "places are as likely to be any, and different for different updates of a row",
    )

    def _parts(self) -> tuple[int, float]:
        x, updates = self.input_shapes[0], self.input_shapes[2]
        assert x is not None
        assert updates is not None
        index = int(self.node.attribute("axis")) % len(x)
        if (
            any(a != b for i, (a, b) in enumerate(zip(x, updates, strict=True)) if i != index)
            or updates[index] > x[index]
        ):
            raise NotModelledError("writes to a part of the other axes")
        return index, updates[index] / x[index]

    def joined(self, inputs: Inputs) -> Moments:
        index, share = self._parts()
        x, updates = (part.flattened().pooled(index) for part in known((inputs[0], inputs[2])))
        updates = updates.behind(Effect.MOVED, updates.arrays(), put(updates.axes, index, Axis(x.shape[index])))
        x, updates = aligned([x, updates], x.shape)
        mean = (1 - share) * x.mean + share * updates.mean
        second = (1 - share) * x.second + share * updates.second
        covariance = (1 - share) ** 2 * x.position_covariance + share**2 * updates.position_covariance
        return Moments.flat(x.axes, mean, second - mean**2, covariance, x.nonnegative and updates.nonnegative)

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        shape = self.input_shapes[2]
        assert shape is not None
        index, share = self._parts()
        g = g.pooled(index)
        axes, profile = put(g.axes, index, Axis(shape[index])), put(g.profile, index, None)
        energy, covariance = g.arrays()[:2]
        kept = g.behind(Effect.MOVED, (energy * (1 - share), covariance * (1 - share) ** 2), profile=profile)
        return kept, None, g.behind(Effect.MOVED, (energy, covariance), axes, profile)
