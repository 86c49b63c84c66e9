"""What the JSON contract says of one target, made of its prediction and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from gnelint.analysis.prediction import Block, NodePrediction, Prediction
from gnelint.analysis.stage import Judgement
from gnelint.ir.graph import Graph, Parameter
from gnelint.lint.finding import Advice, Finding
from gnelint.lint.total import Excess
from gnelint.ops import VOCABULARY
from gnelint.output.json import counts, number
from gnelint.records import dataclass
from gnelint.theory.weights.histogram import histogram
from gnelint.theory.weights.statistics import WeightStatistics, distribution, gain

MOST_EVIDENCE = 10
"""Pieces of evidence for the stage of the weights that are written."""

_GIVEN = ("buffer", "constant")
"""Kinds of tensors that are no parameters."""

MOST_PICTURED = 3
"""Places of a rule whose weights' histograms are written."""


@dataclass(frozen=True)
class Circumstances:
    """How an answer came about, for whoever reads the report or wants it again.

    Attributes:
        notes: what the reader saw and which rules were skipped, a sentence each.
        ran: ids of the rules that were run.
        options: what was chosen about the rules.
        excess: the network's total if it is out of range, whichever rules were run.
        sha256: of the model file's bytes, None where there is no such file.
        init_code: what initialises a fresh model as the fixes would have it, None without fixes.
    """

    notes: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    excess: Excess | None = None
    sha256: str | None = None
    init_code: str | None = None


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
    pictured = _pictured(findings)
    return {
        "target": graph.name,
        "source": graph.source,
        "mode": "train" if graph.training else "eval",
        "summary": _summary(prediction, findings, suppressed, made.excess),
        "profile": [_profile(node, prediction, node.node.name in pictured) for node in prediction.nodes],
        "blocks": [_block(block) for block in prediction.blocks],
        "findings": [_finding(finding) for finding in findings],
        "inputs": [_input(graph, name) for name in graph.inputs],
        "sha256": made.sha256,
        "notes": list(made.notes),
        "options": dict(made.options),
        "rules_ran": list(made.ran),
        "init_code": made.init_code,
    }


def _pictured(findings: Sequence[Finding]) -> set[str]:
    """The nodes whose weights are shown: those of the first places of each rule."""
    places: dict[str, list[Finding]] = {}
    for finding in findings:
        places.setdefault(finding.rule, []).append(finding)
    return {name for some in places.values() for finding in some[:MOST_PICTURED] for name in finding.nodes}


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
    """Entries of the tensors that the model stores: of a stack of experts all, of which only some are read."""
    stored = {leaf.name: leaf for parameter in graph.parameters() for leaf in parameter.leaves}
    return sum(leaf.size for leaf in stored.values() if leaf.kind not in _GIVEN)


def _profile(prediction: NodePrediction, whole: Prediction, pictured: bool) -> dict[str, Any]:
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
            _weights(role, parameter, node.op, whole.weights[parameter.name], pictured)
            for role, parameter in node.parameters.items()
            if parameter.name in whole.weights
        ],
    }


def _weights(role: str, parameter: Parameter, op: str, statistics: WeightStatistics, pictured: bool) -> dict[str, Any]:
    """What the numbers of a weight tensor are; `gain` is sqrt(fan_in E[w^2])."""
    shown = histogram(parameter) if pictured else None
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
        "histogram": None
        if shown is None
        else {"low": number(shown.low), "high": number(shown.high), "counts": list(shown.counts)},
    }


def _input(graph: Graph, name: str) -> dict[str, Any]:
    value = graph.values[name]
    return {"name": name, "shape": None if value.shape is None else list(value.shape), "dtype": value.dtype}


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
