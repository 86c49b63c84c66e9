"""Softmax over the entries of a row that a constant mask leaves: capped logits of a decoder, a graph's neighbours."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gnelint.ir.graph import LARGEST, UNMODELLED, Node, Parameter
from gnelint.ir.rewriter import Rewriter, scalar

_HIDDEN = -1e3
"""A logit below this hides an entry: e^-1000 is 0 in every data type."""
_NEARLY = 0.99
"""Share of a type's largest number from which on the negative of it is a bound that changes nothing."""
_ASK_NUMBERS = frozenset({"IsNaN", "IsInf", "aten.isnan.default", "aten.isinf.default"})
_EQUAL = frozenset({"Equal", "aten.eq.Scalar"})
LARGEST_MASK = 1 << 24
"""Entries of the largest constant that is read to see what it hides."""


def drop_lowest_bounds(rewriter: Rewriter) -> None:
    """Take max(x, the lowest number of the type) for x: sums of two masks that hide are kept finite so."""
    for node in rewriter:
        if node.op != "maximum" or len(node.present_inputs) != 2:
            continue
        largest = LARGEST.get(rewriter.value(node.outputs[0]).dtype or "")
        for x, bound in (node.present_inputs, node.present_inputs[::-1]):
            constant = _constant(rewriter, bound)
            number = None if constant is None else scalar(constant)
            if largest is not None and number is not None and number <= -_NEARLY * largest:
                if rewriter.shape(x) == rewriter.shape(node.outputs[0]):
                    rewriter.replace(node, "identity", (x,), "lowest_bound")
                break


def drop_replaced_infinities(rewriter: Rewriter) -> None:
    """Take where(isnan(x), 0, x) and where(x == infinity, the largest number, x) for x, as nan_to_num writes them, and
    where(|x| == infinity, 0, x), as logsumexp writes its largest entry.

    A draw of finite numbers has none of either. What is no number itself is found where it is made.
    """
    for node in rewriter:
        if node.op != "where":
            continue
        condition, filler, x = node.present_inputs
        asked = rewriter.source(condition, UNMODELLED)
        if asked is None or asked.present_inputs[:1] == () or rewriter.shape(x) != rewriter.shape(node.outputs[0]):
            continue
        constant = _constant(rewriter, filler)
        number = None if constant is None else scalar(constant)
        largest = LARGEST.get(rewriter.value(node.outputs[0]).dtype or "")
        extreme = number is not None and largest is not None and abs(number) >= _NEARLY * largest
        size = rewriter.source(asked.present_inputs[0], "abs") if asked.source_op in _EQUAL and number == 0.0 else None
        asks = asked.source_op in _ASK_NUMBERS or size is not None or (extreme and asked.source_op in _EQUAL)
        compared = asked.present_inputs[0] if size is None else size.present_inputs[0]
        own = _replaced(rewriter, x) == _replaced(rewriter, compared)
        if own and asks and (extreme or number == 0.0):
            rewriter.replace(node, "identity", (x,), "replaced_infinities")


def _replaced(rewriter: Rewriter, value: str) -> str | None:
    """The value before others of its entries were replaced."""
    node = rewriter.source(value, "where")
    while node is not None:
        value = node.present_inputs[-1]
        node = rewriter.source(value, "where")
    return rewriter.behind(value)


def keep_hidden(rewriter: Rewriter) -> None:
    """Take the mask of a softmax whose numbers the model holds as a parameter of it: true for what is seen.

    softmax of where(mask, -inf, x), where(mask, x, -inf), or x + mask with 0 and -inf in the mask; also where such
    entries are joined with others that are all seen, as a sink is that the network makes. For what no attention was
    made of. A row of which a finite number hides every entry has equal shares, none of them hidden.
    """
    for node in rewriter:
        if node.op != "softmax" or node.attribute("top") is not None or node.parameters:
            continue
        found = _hidden(rewriter, node)
        if found is not None:
            x, mask = found
            rewriter.replace(node, "softmax", (x,), "masked_softmax", node.attributes, {"mask": mask})


def _hidden(rewriter: Rewriter, node: Node) -> tuple[str, Parameter] | None:
    """What a softmax is taken of before some of it was hidden, and what of it is seen."""
    shape = rewriter.shape(node.outputs[0])
    if shape is None or node.inputs[0] is None:
        return None
    axis = int(node.attribute("axis")) % len(shape) - len(shape)
    joined = rewriter.source(node.inputs[0], "concat")
    if joined is not None:
        return _hidden_parts(rewriter, node, joined)
    found = _hiding(rewriter, node.inputs[0])
    if found is None:
        return None
    x, mask, seen, numbers = found
    if -seen.ndim <= axis:
        seen = seen | (~seen.any(axis, keepdims=True) & np.isfinite(numbers))
    return x, _mask(mask, seen)


def _hidden_parts(rewriter: Rewriter, node: Node, joined: Node) -> tuple[str, Parameter] | None:
    """The same of what is joined of parts, some of them with entries hidden and some without."""
    found = [_hiding(rewriter, value) for value in joined.present_inputs]
    hiding = [each for each in found if each is not None]
    whole = rewriter.value(joined.outputs[0])
    if not hiding or len(hiding) == len(found) or whole.concrete_shape is None:
        return None
    rank = len(whole.concrete_shape)
    axis = int(joined.attribute("axis")) % rank
    masks = [np.ones((1,) * rank, bool) if each is None else _with_rank(each[2], rank) for each in found]
    lead = np.broadcast_shapes(*(np.delete(mask.shape, axis) for mask in masks))
    lengths = [(rewriter.value(value).concrete_shape or whole.concrete_shape)[axis] for value in joined.present_inputs]
    if math.prod(lead) * sum(lengths) > LARGEST_MASK:
        return None
    shapes = [(*lead[:axis], length, *lead[axis:]) for length in lengths]
    seen = np.concatenate([np.broadcast_to(m, shape) for m, shape in zip(masks, shapes, strict=True)], axis)
    plain = tuple(value if each is None else each[0] for value, each in zip(joined.present_inputs, found, strict=True))
    value = replace(whole, name=f"{node.outputs[0]}/joined")
    made = replace(joined, name=f"{node.name}/joined", inputs=plain, outputs=(value.name,), sources=(joined.name,))
    rewriter.insert(made, value, node)
    return value.name, _mask(hiding[0][1], seen)


def _with_rank(mask: np.ndarray, rank: int) -> np.ndarray:
    return mask.reshape((1,) * (rank - mask.ndim) + mask.shape)


def _hiding(rewriter: Rewriter, value: str) -> tuple[str, Parameter, np.ndarray, np.ndarray] | None:
    """What a value was before some of its entries were hidden, the mask, what it leaves, and the numbers that hide."""
    choice = rewriter.source(value, "where", "bias")
    if choice is None:
        return None
    if choice.op == "bias":
        (x,) = choice.present_inputs
        added = choice.parameters.get("bias")
        numbers = None if added is None or choice.attribute("factor") <= 0 else _numbers(added)
        if added is None or numbers is None or not _hides_or_keeps(numbers):
            return None
        kept = rewriter.shape(x) == rewriter.shape(choice.outputs[0])
        return (x, added, numbers == 0, numbers) if kept else None
    return constant_choice(rewriter, choice)


def constant_choice(rewriter: Rewriter, choice: Node) -> tuple[str, Parameter, np.ndarray, np.ndarray] | None:
    """The same of where(mask, filler, x) with a constant mask and a constant filler that hides."""
    condition, first, second = choice.present_inputs
    known = _constant(rewriter, condition)
    for filler, x, hidden in ((first, second, True), (second, first, False)):
        number = _constant(rewriter, filler)
        numbers = None if number is None else _numbers(number)
        if known is None or numbers is None or not np.all(numbers < _HIDDEN):
            continue
        mask = _numbers(known)
        if mask is not None and rewriter.shape(x) == rewriter.shape(choice.outputs[0]):
            return x, known, (mask != 0) != hidden, numbers.reshape(-1)[:1]
    return None


def _hides_or_keeps(numbers: np.ndarray) -> bool:
    hidden = numbers < _HIDDEN
    return bool(np.any(hidden) and np.all(hidden | (numbers == 0)))


def _mask(source: Parameter, seen: np.ndarray) -> Parameter:
    return Parameter(f"{source.name} (seen)", seen.shape, "bool", lambda: seen, kind="constant")


def _constant(rewriter: Rewriter, value: str | None) -> Parameter | None:
    node = rewriter.source(value, "constant", "expand")
    if node is not None and node.op == "expand":
        node = rewriter.source(node.inputs[0], "constant")
    return None if node is None else node.parameters["value"]


def _numbers(parameter: Parameter) -> np.ndarray | None:
    """The numbers of a constant that can be read."""
    if parameter.size > LARGEST_MASK or parameter.provenance == "initializer":
        return None
    return np.asarray(parameter.array())
