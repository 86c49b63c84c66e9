"""Layers that follow each other and start with the same numbers in weights of their own: a block was copied.

copy.deepcopy copies the draw, so a stack of copies starts as one block that is used again and again. Of what reads the
same `gnelint.analysis.twins` tells; shared layers hold one tensor and are none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from gnelint.analysis.repeats import matrices, numbers_of
from gnelint.analysis.twins import beginning
from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.ops import families
from gnelint.records import dataclass
from gnelint.theory.weights.statistics import WeightStatistics

_LAYERS = families()["recurrent"] | {"linear", "conv", "conv_transpose"}


@dataclass(frozen=True)
class Stack:
    """Blocks behind each other that start as copies of the first.

    Attributes:
        rows: the layers of each kind, from block to block; those of one row hold the same numbers.
    """

    rows: tuple[tuple[Node, ...], ...]

    @property
    def first(self) -> Node:
        """The layer at which it begins."""
        return self.rows[0][0]

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return max(len(row) for row in self.rows)


def stacks(graph: Graph, weights: Mapping[str, WeightStatistics]) -> tuple[Stack, ...]:
    """The stacks of copies, in topological order; rows whose layers come in turns are one stack.

    Args:
        graph: the network.
        weights: what is known of its weights; copies agree in all of it.
    """
    found: list[list[tuple[Node, ...]]] = []
    end = -1
    for row in sorted(_rows(graph, weights), key=lambda row: graph.positions[row[0].name]):
        if graph.positions[row[0].name] > end:
            found.append([])
        found[-1].append(row)
        end = max(end, graph.positions[row[-1].name])
    return tuple(Stack(tuple(rows)) for rows in found)


def _rows(graph: Graph, weights: Mapping[str, WeightStatistics]) -> Iterator[tuple[Node, ...]]:
    """Layers of trained weights of their own, each behind the one before, that hold the same numbers."""
    alike: dict[Hashable, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        held = [each for each in matrices(node) if each.trainable]
        if held and node.op in _LAYERS:
            alike[node.op, tuple(_held(each, weights) for each in held)].append(node)
    for nodes in alike.values():
        own = list({_tensors(node): node for node in reversed(nodes)}.values())[::-1]
        row = _chain(graph, own) if len(own) > 1 else ()
        if len(row) > 1 and any(_is_drawn(each) for each in matrices(row[0])):
            yield row


def _is_drawn(parameter: Parameter) -> bool:
    """Whether most entries are not zero: identities are meant to start alike."""
    return parameter.law is None and 2 * int(np.count_nonzero(parameter.array())) > parameter.size


def _held(parameter: Parameter, weights: Mapping[str, WeightStatistics]) -> Hashable:
    """What tells a matrix from those that do not hold its numbers; of recurrent layers nobody keeps statistics."""
    if parameter.name in weights or parameter.law is not None:
        return numbers_of(parameter, weights)
    return parameter.shape, beginning(parameter)


def _tensors(node: Node) -> frozenset[str]:
    """The stored tensors that its matrices are made of."""
    return frozenset(leaf.name for each in matrices(node) for leaf in each.leaves)


def _chain(graph: Graph, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The longest row of nodes each of which reads what the one before made."""
    wanted = {node.name for node in nodes}
    longest: dict[str, tuple[Node, ...]] = {}
    best: tuple[Node, ...] = ()
    for node in graph.nodes[graph.positions[nodes[0].name] : graph.positions[nodes[-1].name] + 1]:
        before = max((longest.get(name, ()) for name in node.present_inputs), key=len, default=())
        row = (*before, node) if node.name in wanted else before
        if row:
            longest.update(dict.fromkeys(node.outputs, row))
        best = max(best, row, key=len)
    return best
