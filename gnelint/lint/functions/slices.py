"""What a loop over slices of one value does to the gradient from its last step to its first, as it is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from gnelint.ir.graph import Graph, Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families

_RECURRENT = families()["recurrent"]


def _starts_loop(node: Node) -> tuple[str, int] | None:
    """The value and axis whose first entry a slice takes."""
    if node.op != "slice" or len(node.attribute("axes")) != 1 or node.attribute("starts") != (0,):
        return None
    return (node.present_inputs[0], node.attribute("axes")[0]) if node.attribute("ends") == (1,) else None


def _slices(graph: Graph, node: Node) -> list[Node]:
    """The slices of one entry each that follow on this first one, in order."""
    start = _starts_loop(node)
    if start is None:
        return []
    value, axis = start
    found = {
        each.attribute("starts")[0]: each
        for each in graph.consumers.get(value, ())
        if each.op == "slice" and each.attribute("axes") == (axis,)
        if each.attribute("ends")[0] == each.attribute("starts")[0] + 1
    }
    return [found[step] for step in takewhile(found.__contains__, range(len(found)))]


def _readers(graph: Graph, node: Node) -> Iterator[Node]:
    for name in node.outputs:
        for reader in graph.consumers.get(name, ()):
            yield from _readers(graph, reader) if reader.op in ("reshape", "identity") else (reader,)


def _is_of_cells(graph: Graph, node: Node) -> bool:
    """Whether a recurrent cell reads a slice: of those there is more to say than this."""
    return any(reader.op in _RECURRENT for reader in _readers(graph, node))


def _loop_bits(facts: Facts, node: Node) -> float | None:
    """log2 of the squared gradient norm at the first slice over that at the last one."""
    steps = _slices(facts.graph, node)
    if len(steps) < 2 or _is_of_cells(facts.graph, node):
        return None
    ends = [facts.of(each) for each in (steps[0], steps[-1])]
    known = [None if each is None else each.gradient_log2 for each in ends]
    return None if known[0] is None or known[1] is None else known[0] - known[1]


SLICES = (
    function(
        "loop_steps(n)",
        "number",
        lambda facts, node: float(len(_slices(facts.graph, node))),
        "of a loop whose first step reads the slice n: how many steps read slices of the same value, one after another",
    ),
    function(
        "loop_bits(n)",
        "number",
        _loop_bits,
        "log2 of the squared gradient norm at the first slice n of a loop over that at the last one; unknown for cells",
    ),
)
