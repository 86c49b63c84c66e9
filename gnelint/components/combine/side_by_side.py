"""Values laid side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gnelint.components.base import Gradients, Inputs, OneOutput, component
from gnelint.components.combine.operands import known
from gnelint.records import replace
from gnelint.theory.fields.autocorrelation import autocorrelation_unless_along, mixed_autocorrelation
from gnelint.theory.fields.cells import (
    SMALL,
    Axes,
    Axis,
    counts,
    is_zero,
    pooled,
    refine,
)
from gnelint.theory.fields.channel_correlation import mixed
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.nearby import Nearby, side_by_side
from gnelint.theory.fields.profiles import mixed_profile


def joined_axis(parts: Sequence[Axis]) -> Axis:
    """The axis of a concatenation: cells stay, one part without cells is one cell."""
    size = sum(part.size for part in parts)
    if any(part.cuts is None and part.size > 1 for part in parts):
        return Axis.full(size)
    cuts: list[int] = []
    offset = 0
    for part in parts:
        cuts += [offset + cut for cut in (0, *(part.cuts or ())) if offset + cut > 0]
        offset += part.size
    return Axis(size, tuple(sorted(set(cuts))))


def join(
    fields: Sequence[Moments] | Sequence[Gradient], index: int
) -> tuple[Axes, list[np.ndarray], tuple[np.ndarray | None, ...]]:
    """Axes, arrays and profiles of fields laid side by side along one axis."""
    fields = [f.absorbed(index) if f.profile[index] is not None else f for f in fields if f.axes[index].size]  # type: ignore[assignment]
    others = [tuple(Axis(a.size) if i == index else a for i, a in enumerate(f.axes)) for f in fields]
    for _ in range(2):  # absorbing a profile may refine once more
        common = refine(*others)
        fields = [f.refined(tuple(f.axes[i] if i == index else a for i, a in enumerate(common))) for f in fields]  # type: ignore[assignment]
        others = [tuple(Axis(a.size) if i == index else a for i, a in enumerate(f.axes)) for f in fields]
    axis = joined_axis([f.axes[index] for f in fields])
    if axis.cuts is None:
        fields = [
            f.refined(tuple(Axis.full(a.size) if i == index else a for i, a in enumerate(f.axes))) for f in fields
        ]  # type: ignore[assignment]
    axes = (*fields[0].axes[:index], axis, *fields[0].axes[index + 1 :])
    arrays = [_concatenated(group, index) for group in zip(*(f.arrays() for f in fields), strict=True)]
    energies = [
        float(np.mean(f.arrays()[0] ** 2 + f.arrays()[1] if isinstance(f, Moments) else f.arrays()[0])) * f.size
        for f in fields
    ]
    profile = tuple(
        mixed_profile([(e, f.profile[i]) for e, f in zip(energies, fields, strict=True)], a.size)
        if a.is_pooled
        else None
        for i, a in enumerate(axes)
    )
    return axes, arrays, profile


def _concatenated(parts: Sequence[np.ndarray], index: int) -> np.ndarray:
    """The parts along one axis; zeros, of which fields have many, take no memory."""
    if max(part.size for part in parts) > SMALL and all(map(is_zero, parts)):
        size = sum(part.shape[index] for part in parts)
        return np.broadcast_to(0.0, (*parts[0].shape[:index], size, *parts[0].shape[index + 1 :]))
    return np.concatenate(parts, axis=index)


_ALIKE = 1e-2
"""Share of a second moment by which the parts of a stack may differ and are still one cell."""


def _is_alike(x: Moments, index: int) -> bool:
    """Whether means and variances hardly change along an axis."""
    allowed = _ALIKE * x.total_second
    spread = [array - array.mean(axis=index, keepdims=True) for array in (x.mean, x.variance)]
    return float((spread[0] ** 2).mean()) <= allowed and float(np.abs(spread[1]).mean()) <= allowed


@component("concat")
class Concatenate(OneOutput):
    """Values laid side by side: phi = m_i / m for the input of m_i entries; moments stay with their cells (theory 2.3
    and 3.7)."""

    fixed_phi_variance: ClassVar[float | None] = 0.0

    @property
    def _axis(self) -> int:
        return int(self.node.attribute("axis")) % len(self.output_shapes[0])

    def joined(self, inputs: Inputs) -> Moments:
        parts = known(inputs)
        if not any(x.axes[self._axis].size for x in parts):
            return Moments.flat(pooled(self.output_shapes[0]), np.zeros(1), np.zeros(1))
        axes, arrays, profile = join(parts, self._axis)
        y = Moments(axes, profile, *arrays, nonnegative=all(x.nonnegative for x in parts))
        if len(parts) > 1 and self._axis and all(x.shape[self._axis] == 1 for x in parts) and _is_alike(y, self._axis):
            y = y.pooled(self._axis)  # no gradient that a stack's parts share is lost
            axes = y.axes
        sizes = [float(x.variance.mean()) * x.shape[self._axis] for x in parts]
        joined = mixed_autocorrelation([(x.total_second * x.size, x.autocorrelation) for x in parts])
        return replace(
            y,
            cumulants=self._joined_cumulants(parts, axes),
            channel_correlation=mixed([(size, x.channel_correlation) for size, x in zip(sizes, parts, strict=True)]),
            steady=self._averaged([x.steady for x in parts], sizes) if any(sizes) else 1.0,
            autocorrelation=autocorrelation_unless_along(joined, self._axis),
            neighbours=self._averaged([x.neighbours for x in parts], sizes),
            nearby=self._nearby(parts),
            mean_known=self._averaged([x.mean_known for x in parts], sizes),
        )

    def _nearby(self, parts: Sequence[Moments]) -> Nearby:
        """What entries near each other share, beside what all of a cell do."""
        count = [x.shape[self._axis] for x in parts]
        alone = [float(np.maximum(x.variance - x.position_covariance, 0.0).mean()) for x in parts]
        found = side_by_side([(n, own, x.nearby) for n, own, x in zip(count, alone, parts, strict=True)])
        return found if self._axis == 1 else found.moved(lambda axis: None if axis == self._axis else axis)

    @staticmethod
    def _averaged(numbers: Sequence[float], weights: Sequence[float]) -> float:
        total = sum(weights)
        return sum(w * number for w, number in zip(weights, numbers, strict=True)) / total if total > 0 else 0.0

    def _joined_cumulants(self, parts: Sequence[Moments], axes: Axes) -> tuple[np.ndarray, np.ndarray] | None:
        """Cumulants of parts that keep a cell for each index side by side, 0 for those that are Gaussian."""
        if all(x.cumulants is None for x in parts) or axes[self._axis].cuts is not None:
            return None
        joined = []
        for order in (0, 1):
            lines = []
            for x in parts:
                own = tuple(Axis.full(x.shape[i]) if i == self._axis else axis for i, axis in enumerate(axes))
                fine = x.refined(own)
                if fine.axes != own:
                    return None
                line = np.zeros(1) if fine.cumulants is None else fine.cumulants[order]
                lines.append(np.broadcast_to(line, counts(own)))
            joined.append(np.concatenate(lines, axis=self._axis))
        return joined[0], joined[1]

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        found: list[Gradient | None] = []
        start = 0
        for shape in self.input_shapes:
            assert shape is not None
            stop = start + shape[self._axis]
            part = g.sliced(self._axis, start, stop, 1)
            if self._axis == 1 and g.nearby.parts:
                part = replace(part, nearby=g.nearby.of_channels(start, stop))
            found.append(part)
            start = stop
        return tuple(found)
