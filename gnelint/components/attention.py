"""Softmax, attention and products of two activations.

Attention over T keys with logits of variance q (over the keys of one row): S = E sum_j a_j^2, K = E[S2 - 2 S3 + S2^2]
(theory.softmax). A cotangent that is white over tokens is multiplied by about S ~ 1/T on the value path; one that all tokens
share passes whole. Both are kept, as energy and shared. Source: theory of components, 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gnelint.components.base import Component, NotModelledError, Unary, component
from gnelint.prediction import Basis
from gnelint.theory.cells import Axes, Axis, average
from gnelint.theory.moments import Gradient, Moments
from gnelint.theory.softmax import SoftmaxMoments, softmax_moments

IID_LOGITS = "logits are independent and Gaussian over the keys"


@component("softmax")
class Softmax(Unary):
    """p = softmax(x) over n entries: phi = E[S2 - 2 S3 + S2^2] / n, for independent Gaussian logits (3.6)."""

    basis: ClassVar[Basis] = "theorem"
    assumptions: ClassVar[tuple[str, ...]] = (IID_LOGITS,)

    @property
    def _axis(self) -> int:
        return int(self.node.attribute("axis")) % len(self.shape)

    def _moments(self, x: Moments) -> tuple[int, SoftmaxMoments]:
        count = self.shape[self._axis]
        pooled = x.flattened().pooled(self._axis)
        # what all entries of a row share drops out
        variance = float(np.mean(np.maximum(pooled.variance - pooled.shared, 0.0)))
        return count, softmax_moments(count, variance)

    def map(self, x: Moments) -> Moments:
        count, found = self._moments(x)
        mean = 1.0 / max(count, 1)
        variance = max(found.s2 / max(count, 1) - mean**2, 0.0)
        y = Moments.uniform(self.shape, mean, variance)
        return Moments.flat(y.axes, y.mean, y.variance, nonnegative=True)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        count, found = self._moments(x)
        g = cotangent.pooled(self._axis)
        factor = found.k / max(count, 1)
        # a cotangent that the whole row shares is annihilated
        return g.rebuilt(g.axes, (np.maximum(g.energy - g.shared, 0.0) * factor, 0.0 * g.shared), g.profile)


@component("log_softmax")
class LogSoftmax(Softmax):
    """log softmax: J = I - 1 p^T, phi = 1 - 2/n + S2 (the identity minus the row's weighted sum)."""

    def map(self, x: Moments) -> Moments:
        pooled = x.flattened().pooled(self._axis)
        variance = float(np.mean(np.maximum(pooled.variance - pooled.shared, 0.0)))
        count = max(self.shape[self._axis], 1)
        y = Moments.uniform(self.shape, -math.log(count) - variance / 2, variance)
        return y

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        count, found = self._moments(x)
        g = cotangent.pooled(self._axis)
        energy = g.energy * (1.0 - 2.0 / max(count, 1) + found.s2)
        return g.rebuilt(g.axes, (energy, 0.0 * g.shared), g.profile)


@dataclass(frozen=True)
class _Heads:
    """Query, key and value of one attention node as (B, H, T, d) moments."""

    query: Moments
    key: Moments
    value: Moments
    weights: SoftmaxMoments
    scale: float
    keys: int
    key_variance: np.ndarray
    value_variance: np.ndarray


@component("attention")
class Attention(Component):
    """y_i = sum_j a_ij v_j, a = softmax(scale q k^T), for white tokens and independent projections.

        value path    energy_v = (S / T) sum_i energy_i + (1 / T^2) sum_{i != i'} shared
        query path    scale^2 K gv var_k,         gv = sum_d energy_d var(v_d)
        key path      scale^2 (K / T) sum_i gv_i E q^2
        mean -> mean over the keys;  variance -> S var_v + shared_v

    Logits' variance is scale^2 sum_d E q_d^2 Var_j k_jd. With a causal mask, S and K are averaged over the rows' lengths.
    The covariance between keys and values of one token, which adds 1/D to K on the query path, is taken for D = heads times d.
    """

    basis: ClassVar[Basis] = "theorem"
    assumptions: ClassVar[tuple[str, ...]] = (IID_LOGITS, "queries, keys and values come from independent projections")

    def _unpack(self, x: Moments | Gradient, heads: int | None) -> Moments | Gradient:
        """(B, H, T, d) from whatever layout the node has."""
        if self.node.attribute("packed"):
            b, t, width = x.shape
            if not heads:
                raise NotModelledError("packed attention without a number of heads")
            return x.reshaped((b, t, heads, width // heads)).permuted((0, 2, 1, 3))
        if len(x.shape) == 2:
            return x.reshaped((1, 1, *x.shape))
        if len(x.shape) == 3:
            b, t, width = x.shape
            return x.reshaped((b, 1, t, width))
        if len(x.shape) > 4:
            return x.reshaped((x.shape[0], math.prod(x.shape[1:-2]), *x.shape[-2:]))
        return x

    def _pack(self, g: Gradient, shape: tuple[int, ...]) -> Gradient:
        if self.node.attribute("packed"):
            g = g.permuted((0, 2, 1, 3))
        return g.reshaped(shape)

    def _heads(self, inputs: Sequence[Moments | None]) -> _Heads:
        query, key, value = inputs[:3]
        if query is None or key is None or value is None:
            raise NotModelledError("a query, key or value that carries no gradient")
        heads = self.node.attribute("heads")
        kv_heads = self.node.attribute("kv_heads") or heads
        q, k, v = self._unpack(query, heads), self._unpack(key, kv_heads), self._unpack(value, kv_heads)
        assert isinstance(q, Moments)
        assert isinstance(k, Moments)
        assert isinstance(v, Moments)
        q, k, v = q.flattened(), k.flattened(), v.flattened()
        pooled_k, pooled_v = k.pooled(2), v.pooled(2)
        # what all keys share moves every logit of a row alike and drops out of the softmax
        var_k = np.maximum(pooled_k.variance - pooled_k.shared, 0.0)
        var_v = np.maximum(pooled_v.variance - pooled_v.shared, 0.0)
        width = q.shape[3]
        scale = self.node.attribute("scale")
        scale = 1.0 / math.sqrt(width) if scale is None else float(scale)
        second = _over(q.pooled(2).second, q.pooled(2).axes, (0, 1))
        spread = _over(var_k, pooled_k.axes, (0, 1))
        logit = scale**2 * float(np.mean(second * spread)) * width
        keys = k.shape[2]
        return _Heads(q, k, v, self._weights(q.shape[2], keys, logit), scale, keys, var_k, var_v)

    def _weights(self, queries: int, keys: int, logit_variance: float) -> SoftmaxMoments:
        if not self.node.attribute("causal"):
            return softmax_moments(keys, logit_variance)
        lengths = np.unique(np.linspace(1, keys, min(keys, 24)).round().astype(int))
        rows = [softmax_moments(int(n), logit_variance) for n in lengths]
        every = np.arange(1, keys + 1)
        # 1/n varies fast for the first rows: interpolate n S, which hardly does
        s2 = np.interp(every, lengths, [n * row.s2 for n, row in zip(lengths, rows, strict=True)]) / every
        k = np.interp(every, lengths, [n * row.k for n, row in zip(lengths, rows, strict=True)]) / every
        return SoftmaxMoments(float(s2.mean()), float(k.mean()))

    def forward(self, inputs: Sequence[Moments | None]) -> tuple[Moments, ...]:
        found = self._heads(inputs)
        v = found.value.pooled(2)
        free = found.value_variance
        shared = v.shared + free / found.keys
        y = Moments.flat(v.axes, v.mean, v.shared + free * found.weights.s2, np.minimum(shared, v.shared + free))
        q = found.query.shape
        y = self._repeat_heads(y, q[1])
        axes = (*y.axes[:2], Axis(q[2]), y.axes[3])
        y = Moments.flat(axes, y.mean, y.variance, y.shared)
        if self.node.attribute("packed"):
            y = y.permuted((0, 2, 1, 3))
        return (y.reshaped(self.output_shapes[0]),)

    def _repeat_heads(self, x: Moments, heads: int) -> Moments:
        """Values of kv_heads heads as each of its query heads sees them."""
        own = x.shape[1]
        if own == heads:
            return x
        if heads % own:
            raise NotModelledError(f"{heads} query heads over {own} key heads")
        repeats = heads // own
        if x.axes[1].is_pooled:
            return x.rebuilt((x.axes[0], Axis(heads), *x.axes[2:]), x.arrays(), x.profile)
        full = x.refined((Axis(x.shape[0]), Axis.full(own), Axis(x.shape[2]), Axis(x.shape[3])))
        arrays = [np.repeat(a, repeats, axis=1) for a in full.arrays()]
        return full.rebuilt((full.axes[0], Axis.full(heads), *full.axes[2:]), arrays, full.profile)

    def backward(
        self, inputs: Sequence[Moments | None], outputs: Sequence[Moments], cotangents: Sequence[Gradient | None]
    ) -> tuple[Gradient | None, ...]:
        none = (None,) * len(inputs)
        if cotangents[0] is None:
            return none
        found = self._heads(inputs)
        g = self._unpack(cotangents[0], self.node.attribute("heads"))
        assert isinstance(g, Gradient)
        queries, keys, width = g.shape[2], found.keys, g.shape[3]
        heads, kv = found.query.shape[1], found.key.shape[1]
        mean_energy, mean_shared = g.pooled(2).energy, g.pooled(2).shared
        total = queries * mean_energy
        pairs = queries * (queries - 1) * mean_shared
        energy_v = found.weights.s2 / keys * total + pairs / keys**2
        shared_v = max(1.0 - found.weights.s2, 0.0) / (keys * max(keys - 1, 1)) * total + pairs / keys**2
        rows = g.pooled(2).axes
        value = Gradient.flat((*rows[:2], Axis(keys), rows[3]), energy_v, shared_v)

        var_v = self._fitted(found.value_variance, found.value, heads)
        per_row = _over(g.energy * var_v, _row_axes(g, var_v), (3,)) * width
        # values and keys of one token are correlated: their covariance does not average out over the keys
        query_factor = found.weights.k + 1.0 / (heads * width)
        var_k = self._fitted(found.key_variance, found.key, heads)
        energy_q = found.scale**2 * query_factor * per_row * var_k
        shared_q = np.zeros_like(energy_q)
        q_axes = (*_row_axes(g, var_v)[:3], Axis.full(var_k.shape[3]) if var_k.shape[3] > 1 else Axis(found.query.shape[3]))
        query = Gradient.flat(_sized(q_axes, found.query.shape), energy_q, shared_q)

        second_q = found.query.pooled(2).second
        row_mean = _over(per_row, (*_row_axes(g, var_v)[:3], Axis(1)), (2,))
        energy_k = found.scale**2 * found.weights.k * queries / keys * row_mean * second_q
        k_axes = (g.axes[0], Axis.full(energy_k.shape[1]) if energy_k.shape[1] > 1 else Axis(heads))
        last = Axis.full(energy_k.shape[3]) if energy_k.shape[3] > 1 else Axis(found.key.shape[3])
        key = Gradient.flat((Axis(found.key.shape[0]), k_axes[1], Axis(keys), last), energy_k)
        key, value = self._sum_heads(key, kv), self._sum_heads(value, kv)
        shapes = [x.shape for x in inputs[:3] if x is not None]
        gradients = [self._pack(part, shape) for part, shape in zip((query, key, value), shapes, strict=True)]
        return (*gradients, *none[3:])

    def _fitted(self, array: np.ndarray, x: Moments, heads: int) -> np.ndarray:
        """An array over (B, kv_heads, 1, d) cells as seen by each query head."""
        own = x.shape[1]
        return array if array.shape[1] == 1 or own == heads else np.repeat(array, heads // own, axis=1)

    def _sum_heads(self, g: Gradient, kv: int) -> Gradient:
        """Gradients of the query heads that share a key head, added up."""
        heads = g.shape[1]
        if heads == kv:
            return g
        repeats = heads // kv
        b, _, t, d = g.shape
        split = g.reshaped((b, kv, repeats, t, d)).pooled(2)
        arrays = [np.asarray(a[:, :, 0] * repeats) for a in split.arrays()]
        return split.rebuilt((*split.axes[:2], *split.axes[3:]), arrays, (None,) * 4)


def _over(array: np.ndarray, axes: Axes, indices: Sequence[int]) -> np.ndarray:
    """Mean over some axes; an array that is constant along an axis is its own mean."""
    for index in indices:
        if array.shape[index] > 1:
            array = average(array, axes, index)
    return array


def _row_axes(g: Gradient, other: np.ndarray) -> Axes:
    """Cells of a product of the gradient's array and one that may have more of them along heads and width."""
    return tuple(
        Axis.full(axis.size) if other.shape[i] > axis.count else axis for i, axis in enumerate(g.axes)
    )


def _sized(axes: Axes, shape: Sequence[int]) -> Axes:
    return tuple(axis if axis.size == size else Axis(size) for axis, size in zip(axes, shape, strict=True))


@component("matmul")
class MatMul(Component):
    """y = factor A B of two activations that are independent of each other.

        phi with respect to A = factor^2 k E b^2 (k the inner size), with respect to B likewise
        mean -> factor k E a E b (per inner index), variance -> factor^2 sum over the inner index of (E a^2 E b^2 - (E a E b)^2)

    Source: theory of components, 3.7.
    """

    basis: ClassVar[Basis] = "theorem"
    assumptions: ClassVar[tuple[str, ...]] = ("the factors of a product are independent",)

    @staticmethod
    def _turned(x: Moments, flag: bool) -> Moments:
        rank = len(x.shape)
        return x.permuted((*range(rank - 2), rank - 1, rank - 2)) if flag else x

    def _operands(self, inputs: Sequence[Moments | None]) -> tuple[Moments, Moments]:
        a, b = inputs[:2]
        if a is None or b is None:
            raise NotModelledError("a product with a tensor whose values are not known before the network runs")
        if len(a.shape) < 2 or len(b.shape) < 2:
            raise NotModelledError("a product with a vector")
        left = self._turned(a.flattened(), bool(self.node.attribute("transpose_a")))
        right = self._turned(b.flattened(), bool(self.node.attribute("transpose_b")))
        rank = max(len(left.shape), len(right.shape))
        return left.with_rank(rank), right.with_rank(rank)

    def forward(self, inputs: Sequence[Moments | None]) -> tuple[Moments, ...]:
        left, right = self._operands(inputs)
        factor = float(self.node.attribute("factor"))
        rank = len(left.shape)
        batch = tuple(range(rank - 2))
        a, b = left.only(rank - 2, rank - 1), right.only(rank - 2, rank - 1)
        inner = a.axes[-1].refine(b.axes[-2])
        a = a.refined((*a.axes[:-1], inner))
        b = b.refined((*b.axes[:-2], inner, b.axes[-1]))
        lengths = inner.lengths
        mean = factor * np.matmul(a.mean * lengths, b.mean)
        second = np.matmul(a.second * lengths, b.second) - np.matmul(a.mean**2 * lengths, b.mean**2)
        shape = self.output_shapes[0]
        axes = (*(Axis(shape[i]) for i in batch), a.axes[-2], b.axes[-1])
        return (Moments.flat(axes, mean, factor**2 * np.maximum(second, 0.0)),)

    def backward(
        self, inputs: Sequence[Moments | None], outputs: Sequence[Moments], cotangents: Sequence[Gradient | None]
    ) -> tuple[Gradient | None, ...]:
        g = cotangents[0]
        if g is None:
            return (None, None)
        left, right = self._operands(inputs)
        rank = len(left.shape)
        square = float(self.node.attribute("factor")) ** 2
        a, b = left.only(rank - 2, rank - 1), right.only(rank - 2, rank - 1)
        g = g.only(rank - 2, rank - 1)
        rows, columns = g.axes[-2].refine(a.axes[-2]), g.axes[-1].refine(b.axes[-1])
        g = g.refined((*g.axes[:-2], rows, columns))
        a = a.refined((*a.axes[:-2], rows, a.axes[-1]))
        b = b.refined((*b.axes[:-1], columns))
        to_a = square * np.matmul(g.energy * columns.lengths, np.swapaxes(b.second, -1, -2))
        to_b = square * np.matmul(np.swapaxes(a.second, -1, -2) * rows.lengths, g.energy)
        lead = g.axes[:-2]
        grad_a = Gradient.flat((*lead, rows, b.axes[-2]), to_a)
        grad_b = Gradient.flat((*lead, a.axes[-1], columns), to_b)
        assert inputs[0] is not None
        assert inputs[1] is not None
        return (
            self._back(grad_a, inputs[0].shape, bool(self.node.attribute("transpose_a"))),
            self._back(grad_b, inputs[1].shape, bool(self.node.attribute("transpose_b"))),
        )

    @staticmethod
    def _back(g: Gradient, shape: tuple[int, ...], flag: bool) -> Gradient:
        turned = (*shape[:-2], shape[-1], shape[-2]) if flag else shape
        g = g.summed_to(turned)
        rank = len(shape)
        return g.permuted((*range(rank - 2), rank - 1, rank - 2)) if flag else g


