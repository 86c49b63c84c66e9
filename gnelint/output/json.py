"""The JSON contract, schema "gnelint/1": every other output is a rendering of what this module makes."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gnelint.analysis.prediction import Block, NodePrediction, Prediction
from gnelint.analysis.stage import Judgement
from gnelint.errors import UsageError
from gnelint.files import read_text
from gnelint.ir.graph import Graph, Parameter
from gnelint.lint.finding import Advice, Finding
from gnelint.lint.rulefile import Rule
from gnelint.lint.severity import SEVERITIES
from gnelint.lint.total import Excess
from gnelint.ops import VOCABULARY
from gnelint.theory.weights.statistics import WeightStatistics, distribution, gain
from gnelint.version import __version__

SCHEMA = "gnelint/1"


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT, _NUMBER = {"type": "string"}, {"type": ["number", "null"]}
_COUNT, _TEXTS = {"type": "integer"}, _list_of({"type": "string"})
_READABLE = _object(
    schema={"const": SCHEMA},
    targets=_list_of(
        _object(
            target=_TEXT,
            source={"enum": ["onnx", "torch"]},
            mode={"enum": ["train", "eval"]},
            summary=_object(gradient_ratio=_NUMBER, errors=_COUNT, warnings=_COUNT, infos=_COUNT, fixable=_COUNT),
            profile=_list_of(_object(name=_TEXT, op=_TEXT, phi=_NUMBER, gradient_norm2=_NUMBER, second_moment=_NUMBER)),
            blocks=_list_of(_object(name=_TEXT, kind=_TEXT, nodes=_TEXTS, phi=_NUMBER, phi_variance=_NUMBER)),
            findings=_list_of(_object(rule=_TEXT, severity={"enum": list(SEVERITIES)})),
        )
    ),
)
"""What is asked of an earlier report that another is compared with."""

MOST_EVIDENCE = 10
"""Pieces of evidence for the stage of the weights that are written."""

SIGNIFICANT_DIGITS = 7
"""Enough for every use, and few enough that a report does not change with the order of a sum."""


@dataclass(frozen=True)
class Circumstances:
    """How an answer came about, for whoever reads the report or wants it again.

    Attributes:
        notes: what the reader saw and which rules were skipped, a sentence each.
        ran: ids of the rules that were run.
        options: what was chosen about the rules.
        excess: the network's total if it is out of range, whichever rules were run.
        sha256: of the model file's bytes, None where there is no such file.
    """

    notes: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    excess: Excess | None = None
    sha256: str | None = None


def document(targets: Iterable[Mapping[str, Any]], rules: Sequence[Rule] = ()) -> dict[str, Any]:
    """The whole report.

    Args:
        targets: what `target` gave for each target.
        rules: those that may have been run; what is said of them is theirs in the report.
    """
    entries = list(targets)
    ran = {rule for entry in entries for rule in entry["rules_ran"]}
    spoke = {finding["rule"] for entry in entries for finding in entry["findings"]}
    return {
        "schema": SCHEMA,
        "version": __version__,
        "targets": entries,
        "rules": [_rule(rule, rule.id in spoke) for rule in rules if rule.id in ran | spoke],
        "versions": versions(entry["source"] for entry in entries),
    }


def versions(sources: Iterable[str]) -> dict[str, str]:
    """The programs that made a report of targets from these sources."""
    found = {"gnelint": __version__, "python": platform.python_version()}
    for package in ("numpy", *sorted({*sources})):  # a source is called as the package that reads it
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # there under another name, as torch is in some distributions
            continue
    return found


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


def target(
    prediction: Prediction, findings: Sequence[Finding], suppressed: int = 0, made: Circumstances | None = None
) -> dict[str, Any]:
    """The entry of one target. A number that is not known, or not finite, is null.

    Args:
        prediction: what was predicted.
        findings: what is reported.
        suppressed: number of findings that are not, because the user has accepted them.
        made: how the answer came about, None if that is not told.
    """
    made = made or Circumstances()
    graph = prediction.graph
    return {
        "target": graph.name,
        "source": graph.source,
        "mode": "train" if graph.training else "eval",
        "summary": _summary(prediction, findings, suppressed, made.excess),
        "profile": [_profile(node, prediction) for node in prediction.nodes],
        "blocks": [_block(block) for block in prediction.blocks],
        "findings": [_finding(finding) for finding in findings],
        "inputs": [_input(graph, name) for name in graph.inputs],
        "sha256": made.sha256,
        "notes": list(made.notes),
        "options": dict(made.options),
        "rules_ran": list(made.ran),
    }


def read(path: Path) -> dict[str, Any]:
    """A report that was written earlier.

    Raises:
        UsageError: it cannot be read, or it is no report.
    """
    from jsonschema import Draft202012Validator  # slow to import, and hardly any run needs it

    advice = "Make one: gnelint check TARGET --format json -o FILE"
    try:
        report = json.loads(read_text(path), parse_constant=lambda name: None)
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", advice) from None
    except (ValueError, RecursionError):
        raise UsageError(str(path), "is not JSON", advice) from None
    fault = next(iter(Draft202012Validator(_READABLE).iter_errors(report)), None)
    if fault is not None:
        where = ".".join(map(str, fault.absolute_path)) or "the whole"
        raise UsageError(str(path), f"is no report of gnelint check ({where} is not as it should be)", advice)
    found: dict[str, Any] = report
    return found


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


def _summary(
    prediction: Prediction, findings: Sequence[Finding], suppressed: int, excess: Excess | None
) -> dict[str, Any]:
    return {
        "nodes": len(prediction.graph.nodes),
        "parameters": _parameter_count(prediction.graph),
        "blocks": len(prediction.blocks),
        "coverage": number(prediction.coverage),
        "trained": prediction.trained,
        "stage": stage(prediction.stage),
        "gradient_ratio": number(prediction.gradient_ratio),
        "gradient_log2": number(prediction.gradient_log2),
        "error_bits": number(prediction.error_bits),
        "fluctuation_bits": number(prediction.fluctuation_bits),
        "cotangent_at": prediction.cotangent_at,
        **counts([_finding(finding) for finding in findings]),
        "suppressed": suppressed,
        "baseline": None,
        "out_of_range": None
        if excess is None
        else {
            "rule": excess.rule,
            "gradient_log2": number(excess.bits),
            "not_selected": list(excess.not_selected),
        },
    }


def stage(judgement: Judgement) -> dict[str, Any]:
    """What the weights are and the strongest evidence for and against it, in bits of log odds for trained."""
    return {
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "log_odds": number(judgement.log_odds),
        "evidence": [
            {"text": each.text, "tensor": each.tensor, "log_odds": number(each.log_odds)}
            for each in judgement.evidence[:MOST_EVIDENCE]
        ],
    }


def _parameter_count(graph: Graph) -> int:
    return sum(parameter.size for parameter in graph.parameters())


def _profile(prediction: NodePrediction, whole: Prediction) -> dict[str, Any]:
    node, graph = prediction.node, whole.graph
    made = (graph.producers[name].name for name in node.present_inputs if name in graph.producers)
    return {
        "name": node.name,
        "op": node.op,
        "family": VOCABULARY[node.op].family if node.op in VOCABULARY else "unmodelled",
        "output": prediction.output,
        "shape": None if prediction.shape is None else list(prediction.shape),
        "mean": number(prediction.mean),
        "second_moment": number(prediction.second_moment),
        "phi": number(prediction.phi),
        "phi_variance": number(prediction.phi_variance),
        "gradient_norm2": number(prediction.gradient_norm2),
        "gradient_log2": number(prediction.gradient_log2),
        "error_bits": number(prediction.error_bits),
        "basis": prediction.basis,
        "assumptions": list(prediction.assumptions),
        "inputs": [name for name in dict.fromkeys(made) if name in whole.by_node],
        "weights": [
            _weights(role, parameter, node.op, whole.weights[parameter.name])
            for role, parameter in node.parameters.items()
            if parameter.name in whole.weights
        ],
    }


def _weights(role: str, parameter: Parameter, op: str, statistics: WeightStatistics) -> dict[str, Any]:
    """What the numbers of a weight tensor are; `gain` is sqrt(fan_in E[w^2])."""
    return {
        "name": parameter.name,
        "role": role,
        "shape": list(parameter.shape),
        "mean": number(statistics.mean),
        "std": number(statistics.std),
        "minimum": number(statistics.minimum),
        "maximum": number(statistics.maximum),
        "distribution": distribution(parameter, statistics),
        "gain": number(gain(op, role, parameter.shape, statistics)),
    }


def _input(graph: Graph, name: str) -> dict[str, Any]:
    value = graph.values[name]
    return {"name": name, "shape": None if value.shape is None else list(value.shape), "dtype": value.dtype}


def _rule(rule: Rule, spoke: bool) -> dict[str, Any]:
    """What a rule is; its explanation only where it has found something."""
    return {
        "id": rule.id,
        "name": rule.name,
        "group": rule.group,
        "summary": rule.summary,
        "params": {name: parameter.default for name, parameter in rule.params.items()},
        "explanation": rule.explain.strip() if spoke else None,
        "references": [dict(reference) for reference in rule.references] if spoke else [],
    }


def _block(block: Block) -> dict[str, Any]:
    return {
        "name": block.name,
        "kind": block.kind,
        "nodes": list(block.nodes),
        "side": list(block.side),
        "phi": number(block.phi),
        "phi_variance": number(block.phi_variance),
        "error_bits": number(block.error_bits),
        "branch_phi": number(block.branch_phi),
        "shortcut_phi": number(block.shortcut_phi),
        "join": block.join,
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
        "fix": None if fix is None else _fix(fix),
        "fingerprint": finding.fingerprint,
    }


def _fix(fix: Advice) -> dict[str, Any]:
    edits = [{**vars(edit), "factor": number(edit.factor)} for edit in fix.edits]
    return {
        "kind": fix.kind,
        "safety": fix.safety,
        "description": fix.description,
        "edits": edits,
        "reason": fix.reason,
    }
