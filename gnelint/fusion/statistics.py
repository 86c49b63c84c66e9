"""What a reduced value measures of a tensor: its mean, its second moment, its variance, its norm.

Each function takes a value's name and says what it is, or None. Copies, expansion by broadcasting and the reshape that
puts a reduced axis back are looked through.
"""

from __future__ import annotations

import math

from gnelint.ir.rewriter import Rewriter, affine
from gnelint.records import dataclass


@dataclass(frozen=True)
class Reduced:
    """factor * (average of f(x) over `axes`, which broadcasts against x)."""

    x: str
    axes: tuple[int, ...]
    factor: float = 1.0


@dataclass(frozen=True)
class Root:
    """The divisor of a normalisation: factor * sqrt(inside), with what keeps it from zero.

    Attributes:
        inside: the value under the root; None for `norm`.
        norm: the value whose L2 norm over `axes` this is, where the model has a node for norms.
        added: epsilon added to the root; floor: its smallest value allowed.
    """

    inside: str | None
    norm: Reduced | None = None
    factor: float = 1.0
    added: float = 0.0
    floor: float = 0.0


def axes_of(rewriter: Rewriter, value: str | None, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes counted from 0 and sorted."""
    rank = rewriter.rank(value)
    return tuple(sorted(axis + rank if axis < 0 and rank is not None else axis for axis in axes))


def entries(rewriter: Rewriter, value: str, axes: tuple[int, ...]) -> int | None:
    """How many entries lie along the axes; None if a size is not a number."""
    shape = rewriter.shape(value)
    sizes = None if shape is None else [shape[axis] for axis in axes]
    if sizes is None or not all(isinstance(size, int) for size in sizes):
        return None
    return math.prod(int(size) for size in sizes)


def reduced(rewriter: Rewriter, value: str | None) -> tuple[str, Reduced] | None:
    """(operation, what it reduces) of a value that a reduction writes and that broadcasts against what was reduced.

    A sum counts as entries * mean, a global average pool as the mean over the spatial axes. The operation is
    `reduce_mean`, `reduce_max`, `reduce_l2`, ...
    """
    factor, reshaped = 1.0, None
    while True:
        node = rewriter.source(value, "expand", "reshape", "scale")
        if node is None:
            break
        if node.op == "scale":
            numbers = affine(node)
            if numbers is None:
                break
            factor *= numbers[0]
        elif node.op == "reshape" and reshaped is None:
            reshaped = node.outputs[0]
        value = node.inputs[0]
    node = rewriter.source(value, "reduce_mean", "reduce_sum", "reduce_max", "reduce_l2", "global_avg_pool")
    if node is None or node.inputs[0] is None:
        return None
    x = node.inputs[0]
    rank = rewriter.rank(x)
    if rank is None:
        return None
    if node.op == "global_avg_pool":
        axes, kept, op = tuple(range(2, rank)), True, "reduce_mean"
    else:
        axes, kept, op = axes_of(rewriter, x, tuple(node.attribute("axes"))), node.attribute("keepdims"), node.op
    if reshaped is not None:
        kept = _keeps_axes(rewriter, reshaped, x, axes)
    if not kept and axes != tuple(range(len(axes))):  # leading axes need not be kept to broadcast
        return None
    if op == "reduce_sum":
        count = entries(rewriter, x, axes)
        if count is None:
            return op, Reduced(x, axes, factor)
        return "reduce_mean", Reduced(x, axes, factor * count)
    return op, Reduced(x, axes, factor)


def _keeps_axes(rewriter: Rewriter, value: str, x: str, axes: tuple[int, ...]) -> bool:
    shape, full = rewriter.shape(value), rewriter.shape(x)
    if shape is None or full is None or len(shape) != len(full):
        return False
    return all(
        shape[axis] == 1 if axis in axes else (shape[axis] == full[axis] or isinstance(full[axis], str))
        for axis in range(len(full))
    )


def mean(rewriter: Rewriter, value: str | None) -> Reduced | None:
    """The mean of x over some axes."""
    found = reduced(rewriter, value)
    return found[1] if found is not None and found[0] == "reduce_mean" else None


def mean_of(rewriter: Rewriter, value: str | None, op: str, exponent: float | None = None) -> Reduced | None:
    """The mean of a pointwise function (`pow` of an exponent, or `abs`) of x over some axes."""
    found = mean(rewriter, value)
    if found is None:
        return None
    node = rewriter.source(found.x, op)
    if node is None or node.inputs[0] is None or (exponent is not None and node.attribute("exponent") != exponent):
        return None
    return Reduced(node.inputs[0], found.axes, found.factor)


def centred(rewriter: Rewriter, value: str | None) -> Reduced | None:
    """x - mean(x), whatever the sign's form."""
    node = rewriter.source(value, "sub", "add")
    if node is None or len(node.present_inputs) != 2:
        return None
    pairs = [node.present_inputs] if node.op == "sub" else [node.present_inputs, node.present_inputs[::-1]]
    for x, subtracted in pairs:
        found = mean(rewriter, subtracted)
        wanted = 1.0 if node.op == "sub" else -1.0
        if found is not None and rewriter.same(found.x, x) and math.isclose(found.factor, wanted, rel_tol=1e-6):
            return Reduced(x, found.axes)
    return None


def variance(rewriter: Rewriter, value: str | None) -> Reduced | None:
    """mean((x - mean x)^2) or mean(x^2) - (mean x)^2; the factor is n / (n - 1) for the unbiased one."""
    squares = mean_of(rewriter, value, "pow", 2.0)
    if squares is not None:
        inner = centred(rewriter, squares.x)
        return None if inner is None or inner.axes != squares.axes else Reduced(inner.x, inner.axes, squares.factor)
    node = rewriter.source(value, "sub", "clip", "relu")
    if node is not None and node.op != "sub":  # rounding may leave a difference below zero
        node = rewriter.source(node.inputs[0], "sub")
    if node is None:
        return None
    moment = mean_of(rewriter, node.inputs[0], "pow", 2.0)
    square = rewriter.source(node.inputs[1], "pow")
    first = mean(rewriter, square.inputs[0]) if square is not None and square.attribute("exponent") == 2.0 else None
    if moment is None or first is None or not rewriter.same(moment.x, first.x) or moment.axes != first.axes:
        return None
    return first if moment.factor == first.factor == 1.0 else None


def divisor(rewriter: Rewriter, value: str | None) -> Root | None:
    """The root that a value is: sqrt(v), v^0.5 or a norm, times a number, plus or not below an epsilon."""
    factor, added, floor = 1.0, 0.0, 0.0
    node = rewriter.source(value, "expand", "reshape", "scale", "bias", "clip", "sqrt", "pow", "reduce_l2")
    while node is not None and node.op in ("expand", "reshape", "scale", "bias", "clip"):
        numbers = affine(node) if node.op in ("scale", "bias") else (1.0, 0.0)
        if numbers is None or (numbers[1] and added):
            return None
        added += numbers[1] * factor
        if node.op == "clip":
            if node.attribute("min") is None or node.attribute("max") is not None:
                return None
            floor = node.attribute("min") * factor
        factor *= numbers[0]
        if node.op == "reshape" and reduced(rewriter, node.outputs[0]) is None:
            return None
        value = node.inputs[0]
        node = rewriter.source(value, "expand", "reshape", "scale", "bias", "clip", "sqrt", "pow", "reduce_l2")
    if node is None or factor <= 0.0 or added < 0.0 or floor < 0.0:
        return None
    if node.op == "reduce_l2":
        found = reduced(rewriter, node.outputs[0])
        return None if found is None else Root(None, found[1], factor, added, floor)
    if node.op == "pow" and node.attribute("exponent") != 0.5:
        return None
    return Root(node.inputs[0], None, factor, added, floor)


def inverse(rewriter: Rewriter, value: str | None) -> Root | None:
    """The root whose reciprocal a value is: 1 / sqrt(v), sqrt(1 / v) or v^-0.5."""
    node = rewriter.source(value, "reciprocal", "pow", "expand", "sqrt")
    while node is not None and node.op == "expand":
        node = rewriter.source(node.inputs[0], "reciprocal", "pow", "expand", "sqrt")
    if node is None:
        return None
    if node.op == "reciprocal":
        return divisor(rewriter, node.inputs[0])
    if node.op == "sqrt":
        below = rewriter.source(node.inputs[0], "reciprocal")
        return None if below is None else Root(below.inputs[0])
    return Root(node.inputs[0]) if node.attribute("exponent") == -0.5 else None


def plus_epsilon(rewriter: Rewriter, value: str | None) -> tuple[str | None, float] | None:
    """(v, epsilon) of v + epsilon or max(v, epsilon); epsilon 0 for any other value; None for a negative one."""
    node = rewriter.source(value, "bias", "clip")
    if node is None:
        return value, 0.0
    if node.op == "clip":
        low, high = node.attribute("min"), node.attribute("max")
        return None if low is None or low < 0.0 or high is not None else (node.inputs[0], float(low))
    numbers = affine(node)
    return None if numbers is None or numbers[1] < 0.0 else (node.inputs[0], numbers[1])
