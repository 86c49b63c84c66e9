"""Rows that are shares already: what divides them by their own sum divides by 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnelint.fusion.statistics import plus_epsilon, reduced
from gnelint.ir.graph import Node, Parameter
from gnelint.ir.rewriter import Rewriter, affine

Array = NDArray[Any]
Total = Mapping[str, Array]
"""A sum as a linear form: the factor of each value in it; of nothing (the constant) under the empty name."""

_CONSTANT = ""
_CLOSE = 1e-4
"""Distance from 1 below which a sum of shares is 1: what rounding and an epsilon leave."""
_MOST = 1 << 24
"""Entries of the largest constant that is read for its sums."""
_MOST_STEPS = 8
"""Operations between a softmax and the sum of its shares."""


def drop_own_totals(rewriter: Rewriter) -> None:
    """Take x for x / sum(x) where the sums are 1: mixtures of attention maps are divided so once more.

    On rows that sum to 1 it is the identity. Its Jacobian takes off what is the same for a row's entries, and so does
    that of the softmax behind it. Apart, a quotient of a value and its own sum would count as one of two values.
    """
    for node in rewriter:
        if node.op not in ("div", "mul") or len(node.present_inputs) != 2:
            continue
        for x, divisor in (node.present_inputs, node.present_inputs[::-1])[: 1 if node.op == "div" else 2]:
            if _divides_by_one(rewriter, node, x, divisor):
                rewriter.replace(node, "identity", (x,), "own_total")
                break


def _divides_by_one(rewriter: Rewriter, node: Node, x: str, divisor: str) -> bool:
    if node.op == "mul":
        inverse = rewriter.source(divisor, "reciprocal")
        if inverse is None:
            return False
        divisor = inverse.present_inputs[0]
    rank, inside = rewriter.rank(x), plus_epsilon(rewriter, divisor)
    found = None if inside is None or inside[1] > _CLOSE else reduced(rewriter, inside[0])
    if found is None or rank is None or found[0] != "reduce_mean" or len(found[1].axes) != 1:
        return False
    (axis,) = found[1].axes
    if not rewriter.same(found[1].x, x) or found[1].factor != (rewriter.shape(x) or ())[axis]:
        return False
    total = _total(rewriter, x, axis - rank, _MOST_STEPS)
    return total is not None and _is_one(total)


def _is_one(total: Total) -> bool:
    """Whether a linear form is the number 1 whatever its values are."""
    return all(bool(np.all(np.abs(own - (name == _CONSTANT)) < _CLOSE)) for name, own in total.items())


def _total(rewriter: Rewriter, value: str | None, axis: int, steps: int) -> Total | None:
    """The sums of a value along an axis, counted from the last, as a linear form that keeps the axis with size 1."""
    node, rank = rewriter.source(value), rewriter.rank(value)
    if node is None or rank is None or steps == 0:
        return None
    if node.op == "softmax":
        whole = node.attribute("top") is None or node.attribute("renormalised")
        return {_CONSTANT: np.ones(())} if whole and int(node.attribute("axis")) % rank - rank == axis else None
    if node.op == "constant":
        numbers = _numbers(node.parameters["value"])
        return None if numbers is None else {_CONSTANT: _sums(numbers, axis, (rewriter.shape(value) or ())[axis])}
    if node.op in ("scale", "bias"):
        return _of_affine(rewriter, node, axis, steps)
    if node.op in ("add", "sub") and len(node.present_inputs) == 2:
        first, second = (_total(rewriter, each, axis, steps - 1) for each in node.present_inputs)
        alike = all(rewriter.shape(each) == rewriter.shape(value) for each in node.present_inputs)
        return (
            None
            if first is None or second is None or not alike
            else _plus(first, second, 1 if node.op == "add" else -1)
        )
    if node.op == "mul" and len(node.present_inputs) == 2:
        return _of_product(rewriter, node, axis, steps)
    return None


def _of_affine(rewriter: Rewriter, node: Node, axis: int, steps: int) -> Total | None:
    """Of what numbers multiply, the same all along the axis, or are added to."""
    (x,), shape = node.present_inputs, rewriter.shape(node.outputs[0])
    numbers = _scaled_by(node)
    if shape is None or numbers is None:
        return None
    spread = rewriter.source(x, "expand")
    if node.op == "scale" and spread is not None:
        (x,) = spread.present_inputs
    length, wide = shape[axis], rewriter.shape(x)
    if node.op == "scale" and _is_even(wide, axis):  # a gate that multiplies rows which the model holds
        sums = _sums(numbers, axis, length)
        return {name: factor * sums for name, factor in _form(rewriter, x).items()}
    own = _total(rewriter, x, axis, steps - 1) if wide == shape else None
    if own is None:
        return None
    if node.op == "bias":
        return _plus(own, {_CONSTANT: _sums(numbers, axis, length)}) if isinstance(length, int) else None
    return {name: factor * numbers for name, factor in own.items()} if _is_even(numbers.shape, axis) else None


def _scaled_by(node: Node) -> Array | None:
    """What a scale multiplies with, or a bias adds."""
    parameter = node.parameters.get(node.op)
    numbers = np.ones(()) if parameter is None else _numbers(parameter)
    if numbers is None:
        return None
    return float(node.attribute("factor")) * (
        1.0 / numbers if node.op == "scale" and node.attribute("reciprocal") else numbers
    )


def _is_even(shape: Sequence[int | str] | None, axis: int) -> bool:
    """Whether what has this shape is the same all along an axis."""
    return shape is not None and (len(shape) < -axis or shape[axis] == 1)


def _of_product(rewriter: Rewriter, node: Node, axis: int, steps: int) -> Total | None:
    """Of shares that a gate multiplies, the same for a whole row."""
    shape = rewriter.shape(node.outputs[0])
    for x, gate in (node.present_inputs, node.present_inputs[::-1]):
        wide, narrow = rewriter.shape(x), rewriter.shape(gate)
        if wide != shape or not _is_even(narrow, axis):
            continue
        own = _total(rewriter, x, axis, steps - 1)
        if own is not None and set(own) == {_CONSTANT}:
            return {name: own[_CONSTANT] * factor for name, factor in _form(rewriter, gate).items()}
    return None


def _form(rewriter: Rewriter, gate: str) -> Total:
    """A gate as a linear form of the value that it is made of: 1 - s beside s."""
    factor, added = 1.0, 0.0
    name = rewriter.behind(gate) or gate
    while (node := rewriter.source(name, "scale", "bias", "sub")) is not None:
        numbers = affine(node)
        if numbers is None or rewriter.shape(node.inputs[0]) != rewriter.shape(gate):
            break
        added, factor = added + factor * numbers[1], factor * numbers[0]
        name = rewriter.behind(node.inputs[0]) or name
    return {_CONSTANT: np.asarray(added), name: np.asarray(factor)}


def _plus(first: Total, second: Total, sign: int = 1) -> Total:
    zero = np.zeros(())
    return {name: first.get(name, zero) + sign * second.get(name, zero) for name in {**first, **second}}


def _sums(numbers: Array, axis: int, length: int | str) -> Array:
    """Sums along an axis that numbers may be broadcast along."""
    if numbers.ndim < -axis:
        return numbers * float(length)
    sums = numbers.sum(axis=axis, keepdims=True)
    return np.asarray(sums * (float(length) if numbers.shape[axis] == 1 else 1.0))


def _numbers(parameter: Parameter) -> Array | None:
    """The numbers of a parameter that can be read."""
    if parameter.size > _MOST or parameter.provenance == "initializer":
        return None
    numbers = np.asarray(parameter.array(), dtype=np.float64)
    return numbers if math.prod(numbers.shape) and np.isfinite(numbers).all() else None
