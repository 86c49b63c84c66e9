"""An editable view of a graph: who writes and who reads each value, kept right while nodes are replaced."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from gnelint.ir.graph import Graph, Node, Parameter, Value

SeenThrough = frozenset({"identity"})
"""Operations that change neither the numbers nor their order; idioms look through them."""


class Rewriter:
    """The graph under the idioms' hands.

    An idiom replaces the last node of what it recognised. The nodes in front of it go when nothing reads them any more,
    so a value that something else needs is simply kept: the replacement is right in either case.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes = {node.name: node for node in graph.nodes}
        self._inserted: dict[str, list[str]] = defaultdict(list)
        self._anchors: dict[str, str] = {}
        self._producers = {name: node.name for node in graph.nodes for name in node.outputs}
        self._readers: dict[str, Counter[str]] = defaultdict(Counter)
        for node in graph.nodes:
            self._readers_of(node, +1)
        self._values = dict(graph.values)
        self._pinned = set(graph.outputs) | graph.captured
        self.replaced = 0

    def __iter__(self) -> Iterator[Node]:
        """The nodes that are left, in topological order; nodes may be replaced while iterating."""
        for original in self._graph.nodes:
            for name in (*self._inserted.get(original.name, ()), original.name):
                if name in self._nodes:
                    yield self._nodes[name]

    @property
    def source_world(self) -> str:
        """The world that the graph was read from."""
        return self._graph.source

    def graph(self) -> Graph:
        """The graph as it is now."""
        return replace(self._graph, nodes=tuple(self), values=dict(self._values)) if self.replaced else self._graph

    def producer(self, value: str | None, *ops: str) -> Node | None:
        """The node that writes a value, if it is one of these operations (any if none is named)."""
        name = None if value is None else self._producers.get(value)
        if name is None:
            return None
        node = self._nodes[name]
        return node if not ops or node.op in ops else None

    def behind(self, value: str | None) -> str | None:
        """The value itself, or the one it is a mere copy of."""
        while (node := self.producer(value, *SeenThrough)) is not None and self.is_floating(node.inputs[0]):
            value = node.inputs[0]
        return value

    def source(self, value: str | None, *ops: str) -> Node | None:
        """The node that computes a value, copies taken away, if it is one of these operations."""
        return self.producer(self.behind(value), *ops)

    def same(self, first: str | None, second: str | None) -> bool:
        """Whether two values are copies of one."""
        return first is not None and self.behind(first) == self.behind(second)

    def sole_reader(self, value: str) -> Node | None:
        """The node that reads a value, if it is the only use there is."""
        readers = self._readers[value]
        if value in self._pinned or readers.total() != 1:
            return None
        return self._nodes[next(name for name, count in readers.items() if count)]

    def uses(self, value: str) -> int:
        """How often a value is read or handed on, itself or as copies of it."""
        found, waiting = 0, [value]
        while waiting:
            name = waiting.pop()
            found += name in self._pinned
            for reader, count in self._readers[name].items():
                node = self._nodes.get(reader)
                if node is not None and node.op in SeenThrough:
                    waiting += node.outputs
                else:
                    found += count
        return found

    def drop_unread_copies(self) -> None:
        """Drop copies that nothing reads, and what only they read: what loops hand on that nobody asks for."""
        for node in reversed(list(self)):
            if node.op in SeenThrough and node.name in self._nodes and self.uses(node.outputs[0]) == 0:
                self._sweep(node.outputs)

    def without_unread(self, node: Node) -> Node:
        """A node that writes of its values behind the first those that something reads."""
        unread = [name for name in node.outputs[1:] if name not in self._pinned and not self._readers[name].total()]
        if not unread:
            return node
        for name in unread:
            del self._producers[name], self._values[name]
        kept = replace(node, outputs=tuple(name for name in node.outputs if name not in unread))
        self._nodes[node.name] = kept
        return kept

    def position(self, node: Node) -> int:
        """Where a node stands in the graph as it was; -1 for one that has been put in."""
        return self._graph.positions.get(node.name, -1)

    def next_of(self, value: str, *ops: str) -> Node | None:
        """The only node that reads a value, copies passed over, if it is one of these operations."""
        node = self.sole_reader(value)
        while node is not None and node.op in SeenThrough:
            node = self.sole_reader(node.outputs[0])
        return node if node is not None and node.op in ops else None

    def value(self, name: str) -> Value:
        """What is known of a value."""
        return self._values[name]

    def is_floating(self, name: str | None) -> bool:
        """Whether a value can carry a gradient."""
        return name is not None and self._values[name].is_floating

    def shape(self, name: str | None) -> tuple[int | str, ...] | None:
        """A value's shape, None if it is not known."""
        return None if name is None else self._values[name].shape

    def rank(self, name: str | None) -> int | None:
        """A value's number of axes, None if it is not known."""
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def insert(self, node: Node, value: Value, before: Node) -> None:
        """Put a new node in front of another one."""
        self._nodes[node.name] = node
        self._anchors[node.name] = anchor = self._anchors.get(before.name, before.name)
        row = self._inserted[anchor]
        row.insert(row.index(before.name) if before.name in row else len(row), node.name)
        self._producers[value.name] = node.name
        self._values[value.name] = value
        self._readers_of(node, +1)

    def replace(
        self,
        last: Node,
        op: str,
        inputs: tuple[str | None, ...],
        idiom: str,
        attributes: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Node:
        """Let one canonical node compute what `last` did; drop the nodes in front that nothing reads any more.

        The new node has the name, place and outputs of `last`, and in `sources` the names of all that it replaced.
        """
        outputs = last.outputs
        node = replace(
            last,
            op=op,
            inputs=inputs,
            outputs=outputs,
            attributes=dict(attributes or {}),
            parameters=dict(parameters or {}),
            source_op=idiom,
        )
        self._readers_of(last, -1)
        self._readers_of(node, +1)
        self._nodes[last.name] = node
        dropped = self._sweep(last.present_inputs)
        sources = tuple(name for one in (*dropped, last) for name in (one.sources or (one.name,)))
        node = replace(node, sources=tuple(dict.fromkeys(sources)))
        self._nodes[last.name] = node
        self.replaced += 1
        return node

    def extend(self, first: Node, last: Node, parameters: Mapping[str, Parameter]) -> None:
        """Let `first` do what `last`, the only reader of its output, did to it, and write the outputs of `last`."""
        sources = tuple(name for node in (first, last) for name in (node.sources or (node.name,)))
        del self._nodes[last.name]
        self._readers_of(last, -1)
        for name in first.outputs:
            del self._producers[name], self._values[name]
        self._nodes[first.name] = replace(first, outputs=last.outputs, parameters=dict(parameters), sources=sources)
        self._producers.update((name, first.name) for name in last.outputs)
        self.replaced += 1

    def _sweep(self, candidates: Iterable[str]) -> tuple[Node, ...]:
        """Drop the nodes behind these values that nothing reads, and what only they read; in topological order."""
        dropped: list[Node] = []
        waiting = list(dict.fromkeys(candidates))
        while waiting:
            node = self.producer(waiting.pop())
            if node is None or any(name in self._pinned or self._readers[name].total() for name in node.outputs):
                continue
            del self._nodes[node.name]
            for name in node.outputs:
                del self._producers[name], self._values[name]
            self._readers_of(node, -1)
            dropped.append(node)
            waiting.extend(dict.fromkeys(node.present_inputs))
        positions = self._graph.positions
        return tuple(sorted(dropped, key=lambda node: positions.get(node.name, -1)))

    def _readers_of(self, node: Node, change: int) -> None:
        for name in node.present_inputs:
            self._readers[name][node.name] += change


def scalar(parameter: Parameter) -> float | None:
    """The number in a parameter of one entry; None for a larger one, or one whose numbers are not there to be read."""
    if parameter.size != 1 or parameter.provenance == "initializer":
        return None
    return float(parameter.array().reshape(-1)[0])


def affine(node: Node) -> tuple[float, float] | None:
    """(a, b) if the node computes a x + b with two plain numbers, else None."""
    if node.op == "scale":
        number = scalar(node.parameters["scale"]) if "scale" in node.parameters else 1.0
        if number is None or (number == 0.0 and node.attribute("reciprocal")):
            return None
        return node.attribute("factor") * (1.0 / number if node.attribute("reciprocal") else number), 0.0
    if node.op == "bias":
        number = scalar(node.parameters["bias"]) if "bias" in node.parameters else None
        return None if number is None else (1.0, node.attribute("factor") * number)
    return None
