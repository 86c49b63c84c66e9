"""Findings that a user has accepted: suppressed by rule and node, in the configuration or in the model file itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gnelint.lint.selection import names, no_such_rule
from gnelint.records import dataclass

if TYPE_CHECKING:
    from gnelint.ir.graph import Graph
    from gnelint.lint.finding import Finding
    from gnelint.lint.rulefile import RuleSet

_DEEPEST = 50
"""Calls within each other, beyond what a reader enters."""


@dataclass(frozen=True)
class Suppression:
    """What is to be left out of the report.

    Attributes:
        rules: selectors: ids, beginnings of ids, or ALL.
        nodes: globs over the names of nodes and blocks.
        names: such names themselves. Neither: every place, the whole network included.
        source: who says so, for people ("gnelint.toml: suppress[0]").
    """

    rules: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    source: str = ""
    names: tuple[str, ...] = ()


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
    at: dict[str, list[int]] = {}
    for index, finding in enumerate(findings):
        for name in {*finding.nodes, *(() if finding.block is None else (finding.block,))}:
            at.setdefault(name, []).append(index)
    rules = frozenset(ran)
    left_out: set[int] = set()
    verdicts = []
    for suppression in suppressions:
        here = _covered(suppression, at, len(findings))
        for selector in suppression.rules:
            covered = {index for index in here if names(selector, findings[index].rule)}
            left_out |= covered
            ran_here = any(names(selector, rule) for rule in rules)
            verdicts.append(Verdict(suppression.source, selector, bool(covered) if ran_here else None))
    kept = tuple(finding for index, finding in enumerate(findings) if index not in left_out)
    return Suppressed(kept, len(left_out), tuple(verdicts))


def _covered(suppression: Suppression, at: Mapping[str, Sequence[int]], count: int) -> set[int]:
    """Indices of the findings at the suppression's places: about one of the nodes, or in one of the blocks."""
    if not suppression.nodes and not suppression.names:
        return set(range(count))
    meant = [name for pattern in suppression.nodes for name in at if fnmatchcase(name, pattern)]
    return {index for name in (*meant, *suppression.names) for index in at.get(name, ())}


def in_model(graph: Graph) -> tuple[Suppression, ...]:
    """What the model file itself says is to be left out (`gnelint.ignore` in its metadata)."""
    if not graph.ignores:
        return ()
    # one node of the file may have become several here, be a part of one, or be a call whose body was entered
    meant: dict[str, list[str]] = {name: [] for name in graph.ignores}
    for node in graph.nodes:
        parts = node.name.split("/", _DEEPEST)
        callers = ("/".join(parts[:end]) for end in range(1, len(parts)))
        for name in {node.name, *node.sources, *callers} & meant.keys():
            meant[name].append(node.name)
    return tuple(_in_model(graph.name, name, selectors, meant[name]) for name, selectors in graph.ignores.items())


def _in_model(model: str, name: str, selectors: tuple[str, ...], nodes: Sequence[str]) -> Suppression:
    if not name:
        return Suppression(selectors, source=f"{model}: gnelint.ignore of the model")
    return Suppression(selectors, source=f'{model}: gnelint.ignore of node "{name}"', names=tuple(nodes) or (name,))


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
