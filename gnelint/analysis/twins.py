"""Layers of their own weights that start as copies and read the same: they compute the same, for every input.

Values are numbered: two nodes with the same operation on values of the same number and with the same constants give
values of the same number. Parameters count by what they hold where another node like theirs exists, so most are never
read. Copies stay copies where their gradients are equal: in a mean, under the same targets.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from gnelint.ir.graph import Graph, Node, Parameter


def twins(graph: Graph) -> Mapping[str, str]:
    """By the name of a node with trained weights drawn at random: an earlier one that holds a copy of them."""
    numbers: dict[str, Any] = {name: ("input", name) for name in graph.inputs}
    alike: dict[Any, _Alike] = defaultdict(_Alike)
    given: dict[str, int] = {}
    found: dict[str, str] = {}
    for node in graph.nodes:
        key = (
            node.op,
            repr(sorted(node.attributes.items())),
            tuple(None if name is None else numbers.get(name, name) for name in node.inputs),
            tuple((role, parameter.shape) for role, parameter in sorted(node.parameters.items())),
            tuple(graph.values[name].shape for name in node.outputs),
        )
        earlier = alike[key].met(node)
        if earlier is None:
            given[node.name] = len(given)
        else:
            given[node.name] = given[earlier.name]
            if _is_copy(node, earlier):
                found[node.name] = earlier.name
        for place, name in enumerate(node.outputs):
            numbers[name] = (given[node.name], place)
    return found


class _Alike:
    """Nodes that differ in their numbers at most; what is read of a node that is alone here is nothing."""

    def __init__(self) -> None:
        self._alone: Node | None = None
        self._by_numbers: dict[tuple[str, ...], Node] = {}

    def met(self, node: Node) -> Node | None:
        """The first one that holds the numbers of this one, None if it is itself that one."""
        if self._alone is None and not self._by_numbers:
            self._alone = node
            return None
        if self._alone is not None:
            self._by_numbers[_numbers(self._alone)] = self._alone
            self._alone = None
        first = self._by_numbers.setdefault(_numbers(node), node)
        return None if first is node else first


def _numbers(node: Node) -> tuple[str, ...]:
    return tuple(_digest(parameter) for _, parameter in sorted(node.parameters.items()))


def _digest(parameter: Parameter) -> str:
    if parameter.provenance != "data":
        return parameter.name  # stands in for others, or is not drawn yet
    array = np.ascontiguousarray(parameter.array())
    return hashlib.sha1(array.reshape(-1).view(np.uint8).data).hexdigest()


def _is_copy(node: Node, other: Node) -> bool:
    """Whether both have weights of their own that training changes and that are no constants."""
    for role, parameter in node.parameters.items():
        names = {leaf.name for leaf in parameter.leaves}
        own = not names & {leaf.name for leaf in other.parameters[role].leaves}
        if own and parameter.trainable and other.parameters[role].trainable and parameter.size > 1:
            array = parameter.array()
            if bool(np.any(array != array.flat[0])):
                return True
    return False
