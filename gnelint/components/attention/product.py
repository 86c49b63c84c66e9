"""Products of two activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from gnelint.components.base import Basis, Gradients, Inputs, NotModelledError, OneOutput, component
from gnelint.theory.fields.cells import MAX_CELLS, Axes, Axis, average
from gnelint.theory.fields.field import Effect, put
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments

_ONE_MEAN = 0.9
"""Of the energy of rows' means: from what share on these are one mean."""
_SOME_MEAN = 0.05
"""Of the whole energy: from what share on a mean makes a difference."""
_UNLIKE = 4.0
"""Ratio of energies from which on matrices are told apart."""
_MOST_KINDS = 64
"""Kinds of matrices that are told apart at most."""


def _kinds(*factors: Moments) -> tuple[int, ...]:
    """The axes, of those that count matrices of one sample, along which a factor's are of unlike size: what a product
    makes of large ones says nothing of small ones, which a normalisation behind it takes apart."""
    found, kinds = [], 1
    for index in range(1, len(factors[0].axes) - 2):
        energies = [x.only(index).second.reshape(-1) for x in factors if not x.axes[index].is_pooled]
        unlike = any(each.max() > _UNLIKE * each.min() for each in energies)
        kinds *= max(x.axes[index].count for x in factors) if unlike else 1
        if unlike and kinds <= _MOST_KINDS:
            found.append(index)
    return tuple(found)


def _aligned(a: Moments, b: Moments, kinds: Sequence[int]) -> tuple[Moments, Moments]:
    """With the same cells along these axes, where neither is copied."""
    for index in kinds:
        if a.axes[index].size == b.axes[index].size:
            axis = a.axes[index].refine(b.axes[index])
            a, b = (x.refined(put(x.axes, index, axis)) for x in (a, b))
    return a, b


def _together(x: Moments, axes: Axes, kinds: Sequence[int]) -> np.ndarray:
    """E x_p x_p' of two different entries of a cell of the matrix, averaged over the matrices of one kind."""
    rank = len(axes)
    joint = Moments.flat(x.axes, x.mean**2 + x.position_covariance, np.zeros(1)).only(*kinds, rank - 2, rank - 1)
    return joint.refined(axes).mean


def _evened(x: Moments) -> Moments:
    """A matrix whose rows or columns all have about the same mean, as features behind a kernel's map, with these in one
    cell: products with them share what the mean makes of the other factor."""
    rank = len(x.axes)
    for index in (rank - 2, rank - 1) if x.variance.any() else ():  # numbers that are known stay what they are
        means = x.only(index).mean
        level = float(means.mean()) ** 2
        if (
            means.size > 1
            and level > _ONE_MEAN * float((means**2).mean())
            and level > _SOME_MEAN * float(x.second.mean())
        ):
            x = x.pooled(index)
    return x


def _of_matrices(g: Gradient, kinds: Sequence[int]) -> Gradient:
    """Averaged over the matrices of one kind; what two entries of one matrix share stays what it is."""
    energy, covariance = g.arrays()[:2]
    lead = range(len(g.axes) - 2)
    for index in lead:
        if index not in kinds:
            energy, covariance = average(energy, g.axes, index), average(covariance, g.axes, index)
    axes = tuple(axis if i in kinds else Axis(axis.size) for i, axis in enumerate(g.axes[:-2]))
    found = g.behind(Effect.MOVED, (energy, covariance), (*axes, *g.axes[-2:]))
    return replace(found, alike=g.alike & {len(g.axes) - 2, len(g.axes) - 1})


def _between_cells(g: Gradient, index: int) -> np.ndarray:
    """E of the products of two entries in different cells along an axis, summed over all such pairs; 0 where cells are
    not alike."""
    if len(g.axes) + index not in g.alike:
        return np.zeros((1, 1))
    lengths = g.axes[index].lengths.reshape((-1, 1) if index == -2 else (1, -1))
    shared = np.maximum(g.position_covariance, 0.0)
    one = (lengths * np.sqrt(shared)).sum(axis=index, keepdims=True) ** 2
    return np.asarray(one - (lengths**2 * shared).sum(axis=index, keepdims=True))


def _in_common(factor: Moments, g: Gradient, index: int) -> tuple[np.ndarray, float]:
    """E of the product of two entries of a factor that differ along the inner axis only, on the cells of the axis that
    the cotangent is summed over; and of entries of two such cells. Averaged over the matrices."""
    square = factor.mean**2
    if factor.axes[index].count == factor.axes[index].size > 1:  # no two entries of a cell but along the inner axis
        square = square + np.maximum(factor.position_covariance, 0.0)
    axis = len(factor.axes) + index
    joint = Moments.flat(factor.axes, square, np.zeros(1)).only(axis)
    joint = joint.refined(put(joint.axes, axis, g.axes[index]))
    matrix = factor.pooled(len(factor.axes) - 2).pooled(len(factor.axes) - 1)
    level = factor.amplitude() ** 2
    return level * joint.mean.reshape((-1, 1) if index == -2 else (1, -1)), level * float((matrix.mean**2).mean())


def _pairs(axis: Axis) -> np.ndarray:
    """Number of pairs of different indices in each cell."""
    return axis.lengths * (axis.lengths - 1.0)


@component("matmul")
class MatMul(OneOutput):
    """y = factor A B of two activations that are independent of each other.

        phi with respect to A = factor^2 k E b^2 (k the inner size), with respect to B likewise
        mean -> factor k E a E b (per inner index)
        variance -> factor^2 [sum_j (E a_j^2 E b_j^2 - (E a_j E b_j)^2) + sum_{j != j'} (E a_j a_j' E b_j b_j' - ...)]
        gradient of b_jd = factor^2 (sum_i E a_ij^2 E g_id^2 + sum_{i != i'} E a_ij a_i'j E g_id g_i'd), of a likewise

    The pairs matter where all rows get the same gradient and the factor has a mean, as attention weights do.

    Source: theory 3.7.
    """

    basis: ClassVar[Basis] = "theorem"
    assumptions: ClassVar[tuple[str, ...]] = ("the factors of a product are independent",)

    @staticmethod
    def _turned(x: Moments, flag: bool) -> Moments:
        rank = len(x.shape)
        return x.permuted((*range(rank - 2), rank - 1, rank - 2)) if flag else x

    def _operands(self, inputs: Inputs) -> tuple[Moments, Moments]:
        a, b = inputs[:2]
        if a is None or b is None:
            raise NotModelledError("a product with a tensor whose values are not known before the network runs")
        if len(a.shape) < 2 or len(b.shape) < 2:
            raise NotModelledError("a product with a vector")
        left = self._turned(a.flattened(), bool(self.node.attribute("transpose_a")))
        right = self._turned(b.flattened(), bool(self.node.attribute("transpose_b")))
        rank = max(len(left.shape), len(right.shape))
        return _evened(left).with_rank(rank), _evened(right).with_rank(rank)

    def joined(self, inputs: Inputs) -> Moments:
        left, right = self._operands(inputs)
        factor = float(self.node.attribute("factor"))
        rank = len(left.shape)
        kinds = _kinds(left, right)
        a, b = _aligned(left.only(*kinds, rank - 2, rank - 1), right.only(*kinds, rank - 2, rank - 1), kinds)
        inner = a.axes[-1].refine(b.axes[-2])
        a = a.refined((*a.axes[:-1], inner))
        b = b.refined((*b.axes[:-2], inner, b.axes[-1]))
        lengths = inner.lengths
        mean = factor * np.matmul(a.mean * lengths, b.mean)
        pairs, together = _pairs(inner), _together(left, a.axes, kinds)
        same, of_pairs = np.matmul(a.mean**2 * lengths, b.mean**2), np.matmul(a.mean**2 * pairs, b.mean**2)
        crossed = np.matmul(together * pairs, _together(right, b.axes, kinds))
        crossed = crossed + self._met(inputs) * np.matmul(a.variance * lengths**2, b.variance)
        second = np.matmul(a.second * lengths, b.second) - same + crossed - of_pairs
        shape = self.output_shapes[0]
        lead = tuple(self._lead(shape[i], a.axes[i], b.axes[i]) for i in range(rank - 2))
        axes = (*lead, a.axes[-2], b.axes[-1])
        y = Moments.flat(axes, mean, factor**2 * np.maximum(second, 0.0))
        rows = np.matmul(together * lengths, b.second)
        covariance = factor**2 * (rows + crossed - same - of_pairs)
        return self._sharing(y, np.clip(covariance, 0.0, y.variance))

    def _met(self, inputs: Inputs) -> float:
        """Mean squared correlation of the factors' features at one position, where the inner axis is one of positions
        and both come of one value: the same in every sample, of a sign that depends on the weights."""
        a, b = inputs[:2]
        assert a is not None
        assert b is not None
        left = self._turned(a, bool(self.node.attribute("transpose_a"))).axes
        right = self._turned(b, bool(self.node.attribute("transpose_b"))).axes
        inner, features = (left[-1], right[-2]), (left[-2], right[-1])
        if any(not axis.is_pooled for axis in inner) or any(axis.is_pooled for axis in features):
            return 0.0
        return a.channel_correlation.meeting(b.channel_correlation)[0]

    @staticmethod
    def _lead(size: int, *axes: Axis) -> Axis:
        """The axis of a product that counts its matrices: as the operand is cut that has as many."""
        return next((axis for axis in axes if axis.size == size), Axis(size))

    @staticmethod
    def _sharing(y: Moments, covariance: np.ndarray) -> Moments:
        """With this covariance of two rows in one column of one matrix; what columns and matrices share is not
        known."""
        if not np.any(covariance) or not y.axes[-2].is_pooled:
            return y
        apart = tuple(Axis.full(a.size) if 0 < i != len(y.axes) - 2 else a for i, a in enumerate(y.axes))
        y = replace(y, position_covariance=covariance)
        if math.prod(a.count for a in apart) > MAX_CELLS:
            return replace(y, position_covariance=0.0 * covariance)
        return replace(y.refined(apart), alike=frozenset())

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        left, right = self._operands(inputs)
        rank = len(left.shape)
        square = float(self.node.attribute("factor")) ** 2
        kinds = _kinds(left, right)
        a, b = _aligned(left.only(*kinds, rank - 2, rank - 1), right.only(*kinds, rank - 2, rank - 1), kinds)
        g = _of_matrices(g, kinds)
        for index in kinds:  # as the product's own matrices are told apart
            axis = g.axes[index].refine(self._lead(g.axes[index].size, a.axes[index], b.axes[index]))
            g = g.refined(put(g.axes, index, axis))
            a, b = (x.refined(put(x.axes, index, axis)) if x.axes[index].size == axis.size else x for x in (a, b))
        rows, columns = g.axes[-2].refine(a.axes[-2]), g.axes[-1].refine(b.axes[-1])
        g = g.refined((*g.axes[:-2], rows, columns))
        a = a.refined((*a.axes[:-2], rows, a.axes[-1]))
        b = b.refined((*b.axes[:-1], columns))
        pairs_a, pairs_b = _together(left, a.axes, kinds), _together(right, b.axes, kinds)
        to_a = np.matmul(g.energy * columns.lengths, np.swapaxes(b.second, -1, -2))
        to_a = to_a + np.matmul(g.position_covariance * _pairs(columns), np.swapaxes(pairs_b, -1, -2))
        to_b = np.matmul(np.swapaxes(a.second, -1, -2) * rows.lengths, g.energy)
        to_b = to_b + np.matmul(np.swapaxes(pairs_a, -1, -2) * _pairs(rows), g.position_covariance)
        to_a = to_a + _between_cells(g, -1) * np.swapaxes(pairs_b, -1, -2).mean(axis=-2, keepdims=True)
        to_b = to_b + np.swapaxes(pairs_a, -1, -2).mean(axis=-1, keepdims=True) * _between_cells(g, -2)
        to_a, to_b = (square * np.maximum(energy, 0.0) for energy in (to_a, to_b))
        lead = g.axes[:-2]
        grad_a = Gradient.flat((*lead, rows, b.axes[-2]), to_a)
        grad_b = Gradient.flat((*lead, a.axes[-1], columns), to_b)
        grad_a, grad_b = self._passed_whole(grad_a, g, right, -1), self._passed_whole(grad_b, g, left, -2)
        assert inputs[0] is not None
        assert inputs[1] is not None
        return (
            self._back(grad_a, inputs[0].shape, bool(self.node.attribute("transpose_a"))),
            self._back(grad_b, inputs[1].shape, bool(self.node.attribute("transpose_b"))),
        )

    def _passed_whole(self, pulled: Gradient, g: Gradient, factor: Moments, index: int) -> Gradient:
        """With what the inner indices share: the factor's mean makes one sum of all of the cotangent for each of them,
        and what its entries along the inner axis have in common one weighted sum. Matrices may have means of their own.

        Args:
            pulled: the gradient at the other operand.
            g: the cotangent.
            factor: an operand, whose inner axis is the last but one for index -1, the last for -2.
            index: of the cotangent's axis that is summed over.
        """
        inner, kept = (-1, -2) if index == -1 else (-2, -1)
        if not factor.axes[kept].is_pooled:  # means that differ along it are no sum of all
            return pulled
        common, one = _in_common(factor, g, index)
        if not common.any() or pulled.axes[kept].count < pulled.axes[kept].size:
            return pulled
        lengths = g.axes[index].lengths.reshape((-1, 1) if index == -2 else (1, -1))
        shares = np.maximum(g.energy + g.position_covariance * (lengths - 1.0), 0.0)
        whole = (common * lengths * shares).sum(axis=index, keepdims=True) + one * _between_cells(g, index)
        covariance = float(self.node.attribute("factor")) ** 2 * whole
        apart = tuple(Axis.full(a.size) if 0 < i < len(pulled.axes) - 2 else a for i, a in enumerate(pulled.axes))
        if math.prod(a.count for a in apart) > MAX_CELLS:
            return pulled
        covariance = np.minimum(np.broadcast_to(covariance, pulled.energy.shape), pulled.energy)
        alike = frozenset() if pulled.axes[inner].is_pooled else frozenset({len(pulled.axes) + inner})
        return replace(pulled, position_covariance=covariance, alike=alike).refined(apart)

    @staticmethod
    def _back(g: Gradient, shape: tuple[int, ...], flag: bool) -> Gradient:
        turned = (*shape[:-2], shape[-1], shape[-2]) if flag else shape
        g = g.summed_to(turned)
        rank = len(shape)
        return g.permuted((*range(rank - 2), rank - 1, rank - 2)) if flag else g
