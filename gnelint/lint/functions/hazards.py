"""What gives no number in the first step: masked rows, roots and logarithms that are not defined, weights of 0/0."""

from __future__ import annotations

import math

import numpy as np

from gnelint.analysis.ranges import Range, is_less_its_maximum
from gnelint.ir.graph import LARGEST, Derivation, Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function
from gnelint.lint.overstated import REACH, overstated


def _hidden_rows(facts: Facts, node: Node) -> float | None:
    mask = node.parameters.get("mask")
    if mask is None and node.op in ("softmax", "log_softmax", "reduce_max"):
        return _rows_of_nothing(facts, node)
    if mask is None or mask.provenance != "data" or not mask.shape:
        return None
    array = mask.array()
    axis = node.attribute("axis") if node.op == "softmax" else -1
    hidden = ~array if array.dtype == bool else np.isneginf(np.asarray(array, np.float64))
    rows = np.all(hidden, axis=axis if -hidden.ndim <= axis < hidden.ndim else -1)
    return float(np.count_nonzero(rows))


def _rows_of_nothing(facts: Facts, node: Node) -> float:
    """Rows of a softmax, or of the maximum of a logsumexp, all of which minus infinity was joined or added to."""
    hidden = facts.hidden_entries.get(node.present_inputs[0])
    if hidden is None or (node.op == "reduce_max" and not _is_of_logsumexp(facts, node)):
        return 0.0
    axes = tuple(node.attribute("axes")) if node.op == "reduce_max" else node.attribute("axis")
    return float(np.count_nonzero(hidden.all(axis=axes)))


def _is_of_logsumexp(facts: Facts, node: Node) -> bool:
    """Whether a maximum is taken from the very numbers that it is of, and exponentials of that are summed."""
    for reader in facts.graph.consumers.get(node.present_inputs[0], ()):
        exponential = facts.graph.consumers.get(reader.outputs[0], ())
        if is_less_its_maximum(facts.graph, reader) and any(each.op == "exp" for each in exponential):
            return True
    return False


_KEEPS = frozenset({"identity", "reshape", "expand", "bias", "clip"})
"""What a sum passes on the way to where it divides: copies, and a small number that is added."""


def _divides_by_signed_sum(facts: Facts, node: Node) -> bool:
    """Whether a value that layers make, of either sign, is divided by its own sum or mean: that passes through zero."""
    if node.op != "div" or len(node.present_inputs) != 2:
        return False
    (name, _), total = node.present_inputs, facts.source_beyond(facts.producer(node, 1), _KEEPS)
    if total is None or total.op not in ("reduce_sum", "reduce_mean") or total.present_inputs[0] != name:
        return False
    known = facts.ranges.get(name)
    return name in facts.learnt_values and known is not None and known.low < 0.0 < known.high


_HIDING = 1e4
"""From which size on a number in a mask is to hide an entry, or does the opposite."""
_LOST = {"float16": 10.0, "bfloat16": 30.0, "float32": 30.0, "float64": 30.0}
"""Below minus this an exponential is lost beside numbers of size 1, and optimisers take its gradient for none."""
_OF_COMPLEX = "aten.abs.default"
"""The length of complex numbers, whose derivative at 0 torch takes for 0."""
_OFTEN_ZERO = 0.1
_MOVES = frozenset({"identity", "reshape", "expand", "transpose"})
_PASSING = frozenset({"mul", "scale", "reduce_sum", "reduce_mean", "add", "reshape", "slice", "transpose", "expand"})


def _broken_mask(facts: Facts, node: Node) -> float | None:
    """Entries of what is added to a softmax's logits, or put in their place, that are no number or that show."""
    masks = [node.parameters.get("mask")]
    softmax = node.op != "attention" and node.present_inputs
    before = facts.graph.producers.get(node.present_inputs[0]) if softmax else None
    factor = 1.0
    if before is not None and before.op == "bias":
        masks.append(before.parameters.get("bias"))
        factor = float(before.attribute("factor"))
    elif before is not None and before.op in ("where", "add"):
        sources = [facts.graph.producers.get(name) for name in before.present_inputs[before.op == "where" :]]
        masks += [each.parameters.get("value") for each in sources if each is not None and each.op == "constant"]
    known = [mask.array() for mask in masks if mask is not None and mask.provenance == "data" and not mask.trainable]
    floats = (np.asarray(array, np.float64) * factor for array in known if array.dtype.kind == "f")
    return float(sum(np.count_nonzero(np.isnan(array) | (array >= _HIDING)) for array in floats))


def _is_lost(facts: Facts, node: Node) -> bool | None:
    """Whether everything that an exponential or a sigmoid reads is so far out that its derivative is lost."""
    value = facts.graph.values[node.outputs[0]]
    limit, moments = _LOST.get(value.dtype or ""), facts.input_moments(node)
    known = facts.ranges.get(node.present_inputs[0]) if node.present_inputs else None
    if limit is None or (moments is None and known is None):
        return None
    low, high = (-np.inf, np.inf) if known is None else (known.low, known.high)
    if moments is not None and np.isfinite(moments).all():
        spread = REACH * max(moments[1] - moments[0] ** 2, 0.0) ** 0.5
        low, high = max(low, moments[0] - spread), min(high, moments[0] + spread)
    if high < -_HIDING:
        return False  # entries that are hidden, a maximum of nothing: zeros on purpose
    return bool(high < -limit or (node.op == "sigmoid" and low > limit))


def _sums_exponentials(facts: Facts, node: Node) -> bool:
    """Whether what a node reads is made of exponentials alone, of numbers that have no lower bound."""
    waiting, seen, met = [*node.present_inputs[:1]], set[str](), False
    while waiting:
        source = facts.graph.producers.get(waiting.pop())
        if source is None or source.name in seen:
            continue
        seen.add(source.name)
        if source.op == "exp":
            known, before = (
                facts.ranges.get(source.present_inputs[0]),
                facts.graph.producers.get(source.present_inputs[0]),
            )
            unbounded = known is not None and known.low == -np.inf
            # a value less its own maximum is 0 somewhere
            met |= unbounded and not (
                before is not None and before.op == "sub" and known is not None and known.high == 0
            )
        elif source.op in _PASSING:
            waiting.extend(source.present_inputs)
    return met


def _undefined_rows(facts: Facts, node: Node) -> float | None:
    weight = facts.weight(node)
    if weight is None or weight.transform is None or not weight.shape or facts.is_finite(weight):
        return 0.0
    if not all(facts.is_finite(leaf) for leaf in weight.leaves):
        return 0.0  # the stored numbers are not finite themselves
    array = np.asarray(weight.array(), np.float64)
    return float(np.count_nonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))


def _undefined_slopes(facts: Facts, node: Node) -> str:
    """The trained tensors that numbers are computed from, which are finite, and whose gradient is not."""
    found = [
        name
        for parameter in node.parameters.values()
        if isinstance(parameter.load, Derivation) and parameter.trainable and facts.is_finite(parameter)
        for name, slope in parameter.load.slopes().items()
        if not math.isfinite(slope)
    ]
    return ", ".join(dict.fromkeys(found)) or "none"


def _read(facts: Facts, node: Node) -> Range | None:
    """What a node reads; of a length written out the sum under the root, which is zero where the length is."""
    if node.op == "hypot":
        return _sum_of_squares(facts, node)
    if node.op == "reduce_l2" and node.attribute("exposed"):
        return facts.ranges.get(node.outputs[0])
    return facts.ranges.get(node.present_inputs[0]) if node.present_inputs else None


def _sum_of_squares(facts: Facts, node: Node) -> Range | None:
    known = [facts.ranges.get(name) for name in node.present_inputs]
    read = [x for x in known if x is not None]
    if len(read) < len(known):
        return None
    share = 0.0 if node.source_op == _OF_COMPLEX else math.prod(x.share for x in read)
    return Range(node.attribute("added"), math.inf, share, left_out=all(x.left_out for x in read))


def _lowest(facts: Facts, node: Node) -> float | None:
    known = _read(facts, node)
    return None if known is None else known.low


def _reads_zero(facts: Facts, node: Node) -> bool | None:
    known = _read(facts, node)
    return None if known is None else known.zeros and known.low <= 0 <= known.high


def _meets(facts: Facts, node: Node, number: float) -> bool:
    """Whether a node reads exactly this number: always, or where what a number was added to is zero."""
    name = node.present_inputs[0] if node.present_inputs else ""
    known, source = facts.ranges.get(name), facts.graph.producers.get(name)
    if known is not None and known.low == known.high == number:
        return True
    if source is not None and source.op in _MOVES:
        return _meets(facts, source, number)
    if source is None or source.op != "bias" or source.parameters["bias"].size != 1:
        return False
    read, added = facts.ranges.get(source.present_inputs[0]), source.parameters["bias"].array().reshape(-1)[0]
    exact = bool(number == float(added) * source.attribute("factor"))
    return exact and read is not None and read.zeros and read.low <= 0 <= read.high and not read.left_out


def _rests_at_zero(facts: Facts, node: Node) -> bool:
    """Whether all that a node reads, and all its operands, are zero for every input."""
    known = [facts.ranges.get(name) for name in node.present_inputs]
    return bool(known) and all(each is not None and each.low == each.high == 0.0 for each in known)


def _divisor_sigmas(facts: Facts, node: Node) -> float | None:
    """How many deviations from zero the mean of a divisor lies that a layer gives and that has either sign."""
    place = node.op == "div"
    source = facts.source_beyond(facts.producer(node, int(place)), _MOVES | {"bias", "scale", "slice"}, alone=True)
    known = facts.ranges.get(node.present_inputs[int(place)]) if len(node.present_inputs) > place else None
    moments = facts.input_moments(node, int(place))
    if source is None or source.op not in LAYERS or known is None or moments is None or not known.low < 0 < known.high:
        return None
    if not any(parameter.trainable for parameter in source.parameters.values()):
        return None
    return abs(moments[0]) / math.sqrt(max(moments[1] - moments[0] ** 2, 1e-30))


def _floor_bits(facts: Facts, node: Node) -> float | None:
    """log2 of the small number that stands in the place of the zeros that a logarithm reads; -inf if it was lost.

    A ReLU with a number beside it that changes nothing of its own was taken for one operation.
    """
    source = facts.producer(node)
    if source is None or source.present_inputs[0] not in facts.learnt_values:
        return None
    if source.op in ("relu", "clip") and len(source.sources) > 1:
        known = facts.ranges.get(source.outputs[0])
        return -math.inf if known is not None and known.low == 0.0 and not known.zeros else None
    known = facts.ranges.get(source.present_inputs[0])
    if source.op != "bias" or known is None or known.low < 0.0 or known.share < _OFTEN_ZERO:
        return None
    floor = facts.ranges.get(source.outputs[0])
    return math.log2(floor.low) if floor is not None and floor.low > 0.0 else None


def _lowest_exponent(facts: Facts, node: Node) -> float | None:
    """Of a power whose exponents are a tensor: the lowest of them that is not zero."""
    stored = next((each for role, each in node.parameters.items() if role.startswith("p_")), None)
    if stored is not None:
        numbers = np.asarray(stored.array(), np.float64) if stored.provenance == "data" else np.empty(0)
        return float(numbers[numbers != 0].min()) if numbers.any() else None
    known = facts.ranges.get(node.present_inputs[1]) if len(node.present_inputs) == 2 else None
    return None if known is None else known.low


def _left_out(facts: Facts, node: Node) -> bool | None:
    known = _read(facts, node)
    return None if known is None else known.left_out


def _overstated(facts: Facts, node: Node) -> float:
    found = facts.once(("overstated", None), lambda: overstated(facts))
    return found.get(node.outputs[0], 0.0)


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
    if place is None or _is_of_inputs(facts, node.present_inputs[place]):
        return None
    if node.op == "div" and _is_mean_of_positive(facts, node):
        return 1.0
    known = facts.ranges.get(node.present_inputs[place])
    return None if known is None else float(known.zeros and known.low <= 0 <= known.high)


def _is_mean_of_positive(facts: Facts, node: Node) -> bool:
    """Whether rectified numbers of layers are summed to one and divided by how many are above zero: hinge losses, of
    which none is left once all is learnt."""
    total, count = (facts.source_beyond(facts.producer(node, place), _MOVES) for place in (0, 1))
    if total is None or count is None or {total.op, count.op} != {"reduce_sum"} or facts.shape(count) not in ((), (1,)):
        return False
    compared = facts.source_beyond(facts.producer(count), _MOVES)
    summed = total.present_inputs[0]
    rectified = facts.graph.producers.get(summed)
    if compared is None or compared.op != "compare" or rectified is None or summed not in facts.learnt_values:
        return False
    if rectified.op == "mul":
        makers = [facts.source_beyond(facts.graph.producers.get(name), _MOVES) for name in rectified.present_inputs]
        kept = [name for name, maker in zip(rectified.present_inputs, makers, strict=True) if maker is not compared]
        return len(kept) == 1 and kept[0] in compared.present_inputs
    of_own = {summed, *rectified.present_inputs} & set(compared.present_inputs)
    return rectified.op in ("relu", "clip") and bool(of_own)


def _is_of_inputs(facts: Facts, value: str) -> bool:
    """Whether a number is a sum over inputs and what is compared with them: how many words a text has, which is 0 only
    if somebody gives a text without any."""
    source = facts.source_beyond(facts.graph.producers.get(value), _MOVES, alone=True)
    if source is None or source.op != "reduce_sum" or value in facts.learnt_values:
        return False
    waiting, seen = [*source.present_inputs], set[str]()
    while waiting:
        name = waiting.pop()
        if name in facts.graph.inputs:
            return True
        before = facts.graph.producers.get(name)
        if before is not None and name not in seen:
            seen.add(name)
            waiting += before.present_inputs
    return False


def _largest(facts: Facts, node: Node) -> float | None:
    value = facts.graph.values.get(node.outputs[0])
    return None if value is None or value.dtype is None else LARGEST.get(value.dtype)


def _input_sigmas(facts: Facts, node: Node) -> float | None:
    moments = facts.input_moments(node)
    if moments is None:
        return None
    mean, second = moments
    deviation = max(second - mean**2, 0.0) ** 0.5
    return mean / deviation if deviation > 0 else float(np.sign(mean)) * np.inf


HAZARDS = (
    function(
        "divides_by_signed_sum(n)",
        "truth",
        _divides_by_signed_sum,
        "the division n divides what layers make, of either sign, by its own sum or mean",
    ),
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
        "rows of a softmax, an attention or a logsumexp in which every entry is hidden (-infinity, or not seen), by a "
        "constant mask or by what was joined and added",
    ),
    function(
        "undefined_rows(n)",
        "number",
        _undefined_rows,
        "rows of a weight that the model computes (weight norm, standardisation) that are no number though what it is "
        "computed from is",
    ),
    function(
        "undefined_slopes(n)",
        "text",
        _undefined_slopes,
        "the trained tensors that the numbers of n are computed from and whose gradient is no number, or infinite, "
        "though the numbers are finite; or none",
    ),
    function(
        "lowest_input(n)",
        "number",
        _lowest,
        "the lowest number that n can read, -infinity where there is no bound; unknown for what is computed of the "
        "network's inputs alone",
    ),
    function(
        "meets(n, x)",
        "truth",
        _meets,
        "n reads exactly x: always, or where zeros are that a number was added to",
    ),
    function("rests_at_zero(n)", "truth", _rests_at_zero, "all operands of n are zero for every input"),
    function(
        "divisor_sigmas(n)",
        "number",
        _divisor_sigmas,
        "deviations from zero of the mean of what n divides by, where a trained layer gives it and it has either sign",
    ),
    function(
        "floor_bits(n)",
        "number",
        _floor_bits,
        "log2 of the number that the logarithm n reads in the place of the zeros that a ReLU or a mask makes behind "
        "layers; -infinity where it is too small to tell, unknown where there are hardly any",
    ),
    function(
        "lowest_exponent(n)",
        "number",
        _lowest_exponent,
        "of a power whose exponents are a tensor: the lowest of them, zeros left out; as far as bounds tell",
    ),
    function("highest_input(n)", "number", _highest, "the highest number that n can read, likewise"),
    function(
        "zero_divisors(n)",
        "number",
        _zero_divisors,
        "how many of the constants that n divides by are zero; for a computed divisor 1 if it can be exactly 0",
    ),
    function(
        "broken_mask(n)",
        "number",
        _broken_mask,
        "entries of the constant mask of a softmax or attention that are no number, +infinity or 10,000 and more",
    ),
    function(
        "is_lost(n)",
        "truth",
        _is_lost,
        "all that an exponential or a sigmoid reads is so far out that its derivative is lost",
    ),
    function(
        "sums_exponentials(n)",
        "truth",
        _sums_exponentials,
        "n reads products or sums of exponentials of numbers without a lower bound, from which no maximum was taken",
    ),
    function("largest_number(n)", "number", _largest, "the largest finite number of the type of n's output"),
    function("reads_zero(n)", "truth", _reads_zero, "n can read numbers that are exactly 0, such as a ReLU gives"),
    function(
        "overstated_bits(n)",
        "number",
        _overstated,
        "log2 of the predicted root mean square of n's output over the largest number that is ever seen: more than 0 "
        "behind exponentials of something wide, whose average is made by numbers that no draw holds",
    ),
    function(
        "zeros_left_out(n)",
        "truth",
        _left_out,
        "all zeros that n can read are those of a ReLU, a clamp or a where(), whose derivative drops what comes back "
        "to those entries, whatever it is",
    ),
    function("input_sigmas(n)", "number", _input_sigmas, "mean over standard deviation of what n reads"),
)
