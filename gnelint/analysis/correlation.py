"""Which joins of a graph read operands that are not independent.

Two branches that come from one value are uncorrelated if a layer of independent, zero-mean weights stands in one of
them (theory 4.3). `x + relu(x)` has none: its phi is 2.5, where adding the branches' own gives
1.5. Such joins are found here, so that their numbers are not passed off as better than they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Set

from gnelint.ir.graph import Graph, Node
from gnelint.ops import families

CORRELATED = "its operands come from one value with no weights between; their correlation is left out"

_JOINS = frozenset({"add", "sub", "mul", "div", "mean", "maximum", "minimum", "where"})
_INDEPENDENT = families()["recurrent"] | {
    "linear", "conv", "conv_transpose", "embedding", "matmul", "attention", "constant", "split", "slice", "gather",
}  # fmt: skip
"""What leaves an operation of these is independent of what entered, or are different entries of it."""
_MOST = 64
"""Sources remembered for a value: the newest, which keeps the search linear in deep residual networks."""


def correlated_joins(graph: Graph) -> frozenset[str]:
    """Names of the joins two of whose operands share a source that no weights separate from both."""
    sources: dict[str, frozenset[int]] = {name: frozenset({-1 - i}) for i, name in enumerate(graph.inputs)}
    fresh = 0
    found: set[str] = set()
    for node in graph.nodes:
        operands = [sources.get(name, frozenset()) for name in _operands(node)]
        if node.op in _JOINS and have_in_common(operands):
            found.add(node.name)
        for name in node.outputs:
            if node.op in _INDEPENDENT:
                fresh += 1
                sources[name] = frozenset({fresh})
            else:
                sources[name] = frozenset(sorted(frozenset().union(*operands))[-_MOST:])
    return frozenset(found)


def have_in_common(sets: Iterable[Set[Hashable]]) -> bool:
    """Whether two of them have a member in common."""
    seen: set[Hashable] = set()
    for each in sets:
        if not seen.isdisjoint(each):
            return True
        seen |= each
    return False


def _operands(node: Node) -> tuple[str, ...]:
    """The inputs that carry numbers: the condition of a `where` only chooses."""
    return node.present_inputs[1:] if node.op == "where" else node.present_inputs
