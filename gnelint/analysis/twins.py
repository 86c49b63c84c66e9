"""Layers of their own weights that start as copies and read the same: they compute the same, for every input.

Values are numbered: two nodes with the same operation on values of the same number and with the same constants give
values of the same number. Parameters count by what they hold where another node like theirs exists, so most are never
read. Copies stay copies where their gradients are equal: in a mean, under the same targets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gnelint.ir.graph import Graph, Node, Parameter
from gnelint.ir.mapped import pieces, taken


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
    """Nodes that differ in their numbers at most; what is read of a node that is alone here is nothing.

    Args:
        tests: what tells nodes apart, the least costly first; those that none does hold the same.
    """

    def __init__(self, tests: tuple[Callable[[Parameter], str], ...] | None = None) -> None:
        self._tests = (beginning, _digest) if tests is None else tests
        self._alone: Node | None = None
        self._groups: dict[tuple[str, ...], _Alike] = {}

    def met(self, node: Node) -> Node | None:
        """The first one that holds the numbers of this one, None if it is itself that one."""
        if self._alone is None and not self._groups:
            self._alone = node
            return None
        if not self._tests:
            return self._alone
        if self._alone is not None:
            other, self._alone = self._alone, None
            self._group(other).met(other)
        return self._group(node).met(node)

    def _group(self, node: Node) -> _Alike:
        key = tuple(self._tests[0](parameter) for _, parameter in sorted(node.parameters.items()))
        return self._groups.setdefault(key, _Alike(self._tests[1:]))


_FIRST = 16
"""Entries along an axis by which most tensors differ."""
_ROWS = 1 << 20
"""Entries that are hashed at a time."""


def beginning(parameter: Parameter) -> str:
    """What tells most parameters apart: their first entries along each axis, or the name where nothing is known."""
    if _is_unknown(parameter):
        return parameter.name
    array = parameter.array()
    return taken(array[tuple(slice(_FIRST) for _ in array.shape)]).tobytes().hex()


def _digest(parameter: Parameter) -> str:
    if _is_unknown(parameter):
        return parameter.name
    if parameter.law is not None:
        return repr(parameter.law)
    import hashlib  # slow to import, and few networks have such blocks

    array, digest = np.atleast_1d(parameter.array()), hashlib.sha1(usedforsecurity=False)
    for _, piece in pieces(array, max(1, _ROWS // max(1, array[:1].size))):
        digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _is_unknown(parameter: Parameter) -> bool:
    """Whether the numbers stand in for others, or nobody has drawn them."""
    return parameter.provenance != "data"


def _is_copy(node: Node, other: Node) -> bool:
    """Whether both have weights of their own that training changes and that are no constants."""
    for role, parameter in node.parameters.items():
        names = {leaf.name for leaf in parameter.leaves}
        own = not names & {leaf.name for leaf in other.parameters[role].leaves}
        if own and parameter.trainable and other.parameters[role].trainable and parameter.size > 1:
            if parameter.law is not None:
                continue
            array = parameter.array()
            if bool(np.any(array != array.flat[0])):
                return True
    return False
