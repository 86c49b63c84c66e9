"""Between which numbers a value can lie, for every input and whatever the weights of later steps: intervals, forward.

A linear layer can give any number; functions narrow that down (a ReLU gives none below 0), and so does a choice by a
comparison; a layer that starts at zero gives its bias. What the network's own inputs hold is not known, nor is what is
computed of them without a layer between: nothing is said of those, but that a square is no less than 0. Besides the
interval it is kept whether a value can be exactly zero with a probability that is not zero (behind a ReLU), since roots
and logarithms have no gradient there. A sum of a few such numbers can be zero, too: how likely that is follows from the
share of zeros among them, taken as independent.

An infinite derivative at such a zero does harm where it is multiplied by 0 on its way back. Behind a ReLU, a clamp or a
where() it is not: their derivatives leave the entries out whose value they replaced, whatever arrives there. So it is
kept, too, whether all zeros are of that kind and nothing between has weights that read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile

import numpy as np

from gnelint.analysis.movement import holds_zeros
from gnelint.ir.graph import Derivation, Graph, Node, Parameter
from gnelint.ops import VOCABULARY, families
from gnelint.ops.record import Scalar
from gnelint.records import dataclass
from gnelint.theory.gaussian.arrays import NUMPY
from gnelint.theory.weights.contraction import is_nonnegative


@dataclass(frozen=True)
class Range:
    """All numbers of a value.

    Attributes:
        low, high: bounds; infinite where there is none.
        share: of the entries that are exactly zero, roughly.
        together: whether the entries that a reduction takes together are zero together.
        left_out: whether what comes back to the zeros goes no further: those that a ReLU, a clamp or a where() made.
    """

    low: float
    high: float
    share: float = 0.0
    together: bool = False
    left_out: bool = False

    @property
    def zeros(self) -> bool:
        """Whether a share of the entries can be exactly zero."""
        return self.share > 0.0

    def mapped(self, function: Callable[[float], float]) -> Range:
        """Through a function that never falls."""
        return replace(
            self, low=function(self.low), high=function(self.high), share=self.share if function(0.0) == 0.0 else 0.0
        )


ANY = Range(-math.inf, math.inf)
_FAMILIES = families()
_ENTRIES = 1 << 20
"""Numbers of a constant or a table that are looked at."""
_LAYERS = frozenset({"linear", "conv", "conv_transpose", "matmul", "attention"}) | _FAMILIES["recurrent"]
_SUMS = frozenset({"linear", "conv", "conv_transpose", "matmul"})
"""Layers whose outputs are sums of what they read times their weights, or times each other."""
_RISING = frozenset({"exp", "sigmoid", "tanh", "softplus", "softsign", "erf", "log_sigmoid", "hardsigmoid"})
"""Functions of one variable that never fall: bounds go through them."""
_BOUNDED: Mapping[str, Range] = {
    "softmax": Range(0.0, 1.0), "log_softmax": Range(-math.inf, 0.0),
    **dict.fromkeys(("one_hot", "compare", "logical", "top_mask"), Range(0.0, 1.0, 0.5)),
}  # fmt: skip
"""The range, whatever is read, of operations that are no functions of one variable."""
_EXACT_ZEROS = frozenset({"hardsigmoid", "hardswish"})
"""Functions that are zero on a whole stretch; of the others below it is known from what they read."""
_PASSED = _FAMILIES["shape"] | frozenset(
    {"max_pool", "avg_pool", "global_avg_pool", "global_max_pool", "adaptive_avg_pool", "adaptive_max_pool",
     "reduce_max", "reduce_min", "stop_gradient", "straight_through"}
)  # fmt: skip
_OFTEN = 1e-4
"""Expected zeros of a sum among all of its entries from which on it counts as one that can be zero: once in so many
batches."""


def ranges(graph: Graph) -> Mapping[str, Range]:
    """The range of every value that one is known of; one pass."""
    found: dict[str, Range] = {}
    for node in graph.nodes:
        known = _range(graph, node, found)
        if known is not None:
            if known.low == known.high == 0.0:
                known = replace(known, share=1.0)
            found.update(dict.fromkeys(node.outputs, known))
    return found


def _range(graph: Graph, node: Node, found: Mapping[str, Range]) -> Range | None:
    operands = [None if name is None else found.get(name) for name in node.inputs]
    length = cosine_bound(graph, node)
    if length is not None:
        return Range(-length, length)
    if node.op == "l2_normalize":
        return Range(-1.0, 1.0)
    if node.op in _LAYERS or node.op in _FAMILIES["normalization"]:
        return _of_layer(node, operands)
    if node.op in _RISING and operands and operands[0] is not None:
        return _risen(node, operands[0])
    bounded = _BOUNDED.get(node.op) or _stated(node)
    if bounded is not None:
        return replace(bounded, share=0.0) if _compares_results(graph, node) else bounded
    if node.op == "embedding":
        return _of_numbers(node.parameters.get("weight"))
    if node.op == "constant":
        return _of_numbers(node.parameters.get("value"))
    if node.op == "where":
        return _chosen(graph, node, found)
    if node.op == "gather":
        return operands[0]
    if node.op == "sub" and is_less_its_maximum(graph, node):
        return Range(-math.inf, 0.0)
    if not operands or any(operand is None for operand in operands):
        return Range(0.0, math.inf) if node.op == "reduce_l2" or _is_square(node) else None
    rule = _RULES.get(node.op)
    known = [operand for operand in operands if operand is not None]
    if node.op in ("reduce_sum", "reduce_mean"):
        return _reduced(graph, node, known[0])
    if node.op == "reduce_l2":  # its zeros count where its derivative has none
        return _reduced(graph, node, _square(known[0])) if node.attribute("exposed") else Range(0.0, math.inf)
    if node.op == "sub":
        return _difference(graph, node, known, found)
    if node.op == "pad":
        return _padded(graph, node, known[0])
    if rule is not None:
        return rule(node, known)
    return known[0] if node.op in _PASSED else None


def _compares_results(graph: Graph, node: Node) -> bool:
    """Whether two results of the network are compared, as a sorted row with its own sums in a sparsemax: they may be
    bound to each other, and nobody knows how often it is true."""
    return (
        node.op == "compare" and len(node.present_inputs) > 1 and all(_is_result(graph, n) for n in node.present_inputs)
    )


def _is_result(graph: Graph, value: str) -> bool:
    """Whether a value is worked out, neither given nor a number that the program holds."""
    producer = graph.producers.get(value)
    while producer is not None and producer.op in _FAMILIES["shape"] and producer.present_inputs:
        producer = graph.producers.get(producer.present_inputs[0])
    return producer is not None and producer.op != "constant"


def _of_layer(node: Node, operands: Sequence[Range | None]) -> Range:
    """Any number; of a layer or a normalisation that multiplies by zeros its bias; of sums of numbers that are not
    negative by weights that are not (a filter bank) none below its least bias."""
    factors = [node.parameters[role] for role in ("weight", "scale") if role in node.parameters]
    if node.op not in _FAMILIES["recurrent"] and any(map(holds_zeros, factors)):
        return _of_numbers(node.parameters["bias"]) or ANY if "bias" in node.parameters else Range(0.0, 0.0, 1.0)
    if node.op in _SUMS and operands and all(x is not None and x.low >= 0 for x in operands):
        weighted = "weight" not in node.parameters or _has_no_negative(node.parameters["weight"])
        bias = _of_numbers(node.parameters.get("bias"))
        if weighted and node.attributes.get("factor", 1.0) >= 0 and ("bias" not in node.parameters or bias):
            return Range(0.0 if bias is None else bias.low, math.inf)
    return ANY


def _has_no_negative(weight: Parameter) -> bool:
    if weight.provenance != "data" or weight.size > _ENTRIES or not weight.size:
        return False
    array = weight.array()
    first = array[(0,) * (array.ndim - 1)]  # of most weights one row is enough
    return bool(first.min() >= 0) and is_nonnegative(array)


def _risen(node: Node, x: Range) -> Range:
    record = VOCABULARY[node.op]
    assert record.function is not None
    numbers = {name: node.attribute(name) for name in record.attributes}
    with np.errstate(all="ignore"):
        low, high = record.function.value(NUMPY, np.asarray([x.low, x.high]), **numbers).tolist()
    stated = _stated(node) or ANY
    low, high = (end if math.isnan(number) else number for number, end in ((low, stated.low), (high, stated.high)))
    passes = x.share * (node.op in ("tanh", "softsign", "erf"))
    return Range(low, high, passes or stated.share, x.together, x.left_out if passes else stated.left_out)


def _is_square(node: Node) -> bool:
    if node.op == "pow":
        return bool(node.attribute("exponent") % 2 == 0 and node.attribute("exponent") > 0)
    return node.op == "mul" and node.inputs[0] == node.inputs[1]


def _reduced(graph: Graph, node: Node, x: Range) -> Range:
    """A sum or a mean is zero where all of its entries are; where they have both signs only if they are so together."""
    share = 0.0
    before, after = (graph.values[name].concrete_shape for name in (node.present_inputs[0], node.outputs[0]))
    if x.share and before and after is not None:
        rows = math.prod(after)
        share = x.share if x.together else x.share ** (math.prod(before) / max(rows, 1)) if x.low >= 0 else 0.0
        share *= share * rows >= _OFTEN
    if node.op == "reduce_mean":
        return replace(x, share=share)
    return replace(_summed(x), share=share, together=x.together, left_out=x.left_out)


def _difference(graph: Graph, node: Node, known: Sequence[Range], found: Mapping[str, Range]) -> Range:
    """Zero where a value meets itself (pairs of entries with themselves), and where all that a mean is taken of are."""
    a, b = known
    signed = _from_the_end(graph, node, found)
    if signed is not None:
        return signed
    whole = Range(a.low - b.high, a.high - b.low)
    shape = graph.values[node.outputs[0]].concrete_shape
    first, second = (_origin(graph, name) for name in node.present_inputs)
    if first == second and shape and node.inputs[0] != node.inputs[1]:
        own = graph.values[first].concrete_shape
        return whole if own is None else replace(whole, share=math.prod(own) / math.prod(shape), together=True)
    mean = graph.producers.get(second)
    if mean is not None and mean.op == "reduce_mean" and mean.present_inputs[0] == node.inputs[0] and a.share:
        own, rows = graph.values[mean.present_inputs[0]].concrete_shape, graph.values[second].concrete_shape
        if own and rows is not None:
            share = a.share ** (math.prod(own) / math.prod(rows))
            share *= share * math.prod(rows) >= _OFTEN
            return replace(whole, share=share, together=True, left_out=a.left_out)
    return whole


def is_less_its_maximum(graph: Graph, node: Node) -> bool:
    """x - max(x), as a softmax or logsumexp is written out; where the maximum is infinite a number may stand for it."""
    own, taken = node.present_inputs[0], node.present_inputs[-1]
    greatest = graph.producers.get(_origin(graph, taken))
    if greatest is not None and greatest.op == "where" and greatest.inputs[2] is not None:
        condition, greatest = greatest.inputs[0], graph.producers.get(_origin(graph, greatest.inputs[2]))
        read = graph.producers.get(condition or "")
        while read is not None and read is not greatest and len(read.present_inputs) == 1:
            read = graph.producers.get(_origin(graph, read.present_inputs[0]))
        if read is not greatest:
            return False
    if greatest is None or greatest.op != "reduce_max" or greatest.present_inputs[0] != own:
        return False
    return _faces_itself(graph.values[own].concrete_shape, _unexpanded_shape(graph, taken), greatest.attribute("axes"))


def _faces_itself(shape: tuple[int, ...] | None, reduced: tuple[int, ...] | None, axes: Sequence[int]) -> bool:
    """Whether what is left of a value along these axes is broadcast over the very entries that it was taken of: without
    kept axes the maxima of rows meet columns."""
    if shape is None or reduced is None:
        return False
    places = {axis % len(shape) for axis in axes}
    kept = [1 if axis in places else size for axis, size in enumerate(shape)]
    one, other = (list(dropwhile(lambda size: size == 1, sizes)) for sizes in (kept, reduced))
    return one == other


def _unexpanded_shape(graph: Graph, name: str) -> tuple[int, ...] | None:
    node = graph.producers.get(name)
    while node is not None and node.op in ("expand", "identity"):
        name = node.present_inputs[0]
        node = graph.producers.get(name)
    return graph.values[name].concrete_shape


def _from_the_end(graph: Graph, node: Node, found: Mapping[str, Range]) -> Range | None:
    """The end of a running sum less all of it: a sum of what comes behind each entry, of the sign of what is summed."""
    end = graph.producers.get(node.present_inputs[0])
    if end is None or end.op != "slice" or end.present_inputs[0] != node.inputs[1]:
        return None
    running = graph.producers.get(end.present_inputs[0])
    if running is None or running.op != "cumsum" or running.attribute("reverse"):
        return None
    shape, summed = graph.values[running.outputs[0]].concrete_shape, found.get(running.present_inputs[0])
    axis = running.attribute("axis")
    if not shape or summed is None or end.attribute("axes") != (axis % len(shape),):
        return None
    return _summed(summed) if end.attribute("starts") == (shape[axis] - 1,) else None


def _summed(x: Range) -> Range:
    """Sums of any number of entries, of none too."""
    return Range(-math.inf if x.low < 0 else 0.0, math.inf if x.high > 0 else 0.0)


def _origin(graph: Graph, name: str) -> str:
    """The value before views and repetitions."""
    node = graph.producers.get(name)
    while node is not None and node.op in ("reshape", "expand", "identity"):
        name = node.present_inputs[0]
        node = graph.producers.get(name)
    return name


def cosine_bound(graph: Graph, node: Node) -> float | None:
    """The bound of products of vectors of known length: |a b| is at most |a| |b|."""
    if node.op == "matmul":
        places = (-2 if node.attribute("transpose_a") else -1, -1 if node.attribute("transpose_b") else -2)
        lengths = [vector_length(graph, name, axis) for name, axis in zip(node.present_inputs, places, strict=True)]
        factor = abs(float(node.attribute("factor")))
    elif node.op == "linear" and "bias" not in node.parameters:
        lengths = [vector_length(graph, node.present_inputs[0], -1), _rows_length(node.parameters["weight"])]
        factor = 1.0
    elif node.op == "reduce_sum" and len(node.attribute("axes")) == 1:
        product = graph.producers.get(node.present_inputs[0])
        if product is None or product.op != "mul":
            return None
        lengths = [vector_length(graph, name, node.attribute("axes")[0]) for name in product.present_inputs]
        factor = 1.0
    else:
        return None
    known = [length for length in lengths if length is not None]
    return factor * math.prod(known) if len(known) == 2 else None


def _rows_length(weight: Parameter) -> float | None:
    """The length that a computed weight was normalised to, row by row."""
    if weight.provenance != "data" or not isinstance(weight.load, Derivation) or weight.size > _ENTRIES:
        return None
    lengths = np.linalg.norm(np.asarray(weight.array(), np.float64).reshape(weight.shape[0], -1), axis=1)
    return float(lengths[0]) if np.allclose(lengths, lengths[0], rtol=1e-3) and lengths[0] > 0 else None


def vector_length(graph: Graph, value: str, axis: int) -> float | None:
    """The Euclidean length along an axis of what was normalised to it and perhaps scaled by one number since."""
    scaled = 1.0
    while True:
        node, shape = graph.producers.get(value), graph.values[value].shape
        if node is None or not shape:
            return None
        axis %= len(shape)
        if node.op == "l2_normalize":
            return scaled if node.attribute("axes") == (axis,) else None
        if node.op == "transpose":
            axis = node.attribute("perm")[axis]
        elif node.op == "scale" and not node.attribute("reciprocal"):
            scale = node.parameters.get("scale")
            by = Range(1.0, 1.0) if scale is None else _of_numbers(scale) if scale.size == 1 else None
            if by is None:
                return None
            scaled *= abs(by.low * node.attribute("factor"))
        elif node.op not in ("identity", "straight_through", "stop_gradient"):
            return None
        value = node.present_inputs[0]


def _stated(node: Node) -> Range | None:
    """The bounds that the record of a function states; none where they depend on what it reads."""
    if node.op in _RULES:
        return None
    record = VOCABULARY.get(node.op)
    if record is None or not isinstance(record.function, Scalar) or record.parameters:
        return None
    low, high = record.function.range({name: node.attribute(name) for name in record.attributes})
    exact = node.op in _EXACT_ZEROS
    return None if (low, high) == (-math.inf, math.inf) else Range(low, high, 0.5 * exact, left_out=exact)


def _of_numbers(parameter: Parameter | None) -> Range | None:
    if parameter is None or parameter.provenance == "placeholder" or parameter.size == 0:
        return None
    if parameter.size > _ENTRIES:
        return ANY  # a table that large is not gone through for its bounds
    array = np.asarray(parameter.array(), np.float64)
    if np.isnan(array).any():
        return ANY
    # what has no gradient takes none further
    return Range(float(array.min()), float(array.max()), float(np.mean(array == 0)), left_out=not parameter.trainable)


def _chosen(graph: Graph, node: Node, found: Mapping[str, Range]) -> Range | None:
    """Of either branch; where the condition compares a branch with a number, only what it lets through."""
    condition = graph.producers.get(node.inputs[0] or "")
    branches = []
    for place in (1, 2):
        known = found.get(node.inputs[place] or "")
        if known is None:
            return None
        branches.append(_let_through(condition, node.inputs[place], known, place == 1, found))
    return _union(branches)


def _let_through(
    condition: Node | None, value: str | None, known: Range, taken: bool, found: Mapping[str, Range]
) -> Range:
    if condition is None or condition.op != "compare" or condition.inputs[0] != value:
        return known
    bound = found.get(condition.inputs[1] or "")
    if bound is None:
        return known
    above = str(condition.attribute("kind")) in ("gt", "ge")
    if above == taken:
        strict = condition.attribute("kind") == "gt"
        share = known.share * (not (strict and bound.low >= 0))
        return replace(known, low=max(known.low, bound.low), share=share)
    return replace(known, high=min(known.high, bound.high))


def _union(known: Iterable[Range]) -> Range:
    parts = list(known)
    left_out = all(p.left_out for p in parts if p.share)
    return Range(min(p.low for p in parts), max(p.high for p in parts), max(p.share for p in parts), left_out=left_out)


def _products(a: Range, b: Range) -> Range:
    corners = [0.0 if x == 0 or y == 0 else x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    return Range(
        min(corners),
        max(corners),
        1.0 - (1.0 - a.share) * (1.0 - b.share),
        a.together if a.share > b.share else b.together,
    )


def _mul(node: Node, known: Sequence[Range]) -> Range:
    if node.inputs[0] == node.inputs[1]:
        return _square(known[0])
    return _products(*known)


def _square(x: Range) -> Range:
    high = max(x.low**2, x.high**2)
    return replace(x, low=0.0 if x.low <= 0 <= x.high else min(x.low**2, x.high**2), high=high)


def _div(node: Node, known: Sequence[Range]) -> Range:
    a, b = known
    if b.low <= 0 <= b.high and b.low < 0:
        return Range(-math.inf, math.inf, a.share)
    inverse = Range(0.0 if b.high == math.inf else 1.0 / b.high if b.high else math.inf, _inverse(b.low))
    return _products(a, inverse)


def _inverse(number: float) -> float:
    return math.inf if number == 0 else 1.0 / number


def _pow(node: Node, known: Sequence[Range]) -> Range | None:
    exponent = float(node.attribute("exponent"))
    if exponent > 0 and exponent % 2 == 0:
        whole = _square(known[0])
        return replace(whole, low=whole.low ** (exponent / 2), high=_power(whole.high, exponent / 2))
    return (
        replace(known[0], low=0.0, high=math.inf, share=known[0].share * (exponent > 0)) if known[0].low >= 0 else ANY
    )


def _power(number: float, exponent: float) -> float:
    return math.inf if number > 1e150 else number**exponent


def _rectified(node: Node, known: Sequence[Range]) -> Range:
    """What was put together from several operations may hold a small number that it adds: its zeros are not exact."""
    share = 0.5 * (known[0].low < 0) + known[0].share * (known[0].low >= 0)
    return Range(max(known[0].low, 0.0), max(known[0].high, 0.0), share * (not node.sources), left_out=True)


def _padded(graph: Graph, node: Node, x: Range) -> Range:
    """With the number that a frame is filled with; nothing comes back to the zeros of a frame."""
    before, after = (graph.values[name].concrete_shape for name in (node.present_inputs[0], node.outputs[0]))
    if str(node.attribute("mode")) != "constant" or not before or not after or before == after:
        return x
    value, inner = float(node.attribute("value") or 0.0), math.prod(before) / max(math.prod(after), 1)
    share = x.share * inner + (1.0 - inner) * (value == 0.0)
    return Range(min(x.low, value), max(x.high, value), share, left_out=x.left_out or not x.share)


def _clip(node: Node, known: Sequence[Range]) -> Range:
    low, high = node.attribute("min"), node.attribute("max")
    low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return replace(
        known[0].mapped(lambda x: min(max(x, low), high)),
        share=0.5 * (low == 0 and not node.sources) or known[0].share * (low < 0),
        left_out=known[0].left_out or not known[0].share,  # at its bound itself a clamp lets the gradient through
    )


def _extreme(known: Sequence[Range], pick: Callable[[Iterable[float]], float]) -> Range:
    """The larger or the smaller of two: only where both are zero does the gradient reach either of them."""
    with_zeros = sum(k.share > 0 for k in known)
    share = min(k.share for k in known) if with_zeros == len(known) else 0.5 * (with_zeros > 0)
    return Range(pick(k.low for k in known), pick(k.high for k in known), share, left_out=with_zeros < len(known))


def _shifted(node: Node, known: Sequence[Range]) -> Range | None:
    bias = _of_numbers(node.parameters.get("bias"))
    if bias is None:
        return None
    moved = _products(bias, Range(node.attribute("factor"), node.attribute("factor")))
    share, left_out = known[0].share * moved.share, known[0].left_out and bias.left_out
    return Range(known[0].low + moved.low, known[0].high + moved.high, share, left_out=left_out)


def _scaled(node: Node, known: Sequence[Range]) -> Range | None:
    factor = Range(node.attribute("factor"), node.attribute("factor"))
    if "scale" not in node.parameters:
        return replace(_products(known[0], factor), left_out=known[0].left_out)
    scale = _of_numbers(node.parameters["scale"])
    if scale is None or node.attribute("reciprocal"):
        return ANY
    left_out = known[0].left_out and not scale.share and scale.left_out
    return replace(_products(known[0], _products(scale, factor)), left_out=left_out)


_RULES: Mapping[str, Callable[[Node, Sequence[Range]], Range | None]] = {
    "relu": _rectified,
    "leaky_relu": lambda node, known: known[0] if known[0].low >= 0 else ANY,
    "abs": lambda node, known: replace(known[0], low=0.0, high=max(-known[0].low, known[0].high)),
    "clip": _clip,
    "pow": _pow,
    "bias": _shifted,
    "scale": _scaled,
    "add": lambda node, known: Range(
        sum(k.low for k in known),
        sum(k.high for k in known),
        math.prod(k.share for k in known),
        left_out=all(k.left_out for k in known),
    ),
    "mul": _mul,
    "div": _div,
    "cumsum": lambda node, known: _summed(known[0]),
    "mean": lambda node, known: _union(known),
    "concat": lambda node, known: _union(known),
    "maximum": lambda node, known: _extreme(known, max),
    "minimum": lambda node, known: _extreme(known, min),
}
"""Operations whose range depends on that of their operands; None where it is not known."""
