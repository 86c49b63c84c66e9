"""What gives no number in the first step: masked rows, roots and logarithms that are not defined, weights of 0/0."""

from __future__ import annotations

import numpy as np

from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function


def _hidden_rows(facts: Facts, node: Node) -> float | None:
    mask = node.parameters.get("mask")
    if mask is None or mask.provenance != "data" or not mask.shape:
        return None
    array = mask.array()
    axis = node.attribute("axis") if node.op == "softmax" else -1
    hidden = ~array if array.dtype == bool else np.isneginf(np.asarray(array, np.float64))
    rows = np.all(hidden, axis=axis if -hidden.ndim <= axis < hidden.ndim else -1)
    return float(np.count_nonzero(rows))


def _undefined_rows(facts: Facts, node: Node) -> float | None:
    weight = facts.weight(node)
    if weight is None or weight.transform is None or not weight.shape or facts.is_finite(weight):
        return 0.0
    if not all(facts.is_finite(leaf) for leaf in weight.leaves):
        return 0.0  # the stored numbers are not finite themselves
    array = np.asarray(weight.array(), np.float64)
    return float(np.count_nonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))


def _lowest(facts: Facts, node: Node) -> float | None:
    known = facts.ranges.get(node.present_inputs[0]) if node.present_inputs else None
    return None if known is None else known.low


def _reads_zero(facts: Facts, node: Node) -> bool | None:
    known = facts.ranges.get(node.present_inputs[0]) if node.present_inputs else None
    return None if known is None else known.zeros and known.low <= 0 <= known.high


def _highest(facts: Facts, node: Node) -> float | None:
    known = facts.ranges.get(node.present_inputs[0]) if node.present_inputs else None
    return None if known is None else known.high


def _zero_divisors(facts: Facts, node: Node) -> float | None:
    """Of constants that are divided by: how many are zero; of a computed divisor 1 where it can be exactly zero."""
    if node.op == "scale" and node.attribute("reciprocal") and "scale" in node.parameters:
        scale = node.parameters["scale"]
        return float(np.count_nonzero(np.asarray(scale.array()) == 0)) if scale.provenance == "data" else None
    place = {"div": 1, "reciprocal": 0}.get(node.op)
    if node.op == "pow" and node.attribute("exponent") < 0:
        place = 0
    known = None if place is None else facts.ranges.get(node.present_inputs[place])
    return None if known is None else float(known.zeros and known.low <= 0 <= known.high)


_LARGEST = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.4e38, "float64": 1.79e308}


def _largest(facts: Facts, node: Node) -> float | None:
    value = facts.graph.values.get(node.outputs[0])
    return None if value is None or value.dtype is None else _LARGEST.get(value.dtype)


def _input_sigmas(facts: Facts, node: Node) -> float | None:
    moments = facts.input_moments(node)
    if moments is None:
        return None
    mean, second = moments
    deviation = max(second - mean**2, 0.0) ** 0.5
    return mean / deviation if deviation > 0 else float(np.sign(mean)) * np.inf


HAZARDS = (
    function(
        "whole_power(n)",
        "truth",
        lambda facts, node: node.op == "pow" and float(node.attribute("exponent")).is_integer(),
        "n is a power with a whole exponent, which negative numbers have too",
    ),
    function(
        "hidden_rows(n)",
        "number",
        _hidden_rows,
        "rows of the constant mask of a softmax or attention that hide every entry (-infinity, or not seen)",
    ),
    function(
        "undefined_rows(n)",
        "number",
        _undefined_rows,
        "rows of a weight that the model computes (weight norm, standardisation) that are no number though what it is "
        "computed from is",
    ),
    function(
        "lowest_input(n)",
        "number",
        _lowest,
        "the lowest number that n can read, -infinity where there is no bound; unknown for what is computed of the "
        "network's inputs alone",
    ),
    function("highest_input(n)", "number", _highest, "the highest number that n can read, likewise"),
    function(
        "zero_divisors(n)",
        "number",
        _zero_divisors,
        "how many of the constants that n divides by are zero; for a computed divisor 1 if it can be exactly 0",
    ),
    function("largest_number(n)", "number", _largest, "the largest finite number of the type of n's output"),
    function("reads_zero(n)", "truth", _reads_zero, "n can read numbers that are exactly 0, such as a ReLU gives"),
    function("input_sigmas(n)", "number", _input_sigmas, "mean over standard deviation of what n reads"),
)
