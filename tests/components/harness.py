"""Components held against automatic differentiation of the same torch function, in float64.

Two references. For a map that is affine in its inputs everything follows from its Jacobian J, exactly: with C the
covariance
of the inputs and G that of the cotangent, the output's second moments are diag(J C J^T) + mean^2 and the gradient's
diag(J^T G J).
For the others the same averages are taken over seeded draws, and the tolerance is a number of their standard errors
plus what the case allows its component for a documented approximation.

Numbers are compared per channel: averaged over every axis but one, which each input and each case names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from gnelint.components import Component, component_class
from gnelint.ir.graph import Node, Parameter
from gnelint.theory.fields.cells import Axis, counts, resample
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments

torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other

EXACT = 1e-9
"""Relative tolerance where a component claims to be exact: rounding of float64 sums."""

SIGMAS = 5.0
"""Standard errors allowed for a sampled reference: one comparison of thousands fails by chance with probability
1e-6."""


@dataclass(frozen=True)
class Input:
    """One input: independent Gaussian entries, or entries that share part of their variance over the positions of a
    channel.

    Attributes:
        shape: of the tensor.
        mean, variance: of every entry, or the centre of what the channels have.
        axis: the channel axis. Channels differ by `scatter`; None makes all entries alike.
        scatter: how far the channels' means and (relative) variances scatter.
        position_correlation: fraction of a channel's variance that all of its positions share within a sample.
    """

    shape: tuple[int, ...]
    mean: float = 0.0
    variance: float = 1.0
    axis: int | None = None
    scatter: float = 0.5
    position_correlation: float = 0.0

    def _channels(self) -> tuple[np.ndarray, np.ndarray]:
        if self.axis is None:
            return np.array([self.mean]), np.array([self.variance])
        rng = np.random.default_rng(5)
        size = self.shape[self.axis]
        means = self.mean + self.scatter * rng.standard_normal(size)
        return means, self.variance * (1.0 + self.scatter * rng.uniform(-1.0, 1.0, size))

    def moments(self) -> Moments:
        """The state handed to the component."""
        means, variances = self._channels()
        axes = tuple(Axis.full(n) if i == self.axis else Axis(n) for i, n in enumerate(self.shape))
        mean, variance = means.reshape(counts(axes)), variances.reshape(counts(axes))
        return Moments.flat(axes, mean, variance, self.position_correlation * variance)

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of every entry."""
        line = [1] * len(self.shape)
        if self.axis is not None:
            line[self.axis] = -1
        means, variances = (np.broadcast_to(a.reshape(line), self.shape) for a in self._channels())
        return means, variances

    def covariance(self) -> np.ndarray:
        """Covariance matrix of the flattened entries."""
        _, variance = self.dense()
        flat = variance.reshape(-1)
        return np.diag(flat * (1.0 - self.position_correlation)) + self.position_correlation * np.diag(flat) @ together(
            self.shape, self.axis
        )

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One sample."""
        mean, variance = (torch.from_numpy(a.copy()) for a in self.dense())
        common_shape = [n if i in (0, self.axis) else 1 for i, n in enumerate(self.shape)]
        own = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        common = torch.randn(common_shape, generator=generator, dtype=torch.float64)
        return mean + variance.sqrt() * (
            (1 - self.position_correlation) ** 0.5 * own + self.position_correlation**0.5 * common
        )


@dataclass(frozen=True)
class Case:
    """One use of an operation and what its component may be held to.

    Attributes:
        name: completes the test's id.
        op, parameters, attributes: of the node.
        function: the same operation in torch, of the activation inputs.
        inputs: what the inputs look like.
        output_axis: the axis of the output along which numbers are compared one by one; None compares totals.
        forward, gradient: relative tolerance of moments and gradients beyond the reference's own error.
        together: likewise for a cotangent that is constant over the positions of a channel; None leaves that out.
        variance: relative tolerance of `phi_variance` (affine maps), None leaves it out.
        compares_covariance: whether the covariances between positions are compared as well (affine maps).
        draws: how many samples make up a sampled reference; 0 for a map that is affine.
        because: where a tolerance comes from that is not EXACT.
    """

    name: str
    op: str
    function: Callable[..., Any]
    inputs: tuple[Input, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    output_axis: int | None = 1
    forward: float = EXACT
    gradient: float = EXACT
    together: float | None = EXACT
    variance: float | None = EXACT
    compares_covariance: bool = False
    draws: int = 0
    because: str = ""

    @property
    def id(self) -> str:
        return f"{self.op}-{self.name}".replace(" ", "_")


def parameter(role: str, array: Any) -> Parameter:
    """A parameter from a torch tensor or a numpy array."""
    stored = array.detach().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    return Parameter(role, stored.shape, str(stored.dtype), lambda: stored)


def make(
    op: str,
    input_shapes: Sequence[tuple[int, ...] | None],
    output_shapes: Sequence[tuple[int, ...]],
    parameters: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> Component:
    """The component of an operation, on a node of its own."""
    cls = component_class(op)
    assert cls is not None, f"no component models {op}"
    node = Node(
        "node",
        op,
        tuple(None if s is None else f"x{i}" for i, s in enumerate(input_shapes)),
        tuple(f"y{i}" for i in range(len(output_shapes))),
        {role: parameter(role, array) for role, array in (parameters or {}).items()},
        attributes,
    )
    return cls(node, tuple(input_shapes), tuple(output_shapes))


def outputs_of(case: Case, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    found = case.function(*inputs)
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def component_of(case: Case) -> Component:
    generator = torch.Generator().manual_seed(0)
    outputs = outputs_of(case, [each.draw(generator) for each in case.inputs])
    shapes = [tuple(y.shape) for y in outputs]
    return make(case.op, [each.shape for each in case.inputs], shapes, case.parameters, **case.attributes)


# --- arrays over cells as arrays over entries
# --------------------------------------------------------------------------


def everywhere(array: np.ndarray, value: Moments | Gradient) -> np.ndarray:
    """An array over the cells, entry by entry."""
    full = tuple(Axis.full(axis.size) for axis in value.axes)
    return resample(np.asarray(array), value.axes, full).reshape(value.shape)


def along_profiles(value: Moments | Gradient, power: float = 1.0) -> np.ndarray:
    """The product of the profiles at every entry, to a power."""
    scale = np.ones(value.shape)
    for index, profile in enumerate(value.profile):
        if profile is not None:
            line = [1] * len(value.shape)
            line[index] = -1
            scale = scale * (profile**power).reshape(line)
    return scale


def dense_moments(x: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Mean and second moment of every entry."""
    return everywhere(x.mean, x) * along_profiles(x, 0.5), everywhere(x.second, x) * along_profiles(x)


def dense_energy(g: Gradient) -> np.ndarray:
    """Second moment of every entry of a gradient."""
    return everywhere(g.energy, g) * along_profiles(g)


def per_channel(array: np.ndarray, axis: int | None) -> np.ndarray:
    """Mean over all axes but one."""
    if axis is None or axis >= array.ndim:
        return np.asarray(array.mean()).reshape(1)
    return np.asarray(array.mean(axis=tuple(i for i in range(array.ndim) if i != axis)))


def together(shape: Sequence[int], axis: int | None) -> np.ndarray:
    """(size, size): 1 where two entries belong to one sample and one channel."""
    group = np.zeros(tuple(shape), dtype=np.int64)
    for index, size in enumerate(shape):
        if index in (0, axis):
            line = [1] * len(shape)
            line[index] = size
            group = group * size + np.arange(size).reshape(line)
    flat = group.reshape(-1)
    return (flat[:, None] == flat[None, :]).astype(np.float64)


def constant_cotangent(shape: tuple[int, ...], axis: int | None) -> Gradient:
    """Unit energy, the same number at all positions of a channel."""
    axes = tuple(Axis.full(n) if i == axis else Axis(n) for i, n in enumerate(shape))
    return Gradient.flat(axes, np.ones(1), 1.0)


# --- references -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number for each channel, and its standard error."""

    value: np.ndarray
    error: np.ndarray

    @staticmethod
    def exactly(value: np.ndarray) -> Estimate:
        return Estimate(value, np.zeros_like(value))

    @staticmethod
    def sampled(rows: list[np.ndarray]) -> Estimate:
        stacked = np.stack(rows)
        return Estimate(stacked.mean(axis=0), stacked.std(axis=0, ddof=1) / np.sqrt(len(stacked)))


@dataclass(frozen=True)
class Reference:
    """What the component should say.

    Attributes:
        mean, second: of each output, per channel.
        energy, common: gradient energy of each input per channel, for a white and for a constant cotangent.
        phi: with respect to each input.
        variance: of the spectrum of the whole Jacobian; None for sampled references.
        output_covariances, gradient_covariances: mean covariance of two positions of a channel, of the outputs and of
            the gradients behind a constant cotangent.
    """

    mean: list[Estimate]
    second: list[Estimate]
    energy: list[Estimate]
    common: list[Estimate]
    phi: list[Estimate]
    variance: float | None = None
    output_covariances: list[np.ndarray] = field(default_factory=list)
    gradient_covariances: list[np.ndarray] = field(default_factory=list)


def _channel_of(each: Input, case: Case) -> int | None:
    return each.axis if each.axis is not None else case.output_axis


def jacobian(case: Case) -> tuple[np.ndarray, np.ndarray, list[tuple[int, ...]]]:
    """(outputs, inputs) Jacobian and the outputs at 0 of a map that is affine."""
    zeros = [torch.zeros(each.shape, dtype=torch.float64, requires_grad=True) for each in case.inputs]
    outputs = outputs_of(case, zeros)
    rows = []
    for y in outputs:
        for entry in y.reshape(-1):
            pulled = torch.autograd.grad(entry, zeros, retain_graph=True, allow_unused=True)
            blocks = [
                torch.zeros(z.numel()) if p is None else p.reshape(-1) for p, z in zip(pulled, zeros, strict=True)
            ]
            rows.append(torch.cat(blocks).numpy())
    offset = np.concatenate([y.detach().numpy().reshape(-1) for y in outputs])
    return np.stack(rows), offset, [tuple(y.shape) for y in outputs]


def pairs(covariance: np.ndarray, shape: tuple[int, ...], axis: int | None) -> np.ndarray:
    """Mean covariance of two different entries of one sample and channel, per channel; nan where there is no pair."""
    same = together(shape, axis) - np.eye(len(covariance))
    total = per_channel((covariance * same).sum(axis=1).reshape(shape), axis)
    partners = per_channel(same.sum(axis=1).reshape(shape), axis)
    return np.divide(total, partners, out=np.full_like(total, np.nan), where=partners > 0)


def affine_reference(case: Case) -> Reference:
    J, offset, shapes = jacobian(case)
    sizes = [int(np.prod(each.shape)) for each in case.inputs]
    covariance = np.zeros((sum(sizes), sum(sizes)))
    start = 0
    for each, size in zip(case.inputs, sizes, strict=True):
        covariance[start : start + size, start : start + size] = each.covariance()
        start += size
    mean = J @ np.concatenate([each.dense()[0].reshape(-1) for each in case.inputs]) + offset
    behind = J @ covariance @ J.T
    cotangent = np.zeros((len(J), len(J)))
    found = Reference([], [], [], [], [])
    start = 0
    for shape in shapes:
        stop = start + int(np.prod(shape))
        m = mean[start:stop].reshape(shape)
        block = behind[start:stop, start:stop]
        found.mean.append(Estimate.exactly(per_channel(m, case.output_axis)))
        found.second.append(Estimate.exactly(per_channel(np.diag(block).reshape(shape) + m**2, case.output_axis)))
        cotangent[start:stop, start:stop] = together(shape, case.output_axis)
        found.output_covariances.append(pairs(block, shape, case.output_axis))
        start = stop
    pulled = J.T @ cotangent @ J
    start = 0
    for each, size in zip(case.inputs, sizes, strict=True):
        part = slice(start, start + size)
        axis = _channel_of(each, case)
        white = (J[:, part] ** 2).sum(axis=0)
        found.energy.append(Estimate.exactly(per_channel(white.reshape(each.shape), axis)))
        found.common.append(Estimate.exactly(per_channel(np.diag(pulled)[part].reshape(each.shape), axis)))
        found.gradient_covariances.append(pairs(pulled[part, part], each.shape, axis))
        found.phi.append(Estimate.exactly(np.array([white.sum() / len(J)])))
        start += size
    gram = J @ J.T
    phi = np.trace(gram) / len(J)
    return replace(found, variance=float((gram**2).sum() / len(J) - phi**2))


def sampled_reference(case: Case) -> Reference:
    """Averages over `draws` samples of the inputs, each with one white and one constant cotangent."""
    generator = torch.Generator().manual_seed(1)
    rows: dict[tuple[str, int], list[np.ndarray]] = {}

    def note(kind: str, index: int, value: np.ndarray) -> None:
        rows.setdefault((kind, index), []).append(value)

    for _ in range(case.draws):
        inputs = [each.draw(generator).requires_grad_() for each in case.inputs]
        outputs = outputs_of(case, inputs)
        length = sum(y.numel() for y in outputs)
        for index, y in enumerate(outputs):
            array = y.detach().numpy()
            note("mean", index, per_channel(array, case.output_axis))
            note("second", index, per_channel(array**2, case.output_axis))
        white = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in outputs]
        narrow = [
            torch.randn(
                [n if i in (0, case.output_axis) else 1 for i, n in enumerate(y.shape)],
                generator=generator,
                dtype=torch.float64,
            ).expand(y.shape)
            for y in outputs
        ]
        for kind, cotangent in (("energy", white), ("common", narrow)):
            pulled = torch.autograd.grad(outputs, inputs, cotangent, retain_graph=kind == "energy", allow_unused=True)
            for index, (g, each) in enumerate(zip(pulled, case.inputs, strict=True)):
                square = np.zeros(each.shape) if g is None else g.numpy() ** 2
                note(kind, index, per_channel(square, _channel_of(each, case)))
                if kind == "energy":
                    note("phi", index, np.array([square.sum() / length]))

    def estimates(kind: str, count: int) -> list[Estimate]:
        return [Estimate.sampled(rows[kind, index]) for index in range(count)]

    outputs_count = len({index for kind, index in rows if kind == "mean"})
    return Reference(
        estimates("mean", outputs_count),
        estimates("second", outputs_count),
        estimates("energy", len(case.inputs)),
        estimates("common", len(case.inputs)),
        estimates("phi", len(case.inputs)),
    )


# --- comparisons ------------------------------------------------------------------------------------------------------


def assert_near(
    what: str, predicted: np.ndarray, reference: Estimate, tolerance: float, scale: float | None = None
) -> None:
    """Every channel within the tolerance (relative to `scale`, by default to each number) and the sampling error."""
    if not reference.value.size:
        return
    predicted = np.broadcast_to(predicted, reference.value.shape)
    unit = np.abs(reference.value) if scale is None else scale
    allowed = tolerance * unit + SIGMAS * reference.error + 1e-12
    off = np.abs(predicted - reference.value)
    worst = int(np.argmax(off - allowed))
    assert np.all(off <= allowed), (
        f"{what}: {predicted.reshape(-1)[worst]:.6g} where {reference.value.reshape(-1)[worst]:.6g} "
        f"+- {reference.error.reshape(-1)[worst]:.2g} is true (channel {worst}, tolerance {tolerance:g})"
    )


def verify(case: Case) -> None:
    """Hold the component to everything the case asks for."""
    component = component_of(case)
    reference = sampled_reference(case) if case.draws else affine_reference(case)
    inputs = [each.moments() for each in case.inputs]
    outputs = component.forward(inputs)
    verify_forward(case, component, outputs, reference)
    white = [Gradient.white(shape) for shape in component.output_shapes]
    verify_gradients(
        case, component.backward(inputs, outputs, white), inputs, reference.energy, case.gradient, "energy"
    )
    length = sum(g.size for g in white)
    phis = component.phis(inputs, outputs)
    backward = component.backward(inputs, outputs, white)
    for phi, g, true in zip(phis, backward, reference.phi, strict=True):
        assert phi is not None
        assert g is not None
        np.testing.assert_allclose(phi, g.total / length, rtol=1e-5 if case.op in ("conv", "linear") else EXACT)
        assert_near("phi", np.array([phi]), true, case.gradient)
    if case.together is not None:
        constant = [constant_cotangent(shape, case.output_axis) for shape in component.output_shapes]
        pulled = component.backward(inputs, outputs, constant)
        verify_gradients(case, pulled, inputs, reference.common, case.together, "energy of a constant cotangent")
        if case.compares_covariance:
            for index, g in enumerate(pulled):
                assert g is not None
                axis = _channel_of(case.inputs[index], case)
                predicted = per_channel(everywhere(g.position_covariance, g), axis)
                pairs = ~np.isnan(reference.gradient_covariances[index])
                true = Estimate.exactly(reference.gradient_covariances[index][pairs])
                assert_near("correlated gradient", predicted[pairs], true, case.together)
    variance = component.phi_variance(inputs, outputs)
    if variance is not None and case.variance is not None and reference.variance is not None:
        np.testing.assert_allclose(variance, reference.variance, rtol=case.variance, atol=1e-9)


def verify_forward(case: Case, component: Component, outputs: Sequence[Moments], reference: Reference) -> None:
    for index, (y, shape) in enumerate(zip(outputs, component.output_shapes, strict=True)):
        assert y.shape == shape
        mean, second = dense_moments(y)
        scale = float(np.sqrt(reference.second[index].value.max()))
        assert_near("mean", per_channel(mean, case.output_axis), reference.mean[index], case.forward, scale)
        assert_near("second moment", per_channel(second, case.output_axis), reference.second[index], case.forward)
        np.testing.assert_allclose(y.total_mean, mean.mean(), rtol=1e-9, atol=1e-9 * scale)
        np.testing.assert_allclose(y.total_second, second.mean(), rtol=1e-9)
        if case.compares_covariance:
            predicted = per_channel(everywhere(y.position_covariance, y), case.output_axis)
            pairs = ~np.isnan(reference.output_covariances[index])
            true = Estimate.exactly(reference.output_covariances[index][pairs])
            assert_near("correlated", predicted[pairs], true, case.forward)


def verify_gradients(
    case: Case,
    gradients: Sequence[Gradient | None],
    inputs: Sequence[Moments],
    references: Sequence[Estimate],
    tolerance: float,
    what: str,
) -> None:
    for g, x, each, true in zip(gradients, inputs, case.inputs, references, strict=True):
        assert g is not None
        assert g.shape == x.shape
        energy = dense_energy(g)
        assert_near(what, per_channel(energy, _channel_of(each, case)), true, tolerance)
        np.testing.assert_allclose(g.total, energy.sum(), rtol=1e-9, atol=1e-12)
