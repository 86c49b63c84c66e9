"""One rule against one prediction: its matches, what holds for each of them, and the findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

import numpy as np

from gnelint.analysis.prediction import Block, Prediction
from gnelint.errors import RuleError
from gnelint.ir.graph import Node
from gnelint.lint.columns import Column, Columns, constant
from gnelint.lint.expression import Expression
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.finding import Advice, Finding
from gnelint.lint.index import Index, Indices, Mask
from gnelint.lint.matching import TooManyMatchesError, find_matches
from gnelint.lint.pattern import Pattern
from gnelint.lint.rulefile import Rule
from gnelint.lint.runs import Runs
from gnelint.lint.severity import SEVERITIES, Severity
from gnelint.records import cached_property, dataclass


@dataclass
class Run:
    """One prediction with what all rules share: its index, the facts that were asked for, the matches of patterns."""

    prediction: Prediction
    loss: str | None = None
    _matches: dict[str, Mapping[str, Indices]] = field(default_factory=dict)

    @cached_property
    def index(self) -> Index:
        """The graph as integers."""
        return Index.of(self.prediction.graph)

    @cached_property
    def columns(self) -> Columns:
        """The predicted numbers."""
        return Columns(Facts(self.prediction, self.loss))

    @cached_property
    def block_anchors(self) -> Indices:
        """For each block the node that writes its output, -1 if none does."""
        producers, positions = self.prediction.graph.producers, self.prediction.graph.positions
        closing = (producers.get(block.exit) for block in self.prediction.blocks)
        return np.array([-1 if node is None else positions[node.name] for node in closing], np.intp)

    def findings(self, rule: Rule, overrides: Mapping[str, Any]) -> list[Finding]:
        """What the rule says, in topological order.

        Args:
            rule: the rule.
            overrides: values of its parameters that are not the default.
        """
        matches = self.matches(rule, overrides)
        if not matches.size:
            return []
        everything = matches.rows()
        if rule.program.when is not None:
            everything = everything.rows(np.flatnonzero(rule.program.when.holds(everything)))
        severities = _severities(rule, everything)
        spoken = everything.rows(np.array([row for row, found in enumerate(severities) if found is not None], np.intp))
        if not spoken.size:
            return []
        findings = self._findings(matches, spoken, [found for found in severities if found is not None])
        return findings if rule.run.each else _one_a_run(findings, matches.runs.labels()[spoken.chosen].tolist())

    def matches(self, rule: Rule, overrides: Mapping[str, Any]) -> Matches:
        """The matches of the rule that pass its `where`."""
        matches = self.all_matches(rule, overrides)
        if not matches.size:
            return matches
        for condition in rule.program.where:
            matches = matches.only(np.flatnonzero(condition.holds(matches.rows())))
            if not matches.size:
                break
        return matches

    def all_matches(self, rule: Rule, overrides: Mapping[str, Any]) -> Matches:
        """The matches of the rule's pattern, whatever `where` says."""
        params = {name: overrides.get(name, parameter.default) for name, parameter in rule.params.items()}
        bound, anchors, size = self._bound(rule)
        return Matches(self, rule, params, bound, anchors, size)

    def _bound(self, rule: Rule) -> tuple[Mapping[str, Indices], Indices, int]:
        if rule.pattern is not None:
            if rule.pattern.text not in self._matches:
                self._matches[rule.pattern.text] = self._found(rule, rule.pattern)
            found = self._matches[rule.pattern.text]
            if rule.stage == "init":
                found = self._judged(found)
            anchors = found[rule.pattern.anchor]
            return found, anchors, len(anchors)
        if rule.over == "blocks":
            count = len(self.prediction.blocks)
            return {"block": np.arange(count)}, self.block_anchors, count
        return {}, np.full(1, -1, np.intp), 1

    def _judged(self, found: Mapping[str, Indices]) -> Mapping[str, Indices]:
        """The matches without a layer that training does not change: no start of it is right or wrong.

        Such a layer is a matrix of the program (an adjacency, a mask, a basis, kept as a buffer) or frozen.
        """
        if not self._fixed_layers.any():
            return found
        fixed = [np.logical_and(column >= 0, self._fixed_layers[column]) for column in found.values()]
        kept = np.flatnonzero(~np.any(fixed, axis=0))
        return {name: column[kept] for name, column in found.items()}

    @cached_property
    def _fixed_layers(self) -> Mask:
        """Which nodes are layers whose weight training does not change."""
        weights = ((node.op, Facts.weight(node)) for node in self.prediction.graph.nodes)
        return np.array([op in LAYERS and weight is not None and not weight.trainable for op, weight in weights])

    def _found(self, rule: Rule, pattern: Pattern) -> Mapping[str, Indices]:
        try:
            return find_matches(pattern, self.index)
        except TooManyMatchesError as error:
            name = self.prediction.graph.name
            raise RuleError(rule.file, f"pattern: {error} in {name}", "Name the operations between.") from None

    def _findings(self, matches: Matches, spoken: Rows, severities: list[Severity]) -> list[Finding]:
        rule = matches.rule
        messages = rule.program.message.render(spoken)
        measured = [None] * spoken.size if rule.program.measured is None else rule.program.measured.values(spoken)
        expected = [None] * spoken.size if rule.program.expected is None else rule.program.expected.values(spoken)
        fixes = self._fixes(rule, spoken)
        found = []
        for entry, row in enumerate(spoken.chosen.tolist()):
            nodes = matches.nodes(row)
            block = self._block(matches, row, nodes)
            found.append(
                Finding(
                    rule=rule.id,
                    severity=severities[entry],
                    message=messages[entry],
                    nodes=tuple(node.name for node in nodes),
                    block=None if block is None else block.name,
                    location=next((node.location for node in nodes if node.location is not None), None),
                    measured=measured[entry],
                    expected=expected[entry],
                    fix=fixes[entry],
                )
            )
        return found

    def _block(self, matches: Matches, row: int, nodes: tuple[Node, ...]) -> Block | None:
        if matches.rule.over == "blocks":
            return self.prediction.blocks[int(matches.bound["block"][row])]
        return self.prediction.block_of.get(nodes[0].name) if nodes else None

    def _fixes(self, rule: Rule, spoken: Rows) -> list[Advice | None]:
        plan = rule.program.fix
        if plan is None:
            return [None] * spoken.size
        titles = plan.title.render(spoken)
        factors = [None] * spoken.size
        if plan.has_factor:
            factors = [None if np.isnan(factor) else factor for factor in spoken.lookup("factor").tolist()]
        places: Iterable[Any] = [None] * spoken.size if plan.target is None else spoken.lookup(plan.target).tolist()
        is_block = plan.target is not None and rule.program.scope[plan.target].kind == "block"
        objects: Any = self.prediction.blocks if is_block else self.prediction.graph.nodes
        names = [None if place is None or place < 0 else objects[place].name for place in places]
        return [
            Advice(plan.kind, plan.safety, title, name, factor)
            for title, name, factor in zip(titles, names, factors, strict=True)
        ]


@dataclass
class Matches:
    """All matches of one rule that pass its `where`, as columns.

    Attributes:
        run: the prediction.
        rule, params: the rule and the values of its parameters.
        bound: positions of nodes or blocks by name.
        anchors: where each match stands: a node's position, -1 for nowhere.
        size: number of matches.
    """

    run: Run
    rule: Rule
    params: Mapping[str, Any]
    bound: Mapping[str, Indices]
    anchors: Indices
    size: int
    _values: dict[str, tuple[Column, Column]] = field(default_factory=dict)
    _aggregates: dict[tuple[str, str], Column] = field(default_factory=dict)

    @cached_property
    def runs(self) -> Runs:
        """How the matches lie one behind the other."""
        return Runs.of(self.run.index, self.anchors, self.rule.run.ends_at)

    def rows(self) -> Rows:
        """All of them."""
        return Rows(self, np.arange(self.size))

    def only(self, chosen: Indices) -> Matches:
        """Some of them, as if there were no others."""
        if len(chosen) == self.size:
            return self
        bound = {name: column[chosen] for name, column in self.bound.items()}
        return Matches(self.run, self.rule, self.params, bound, self.anchors[chosen], len(chosen))

    def nodes(self, row: int) -> tuple[Node, ...]:
        """The nodes of one match, in the order of the pattern, or of the block."""
        graph = self.run.prediction.graph
        if self.rule.over == "blocks":
            block = self.run.prediction.blocks[int(self.bound["block"][row])]
            return tuple(graph.node(name) for name in block.nodes)
        return tuple(graph.nodes[column[row]] for column in self.bound.values() if column[row] >= 0)

    def let(self, name: str, rows: Rows) -> Column:
        """The values of a named expression, each computed once."""
        if name not in self._values:
            kind = self.rule.program.scope[name].kind
            empty = np.full(self.size, -1, np.intp) if kind in ("node", "block") else np.full(self.size, np.nan)
            self._values[name] = (empty.astype(object) if kind == "text" else empty, np.zeros(self.size, np.bool_))
        values, known = self._values[name]
        missing = rows.chosen[~known[rows.chosen]]
        if missing.size:
            expression = next(expression for let, expression in self.rule.program.lets if let == name)
            values[missing] = expression.evaluate(Rows(self, missing))
            known[missing] = True
        return values[rows.chosen]

    def aggregate(self, function: str, expression: Expression | None) -> Column:
        """A function over all matches, for each of them."""
        key = (function, "" if expression is None else expression.text)
        if key not in self._aggregates:
            values = np.ones(self.size)
            if expression is not None:
                values = expression.evaluate(self.rows())
            self._aggregates[key] = self.runs.apply(function, values)
        return self._aggregates[key]


@dataclass(frozen=True)
class Rows:
    """Some matches of a rule: the environment of its expressions."""

    matches: Matches
    chosen: Indices

    @property
    def columns(self) -> Columns:
        """The predicted numbers."""
        return self.matches.run.columns

    @property
    def size(self) -> int:
        """How many matches."""
        return len(self.chosen)

    def lookup(self, name: str) -> Column:
        """A bound node or block, a parameter, or a named expression."""
        if name in self.matches.bound:
            return self.matches.bound[name][self.chosen]
        if name in self.matches.params:
            return constant(self.matches.params[name], self.size)
        return self.matches.let(name, self)

    def aggregate(self, function: str, expression: Expression | None) -> Column:
        """A function over all matches of the rule."""
        return self.matches.aggregate(function, expression)[self.chosen]

    def rows(self, chosen: Indices) -> Rows:
        """Some of these."""
        return Rows(self.matches, self.chosen[chosen])


def _severities(rule: Rule, rows: Rows) -> list[Severity | None]:
    """For each match the first severity that holds."""
    found: list[Severity | None] = [None] * rows.size
    open_rows = np.arange(rows.size)
    for condition, severity in rule.program.severities:
        asked = rows.rows(open_rows)
        holds = np.ones(asked.size, np.bool_) if condition is None else condition.holds(asked)
        for row in open_rows[holds].tolist():
            found[row] = severity
        open_rows = open_rows[~holds]
        if not open_rows.size:
            break
    return found


def _one_a_run(findings: list[Finding], labels: list[int]) -> list[Finding]:
    """The worst finding of each run, the first of those; it names the nodes of all."""
    grouped: dict[int, list[Finding]] = {}
    for finding, label in zip(findings, labels, strict=True):
        grouped.setdefault(label, []).append(finding)
    merged = []
    for group in grouped.values():
        worst = min(group, key=lambda finding: SEVERITIES.index(finding.severity))
        nodes = dict.fromkeys(name for finding in group for name in finding.nodes)
        merged.append(Finding(**{**vars(worst), "nodes": tuple(nodes)}))
    return merged
