"""Units that no input at all switches on, from bounds on what their layer reads."""

from __future__ import annotations

import math

import numpy as np

from gnelint.analysis.ranges import ANY
from gnelint.ir.graph import Node, Parameter
from gnelint.ir.mapped import taken
from gnelint.lint.facts import LAYERS, Facts
from gnelint.theory.weights.rows import row_chunks, stored_across


def never_positive(facts: Facts, node: Node) -> float | None:
    """Fraction of the node's units whose output is 0 or less for every input.

    A layer's unit is at most b + sum max(w low, w high) where its inputs lie between low and high: behind a ReLU only
    units of weights that are 0 or less are bounded, behind a sigmoid or a tanh all are. A normalisation over N values
    is at most |scale| sqrt(N - 1) + bias.
    """
    highest = _layer_bound(facts, node) if node.op in LAYERS else _norm_bound(facts, node)
    return None if highest is None else float(np.mean(highest <= 0.0))


def _layer_bound(facts: Facts, node: Node) -> np.ndarray | None:
    weight, bias = node.parameters.get("weight"), node.parameters.get("bias")
    if weight is None or weight.provenance != "data" or node.op == "conv_transpose":
        return None
    known = facts.ranges.get(node.present_inputs[0], ANY)
    low, high = known.low, known.high
    if node.op == "conv":  # padding reads zeros
        low, high = min(low, 0.0), max(high, 0.0)
    if _is_boundless(weight, low, high):
        return np.full(weight.shape[0], math.inf)
    above, below = _sums_of_one_sign(weight)
    highest: np.ndarray = _times(above, high) + _times(below, low)
    return highest if bias is None else highest + bias.array().reshape(-1).astype(np.float64)


_FIRST = 16
"""Entries of a row, along each axis, one of which lets most of them grow without bound."""


def _is_boundless(weight: Parameter, low: float, high: float) -> bool:
    """Whether the first entries of each row tell that nothing bounds it."""
    if math.isfinite(low) and math.isfinite(high):
        return False
    array = weight.array()
    first = taken(array[(slice(None), *(slice(_FIRST) for _ in array.shape[1:]))]).reshape(len(array), -1)
    grows = np.zeros(len(array), bool)
    if high == math.inf:
        grows |= (first > 0).any(axis=1)
    if low == -math.inf:
        grows |= (first < 0).any(axis=1)
    return bool(grows.all())


def _sums_of_one_sign(weight: Parameter) -> tuple[np.ndarray, np.ndarray]:
    """Of each row: the sum of its positive entries, and that of its negative ones."""
    sums = np.zeros((2, weight.shape[0]))
    if weight.law is not None and not weight.law.second_moment:
        return sums[0], sums[1]
    if stored_across(weight):
        for chunk in row_chunks(weight, 1):
            sums += np.maximum(chunk, 0.0).sum(0, dtype=np.float64), np.minimum(chunk, 0.0).sum(0, dtype=np.float64)
        return sums[0], sums[1]
    empty = np.zeros(0)
    above, below = [empty], [empty]
    for chunk in row_chunks(weight):
        above.append(np.maximum(chunk, 0.0).sum(1, dtype=np.float64))
        below.append(np.minimum(chunk, 0.0).sum(1, dtype=np.float64))
    return np.concatenate(above), np.concatenate(below)


def _times(sums: np.ndarray, bound: float) -> np.ndarray:
    """Sums of weights of one sign times a bound; 0 where there is no weight, however far the bound."""
    with np.errstate(invalid="ignore"):
        found: np.ndarray = np.where(sums == 0.0, 0.0, sums * bound)
    return found


def _norm_bound(facts: Facts, node: Node) -> np.ndarray | None:
    scale, bias, shape = node.parameters.get("scale"), node.parameters.get("bias"), facts.shape(node)
    if scale is None or bias is None or scale.provenance != "data" or bias.provenance != "data":
        return None
    reach = math.inf
    if node.op == "layer_norm" and shape is not None:
        reach = math.sqrt(max(math.prod(shape[axis] for axis in node.attribute("axes")) - 1, 0))
    scales = np.abs(scale.array().reshape(-1).astype(np.float64))
    return _times(scales, reach) + bias.array().reshape(-1).astype(np.float64)
