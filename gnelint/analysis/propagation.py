"""The analysis: moments forward, second moments of the gradient backward, over any directed acyclic graph.

1. Every floating input is taken as N(0, 1), bytes that are cast to numbers as all as likely; a component maps its
   inputs' moments to its outputs'.
2. An isotropic cotangent is placed at the outputs; a component pulls it back to its inputs. Gradients that meet at a
   value add up (theory 4.1). This is the multiplication and the addition theorem in one pass.
3. What a node does by itself, phi(J J^T), is measured on a white cotangent of its own.

Nothing is guessed: behind an operation that no component models, moments are not known, and in front of it gradients
are not. Time is linear in the graph; weights are read a few megabytes at a time.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from gnelint.analysis.aligned import aligned, error_bits
from gnelint.analysis.backward import pulled_back, pulled_through, with_own_phi
from gnelint.analysis.batch_first import batch_first
from gnelint.analysis.blocks import NodeSpectrum, find_blocks
from gnelint.analysis.fallback import Fallback
from gnelint.analysis.forward import FAILURES, Forward, apply, said_of_inputs, walked, walked_again, with_inputs
from gnelint.analysis.prediction import Block, NodePrediction, Prediction
from gnelint.analysis.repeats import Repeats
from gnelint.analysis.sampling import MakeSampler
from gnelint.analysis.scaled import Scaled
from gnelint.analysis.spectra import opened, own_spectra
from gnelint.analysis.stage import Judgement, judge
from gnelint.analysis.uncertainty import GradientErrors, gradient_errors
from gnelint.analysis.unrolled import unrolled_steps
from gnelint.components import Component
from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.records import dataclass, replace
from gnelint.theory.fields.gradient import Gradient
from gnelint.theory.fields.moments import Moments
from gnelint.theory.weights.statistics import WeightStatistics, weight_statistics

PLACEHOLDERS = (
    "The weights are placeholders (one repeated value), so there is no initialisation to judge: the structure was "
    "read, no number is predicted."
)


def analyse(graph: Graph, sampler: MakeSampler | None = None) -> Prediction:
    """Predict what every node and block of the graph does to the gradient.

    Never raises for a graph that the readers made: what cannot be predicted is None, with the reason in the node's
    assumptions.

    Args:
        graph: the network.
        sampler: what runs the parts of it that no formula describes; None leaves them out.
    """
    numbers = not _has_placeholders(graph)
    weights = _weight_statistics(graph)
    turned = batch_first(graph)
    sampled = Fallback(turned.graph, turned.sampler(sampler) if numbers and sampler is not None else None)
    forward = walked(sampled, numbers, Repeats(sampled.graph, weights))
    stage = judge(graph, weights) if numbers else Judgement()
    if _learned_together(graph, stage):
        forward = replace(forward, aligned=aligned(sampled.graph, forward.moments))
    cotangent_at, gradients = pulled_back(sampled.graph, forward, spent=True) if numbers else ("output", {})
    while (again := sampled.failed(forward.problems)) is not None:  # what a component could not pull back
        forward = walked_again(sampled, again, forward)
        cotangent_at, gradients = pulled_back(sampled.graph, forward, spent=True)
    spectra = own_spectra(sampled.graph, forward) if numbers else {}
    errors = _gradient_errors(sampled.graph, forward, gradients, spectra, cotangent_at, unrolled_steps(turned.graph))
    spectra = {name: _with_weak(spectrum, errors.weak.get(name, ())) for name, spectrum in spectra.items()}
    blocks = find_blocks(sampled.graph, spectra, forward.problems)
    if numbers:
        blocks = with_own_phi(sampled.graph, forward, blocks)
    blocks = tuple(sampled.whole(_with_error(block, errors)) for block in blocks)
    forward, spectra, errors = opened(sampled, forward, spectra, errors)
    nodes = tuple(_node_prediction(graph, node, forward, gradients, spectra, errors) for node in graph.gradient_nodes)
    at = graph.gradient_source
    reached = gradients.get(at) if at is not None else None
    modelled = sum(1 for node in graph.gradient_nodes if node.name not in forward.problems)
    error = errors.gradients.get(at) if at is not None and reached is not None else None
    notes = [*graph.notes, *said_of_inputs(graph, forward), *sampled.notes()]
    if not numbers:
        notes.append(PLACEHOLDERS)
    return Prediction(
        graph=graph,
        nodes=nodes,
        blocks=blocks,
        coverage=modelled / len(nodes) if nodes else 1.0,
        stage=stage,
        gradient_log2=None if reached is None else reached.log2,
        gradient_at=at,
        cotangent_at=cotangent_at,
        error_bits=None if error is None else error.bound,
        fluctuation_bits=None if error is None else error.fluctuation,
        weights=weights,
        notes=tuple(notes),
        sampler=sampler,
    )


def _learned_together(graph: Graph, stage: Judgement) -> bool:
    """Whether matrices show the training, not only biases, scales or slopes."""
    matrices = {leaf.name for parameter in graph.parameters() for leaf in parameter.leaves if len(leaf.shape) > 1}
    shown = any(each.log_odds > 0 and each.tensor in matrices for each in stage.evidence)
    return stage.verdict == "trained" and shown


class Propagation:
    """The two passes of `analyse` node by node, for who changes nodes on the way: a fix that looks for a scale.

    Attributes:
        graph: what is walked; its nodes may be replaced by others with the same inputs and outputs.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._forward = with_inputs(graph)

    def step(self, node: Node) -> None:
        """The moments of the node's outputs, where they can be predicted; nodes are to come in topological order."""
        with suppress(*FAILURES):
            apply(self.graph, node, self._forward, True)

    def trial(self, nodes: Sequence[Node], cotangent: Scaled | None) -> Trial | None:
        """What nodes in a row, the first input of each the output of the one before, would do here.

        Args:
            nodes: all that comes before them has been stepped through.
            cotangent: the gradient at the end of the row; None for a white one.

        Returns:
            None where something is not modelled or no gradient passes.
        """
        moments: dict[str, Moments] = {}
        found = Forward(ChainMap(moments, self._forward.moments))
        for node in nodes:
            with suppress(*FAILURES):
                apply(self.graph, node, found, True)
            if node.outputs[0] not in moments:
                return None
        end = nodes[-1].outputs[0]
        gradients = {end: cotangent or Scaled(Gradient.white(moments[end].shape))}
        for node in reversed(nodes):
            pulled = pulled_through(node, found.components[node.name], found, gradients)
            if pulled is None or pulled[0] is None or node.inputs[0] is None:
                return None
            gradients[node.inputs[0]] = pulled[0]
        arrived = gradients[nodes[0].inputs[0] or end].log2
        bits = arrived - gradients[end].log2 if arrived > -math.inf else -math.inf
        return Trial(bits, moments, found.components) if math.isfinite(bits) else None

    def take(self, trial: Trial) -> None:
        """Step through the nodes of a trial as it did."""
        self._forward.moments.update(trial.moments)
        self._forward.components.update(trial.components)

    def second_moment(self, value: str) -> float | None:
        """E x^2 of a value that has been reached, None if it is not known."""
        found = self._forward.moments.get(value)
        return None if found is None else found.total_second

    def gradients(self) -> Mapping[str, Scaled]:
        """The gradient at every value that one reaches, once all nodes have been stepped through."""
        return pulled_back(self.graph, self._forward)[1]


@dataclass(frozen=True)
class Trial:
    """What some nodes in a row would do.

    Attributes:
        bits: log2 of what they multiply the squared gradient norm by.
        moments: of their outputs.
        components: theirs, by their names.
    """

    bits: float
    moments: Mapping[str, Moments]
    components: Mapping[str, Component]


def _node_prediction(
    graph: Graph,
    node: Node,
    forward: Forward,
    gradients: Mapping[str, Scaled],
    spectra: Mapping[str, NodeSpectrum],
    errors: GradientErrors,
) -> NodePrediction:
    output = next(name for name in node.outputs if name in graph.gradient_values)
    problem = forward.problems.get(node.name)
    moments = forward.moments.get(output)
    reached = gradients.get(output)
    error = errors.gradients.get(output)
    spectrum = spectra.get(node.name)
    phis = [] if spectrum is None else [phi for phi in spectrum.phis if phi is not None]
    return NodePrediction(
        node,
        output,
        graph.values[output].concrete_shape,
        mean=None if moments is None else moments.total_mean,
        second_moment=None if moments is None else moments.total_second,
        phi=math.fsum(phis) if phis else None,
        phi_variance=None if spectrum is None else spectrum.variance,
        gradient_log2=None if reached is None else reached.log2,
        error_bits=None if reached is None or error is None else error.bound,
        basis="unmodelled" if problem is not None else "exact" if spectrum is None else spectrum.basis,
        assumptions=(problem,) if problem is not None else () if spectrum is None else spectrum.assumptions,
    )


def _gradient_errors(
    graph: Graph,
    forward: Forward,
    gradients: Mapping[str, Scaled],
    spectra: Mapping[str, NodeSpectrum],
    cotangent_at: str,
    steps: Mapping[str, int],
) -> GradientErrors:
    start = graph.outputs if cotangent_at == "output" else (*graph.outputs, cotangent_at)
    logs = {name: (scaled.gradient, scaled.log2) for name, scaled in gradients.items() if name in forward.moments}
    with np.errstate(all="ignore"):
        repeated = {} if forward.repeats is None else forward.repeats.bits
        trained = error_bits(graph, forward.aligned) if forward.aligned is not None else {}
        return gradient_errors(
            graph, forward.components, forward.moments, spectra, logs, start, repeated, steps, trained
        )


def _with_weak(spectrum: NodeSpectrum, weak: tuple[str, ...]) -> NodeSpectrum:
    return replace(spectrum, assumptions=(*spectrum.assumptions, *weak)) if weak else spectrum


def _with_error(block: Block, errors: GradientErrors) -> Block:
    """The block with the part of the error that arises between its exit and its entry."""
    before, behind = errors.gradients.get(block.entry), errors.gradients.get(block.exit)
    if block.phi is None or before is None or behind is None:
        return block
    return replace(block, error_bits=before.since(behind).bound)


def _judged_parameters(graph: Graph) -> dict[str, Parameter]:
    """Weights of linear maps and scales of normalisations, by name."""
    found: dict[str, Parameter] = {}
    for node in graph.nodes:
        for role in ("weight", "scale"):
            parameter = node.parameters.get(role)
            if parameter is not None:
                found.setdefault(parameter.name, parameter)
    return found


def _weight_statistics(graph: Graph) -> dict[str, WeightStatistics]:
    return {name: weight_statistics(parameter) for name, parameter in _judged_parameters(graph).items()}


def _has_placeholders(graph: Graph) -> bool:
    return any(node.missing_weights for node in graph.gradient_nodes)
