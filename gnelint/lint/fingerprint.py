"""Fingerprints of findings: the same place in the same network, whatever its nodes are called.

A baseline must know a finding again after nodes were renamed or others added. A place is described by structure alone:
the operation, attributes and parameter shapes of its nodes and of the nodes next to them. Places that look the same are
told apart by their number among all places of the network that look so, with a finding or without. Therefore a place
that is mended and another one that breaks do not cancel out, as they would if findings were only counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gnelint.ir.graph import Graph, Node
from gnelint.lint.finding import Finding
from gnelint.records import cached_property, replace

_LENGTH = 16
"""Hexadecimal digits of a fingerprint: 64 bits, far more than the findings of any network need."""
_READING = frozenset({"training"})
"""Attributes that say how the network is read (`--mode`), not what it is."""


def marked(graph: Graph, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings on one graph with their fingerprints."""
    marks = Fingerprints(graph)
    return tuple(replace(finding, fingerprint=marks.of(finding.rule, finding.nodes)) for finding in findings)


class Fingerprints:
    """Gives the findings on one graph their fingerprints, in the order in which they are found."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._given: Counter[str] = Counter()

    def of(self, rule: str, nodes: Sequence[str]) -> str:
        """The fingerprint of the next finding of a rule about these nodes (none: about the whole network)."""
        places = [self._surroundings[name] for name in nodes]
        number = self._numbers[nodes[0]] if nodes else 0
        found = _digest(rule, number, *places)
        self._given[found] += 1
        return found if self._given[found] == 1 else _digest(found, self._given[found])

    @cached_property
    def _surroundings(self) -> dict[str, str]:
        """Each node's own label with those of its neighbours."""
        graph = self._graph
        labels = {node.name: _label(node) for node in graph.nodes}

        def before(value: str | None) -> str:
            producer = None if value is None else graph.producers.get(value)
            return "input" if producer is None else labels[producer.name]

        def around(node: Node) -> str:
            behind = sorted(labels[user.name] for name in node.outputs for user in graph.consumers.get(name, ()))
            return _digest(labels[node.name], *map(before, node.inputs), "->", *behind)

        return {node.name: around(node) for node in graph.nodes}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The number of each node among those with the same surroundings, in topological order."""
        seen: defaultdict[str, int] = defaultdict(int)
        numbers = {}
        for node in self._graph.nodes:
            place = self._surroundings[node.name]
            numbers[node.name] = seen[place]
            seen[place] += 1
        return numbers


def _label(node: Node) -> str:
    attributes = sorted((name, _plain(value)) for name, value in node.attributes.items() if name not in _READING)
    shapes = sorted((role, parameter.shape) for role, parameter in node.parameters.items())
    return repr((node.op, attributes, shapes))


def _plain(value: Any) -> Any:
    """A value whose text is the same on every machine and with every version of numpy."""
    if isinstance(value, np.ndarray):
        return ("array", value.shape)
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value if isinstance(value, (bool, int, str)) or value is None else type(value).__name__


def _digest(*parts: object) -> str:
    import hashlib  # slow to import, and only findings need it

    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:_LENGTH]
