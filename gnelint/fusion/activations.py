"""Activations written out in elementary functions, recognised by what they compute.

Exporters write one function in a dozen associations (`0.5*x*(1+erf(x/sqrt 2))`, `x*(0.5*(1+erf(..)))`, ...). So no
shape of the graph is matched: a part that computes a scalar function of one value, f(x), entry by entry, is evaluated
on a grid and compared with the functions of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnelint.ir.graph import Node
from gnelint.ir.rewriter import Rewriter, affine
from gnelint.ops import VOCABULARY, families
from gnelint.ops.record import rounded
from gnelint.theory.gaussian.arrays import NUMPY

Array = NDArray[np.float64]

_POINTS: Array = np.array([-1.0, 0.0, 1.0, 2.0, 0.01, *np.arange(-9.7, 9.5, 0.37)])
_ONE, _TWO = 2, 3

_MAX_REGION = 32
"""Nodes in the largest idiom: GELU's tanh form has 9, copies in between included."""
_MAX_STEPS = 6
"""How many single values before its end an idiom's input may lie: chains of constants are that long at most."""

TOLERANCE = 2e-4
"""Largest error, relative to 1 + |f|, of constants written with five digits; the two GELUs differ by 4.7e-4."""
LOW_PRECISION_TOLERANCE = 4e-3
"""The same for constants stored in 8 to 11 bits."""

ACTIVATIONS = families()["activation"]

_JOINS = frozenset(op for op in families()["combine"] if VOCABULARY[op].function)
_SCALAR = frozenset(name for name, known in VOCABULARY.items() if known.function and not known.parameters)
"""What is evaluated: operations of a known function that have no parameters (`affine` sees to biases and scales)."""


def _computed(op: str, *arguments: Array, **numbers: Any) -> Array:
    function = VOCABULARY[op].function
    assert function is not None
    return np.asarray(function.value(NUMPY, *arguments, **numbers))


def _fixed() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, operation in VOCABULARY.items():
        idioms = getattr(operation.function, "idioms", None) or ()
        yield from () if callable(idioms) else ((name, numbers) for numbers in idioms)


_FIXED = tuple(_fixed())
_FIXED_VALUES: Array = np.stack([_computed(op, _POINTS, **numbers) for op, numbers in _FIXED])


def fuse_activations(rewriter: Rewriter) -> None:
    """Replace every written-out activation by its one node.

        gelu         x/2 (1 + erf(x / sqrt 2)),  x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
        silu         x sigmoid(beta x), x / (1 + e^-x);  quick GELU is silu with beta 1.702
        hardswish    x hardsigmoid(x), x clip(x + 3, 0, 6) / 6
        mish         x tanh(softplus(x)), x tanh(log(1 + e^x))
        hardsigmoid  clip(x + 3, 0, 6) / 6;   softplus  log(1 + e^x);   sigmoid  1 / (1 + e^-x)
        relu         (x + |x|) / 2;   leaky_relu  max(x, a x), relu(x) - a relu(-x);   elu and selu likewise
        pow          x * x, x * x * x;   scale  x + x, x + a x
        clip         relu then min(., 6) and other chains of bounds

    A product of x with a function of another value is a gate, no activation, and stays as it is.
    """
    dominators = _Dominators(rewriter)
    for node in rewriter:
        dominators.add(node)
        if node.op not in _SCALAR and affine(node) is None:
            continue
        entry = node.outputs[0]
        for _ in range(_MAX_STEPS):
            above = dominators.above(entry)
            if above is None:
                break
            entry = above
            region = _region(rewriter, node, entry)
            if region is None:
                break
            found = _recognise(rewriter, node, entry, region)
            if found is not None:
                op, attributes = found
                dominators.add(rewriter.replace(node, op, (entry,), op, attributes))
                break


class _Dominators:
    """For each value the nearest other value that it is a scalar function of, found as nodes are added in order.

    This is the immediate dominator in the graph of the scalar functions, whose roots are all other values.
    """

    def __init__(self, rewriter: Rewriter) -> None:
        self._rewriter = rewriter
        self._above: dict[str, str] = {}
        self._depth: dict[str, int] = {}

    def above(self, value: str) -> str | None:
        """The nearest value that determines this one, entry by entry."""
        return self._above.get(value)

    def add(self, node: Node) -> None:
        """Take up a node all of whose inputs were taken up."""
        if node.op not in _SCALAR and affine(node) is None:
            return
        if not all(self._rewriter.is_floating(name) for name in (*node.present_inputs, node.outputs[0])):
            return
        meeting: str | None = node.present_inputs[0]
        for name in node.present_inputs[1:]:
            meeting = self._meet(meeting, name)
        if meeting is not None:
            self._above[node.outputs[0]] = meeting
            self._depth[node.outputs[0]] = self._depth.get(meeting, 0) + 1

    def _meet(self, first: str | None, second: str | None) -> str | None:
        while first != second:
            if first is None or second is None:
                return None
            if self._depth.get(first, 0) >= self._depth.get(second, 0):
                first = self._above.get(first)
            else:
                second = self._above.get(second)
        return first


def _region(rewriter: Rewriter, last: Node, entry: str) -> dict[str, Node] | None:
    """The nodes between `entry` and `last`, by the value they write; None if there are too many for an idiom."""
    region: dict[str, Node] = {last.outputs[0]: last}
    waiting = list(last.present_inputs)
    while waiting:
        name = waiting.pop()
        if name == entry or name in region:
            continue
        node = rewriter.producer(name)
        if node is None or len(region) >= _MAX_REGION:
            return None
        region[name] = node
        waiting.extend(node.present_inputs)
    return region


def _recognise(
    rewriter: Rewriter, last: Node, entry: str, region: Mapping[str, Node]
) -> tuple[str, Mapping[str, Any]] | None:
    """The operation that the region computes from its entry, and its attributes."""
    ops = {node.op for node in region.values()} - {"identity"}
    if last.op == "identity" or (len(region) < 2 and last.op not in _JOINS and last.op != "clip"):
        return None
    if ops <= {"relu", "clip"}:
        return _bounds(rewriter, last, entry, len(region)) if "clip" in ops else None
    if ops <= ACTIVATIONS - {"clip"} or ops <= {"scale", "bias"}:
        return None  # activations one after the other are what the user wrote
    y = _evaluate(rewriter, last.outputs[0], entry, {})
    if y is None or not np.isfinite(y).all():
        return None
    if last.op in _JOINS and ops <= {"add", "sub", "mean", "scale", "bias"}:
        return _linear(y)
    if last.op in _JOINS and ops <= {"mul", "pow"}:
        return _power(y)
    return _match(y, _tolerance(region))


def _evaluate(rewriter: Rewriter, value: str, entry: str, known: dict[str, Array]) -> Array | None:
    """The value as a function of `entry`, on the grid; None if a node is none whose function is known."""
    if value == entry:
        return _POINTS
    if value in known:
        return known[value]
    node = rewriter.producer(value)
    if node is None:
        return None
    arguments = []
    for name in node.present_inputs:
        argument = _evaluate(rewriter, name, entry, known)
        if argument is None:
            return None
        arguments.append(argument)
    with np.errstate(all="ignore"):
        result = _apply(node, arguments)
    if result is not None:
        known[value] = result
    return result


def _apply(node: Node, arguments: list[Array]) -> Array | None:
    numbers = affine(node)
    if numbers is not None:
        return numbers[0] * arguments[0] + numbers[1]
    if node.op not in _SCALAR:
        return None
    return _computed(node.op, *arguments, **{name: node.attribute(name) for name in VOCABULARY[node.op].attributes})


def _tolerance(region: Mapping[str, Node]) -> float:
    """How far constants that were rounded to their storage type may take the function."""
    types = {parameter.dtype for node in region.values() for parameter in node.parameters.values()}
    return LOW_PRECISION_TOLERANCE if types & {"float16", "bfloat16"} else TOLERANCE


def _match(y: Array, tolerance: float) -> tuple[str, Mapping[str, Any]] | None:
    """The nearest of the vocabulary's functions, if one is near enough for what the values vary by: a tolerance for
    solvers, rtol |x| + atol, is no constant."""
    span = 2.0 * float(np.ptp(y))

    def apart(values: Array) -> Array:
        return np.asarray(np.max(np.abs(values - y) / np.minimum(1.0 + np.abs(values), span), axis=-1))

    if span == 0.0:
        return None
    errors = apart(_FIXED_VALUES)
    best = int(np.argmin(errors))
    if errors[best] <= tolerance:
        return _FIXED[best]
    for op, attributes, values in _fits(y):
        if apart(values) <= tolerance:
            return op, attributes
    return None


def _fits(y: Array) -> Iterator[tuple[str, Mapping[str, Any], Array]]:
    """The functions with a free number, that number read off the values at a few points."""
    places = dict(zip(_POINTS.tolist(), y.tolist(), strict=True))
    for name, operation in VOCABULARY.items():
        read = getattr(operation.function, "idioms", None)
        numbers = read(places.__getitem__) if callable(read) else None
        if numbers is not None:
            yield name, numbers, _computed(name, _POINTS, **numbers)


def _linear(y: Array) -> tuple[str, Mapping[str, Any]] | None:
    """x + x, x - 2 x: the sum of two paths that are the same tensor doubles the amplitude, not the power."""
    factor = float(y[_ONE])
    return ("scale", {"factor": rounded(factor)}) if factor != 0.0 and np.allclose(y, factor * _POINTS) else None


def _power(y: Array) -> tuple[str, Mapping[str, Any]] | None:
    """x * x, x * x * x: the exponent is a whole number."""
    if y[_TWO] <= 0.0:
        return None
    exponent = round(math.log2(float(y[_TWO])))
    return ("pow", {"exponent": float(exponent)}) if np.allclose(y, np.power(_POINTS, exponent)) else None


def _bounds(rewriter: Rewriter, last: Node, entry: str, steps: int) -> tuple[str, Mapping[str, Any]] | None:
    """Bounds one after the other, max(x, 0) then min(., 6), are one pair of bounds."""
    low, high = -math.inf, math.inf
    chain: list[Node] = []
    value = last.outputs[0]
    while value != entry:
        node = rewriter.producer(value)
        if node is None or len(node.present_inputs) != 1:
            return None
        chain.append(node)
        value = node.present_inputs[0]
    for node in reversed(chain):
        if node.op == "identity":
            continue
        lower = 0.0 if node.op == "relu" else node.attribute("min")
        upper = None if node.op == "relu" else node.attribute("max")
        if lower is not None:
            low, high = max(low, lower), max(high, lower)
        if upper is not None:
            low, high = min(low, upper), min(high, upper)
    if low >= high:
        return None
    if low == 0.0 and high == math.inf:
        return "relu", {}
    if steps == 1:
        return None
    return "clip", {"min": None if low == -math.inf else low, "max": None if high == math.inf else high}
