"""The JSON contract, schema "gnelint/1": every other output is a rendering of what this module makes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gnelint import __version__
from gnelint.graph import Graph
from gnelint.lint.finding import SEVERITIES, Finding
from gnelint.prediction import Block, NodePrediction, Prediction

SCHEMA = "gnelint/1"

SIGNIFICANT_DIGITS = 7
"""Enough for every use, and few enough that a report does not change with the order of a sum."""


def document(targets: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole report, made of what `target` gave for each target."""
    return {"schema": SCHEMA, "version": __version__, "targets": list(targets)}


def statistics(targets: Sequence[Mapping[str, Any]], rule_names: Mapping[str, str]) -> dict[str, Any]:
    """How often each rule spoke over all targets, most often first, made of what `target` gave for each."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    places: dict[str, set[int]] = {}
    for index, entry in enumerate(targets):
        for finding in entry["findings"]:
            found.setdefault(finding["rule"], []).append(finding)
            places.setdefault(finding["rule"], set()).add(index)
    ordered = sorted(found, key=lambda rule: (-len(found[rule]), rule))
    rules = [
        {
            "rule": rule,
            "name": rule_names.get(rule, ""),
            "count": len(found[rule]),
            "targets": len(places[rule]),
            **counts(found[rule]),
        }
        for rule in ordered
    ]
    return {"schema": SCHEMA, "version": __version__, "targets": len(targets), "statistics": rules}


def dumps(report: Mapping[str, Any]) -> str:
    """The report as text; the same report gives the same bytes."""
    return json.dumps(report, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def target(prediction: Prediction, findings: Sequence[Finding], suppressed: int = 0) -> dict[str, Any]:
    """The entry of one target. A number that is not known, or not finite, is null.

    Args:
        prediction: what was predicted.
        findings: what is reported.
        suppressed: number of findings that are not, because the user has accepted them.
    """
    graph = prediction.graph
    return {
        "target": graph.name,
        "source": graph.source,
        "mode": "train" if graph.training else "eval",
        "summary": _summary(prediction, findings, suppressed),
        "profile": [_profile(node) for node in prediction.nodes],
        "blocks": [_block(block) for block in prediction.blocks],
        "findings": [_finding(finding) for finding in findings],
    }


def number(value: float | None) -> float | None:
    """A finite number to the digits that mean something, else None."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def counts(findings: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many findings there are of each severity, and how many have a fix."""
    fixes = [finding["fix"] for finding in findings]
    return {
        **{f"{severity}s": sum(found["severity"] == severity for found in findings) for severity in SEVERITIES},
        "fixable": sum(fix is not None and fix["safety"] != "display" for fix in fixes),
    }


def _summary(prediction: Prediction, findings: Sequence[Finding], suppressed: int) -> dict[str, Any]:
    return {
        "nodes": len(prediction.graph.nodes),
        "parameters": _parameter_count(prediction.graph),
        "blocks": len(prediction.blocks),
        "coverage": number(prediction.coverage),
        "trained": prediction.trained,
        "gradient_ratio": number(prediction.gradient_ratio),
        "error_bits": number(prediction.error_bits),
        "fluctuation_bits": number(prediction.fluctuation_bits),
        "cotangent_at": prediction.cotangent_at,
        **counts([_finding(finding) for finding in findings]),
        "suppressed": suppressed,
        "baseline": None,
    }


def _parameter_count(graph: Graph) -> int:
    return sum(parameter.size for parameter in graph.parameters())


def _profile(prediction: NodePrediction) -> dict[str, Any]:
    return {
        "name": prediction.node.name,
        "op": prediction.node.op,
        "output": prediction.output,
        "shape": None if prediction.shape is None else list(prediction.shape),
        "mean": number(prediction.mean),
        "second_moment": number(prediction.second_moment),
        "phi": number(prediction.phi),
        "phi_variance": number(prediction.phi_variance),
        "gradient_norm2": number(prediction.gradient_norm2),
        "error_bits": number(prediction.error_bits),
    }


def _block(block: Block) -> dict[str, Any]:
    return {
        "name": block.name,
        "kind": block.kind,
        "nodes": list(block.nodes),
        "phi": number(block.phi),
        "phi_variance": number(block.phi_variance),
        "error_bits": number(block.error_bits),
        "basis": block.basis,
        "assumptions": list(block.assumptions),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    location, fix = finding.location, finding.fix
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "message": finding.message,
        "nodes": list(finding.nodes),
        "block": finding.block,
        "location": None if location is None else {"file": location.file, "line": location.line},
        "measured": number(finding.measured),
        "expected": number(finding.expected),
        "fix": None if fix is None else {"kind": fix.kind, "safety": fix.safety, "description": fix.description},
        "fingerprint": finding.fingerprint,
    }
