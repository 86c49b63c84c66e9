"""Sines and rotations by fixed angles: rates that tell nothing apart, pairs that are not turned as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function

_NONE = "none"
_LEAST = 4
"""Rates from which on they are a code."""
_MOST = 1 << 22
_LOST = 1e-6
"""Rates below this share of the largest one are next to none."""
_WILD = 100.0
"""Radians per standard deviation of the input from which on neighbours have nothing in common."""
_ALIKE = 1e-4


def _useless_rates(facts: Facts, node: Node) -> str:
    """What is wrong with the fixed rates of the angles that a sine or cosine reads."""
    rates = _rates(facts, node)
    if rates is None or rates.size < _LEAST or not rates.max() > 0:
        return _NONE
    if np.ptp(rates) <= _ALIKE * rates.max():
        return f"all {rates.size} rates are the same number"
    lost = int(np.count_nonzero(rates < _LOST * rates.max()))
    if 2 * lost >= rates.size:
        return f"{lost} of {rates.size} rates are next to zero beside the largest"
    if np.quantile(rates, 0.1) > _WILD:
        return f"nine of ten angles change by more than {_WILD:.0f} radians when the input changes by its deviation"
    return _NONE


def _rates(facts: Facts, node: Node) -> np.ndarray | None:
    """Of each feature, the size of what is multiplied with one number, or with the input of a fixed layer."""
    source = facts.producer(node) if node.op in ("sin", "cos") else None
    source = facts.source_beyond(source, ("bias", "reshape", "identity"))
    stored = None if source is None else source.parameters.get("scale" if source.op == "scale" else "weight")
    if source is None or stored is None or stored.provenance != "data" or stored.trainable or stored.size > _MOST:
        return None
    numbers = np.abs(np.asarray(stored.array(), np.float64))
    if source.op == "scale" and numbers.size == numbers.shape[-1] and not source.attribute("reciprocal"):
        return numbers.reshape(-1) * _expanded(facts, source) * abs(float(source.attribute("factor")))
    if source.op == "linear":
        return np.asarray(np.sqrt((numbers**2).sum(axis=1)))
    return None


def _expanded(facts: Facts, node: Node) -> float:
    """1 where each number that is multiplied stands beside itself for each rate; else no rate is one of a code."""
    own, whole = facts.graph.values[node.present_inputs[0]].concrete_shape, facts.shape(node)
    if own is not None and whole is not None and own[-1:] == (1,) != whole[-1:]:
        return 1.0
    source = facts.producer(node)
    while source is not None and source.op in ("expand", "identity"):
        before = facts.graph.values[source.present_inputs[0]].concrete_shape
        if before is not None and before[-1:] == (1,):
            return 1.0
        source = facts.producer(source)
    return 0.0


def _uneven_turns(facts: Facts, node: Node) -> float:
    """The share of features that a rotation x cos + (partner of x) sin turns by another angle than their partner."""
    parts = [facts.producer(node, place) for place in (0, 1)] if node.op == "add" else []
    scales = [part for part in parts if part is not None and part.op == "scale" and "scale" in part.parameters]
    if len(scales) != 2 or any(part.parameters["scale"].trainable for part in scales):
        return 0.0
    for own, turned in (scales, scales[::-1]):
        base = own.present_inputs[0]
        partner = _partners(facts, turned.present_inputs[0], base)
        if partner is None:
            continue
        tables = [np.asarray(part.parameters["scale"].array(), np.float64) for part in (own, turned)]
        if any(table.shape[-1:] != partner.shape or not np.isfinite(table).all() for table in tables):
            return 0.0
        apart = [np.abs(table - table[..., partner]) > _ALIKE for table in tables]
        uneven = [each.reshape(-1, partner.size).any(axis=0) for each in apart]
        return float(np.mean(uneven[0] | uneven[1]))
    return 0.0


_PLAIN = frozenset({"reshape", "transpose", "identity", "expand", "dropout", "scale", "bias", "rms_norm", "layer_norm"})
"""What may stand between a layer and the attention that reads it, and turns nothing by its place."""
_TURNS = _PLAIN | {"add", "sub", "concat", "slice", "split"}


def _half_turned(facts: Facts, node: Node) -> str:
    """Which of the queries and keys of an attention are turned by their places, where the others are a layer's output
    as it is."""
    if node.op != "attention":
        return _NONE
    turned = [_is_turned(facts, node.present_inputs[place]) for place in (0, 1)]
    if True not in turned or False not in turned:
        return _NONE
    return "queries and not its keys" if turned[0] else "keys and not its queries"


def _is_turned(facts: Facts, value: str) -> bool | None:
    """Whether what a layer gives is multiplied by a fixed table of sines on its way to a value; None where that is not
    known: other values come in on the way."""
    waiting, seen, plain, turned = [value], {value}, True, False
    while waiting:
        node = facts.graph.producers.get(waiting.pop())
        if node is None or node.op not in _TURNS | {"linear"}:
            return None
        plain = plain and node.op in _PLAIN | {"linear"}
        turned = turned or _holds_waves(facts, node)
        for name in () if node.op == "linear" else node.present_inputs:
            waiting += [] if name in seen else [name]
            seen.add(name)
    return True if turned else False if plain else None


def _holds_waves(facts: Facts, node: Node) -> bool:
    """Whether a node multiplies by numbers between -1 and 1 that nobody trains, others for each position."""
    table = node.parameters.get("scale") if node.op == "scale" else None
    if table is None or table.trainable or table.provenance != "data" or not _LEAST < table.size <= _MOST:
        return False
    numbers = np.asarray(table.array(), np.float64)
    if numbers.ndim < 2 or numbers.shape[-1] < 2 or not np.isfinite(numbers).all():
        return False
    rows = numbers.reshape(-1, numbers.shape[-1])
    return bool(np.abs(rows).max() <= 1.0 + _ALIKE and rows.min() < 0.0 and np.ptp(rows, axis=0).max() > _ALIKE)


def _partners(facts: Facts, value: str, base: str) -> np.ndarray | None:
    """Of each feature the one in whose place it is put, where half of them change their sign; None of other moves."""
    shape = facts.graph.values[base].concrete_shape
    if shape is None or not shape or shape[-1] < _LEAST or shape[-1] % 2:
        return None
    width = shape[-1]
    start = np.broadcast_to(np.arange(1, width + 1), (*(1,) * (len(shape) - 1), width))
    found = _moved(facts, value, base, start)
    if found is None or found.size != width:
        return None
    signed = found.reshape(-1)
    partner = np.abs(signed) - 1
    whole = np.array_equal(partner[partner], np.arange(width)) and not (partner == np.arange(width)).any()
    return partner if whole and (np.sign(signed[partner]) == -np.sign(signed)).all() else None


def _moved(facts: Facts, value: str, base: str, start: np.ndarray, deepest: int = 12) -> np.ndarray | None:
    """The features of `base` as data movement puts them into a value; the axes before the last are left at 1."""
    if value == base:
        return start
    node = facts.graph.producers.get(value)
    follow = None if node is None else _MOVES.get(node.op)
    if node is None or follow is None or not deepest or len(node.outputs) > 1:
        return None
    parts = [_moved(facts, name, base, start, deepest - 1) for name in node.present_inputs]
    known = [part for part in parts if part is not None]
    return follow(facts, node, known) if len(known) == len(parts) else None


def _cut(facts: Facts, node: Node, parts: list[np.ndarray]) -> np.ndarray | None:
    rank = parts[0].ndim
    if tuple(axis % rank for axis in node.attribute("axes")) != (rank - 1,):
        return None
    cut = slice(node.attribute("starts")[0], node.attribute("ends")[0], node.attribute("steps")[0])
    return parts[0][..., cut]


def _turned_sign(facts: Facts, node: Node, parts: list[np.ndarray]) -> np.ndarray | None:
    return -parts[0] if "scale" not in node.parameters and node.attribute("factor") == -1.0 else None


def _reshaped(facts: Facts, node: Node, parts: list[np.ndarray]) -> np.ndarray | None:
    """Among the last axes alone: what lies before keeps its size."""
    before, after = facts.graph.values[node.present_inputs[0]].concrete_shape, facts.shape(node)
    if before is None or after is None:
        return None
    kept = 0
    while kept < min(len(before), len(after)) - 1 and before[kept] == after[kept] and parts[0].shape[kept] == 1:
        kept += 1
    tail = after[kept:]
    return parts[0].reshape(*(1,) * kept, *tail) if parts[0].size == int(np.prod(tail)) else None


def _joined(facts: Facts, node: Node, parts: list[np.ndarray]) -> np.ndarray | None:
    return (
        np.concatenate(parts, axis=node.attribute("axis"))
        if node.attribute("axis") in (-1, parts[0].ndim - 1)
        else None
    )


_MOVES: Mapping[str, Callable[[Facts, Node, list[np.ndarray]], np.ndarray | None]] = {
    "slice": _cut,
    "scale": _turned_sign,
    "reshape": _reshaped,
    "concat": _joined,
    "identity": lambda facts, node, parts: parts[0],
}

WAVES = (
    function(
        "half_turned(n)",
        "text",
        _half_turned,
        "which of the queries and keys of the attention n are turned by their places, where the others are what a "
        "layer gives, not turned; or none",
    ),
    function(
        "useless_rates(n)",
        "text",
        _useless_rates,
        "why the fixed rates of the angles that the sine or cosine n reads tell nothing apart, a clause; or none",
    ),
    function(
        "uneven_turns(n)",
        "number",
        _uneven_turns,
        "the sum n turns pairs of features by fixed angles (rotary positions): share of the features whose angle is "
        "not that of their partner",
    ),
)
