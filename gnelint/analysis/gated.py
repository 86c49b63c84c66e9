"""Parts of a network in which products of what one value makes follow each other with no normalisation between.

Both factors of a product grow with the value that they are projected from, so that each product doubles the deviation
of log q, q being a position's own average square. After a few the largest positions have all of the gradient: its
average is far above what the average position gets (theory 9.5). Samples are told apart by the rank of their q; the
positions within one are not, and the run itself says what they do.
"""

from __future__ import annotations

from gnelint.analysis.regions import LARGE
from gnelint.ir.graph import Graph, Node
from gnelint.ops import families

_FEW = 2
"""Products from which on the second one doubles what the first has."""
_BOUNDED = frozenset({"hardsigmoid", "hardtanh", "sigmoid", "softmax", "softsign", "tanh"})
_ONE_BY_ONE = families()["activation"] | {"bias", "dropout", "identity", "scale", "slice", "split"}
_BETWEEN = (
    families()["activation"]
    | {"add", "bias", "concat", "dropout", "identity", "linear", "mul"}
    | {"reshape", "scale", "slice", "split", "sub", "transpose"}
)
"""What may stand between: not convolutions, whose taps see several positions and even their scales out."""


def gated_runs(graph: Graph) -> tuple[frozenset[str], ...]:
    """Names of the products of each run, one behind the other, with what projects the factors of the first."""
    runs: list[set[str]] = []
    before: list[set[str]] = []
    run_of: dict[str, int] = {}
    starts: list[int] = []
    bounded: set[str] = set()
    for place, node in enumerate(graph.gradient_nodes):
        if node.op not in _BETWEEN:
            bounded.update(node.outputs if node.op in _BOUNDED else ())
            continue
        run = max((run_of[name] for name in node.present_inputs if name in run_of), default=None)
        if _doubles(graph, node, bounded):
            if run is None or place - starts[run] >= LARGE:
                run = len(runs)
                runs.append(set())
                starts.append(place)
                before.append(_projections(graph, node))
            runs[run].add(node.name)
        if node.op in _BOUNDED or (node.op != "mul" and bounded.issuperset(node.present_inputs)):
            bounded.update(node.outputs)
        if run is not None:
            run_of.update(dict.fromkeys(node.outputs, run))
    return tuple(frozenset(run | first) for run, first in zip(runs, before, strict=True) if len(run) >= _FEW)


def _projections(graph: Graph, product: Node) -> set[str]:
    """Names of the weights in front of a product's operands, with nothing but functions of one entry between."""
    found = set()
    for name in product.present_inputs:
        node = graph.producers.get(name)
        while node is not None and node.op in _ONE_BY_ONE and node.present_inputs:
            node = graph.producers.get(node.present_inputs[0])
        if node is not None and node.op == "linear":
            found.add(node.name)
    return found


def _doubles(graph: Graph, node: Node, bounded: set[str]) -> bool:
    """Whether a node multiplies two values of one size, neither of them bounded, that have positions in a sample."""
    operands = [name for name in node.present_inputs if name in graph.gradient_values]
    shapes = [graph.values[name].shape for name in operands]
    if node.op != "mul" or len(operands) < 2 or bounded & set(operands):
        return False
    return shapes[0] == shapes[1] and shapes[0] is not None and len(shapes[0]) > 2
