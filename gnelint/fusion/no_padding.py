"""Masks of padding in a file: tokens that differ from one number. All of them are taken to, as draws of tokens do.

Keras carries such a mask through its layers: a recurrent layer keeps its state where there is padding, in products with
the mask and with what it leaves out. Half of the steps would count as padding if nothing were known of it.
"""

from __future__ import annotations

import math

from gnelint.ir.graph import UNMODELLED, Node
from gnelint.ir.rewriter import Rewriter

NOTE = "no token is taken to be padding: masks of tokens that differ from one number hide nothing"
NO_PADDING = "no_padding"
"""The idiom's name."""
_VIEWS = frozenset({"identity", "reshape", "transpose", "slice", "flip", "expand"})
_EQUAL = "Equal"


def take_no_padding(rewriter: Rewriter) -> None:
    """Work out what is computed of such masks alone, and take it out of what it is multiplied by, chosen with or added
    to."""
    known: dict[str, float] = {}
    for node in rewriter:
        number = 1.0 if _is_mask(rewriter, node) else _computed(rewriter, node, known) if known else None
        if number is not None:
            known[node.outputs[0]] = number
        elif any(name in known for name in node.present_inputs):
            _take_out(rewriter, node, known)


def _is_mask(rewriter: Rewriter, node: Node) -> bool:
    """Whether a node says which tokens differ from one number."""
    if node.op != "logical" or node.attribute("kind") != "not":
        return False
    asked = rewriter.producer(node.inputs[0], UNMODELLED)
    return (
        asked is not None
        and asked.source_op == _EQUAL
        and len(asked.present_inputs) == 1
        and (rewriter.value(asked.present_inputs[0]).dtype or "").startswith(("int", "uint"))
        and any(number.size == 1 for number in asked.parameters.values())
    )


def _computed(rewriter: Rewriter, node: Node, known: dict[str, float]) -> float | None:
    """The number that a node writes everywhere, where what it reads is known."""
    read = [known.get(name) for name in node.present_inputs]
    if node.op in ("mul", "scale") and 0.0 in read:
        return 0.0
    if not read or None in read:
        return None
    numbers = [number for number in read if number is not None]
    if node.op in _VIEWS:
        return numbers[0]
    if node.op == "logical":
        return 1.0 - numbers[0] if node.attribute("kind") == "not" else None
    if node.op == "mul":
        return math.prod(numbers)
    if node.op == "add":
        return math.fsum(numbers)
    return _reduced(rewriter, node, numbers[0])


def _reduced(rewriter: Rewriter, node: Node, number: float) -> float | None:
    before, after = (rewriter.value(name).concrete_shape for name in (node.present_inputs[0], node.outputs[0]))
    if node.op not in ("reduce_sum", "reduce_mean") or before is None or after is None or 0 in after:
        return None
    return number * (math.prod(before) // math.prod(after) if node.op == "reduce_sum" else 1)


def _take_out(rewriter: Rewriter, node: Node, known: dict[str, float]) -> None:
    found = _of_choice(node, known) if node.op == "where" else _of_pair(node, known)
    if found is None or rewriter.shape(found[0]) != rewriter.shape(node.outputs[0]):
        return
    x, factor = found
    if factor == 1.0:
        rewriter.replace(node, "identity", (x,), NO_PADDING)
    else:
        rewriter.replace(node, "scale", (x,), NO_PADDING, {"factor": factor})


def _of_choice(node: Node, known: dict[str, float]) -> tuple[str, float] | None:
    condition, first, second = node.present_inputs
    return None if condition not in known else (first if known[condition] else second, 1.0)


def _of_pair(node: Node, known: dict[str, float]) -> tuple[str, float] | None:
    """What is left of two operands of which one is known, and what it is multiplied by."""
    if len(node.present_inputs) != 2:
        return None
    first, second = node.present_inputs
    if node.op == "div" and second in known:
        return (first, 1.0 / known[second]) if known[second] else None
    x, number = (second, known[first]) if first in known else (first, known[second])
    if node.op == "mul":
        return x, number
    return (x, 1.0) if node.op == "add" and number == 0.0 else None
