"""What was found of one region, for others that compute the same of the same: layers that are repeated.

Two regions are alike when they run the same operations, in the same order and with the same arguments, on constants and
on inputs that cannot be told apart: constants that hold the same numbers, or many numbers with the same statistics, as
weights that were drawn from one distribution do; inputs whose moments agree to 1 %, which is 0.015 bit. Where nothing
more may be run, as in a stack of a hundred layers, those that agree roughly stand for each other, with a stated error.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gnelint.analysis.sampling import Draws, Pulled
from gnelint.records import cached_property, dataclass
from gnelint.theory.fields.cells import total_average
from gnelint.theory.fields.field import Field
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments

T = TypeVar("T")

CLOSE = 0.01
"""Relative difference of moments up to which they are taken as the same."""
_MANY = 1024
"""Numbers of a constant from which on its statistics stand for it."""
_ROUGHLY, _SOME = 0.1, 32
"""The same two where nothing more may be run."""
ROUGH_BITS = 0.4
"""Error of the gradient of one that roughly agrees."""
_SIGMAS = 4.0
"""Standard errors by which the mean and the fourth power of two constants of one distribution may differ."""


@dataclass(frozen=True)
class Sketch:
    """What a region computes, apart from what its values are called.

    Attributes:
        outline: its operations and their arguments.
        names: its values in an order that the outline gives; values of like regions are named in the same order.
        constants: what it reads beside its inputs, in that order too.
    """

    outline: Hashable
    names: tuple[str, ...]
    constants: tuple[object, ...] = ()


@dataclass(frozen=True)
class Shared:
    """A region with the draws that were made for it.

    Attributes:
        sketch: of the region.
        inputs: what was drawn, in the order of its inputs.
        draws: of it.
    """

    sketch: Sketch
    inputs: tuple[Moments, ...]
    draws: Draws

    def stands_for(self, sketch: Sketch, inputs: Sequence[Moments], *, roughly: bool = False) -> bool:
        """Whether a region with this sketch would be found to do the same with these inputs."""
        same, close, many = (_similar_moments, _ROUGHLY, _SOME) if roughly else (same_moments, CLOSE, _MANY)
        constants = zip(self.sketch.constants, sketch.constants, strict=True)
        return (
            sketch.outline == self.sketch.outline
            and all(same(one, other) for one, other in zip(self.inputs, inputs, strict=True))
            and all(_same(one, other, close, many) for one, other in constants)
        )

    def as_of(self, sketch: Sketch, *, roughly: bool = False) -> Draws:
        """The draws with the values called as those of another region are."""
        if sketch.names == self.sketch.names:
            return self.draws
        names = dict(zip(self.sketch.names, sketch.names, strict=True))
        return _Renamed(self.draws, names, ROUGH_BITS if roughly else 0.0)


@dataclass(frozen=True)
class _Renamed:
    """Draws of a region as those of one that is like it.

    Attributes:
        draws: of the first region.
        names: of the other's values, by those of the first.
        bits: of error, for what differs.
    """

    draws: Draws
    names: Mapping[str, str]
    bits: float = 0.0

    @property
    def moments(self) -> Mapping[str, Moments]:
        """Of its outputs, and of the values in it that the sampler sees."""
        return _Called(self.draws.moments, self._own)

    @cached_property
    def _own(self) -> dict[str, str]:
        """The first region's values by the other's."""
        return {other: name for name, other in self.names.items()}

    def pulled(self, cotangents: Mapping[str, Gradient], *, inside: bool = True) -> Pulled:
        """Send cotangents back."""
        found = self.draws.pulled({self._own[name]: g for name, g in cotangents.items()}, inside=inside)
        inner = {name: math.hypot(bits, self.bits) for name, bits in self._renamed(found.inner_bits).items()}
        error = math.hypot(found.error_bits, self.bits)
        return replace(found, gradients=self._renamed(found.gradients), error_bits=error, inner_bits=inner)

    def _renamed(self, found: Mapping[str, T]) -> dict[str, T]:
        return {self.names[name]: each for name, each in found.items() if name in self.names}


class _Called(Mapping[str, Moments]):
    """Moments by other names, each looked up when it is asked for."""

    def __init__(self, found: Mapping[str, Moments], names: Mapping[str, str]) -> None:
        self._found = found
        self._names = {own: name for own, name in names.items() if name in found}

    def __getitem__(self, name: str) -> Moments:
        return self._found[self._names[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


# --- what is the same --------------------------------------------------------------------------------------


def same_moments(one: Moments, other: Moments) -> bool:
    """Whether draws of two values cannot be told apart."""
    if one is other:
        return True
    if not _same_cells(one, other) or one.nonnegative != other.nonnegative:
        return False
    floors = np.zeros(1) if one.floor is None else one.floor, np.zeros(1) if other.floor is None else other.floor
    second = max(float(one.second.max(initial=0.0)), float(other.second.max(initial=0.0)))
    return (
        (one.floor is None) == (other.floor is None)
        and _close(floors[0], floors[1], math.sqrt(second))
        and _close(one.mean, other.mean, math.sqrt(second))
        and _close(one.variance, other.variance, second)
        and _close(one.position_covariance, other.position_covariance, second)
    )


def _similar_moments(one: Moments, other: Moments) -> bool:
    """Whether two values agree on average: in size, in what is mean of it, and in what positions share."""
    if one.shape != other.shape or one.nonnegative != other.nonnegative or (one.floor is None) != (other.floor is None):
        return False
    averages = [
        [total_average(part, each.axes) for part in (each.second, each.mean**2, each.position_covariance)]
        for each in (one, other)
    ]
    second = max(averages[0][0], averages[1][0])
    return all(abs(a - b) <= _ROUGHLY * second for a, b in zip(*averages, strict=True))


def same_gradients(one: Mapping[str, Gradient], other: Mapping[str, Gradient]) -> bool:
    """Whether draws of cotangents cannot be told apart."""
    return one.keys() == other.keys() and all(_same_gradient(g, other[name]) for name, g in one.items())


def _same_gradient(one: Gradient, other: Gradient) -> bool:
    largest = max(float(one.energy.max(initial=0.0)), float(other.energy.max(initial=0.0)))
    return (
        _same_cells(one, other)
        and _close(one.energy, other.energy, largest)
        and _close(one.position_covariance, other.position_covariance, largest)
        and _close(one.mask_overlap, other.mask_overlap, 1.0)
    )


def _same_cells(one: Field, other: Field) -> bool:
    if one.axes != other.axes:
        return False
    for a, b in zip(one.profile, other.profile, strict=True):
        if (a is None) != (b is None) or (a is not None and b is not None and not _close(a, b, 1.0)):
            return False
    return True


def _close(one: np.ndarray, other: np.ndarray, scale: float) -> bool:
    return one.shape == other.shape and bool(np.all(np.abs(one - other) <= CLOSE * scale))


def _same(one: object, other: object, close: float, many: int) -> bool:
    """Whether two constants hold the same, or many numbers of one distribution."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and one == other
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one is other or torch.equal(one, other):
        return True
    if not one.is_floating_point() or one.numel() < many:
        return False
    return _alike(_statistics(one), _statistics(other), one.numel(), close)


def _statistics(constant: Tensor) -> tuple[float, float, float]:
    """The mean relative to the root of the average square, that root, and the fourth power relative to its fourth."""
    squares = constant.float().square()
    root = math.sqrt(float(squares.mean()))
    if root == 0.0 or not math.isfinite(root):
        return (0.0, root, 0.0)
    return float(constant.float().mean()) / root, root, float(squares.square().mean()) / root**4


def _alike(one: tuple[float, float, float], other: tuple[float, float, float], count: int, close: float) -> bool:
    error = _SIGMAS * math.sqrt(2.0 / count)
    fourth = max(one[2], other[2])
    return (
        abs(one[0] - other[0]) <= error
        and abs(one[1] - other[1]) <= close * max(one[1], other[1])
        and abs(one[2] - other[2]) <= max(error * fourth**2, close)
    )
