"""Parts of a graph network in which neighbours pass on what neighbours have passed to them.

A sum over neighbours makes entries alike that lie side by side, and its gradient too. The next sum over the same edges
adds up what is alike: a triangle, a loop at each node, two ways to one neighbour give more than the sum of energies.
How much is a matter of the edges, which a covariance between any two entries does not know; the run itself does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gnelint.analysis.regions import LARGE
from gnelint.ir.graph import UNMODELLED, Graph, Node, Parameter
from gnelint.theory.weights.contraction import is_nonnegative

_FEW = 2
"""Sums over neighbours from which on the second adds up what the first has made alike."""
_LARGEST = 1 << 24
"""Entries of a matrix up to which it is looked at."""
_SHOWN = 0.5
"""Share of the positions that a mask may show, for it to be a graph's."""
_SUMS = frozenset({
    "aten.scatter_add", "aten.scatter_reduce", "aten.index_add", "aten.index_reduce", "aten.index_put",
    "aten.segment_reduce", "ScatterElements", "ScatterND",
})  # fmt: skip
"""Operations that add up entries whose places a table gives, as they are called where the network comes from."""


def passing_runs(graph: Graph, moves: Callable[[str], bool]) -> tuple[frozenset[str], ...]:
    """Names of the sums over neighbours of each run, one behind the other.

    Args:
        graph: the network.
        moves: whether a value depends on its floating inputs: where it says who is a neighbour, as a router does, the
            places are others for each draw. Asked of few values, and of none in most networks.
    """
    runs: list[set[str]] = []
    run_of: dict[str, int] = {}
    starts: list[int] = []
    for place, node in enumerate(graph.gradient_nodes):
        before = {run_of[name] for name in node.present_inputs if name in run_of}
        run = max(before, default=None)
        if _adds_neighbours(graph, node, moves):
            if run is None or place - starts[run] >= LARGE:
                run = len(runs)
                runs.append(set())
                starts.append(place)
            runs[run].add(node.name)
        if run is not None:
            run_of.update(dict.fromkeys(node.outputs, run))
    return tuple(frozenset(run) for run in runs if len(run) >= _FEW)


def _adds_neighbours(graph: Graph, node: Node, moves: Callable[[str], bool]) -> bool:
    return _scatters(graph, node, moves) or _is_adjacency(graph, node) or _attends_to_neighbours(graph, node)


def _scatters(graph: Graph, node: Node, moves: Callable[[str], bool]) -> bool:
    """Whether a node adds up entries whose places do not depend on them."""
    source = node.source_op or ""
    if node.op != UNMODELLED or not (source in _SUMS or source.rpartition(".")[0] in _SUMS):
        return False
    places = [name for name in node.present_inputs if (graph.values[name].dtype or "").startswith("int")]
    return bool(places) and not any(map(moves, places))


def _is_adjacency(graph: Graph, node: Node) -> bool:
    """Whether a node adds up positions, which a transposition has put last, by a matrix that nobody trains."""
    weight = node.parameters.get("weight")
    if node.op != "linear" or weight is None or weight.kind not in ("buffer", "constant"):
        return False
    producer = graph.producers.get(node.present_inputs[0])
    if producer is None or producer.op != "transpose" or weight.size > _LARGEST:
        return False
    return is_nonnegative(weight.array())


def _attends_to_neighbours(graph: Graph, node: Node) -> bool:
    """Whether a node adds up positions by weights that a constant mask leaves between neighbours alone."""
    if node.op == "attention":
        return _tells_neighbours(node.parameters.get("mask"))
    if node.op != "matmul":
        return False
    source = graph.producers.get(node.present_inputs[0])
    while source is not None and source.op in ("transpose", "reshape", "identity", "dropout"):
        source = graph.producers.get(source.present_inputs[0])
    return source is not None and source.op == "softmax" and _tells_neighbours(source.parameters.get("mask"))


def _tells_neighbours(mask: Parameter | None) -> bool:
    """Whether a mask shows few positions to each, and each the other: edges of a graph, no order, no moving window."""
    if mask is None or mask.size > _LARGEST or len(mask.shape) < 2:
        return False
    wide = [size for size in mask.shape if size > 1]
    if len(wide) != 2 or wide[0] != wide[1]:
        return False
    seen = np.asarray(mask.array()).reshape(wide)
    seen = seen if seen.dtype == bool else seen >= 0
    mutual = seen.mean() < _SHOWN and (seen == seen.T).all()
    return bool(mutual and (seen[1:, 1:] != seen[:-1, :-1]).any())
