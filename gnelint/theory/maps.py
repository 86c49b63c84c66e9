"""Moments and gradients at every position of an image, where one profile for all channels says too little.

A convolution followed by a rectifier multiplies the energy at the border by the same factor in every channel, whatever
the energy is; a separable profile beside one mean and one variance for each channel (theory.moments) has it all. An
activation that is not homogeneous treats the weak border unlike the strong centre, and what it makes of the difference
goes on inwards, a kernel a layer. Then the positions are cells, and a kernel W of independent entries is applied to
what they hold as it is applied to the image:

    mean[o, p]     = sum over i, t of W[o, i, t] mean[i, p + t]
    variance[o, p] = sum over i, t of W[o, i, t]^2 variance[i, p + t]
    energy[i, p]   = sum over o, t of W[o, i, t]^2 energy[o, p - t]

It costs what one image costs, and one more for each cell of the batch (theory.spread).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from gnelint.theory.cells import Axes, Axis, counts
from gnelint.theory.moments import Moments
from gnelint.theory.taps import TapAxis

MAX_POSITIONS = 1 << 18
"""Above this many cells positions are not told apart: a profile has to do."""

_WORTH = 2e-3
"""Square of the change of log phi over one deviation of the border's log q, from which on positions are told apart."""


def map_axes(axes: Axes) -> Axes:
    """The batch as it is, every channel and every position a cell."""
    return (axes[0], *(Axis.full(axis.size) for axis in axes[1:]))


def is_map(x: Moments) -> bool:
    """Whether the positions are cells, and something follows what they do (a normalisation ends it)."""
    return x.spread > 0 and len(x.axes) > 2 and any(axis.cuts is None for axis in x.axes[2:])


def positions_apart(x: Moments, elasticity: float) -> Moments:
    """With a cell for every position, where `elasticity` makes the profile matter."""
    if len(x.axes) < 3 or is_map(x):
        return x
    profiled = [profile for profile in x.profile[2:] if profile is not None]
    level = sum(float(np.var(np.log(np.maximum(profile, 1e-300)))) for profile in profiled)
    if elasticity**2 * level < _WORTH or math.prod(counts(map_axes(x.axes))) > MAX_POSITIONS:
        return x
    return x.refined(map_axes(x.axes)).scattered_as(x)


def _places(axes: Sequence[TapAxis]) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """For each tap its number, the outputs at which it is inside, and the inputs that it reads there."""
    for tap, spans in enumerate(itertools.product(*(axis.spans for axis in axes))):
        yield tap, tuple(where for where, _ in spans), tuple(source for _, source in spans)


def _grouped(kernel: np.ndarray, groups: int, squared: bool) -> np.ndarray:
    """(taps, groups, out / groups, in / groups) in float64."""
    out, inner, taps = kernel.shape
    weights = kernel.astype(np.float64).reshape(groups, out // groups, inner, taps).transpose(3, 0, 1, 2)
    return np.asarray(weights**2 if squared else weights)


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
    weights = _grouped(kernel, groups, squared)
    image = image.reshape(len(image), groups, -1, *image.shape[2:])
    outputs = tuple(axis.outputs for axis in axes)
    result = np.zeros((len(image), groups, weights.shape[2], *outputs))
    for tap, where, source in _places(axes):
        part = image[(..., *source)]
        flat = part.reshape(*part.shape[:3], -1)
        result[(..., *where)] += (weights[tap] @ flat).reshape(*result.shape[:3], *part.shape[3:])
    return result.reshape(len(image), -1, *outputs)


def kernel_transposed_on_map(
    kernel: np.ndarray, groups: int, axes: Sequence[TapAxis], energy: np.ndarray
) -> np.ndarray:
    """The transpose of `kernel_on_map` with squared entries: (n, out, *outputs) gives (n, in, *inputs)."""
    weights = _grouped(kernel, groups, squared=True).swapaxes(2, 3)
    energy = energy.reshape(len(energy), groups, -1, *energy.shape[2:])
    inputs = tuple(axis.inputs for axis in axes)
    result = np.zeros((len(energy), groups, weights.shape[2], *inputs))
    for tap, where, source in _places(axes):
        part = energy[(..., *where)]
        flat = part.reshape(*part.shape[:3], -1)
        result[(..., *source)] += (weights[tap] @ flat).reshape(*result.shape[:3], *part.shape[3:])
    return result.reshape(len(energy), -1, *inputs)


def window_grain(kernel: Sequence[int], strides: Sequence[int]) -> float:
    """Sum over the distances of two windows of the squared share of the entries that they have in common: so many
    neighbouring positions scatter as one."""
    grain = 1.0
    for size, stride in zip(kernel, strides, strict=True):
        grain *= sum(max(0.0, 1.0 - abs(far) * stride / size) ** 2 for far in range(-size, size + 1))
    return grain


def octaves(mean: np.ndarray, variance: np.ndarray) -> list[np.ndarray]:
    """Masks of the samples and positions whose root mean square over the channels is within one octave of each other.

    What is interpolated over all of them is true to an error relative to the largest.

    Args:
        mean, variance: (batch, channels, *positions).
    """
    square = (variance + mean**2).mean(axis=1)
    level = np.floor(0.5 * np.log2(np.maximum(square, 1e-300)))
    return [level == each for each in np.unique(level)]
