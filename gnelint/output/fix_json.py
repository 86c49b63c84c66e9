"""What `gnelint fix` did, as plain data: what its report for people is a rendering of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gnelint.analysis.prediction import Prediction
from gnelint.fixes.base import Refusal
from gnelint.fixes.edits import Edit
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import Rule
from gnelint.measure.trials import TakenBack
from gnelint.output import verify_json
from gnelint.output.entry import stage
from gnelint.output.json import number
from gnelint.writers.rewriting import Rewritten

if TYPE_CHECKING:
    from gnelint.measure.harm import Health
    from gnelint.measure.trial import Trial


def entry(done: Rewritten) -> dict[str, Any]:
    """The entry of one target. A number that is not known is null."""
    before = done.plan.before
    phis = [_phis(prediction) for prediction in (before, done.after)]
    return {
        "target": done.target,
        "source": before.graph.source,
        "output": None if done.output is None else str(done.output),
        "worse": done.worse,
        "measured": None if done.tried is None or done.tried.trial is None else _measured(done.tried.trial),
        "not_measured": None if done.tried is None else done.tried.unmeasured,
        "taken_back": [] if done.tried is None else [_taken_back(back) for back in done.tried.taken_back],
        "before": _state(before, done.plan.found),
        "after": _state(done.after, done.remaining),
        "edits": [_edit(edit, phis) for edit in done.made],
        "left": [_left(refusal) for refusal in done.left],
        "notes": list(done.plan.notes) if done.made else [],
    }


def _measured(trial: Trial) -> dict[str, Any]:
    """What was measured of the network before and after; after is null where the fixed network cannot be run."""
    return {
        "before": _health(trial.before),
        "after": None if trial.after is None else _health(trial.after),
        "worse": list(trial.harms),
        "batch": trial.batch,
        "device": trial.device,
    }


def _health(health: Health) -> dict[str, Any]:
    return {
        "probes": health.probes,
        "cotangent_at": health.cotangent_at,
        "spread_log2": number(health.spread),
        "parameters": len(health.sizes),
        "parameters_without_gradient": len(health.without_gradient),
        "zero_gradient_share": number(health.zero_share),
        "gradients_not_finite": sorted(health.infinite),
        "output_second_moment_log2": {name: number(scale) for name, scale in health.outputs.items()},
    }


def _taken_back(back: TakenBack) -> dict[str, Any]:
    return {"kind": back.kind, "rules": list(back.rules), "edits": back.edits, "reasons": list(back.reasons)}


def measured(done: Rewritten, rules: Sequence[Rule]) -> dict[str, Any] | None:
    """The report of `gnelint verify` on the model as it was and as it is, None if it was not asked for."""
    if done.verification is None:
        return None
    report = verify_json.document(done.verification, done.plan.found, done.remaining, rules)
    names = (done.target, "the fixed model" if done.output is None else str(done.output))
    for entry, name in zip(report["targets"], names, strict=True):
        entry["target"] = name  # what was measured was a copy
    return report


def _state(prediction: Prediction, findings: Iterable[Finding]) -> dict[str, Any]:
    severities = [finding.severity for finding in findings]
    return {
        "gradient_ratio_log2": number(prediction.gradient_log2),
        "cotangent_at": prediction.cotangent_at,
        "trained": prediction.trained,
        "stage": stage(prediction.stage),
        "errors": severities.count("error"),
        "warnings": severities.count("warning"),
        "infos": severities.count("info"),
    }


def _edit(edit: Edit, phis: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    subject = edit.action.subject
    return {
        "rule": edit.rule,
        "kind": edit.kind,
        "safety": edit.safety,
        "subject": subject,
        "what": edit.action.what,
        "phi": [number(known.get(subject)) for known in phis],
    }


def _phis(prediction: Prediction) -> dict[str, float | None]:
    """phi of the block that holds it, by the name of every node, value and stored tensor."""
    found: dict[str, float | None] = {}
    for node in prediction.graph.nodes:
        block = prediction.block_of.get(node.name)
        if block is not None:
            leaves = (leaf.name for parameter in node.parameters.values() for leaf in parameter.leaves)
            for name in (node.name, *node.outputs, *leaves):
                found.setdefault(name, block.phi)
    return found


def _left(refusal: Refusal) -> Mapping[str, Any]:
    finding = refusal.finding
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "message": finding.message,
        "nodes": list(finding.nodes),
        "reason": refusal.reason,
        "choice": refusal.choice,
        "advice": None if finding.fix is None else finding.fix.description,
    }
