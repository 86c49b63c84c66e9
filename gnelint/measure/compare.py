"""Predicted against measured: which claims hold, which do not, and by what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from gnelint.analysis.prediction import Prediction
from gnelint.ir.graph import Node
from gnelint.measure.estimate import Estimate
from gnelint.measure.measuring import Measurement
from gnelint.measure.program import WEIGHTED
from gnelint.measure.tape import own_inputs
from gnelint.records import cached_property, dataclass

Verdict = Literal["agrees", "differs", "unknown"]
"""Whether a predicted number lies within the interval widened by the tolerance; "unknown" where one is missing."""

WORSE_BITS = 0.5
"""A spread that grows by less is not called worse."""


@dataclass(frozen=True)
class Claim:
    """A predicted number beside what was measured.

    Attributes:
        name: of the block or node, "end to end" for the network.
        predicted, measured: None where there is no such number.
        verdict: see `Verdict`.
    """

    name: str
    predicted: float | None
    measured: Estimate | None
    verdict: Verdict

    @property
    def bits(self) -> float | None:
        """log2(predicted / measured)."""
        if self.predicted is None or self.measured is None or self.predicted <= 0 or self.measured.value <= 0:
            return None
        return math.log2(self.predicted) - math.log2(self.measured.value)


@dataclass(frozen=True)
class Comparison:
    """What a measurement says of a prediction.

    Attributes:
        blocks: phi of every block, in topological order.
        nodes: phi of single nodes, where it could be measured.
        transfers: what nodes make of the gradient that arrives, where it was predicted and could be measured.
        end_to_end: squared gradient norm at the input over that at the cotangent, as log2.
        spread: log2 of the largest over the smallest squared gradient norm at the ends of blocks; inf if it is zero
            or no number somewhere, None if none was measured.
        layers: log2 of the squared norm of each layer's weight gradient, by the layer's name.
    """

    blocks: tuple[Claim, ...]
    nodes: tuple[Claim, ...]
    transfers: tuple[Claim, ...]
    end_to_end: Claim
    spread: float | None
    layers: Mapping[str, Estimate]

    @cached_property
    def differing(self) -> tuple[Claim, ...]:
        """The claims that do not hold, one a name: nodes first, for they are the cause."""
        found = (*self.nodes, *self.transfers, *self.blocks, self.end_to_end)
        return tuple({claim.name: claim for claim in reversed(found) if claim.verdict == "differs"}.values())[::-1]

    @property
    def layer_spread(self) -> float | None:
        """log2 of the largest over the smallest squared weight gradient norm, of the layers that get any gradient at
        all: behind a layer that starts at zero there is none by design. None for fewer than two."""
        reached = [estimate.value for estimate in self.layers.values() if math.isfinite(estimate.value)]
        return _range(reached) if len(reached) > 1 else None


def compare(prediction: Prediction, measurement: Measurement, tolerance: float) -> Comparison:
    """Judge every claim.

    Args:
        prediction: of the network.
        measurement: of the same network.
        tolerance: bits (of a squared norm) by which a predicted phi may lie outside the measured interval. Errors of
            this size that are independent add up like a random walk, so L blocks end to end may be sqrt(L) as far out.
    """
    blocks = []
    for block in prediction.blocks:
        found = measurement.blocks.get(block.name)
        phi = None if found is None else found.phi
        blocks.append(Claim(block.name, block.phi, phi, judged(block.phi, phi, tolerance)))
    return Comparison(
        blocks=tuple(blocks),
        nodes=_node_claims(prediction, measurement, tolerance),
        transfers=_transfer_claims(prediction, measurement, tolerance),
        end_to_end=_end_to_end(prediction, measurement, tolerance * math.sqrt(max(len(blocks), 1))),
        spread=_spread(prediction, measurement),
        layers=_layers(prediction, measurement),
    )


def judged(predicted: float | None, measured: Estimate | None, tolerance: float) -> Verdict:
    """Whether a predicted number agrees with a measured one, both positive, to within `tolerance` bits."""
    if predicted is None or measured is None or not math.isfinite(measured.low) or not math.isfinite(measured.high):
        return "unknown"
    factor = 2.0**tolerance
    return "agrees" if measured.low / factor <= predicted <= measured.high * factor else "differs"


def is_worse(before: Comparison, after: Comparison) -> bool:
    """Whether the gradient norms along the depth are less equal than they were."""
    if before.spread is None or after.spread is None:
        return False
    return after.spread > before.spread + WORSE_BITS


def _node_claims(prediction: Prediction, measurement: Measurement, tolerance: float) -> tuple[Claim, ...]:
    pairs = [(node, measurement.nodes.get(node.node.name)) for node in prediction.nodes]
    return tuple(
        Claim(node.node.name, node.phi, found, judged(node.phi, found, tolerance))
        for node, found in pairs
        if found is not None
    )


def _transfer_claims(prediction: Prediction, measurement: Measurement, tolerance: float) -> tuple[Claim, ...]:
    logs = {found.output: found.gradient_log2 for found in prediction.nodes}
    if prediction.gradient_at is not None:
        logs.setdefault(prediction.gradient_at, prediction.gradient_log2)
    claims = []
    for found in prediction.nodes:
        measured = measurement.transfers.get(found.node.name)
        if measured is not None:
            predicted = _predicted_transfer(prediction, found.node, logs)
            verdict = judged(predicted, measured, tolerance)
            claims.append(Claim(found.node.name, predicted, measured, verdict))
    return tuple(claims)


def _predicted_transfer(prediction: Prediction, node: Node, logs: Mapping[str, float | None]) -> float | None:
    output = logs.get(node.outputs[0])
    inputs = [logs.get(name) for name in own_inputs(prediction.graph, node)]
    if output is None or not math.isfinite(output) or not inputs:
        return None
    known = [found for found in inputs if found is not None]
    return math.fsum(2.0 ** (found - output) for found in known) if len(known) == len(inputs) else None


def _end_to_end(prediction: Prediction, measurement: Measurement, tolerance: float) -> Claim:
    at = prediction.gradient_at
    predicted = prediction.gradient_log2
    measured = None if at is None else measurement.gradients.get(at)
    if predicted is None or measured is None:
        verdict: Verdict = "unknown"
    elif math.isinf(measured.value) or math.isinf(predicted):
        verdict = "agrees" if measured.value == predicted else "differs"
    elif math.isfinite(measured.high) and not math.isnan(measured.low):
        inside = measured.low - tolerance <= predicted <= measured.high + tolerance
        verdict = "agrees" if inside else "differs"
    else:
        verdict = "unknown"
    return Claim("end to end", predicted, measured, verdict)


def _spread(prediction: Prediction, measurement: Measurement) -> float | None:
    names = dict.fromkeys(name for block in prediction.blocks for name in (block.entry, block.exit))
    return _range([measurement.gradients[name].value for name in names if name in measurement.gradients])


def _range(logs: list[float]) -> float | None:
    if not logs:
        return None
    if any(map(math.isnan, logs)):
        return math.inf
    low, high = min(logs), max(logs)
    return math.inf if math.isinf(low) and not math.isinf(high) else 0.0 if low == high else high - low


def _layers(prediction: Prediction, measurement: Measurement) -> dict[str, Estimate]:
    found = {}
    for node in prediction.graph.gradient_nodes:
        weight = node.parameters.get("weight")
        if node.op in WEIGHTED and weight is not None and weight.name in measurement.parameters:
            found[node.name] = measurement.parameters[weight.name]
    return found
