"""Moments and gradients at every position of an image, where one profile for all channels says too little.

A convolution followed by a rectifier multiplies the energy at the border by the same factor in every channel, whatever
the energy is; a separable profile beside one mean and one variance for each channel (theory.moments) has it all. An
activation that is not homogeneous treats the weak border unlike the strong centre, and what it makes of the difference
goes on inwards, a kernel a layer. Then the positions are cells, and a kernel W of independent entries is applied to
what they hold as it is applied to the image:

    mean[o, p]     = sum over i, t of W[o, i, t] mean[i, p + t]
    variance[o, p] = sum over i, t of W[o, i, t]^2 variance[i, p + t]
    energy[i, p]   = sum over o, t of W[o, i, t]^2 energy[o, p - t]

It costs what one image costs, and one more for each cell of the batch (theory.fields.log_norm). Source: theory 9.6.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import EllipsisType

import numpy as np

from gnelint.theory.fields.cells import Axes, Axis, counts
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.taps import TapAxis
from gnelint.theory.gaussian.quadrature import INTERPOLATED
from gnelint.theory.sorting import distinct

MAX_POSITIONS = 1 << 17
"""Above this many cells positions have no cells of their own: a profile has to do."""

_WORTH = 2e-3
"""Square of the change of log phi over one deviation of the border's log q, from which on positions get cells."""

_Place = tuple[slice, ...]


def map_axes(axes: Axes) -> Axes:
    """The batch as it is, every channel and every position a cell."""
    return (axes[0], *(Axis.full(axis.size) for axis in axes[1:]))


def is_map(x: Moments) -> bool:
    """Whether the positions are cells, and something follows what they do (a normalisation ends it)."""
    return x.log_norm_variance > 0 and len(x.axes) > 2 and any(axis.cuts is None for axis in x.axes[2:])


def positions_apart(x: Moments, elasticity: float) -> Moments:
    """With a cell for every position, where `elasticity` makes the profile matter."""
    if len(x.axes) < 3 or is_map(x):
        return x
    profiled = [profile for profile in x.profile[2:] if profile is not None]
    level = sum(float(np.var(np.log(np.maximum(profile, 1e-300)))) for profile in profiled)
    if elasticity**2 * level < _WORTH or math.prod(counts(map_axes(x.axes))) > MAX_POSITIONS:
        return x
    found = x.refined(map_axes(x.axes))
    return replace(found, variance_of_variance=x.variance_of_variance, log_norm_variance=x.log_norm_variance)


def _places(axes: Sequence[TapAxis]) -> Iterator[tuple[int, _Place, _Place]]:
    """For each tap its number, the outputs at which it is inside, and the inputs that it reads there, behind three
    other axes."""
    every = (slice(None),) * 3
    for tap, spans in enumerate(itertools.product(*(axis.spans for axis in axes))):
        yield tap, (*every, *(where for where, _ in spans)), (*every, *(source for _, source in spans))


def kernel_on_map(
    kernel: np.ndarray, groups: int, axes: Sequence[TapAxis], image: np.ndarray, squared: bool
) -> np.ndarray:
    """The convolution of images with W or W*W.

    Args:
        kernel: (out, in / groups, taps).
        groups: as in `theory.contraction.kernel_times`.
        axes: of the spatial axes.
        image: (n, in, *inputs).
        squared: whether the entries of W are squared.

    Returns:
        (n, out, *outputs).
    """
    out, inner, taps = kernel.shape
    outputs = tuple(axis.outputs for axis in axes)
    if not np.any(image):
        return np.zeros((len(image), out, *outputs))
    by_channel = np.moveaxis(image, 1, 0).reshape(groups, inner, len(image), *image.shape[2:])
    columns = np.zeros((groups, inner, taps, len(image), *outputs))
    for tap, where, source in _places(axes):
        columns[:, :, tap][where] = by_channel[source]
    weights = _float_kernel(kernel, squared).reshape(groups, out // groups, inner * taps)
    result = weights @ columns.reshape(groups, inner * taps, -1)
    return np.moveaxis(result.reshape(out, len(image), *outputs), 0, 1)


def kernel_transposed_on_map(
    kernel: np.ndarray, groups: int, axes: Sequence[TapAxis], energy: np.ndarray
) -> np.ndarray:
    """The transpose of `kernel_on_map` with squared entries: (n, out, *outputs) gives (n, in, *inputs)."""
    out, inner, taps = kernel.shape
    inputs = tuple(axis.inputs for axis in axes)
    result = np.zeros((groups, inner, len(energy), *inputs))
    if np.any(energy):
        by_channel = np.moveaxis(energy, 1, 0).reshape(groups, out // groups, -1)
        weights = _float_kernel(kernel, squared=True).reshape(groups, out // groups, inner * taps)
        columns = (weights.swapaxes(1, 2) @ by_channel).reshape(groups, inner, taps, len(energy), *energy.shape[2:])
        for tap, where, source in _places(axes):
            result[source] += columns[:, :, tap][where]
    return np.moveaxis(result.reshape(groups * inner, len(energy), *inputs), 0, 1)


def _float_kernel(kernel: np.ndarray, squared: bool) -> np.ndarray:
    weights = kernel.astype(np.float64)
    return np.asarray(weights * weights if squared else weights)


_NO_NUMBER = -9999.0
"""The octave of what is no number: with nothing else."""


def alike(mean: np.ndarray, variance: np.ndarray) -> list[tuple[np.ndarray | slice | int, ...] | EllipsisType]:
    """Indices of the cells that may be averaged together, whose scales are much the same: each sample of a batch cell
    by itself, those of few entries within one octave together, or all samples and positions within one octave.

    Args:
        mean, variance: (batch, channels, *positions), or of any other rank.
    """
    if mean.ndim < 2 or mean.size == 0:
        return [...]
    level = np.nan_to_num(
        np.floor(0.5 * np.log2(np.maximum((variance + mean**2).mean(axis=1), 1e-300))), nan=_NO_NUMBER
    )
    if mean.ndim == 2 or math.prod(mean.shape[2:]) == 1:
        together = (INTERPOLATED - 1) // mean[0].size  # samples
        if together < 2:
            return [(row,) for row in range(len(mean))]
        octave = level.reshape(-1)
        rows = [np.flatnonzero(octave == each) for each in distinct(octave)]
        return [(row[k : k + together],) for row in rows for k in range(0, len(row), together)]
    octaves = distinct(level)
    if len(octaves) == 1:
        return [...]
    places = (np.nonzero(level == each) for each in octaves)
    return [(place[0], slice(None), *place[1:]) for place in places]
