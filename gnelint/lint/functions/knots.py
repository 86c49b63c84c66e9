"""Values that are compared with a row of fixed numbers: the grid of splines, the centres of bells, edges of bins."""

from __future__ import annotations

import numpy as np

from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.theory.gaussian.special import normal_cdf

_LEAST = 4
"""Numbers in a row from which on it is a grid."""
_MOVES = frozenset({"expand", "reshape", "identity"})


def knots(facts: Facts, node: Node) -> np.ndarray | None:
    """The numbers, in rising order, all of which a node takes away from each entry that it reads; None of other nodes.

    The entries have an axis of their own for the numbers: x[..., None] - knots.
    """
    stored = node.parameters.get("bias") if node.op == "bias" else None
    if stored is None or stored.provenance != "data" or stored.size < _LEAST or stored.shape[-1:] != (stored.size,):
        return None
    if not _is_spread(facts, node, stored.size):
        return None
    numbers = -float(node.attribute("factor")) * np.asarray(stored.array(), np.float64).reshape(-1)
    rising = np.sort(numbers)
    return rising if np.isfinite(rising).all() and (np.diff(rising) > 0).all() else None


def _is_spread(facts: Facts, node: Node, count: int) -> bool:
    """Whether what a node reads holds each entry as often as there are knots, along its last axis."""
    shape, source = facts.shape(node), facts.producer(node)
    while source is not None and source.op in _MOVES:
        before = facts.graph.values[source.present_inputs[0]].concrete_shape
        if before is not None and before[-1:] == (1,) and shape is not None and shape[-1] == count:
            return True
        source = facts.producer(source)
    return False


def _grid_share(facts: Facts, node: Node) -> float | None:
    """The share of what layers give that lies between the first and the last knot, or one step outside."""
    grid, moments = knots(facts, node), facts.input_moments(node)
    if grid is None or moments is None or node.present_inputs[0] not in facts.learnt_values:
        return None
    mean, deviation, step = moments[0], max(moments[1] - moments[0] ** 2, 0.0) ** 0.5, float(np.diff(grid).max())
    if deviation == 0.0:
        return None
    low, high = (grid[0] - step - mean) / deviation, (grid[-1] + step - mean) / deviation
    return float(normal_cdf(np.array(high)) - normal_cdf(np.array(low)))


KNOTS = (
    function(
        "grid_share(n)",
        "number",
        _grid_share,
        "n takes a row of fixed numbers away from each entry (x[..., None] - grid): the share of the entries that lie "
        "between the first and the last of them; unknown of other nodes and of the network's inputs",
    ),
)
