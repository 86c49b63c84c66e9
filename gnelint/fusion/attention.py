"""Softmax and attention written out in products and exponentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnelint.fusion.statistics import Reduced, reduced
from gnelint.ir.graph import UNMODELLED, Derivation, Node, Parameter, Stored, Value, foremost
from gnelint.ir.rewriter import Rewriter, affine, scalar
from gnelint.records import dataclass

Array = NDArray[Any]

_MAX_CAUSAL = 1 << 24
"""Entries of the largest constant mask that is read to see whether it is causal."""
_MAX_STEPS = 8
"""Scales, caps, constants and masks between a product and its softmax."""
_OF_WEIGHTS = ("softmax", "dropout", "where", "reshape")
"""What may stand between a softmax and the product with the values, and itself."""
_HIDDEN = -1e3
"""A logit below this hides a position: e^-1000 is 0 in every data type."""

_IS_NAN = frozenset({"IsNaN", "aten.isnan.default"})
"""What no canonical operation says, in the words of both worlds."""


def fuse_softmax(rewriter: Rewriter) -> None:
    """Replace softmax and its logarithm where they are written out.

    softmax      e / sum(e) or e * (1 / sum(e)), e = exp(x) or exp(x - max x), over one axis
    log_softmax  x - log(sum(exp(x))), with or without the maximum taken off; log(softmax(x))
    """
    for node in rewriter:
        if node.op in ("div", "mul"):
            found = _softmax(rewriter, node)
            if found is not None:
                rewriter.replace(node, "softmax", (found.x,), "softmax", {"axis": found.axes[0]})
        elif node.op == "sub":
            found = _log_softmax(rewriter, node)
            if found is not None:
                rewriter.replace(node, "log_softmax", (found.x,), "log_softmax", {"axis": found.axes[0]})
        elif node.op == "log":
            inner = rewriter.source(node.inputs[0], "softmax")
            if inner is not None:
                rewriter.replace(node, "log_softmax", inner.inputs, "log_softmax", inner.attributes)


def _sum_of_exponentials(rewriter: Rewriter, value: str | None) -> Reduced | None:
    """What sum(exp(x)) over one axis takes the exponentials of."""
    node = rewriter.source(value, "expand", "reduce_sum")
    while node is not None and node.op == "expand":
        node = rewriter.source(node.inputs[0], "expand", "reduce_sum")
    found = reduced(rewriter, node.outputs[0]) if node is not None else None
    if node is None or found is None or len(found[1].axes) != 1:
        return None
    exponential = rewriter.source(node.inputs[0], "exp")
    if exponential is None or exponential.inputs[0] is None:
        return None
    return Reduced(exponential.inputs[0], found[1].axes)


def _without_maximum(rewriter: Rewriter, shifted: Reduced) -> Reduced:
    """x if the value is x - max(x) over the same axis, else the value itself: softmax is the same for both."""
    node = rewriter.source(shifted.x, "sub")
    if node is None or node.inputs[0] is None:
        return shifted
    found = reduced(rewriter, node.inputs[1])
    if found is None or found[0] != "reduce_max" or found[1].axes != shifted.axes:
        return shifted
    return Reduced(node.inputs[0], shifted.axes) if rewriter.same(found[1].x, node.inputs[0]) else shifted


def _softmax(rewriter: Rewriter, node: Node) -> Reduced | None:
    first, second = node.present_inputs
    if node.op == "div":
        pairs = [(first, second)]
    else:
        inverses = [(a, rewriter.source(b, "reciprocal")) for a, b in ((first, second), (second, first))]
        pairs = [(a, one.present_inputs[0]) for a, one in inverses if one is not None]
    for numerator, total in pairs:
        found = _sum_of_exponentials(rewriter, total)
        exponential = rewriter.source(numerator, "exp")
        if found is not None and exponential is not None and rewriter.same(found.x, exponential.inputs[0]):
            return _without_maximum(rewriter, found)
    return None


def _log_softmax(rewriter: Rewriter, node: Node) -> Reduced | None:
    logarithm = rewriter.source(node.inputs[1], "log")
    found = _sum_of_exponentials(rewriter, logarithm.inputs[0]) if logarithm is not None else None
    if found is None or not rewriter.same(found.x, node.inputs[0]):
        return None
    return _without_maximum(rewriter, found)


@dataclass(frozen=True)
class _Scores:
    """softmax(factor * query key^T + mask), or softmax(cap tanh(factor / cap * query key^T) + mask).

    Attributes:
        product: the node that multiplies query and key.
        factor: all numbers that multiply the product.
        cap: what no logit exceeds; None without a soft cap.
        mask: the value that decides what is seen: added to the logits, or a condition that is true for what is seen.
        filler: the constant that hides, where `mask` is a condition that is true for what is hidden.
        constant: a mask that is a parameter.
        causal: whether a constant mask hides the future.
        sink: the logit of a key more, which has no value.
    """

    product: Node
    factor: float = 1.0
    cap: float | None = None
    mask: str | None = None
    filler: str | None = None
    constant: Parameter | None = None
    causal: bool = False
    sink: Parameter | None = None

    @property
    def hides(self) -> bool:
        """Whether a mask has been met."""
        return self.mask is not None or self.constant is not None or self.causal

    def times(self, number: float) -> _Scores:
        """With logits so many times as large."""
        return replace(self, factor=self.factor * number, cap=None if self.cap is None else self.cap * abs(number))


def fuse_attention(rewriter: Rewriter) -> None:
    """Replace scaled dot-product attention written out.

        matmul(softmax(factor * matmul(query, key^T) [+ mask]) [0 for nan] [dropout], value)

    over (B, H, T, d) or (B*H, T, d). The factor may stand on the product, on the query, on the key or on both; a key
    that was transposed for the product alone is taken as it was before. A mask is added or put in by `where`; one that
    is constant and hides the future makes `causal`. In front of all masks a soft cap, cap tanh(x / cap), may bound the
    product; scores that bend in another way are left alone. A sink, a logit more in every row whose probability is cut
    off again, is a key and a value of zeros behind the others and a column more of the mask.
    """
    for node in rewriter:
        if node.op != "matmul" or node.attribute("transpose_a") or node.attribute("transpose_b"):
            continue
        if node.attribute("factor") != 1.0:
            continue
        scores = _scores(rewriter, node.inputs[0])
        if scores is None:
            scores = _scores_beside_sink(rewriter, node.inputs[0])
        if scores is not None:
            _write(rewriter, node, scores)


def turn_weighted_sums(rewriter: Rewriter) -> None:
    """Write matmul(value, weights^T), where weights are a softmax of scores, as (weights value^T)^T: attention over
    images keeps its channels in front."""
    for node in rewriter:
        if node.op != "matmul" or node.attribute("transpose_a") or node.attribute("factor") != 1.0:
            continue
        shape, weights = rewriter.shape(node.outputs[0]), node.inputs[1]
        if not node.attribute("transpose_b"):
            turned = rewriter.source(weights, "transpose")
            weights = turned.inputs[0] if turned is not None and _swaps_last(turned) else None
        value = node.inputs[0]
        if shape is None or weights is None or value is None or rewriter.rank(value) != rewriter.rank(weights):
            continue
        if _scores(rewriter, weights) is None:
            continue
        rows = _transposed(rewriter, value, node, "value")
        if rows is None:
            continue
        made = Node(f"{node.name}/sum", "matmul", (weights, rows), (), {}, {**node.attributes, "transpose_b": False})
        whole = Value(f"{node.outputs[0]}/sum", (*shape[:-2], shape[-1], shape[-2]), rewriter.value(value).dtype)
        found = _insert(rewriter, node, made, whole)
        order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
        rewriter.replace(node, "transpose", (found,), "transpose", {"perm": order})


def _swaps_last(node: Node) -> bool:
    """Whether a transposition swaps the last two axes and no others."""
    perm = node.attribute("perm")
    return list(perm) == [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]


def keep_constant_masks(rewriter: Rewriter) -> None:
    """Take a mask whose numbers the model holds (a window, ALiBi's slopes, relative positions) as a parameter of the
    attention, where its numbers can be read; one that hides the future and nothing else makes it causal."""
    for node in rewriter:
        if node.op != "attention":
            continue
        given = node.parameters.get("mask")
        read = _numbers_of(rewriter, node.inputs[3]) if len(node.inputs) > 3 else None
        mask = read if given is None else given if read is None else _sum_of(given, read)
        if mask is None and len(node.inputs) > 3:  # what is hidden anyway may be said twice
            mask = _hidden_anyway(rewriter, node.inputs[3])
        if mask is None:
            continue
        others = {role: parameter for role, parameter in node.parameters.items() if role != "mask"}
        attributes, parameters = node.attributes, {**others, "mask": mask}
        if hides_the_future(mask):
            attributes, parameters = {**attributes, "causal": True}, others
        if read is not None or parameters != node.parameters or attributes != node.attributes:
            inputs = node.inputs if read is None else node.inputs[:3]
            rewriter.replace(node, "attention", inputs, node.source_op, attributes, parameters)


@dataclass(frozen=True, eq=False)
class _Made(Derivation):
    """The numbers of a mask that is made of others."""

    parts: tuple[Parameter, ...]
    function: Callable[..., Array]

    def leaves(self) -> tuple[Parameter, ...]:
        return tuple({leaf.name: leaf for part in self.parts for leaf in part.leaves}.values())

    def evaluate(self, changed: Stored) -> Array:
        return self.function(*(_summands(part.with_stored(changed).array()) for part in self.parts))


def _made(name: str, shape: tuple[int, ...], function: Callable[..., Array], *parts: Parameter) -> Parameter:
    """A mask that is made of others, as what is added to the logits."""
    kind = foremost(part.kind for part in parts)
    return Parameter(name, shape, "float32", _Made(parts, function), kind=kind, transform="computed")


def _summands(mask: Array) -> Array:
    """What a mask adds to the logits."""
    return np.where(mask, np.float32(0.0), np.float32(-np.inf)) if mask.dtype == bool else mask.astype(np.float32)


def _sum_of(first: Parameter, second: Parameter) -> Parameter:
    shape = np.broadcast_shapes(first.shape, second.shape)
    return _made(f"{first.name} and {second.name}", shape, lambda a, b: a + b, first, second)


def _as_the_product(rewriter: Rewriter, mask: Parameter, node: Node, product: Node) -> Parameter | None:
    """A mask that meets logits behind a reshape of their leading axes, in the axes of the product."""
    here, there = rewriter.shape(node.outputs[0]), rewriter.shape(product.outputs[0])
    if here == there:
        return mask
    if here is None or there is None or not all(isinstance(size, int) for size in (*here, *there)):
        return None
    logits, whole = tuple(map(int, here)), tuple(map(int, there))
    if all(size == 1 for size in mask.shape[:-2]):
        short = mask.shape[-2:]
        return _made(mask.name, short, lambda numbers: numbers.reshape(short), mask)
    return _made(mask.name, whole, lambda numbers: np.broadcast_to(numbers, logits).reshape(whole), mask)


def _numbers_of(rewriter: Rewriter, value: str | None) -> Parameter | None:
    """The constant that a mask is, perhaps expanded over the batch, if its numbers can be read."""
    node = rewriter.source(value, "constant", "expand")
    while node is not None and node.op == "expand":
        node = rewriter.source(node.inputs[0], "constant", "expand")
    found = None if node is None else node.parameters["value"]
    return None if found is None or found.provenance == "initializer" else found


def _hidden_anyway(rewriter: Rewriter, mask: str | None) -> Parameter | None:
    """The constant mask in one that hides more, as that of sparse attention does: true for what both may see."""
    both = rewriter.source(mask, "logical")
    if both is None or both.attribute("kind") != "and":
        return None
    known = [_numbers_of(rewriter, value) for value in both.present_inputs]
    found = next((each for each in known if each is not None and len(each.shape) >= 2), None)
    return found if found is not None and found.size <= _MAX_CAUSAL else None


def hides_the_future(mask: Parameter) -> bool:
    """Whether a mask, added or true for what is seen, hides what comes later and nothing else."""
    if mask.dtype == "bool":
        return _is_causal(mask, hidden=lambda seen: seen == 0, seen=lambda seen: seen != 0)
    return _is_causal(mask, hidden=lambda logits: logits <= _HIDDEN, seen=lambda logits: logits == 0.0)


def _scores(rewriter: Rewriter, weights: str | None) -> _Scores | None:
    """What a matrix of attention weights is the softmax of."""
    softmax = rewriter.source(weights, *_OF_WEIGHTS)
    while softmax is not None and softmax.op != "softmax":
        if softmax.op == "reshape" and not _keeps_rows(rewriter, softmax):
            return None
        inner = _not_a_number(rewriter, softmax) if softmax.op == "where" else softmax.inputs[0]
        softmax = rewriter.source(inner, *_OF_WEIGHTS)
    rank = None if softmax is None else rewriter.rank(softmax.outputs[0])
    if softmax is None or softmax.parameters or rank is None or rank < 3:
        return None
    if softmax.attribute("axis") not in (-1, rank - 1):
        return None
    return _logits(rewriter, softmax.inputs[0], _MAX_STEPS)


def _keeps_rows(rewriter: Rewriter, reshape: Node) -> bool:
    """Whether a reshape puts samples and heads together or apart, and leaves each matrix of logits as it is."""
    before, after = rewriter.shape(reshape.inputs[0]), rewriter.shape(reshape.outputs[0])
    return before is not None and after is not None and min(len(before), len(after)) > 2 and before[-2:] == after[-2:]


def _scores_beside_sink(rewriter: Rewriter, weights: str | None) -> _Scores | None:
    """What a matrix of attention weights is the softmax of, where a column of constant logits was cut off again."""
    cut = rewriter.source(weights, "slice", "dropout")
    while cut is not None and cut.op == "dropout":
        cut = rewriter.source(cut.inputs[0], "slice", "dropout")
    softmax = rewriter.source(cut.inputs[0], "softmax") if cut is not None else None
    shape = rewriter.shape(softmax.outputs[0]) if softmax is not None else None
    if cut is None or softmax is None or softmax.parameters or shape is None or not isinstance(shape[-1], int):
        return None
    last, keys = len(shape) - 1, shape[-1] - 1
    if softmax.attribute("axis") not in (-1, last) or rewriter.shape(cut.outputs[0]) != (*shape[:-1], keys):
        return None
    joined = rewriter.source(_without_own_maximum(rewriter, softmax.inputs[0]), "concat")
    if joined is None or len(joined.present_inputs) != 2 or joined.attribute("axis") not in (-1, last):
        return None
    logits, column = joined.present_inputs
    starts, sink = cut.attribute("starts"), _numbers_of(rewriter, column)
    found = _logits(rewriter, logits, _MAX_STEPS)
    if tuple(starts) != (0,) or sink is None or found is None or not _as_wide(rewriter, found, keys):
        return None
    return replace(found, sink=sink) if rewriter.shape(logits) == (*shape[:-1], keys) else None


def _as_wide(rewriter: Rewriter, found: _Scores, keys: int) -> bool:
    """Whether a mask that the network makes is added to the logits and has a number for each key, if there is one."""
    if found.mask is None:
        return True
    shape, dtype = rewriter.shape(found.mask), rewriter.value(found.mask).dtype or ""
    known = shape is not None and all(isinstance(size, int) for size in shape)
    return known and shape is not None and shape[-1] == keys and (found.filler is not None or dtype.startswith("float"))


def _without_own_maximum(rewriter: Rewriter, value: str | None) -> str | None:
    """x if the value is x - max(x) along the last axis."""
    node = rewriter.source(value, "sub")
    if node is None or node.inputs[0] is None:
        return value
    shifted = _without_maximum(rewriter, Reduced(value or "", ((rewriter.rank(value) or 1) - 1,)))
    return shifted.x


def _not_a_number(rewriter: Rewriter, node: Node) -> str | None:
    """x if the node is where(isnan(x), 0, x): what a row that sees no key at all is given instead of 0 / 0."""
    condition, number, x = node.inputs
    test, constant = rewriter.producer(condition, UNMODELLED), rewriter.source(number, "constant")
    if test is None or constant is None or test.source_op not in _IS_NAN or not rewriter.same(test.inputs[0], x):
        return None
    return x if scalar(constant.parameters["value"]) == 0.0 else None


def _logits(rewriter: Rewriter, value: str | None, steps: int) -> _Scores | None:
    """The product that a value is but for numbers and masks, read from the product down."""
    node = rewriter.source(value, "scale", "bias", "add", "where", "matmul", "reshape", "tanh")
    if node is None or steps == 0:
        return None
    if node.op == "reshape":
        return _logits(rewriter, node.inputs[0], steps - 1) if _keeps_rows(rewriter, node) else None
    if node.op == "matmul":
        same_rank = rewriter.rank(node.inputs[0]) == rewriter.rank(node.inputs[1])
        return _Scores(node, node.attribute("factor")) if same_rank and not node.attribute("transpose_a") else None
    if node.op == "tanh":
        found = _logits(rewriter, node.inputs[0], steps - 1)
        return None if found is None or found.hides or found.cap is not None else replace(found, cap=1.0)
    if node.op in ("scale", "bias"):
        found = _logits(rewriter, node.inputs[0], steps - 1)
        return None if found is None else _after_constant(rewriter, found, node)
    sides = node.present_inputs[1:] if node.op == "where" else node.present_inputs
    if len(sides) != 2:
        return None
    first, second = (_logits(rewriter, side, steps - 1) for side in sides)
    if first is not None and second is not None and node.op == "add":
        later = rewriter.position(first.product) > rewriter.position(second.product)
        own, earlier, value = (first, second, sides[1]) if later else (second, first, sides[0])
        return _after_logits(rewriter, node, own, earlier, value)
    if (first is None) == (second is None):
        return None
    found, other = (first, sides[1]) if first is not None else (second, sides[0])
    return None if found is None else _after_mask(rewriter, found, node, other, kept_first=first is not None)


def _after_constant(rewriter: Rewriter, found: _Scores, node: Node) -> _Scores | None:
    """The logits behind a scale or a bias."""
    numbers = affine(node)
    if numbers is not None:
        plain = found.mask is None and found.constant is None
        # a number added to every logit changes nothing; one that multiplies must not meet a mask of finite numbers
        return found.times(numbers[0]) if plain or numbers[0] == 1.0 else None
    if node.op != "bias" or node.attribute("factor") != 1.0:
        return None
    mask = node.parameters["bias"]
    if hides_the_future(mask):
        return replace(found, causal=True)
    return _with_constant(rewriter, found, mask, node)


def _with_constant(rewriter: Rewriter, found: _Scores, mask: Parameter, node: Node) -> _Scores | None:
    """The logits with one more mask that the model holds."""
    moved = _as_the_product(rewriter, mask, node, found.product)
    if moved is None:
        return None
    return replace(found, constant=moved if found.constant is None else _sum_of(found.constant, moved))


def _after_mask(rewriter: Rewriter, found: _Scores, node: Node, other: str, *, kept_first: bool) -> _Scores | None:
    """The logits behind a sum with a mask, or behind a choice between them and a number that hides."""
    constant = rewriter.source(node.inputs[0] if node.op == "where" else other, "constant")
    mask = constant.parameters["value"] if constant is not None else None
    if node.op == "where":
        filler = rewriter.source(other, "constant")
        number = scalar(filler.parameters["value"]) if filler is not None else None
        if number is None or number > _HIDDEN:
            return None
        if mask is not None and _is_causal(
            mask, hidden=lambda chosen: (chosen != 0) != kept_first, seen=lambda chosen: (chosen != 0) == kept_first
        ):
            return replace(found, causal=True)
        if mask is not None and mask.provenance != "initializer":
            return _with_constant(rewriter, found, _added(mask, number, hidden=not kept_first), node)
        if found.mask is not None or _moved(rewriter, found, node):
            return None
        return replace(found, mask=node.present_inputs[0], filler=None if kept_first else other)
    if mask is not None and hides_the_future(mask):
        return replace(found, causal=True)
    if mask is not None and mask.provenance != "initializer":
        return _with_constant(rewriter, found, mask, node)
    return replace(found, mask=other) if found.mask is None and not _moved(rewriter, found, node) else None


def _after_logits(rewriter: Rewriter, node: Node, found: _Scores, before: _Scores, value: str) -> _Scores | None:
    """The logits behind a sum with those of a layer before: what is hidden there is hidden here."""
    if _moved(rewriter, found, node) or found.mask is not None or before.constant is not None:
        return None
    if not before.causal:
        return replace(found, mask=value) if before.filler is None else None
    choice = rewriter.source(value, "where")
    if choice is None:
        return None
    seen = [side for side in choice.present_inputs[1:] if rewriter.source(side, "constant") is None]
    return replace(found, mask=seen[0], causal=True) if len(seen) == 1 else None


def _moved(rewriter: Rewriter, found: _Scores, node: Node) -> bool:
    """Whether logits have other axes here than the product."""
    return rewriter.shape(node.outputs[0]) != rewriter.shape(found.product.outputs[0])


def _added(condition: Parameter, number: float, *, hidden: bool) -> Parameter:
    """What a constant condition that is true for what is hidden (or for what is seen) adds to the logits."""

    def numbers() -> Array:
        return np.where((condition.array() != 0) == hidden, np.float32(number), np.float32(0.0))

    return Parameter(f"{condition.name} (added)", condition.shape, "float32", numbers, kind="constant")


def _is_causal(mask: Parameter, hidden: Callable[[Array], Array], seen: Callable[[Array], Array]) -> bool:
    """Whether a constant hides what comes later and nothing else."""
    if len(mask.shape) < 2 or mask.size > _MAX_CAUSAL or mask.provenance == "initializer":
        return False
    rows, columns = mask.shape[-2:]
    if rows < 2 or columns < rows:
        return False
    entries = np.asarray(mask.array(), dtype=np.float32).reshape(-1, rows, columns)
    later = np.triu(np.ones((rows, columns), dtype=bool), k=columns - rows + 1)
    return bool(np.all(hidden(entries[:, later])) and np.all(seen(entries[:, ~later])))


def _write(rewriter: Rewriter, last: Node, scores: _Scores) -> None:
    factor, query = _unscaled(rewriter, scores.product.inputs[0], scores.factor)
    factor, right = _unscaled(rewriter, scores.product.inputs[1], factor)
    value = last.inputs[1]
    if (
        query is None
        or right is None
        or value is None
        or not rewriter.rank(query) == rewriter.rank(right) == rewriter.rank(value)
    ):
        return
    key = right if scores.product.attribute("transpose_b") else _transposed(rewriter, right, last)
    if key is None:
        return
    inputs: tuple[str | None, ...] = (query, key, value)
    mask = scores.mask
    if mask is not None and scores.filler is not None:
        mask = _summand(rewriter, mask, scores.filler, last)
    attributes: dict[str, Any] = {"scale": factor, "softcap": scores.cap, "causal": scores.causal}
    constant = scores.constant
    if scores.sink is not None:
        shape = rewriter.shape(scores.product.outputs[0])
        if shape is None or not all(isinstance(size, int) for size in shape):
            return
        constant = _with_sink(scores, scores.sink, (int(shape[-2]), int(shape[-1])))
        inputs = tuple(_with_zeros(rewriter, x, last, role) for x, role in ((key, "keys"), (value, "values")))
        inputs = (query, *inputs)
        mask = None if mask is None else _with_zeros(rewriter, mask, last, "logits", axis=-1)
        attributes["causal"] = False
    if mask is not None:
        inputs = (*inputs, mask)
    if rewriter.rank(query) == 3:  # one head, which the vocabulary writes as packed
        attributes.update(packed=True, heads=1, kv_heads=1)
        if constant is not None and len(constant.shape) == 3:  # a mask a sample, not a mask a head
            samples, *square = constant.shape
            constant = _made(constant.name, (samples, 1, *square), lambda numbers: numbers[:, None], constant)
    parameters = {} if constant is None else {"mask": constant}
    rewriter.replace(last, "attention", inputs, "attention", attributes, parameters)


def _with_sink(scores: _Scores, sink: Parameter, matrix: tuple[int, int]) -> Parameter:
    """The mask with the sink's logits as a column behind it."""
    parts = (sink,) if scores.constant is None else (sink, scores.constant)
    lead = np.broadcast_shapes(*(part.shape[:-2] for part in parts))

    def numbers(column: Array, added: Array | None = None) -> Array:
        mask = np.broadcast_to(np.float32(0.0) if added is None else added, (*lead, *matrix))
        if scores.causal:
            mask = np.where(np.tril(np.ones(matrix, dtype=bool), matrix[1] - matrix[0]), mask, np.float32(-np.inf))
        return np.concatenate([mask, np.broadcast_to(column, (*lead, matrix[0], 1))], axis=-1)

    return _made(f"{sink.name} beside the mask", (*lead, matrix[0], matrix[1] + 1), numbers, *parts)


def _with_zeros(rewriter: Rewriter, x: str, last: Node, role: str, axis: int = -2) -> str:
    """A value with a token of zeros behind the others of an axis."""
    shape = tuple(int(size) for size in rewriter.shape(x) or ())
    place = len(shape) + axis
    token = (*shape[:place], 1, *shape[place + 1 :])
    zeros = Parameter(f"{last.name}/zeros", token, "float32", lambda: np.zeros(token, np.float32), kind="constant")
    found = _constant(rewriter, zeros, f"sink of {role}", last)
    size = (*shape[:place], shape[place] + 1, *shape[place + 1 :])
    longer = Value(f"{last.outputs[0]}/{role}", size, rewriter.value(x).dtype)
    node = Node(f"{last.name}/{role}", "concat", (x, found), (), attributes={"axis": place})
    return _insert(rewriter, last, node, longer)


def _constant(rewriter: Rewriter, number: Parameter, role: str, last: Node) -> str:
    """A constant tensor as a value that attention can read."""
    value = Value(f"{last.outputs[0]}/{role}", number.shape, number.dtype)
    return _insert(rewriter, last, Node(f"{last.name}/{role}", "constant", (), (), {"value": number}), value)


def _summand(rewriter: Rewriter, condition: str, filler: str, last: Node) -> str:
    """What a condition that hides adds to the logits: the filler where it is true, else zero."""
    dtype = rewriter.value(filler).dtype or "float32"
    zero = Parameter(f"{last.name}/zero", (), "float32", lambda: np.zeros((), np.float32), kind="constant")
    seen = _constant(rewriter, zero, "zero", last)
    value = Value(f"{last.outputs[0]}/mask", rewriter.shape(condition), dtype)
    return _insert(rewriter, last, Node(f"{last.name}/mask", "where", (condition, filler, seen), ()), value)


def _insert(rewriter: Rewriter, last: Node, node: Node, value: Value) -> str:
    made = replace(
        node,
        outputs=(value.name,),
        source_op="attention",
        scope=last.scope,
        location=last.location,
        sources=(last.name,),
    )
    rewriter.insert(made, value, last)
    return value.name


def _unscaled(rewriter: Rewriter, value: str | None, factor: float) -> tuple[float, str | None]:
    """The value before plain numbers multiplied it, and the factor with them."""
    while (node := rewriter.source(value, "scale")) is not None:
        numbers = affine(node)
        if numbers is None:
            break
        factor, value = factor * numbers[0], node.inputs[0]
    return factor, value


def _transposed(rewriter: Rewriter, value: str, last: Node, role: str = "key") -> str | None:
    """The value with its last two axes swapped: what it was before a transposition, or through a new node."""
    shape = rewriter.shape(value)
    if shape is None:
        return None
    rank = len(shape)
    swap = (*range(rank - 2), rank - 1, rank - 2)
    flat = _flattened_swap(rewriter, value)
    if flat is not None:
        return flat
    source, order = value, swap
    node = rewriter.source(value, "transpose")
    if node is not None and node.inputs[0] is not None and len(node.attribute("perm")) == rank:
        perm = [axis % rank for axis in node.attribute("perm")]
        source, order = node.inputs[0], tuple(perm[axis] for axis in swap)
    if order == tuple(range(rank)):
        return source
    name = f"{last.name}/{role}"
    swapped = Value(f"{last.outputs[0]}/{role}", tuple(shape[axis] for axis in swap), rewriter.value(value).dtype)
    made = replace(
        node if node is not None else last,
        name=name,
        op="transpose",
        inputs=(source,),
        outputs=(swapped.name,),
        parameters={},
        attributes={"perm": order},
        source_op="attention",
        sources=(node.name if node is not None else last.name,),
    )
    rewriter.insert(made, swapped, last)
    return swapped.name


def _flattened_swap(rewriter: Rewriter, value: str) -> str | None:
    """What reshape, transpose (0, 2, 1), reshape swapped the last two axes of, the axes before them taken as one."""
    last = rewriter.source(value, "reshape")
    middle = rewriter.source(last.inputs[0], "transpose") if last is not None else None
    first = rewriter.source(middle.inputs[0], "reshape") if middle is not None else None
    if middle is None or first is None or tuple(middle.attribute("perm")) != (0, 2, 1):
        return None
    before, flat, after = (rewriter.shape(name) for name in (first.inputs[0], first.outputs[0], value))
    if before is None or flat is None or after is None or len(before) != len(after):
        return None
    if (*before[:-2], before[-1], before[-2]) != after or flat[-2:] != before[-2:]:
        return None
    return first.inputs[0]
