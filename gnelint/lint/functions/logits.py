"""How large the logits of a softmax are, as far as it makes a difference to what the softmax picks."""

from __future__ import annotations

import numpy as np

from gnelint.ir.graph import Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.knots import knots
from gnelint.lint.pattern import TRANSPARENT

_SUMS = frozenset({"add", "sub"})
_CHOICES = frozenset({"where", "concat"})
"""Operations that put constants beside logits: a mask that is filled in, a sink."""


def logit_variance(facts: Facts, node: Node) -> float | None:
    """Variance of the logits over what depends on data; d scale^2 E[q^2] E[k^2] in a fused attention.

    Constants are left out: a mask of -100 or of the lowest float hides entries, a table of offsets and a sink are the
    same for all data. So is what the softmax's own axis shares: it cancels.
    """
    if node.op in ("softmax", "log_softmax"):
        value = node.present_inputs[0]
        rank = _rank(facts, value)
        return _variance(facts, value, None if rank is None else node.attribute("axis") % rank)
    shape = None if node.op != "attention" else facts.graph.values[node.present_inputs[0]].concrete_shape
    query, key = facts.input_moments(node, 0), facts.input_moments(node, 1)
    if not shape or query is None or key is None:
        return None
    width = shape[-1] // (node.attribute("heads") or 1) if node.attribute("packed") else shape[-1]
    scale = node.attribute("scale")
    return float(width * (1.0 / width if scale is None else scale**2) * query[1] * key[1])


def _variance(facts: Facts, value: str, axis: int | None) -> float | None:
    """Of one value on the way to the softmax, back to what the constants were added to.

    Args:
        axis: the softmax's axis in this value; None where it is not known any more.
    """
    node = facts.graph.producers.get(value)
    if node is None:
        return 1.0 if facts.graph.values[value].is_floating else None
    if node.op in _SUMS | _CHOICES:
        parts = [_variance(facts, name, axis) for name in _of_data(facts, node, axis)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return sum(known) if node.op in _SUMS else max(known, default=0.0)
    if node.op not in TRANSPARENT:
        bin_steps = _between_bins(facts, node)
        return _own_variance(facts, node) if bin_steps is None else bin_steps
    found = _variance(facts, node.present_inputs[0], _axis_before(facts, node, axis))
    if node.op != "scale" or found is None:
        return found
    predicted = facts.of(node)
    return None if predicted is None or predicted.phi is None else found * predicted.phi


def _of_data(facts: Facts, node: Node, axis: int | None) -> list[str]:
    """The operands that depend on the network's main input (on any input if none does) and differ along the axis."""
    graph = facts.graph
    on_path = [name for name in node.present_inputs if name in graph.gradient_values]
    chosen = [name for name in on_path if name in graph.main_values] or on_path
    return chosen if node.op == "concat" else [name for name in chosen if not _is_shared(facts, name, node, axis)]


def _is_shared(facts: Facts, operand: str, node: Node, axis: int | None) -> bool:
    """Whether an operand is broadcast along the axis: all entries of a softmax get the same."""
    shape, whole = facts.graph.values[operand].shape, facts.shape(node)
    if axis is None or shape is None or whole is None or whole[axis] == 1:
        return False
    place = axis - (len(whole) - len(shape))
    return place < 0 or shape[place] == 1


def _axis_before(facts: Facts, node: Node, axis: int | None) -> int | None:
    """Where the axis lies in what a node of data movement reads."""
    if axis is None:
        return None
    if node.op == "transpose":
        return int(node.attribute("perm")[axis])
    if node.op != "reshape":
        return axis
    before, behind = facts.graph.values[node.present_inputs[0]].shape, facts.graph.values[node.outputs[0]].shape
    if before is None or behind is None or axis != len(behind) - 1 or before[-1] != behind[-1]:
        return None
    return len(before) - 1


def _own_variance(facts: Facts, node: Node) -> float | None:
    """Of what a node computes, without the constants in a layer's bias."""
    predicted = facts.of(node)
    if predicted is None or predicted.mean is None or predicted.second_moment is None:
        return None
    bias = node.parameters.get("bias") if node.op in LAYERS else None
    constant = 0.0 if bias is None else float(np.var(bias.array().astype(np.float64)))
    return max(predicted.second_moment - predicted.mean**2 - constant, 0.0)


def _between_bins(facts: Facts, node: Node) -> float | None:
    """Of squared distances to the centres of bins (a soft histogram): by how much those of two neighbours differ.

    Most bins are far from any number, on purpose. What counts is whether the nearest two share it: halfway between them
    and at one of them their squared distances differ by no more than the square of the step.
    """
    source = facts.producer(node)
    square = node.op == "pow" and node.attribute("exponent") == 2.0
    grid = None if source is None or not square else knots(facts, source)
    return None if grid is None else float(np.mean(np.diff(grid) ** 4))


def _rank(facts: Facts, value: str) -> int | None:
    shape = facts.graph.values[value].shape
    return None if shape is None else len(shape)
