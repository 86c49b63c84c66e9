"""A graph as arrays of integers, so that a rule is held against all of its nodes at once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from gnelint.ir.graph import Graph, Node
from gnelint.records import cached_property, dataclass

Indices = NDArray[np.intp]
"""Positions of nodes, values or rows; -1 stands for none."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Index:
    """Nodes by their position in topological order, values by a number of their own.

    Attributes:
        graph: what is indexed.
        codes: number of each operation that occurs.
        op: code of each node's operation.
        value_of: number of each value.
        producer: for each value the node that writes it, -1 for a graph input.
        input_start: where the inputs of each node begin in `inputs`; one entry more than there are nodes.
        inputs: values read, node by node, without those left out.
    """

    graph: Graph
    codes: Mapping[str, int]
    op: Indices
    value_of: Mapping[str, int]
    producer: Indices
    input_start: Indices
    inputs: Indices

    @classmethod
    def of(cls, graph: Graph) -> Index:
        """Index a graph, in one pass."""
        codes: dict[str, int] = {}
        op = [codes.setdefault(node.op, len(codes)) for node in graph.nodes]
        value_of: dict[str, int] = {}
        for node in graph.nodes:
            for name in chain(node.outputs, node.present_inputs):
                value_of.setdefault(name, len(value_of))
        producer = np.full(len(value_of), -1, np.intp)
        for position, node in enumerate(graph.nodes):
            for name in node.outputs:
                producer[value_of[name]] = position
        read = [[value_of[name] for name in node.present_inputs] for node in graph.nodes]
        start = np.zeros(len(read) + 1, np.intp)
        np.cumsum([len(values) for values in read], out=start[1:])
        inputs = np.fromiter(chain.from_iterable(read), np.intp, int(start[-1]))
        return cls(graph, codes, np.array(op, np.intp), value_of, producer, start, inputs)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes in topological order."""
        return self.graph.nodes

    @cached_property
    def input_count(self) -> Indices:
        """How many inputs each node reads."""
        return np.diff(self.input_start)

    @cached_property
    def first_input(self) -> Indices:
        """The first value that each node reads, -1 if it reads none."""
        found = np.full(len(self.nodes), -1, np.intp)
        reads = self.input_count > 0
        found[reads] = self.inputs[self.input_start[:-1][reads]]
        return found

    @cached_property
    def read_from(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the nodes whose outputs it reads, in the order of its inputs."""
        writers = self.producer[self.inputs].tolist()
        start = self.input_start.tolist()
        return tuple(tuple(writer for writer in writers[begin:end] if writer >= 0) for begin, end in pairwise(start))

    @cached_property
    def read_by(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the nodes that read one of its outputs, in topological order."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for reader, sources in enumerate(self.read_from):
            for source in sources:
                found[source].append(reader)
        return tuple(tuple(readers) for readers in found)

    def is_op(self, operations: frozenset[str]) -> Mask:
        """For each node, whether its operation is one of these."""
        chosen = np.zeros(len(self.codes), np.bool_)
        for name in operations & self.codes.keys():
            chosen[self.codes[name]] = True
        found: Mask = chosen[self.op]
        return found
