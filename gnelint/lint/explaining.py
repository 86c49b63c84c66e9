"""Findings that another one explains: a rule file names the rules that it yields to, and where one of those speaks of
the same place, what the rule itself says there is left out.

The place of a finding is its nodes with parameters, or all of its nodes where none has any; a finding without nodes is
about the whole network, and speaks of every node. Only what was found counts: a rule that does not run explains
nothing, and neither does one that found nothing there. What a user has accepted (a suppression, a baseline) was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gnelint.ir.graph import Graph
    from gnelint.lint.finding import Finding

WHOLE = ""
"""Stands for the whole network among the names of nodes; no node is called so."""


def unexplained(graph: Graph, findings: Sequence[Finding], yields: Mapping[str, Iterable[str]]) -> list[Finding]:
    """The findings without those that others explain.

    Findings that are left out explain as well: what explains those speaks of all of their place, so that at every place
    of which something was found something is left, as long as no rule yields to itself by way of others (`cycle`).

    Args:
        graph: the network.
        findings: what all rules found.
        yields: the rules that each rule yields to, by its id; those that are not named yield to none.
    """
    spoken: dict[str, set[str]] = {}
    for finding in findings:
        spoken.setdefault(finding.rule, set()).update(finding.nodes or (WHOLE,))
    return [
        finding
        for finding in findings
        if not _is_explained(_place(graph, finding), [spoken.get(rule, set()) for rule in yields.get(finding.rule, ())])
    ]


def _place(graph: Graph, finding: Finding) -> tuple[str, ...]:
    weighted = tuple(name for name in finding.nodes if graph.node(name).parameters)
    return weighted or finding.nodes or (WHOLE,)


def _is_explained(place: Sequence[str], spoken: Sequence[set[str]]) -> bool:
    return all(any(name in nodes or WHOLE in nodes for nodes in spoken) for name in place)


def cycle(yields: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Ids of rules each of which yields to the next and the last to the first, so that all would fall silent; or ()."""
    done: set[str] = set()

    def search(rule: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if rule in path:
            return path[path.index(rule) :]
        if rule in done:
            return ()
        found = next((loop for other in yields.get(rule, ()) if (loop := search(other, (*path, rule)))), ())
        done.add(rule)
        return found

    return next((loop for rule in yields if (loop := search(rule, ()))), ())
