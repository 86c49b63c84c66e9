"""Weights rescaled so that each layer of a chain keeps the gradient's norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gnelint.analysis import Signal, signals
from gnelint.components import component_class
from gnelint.fixes.base import Fix, Plan, Refusal, Site, fix, scalable, stored_layout, target_node
from gnelint.fixes.chains import Layer, chains_of
from gnelint.fixes.edits import Centre, EditTensor, Redraw, Scale, with_tensors
from gnelint.graph import Graph, Node
from gnelint.lint.finding import Finding
from gnelint.theory.moments import Moments

SETTLED = 1e-4
"""Bits of squared norm that a layer may be off in the model."""
ENOUGH = 0.02
"""Bits that all layers together may be off in the prediction."""
MAX_SWEEPS = 12
MAX_STEPS = 40
MAX_STEP = 8.0
"""Bits by which one step may change a layer's gain: behind a bounded activation a large one overshoots."""


@fix("gain")
class Gain(Fix):
    """phi(w) phi(act) = 1 for every layer of the chain that a finding lies in, by w -> w / sqrt(phi(w) phi(act)).

    The multiplication theorem: phi of a chain is the product of its layers' phis, each of which is quadratic in the
    weight's scale. Of a positively homogeneous activation phi does not depend on the scale; for
    others scale and phi(act) are solved together, front to back. What the borders of padded convolutions lose counts
    with the layer that loses it.

    Preconditions: the weight is stored, or computed in proportion to a stored tensor; its gradient is predicted.

    Source: arXiv 2001.00254, Theorem 4.1 and Table 2; arXiv 1502.01852.
    """

    order = 80

    def plan(self, site: Site) -> Plan:
        layers = chains_of(site.prediction, [name for finding in site.findings if (name := _target(site, finding))])
        tensors = scalable_weights(layers)
        chained = {layer.node.name for layer in layers}
        held: dict[str, Finding] = {}
        refused = []
        for finding in site.findings:
            name = _target(site, finding)
            if name in tensors:
                held.setdefault(tensors[name], finding)
            elif name in chained:
                refused.append(Refusal(finding, "its weight is not a stored tensor that could be scaled"))
            else:
                refused.append(Refusal(finding, "it lies in no chain of layers whose gains multiply"))
        if not held:
            return Plan((), tuple(refused))
        scaled = [layer for layer in layers if layer.node.name in tensors]
        actions = _prepared(site, scaled)
        factors = equalised(with_tensors(site.graph, actions), scaled, tensors)
        actions += [EditTensor(tensor, Scale(factor)) for tensor, factor in factors.items() if factor != 1.0]
        first = next(iter(held.values()))
        edits = tuple(self.edit(held.get(action.tensor, first), action) for action in actions)
        return Plan(edits, tuple(refused))


def _target(site: Site, finding: Finding) -> str | None:
    node = target_node(site, finding)
    return None if node is None else node.name


def scalable_weights(layers: Sequence[Layer]) -> dict[str, str]:
    """The stored tensor that each layer's weight is proportional to, by the layer's name where there is one."""
    found = {layer.node.name: scalable(layer.node.parameters["weight"]) for layer in layers}
    return {name: stored.name for name, stored in found.items() if stored is not None}


def _prepared(site: Site, layers: Sequence[Layer]) -> list[EditTensor]:
    """The draws and centrings that the user asks for, each tensor once."""
    found: dict[str, list[EditTensor]] = {}
    for layer in layers:
        weight = layer.node.parameters["weight"]
        place = stored_layout(weight)
        if place is None or place[0].name in found:
            continue
        tensor, order = place[0].name, place[1]
        kept = 1 if layer.node.op == "conv_transpose" else 0
        edits = found.setdefault(tensor, [])
        if site.options.draw is not None:
            second = site.prediction.weights[weight.name].second_moment
            edits.append(EditTensor(tensor, Redraw(site.options.draw, second, site.options.seed, kept), order))
        if site.options.centre:
            edits.append(EditTensor(tensor, Centre(kept), order))
    return [edit for edits in found.values() for edit in edits]


def equalised(graph: Graph, layers: Sequence[Layer], tensors: Mapping[str, str]) -> dict[str, float]:
    """The factor on each stored tensor with which every layer passes the gradient on with the norm it gets.

    The network is predicted, a model of its layers is fitted to that and solved front to back, and so on until the
    prediction agrees: what a scale does to the layers behind is in the model, what the model leaves out (means,
    correlations, borders) in its fitted constants.

    Args:
        graph: the network.
        layers: whose gradient at the entry is to be that at the exit.
        tensors: the stored tensor that each layer's weight is proportional to, by the layer's name.
    """
    logs = dict.fromkeys((tensors[layer.node.name] for layer in layers), 0.0)
    best, least = logs, math.inf
    for _ in range(MAX_SWEEPS):
        edits = [EditTensor(name, Scale(2.0**log)) for name, log in logs.items() if log]
        found = signals(with_tensors(graph, edits))
        fitted = [_fitted(layer, tensors[layer.node.name], found, logs) for layer in layers]
        total = sum(abs(model.bits) for model in fitted if model is not None)
        if total < least:
            best, least = logs, total
        if total <= ENOUGH:
            break
        logs = _solved(fitted, logs)
    return {name: 2.0**log for name, log in best.items()}


@dataclass(frozen=True)
class _Fitted:
    """A layer in the neighbourhood of where it works.

    Attributes:
        tensor: whose scale it follows.
        entry, exit: names of the values that it reads and writes.
        gate: what its activation does, as a function of its input's second moment.
        bits: log2 of what the layer multiplies the squared gradient norm by.
        input, inside: second moments of what it reads and of what its activation reads.
        log: log2 of the scale at which all this holds.
    """

    tensor: str
    entry: str
    exit: str
    gate: _Gate
    bits: float
    input: float
    inside: float
    log: float

    def bits_at(self, log: float, inside: float) -> float:
        """The same at another scale and another second moment inside."""
        return self.bits + 2.0 * (log - self.log) + self.gate.bits(inside) - self.gate.bits(self.inside)

    def inside_at(self, log: float, input: float) -> float:
        """The second moment inside at another scale and another input."""
        return self.inside * 4.0 ** (log - self.log) * input / self.input if self.input else self.inside


def _fitted(layer: Layer, tensor: str, found: Mapping[str, Signal], logs: Mapping[str, float]) -> _Fitted | None:
    values = (layer.entry, layer.nodes[-1].inputs[0] or layer.entry, layer.exit)
    entry, inside, exit = (found.get(value) for value in values)
    if entry is None or inside is None or exit is None:
        return None
    if not math.isfinite(entry.gradient_log2) or not math.isfinite(exit.gradient_log2):
        return None
    bits = entry.gradient_log2 - exit.gradient_log2
    gate = _Gate(layer.activation)
    return _Fitted(tensor, layer.entry, layer.exit, gate, bits, entry.second_moment, inside.second_moment, logs[tensor])


class _Gate:
    """The activation of a layer on N(0, q): what it does to the squared gradient norm and to the second moment.

    One whose parameters differ between channels, and one that is not modelled, is taken as homogeneous.
    """

    def __init__(self, node: Node | None) -> None:
        cls = None if node is None or node.parameters else component_class(node.op)
        self._component = None if cls is None or node is None else cls(node, ((1, 1),), ((1, 1),))

    def bits(self, second: float) -> float:
        """log2 E f'(x)^2."""
        if self._component is None:
            return 0.0
        x = Moments.uniform((1, 1), 0.0, second)
        (phi,) = self._component.phis([x], self._component.forward([x]))
        return math.log2(phi) if phi else 0.0

    def second(self, second: float) -> float:
        """E f(x)^2, up to a factor if it is homogeneous."""
        if self._component is None:
            return second
        (y,) = self._component.forward([Moments.uniform((1, 1), 0.0, second)])
        return float(y.total_second)


def _solved(layers: Sequence[_Fitted | None], logs: Mapping[str, float]) -> dict[str, float]:
    """The scales at which the fitted layers have no bits left, front to back."""
    solved: dict[str, float] = {}
    growth: dict[str, float] = {}  # by what the second moment of each value changes
    for layer in layers:
        if layer is None:
            continue
        input = layer.input * growth.get(layer.entry, 1.0)
        if layer.tensor not in solved:
            solved[layer.tensor] = _scale_of(layer, input)
        inside = layer.inside_at(solved[layer.tensor], input)
        before = layer.gate.second(layer.inside)
        growth[layer.exit] = layer.gate.second(inside) / before if before else 1.0
    return {**logs, **solved}


def _scale_of(layer: _Fitted, input: float) -> float:
    """log2 of the scale at which the layer has no bits left; secant steps, held between the slopes that occur."""
    log, slope = layer.log, 2.0
    before: tuple[float, float] | None = None
    for _ in range(MAX_STEPS):
        bits = layer.bits_at(log, layer.inside_at(log, input))
        if abs(bits) <= SETTLED:
            break
        if before is not None and before[0] != log:
            slope = min(max((bits - before[1]) / (log - before[0]), 1.0), 4.0)
        before = (log, bits)
        log -= max(-MAX_STEP, min(MAX_STEP, bits)) / slope
    return log
