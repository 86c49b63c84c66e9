"""Matrices, embedding tables, and adding or multiplying a constant tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gnelint.components.base import Inputs, NotModelledError, Opaque, Unary, component
from gnelint.records import cached_property, replace
from gnelint.theory.fields.autocorrelation import Autocorrelation, autocorrelation_unless_along
from gnelint.theory.fields.cells import Axes, Axis, average, counts, pooled, squeeze_constant
from gnelint.theory.fields.channel_correlation import (
    NOTHING_AHEAD,
    Ahead,
    ChannelCorrelation,
    participation,
    weighted_sum,
)
from gnelint.theory.fields.field import Effect
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.log_norm import gaussian_noise
from gnelint.theory.fields.moments import MANY, Moments
from gnelint.theory.fields.nearby import Nearby
from gnelint.theory.fields.profiles import amplitude
from gnelint.theory.spectrum import Structure
from gnelint.theory.weights.contraction import columns_times, frobenius2, is_positive, rows_times, squared_gram
from gnelint.theory.weights.independent import IndependentMatrix, Matrix, matrix_of
from gnelint.theory.weights.rows import hiding_rows

_FEW_WEIGHTS = 1 << 12
"""Weights up to which it is asked what they make of channels that go along with each other: streams, copies."""


@component("linear")
class Linear(Unary):
    """y = W x + b on the last axis, W (m x n) as it is in the file.

        phi      = ||W||_F^2 / m                                   exactly, for a white cotangent
        variance = ||W W^T||_F^2 / m - phi^2
        mean    -> W mu + b
        variance of entries -> (W*W) var
        gradient energy -> (W*W)^T energy

    The moments assume uncorrelated inputs (one layer of independent weights makes them so). Of weights that are all
    positive, an average over neighbours, signs do not cancel: with e and c the second moment of an entry and what two
    share, r and k the sums of rows and columns,

        entry -> ((e - c) ||W||^2 + c sum r^2) / m
        pair  -> ((e - c) (sum k^2 - ||W||^2) + c ((sum r)^2 - sum r^2)) / (m (m - 1))

    forward, and with the transpose back. Source: theory 3.1.
    """

    fixed_structure: ClassVar[Structure] = Structure(everywhere=True)

    @property
    def _weight(self) -> Matrix:
        """Stored numbers are read anew each time: those of a checkpoint leave the memory in between."""
        parameter = self.node.parameters["weight"]
        return matrix_of(parameter) if parameter.transform is None else self._computed

    @cached_property
    def _computed(self) -> Matrix:
        return matrix_of(self.node.parameters["weight"])

    @cached_property
    def _positive(self) -> np.ndarray | None:
        """The weight if none of it is negative and no row is empty: an average over neighbours, a smoothing matrix.

        Entries without neighbours are no part of one cell with the others: what divides by their number divides by 0.
        The identity, or a choice of entries, adds nothing up: entries stay what they are.
        """
        weight = self._weight
        if not isinstance(weight, np.ndarray) or min(weight.shape) < 2 or np.count_nonzero(weight) <= len(weight):
            return None
        return weight if is_positive(weight) else None

    def _averages(self, weight: np.ndarray, x: Moments) -> Moments:
        """Of positive weights, which sum what the entries share; they stay one cell."""
        x = x.only(*range(len(x.axes) - 1)).flattened()
        rows = weight.sum(axis=1, dtype=np.float64)
        level = float(rows.mean())
        variance, covariance = self._positively(weight, x.variance, x.position_covariance)
        y = Moments(
            (*x.axes[:-1], Axis(len(rows))),
            x.profile,
            level * x.mean,
            variance + float(rows.var()) * x.mean**2,
            covariance,
            nonnegative=x.nonnegative,
            positive=x.positive or (x.nonnegative and int(np.count_nonzero(weight)) >= MANY * len(rows)),
            channel_correlation=x.channel_correlation,
        )
        bias = self.node.parameters.get("bias")
        return y if bias is None else shifted(replace(y, nonnegative=False), *constant_moments(bias.array(), y))

    @staticmethod
    def _positively(weight: np.ndarray, energy: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What an entry has and what two share behind a matrix, from what the entries before it have and share."""
        out, square = len(weight), frobenius2(weight)
        rows, columns = weight.sum(axis=1, dtype=np.float64), weight.sum(axis=0, dtype=np.float64)
        own = energy - shared
        pairs = max(out * (out - 1), 1)
        one = own * square / out + shared * float((rows**2).mean())
        two = own * (float((columns**2).sum()) - square) + shared * (float(rows.sum()) ** 2 - float((rows**2).sum()))
        return np.maximum(one, 0.0), np.clip(two / pairs, -np.abs(one), np.abs(one))

    def map(self, x: Moments) -> Moments:
        if self._positive is not None:
            return self._averages(self._positive, x)
        scales = x.log_norm_variance
        x = self._on_channels(x).settled()
        out = self.node.parameters["weight"].shape[0]
        mean, variance, covariance = (a.reshape(-1, x.shape[-1]) for a in x.arrays())
        nearby, gain = self._mixed(x.nearby, forward=True)
        both = [variance * gain, covariance] if covariance.any() else [variance * gain]
        squared = rows_times(self._weight, np.concatenate(both), squared=True)
        if len(both) == 1:
            squared = np.concatenate([squared, np.zeros_like(squared)])
        cells = (*counts(x.axes)[:-1], out)
        y = Moments(
            (*x.axes[:-1], Axis.full(out)),
            (*x.profile[:-1], None),
            rows_times(self._weight, mean, squared=False).reshape(cells),
            squared[: len(mean)].reshape(cells),
            squared[len(mean) :].reshape(cells),
            autocorrelation=self._kept(x.autocorrelation),
            nearby=nearby,
            channel_correlation=weighted_sum(x.channel_correlation, participation(variance)),
            variance_of_variance=2.0 * x.channel_correlation.total,
            mean_known=x.mean_known,
            levelled=x.levelled,  # independent weights keep what they sum of, and add what is theirs
        )
        bias = self.node.parameters.get("bias")
        y = y if bias is None else shifted(y, *constant_moments(bias.array(), y))
        return replace(y, log_norm_variance=scales + gaussian_noise(y)) if len(y.axes) == 2 else y

    @staticmethod
    def _on_channels(x: Moments) -> Moments:
        return x.refined((*pooled(x.shape[:-1]), Axis.full(x.shape[-1])))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        out, inner = self.node.parameters["weight"].shape
        positive = self._positive
        if positive is not None:
            g = cotangent.only(*range(len(cotangent.axes) - 1))
            energy, covariance = self._positively(positive.T, g.energy, g.position_covariance)
            across = g.sample_covariance * (float(positive.sum(dtype=np.float64)) / inner) ** 2
            return Gradient.flat((*g.axes[:-1], Axis(inner)), energy, covariance, (*g.profile[:-1], None), across)
        g = cotangent.refined((*pooled(y.shape[:-1]), Axis.full(out)))
        arrays = (g.energy, g.position_covariance, g.sample_covariance)
        rows = [a.reshape(-1, out) for a in arrays if a is g.energy or a.any()]
        nearby, gain = self._mixed(g.nearby, forward=False)
        rows[0] = rows[0] * gain
        pulled = iter(np.split(columns_times(self._weight, np.concatenate(rows), squared=True), len(rows)))
        cells = (*counts(g.axes)[:-1], inner)
        energy, covariance, across = (
            next(pulled).reshape(cells) if a is g.energy or a.any() else np.zeros(cells) for a in arrays
        )
        axes, profile = (*g.axes[:-1], Axis.full(inner)), (*g.profile[:-1], None)
        found = Gradient.flat(axes, energy, covariance, profile, across)
        found = replace(found, alike=g.alike - {len(axes) - 1}, nearby=nearby)
        return found.with_autocorrelation(self._kept(g.autocorrelation))

    def ahead(self, x: Moments, y: Moments, behind: Ahead) -> tuple[Ahead, float]:
        if behind == NOTHING_AHEAD or self._positive is not None:
            return behind, 0.0
        return behind.before_sum(participation(self._on_channels(x).variance), 1.0, 0.0)

    def _mixed(self, nearby: Nearby, *, forward: bool) -> tuple[Nearby, float]:
        """Behind the sums that the weight makes of channels, and their variance relative to that of channels that have
        nothing in common. Sums of many by independent weights are taken for such sums."""
        last = len(self.shape) - 1
        weight = (
            self._weight
            if last in nearby.axes and math.prod(self.node.parameters["weight"].shape) <= _FEW_WEIGHTS
            else None
        )
        if isinstance(weight, np.ndarray):
            return nearby.mixed(last, weight.T if forward else weight)
        return nearby.moved(lambda axis: None if axis == last else axis), 1.0

    def _kept(self, autocorrelation: Autocorrelation | None) -> Autocorrelation | None:
        """Along the positions; there is none between channels that a weight has mixed."""
        return autocorrelation_unless_along(autocorrelation, len(self.shape) - 1)

    @cached_property
    def _phi(self) -> float:
        weight = self._weight
        return frobenius2(weight) / max(len(weight), 1)

    def phis(self, inputs: Inputs, outputs: Sequence[Moments]) -> tuple[float | None, ...]:
        return (self._phi,)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        weight = self._weight
        return max(squared_gram(weight) / max(len(weight), 1) - self._phi**2, 0.0)


@component("embedding")
class Embedding(Opaque):
    """Rows of a table, looked up by indices that are taken as uniform and independent.

        mean, variance -> those of each column of the table;   no gradient passes to the indices

    Rows of minus infinity hide what looks them up, as masks do; like masks they are taken to hide nothing, and count
    for nothing here. Source: theory 3.7.
    """

    assumptions: ClassVar[tuple[str, ...]] = ("indices are uniform over the table",)

    def joined(self, inputs: Inputs) -> Moments:
        table = matrix_of(self.node.parameters["weight"])
        hidden = hiding_rows(self.node.parameters["weight"])
        if hidden is not None and not isinstance(table, IndependentMatrix):
            table = table[~hidden]
        rows, width = table.shape
        ones = np.full((1, rows), 1.0 / max(rows, 1))
        mean = columns_times(table, ones, squared=False)
        second = columns_times(table, ones, squared=True)
        shape = self.output_shapes[0]
        axes = (*pooled(shape[:-1]), Axis.full(width))
        lead = (1,) * (len(shape) - 1)
        return Moments.flat(axes, mean.reshape((*lead, width)), (second - mean**2).reshape((*lead, width)))

    def phis(self, inputs: Inputs, outputs: Sequence[Moments]) -> tuple[float | None, ...]:
        return (1.0,)


def constant_moments(array: np.ndarray, like: Moments) -> tuple[Axes, np.ndarray, np.ndarray]:
    """Mean and variance of a constant tensor's entries on cells that fit a value it is combined with.

    Returns:
        The cells (the value's own, and every index of the constant's last two axes that is not alike elsewhere), the
        mean and the variance of the constant within each.
    """
    shape = like.shape
    array = np.asarray(array, dtype=np.float64)
    array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    axes: Axes = tuple(Axis(size) if array.shape[index] == 1 else Axis.full(size) for index, size in enumerate(shape))
    axes, (mean,) = squeeze_constant(axes, [array])
    square = mean**2
    wide = [index for index, axis in enumerate(axes) if axis.count > 1]
    if len(wide) > 1:  # channels keep a cell each; along positions the constant varies within the value's own cells
        keep = max((i for i in wide if not like.axes[i].is_pooled and like.axes[i].cuts is None), default=wide[-1])
        for index in wide:
            if index != keep:
                target = like.axes[index]
                mean, square = (average(a, axes, index, target) for a in (mean, square))
                axes = (*axes[:index], target, *axes[index + 1 :])
    return axes, mean, np.maximum(square - mean**2, 0.0)


def shifted(x: Moments, axes: Axes, mean: np.ndarray, variance: np.ndarray) -> Moments:
    """Moments of x + c for a constant c with these moments on these cells.

    E x -> E x + E c,   Var x -> Var x + Var_cell c;  the profile becomes that of the sum's energy
    """
    profiles = x.profile
    x = x.refined(axes)
    if not mean.any() and not variance.any():
        return x
    shift = Moments.flat(axes, mean, variance).refined(x.axes)
    linear, square = x.mean * shift.mean, shift.mean**2 + shift.variance
    second = x.second + 2.0 * x.amplitude() * linear + square
    own, cross, constant = (float(np.mean(a)) for a in (x.second, linear, square))
    mixed: list[np.ndarray | None] = []
    for index, profile in enumerate(profiles):
        if profile is None or not x.axes[index].is_pooled:
            mixed.append(None)
            continue
        elsewhere = x.amplitude(kept=(index,))
        energy = own * profile + 2.0 * elsewhere * cross * np.sqrt(profile) + constant
        mixed.append(energy / energy.mean() if energy.mean() > 0 else None)
    total = x.mean * x.amplitude() + shift.mean
    whole = total / amplitude(mixed) if amplitude(mixed) > 0 else total
    if (second < whole**2).any():  # the sum is flatter than one profile for all cells can say
        mixed, whole = [None] * len(axes), total
    y = x.behind(Effect.SHIFTED, (whole, np.maximum(second - whole**2, 0.0), x.position_covariance), profile=mixed)
    return replace(y, centred_energy=None) if variance.any() else y


@component("bias")
class Bias(Unary):
    """y = x + factor * b for a constant tensor b: phi = 1, variance 0; mean -> mean + b.
    Source: theory 3.1."""

    fixed_phi_variance: ClassVar[float | None] = 0.0

    def map(self, x: Moments) -> Moments:
        x = x.broadcast(self.shape)
        factor = float(self.node.attribute("factor"))
        parameter = self.node.parameters.get("bias")
        if parameter is None:
            raise NotModelledError("a bias without a constant")
        array = parameter.array()
        axes, mean, variance = constant_moments(array, x)
        y = shifted(x, axes, factor * mean, factor**2 * variance)
        return replace(y, channel_correlation=_placed(x, y, array)) if variance.any() and x.variance.any() else y

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        energy, covariance, overlap, across, lean = cotangent.arrays()
        # where x + b > 0 says little of where x is
        moved = cotangent.behind(Effect.SHIFTED, (energy, covariance, 0.0 * overlap, across, lean))
        return moved.summed_to(self.input_shape)


def _placed(x: Moments, y: Moments, constant: np.ndarray) -> ChannelCorrelation:
    """`ChannelCorrelation` of y = x + c for a constant c that differs from position to position.

    With f the share of the variance over positions that is c's, and C_c its covariance over them,

        squared correlations -> (1 - f)^2 times those of x
        those of what positions are given -> (1 - f)^2 times those of x + f^2 (tr(C_c^2) - sum_i C_c,ii^2) / tr(C_c)^2

    tr(C_c^2) is that of the Gram matrix, whichever side is smaller. Source: theory 9.4.
    """
    own = float(x.variance.mean()) / float(y.variance.mean())
    found = x.channel_correlation.scaled(min(own, 1.0) ** 2)
    whole = [i for i, axis in enumerate(y.axes) if i and axis.count == axis.size > 1]
    array = np.asarray(constant, dtype=np.float64)
    array = array.reshape((1,) * (len(y.axes) - array.ndim) + array.shape)
    if len(whole) != 1 or array.shape[whole[0]] == 1:  # which axis holds the channels is not clear
        return found
    rows = np.moveaxis(array, whole[0], -1).reshape(-1, array.shape[whole[0]])
    rows = rows - rows.mean(axis=0)
    total = frobenius2(rows)
    if total <= 0.0:
        return found
    together = squared_gram(rows) / total**2 - participation((rows**2).mean(axis=0))
    return replace(found, placed=found.placed + (1.0 - min(own, 1.0)) ** 2 * max(together, 0.0))


@component("scale")
class Scale(Unary):
    """y = a x for a constant a (a number, LayerScale, a scale for each channel).

        phi = mean(a^2),  variance = mean(a^4) - phi^2;  mean -> a mean, variance -> a^2 variance

    Source: theory 3.7.
    """

    @cached_property
    def _constant(self) -> np.ndarray:
        factor = float(self.node.attribute("factor"))
        parameter = self.node.parameters.get("scale")
        if parameter is None:
            return np.array(factor)
        array = np.asarray(parameter.array(), dtype=np.float64)
        if not self.node.attribute("reciprocal"):
            return factor * array
        with np.errstate(divide="ignore"):
            return factor / array

    def map(self, x: Moments) -> Moments:
        x = x.broadcast(self.shape)
        y = x.times(*constant_moments(self._constant, x))
        y = replace(y, steady=x.steady * self._steady) if self._steady < 1.0 else y
        return y if (self._constant >= 0).all() else replace(y, nonnegative=False)

    @cached_property
    def _steady(self) -> float:
        """(E a)^2 / E a^2 over the positions of a token, averaged over its features."""
        constant = self._constant
        if constant.ndim < 2 or constant.shape[-2] < 2:
            return 1.0
        lines = constant.reshape(-1, constant.shape[-1])
        square = float((lines**2).mean())
        return float((lines.mean(axis=0) ** 2).mean()) / square if square > 0 else 1.0

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return cotangent.by_constants(*constant_moments(self._constant, y)).summed_to(self.input_shape)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        if self.input_shape != self.shape:
            return None
        square = self._constant**2
        return max(float(np.mean(square**2)) - float(np.mean(square)) ** 2, 0.0)
