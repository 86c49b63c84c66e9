"""Where along the depth a monitor measures a module, and what the static check says of the parts between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gnelint.analysis.prediction import Block, Prediction
from gnelint.ir.graph import Graph
from gnelint.lint.finding import Finding
from gnelint.measure.monitor import Place, Plan

NO_PLACE = (
    "the gradient is monitored at the output alone: no block begins at what a module returns or a layer takes. "
    "Make modules of the network's parts."
)


def plan_of(
    prediction: Prediction, findings: Sequence[Finding], modules: Iterable[str], names: Mapping[str, str]
) -> Plan:
    """The places where blocks begin and a module returns or takes the value, each with the blocks up to the next.

    Args:
        prediction: of the module.
        findings: of its check.
        modules: qualified names of its submodules.
        names: of the rules, by id.
    """
    known = frozenset(modules)
    returning, taking = _returning(prediction.graph, known), _taking(prediction.graph, known)
    places: list[Place] = []
    for block in prediction.blocks:
        said = _explanations(block, findings, names)
        module = returning.get(block.entry) or taking.get(block.entry)
        if module is not None:
            predicted = _predicted(prediction, block.entry)
            places.append(Place(module, (block.name,), predicted, said, block.entry not in returning))
        elif places:
            last = places[-1]
            places[-1] = replace(last, parts=(*last.parts, block.name), explanations=(*last.explanations, *said))
    whole = tuple(_clause(finding, names) for finding in findings if not finding.nodes and finding.severity != "info")
    problem = None if places or len(prediction.blocks) < 2 else NO_PLACE
    return Plan(tuple(places), whole, problem)


def _returning(graph: Graph, modules: frozenset[str]) -> dict[str, str]:
    """The module that returns a value, by the value's name: the last operation in it wrote the value."""
    last: dict[str, str] = {}
    for node in graph.nodes:
        parts = node.scope.split(".") if node.scope else []
        for depth in range(1, len(parts) + 1):
            last[".".join(parts[:depth])] = node.name
        last[node.name] = node.name
    return {graph.node(node).outputs[0]: module for module, node in last.items() if module in modules}


def _taking(graph: Graph, modules: frozenset[str]) -> dict[str, str]:
    """The module of one operation that takes a value first, by the value's name: a layer, say."""
    layers = [(node.inputs[0], node.name) for node in graph.nodes if node.name in modules and node.inputs]
    return {value: name for value, name in reversed(layers) if value is not None and value in graph.producers}


def _predicted(prediction: Prediction, value: str) -> float | None:
    producer = prediction.graph.producers.get(value)
    found = None if producer is None else prediction.by_node.get(producer.name)
    return None if found is None else found.gradient_log2


def _explanations(block: Block, findings: Iterable[Finding], names: Mapping[str, str]) -> tuple[str, ...]:
    inside = frozenset(block.nodes)
    spoken = [finding for finding in findings if finding.severity != "info" and not inside.isdisjoint(finding.nodes)]
    return tuple(dict.fromkeys(_clause(finding, names) for finding in spoken))


def _clause(finding: Finding, names: Mapping[str, str]) -> str:
    return f"{finding.rule} {names.get(finding.rule, '')} ({finding.severity})".replace("  ", " ")
