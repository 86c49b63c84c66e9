"""What rules say of losses that a program gives beside its outputs, where the analysis of the outputs does not lead."""

from __future__ import annotations

from collections.abc import Sequence

from gnelint.analysis.propagation import analyse
from gnelint.ir.graph import Graph
from gnelint.lint.explaining import unexplained
from gnelint.lint.finding import Finding
from gnelint.lint.fingerprint import marked
from gnelint.lint.rulefile import Rule
from gnelint.lint.running import Run
from gnelint.lint.selection import Settings
from gnelint.records import replace


def of_losses(graph: Graph, rules: Sequence[Rule], settings: Settings) -> tuple[Finding, ...]:
    """What rules about places find at the operations that lead to losses alone.

    The findings name no nodes: those of the graph that is analysed do not hold them. Rules about how a network starts,
    about its whole and about what gnelint does not know are left to that graph.
    """
    asked = [rule for rule in rules if rule.pattern is not None and rule.stage == "any" and rule.group != "coverage"]
    if graph.losses is None or not graph.losses.nodes or not asked:
        return ()
    run = Run(analyse(graph.losses.graph), settings.loss)
    found = [
        finding
        for rule in asked
        for finding in run.findings(rule, settings.params.get(rule.id, {}))
        if finding.nodes and finding.nodes[-1] in graph.losses.nodes
    ]
    kept = unexplained(graph.losses.graph, found, {rule.id: rule.explained_by for rule in asked})
    return tuple(_placeless(finding) for finding in marked(graph.losses.graph, kept))


def _placeless(finding: Finding) -> Finding:
    return replace(finding, message=f"In the loss: {finding.message}", nodes=(), block=None, fix=None)
