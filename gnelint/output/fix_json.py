"""What `gnelint fix` did, as plain data: what its report for people is a rendering of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gnelint.fixes.base import Refusal
from gnelint.fixes.edits import Edit
from gnelint.lint.finding import Finding
from gnelint.output.json import number
from gnelint.prediction import Prediction
from gnelint.rewriting import Rewritten


def entry(done: Rewritten) -> dict[str, Any]:
    """The entry of one target. A number that is not known is null."""
    before = done.plan.before
    return {
        "target": done.target,
        "source": before.graph.source,
        "output": None if done.output is None else str(done.output),
        "worse": done.worse,
        "before": _state(before, done.plan.found),
        "after": _state(done.after, done.remaining),
        "edits": [_edit(edit, before, done.after) for edit in done.made],
        "left": [_left(refusal) for refusal in done.left],
    }


def _state(prediction: Prediction, findings: Iterable[Finding]) -> dict[str, Any]:
    severities = [finding.severity for finding in findings]
    return {
        "gradient_ratio_log2": number(prediction.gradient_log2),
        "cotangent_at": prediction.cotangent_at,
        "trained": prediction.trained,
        "errors": severities.count("error"),
        "warnings": severities.count("warning"),
        "infos": severities.count("info"),
    }


def _edit(edit: Edit, before: Prediction, after: Prediction) -> dict[str, Any]:
    return {
        "rule": edit.rule,
        "kind": edit.kind,
        "safety": edit.safety,
        "subject": edit.action.subject,
        "what": edit.action.what,
        "phi": [number(_phi(edit, prediction)) for prediction in (before, after)],
    }


def _phi(edit: Edit, prediction: Prediction) -> float | None:
    """phi of the block that the edit is made in."""
    graph = prediction.graph
    subject = edit.action.subject
    using = (
        node.name
        for node in graph.nodes
        if subject == node.name
        or subject in node.outputs
        or any(leaf.name == subject for parameter in node.parameters.values() for leaf in parameter.leaves)
    )
    block = next((prediction.block_of[name] for name in using if name in prediction.block_of), None)
    return None if block is None else block.phi


def _left(refusal: Refusal) -> Mapping[str, Any]:
    finding = refusal.finding
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "message": finding.message,
        "nodes": list(finding.nodes),
        "reason": refusal.reason,
        "advice": None if finding.fix is None else finding.fix.description,
    }
