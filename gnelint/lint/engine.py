"""Rules on a prediction: which apply, what they match, and what they say there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gnelint.graph import Graph, Node
from gnelint.lint.expression import Expression
from gnelint.lint.finding import Finding, Fix, Severity
from gnelint.lint.fingerprint import marked
from gnelint.lint.functions import Facts
from gnelint.lint.pattern import index_by_operation
from gnelint.lint.rulefile import Rule
from gnelint.lint.selection import Settings, Stage
from gnelint.prediction import Block, Prediction
from gnelint.vocabulary import families


@dataclass(frozen=True)
class LintResult:
    """Findings by rule and place.

    Attributes:
        findings: by rule id, then in topological order.
        skipped: one sentence for each reason why rules were skipped.
        ran: ids of the rules that were not.
    """

    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()


def lint(prediction: Prediction, rules: Sequence[Rule], settings: Settings) -> LintResult:
    """Run rules over one prediction. The findings come by rule id, then in topological order."""
    applicable, skipped = _by_stage(prediction, rules, settings.stage)
    run = _Run(prediction)
    findings = [finding for rule in applicable for finding in run.findings(rule, settings.params.get(rule.id, {}))]
    return LintResult(marked(prediction.graph, findings), skipped, tuple(rule.id for rule in applicable))


def _by_stage(prediction: Prediction, rules: Sequence[Rule], stage: Stage) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    untrained = stage == "init" or (stage == "auto" and prediction.trained is False)
    initial = [rule for rule in rules if rule.stage == "init"]
    if untrained or not initial:
        return tuple(rules), ()
    if stage == "trained":
        reason = "as --stage trained asks"
    elif prediction.trained:
        reason = "the weights look trained (--stage init judges them all the same)"
    elif any(parameter.provenance == "placeholder" for parameter in prediction.graph.parameters()):
        reason = "its weights are placeholders, one repeated value each"
    else:
        reason = "it has no weights to judge"
    count = f"{len(initial)} rule{'s' * (len(initial) != 1)} for untrained networks skipped: {reason}"
    return tuple(rule for rule in rules if rule.stage != "init"), (count,)


@dataclass
class _Match:
    """One match of one rule: the environment of its expressions."""

    rule: Rule
    facts: Facts
    bound: Mapping[str, Any]
    params: Mapping[str, Any]
    nodes: tuple[Node, ...]
    anchor: str | None
    totals: _Totals
    values: dict[str, Any] = field(default_factory=dict)

    def lookup(self, name: str) -> Any:
        """A bound node or block, a parameter, or a named expression (computed once)."""
        if name in self.bound:
            return self.bound[name]
        if name in self.params:
            value = self.params[name]
            return value if isinstance(value, (str, bool)) else float(value)
        if name not in self.values:
            expression = next(expression for known, expression in self.rule.lets if known == name)
            self.values[name] = expression.evaluate(self)
        return self.values[name]

    def total(self, expression: Expression) -> float | None:
        """The sum over this rule's matches along the heaviest path through this one."""
        return self.totals.of(expression, self)


class _Totals:
    """Sums over the matches of one rule, each kind of sum computed once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.matches: tuple[_Match, ...] = ()
        self.known: dict[str, Mapping[str, float]] = {}

    def of(self, expression: Expression, match: _Match) -> float | None:
        """The sum of the expression along the path through a match; a match without a value counts as 0."""
        if match.anchor is None:
            value = expression.evaluate(match)
            return None if value is None else float(value)
        if expression.text not in self.known:
            weights: dict[str, float] = {}
            for each in self.matches:
                value = expression.evaluate(each)
                if each.anchor is not None and value is not None:
                    weights[each.anchor] = max(weights.get(each.anchor, 0.0), value, key=abs)
            self.known[expression.text] = path_totals(self.graph, weights)
        return self.known[expression.text].get(match.anchor)


class _Run:
    """One prediction with its index, shared by all rules."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        self.graph = prediction.graph
        self.facts = Facts(prediction)
        self.index = index_by_operation(prediction.graph)

    def findings(self, rule: Rule, overrides: Mapping[str, Any]) -> list[Finding]:
        params = {name: overrides.get(name, parameter.default) for name, parameter in rule.params.items()}
        totals = _Totals(self.graph)
        matches = [
            match
            for match in self._matches(rule, params, totals)
            if all(condition.holds(match) for condition in rule.where)
        ]
        totals.matches = tuple(matches)
        found = []
        for match in matches:
            severity = _severity(match)
            if severity is not None:
                found.append(self._finding(match, severity))
        return found

    def _matches(self, rule: Rule, params: Mapping[str, Any], totals: _Totals) -> Iterable[_Match]:
        if rule.pattern is not None:
            for found in rule.pattern.matches(self.graph, self.index):
                nodes = tuple(found.nodes.values())
                yield _Match(rule, self.facts, found.nodes, params, nodes, nodes[0].name, totals)
        elif rule.over == "blocks":
            for block in self.prediction.blocks:
                nodes = tuple(self.graph.node(name) for name in block.nodes)
                closing = self.graph.producers.get(block.exit)
                anchor = None if closing is None else closing.name
                yield _Match(rule, self.facts, {"block": block}, params, nodes, anchor, totals)
        else:
            yield _Match(rule, self.facts, {}, params, (), None, totals)

    def _finding(self, match: _Match, severity: Severity) -> Finding:
        rule = match.rule
        first = match.nodes[0] if match.nodes else None
        block: Block | None = match.bound.get("block") if rule.over == "blocks" else None
        if block is None and first is not None:
            block = self.prediction.block_of.get(first.name)
        return Finding(
            rule=rule.id,
            severity=severity,
            message=rule.message.render(match),
            nodes=tuple(node.name for node in match.nodes),
            block=None if block is None else block.name,
            location=next((node.location for node in match.nodes if node.location is not None), None),
            measured=None if rule.measured is None else rule.measured.evaluate(match),
            expected=None if rule.expected is None else rule.expected.evaluate(match),
            fix=_fix(match),
        )


def _severity(match: _Match) -> Severity | None:
    if match.rule.when is not None and not match.rule.when.holds(match):
        return None
    for condition, severity in match.rule.severities:
        if condition is None or condition.holds(match):
            return severity
    return None


def _fix(match: _Match) -> Fix | None:
    plan = match.rule.fix
    if plan is None:
        return None
    target = None if plan.target is None else match.lookup(plan.target).name
    factor = match.lookup("factor") if plan.has_factor else None
    return Fix(plan.kind, plan.safety, plan.title.render(match), target, factor)


def path_totals(graph: Graph, weights: Mapping[str, float]) -> Mapping[str, float]:
    """For each weighted node, the sum of the weights on the path through it that meets most weighted nodes.

    A normalisation on the way starts a new path: it puts right what scale the part before it got wrong.
    """
    normalizations = families()["normalization"]
    none = (0, 0.0)

    def best(candidates: Iterable[tuple[int, float]]) -> tuple[int, float]:
        return max(candidates, key=lambda sum_: (sum_[0], abs(sum_[1])), default=none)

    def own(node: Node) -> tuple[int, float]:
        return (1, weights[node.name]) if node.name in weights else none

    before: dict[str, tuple[int, float]] = {}
    for node in graph.nodes:
        if node.op in normalizations:
            continue
        producers = (graph.producers.get(name) for name in node.present_inputs)
        reached = best(before[p.name] for p in producers if p is not None and p.name in before)
        count, weight = own(node)
        before[node.name] = (reached[0] + count, reached[1] + weight)
    behind: dict[str, tuple[int, float]] = {}
    for node in reversed(graph.nodes):
        if node.op in normalizations:
            continue
        consumers = (consumer for output in node.outputs for consumer in graph.consumers.get(output, ()))
        reached = best(behind[consumer.name] for consumer in consumers if consumer.name in behind)
        count, weight = own(node)
        behind[node.name] = (reached[0] + count, reached[1] + weight)
    # a weight of infinity stays infinity where it counts twice: inf + inf - inf is not a number
    return {
        name: weight if weight in (float("inf"), float("-inf")) else before[name][1] + behind[name][1] - weight
        for name, weight in weights.items()
    }
