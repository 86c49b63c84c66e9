"""Parts that follow another part of their form: teachers, target networks, momentum encoders."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from gnelint.ir.graph import Node, Parameter
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function

_NONE = "none"
_CLOSE = 0.5
"""Cosine of the weights of two layers above which one follows the other: drawn apart they have 0 +- 1/sqrt(entries)."""
_ENTRIES = 16
"""Below so many entries weights that were drawn apart may be close."""
_TO_LOSS = frozenset(
    {"scale", "bias", "identity", "square", "abs", "pow", "reduce_sum", "reduce_mean", "reshape", "add"}
)


def _matrices(facts: Facts, moves: bool) -> Iterator[tuple[str, Parameter]]:
    """Weights of layers that ever move, or never do, with their names."""
    for node in facts.graph.nodes:
        weight = node.parameters.get("weight") if node.op in LAYERS else None
        if weight is None or weight.provenance != "data" or weight.size < _ENTRIES or "." not in weight.name:
            continue
        if weight.name in facts.movement.first and (facts.movement.first[weight.name] is not None) == moves:
            yield weight.name, weight


def _prefixes(name: str, other: str) -> tuple[str, str]:
    """What differs in front of what two names have in common at their ends."""
    one, two = name.split("."), other.split(".")
    same = 0
    while same < min(len(one), len(two)) - 1 and one[-1 - same] == two[-1 - same]:
        same += 1
    return ".".join(one[: len(one) - same]), ".".join(two[: len(two) - same])


def _cosine(one: Parameter, two: Parameter) -> float:
    if one.shape != two.shape:
        return 0.0
    a, b = (np.asarray(each.array(), np.float64).ravel() for each in (one, two))
    if float(np.ptp(a)) == 0.0:  # constants say nothing
        return 0.0
    whole = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / whole if whole > 0 else 0.0


def _followed(facts: Facts) -> list[tuple[str, str]]:
    """The name of each part that never moves, and of one of its form and of about its numbers that does."""
    moving = list(_matrices(facts, moves=True))
    found = {
        _prefixes(name, other): None
        for name, weight in _matrices(facts, moves=False)
        for other, its in moving
        if name.rpartition(".")[2] == other.rpartition(".")[2] and _cosine(weight, its) > _CLOSE
    }
    return list(found)


def _follows(facts: Facts, node: Node) -> bool:
    """Whether the node's parameters, which a detach holds back, are those of a part that follows another."""
    first, blocks = facts.movement.first, facts.movement.blocks
    leaves = [leaf.name for parameter in node.parameters.values() for leaf in parameter.leaves]
    names = [name for name in leaves if name in first and first[name] is None]
    if not names or any(name not in blocks or blocks[name].cause != "detached" for name in names):
        return False
    parts = facts.once(("followed", None), lambda: _followed(facts))
    return all(
        any(name.startswith(f"{part}.") and first.get(other + name[len(part) :]) is not None for part, other in parts)
        for name in names
    )


def _copies(facts: Facts) -> list[tuple[str, str]]:
    """Names of two parts that both move and start with the same numbers, of which the first few are compared."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, weight in _matrices(facts, moves=True):
        first = np.asarray(weight.array()).reshape(-1)[:_ENTRIES].astype(np.float64)
        if float(np.ptp(first)) > 0.0:  # constants say nothing
            alike.setdefault((weight.shape, name.rpartition(".")[2], *first.tolist()), []).append(name)
    pairs = {
        _prefixes(name, other): None for names in alike.values() for name, other in itertools.combinations(names, 2)
    }
    return list(pairs)


def _heard(facts: Facts, node: Node) -> str:
    """Two parts that start as copies, whose results meet in the node on the way to a loss; or none."""
    if node.op not in ("sub", "mul") or len(node.present_inputs) != 2 or not is_compared(facts, node):
        return _NONE
    if not all(name in facts.learnt_values for name in node.present_inputs):
        return _NONE
    for one, two in facts.once(("copies", None), lambda: _copies(facts)):
        behind = [_behind(facts, part) for part in (one, two)]
        sides = [tuple(name in each for each in behind) for name in node.present_inputs]
        if sorted(sides) == [(False, True), (True, False)]:
            return " and ".join(sorted((one, two), reverse=True))
    return _NONE


def _behind(facts: Facts, part: str) -> frozenset[str]:
    """Values that depend on the weights of a part."""
    return facts.once(("behind a part", part), lambda: _search_behind(facts, part))


def _search_behind(facts: Facts, part: str) -> frozenset[str]:
    found: set[str] = set()
    for node in facts.graph.nodes:
        own = any(parameter.name.startswith(f"{part}.") for parameter in node.parameters.values())
        if own or any(name in found for name in node.present_inputs):
            found.update(node.outputs)
    return frozenset(found)


def is_compared(facts: Facts, node: Node) -> bool:
    """Whether nothing but sums, squares and numbers lie between a difference or product and a loss of one number."""
    for _ in range(12):
        shape = facts.shape(node)
        if facts.is_output(node) and shape is not None and all(size == 1 for size in shape):
            return True
        readers: Sequence[Node] = facts.graph.consumers.get(node.outputs[0], ())
        if len({reader.name for reader in readers}) != 1 or readers[0].op not in _TO_LOSS:
            return False
        node = readers[0]
    return False


TEACHERS = (
    function(
        "follows(n)",
        "truth",
        _follows,
        "parameters of n, which a detach holds back, belong to a part of the form and of about the numbers of one that "
        "trains: a target network, which is moved by hand",
    ),
    function(
        "heard_teacher(n)",
        "text",
        _heard,
        "two parts that start as copies and both train, whose results n compares on the way to a loss; or none",
    ),
)
