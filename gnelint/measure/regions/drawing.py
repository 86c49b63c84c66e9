"""Tensors drawn from what is known of a value, and cotangents from what is known of a gradient.

Entries of one cell and one sample share what `position_covariance` says. With z white, m the average of z over the
cell, n its entries, v the variance and c the covariance,

    x = a z + b m,    a^2 = v - c,    b = sqrt(a^2 + n c) - a

has both, c may be negative (a value whose sum over the cell is zero). Source: theory 7.3.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gnelint.theory.fields.cells import Axes, Axis
from gnelint.theory.fields.field import Field
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.gaussian.piecewise import rectified_source
from gnelint.theory.gaussian.special import normal_cdf

_SILENT = 1e-3
"""Share of zeros from which on a value that is never negative is what a rectifier left, and not positive as a whole."""


def drawn(x: Moments, white: Tensor) -> Tensor:
    """One draw of a value, float32, made of noise of variance 1 (`together.noise`).

    What is never negative is a Gaussian that a rectifier cut, or, where it is positive as a whole, of the gamma
    distribution with its mean and variance; anything else is Gaussian.
    """
    z = _correlated(white, x, x.variance, x.position_covariance)
    floor = np.zeros_like(x.mean) if x.floor is None else x.floor
    if not x.nonnegative and x.floor is None:
        entries = _spread(x.mean, x.axes) + _spread(np.sqrt(x.variance), x.axes) * z
    else:
        mean = np.maximum(x.mean - floor, 0.0)
        location, scale = rectified_source(mean, x.variance)
        places = np.divide(-location, scale, out=np.full_like(location, -math.inf), where=scale > 0)
        silent = np.asarray(normal_cdf(places))
        cut = (_spread(location, x.axes) + _spread(scale, x.axes) * z).clamp_min(0.0)
        entries = torch.where(_spread(silent, x.axes) > _SILENT, cut, _gamma(mean, x, z)) + _spread(floor, x.axes)
    return (entries * _amplitude(x)).broadcast_to(x.shape).contiguous()


def _gamma(mean: np.ndarray, x: Moments, z: Tensor) -> Tensor:
    """Quantiles at those of a Gaussian, by Wilson and Hilferty."""
    ninth = np.divide(x.variance, 9.0 * mean**2, out=np.zeros_like(mean), where=mean > 0)
    root = _spread(1.0 - ninth, x.axes) + _spread(np.sqrt(ninth), x.axes) * z
    return _spread(mean, x.axes) * root.clamp_min(1e-3) ** 3


def cotangent(g: Gradient, y: Tensor, generator: torch.Generator) -> Tensor:
    """One draw of a gradient at a value of which this is the draw, float32: of signs, which are the least noisy."""
    signs = torch.randint(0, 2, g.shape, generator=generator).float() * 2.0 - 1.0
    z = _correlated(signs, g, g.energy, g.position_covariance) * _spread(np.sqrt(g.energy), g.axes)
    found = (z * _amplitude(g)).broadcast_to(y.shape)
    if not g.mask_overlap.any():
        return found.contiguous()
    positive = y > 0
    share = float(positive.double().mean())
    if not 0.0 < share < 1.0:
        return found.contiguous()
    overlap = _spread(g.mask_overlap, g.axes).clamp(0.0, 1.0).broadcast_to(y.shape)
    energy = torch.where(positive, 1.0 + overlap * (1.0 - share) / share, 1.0 - overlap)
    return found * energy.sqrt()


def _correlated(z: Tensor, x: Field, variance: np.ndarray, covariance: np.ndarray) -> Tensor:
    """Independent entries of unit variance, made to correlate as these arrays say."""
    n, axes = x.positions, x.axes
    if x.alike:
        n *= math.prod(axes[index].count for index in x.alike)
        axes = tuple(Axis(axis.size) if index in x.alike else axis for index, axis in enumerate(axes))
    if n <= 1 or not covariance.any():
        return z
    safe = np.where(variance > 0, variance, 1.0)
    correlation = np.clip(covariance / safe, -1.0 / (n - 1), 1.0)
    own = np.sqrt(1.0 - correlation)
    common = np.sqrt(np.maximum(own**2 + n * correlation, 0.0)) - own
    return _spread(own, x.axes) * z + _spread(common, x.axes) * _cell_means(z, axes)


def _cell_means(z: Tensor, axes: Axes) -> Tensor:
    """The average over each cell of one sample, in a shape that broadcasts to the entries."""
    for index, axis in enumerate(axes):
        if index == 0 or axis.count == axis.size:
            continue
        if axis.is_pooled:
            z = z.mean(dim=index, keepdim=True)
            continue
        cell = torch.from_numpy(np.repeat(np.arange(axis.count), axis.lengths.astype(int)))
        shape = [*z.shape[:index], axis.count, *z.shape[index + 1 :]]
        lengths = torch.from_numpy(axis.lengths).float().reshape([-1 if i == index else 1 for i in range(z.dim())])
        z = (torch.zeros(shape).index_add(index, cell, z) / lengths).index_select(index, cell)
    return z


def _spread(array: np.ndarray, axes: Axes) -> Tensor:
    """An array over the cells, in a shape that broadcasts to the entries, float32."""
    for index, axis in enumerate(axes):
        if not axis.is_pooled and axis.count != axis.size:
            array = np.repeat(array, axis.lengths.astype(int), axis=index)
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))  # of one number as well, which has no axes


def _amplitude(x: Field) -> Tensor:
    """The square root of the relative energy of the indices, over all axes."""
    whole = torch.ones((1,) * len(x.axes))
    for index, profile in enumerate(x.profile):
        if profile is not None:
            shape = [-1 if i == index else 1 for i in range(len(x.axes))]
            whole = whole * torch.from_numpy(np.sqrt(profile)).float().reshape(shape)
    return whole
