"""Findings that a user has accepted: suppressed by rule and node, in the configuration or in the model file itself."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gnelint.graph import Graph
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import RuleSet
from gnelint.lint.selection import names, no_such_rule


@dataclass(frozen=True)
class Suppression:
    """What is to be left out of the report.

    Attributes:
        rules: selectors: ids, beginnings of ids, or ALL.
        nodes: globs over the names of nodes and blocks; empty for every place, the whole network included.
        source: who says so, for people ("gnelint.toml: suppress[0]").
    """

    rules: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    source: str = ""

    def at(self, finding: Finding) -> bool:
        """Whether the finding is at one of the places: about a node, or in a block, that a glob matches."""
        if not self.nodes:
            return True
        found = (*finding.nodes, *(() if finding.block is None else (finding.block,)))
        return any(fnmatchcase(name, pattern) for pattern in self.nodes for name in found)


@dataclass(frozen=True)
class Verdict:
    """Whether a suppression did something for one of its selectors.

    Attributes:
        source, selector: which one.
        used: whether it left a finding out; None if none of the rules it names ran.
    """

    source: str
    selector: str
    used: bool | None


@dataclass(frozen=True)
class Suppressed:
    """The findings that are left, how many are not, and what became of each suppression."""

    findings: tuple[Finding, ...]
    count: int = 0
    verdicts: tuple[Verdict, ...] = ()


def suppress(findings: Sequence[Finding], suppressions: Sequence[Suppression], ran: Iterable[str]) -> Suppressed:
    """Leave findings out.

    Args:
        findings: what the rules found.
        suppressions: what is accepted.
        ran: ids of the rules that ran; of the others nothing can be said.
    """
    kept = list(findings)
    verdicts = []
    rules = tuple(ran)
    for suppression in suppressions:
        here = [finding for finding in findings if suppression.at(finding)]
        for selector in suppression.rules:
            covered = {id(finding) for finding in here if names(selector, finding.rule)}
            kept = [finding for finding in kept if id(finding) not in covered]
            ran_here = any(names(selector, rule) for rule in rules)
            verdicts.append(Verdict(suppression.source, selector, bool(covered) if ran_here else None))
    return Suppressed(tuple(kept), len(findings) - len(kept), tuple(verdicts))


def in_model(graph: Graph) -> tuple[Suppression, ...]:
    """What the model file itself says is to be left out (`gnelint.ignore` in its metadata)."""
    return tuple(_in_model(graph, name, selectors) for name, selectors in graph.ignores.items())


def _in_model(graph: Graph, name: str, selectors: tuple[str, ...]) -> Suppression:
    if not name:
        return Suppression(selectors, (), f"{graph.name}: gnelint.ignore of the model")
    # one node of the file may have become several here, be a part of one, or be a call whose body was entered
    meant = [node.name for node in graph.nodes if node.name == name or name in node.sources]
    meant += [node.name for node in graph.nodes if node.name.startswith(f"{name}/")]
    nodes = tuple(glob.escape(one) for one in (meant or [name]))
    return Suppression(selectors, nodes, f'{graph.name}: gnelint.ignore of node "{name}"')


def unused(verdicts: Iterable[Verdict], rules: RuleSet) -> tuple[str, ...]:
    """One sentence for each selector of a suppression that left nothing out of any network it was tried on."""
    used: dict[tuple[str, str], bool | None] = {}
    for verdict in verdicts:
        key = (verdict.source, verdict.selector)
        used[key] = used.get(key) or verdict.used
    sentences = []
    for (source, selector), was in used.items():
        if not any(names(selector, rule.id) for rule in rules.rules):
            sentences.append(str(no_such_rule(selector, rules, source)))
        elif was is False:
            sentences.append(f"{source}: {selector} suppresses nothing. Remove it.")
    return tuple(sentences)
