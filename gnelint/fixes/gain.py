"""Weights rescaled so that each layer of a chain keeps the gradient's norm."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import Propagation, Trial
from gnelint.analysis.scaled import Scaled
from gnelint.fixes.base import (
    Fix,
    Plan,
    Refusal,
    Site,
    fix,
    scalable,
    seed_of,
    stored_layout,
    target_node,
    untrained,
)
from gnelint.fixes.edits import Centre, EditTensor, Redraw, Scale, with_tensors
from gnelint.fixes.heads import Head, energy, heads_of, scaled
from gnelint.fixes.signal_scale import SignalScales, signal_scales
from gnelint.ir.graph import Graph, Node
from gnelint.lint.chains import Layer, chain_bits, layers_of_chains, layers_outside_branches, runs_of
from gnelint.lint.facts import unit_axis
from gnelint.lint.finding import Finding

SETTLED = 1e-4
"""Bits of squared norm that a layer may be off in the model."""
ENOUGH = 0.02
"""Bits that all layers together may be off in the prediction."""
MAX_SWEEPS = 12
NEAR = 0.03
"""Bits from which one step is right to `SETTLED` without a look back."""
MAX_STEPS = 12
MAX_REST = 0.5
"""Bits that the last layer may make up for where another cannot be solved: cells of the analysis come and go."""
TOLERATED = 2.0
"""Times the energy of independent entries that a fixed matrix may pass of entries that are alike."""
IN_STEP = "its chain runs through {}, which adds entries up in step: how alike they are is not known well enough"
NOISE = 0.4
"""Sum of p / (1 - p) over the dropouts of a chain, the energy of their noise over that of the signal, beyond which a
chain that still learns is left as it is. Of ReLU chains at torch's start those of 6 and 8 layers learn faster once
fixed without dropout, as fast at 0.3, and slower from 0.6 on, at the best of three step sizes each."""
DROWNED = 1.0
"""The same for a chain that learns next to nothing as it is."""
HOPELESS = 40.0
"""Bits that a chain may lose over its depth and still learn something: 12 such layers lose 32."""
NOISY = (
    "dropout adds noise of {:.2g} times the signal's energy over its chain, and gains that keep the signal carry it to "
    "the output: such chains learn more slowly with them. Take dropout out of the chain, or normalise"
)
MAX_STEP = 8.0
"""Bits by which one step may change a layer's gain: behind a bounded activation a large one overshoots."""


@fix("gain")
class Gain(Fix):
    """phi(w) phi(act) = 1 for every layer of the chain that a finding lies in, by w -> w / sqrt(phi(w) phi(act)).

    The multiplication theorem: phi of a chain is the product of its layers' phis, each of which is quadratic in the
    weight's scale. Of a positively homogeneous activation phi does not depend on the scale; for
    others scale and phi(act) are solved together, front to back. What the borders of padded convolutions lose counts
    with the layer that loses it, and so do a sum over positions and a fixed matrix (an adjacency) behind it.

    A tensor that several layers of a chain use gets one factor, with which their phis multiply to 1. A head is only
    made smaller (`gnelint.fixes.heads`), unless it has to make up for signals that are small on purpose.

    Preconditions: the weight is stored, or computed in proportion to a stored tensor, which is trained and which
    nothing but layers of chains uses; its gradient is predicted.

    Source: theory 2.1 (arXiv 2001.00254); arXiv 1502.01852.
    """

    order = 80
    evens = True

    def groups(self, site: Site) -> list[tuple[Finding, ...]]:
        runs = layers_of_chains(site.prediction)
        run_of = {layer.node.name: index for index, run in enumerate(runs) for layer in run}
        found: dict[int, list[Finding]] = {}
        for finding in site.findings:
            found.setdefault(run_of.get(_target(site, finding) or "", -1), []).append(finding)
        return [tuple(findings) for findings in found.values()]

    def plan(self, site: Site) -> Plan:
        asked = {name for finding in site.findings if (name := _target(site, finding))}
        runs = runs_of(site.prediction, asked)
        noisy = site.graph.training and any(_noise(run) > NOISE for run in runs)
        bits = chain_bits(site.prediction) if noisy else {}
        chains = [(run, _why_not_chain(site, run, bits)) for run in runs]
        layers = [layer for run, reason in chains if reason is None for layer in run]
        tensors = own_weights(site.graph, layers)
        chained = {layer.node.name: reason for run, reason in chains for layer in run}
        held: dict[str, Finding] = {}
        refused = []
        for finding in site.findings:
            name = _target(site, finding)
            if name is None or name not in chained:
                refused.append(Refusal(finding, "it lies in no chain of layers whose gains multiply"))
            elif (reason := chained[name]) is not None:
                refused.append(Refusal(finding, reason))
            elif name in tensors:
                held.setdefault(tensors[name], finding)
            else:
                refused.append(Refusal(finding, why_not(site.graph.node(name))))
        if not held:
            return Plan((), tuple(refused))
        able = [layer for layer in layers if layer.node.name in tensors]
        actions = _prepared(site, able)
        wanted = signal_scales(site.prediction, _whole(site.prediction, runs, tensors))
        bodies = [run for run in runs if not asked.isdisjoint(layer.node.name for layer in run[:-1])]
        found = heads_of(site.graph, bodies, tensors)
        heads = {name: head for name, head in found.items() if name not in wanted.bits}
        factors = equalised(with_tensors(site.graph, actions), able, tensors, wanted, heads)
        actions += [EditTensor(tensor, Scale(factor)) for tensor, factor in factors.items() if factor != 1.0]
        first = next(iter(held.values()))
        edits = tuple(self.edit(held.get(action.tensor, first), action) for action in actions)
        return Plan(edits, tuple(refused), (*wanted.notes, *_untrained(layers)))


def _whole(prediction: Prediction, runs: Sequence[list[Layer]], tensors: Mapping[str, str]) -> list[list[Layer]]:
    """The runs without branches in which every layer has a stored tensor of its own."""
    known = {_names(run) for run in runs}
    serial = [run for run in layers_outside_branches(prediction) if _names(run) in known]
    return [run for run in serial if len({tensors.get(layer.node.name, "") for layer in run} - {""}) == len(run)]


def _names(run: Sequence[Layer]) -> tuple[str, ...]:
    return tuple(layer.node.name for layer in run)


def _target(site: Site, finding: Finding) -> str | None:
    node = target_node(site, finding)
    return None if node is None else node.name


def scalable_weights(layers: Sequence[Layer]) -> dict[str, str]:
    """The stored tensor that each layer's weight is proportional to, by the layer's name where there is one."""
    found = {layer.node.name: scalable(layer.node.parameters["weight"]) for layer in layers}
    return {name: stored.name for name, stored in found.items() if stored is not None}


def in_step(layers: Sequence[Layer]) -> str | None:
    """The name of a fixed matrix behind one of the layers that adds entries up in step, None if there is none.

    A row with sum s and squared sum q does to entries that are all alike s^2 / q times what it does to independent
    ones. Of a draw that is 1 on average, of an adjacency the number of neighbours: what it does to activations of
    mean above 0, and to the gradient that a pooling hands to all positions alike, is not known from phi.
    """
    fixed = [node.parameters["weight"] for layer in layers for node in layer.nodes[1:] if "weight" in node.parameters]
    for weight in fixed:
        numbers = weight.array().astype(np.float64).reshape(weight.shape[0], -1)
        for axis in (0, 1):
            together, apart = numbers.sum(axis) ** 2, (numbers**2).sum(axis)
            if together.sum() > TOLERATED * apart.sum():
                return weight.name
    return None


def _noise(layers: Sequence[Layer]) -> float:
    """Energy of the noise that the dropouts of a chain add, over that of the signal."""
    shares = [float(node.attribute("p")) for layer in layers for node in layer.nodes if node.op == "dropout"]
    return math.fsum(p / (1.0 - p) for p in shares if p < 1.0)


def _why_not_chain(site: Site, layers: Sequence[Layer], together: Mapping[str, float]) -> str | None:
    """Why a chain is left as it is, a clause for people; None where its layers may be scaled."""
    matrix = in_step(layers)
    if matrix is not None:
        return IN_STEP.format(matrix)
    return NOISY.format(_noise(layers)) if _drowns(site, layers, together) else None


def _drowns(site: Site, layers: Sequence[Layer], together: Mapping[str, float]) -> bool:
    """Whether noise would drown what the chain passes on once its signal is kept, more than it is lost as it is."""
    noise = _noise(layers)
    if not site.graph.training or noise <= NOISE:
        return False
    bits = together.get(layers[0].node.name, 0.0)
    return bits < 0.0 and (bits > -HOPELESS or noise > DROWNED)


def own_weights(graph: Graph, layers: Sequence[Layer]) -> dict[str, str]:
    """The same without the tensors that something other than these layers uses: it would be scaled along."""
    users, names = graph.users, {layer.node.name for layer in layers}
    return {name: tensor for name, tensor in scalable_weights(layers).items() if users[tensor] <= names}


def why_not(node: Node) -> str:
    """Why the weight of a layer is not scaled."""
    weight = node.parameters["weight"]
    reason = untrained(weight)
    if reason is not None:
        return reason
    if scalable(weight) is None:
        return "its weight is not a stored tensor that could be scaled"
    return "its weight is used outside of the chain too, where the factor would be wrong"


def _untrained(layers: Sequence[Layer]) -> tuple[str, ...]:
    """A sentence for each matrix among the layers that is not trained."""
    weights = (node.parameters.get("weight") for layer in layers for node in layer.nodes)
    reasons = (untrained(weight) for weight in weights if weight is not None)
    return tuple(dict.fromkeys(f"{reason}." for reason in reasons if reason is not None))


def _prepared(site: Site, layers: Sequence[Layer]) -> list[EditTensor]:
    """The draws and centrings that the user asks for, each tensor once."""
    found: dict[str, list[EditTensor]] = {}
    for layer in layers:
        weight = layer.node.parameters["weight"]
        place = stored_layout(weight)
        if place is None or place[0].name in found:
            continue
        tensor, order = place[0].name, place[1]
        kept = unit_axis(layer.node)
        edits = found.setdefault(tensor, [])
        if site.options.draw is not None:
            second = site.prediction.weights[weight.name].second_moment
            edits.append(
                EditTensor(tensor, Redraw(site.options.draw, second, seed_of(site.options, tensor), kept), order)
            )
        if site.options.centre:
            edits.append(EditTensor(tensor, Centre(kept), order))
    return [edit for edits in found.values() for edit in edits]


def equalised(
    graph: Graph,
    layers: Sequence[Layer],
    tensors: Mapping[str, str],
    wanted: SignalScales | None = None,
    heads: Mapping[str, Head] | None = None,
) -> dict[str, float]:
    """The factor on each stored tensor with which every layer passes the gradient on with the norm it gets.

    Front to back, each layer's scale is solved on the moments that it gets from the layers before, which have theirs by
    then: behind GELU and the like a small error in front would grow. How the gradient that comes from behind is spread
    over channels and samples is known from the sweeps before; where it swings, their average is taken. The first sweep
    knows nothing of it and lets no layer's signal grow, which would lead far from where it settles. A tensor that
    several layers of a chain share is solved between the sweeps, for the product over its layers.

    Args:
        graph: the network.
        layers: whose gradient at the entry is to be that at the exit.
        tensors: the stored tensor that each layer's weight is proportional to, by the layer's name.
        wanted: where that is not all that layers are to do.
        heads: layers that are not to be made larger, and smaller where outputs would be, by their names.
    """
    wanted, heads = wanted or SignalScales(), heads or {}
    logs = {**wanted.biases, **dict.fromkeys((tensors[layer.node.name] for layer in layers), 0.0)}
    first = {layer.node.name: heads[layer.node.name].layer if layer.node.name in heads else layer for layer in layers}
    if not layers:
        return {}
    chain = [layer for layer in layers if layer.node.name not in heads]
    shared = _shared(graph, layers, tensors)
    inside = {node.name for layer in first.values() for node in layer.nodes[1:]}
    gradients: Mapping[str, Scaled] = {}
    before, rest = 0.0, 0.0
    averaged = False
    for _ in range(MAX_SWEEPS):
        propagation = Propagation(graph)
        solved: set[str] = set()
        bits: list[float] = []
        for node in graph.nodes:
            layer = first.get(node.name)
            if layer is None:
                if node.name not in inside:
                    propagation.step(scaled(node, logs))
                continue
            tensor = tensors[node.name]
            if node.name in heads:
                logs[tensor] = _head_log(propagation, heads[node.name], tensor, logs)
            elif tensor not in solved and tensor not in shared:
                solved.add(tensor)
                target = wanted.bits.get(node.name, 0.0)
                if layer is chain[-1]:
                    target += max(-MAX_REST, min(MAX_REST, -rest))
                found = _solved(propagation, layer, tensor, logs, gradients.get(layer.exit), target)
                logs[tensor] = found.log
                bits.append(found.off)
                if not gradients:
                    logs[tensor] -= _growth(propagation, layer, logs)
                elif found.settled is not None:
                    propagation.take(found.settled)
                    continue
            for part in layer.nodes:
                propagation.step(scaled(part, logs))
        now = propagation.gradients()
        left = [_change(layer, now, wanted) for layer in chain[:-1] if len(graph.consumers[layer.entry]) == 1]
        rest = math.fsum(left)
        together = [solver.step(logs, now, wanted) for solver in shared.values()]
        done = sum(map(abs, (*bits, *together))) <= ENOUGH
        end = math.fsum(_change(layer, now, wanted) for layer in chain[-1:])
        if not averaged and done and abs(rest + end) <= ENOUGH:
            break
        averaged = not averaged and sum(bits) * before < 0
        gradients = _averaged(gradients, now, layers) if averaged else now
        before = sum(bits)
    return {name: 2.0**log for name, log in logs.items()}


@dataclass
class _Shared:
    """The scale of a tensor that several layers use, sought in secant steps for all of them together.

    Attributes:
        tensor: its name.
        layers: those that use it.
    """

    tensor: str
    layers: list[Layer]
    _before: tuple[float, float] | None = None
    _slope: float = 2.0

    def step(self, logs: dict[str, float], gradients: Mapping[str, Scaled], wanted: SignalScales) -> float:
        """Change the tensor's log by what its layers are off on average; tells how many bits they are off together."""
        off = math.fsum(_change(layer, gradients, wanted) for layer in self.layers)
        mean, log = off / len(self.layers), logs[self.tensor]
        if abs(off) <= ENOUGH:
            return off
        if self._before is not None and self._before[0] != log:
            self._slope = min(max((mean - self._before[1]) / (log - self._before[0]), 1.0), 4.0)
        self._before = (log, mean)
        logs[self.tensor] = log - max(-MAX_STEP, min(MAX_STEP, mean)) / self._slope
        return off


def _shared(graph: Graph, layers: Sequence[Layer], tensors: Mapping[str, str]) -> dict[str, _Shared]:
    """The tensors that layers use one behind the other; layers side by side are alike, and the first is solved."""
    users: dict[str, list[Layer]] = {}
    for layer in layers:
        users.setdefault(tensors[layer.node.name], []).append(layer)
    return {
        tensor: _Shared(tensor, found)
        for tensor, found in users.items()
        if len(found) > 1 and _one_behind_the_other(graph, found[0], found[-1])
    }


def _one_behind_the_other(graph: Graph, first: Layer, last: Layer) -> bool:
    reached = {first.exit}
    for node in graph.nodes[graph.positions[first.node.name] : graph.positions[last.node.name]]:
        if any(name in reached for name in node.present_inputs):
            reached.update(node.outputs)
    return last.entry in reached


def _change(layer: Layer, gradients: Mapping[str, Scaled], wanted: SignalScales) -> float:
    """log2 of what a layer multiplies the squared gradient norm by, more than is wanted; 0 if not known."""
    if layer.entry not in gradients or layer.exit not in gradients:
        return 0.0
    bits = gradients[layer.entry].log2 - gradients[layer.exit].log2
    return bits - wanted.bits.get(layer.node.name, 0.0) if math.isfinite(bits) else 0.0


def _growth(propagation: Propagation, layer: Layer, logs: Mapping[str, float]) -> float:
    """log2 of the factor by which the layer makes the signal larger, 0 if it does not."""
    trial = propagation.trial([scaled(node, logs) for node in layer.nodes], None)
    before = propagation.second_moment(layer.entry)
    if trial is None or not before:
        return 0.0
    return max(math.log2(trial.moments[layer.exit].total_second / before) / 2, 0.0)


def _averaged(before: Mapping[str, Scaled], now: Mapping[str, Scaled], layers: Sequence[Layer]) -> dict[str, Scaled]:
    """How both gradients are spread, on average, behind each layer."""
    ends = [layer.exit for layer in layers if layer.exit in before and layer.exit in now]
    return {end: _of_norm_1(before[end]).plus(_of_norm_1(now[end])) for end in ends}


def _of_norm_1(gradient: Scaled) -> Scaled:
    log2 = gradient.log2
    return gradient if math.isinf(log2) else Scaled(gradient.gradient, gradient.exponent - log2)


def _head_log(propagation: Propagation, head: Head, tensor: str, logs: dict[str, float]) -> float:
    """log2 of a head's scale: with gain 1, but not above the start, and not with larger outputs than it may have."""
    log = min(_solved(propagation, head.layer, tensor, logs, None, 0.0).log, 0.0)
    power = energy(propagation, head.layer, tensor, ChainMap({tensor: log}, logs))
    return log - math.log2(power / head.most) / 2.0 if power > head.most else log


@dataclass(frozen=True)
class _Solution:
    """A layer's scale.

    Attributes:
        log: its log2.
        off: how many bits it is off before.
        settled: what the layer does with it, where that was tried.
    """

    log: float
    off: float
    settled: Trial | None = None


def _solved(
    propagation: Propagation,
    layer: Layer,
    tensor: str,
    logs: dict[str, float],
    cotangent: Scaled | None,
    target: float,
) -> _Solution:
    """The scale at which the layer changes the gradient by `target` bits.

    Secant steps, held between the slopes that occur.
    """
    log, slope = logs[tensor], 2.0
    off: float | None = None
    before: tuple[float, float] | None = None
    for _ in range(MAX_STEPS):
        changed = ChainMap({tensor: log}, logs)
        trial = propagation.trial([scaled(node, changed) for node in layer.nodes], cotangent)
        if trial is None:
            return _Solution(logs[tensor], off or 0.0)
        bits = trial.bits - target
        off = bits if off is None else off
        if abs(bits) <= SETTLED:
            return _Solution(log, off, trial)
        if before is not None and before[0] != log:
            slope = min(max((bits - before[1]) / (log - before[0]), 1.0), 4.0)
        before = (log, bits)
        log -= max(-MAX_STEP, min(MAX_STEP, bits)) / slope
        if abs(bits) <= NEAR:
            break
    return _Solution(log, off or 0.0)
