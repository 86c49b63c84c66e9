"""Modules of one kind, most of which add their input to what they give, and those that do not."""

from __future__ import annotations

import re
from typing import Any

from gnelint.ir.graph import Node
from gnelint.lint.facts import LAYERS, Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families

_BEFORE_SUM = (
    frozenset({"scale", "bias", "identity", "dropout"}) | families()["activation"] | families()["normalization"]
)
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def _without_shortcut(facts: Facts) -> str:
    """Numbered modules of one kind with one input and one output of the same shape, most of which have a shortcut."""
    kinds: dict[Any, list[tuple[str, bool]]] = {}
    for scope, nodes in _modules(facts).items():
        ends = _ends(facts, nodes)
        if ends is not None:
            place = _NUMBER.sub("*", scope)
            kinds.setdefault((place, tuple(node.op for node in nodes)), []).append((scope, _is_added(facts, *ends)))
    found = []
    for members in kinds.values():
        lacking = [scope for scope, added in members if not added]
        if lacking and len(lacking) * 3 <= len(members):
            found += lacking
    return ", ".join(found) or "none"


def _modules(facts: Facts) -> dict[str, list[Node]]:
    """The nodes inside each numbered module, in order."""
    found: dict[str, list[Node]] = {}
    for node in facts.graph.nodes:
        for match in _NUMBER.finditer(node.scope):
            found.setdefault(node.scope[: match.end()], []).append(node)
    return found


def _ends(facts: Facts, nodes: list[Node]) -> tuple[str, str] | None:
    """The one value that a module reads and the one that it gives, if they are of one shape."""
    made = {name for node in nodes for name in node.outputs}
    read = {name for node in nodes for name in node.present_inputs} - made
    inside = {node.name for node in nodes}
    given = {
        name
        for name in made
        if name in facts.graph.outputs
        or any(reader.name not in inside for reader in facts.graph.consumers.get(name, ()))
    }
    if len(read) != 1 or len(given) != 1 or not any(node.op in LAYERS for node in nodes):
        return None
    ends = next(iter(read)), next(iter(given))
    values = facts.graph.values
    return ends if values[ends[0]].concrete_shape == values[ends[1]].concrete_shape is not None else None


def _is_added(facts: Facts, source: str, result: str) -> bool:
    """Whether the input of a module meets what it gives in a sum, inside or right behind it."""
    last = facts.graph.producers.get(result)
    sums = [last, *facts.graph.consumers.get(result, ())]
    for _ in range(3):  # past a scale, a bias, an activation or dropout on either side
        sums += [
            reader
            for node in sums
            if node is not None and node.op in _BEFORE_SUM
            for name in node.outputs
            for reader in facts.graph.consumers.get(name, ())
        ]
    if last is not None and last.op != "add":
        sums += [facts.graph.producers.get(name) for name in last.present_inputs]
    return any(node is not None and node.op == "add" and _leads_to(facts, source, node) for node in sums)


def _leads_to(facts: Facts, source: str, join: Node) -> bool:
    """Whether a value is an operand of a sum, past what changes no position and needs no layer."""
    for name in join.present_inputs:
        for _ in range(3):
            if name == source:
                return True
            node = facts.graph.producers.get(name)
            if node is None or node.op not in _BEFORE_SUM or not node.present_inputs:
                break
            name = node.present_inputs[0]
    return False


SHORTCUTS = (
    function(
        "without_shortcut()",
        "text",
        _without_shortcut,
        "numbered modules whose input is not added to what they give, where that of most of their kind is; or none",
    ),
)
