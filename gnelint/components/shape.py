"""Data movement and reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import numpy as np

from gnelint.components.base import (
    Component,
    Cotangents,
    Gradients,
    Inputs,
    NotModelledError,
    OneOutput,
    Unary,
    component,
    first_input,
)
from gnelint.components.combine.side_by_side import join
from gnelint.ir.graph import Node
from gnelint.theory.fields.cells import Axis, pooled
from gnelint.theory.fields.channel_correlation import mixed_ahead
from gnelint.theory.fields.field import Effect, Field, put
from gnelint.theory.fields.gradient import Gradient, alike_of_all
from gnelint.theory.fields.log_norm import gaussian_noise
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fields.nearby import nearest
from gnelint.theory.fields.profiles import normalised
from gnelint.theory.fields.taps import TapAxis, tap_axis

F = TypeVar("F", bound=Field)


@component("identity")
class Identity(Unary):
    """y = x: casts and copies (theory 3.7)."""

    fixed_phi_variance: ClassVar[float | None] = 0.0

    def map(self, x: Moments) -> Moments:
        return x.reshaped(self.shape) if x.shape != self.shape else x

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return cotangent.reshaped(self.input_shape) if cotangent.shape != self.input_shape else cotangent


@component("dropout")
class Dropout(Identity):
    """Dropout that divides by what it keeps is neutral: y = x (`--mode train` adds none of its noise).

    Where it does not divide, y = m x for a mask m that keeps each entry with probability k = 1 - p:

        phi = k,  variance = k - k^2;  mean -> k mean,  E x^2 -> k E x^2
        E x x' -> k E x x' for two entries under one number of the mask (all along the axes `alike`), else k^2 E x x'

    Source: E m^2 = k in the scale's formulas (theory 3.7).
    """

    @property
    def _kept(self) -> float:
        return 1.0 if self.node.attribute("inverted") else 1.0 - float(self.node.attribute("p"))

    def _both_kept(self, x: Field) -> float:
        """The probability that two entries of one cell and one sample stay."""
        alike = [axis for index, axis in enumerate(x.axes) if index in self.node.attribute("alike")]
        together = math.prod(axis.size / axis.count for axis in alike)
        share = (together - 1.0) / (x.positions - 1.0) if x.positions > 1 else 0.0
        return self._kept * (share + self._kept * (1.0 - share))

    def map(self, x: Moments) -> Moments:
        if self._kept == 1.0:
            return super().map(x)
        x = x.flattened()
        mean = self._kept * x.mean
        covariance = self._both_kept(x) * (x.position_covariance + x.mean**2) - mean**2
        return Moments.flat(x.axes, mean, self._kept * x.second - mean**2, covariance, x.nonnegative)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        if self._kept == 1.0:
            return super().pull(x, y, cotangent)
        energy, covariance, overlap, across, lean = cotangent.arrays()
        both = self._both_kept(cotangent)
        arrays = (self._kept * energy, both * covariance, overlap, self._kept**2 * across, lean)
        return cotangent.behind(Effect.MOVED, arrays)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        return self._kept - self._kept**2


@component("reshape")
class Reshape(Identity):
    """The same entries in another shape: phi = 1 (theory 3.7)."""


@component("transpose")
class Transpose(Unary):
    """Axes in another order: phi = 1 (theory 3.7)."""

    fixed_phi_variance: ClassVar[float | None] = 0.0

    def map(self, x: Moments) -> Moments:
        return x.permuted(self.node.attribute("perm"))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return cotangent.permuted([int(i) for i in np.argsort(self.node.attribute("perm"))])


def embedded(g: Gradient, index: int, start: int, size: int) -> Gradient:
    """A gradient of a run of indices among zeros: the transpose of a slice of step 1."""
    length = g.axes[index].size
    parts = [(start, False), (length, True), (size - start - length, False)]

    def zeros(count: int) -> Gradient:
        return Gradient.flat(put(g.axes, index, Axis(count)), np.zeros(1), profile=put(g.profile, index, None))

    fields = [g if real else zeros(count) for count, real in parts if count > 0]
    if len(fields) == 1:
        return fields[0]
    axes, arrays, profile = join(fields, index)
    shared = index > 0 and length > 1 and g.correlated and g.axes[index].is_pooled  # the real ones go on sharing it
    return Gradient(axes, profile, *arrays, alike=g.alike | {index} if shared else g.alike)


def scattered(g: Gradient, index: int, picked: np.ndarray, size: int) -> Gradient:
    """A gradient sent back to the picked indices of an axis, zeros elsewhere (repeated indices add up)."""
    field = g.profiled(index)
    own = field.profile[index]
    line = np.ones(len(picked)) if own is None else own
    received = np.zeros(size)
    np.add.at(received, picked, line)
    factor = float(received.mean())
    energy, covariance, overlap, across, lean = field.arrays()
    arrays = (energy * factor, covariance * factor**2, overlap, across * factor**2, lean)
    axes, profile = put(field.axes, index, Axis(size)), put(field.profile, index, normalised(received))
    return field.behind(Effect.MOVED, arrays, axes, profile)


def bounds(start: int, stop: int, step: int, size: int) -> tuple[int, int]:
    """Non-negative bounds of a slice as numpy reads them (stop may be -1 for a negative step)."""
    first, last, _ = slice(start, stop, step).indices(size)
    return first, last


@component("slice")
class Slice(Unary):
    """Indexing by ranges: phi = 1; the entries left out get no gradient (theory 3.7)."""

    fixed_phi_variance: ClassVar[float | None] = 0.0

    def _ranges(self) -> list[tuple[int, int, int, int]]:
        rank = len(self.input_shape)
        names = ("axes", "starts", "ends", "steps")
        axes, starts, ends, steps = (self.node.attribute(name) for name in names)
        found = []
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            index = int(axis) % rank
            found.append((index, *bounds(int(start), int(end), int(step), self.input_shape[index]), int(step)))
        return found

    def map(self, x: Moments) -> Moments:
        for index, start, stop, step in self._ranges():
            x = x.sliced(index, start, stop, step) if step > 0 else _reversed(x, index, start, stop, step)
        return x

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = cotangent
        for index, start, stop, step in reversed(self._ranges()):
            size = self.input_shape[index]
            if step == 1:
                g = embedded(g, index, start, size)
            else:
                g = scattered(g, index, np.arange(start, stop, step), size)
        return g


def _reversed(x: Moments, index: int, start: int, stop: int, step: int) -> Moments:
    if x.axes[index].is_pooled and x.profile[index] is None:
        return x.behind(Effect.MOVED, x.arrays(), put(x.axes, index, Axis(len(range(start, stop, step)))))
    return x.sliced(index, start, stop, step)


@component("split")
class Split(Component):
    """Parts of a value along one axis: phi = 1 for all of them together (theory 3.7)."""

    fixed_phi_variance: ClassVar[float | None] = 0.0

    @property
    def _axis(self) -> int:
        return int(self.node.attribute("axis")) % len(self.input_shape)

    def forward(self, inputs: Inputs) -> tuple[Moments, ...]:
        x = first_input(inputs)
        found = []
        start = 0
        for shape in self.output_shapes:
            stop = start + shape[self._axis]
            part = x.sliced(self._axis, start, stop, 1)
            if (
                x.log_norm_variance and self._axis
            ):  # a part of a sample is as large as the rest, but for its own entries
                scales = max(x.log_norm_variance - gaussian_noise(x), 0.0) + gaussian_noise(part)
                part = replace(part, log_norm_variance=scales)
            found.append(part)
            start = stop
        return tuple(found)

    def backward(self, inputs: Inputs, outputs: Sequence[Moments], cotangents: Cotangents) -> Gradients:
        if all(g is None for g in cotangents):
            return (None,)
        parts = []
        for g, shape in zip(cotangents, self.output_shapes, strict=True):
            white = Gradient.white(shape)
            parts.append(g if g is not None else white.scaled(0.0))
        if len(parts) == 1:
            return (parts[0],)
        axes, arrays, profile = join(parts, self._axis)
        alike = alike_of_all(parts)
        ahead = mixed_ahead([(g.total, g.ahead) for g in parts])
        return (Gradient(axes, profile, *arrays, ahead=ahead, alike=alike - {self._axis}),)


@component("gather")
class Gather(OneOutput):
    """Entries picked by index along one axis: phi = 1, variance = how often an output's source is read, less one
    (theory 3.7)."""

    @property
    def _axis(self) -> int:
        return int(self.node.attribute("axis")) % len(self.input_shape)

    def _picked(self) -> np.ndarray | None:
        parameter = self.node.parameters.get("indices")
        if parameter is None:
            return None
        indices = np.asarray(parameter.array()).astype(np.int64).reshape(-1)
        return np.where(indices < 0, indices + self.input_shape[self._axis], indices)

    def _flat_shape(self) -> tuple[int, ...]:
        """The input's shape with the gathered axis as long as the list of indices."""
        shape = self.input_shape
        rest = math.prod(shape[: self._axis]) * math.prod(shape[self._axis + 1 :])
        picked = math.prod(self.output_shapes[0]) // max(rest, 1)
        return (*shape[: self._axis], picked, *shape[self._axis + 1 :])

    def joined(self, inputs: Inputs) -> Moments:
        x = inputs[0]
        if x is None:
            raise NotModelledError("picks from a tensor whose values are not known")
        index, picked, flat = self._axis, self._picked(), self._flat_shape()
        if picked is None or (x.axes[index].is_pooled and x.profile[index] is None):
            x = x.pooled(index)
            axis, arrays = Axis(flat[index]), list(x.arrays())
        else:
            x = x.absorbed(index)
            cell = np.searchsorted(x.axes[index].starts, picked, side="right") - 1
            axis, arrays = Axis.full(len(picked)), [np.take(a, cell, axis=index) for a in x.arrays()]
        y = x.behind(Effect.MOVED, arrays, put(x.axes, index, axis), put(x.profile, index, None))
        return y.reshaped(self.output_shapes[0])

    def parted(self, inputs: Inputs, y: Moments, g: Gradient) -> Gradients:
        shape, none = self.input_shape, (None,) * (len(inputs) - 1)
        index, picked, flat = self._axis, self._picked(), self._flat_shape()
        g = g.reshaped(flat)
        if picked is not None and len(picked) == 1:
            return (embedded(g, index, int(picked[0]), shape[index]), *none)
        if picked is not None:
            return (scattered(g, index, picked, shape[index]), *none)
        g = g.pooled(index)
        ratio = flat[index] / max(shape[index], 1)
        arrays = (g.energy * ratio, g.position_covariance * ratio**2)
        axes, profile = put(g.axes, index, Axis(shape[index])), put(g.profile, index, None)
        return (g.behind(Effect.MOVED, arrays, axes, profile), *none)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        picked = self._picked()
        return None if picked is None else _multiplicity(picked, self.input_shape[self._axis]) - 1.0


def _multiplicity(picked: np.ndarray, size: int) -> float:
    """How often an output's source is read, on average over the outputs."""
    if not len(picked):
        return 1.0
    return float(np.bincount(picked, minlength=size)[picked].mean())


@component("pad")
class Pad(Unary):
    """Entries added around a value: zeros (phi = n/m) or copies of it (reflect, edge, wrap: phi = 1).

    Source: theory 3.7.
    """

    def _pads(self) -> list[tuple[int, int]]:
        pads = [int(p) for p in self.node.attribute("pads")]
        half = len(pads) // 2
        return list(zip(pads[:half], pads[half:], strict=True))

    @property
    def _copies(self) -> bool:
        return str(self.node.attribute("mode")) != "constant"

    def _sources(self, index: int) -> np.ndarray:
        """For a padding by copies, the input index that each output index repeats."""
        before, after = self._pads()[index]
        mode = {"reflect": "reflect", "edge": "edge", "replicate": "edge"}.get(str(self.node.attribute("mode")), "wrap")
        line = np.arange(self.input_shape[index])
        line = line[max(-before, 0) : len(line) - max(-after, 0)]
        return np.pad(line, (max(before, 0), max(after, 0)), mode=mode)  # type: ignore[call-overload, no-any-return]

    def map(self, x: Moments) -> Moments:
        value, nearby = 0.0 if self._copies else float(self.node.attribute("value") or 0.0), x.nearby
        for index, (before, after) in enumerate(self._pads()):
            x = x.sliced(index, max(-before, 0), x.shape[index] - max(-after, 0), 1) if min(before, after) < 0 else x
            before, after = max(before, 0), max(after, 0)
            if before + after == 0:
                continue
            size = x.shape[index] + before + after
            if not x.axes[index].is_pooled or value:
                known = x.channel_correlation
                x = replace(_laid_out(x, index, before, after, value, self._copies), channel_correlation=known)
                continue
            x = self._padded_profile(x, index, before, after, size)
        return replace(x, nearby=nearby) if nearby else x

    def _padded_profile(self, x: Moments, index: int, before: int, after: int, size: int) -> Moments:
        axes, own = put(x.axes, index, Axis(size)), x.profile[index]
        if self._copies:
            copied = None if own is None else normalised(own[self._sources(index)])
            return x.behind(Effect.MOVED, x.arrays(), axes, put(x.profile, index, copied))
        inside = np.ones(x.shape[index]) if own is None else own
        line = np.pad(inside, (before, after)) * (size / x.shape[index])
        share = x.shape[index] / size
        arrays = (x.mean * math.sqrt(share), x.variance * share, x.position_covariance * share**2)
        return x.behind(Effect.MOVED, arrays, axes, put(x.profile, index, normalised(line)))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = cotangent
        for index, (before, after) in enumerate(self._pads()):
            if before == after == 0:
                continue
            if self._copies:
                g = scattered(g, index, self._sources(index), self.input_shape[index])
                continue
            size = self.input_shape[index]
            g = g.sliced(index, max(before, 0), g.shape[index] - max(after, 0), 1)
            g = embedded(g, index, max(-before, 0), size).profiled(index)
        return replace(g, nearby=cotangent.nearby) if cotangent.nearby else g

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        """(n/m) (1 - n/m) of zeros around n entries, mean multiplicity less one of copies (theory 3.7)."""
        if self._copies:
            lines = [_multiplicity(self._sources(i), size) for i, size in enumerate(self.input_shape)]
            return math.prod(lines) - 1.0
        kept = math.prod(
            size + min(a, 0) + min(b, 0) for size, (a, b) in zip(self.input_shape, self._pads(), strict=True)
        )
        share = kept / max(math.prod(self.shape), 1)
        return share * (1.0 - share)


def _laid_out(x: Moments, index: int, before: int, after: int, value: float, copies: bool) -> Moments:
    """A value with constant cells before and after it along an axis that has cells of its own."""
    parts: list[Moments] = []
    for length, real in ((before, False), (x.shape[index], True), (after, False)):
        if real:
            parts.append(x)
        elif length and copies:
            axes, profile = put(x.axes, index, Axis(length)), put(x.profile, index, None)
            parts.append(x.behind(Effect.MOVED, x.pooled(index).arrays(), axes, profile))
        elif length:
            parts.append(Moments.uniform(put(x.shape, index, length), value, 0.0))
    axes, arrays, profile = join(parts, index)
    return Moments(axes, profile, *arrays, nonnegative=x.nonnegative and value >= 0)


@component("upsample")
class Upsample(Unary):
    """Interpolation to the output's size.

        nearest: phi = 1 per output, a copied entry receives from each of its copies
        linear, cubic: along each axis the interpolation's own weights, phi = mean over outputs of sum of weights^2

    The weights are the kernel's values at the distances between an output's centre and the inputs; beyond the border
    the outermost entry counts again. With antialiasing the kernel is as wide as an output where that is more than an
    input, and what is left of it inside the border is scaled to a sum of 1. Outputs that read one entry are alike, and
    so are gradients of entries that one output reads: another interpolation sums what is alike (theory.fields.nearby).
    Source: theory 3.7.
    """

    def _matrix(self, index: int) -> np.ndarray:
        """(outputs, inputs) weights along one axis."""
        inputs, outputs = self.input_shape[index], self.shape[index]
        mode, ratio = str(self.node.attribute("mode")), inputs / outputs
        if mode == "nearest":
            picked = np.clip(np.floor((np.arange(outputs) + 1e-9) * ratio).astype(int), 0, inputs - 1)
            return np.asarray((np.arange(inputs)[None, :] == picked[:, None]).astype(float))
        antialias = bool(self.node.attribute("antialias"))
        width = max(ratio, 1.0) if antialias else 1.0
        beyond = math.ceil(2 * width)
        grid = np.arange(-beyond, inputs + beyond)
        weights = self._kernel((self._centres(inputs, outputs)[:, None] - grid) / width, mode)
        if antialias:
            inside = weights[:, beyond:-beyond]
            return np.asarray(inside / inside.sum(axis=1, keepdims=True))
        found = np.zeros((inputs, outputs))
        np.add.at(found, np.clip(grid, 0, inputs - 1), weights.T)
        return found.T

    def _centres(self, inputs: int, outputs: int) -> np.ndarray:
        """Where the outputs lie among the inputs; what lies outside is drawn to the border."""
        kind = str(self.node.attribute("coordinates"))
        if kind == "align_corners":
            return np.arange(outputs) * ((inputs - 1) / max(outputs - 1, 1))
        if kind == "asymmetric":
            return np.arange(outputs) * (inputs / outputs)
        return (np.arange(outputs) + 0.5) * (inputs / outputs) - 0.5

    def _kernel(self, distance: np.ndarray, mode: str) -> np.ndarray:
        t = np.abs(distance)
        if mode == "linear":
            return np.asarray(np.maximum(0.0, 1.0 - t))
        a = float(self.node.attribute("cubic"))
        near = ((a + 2.0) * t - (a + 3.0)) * t**2 + 1.0
        far = ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
        return np.asarray(np.where(t <= 1.0, near, np.where(t < 2.0, far, 0.0)))

    def _resized_axes(self) -> list[int]:
        return [i for i, (a, b) in enumerate(zip(self.input_shape, self.shape, strict=True)) if a != b]

    def map(self, x: Moments) -> Moments:
        for index in self._resized_axes():
            x = x.pooled(index)
            weights = self._matrix(index)
            own = np.ones(self.input_shape[index]) if x.profile[index] is None else x.profile[index]
            energy = (weights**2) @ own
            nearby, gain = x.nearby.mixed(index, weights.T)
            variance = np.maximum(x.variance - x.position_covariance, 0.0) * (gain * float(energy.mean()))
            arrays = (x.mean, variance + x.position_covariance, x.position_covariance)
            line = None if x.profile[index] is None else normalised(energy)
            axes = put(x.axes, index, Axis(self.shape[index]))
            x = replace(x.behind(Effect.MOVED, arrays, axes, put(x.profile, index, line)), nearby=nearby)
        return replace(x, neighbours=nearest(x.nearby))

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        g = cotangent
        for index in self._resized_axes():
            g = g.profiled(index)
            weights = self._matrix(index)
            own = np.ones(self.shape[index]) if g.profile[index] is None else g.profile[index]
            received = own @ (weights**2)
            together = float((weights.sum(axis=0) ** 2).mean())
            nearby, gain = g.nearby.mixed(index, weights)
            white = float(received.mean()) * gain
            energy = np.maximum(g.energy - g.position_covariance, 0.0) * white + g.position_covariance * together
            axes, profile = (
                put(g.axes, index, Axis(self.input_shape[index])),
                put(g.profile, index, normalised(received)),
            )
            ratio = (self.shape[index] / self.input_shape[index]) ** 2
            arrays = (energy, g.position_covariance * together, 0.0 * energy, g.sample_covariance * ratio)
            g = replace(g.behind(Effect.MOVED, arrays, axes, profile), nearby=nearby)
        return g


@component("expand")
class Expand(Unary):
    """numpy broadcasting: phi = 1, variance = copies - 1 (theory 3.7)."""

    def map(self, x: Moments) -> Moments:
        return x.broadcast(self.shape)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return cotangent.summed_to(self.input_shape)

    def phi_variance(self, inputs: Inputs, outputs: Sequence[Moments]) -> float | None:
        size = math.prod(self.input_shape)
        return math.prod(self.shape) / size - 1.0 if size else None


@component("tile")
class Tile(Unary):
    """Copies of a value laid side by side: phi = 1 (theory 3.7)."""

    def _interleaved(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shape with an axis for the copies before every axis that is repeated, and that axis widened. An axis of
        one entry is simply widened, one that is not repeated stays: the batch is still the first."""
        shape = (1,) * (len(self.shape) - len(self.input_shape)) + self.input_shape
        single: list[int] = []
        repeated: list[int] = []
        for size, out in zip(shape, self.shape, strict=True):
            split = 1 < size < out
            single += (1, size) if split else (size,)
            repeated += (out // size, size) if split else (out,)
        return tuple(single), tuple(repeated)

    def map(self, x: Moments) -> Moments:
        single, repeated = self._interleaved()
        return x.reshaped(single).broadcast(repeated).reshaped(self.shape)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        single, repeated = self._interleaved()
        return cotangent.reshaped(repeated).summed_to(single).reshaped(self.input_shape)


@component("roll", "flip")
class Move(Unary):
    """Entries moved along axes, circularly or mirrored: phi = 1. Cells of an axis that is rolled are pooled (theory
    3.7)."""

    def _moved(self, field: F) -> F:
        for axis in self.node.attribute("axes"):
            index = int(axis) % len(self.shape)
            if self.node.op == "flip":
                field = field.mirrored(index)
                continue
            field = field.pooled(index)
            field = field.behind(Effect.MOVED, field.arrays(), profile=put(field.profile, index, None))
        return field

    def map(self, x: Moments) -> Moments:
        return self._moved(x if self.node.op == "flip" else x.flattened())

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        return self._moved(cotangent)


@component("depth_to_space")
class DepthToSpace(Unary):
    """Pixel shuffle: phi = 1 (arXiv 1609.05158; theory 3.7)."""

    def _steps(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shape that the input is split into, and the order that its axes then take."""
        b = int(self.node.attribute("block"))
        n, c, h, w = self.input_shape
        if str(self.node.attribute("mode")).upper() == "DCR":
            return (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
        return (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)

    def map(self, x: Moments) -> Moments:
        split, order = self._steps()
        return x.reshaped(split).permuted(order).reshaped(self.shape)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        split, order = self._steps()
        turned = cotangent.reshaped(tuple(split[i] for i in order))
        return turned.permuted([int(i) for i in np.argsort(order)]).reshaped(self.input_shape)


@component("space_to_depth")
class SpaceToDepth(DepthToSpace):
    """Pixel unshuffle: phi = 1 (theory 3.7)."""

    def _steps(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        b = int(self.node.attribute("block"))
        n, c, h, w = self.input_shape
        return (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4)


def _window_axes(node: Node, image: Sequence[int]) -> list[TapAxis]:
    """The axes of an image that windows slide over."""
    kernel, strides, pads, dilations = (node.attribute(a) for a in ("kernel", "strides", "pads", "dilations"))
    found = []
    for i, size in enumerate(image):
        taps, stride, dilation = int(kernel[i]), int(strides[i]), int(dilations[i])
        room = size + int(pads[i]) + int(pads[i + len(kernel)]) - dilation * (taps - 1) - 1
        found.append(tap_axis(size, room // stride + 1, taps, stride, int(pads[i]), dilation))
    return found


def _inside(axes: Sequence[TapAxis]) -> float:
    """Fraction of the windows' entries that are not padding."""
    return math.prod(float(axis.counts.sum()) / (axis.taps * axis.outputs) for axis in axes)


@component("unfold")
class Unfold(Unary):
    """Sliding windows laid out as columns: phi = fraction of taps inside the input; an entry receives from every
    window. Source: theory 3.7."""

    def _inside(self) -> float:
        return _inside(_window_axes(self.node, self.input_shape[2:]))

    def _ratio(self) -> float:
        return math.prod(self.shape) / max(math.prod(self.input_shape), 1) * self._inside()

    def map(self, x: Moments) -> Moments:
        x = x.only(1).flattened()
        taps = self.shape[1] // max(x.shape[1], 1)
        inside = self._inside()
        mean = x.mean * inside
        arrays = (mean, x.second * inside - mean**2, x.position_covariance * inside**2)
        copies = taps if x.axes[1].count > 1 else 1
        mean, variance, covariance = (np.repeat(a.reshape(-1), copies).reshape(1, -1, 1) for a in arrays)
        columns = Axis.full(self.shape[1]) if mean.size > 1 else Axis(self.shape[1])
        axes = (Axis(self.shape[0]), columns, Axis(self.shape[2]))
        return Moments.flat(axes, mean, variance, covariance, x.nonnegative)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        channels = self.input_shape[1]
        g = cotangent.only(1).reshaped((self.shape[0], channels, self.shape[1] // channels, self.shape[2])).pooled(2)
        ratio = self._ratio()
        rank = len(self.input_shape)
        axes = (Axis(self.shape[0]), g.axes[1], *pooled(self.input_shape[2:]))
        energy, covariance = (
            a.reshape((1, -1) + (1,) * (rank - 2)) for a in (g.energy * ratio, g.position_covariance * ratio**2)
        )
        return Gradient.flat(axes, energy, covariance)


@component("fold")
class Fold(Unary):
    """Windows laid back on the image and added up where they overlap, the transpose of `Unfold`.

    phi            = E c                       c = number of windows over an entry of the image
    mean          -> E c * mean
    variance      -> E c * (variance - covariance) + E c^2 * covariance + (E c^2 - (E c)^2) * mean^2

    Source: theory 3.7.
    """

    def _coverage(self) -> tuple[float, float]:
        """E c and E c^2."""
        lines = [axis.scatter(None).sum(axis=0) for axis in _window_axes(self.node, self.shape[2:])]
        return math.prod(float(line.mean()) for line in lines), math.prod(float((line**2).mean()) for line in lines)

    def map(self, x: Moments) -> Moments:
        batch, channels, *image = self.shape
        x = x.only(1).flattened().reshaped((batch, channels, self.input_shape[1] // channels, self.input_shape[2]))
        mean, variance, covariance = (a.reshape((1, -1) + (1,) * len(image)) for a in x.only(1).arrays())
        first, second = self._coverage()
        alone = np.maximum(variance - covariance, 0.0)
        thinned = first * alone + second * covariance + (second - first**2) * mean**2
        axes = (Axis(batch), x.axes[1], *pooled(image))
        return Moments.flat(axes, first * mean, thinned, second * covariance, x.nonnegative)

    def pull(self, x: Moments, y: Moments, cotangent: Gradient) -> Gradient:
        batch, columns, positions = self.input_shape
        channels, inside = self.shape[1], _inside(_window_axes(self.node, self.shape[2:]))
        g = cotangent.only(1)
        energy, covariance = (a.reshape(1, -1, 1, 1) for a in (g.energy * inside, g.position_covariance * inside**2))
        axes = (Axis(batch), g.axes[1], Axis(columns // channels), Axis(positions))
        return Gradient.flat(axes, energy, covariance).reshaped(self.input_shape)
