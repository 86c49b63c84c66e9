"""Samples differ in scale, and an activation whose fixed point is unstable drives them apart.

q, a sample's own average square, scatters: a sum of n entries gives log q a variance of about 2/n, an activation adds
that of f(x)^2 over n, and on the way log q is multiplied by chi (theory.sensitivity). With chi > 1 that variance
grows exponentially; what a few large samples do to a total is then not what the average sample does.

As long as the variance is small it is one number (`Moments.log_norm_variance`). Where it begins to matter the
batch is cut into cells, from the sample with the smallest q to that with the largest, and each has moments of its own
from there on. The variance that arises within a cell is handed to all cells at once: their log q are moved apart until
the variance is right. Forward that is all: the cells go by rank, whichever samples are in them. The gradient however is
that of samples, and those change places. With log q normal, the ranks of a sample before and behind the new variance s
correlate by rho = sqrt(v / (v + s)), v being the variance between the cells; `ranked_before` hands each cell the
gradient of those behind that its samples go to. Source: theory 9.5.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from gnelint.theory.fields.cells import Axis, average
from gnelint.theory.fields.field import Effect, Field
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.special import normal_cdf

_WORTH = 2e-3
"""Square of the change of log phi (or of chi) over one deviation of log q, from which on samples are stratified."""


_MOST_SPREAD = 500.0
"""Of log q, beyond which its exponential is too large a number."""
_RANKS = 1024
"""Samples of a cell that its average is taken over."""
_KNOWN = 64
"""Batches whose ranks are remembered: every activation of a network asks for those of the same one."""


def gaussian_noise(y: Moments) -> float:
    """`entry_noise` of Gaussian entries, whose squares have the variance 2 v^2 + 4 m^2 v."""
    return _relative_noise(2.0 * y.variance**2 + 4.0 * y.mean**2 * y.variance, y)


def entry_noise(second: np.ndarray, fourth: np.ndarray, y: Moments) -> float:
    """Var(q) / q^2 of a sample of independent entries with these E y^2 and E y^4: sum Var(y^2) / (sum E y^2)^2."""
    return _relative_noise(fourth - second**2, y)


def _relative_noise(square_variance: np.ndarray, y: Moments) -> float:
    if not y.axes:  # a single number has no samples
        return 0.0
    entries, square = per_sample(square_variance, y), per_sample(y.second, y) ** 2
    noise = np.divide(entries, square, out=np.zeros_like(entries), where=square > 0)
    batch = y.axes[0]
    return float((noise * batch.lengths).sum()) / max(y.size, 1)


def stratified(x: Moments, elasticity: float) -> Moments:
    """With the variance of log q turned into cells of the batch, where `elasticity` makes it matter or there are cells
    already."""
    if not x.axes:
        return x
    batch = x.axes[0]
    if batch.is_pooled:
        if batch.size < 4 or elasticity**2 * x.log_norm_variance < _WORTH:
            return x
        axis = _ranked(batch.size)
        energy = np.exp(_scores(axis) * math.sqrt(x.log_norm_variance))
        energy /= (energy * axis.lengths).sum() / axis.size
        cells = x.refined((axis, *x.axes[1:]))
        return _scaled(cells, energy)
    level, variance = _levels(x)
    if variance <= 0:
        return x
    wider = math.sqrt(1.0 + x.log_norm_variance / variance) - 1.0
    return _scaled(x, np.exp(wider * level - 0.5 * x.log_norm_variance))


def luck_of_batch(g: Gradient) -> float:
    """Variance of the logarithm of a gradient's energy over a batch whose samples' own are log normal with the variance
    between the cells: that of an average over N samples, or of the largest one where that is nearly all.

    The largest of N normal deviates has a variance of about pi^2 / (12 log N) (its limit is Gumbel's law).
    """
    if not g.axes or g.axes[0].is_pooled or g.axes[0].size < 2:
        return 0.0
    _, variance = _about_average(per_sample(g.energy, g), g.axes[0])
    of_average = math.log1p(math.expm1(min(variance, _MOST_SPREAD)) / g.axes[0].size)
    return min(of_average, variance * math.pi**2 / (12.0 * math.log(g.axes[0].size)))


def _levels(x: Moments) -> tuple[np.ndarray, float]:
    """log q of each cell of the batch about its average, and its variance."""
    return _about_average(per_sample(x.second, x), x.axes[0])


def _about_average(square: np.ndarray, batch: Axis) -> tuple[np.ndarray, float]:
    level = np.log(np.maximum(square, 1e-300))
    share = batch.lengths / batch.size
    level = level - float((level * share).sum())
    return level, float((share * level**2).sum())


def ranked_before(gradient: Gradient, x: Moments) -> Gradient:
    """A gradient with the samples in the cells that `stratified` finds, with them where they are in x.

    A single cell is every sample's, before and behind; cells that do not go by rank are taken to keep their samples.
    """
    if not x.axes or x.axes[0].is_pooled or not x.log_norm_variance:
        return gradient
    level, variance = _levels(x)
    if variance <= 0 or (np.diff(level) < 0).any():
        return gradient
    g = gradient.refined(x.axes)
    moves = _moves(g.axes[0], math.sqrt(variance / (variance + x.log_norm_variance)))
    moved = g.behind(Effect.RECUT, [np.tensordot(moves, array, axes=(1, 0)) for array in g.arrays()[:2]])
    return moved.scaled(g.total / moved.total) if moved.total > 0 else gradient


def _moves(axis: Axis, rho: float) -> np.ndarray:
    """The share of each cell's samples that go to each other cell, log q being normal with this correlation."""
    places = (_edges(axis) - rho * _scores(axis)[:, None]) / math.sqrt(1.0 - rho**2)
    return np.diff(normal_cdf(places), axis=1)


def _scaled(x: Moments, energy: np.ndarray) -> Moments:
    factor = energy.reshape((-1,) + (1,) * (len(x.axes) - 1))
    return replace(x.behind(Effect.SCALED, x.weighted(factor)), variance_of_variance=x.variance_of_variance)


def _ranked(size: int) -> Axis:
    """Cells of 1, 1, 2, 4, ... samples from either end."""
    cuts, width = [], 1
    low, high = 0, size
    while low + width < high - width:
        low, high = low + width, high - width
        cuts += [low, high]
        width = low
    return Axis(size, tuple(sorted(set(cuts))))


@lru_cache(_KNOWN)
def _edges(axis: Axis) -> np.ndarray:
    """The standard normal deviates between cells, by rank."""
    return np.array([-math.inf, *(_deviate(start / axis.size) for start in axis.starts[1:]), math.inf])


@lru_cache(_KNOWN)
def _scores(axis: Axis) -> np.ndarray:
    """The average standard normal deviate of each cell, by rank."""
    cells = zip(axis.starts, axis.lengths, strict=True)
    return np.array([_score(int(start), int(length), axis.size) for start, length in cells])


def _score(start: int, length: int, size: int) -> float:
    """The average deviate of the ranks from `start`; of so many that not each one counts, an even choice."""
    taken = min(length, _RANKS)
    return math.fsum(_deviate((start + (k + 0.5) * length / taken) / size) for k in range(taken)) / taken


def _deviate(probability: float) -> float:
    """The standard normal deviate that is not exceeded with this probability."""
    from statistics import NormalDist  # slow to import

    return NormalDist().inv_cdf(probability)


def per_sample(array: np.ndarray, x: Field) -> np.ndarray:
    """Average over all axes but the batch, one number for each of its cells."""
    for index in range(1, len(x.axes)):
        array = average(array, x.axes, index)
    return array.reshape(-1)
