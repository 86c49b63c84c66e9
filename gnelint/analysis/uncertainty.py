"""How far the gradient of one network may lie from the predicted one: a bound for every value.

The error is e = log2(predicted / measured), in bits. Two passes follow its standard deviation, from the inputs to the
outputs for second moments and from the cotangent back for gradients:

finite width
        One draw of the weights is not the average over draws (theory.fluctuation). Independent from node to node.
model   What a component's formulas leave out (`Component.model_error_bits`). Taken as independent too.
drift   What an activation makes of an error of the second moment that it reads: of one sign over many layers, so it
        adds up as it is. Near an unstable fixed point it outgrows everything else.
shared  What layers that are used again, or are copies, have in common and no formula has: of one sign too. It is no
        matter of the draw. Likewise what layers learned together.

Where branches meet, each counts by the share of the gradient that comes through it. The bound is 1.645 standard
deviations: were errors Gaussian, 90% of layers would lie within. tests/benchmarks/accuracy.py counts how many do.

Source: theory 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field

import numpy as np

from gnelint.analysis.blocks import NodeSpectrum
from gnelint.analysis.correlation import CORRELATED
from gnelint.analysis.gradient_error import QUANTILE, GradientError, arrived, log2_sum, met, of_input
from gnelint.components import Component, NotModelledError
from gnelint.components.activation import Pointwise
from gnelint.components.base import Basis
from gnelint.components.normalization import GroupNorm, Normalization
from gnelint.ir.graph import Graph, Node
from gnelint.ops import families
from gnelint.records import dataclass
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.log_norm import luck_of_batch, per_sample
from gnelint.theory.fields.moments import Moments
from gnelint.theory.fluctuation import (
    BITS_SQUARED,
    Shift,
    mask_finite_width_variance,
    shifted_scale,
    weight_finite_width_variance,
)

OF_BASIS: Mapping[Basis, float] = {
    "exact": 0.0,
    "theorem": 0.005,
    "approximate": 0.1,
    "sampled": 0.1,
    "unmodelled": 0.0,
}
"""Bits of error of a component that does not say it itself."""
CORRELATED_BITS = 0.15
"""About a join whose operands are correlated in a way that is left out."""
FEW_BITS = 2.0 * math.sqrt(BITS_SQUARED)
"""Over N: about batch statistics over N entries."""

GROWTH_SHARE = 0.06
"""Standard error of what a recurrent layer multiplies a gradient by, over the bits that it does so: one matrix meets
itself at every step. Measured on tanh, LSTM and GRU layers of 64 units over 10 and 40 steps, recurrent entries of
deviation 0.2 to 1, four draws each (0.03 to 0.13); where memory is long it is more (a GRU of 0.3 over 40 steps)."""

REPEATED_SHARE = 0.12
"""Standard error of what copies of one branch have in common, over the bits that it makes of the gradient: one draw
decides. Measured on encoders of six copies, 32 and 64 features wide, six draws each (0.05 to 0.2 of 2 to 4 bits)."""

FEW = 64
"""Entries below which statistics over the batch are called few."""
_NOTABLE = 0.02
"""Bits of drift at one activation from which on it is named."""
NEAR_CRITICAL = "near an unstable fixed point: errors of the second moment grow from layer to layer"

_RECURRENT = families()["recurrent"]
_MIXING_LAST = _RECURRENT | {"linear", "matmul", "embedding", "attention"}
_MIXING_SECOND = frozenset({"conv", "conv_transpose"})
_COPYING = frozenset({"tile", "expand"})
_ADDING = frozenset({"add", "sub"})


@dataclass
class GradientErrors:
    """What is found.

    Attributes:
        gradients: by value.
        weak: what is weak about the prediction of a node, for people, by the node's name.
    """

    gradients: dict[str, GradientError] = field(default_factory=dict)
    weak: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Known:
    """What the analysis found, and what follows from it for every value.

    Attributes:
        features: entries that weights mix, by value.
        scales: at each activation the drift of its phi, at each normalisation the error in bits of what it divides by.
        seconds: error in bits of each value's second moment.
        begun: the excess coherence of the cotangent: one direction through masks that the weights tell is no draw.
    """

    components: Mapping[str, Component]
    moments: Mapping[str, Moments]
    spectra: Mapping[str, NodeSpectrum]
    gradients: Mapping[str, tuple[Gradient, float]]
    features: Mapping[str, int]
    scales: Mapping[str, float]
    seconds: Mapping[str, float]
    begun: float = 0.0

    def samples(self, name: str) -> int:
        """Vectors of features in a value."""
        return _samples(self.moments[name], self.features[name])


def gradient_errors(
    graph: Graph,
    components: Mapping[str, Component],
    moments: Mapping[str, Moments],
    spectra: Mapping[str, NodeSpectrum],
    gradients: Mapping[str, tuple[Gradient, float]],
    start: Sequence[str],
    repeated: Mapping[str, float],
    steps: Mapping[str, int],
    trained: Mapping[str, float],
) -> GradientErrors:
    """The error of the gradient at every value that it reaches.

    Args:
        components, spectra: by node.
        moments: by value.
        gradients: by value, with log2 of the squared norm.
        start: the values on which the cotangent stands.
        repeated: bits that branches which hold the same numbers add, by value.
        steps: of one layer that a decaying state adds up, by what the layer writes.
        trained: bits of what layers learned together and no formula has, by the layer.
    """
    features = _features(graph, moments)
    scales, seconds = _scale_errors(graph, components, moments, spectra, features)
    # two samples' cotangents over few features are alike: over one they are the same direction
    at = {name: 1.0 / features[name] if name in features else 0.0 for name in start if name in gradients}
    known = _Known(components, moments, spectra, gradients, features, scales, seconds, max(at.values(), default=0.0))
    found = GradientErrors({name: GradientError(excess_coherence=alike) for name, alike in at.items()})
    arriving: dict[str, list[tuple[float, GradientError]]] = {}
    for node in reversed(graph.nodes):
        for name in node.outputs:
            if name in arriving and name not in found.gradients:
                shared = REPEATED_SHARE * repeated.get(name, 0.0) + math.log2(steps.get(name, 1)) / QUANTILE
                found.gradients[name] = met(arriving.pop(name)).grown(shared=shared)
        if node.name in components and node.name in spectra:
            together = trained.get(node.name, 0.0)
            for name, (share, error) in _behind(node, known, found.gradients).items():
                arriving.setdefault(name, []).append((share, error.grown(shared=together)))
            found.weak[node.name] = _weak(node, known)
    for name, parts in arriving.items():
        found.gradients.setdefault(name, met(parts))
    return found


def _features(graph: Graph, moments: Mapping[str, Moments]) -> dict[str, int]:
    """Entries of the axis that weights mix: that of the channels behind a convolution, of anything else the last.

    Whatever moves entries about keeps the number; a reading of shapes alone would take positions for channels.
    """
    found: dict[str, int] = {}
    for name in graph.inputs:
        if name in moments:
            shape = moments[name].shape
            found[name] = shape[1] if len(shape) >= 4 else shape[-1] if shape else 1
    for node in graph.nodes:
        before = next((found[name] for name in node.present_inputs if name in found), None)
        for name in node.outputs:
            if name not in moments:
                continue
            shape = moments[name].shape or (1,)
            count = shape[-1] if node.op in _MIXING_LAST or before is None else before
            if node.op in _MIXING_SECOND:
                count = shape[1]
            if node.op in _COPYING and (source := moments.get(node.inputs[0] or "")) is not None:
                count = _copied_features(source.shape, shape, count)
            found[name] = max(1, min(count, math.prod(shape)))
    return found


def _copied_features(before: Sequence[int], behind: Sequence[int], count: int) -> int:
    """Features where an axis of as many as there were has been copied."""
    if len(before) != len(behind):
        return count
    grown = [(old, new) for old, new in zip(before, behind, strict=True) if old < new]
    return grown[0][1] if len(grown) == 1 and grown[0][0] == count else count


def _is_weight(node: Node) -> bool:
    return "weight" in node.parameters and node.op != "embedding"


def _is_normalization(component: Component) -> bool:
    return isinstance(component, GroupNorm) or (isinstance(component, Normalization) and component.adapts)


def _relative_variance(spectrum: NodeSpectrum) -> float:
    phi = math.fsum(phi for phi in spectrum.phis if phi is not None)
    return spectrum.variance / phi**2 if spectrum.variance is not None and phi**2 > 0 else 0.0


def _alike(x: Moments) -> float:
    """rho: the share of a value that is the same in all samples, so that their masks are."""
    total = x.total_second
    return min(float(np.mean(x.mean**2)) / total, 1.0) if total > 0 else 0.0


# --- forward: second moments -----------------------------------------------------------------------------


def _scale_errors(
    graph: Graph,
    components: Mapping[str, Component],
    moments: Mapping[str, Moments],
    spectra: Mapping[str, NodeSpectrum],
    features: Mapping[str, int],
) -> tuple[dict[str, float], dict[str, float]]:
    """By node the drift of an activation's phi and the error of a normalisation's statistic, by value the error of its
    second moment; bits."""
    errors: dict[str, float] = {}  # of log2 of the second moment, by value
    found: dict[str, float] = {}
    for node in graph.nodes:
        component, x = components.get(node.name), moments.get(node.inputs[0] or "") if node.inputs else None
        if component is None or x is None:
            continue
        first = node.present_inputs[0]
        error = _met_scale(node, moments, errors)
        if _is_normalization(component):
            found[node.name], error = error, 0.0
        elif isinstance(component, Pointwise):
            shift = _shift(component, x, error)
            found[node.name] = shift.slope
            spectrum = spectra.get(node.name)
            scatter = 0.0 if spectrum is None else mask_finite_width_variance(
                _relative_variance(spectrum), features[first], _samples(x, features[first]), 0.0, 0.0
            )  # fmt: skip
            error = math.hypot(shift.second, math.sqrt(scatter * (1.0 - _alike(x))))
        elif _is_weight(node):
            varies = (1.0 - _alike(x)) ** 2  # the mean goes through weights that are known
            coherence = varies * (1.0 / _samples(x, features[first]) + 1.0 / features[first])
            error = math.hypot(error, math.sqrt(weight_finite_width_variance(coherence, features[node.outputs[0]])))
        elif node.op == "mul":  # E a^2 E b^2: that of each factor
            error = math.hypot(*(errors.get(name, 0.0) for name in node.present_inputs))
        elif node.op == "bias" and (y := moments.get(node.outputs[0])) is not None:  # constants do not err
            error *= min(x.total_second / y.total_second, 1.0) if y.total_second > 0 else 1.0
        errors.update(dict.fromkeys(node.outputs, error))
    return found, errors


def _shift(component: Pointwise, x: Moments, error: float) -> Shift:
    """What an error of the scale does: handed on whole where the function leaves its domain at the other scale."""
    try:
        return shifted_scale(component, *_kinds(x), error)
    except NotModelledError:
        return Shift(error, error)


def _kinds(x: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and variance over everything, for each cell of the batch, and the cell's share of the samples.

    The moments have x's axes: an activation may have a parameter for each channel."""
    if x.size == 0 or not x.axes:
        return np.array([x.total_mean]), np.array([max(x.total_second - x.total_mean**2, 0.0)]), np.ones(1)
    mean = per_sample(x.mean, x) * x.amplitude()
    batch, rows = x.axes[0], (-1, *(1,) * (len(x.axes) - 1))
    variance = np.maximum(per_sample(x.second, x) - mean**2, 0.0)
    return mean.reshape(rows), variance.reshape(rows), batch.lengths / batch.size


def _samples(x: Moments, features: int) -> int:
    return max(1, math.prod(x.shape) // features)


def _met_scale(node: Node, moments: Mapping[str, Moments], errors: Mapping[str, float]) -> float:
    """The error of what a node reads: each input counts by its second moment."""
    parts = [(moments[name].total_second, errors.get(name, 0.0)) for name in node.present_inputs if name in moments]
    total = math.fsum(second for second, _ in parts)
    return math.fsum(second * error for second, error in parts) / total if total > 0 else 0.0


# --- backward: gradients ---------------------------------------------------------------------------------


def _behind(node: Node, known: _Known, errors: Mapping[str, GradientError]) -> dict[str, tuple[float, GradientError]]:
    """What arrives at each input: log2 of the squared norm that comes from here, and its error."""
    reached = [(known.gradients[name][1], errors[name]) if name in errors else None for name in node.outputs]
    if all(each is None for each in reached):
        return {}
    total = log2_sum([each[0] for each in reached if each is not None])
    output = next(name for name in node.outputs if name in errors)
    all_of_it = arrived(node, known.components[node.name], reached)
    spectrum, component = known.spectra[node.name], known.components[node.name]
    found: dict[str, tuple[float, GradientError]] = {}
    for index, (name, phi) in enumerate(zip(node.inputs, spectrum.phis, strict=False)):
        if name is None or phi is None or phi <= 0 or name not in known.gradients:
            continue
        error, coherence = _through(node, output, known, of_input(node, component, index, all_of_it))
        own = component.model_error_bits_of(index)
        if own is None:
            own = CORRELATED_BITS if CORRELATED in spectrum.assumptions else OF_BASIS[spectrum.basis]
        if node.op in _RECURRENT:
            own = math.hypot(own, GROWTH_SHARE * max(math.log2(phi), 0.0))
        factor = _factor_error(node, index, known)
        luck = BITS_SQUARED * _luck_added(known.gradients[name][0], known.gradients[output][0])
        drawn = factor**2 + _luck_of_features(node, name, output, coherence, known)
        samples, excess_coherence = known.samples(name), error.excess_coherence
        if samples > known.samples(output):  # copies, or zeros beside: no new directions
            excess_coherence = max(excess_coherence, coherence - 1.0 / samples)
        found[name] = (
            total + math.log2(phi),
            error.grown(own**2 + drawn + luck, drawn, excess_coherence=min(excess_coherence, 1.0)),
        )
    return found


def _luck_of_features(node: Node, name: str, output: str, coherence: float, known: _Known) -> float:
    """Variance in bits squared of the sum over features of their gradients, which a value gets that is copied to all:
    weights behind decide how these add up, as those of a map do from one feature."""
    features = known.features.get(output, 1)
    if node.op not in _COPYING | _ADDING or name not in known.moments:
        return 0.0
    before, behind = known.moments[name].shape, known.moments[output].shape
    summed = [old for old, new in zip(before[::-1], behind[::-1], strict=False) if old < new == features]
    if not summed:
        return 0.0
    return weight_finite_width_variance(max(coherence - 1.0 / features, 0.0), summed[0])


def _luck_added(before: Gradient, behind: Gradient) -> float:
    """`luck_of_batch` that a node adds to a gradient. A stack of queries, keys and values is no batch: where the first
    axis is another one on both sides, nothing is known of it."""
    if before.shape[:1] != behind.shape[:1]:
        return 0.0
    return max(luck_of_batch(before) - luck_of_batch(behind), 0.0)


def _factor_error(node: Node, index: int, known: _Known) -> float:
    """Bits of error of what a product multiplies the gradient at an operand by: the other one's second moment."""
    if node.op != "mul":
        return 0.0
    return math.hypot(*(known.seconds.get(name or "", 0.0) for i, name in enumerate(node.inputs) if i != index))


def _through(node: Node, output: str, known: _Known, error: GradientError) -> tuple[GradientError, float]:
    """The error behind a node, without what its own formulas leave out, and the coherence of what it reads."""
    component = known.components[node.name]
    gradient = known.gradients[output][0]
    same = _same_over_positions(gradient)
    samples = 1.0 / (1.0 / known.samples(output) + same**2 / max(gradient.shape[0] if gradient.shape else 1, 1))
    coherence = min(1.0, 1.0 / samples + error.excess_coherence)
    first = node.inputs[0]
    if first is None or first not in known.features:
        return error, coherence
    features, scale = known.features[first], known.scales.get(node.name, 0.0)
    finite_width_variance, model, drift, excess_coherence = 0.0, 0.0, 0.0, error.excess_coherence
    unlike = max(coherence - 1.0 / known.features.get(output, math.inf), 0.0)  # each feature's own energy is known
    if _is_weight(node):
        taps = math.prod(node.parameters["weight"].shape[2:]) if node.op in _MIXING_SECOND else 1
        finite_width_variance = weight_finite_width_variance(unlike, features * (taps * (1.0 - same) + same))
        excess_coherence += 1.0 / features
    elif node.op in _RECURRENT:  # one matrix for what enters, one for what was before
        hidden = known.features.get(output, features)
        finite_width_variance = sum(weight_finite_width_variance(unlike, fan) for fan in (features, hidden))
        excess_coherence += 1.0 / features
    elif isinstance(component, Pointwise):
        x, spectrum = known.moments[first], known.spectra[node.name]
        relative, alike = _relative_variance(spectrum), _alike(x)
        finite_width_variance = mask_finite_width_variance(
            relative, features, known.samples(output), alike, max(excess_coherence - known.begun, 0.0)
        )
        kept = math.sqrt(spectrum.structure.coherence)
        excess_coherence *= (kept + (1.0 - kept) * alike) ** 2
        drift = scale
    elif _is_normalization(component):
        finite_width_variance, entries = scale**2, _batch_entries(component)
        model = 0.0 if entries is None else (FEW_BITS / max(entries, 1)) ** 2
    passed = error.grown(
        finite_width_variance + model, finite_width_variance, drift, excess_coherence=min(excess_coherence, 1.0)
    )
    return passed, coherence


def _same_over_positions(gradient: Gradient) -> float:
    """Correlation of the gradient between positions, as the cells know it."""
    if gradient.positions <= 1 or not gradient.correlated:
        return 0.0
    energy = float(np.mean(gradient.energy))
    if energy <= 0:
        return 0.0
    return min(max(float(np.mean(gradient.position_covariance)) / energy, 0.0), 1.0)


def _batch_entries(component: Component) -> int | None:
    """Entries of a statistic over the batch; None for any other."""
    if not isinstance(component, Normalization) or not component.adapts:
        return None
    return component.entries if 0 in component.normalised_axes() else None


def _weak(node: Node, known: _Known) -> tuple[str, ...]:
    component = known.components[node.name]
    found = []
    entries = _batch_entries(component)
    if entries is not None and entries < FEW:
        found.append(f"statistics over {entries} values only")
    if isinstance(component, Pointwise) and known.scales.get(node.name, 0.0) > _NOTABLE:
        found.append(NEAR_CRITICAL)
    return tuple(found)
