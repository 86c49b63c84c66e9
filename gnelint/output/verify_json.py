"""The report of `gnelint verify`: the entry of `gnelint check` with what was measured beside each predicted number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import Rule
from gnelint.output import entry as entries
from gnelint.output import json
from gnelint.output.json import number

if TYPE_CHECKING:
    from gnelint.measure.compare import Claim
    from gnelint.measure.estimate import Estimate
    from gnelint.measure.training import TrainingRun
    from gnelint.measure.verify import Verification, Verified


def document(
    verification: Verification,
    findings: Sequence[Finding] = (),
    fixed_findings: Sequence[Finding] = (),
    rules: Sequence[Rule] = (),
) -> dict[str, Any]:
    """The whole report: the target, then the fixed network if there is one, and whether everything holds."""
    targets = [target(verification.target, findings, rules)]
    if verification.fixed is not None:
        targets.append(target(verification.fixed, fixed_findings, rules))
    return {
        **json.document(targets, rules),
        "verification": {
            "holds": verification.holds,
            "fixed_is_worse": None if verification.fixed is None else verification.worse,
            "worse": list(verification.harms),
        },
    }


def target(verified: Verified, findings: Sequence[Finding], rules: Sequence[Rule] = ()) -> dict[str, Any]:
    """The entry of one network. `measured` and `interval` stand beside the numbers that they are of, by their keys."""
    prediction = verified.prediction
    notes = tuple(dict.fromkeys((*prediction.graph.notes, *prediction.notes)))
    made = entries.Circumstances(notes, tuple(rule.id for rule in rules))
    entry = entries.target(prediction, findings, made=made)
    measurement, comparison = verified.measurement, verified.comparison
    for block, judged in zip(entry["blocks"], comparison.blocks, strict=True):
        found = measurement.blocks.get(judged.name)
        numbers = {} if found is None else {"phi": found.phi, "phi_variance": found.phi_variance}
        block.update(_beside(numbers), verdict=judged.verdict)
    claims = {claim.name: claim for claim in comparison.nodes}
    transfers = {claim.name: claim for claim in comparison.transfers}
    for node in entry["profile"]:
        gradient = measurement.gradients.get(node["output"])
        claim = claims.get(node["name"])
        phi = None if claim is None else claim.measured
        power = None if gradient is None else _power(gradient)
        node.update(_beside({"phi": phi, "gradient_norm2": power, "gradient_log2": gradient}))
        moments = measurement.moments.get(node["output"])
        if moments is not None:
            node["measured"].update(mean=number(moments.mean), second_moment=number(moments.second_moment))
        if node["name"] in transfers:
            node["transfer"] = _claim(transfers[node["name"]])
        node["verdict"] = "unknown" if claim is None else claim.verdict
    end = comparison.end_to_end
    entry["summary"].update(_beside({"gradient_ratio": None if end.measured is None else _power(end.measured)}))
    entry["summary"]["verdict"] = end.verdict
    entry["verification"] = {
        "probes": measurement.probes,
        "batch": verified.batch,
        "device": verified.device,
        "dtype": verified.dtype,
        "gradient_ratio_log2": {
            "value": number(end.predicted),
            **_beside({} if end.measured is None else {"value": end.measured}),
        },
        "spread_log2": number(comparison.spread),
        "weight_gradient_spread_log2": number(comparison.layer_spread),
        "weight_gradients": [
            {"name": name, **_beside({"norm2_log2": found})} for name, found in comparison.layers.items()
        ],
        "differing": [claim.name for claim in comparison.differing],
        "notes": list(verified.notes),
        "training": None if verified.training is None else _training(verified.training),
    }
    return entry


def _claim(claim: Claim) -> dict[str, Any]:
    """What a node makes of the gradient that arrives: squared norm at its inputs over that at its output."""
    found = {} if claim.measured is None else {"ratio": claim.measured}
    return {"ratio": number(claim.predicted), **_beside(found), "verdict": claim.verdict}


def _beside(numbers: Mapping[str, Estimate | None]) -> dict[str, Any]:
    known = {name: found for name, found in numbers.items() if found is not None}
    return {
        "measured": {name: number(found.value) for name, found in known.items()},
        "interval": {name: [number(found.low), number(found.high)] for name, found in known.items()},
    }


def _power(logarithm: Estimate) -> Estimate:
    """The number itself from its log2; beyond a double's range, infinite or zero."""
    from dataclasses import replace

    ends = (2.0 ** min(end, 1024.0) if end < 1024.0 else math.inf for end in _ends(logarithm))
    value, low, high = ends
    return replace(logarithm, value=value, low=low, high=high)


def _ends(logarithm: Estimate) -> tuple[float, float, float]:
    return logarithm.value, logarithm.low, logarithm.high


def _training(run: TrainingRun) -> dict[str, Any]:
    return {
        "task": run.task,
        "diverged": run.diverged,
        "steps": [
            {
                "loss": number(step.loss),
                "weight_gradients_log2": {name: number(found) for name, found in step.layers.items()},
            }
            for step in run.steps
        ],
    }
