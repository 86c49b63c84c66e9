"""Which inputs each output depends on where masks leave some out (MADE), and positions that run the other way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gnelint.analysis.axes.layout import labels
from gnelint.ir.graph import Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function
from gnelint.ops import families

_FEWEST = 3
_MOST = 1024
_KEEPS = families()["activation"] | {"bias", "scale", "identity", "dropout"}
"""Operations that keep each feature where it is."""
Seen = np.ndarray
Turned = frozenset[int]


def _own_entries_seen(facts: Facts) -> float:
    """How many outputs see their own input, where masks order the rest: each sees those before it and no other one."""
    graph = facts.graph
    shape = graph.values[graph.inputs[0]].concrete_shape if graph.inputs else None
    if shape is None or len(shape) != 2 or not _FEWEST <= shape[1] <= _MOST or not _is_masked(facts):
        return 0.0
    seen: dict[str, Seen] = {graph.inputs[0]: np.eye(shape[1], dtype=bool)}
    for node in graph.nodes:
        found = _seen(facts, node, seen)
        if found is not None:
            seen[node.outputs[0]] = found
    return float(max((_in_order(seen[name], shape[1]) for name in graph.outputs if name in seen), default=0))


def _is_masked(facts: Facts) -> bool:
    """Whether two layers or more have computed weights, a good part of them zeros."""
    layers = [node for node in facts.graph.nodes if node.op == "linear" and _zeros(node) > 0.2]
    return len(layers) > 1


def _zeros(node: Node) -> float:
    weight = node.parameters["weight"]
    if weight.transform is None or weight.provenance != "data" or weight.size > _MOST**2:
        return 0.0
    return float(np.mean(weight.array() == 0))


def _seen(facts: Facts, node: Node, seen: dict[str, Seen]) -> Seen | None:
    """Rows: the features of a node's output; columns: the inputs that they depend on."""
    parts = [seen.get(name) for name in node.present_inputs]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    if node.op == "linear" and node.parameters["weight"].size <= _MOST**2:
        weight = node.parameters["weight"]
        return None if weight.provenance != "data" else ((weight.array() != 0).astype(np.float32) @ known[0]) > 0
    if node.op in ("add", "sub", "mul", "div") and all(part.shape == known[0].shape for part in known):
        return np.asarray(np.stack(known).any(axis=0))
    return known[0] if node.op in _KEEPS and len(known) == 1 else None


def _in_order(seen: Seen, inputs: int) -> int:
    """How many outputs see their own input, where they are most and the rest is a strict order; else 0.

    Outputs come input by input or kind by kind: means and deviations of each. Hidden layers often leave out the last
    input, which no other output may see.
    """
    if len(seen) % inputs:
        return 0
    for axis, shape in enumerate(((-1, inputs, inputs), (inputs, -1, inputs))):
        whole = np.asarray(seen.reshape(shape).any(axis=axis))
        others = np.sort((whole & ~np.eye(inputs, dtype=bool)).sum(1))
        own = int(np.count_nonzero(np.diagonal(whole)))
        if 2 * own > inputs and (others == np.arange(inputs)).all():
            return own
    return 0


_RECURRENT = families()["recurrent"]
_BENDS = families()["activation"] | _RECURRENT | {"attention"}
_JOINS = frozenset({"add", "mul", "concat", "sub", "maximum", "minimum"})


def _runs_against(facts: Facts, node: Node) -> bool:
    """Whether what was read backward joins what was read forward with its steps still in the other order, and each step
    of that is used: it is an output, or something bends it."""
    if node.op not in _JOINS:
        return False
    read = facts.once(("turned", None), lambda: _read_backward(facts))
    ways = [read.get(name, frozenset()) for name in node.present_inputs]
    mixed = {axis for axis in frozenset().union(*ways) if axis > 0 and not all(axis in way for way in ways)}
    apart = [axis for axis in mixed if all(facts.axes.holds(name, axis) for name in node.present_inputs)]
    return any(_is_used_by_step(facts, node, axis) for axis in apart)


def _read_backward(facts: Facts) -> Mapping[str, Turned]:
    """By value: the axes of the input that run the other way in it and that a recurrent layer has read so."""
    turned: dict[str, Turned] = {}
    read: dict[str, Turned] = {}
    for node in facts.graph.nodes if any(each.op == "flip" for each in facts.graph.nodes) else ():
        layout = facts.axes.layouts.get(node.outputs[0])
        held = frozenset() if layout is None else frozenset(labels(layout))
        now, seen = (
            frozenset(
                axis
                for axis in held
                if (ways := [axis in own.get(name, ()) for name in node.present_inputs if facts.axes.holds(name, axis)])
                and all(ways)
            )
            for own in (turned, read)
        )
        if node.op == "flip" and layout is not None:
            now ^= {label for axis in node.attribute("axes") for label in labels((layout[axis],))}
        seen = (seen | now if node.op in _RECURRENT else seen) & now
        turned.update(dict.fromkeys(node.outputs, now))
        read.update(dict.fromkeys(node.outputs, seen))
    return read


def _is_used_by_step(facts: Facts, node: Node, axis: int) -> bool:
    """Whether what a node gives is read step by step: not only its mean over them."""
    waiting, seen = list(node.outputs), set(node.outputs)
    while waiting:
        name = waiting.pop()
        if not facts.axes.holds(name, axis):
            continue
        if name in facts.graph.outputs:
            return True
        for reader in facts.graph.consumers.get(name, ()):
            if reader.op in _BENDS:
                return True
            waiting += [each for each in reader.outputs if each not in seen]
            seen.update(reader.outputs)
    return False


ORDER = (
    function(
        "runs_against(n)",
        "truth",
        _runs_against,
        "n joins values along the steps of a recurrence of which one still runs the other way",
    ),
    function(
        "own_entries_seen()",
        "number",
        _own_entries_seen,
        "outputs that depend on their own entry of the input, where masks on the weights let each see the ones before "
        "it and no later one; else 0",
    ),
)
