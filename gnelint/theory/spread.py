"""Samples differ in scale, and an activation whose fixed point is unstable drives them apart.

q, a sample's own average square, scatters: a sum of n entries gives log q a variance of about 2/n, an activation adds
that of f(x)^2 over n, and on the way log q is multiplied by chi (theory.sensitivity). With chi > 1 the spread grows
exponentially; what a few large samples do to a total is then not what the average sample does.

As long as the spread is small it is one number (`Moments.spread`). Where it begins to matter the batch is cut into
cells, from the sample with the smallest q to that with the largest, and each has moments of its own from there on. The
spread that arises within a cell is handed to all cells at once: their log q are moved apart until the variance is
right. Samples so keep their rank, where in truth those of like q change places.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from gnelint.theory.cells import Axis, average
from gnelint.theory.moments import Moments

_WORTH = 2e-3
"""Square of the change of log phi (or of chi) over one deviation of log q, from which on samples are told apart."""


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


def told_apart(x: Moments, elasticity: float) -> Moments:
    """With the spread turned into cells of the batch, where `elasticity` makes it matter or there are cells already."""
    if not x.axes:
        return x
    batch = x.axes[0]
    if batch.is_pooled:
        if batch.size < 4 or elasticity**2 * x.spread < _WORTH:
            return x
        axis = _ranked(batch.size)
        energy = np.exp(_scores(axis) * math.sqrt(x.spread))
        energy /= (energy * axis.lengths).sum() / axis.size
        cells = x.refined((axis, *x.axes[1:]))
        return _scaled(cells, energy)
    level = np.log(np.maximum(per_sample(x.second, x), 1e-300))
    share = batch.lengths / batch.size
    centre = float((level * share).sum())
    variance = float((share * (level - centre) ** 2).sum())
    if variance <= 0:
        return x
    wider = math.sqrt(1.0 + x.spread / variance) - 1.0
    return _scaled(x, np.exp(wider * (level - centre) - 0.5 * x.spread))


def _scaled(x: Moments, energy: np.ndarray) -> Moments:
    factor = energy.reshape((-1,) + (1,) * (len(x.axes) - 1))
    y = x.rebuilt(x.axes, x.weighted(factor), x.profile)
    return replace(y, doubt=x.doubt)


def _ranked(size: int) -> Axis:
    """Cells of 1, 1, 2, 4, ... samples from either end."""
    cuts, width = [], 1
    low, high = 0, size
    while low + width < high - width:
        low, high = low + width, high - width
        cuts += [low, high]
        width = low
    return Axis(size, tuple(sorted(set(cuts))))


def _scores(axis: Axis) -> np.ndarray:
    """The average standard normal deviate of each cell, by rank."""
    deviate = NormalDist()
    every = np.array([deviate.inv_cdf((k + 0.5) / axis.size) for k in range(axis.size)])
    return np.asarray(np.add.reduceat(every, axis.starts) / axis.lengths)


def per_sample(array: np.ndarray, x: Moments) -> np.ndarray:
    """Average over all axes but the batch, one number for each of its cells."""
    for index in range(1, len(x.axes)):
        array = average(array, x.axes, index)
    return array.reshape(-1)
