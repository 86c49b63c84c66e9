"""What stays as it is: entries that are the same along an axis, a part of the numbers that no layer changes."""

from __future__ import annotations

from gnelint.analysis.constancy import equal_axes
from gnelint.ir.graph import Graph, Node
from gnelint.lint.facts import Facts
from gnelint.lint.functions.signature import function


def _equal_entries(facts: Facts, node: Node) -> float:
    """How many entries a softmax shares out equally whatever it reads, since nothing tells them apart."""
    shape = facts.graph.values[node.outputs[0]].concrete_shape
    if node.op != "softmax" or not shape or node.present_inputs[0] not in facts.learnt_values:
        return 0.0
    equal = facts.once(("equal axes", None), lambda: equal_axes(facts.graph))
    place = int(node.attribute("axis")) % len(shape)
    return float(shape[place]) if place - len(shape) in equal.get(node.present_inputs[0], ()) else 0.0


def _coupled(graph: Graph, node: Node) -> tuple[int, Node | None] | None:
    """The place at which a concatenation puts a part of a value back where it was, and what made that value."""
    if node.op != "concat" or len(node.present_inputs) != 2:
        return None
    axis = int(node.attribute("axis"))
    for place, name in enumerate(node.present_inputs):
        part = graph.producers.get(name)
        other = graph.producers.get(node.present_inputs[1 - place])
        if part is None or part.op != "split" or other is None or other.name == part.name:
            continue
        rank = len(graph.values[name].shape or ())
        same_axis = rank and int(part.attribute("axis")) % rank == axis % rank
        if same_axis and len(part.outputs) == 2 and part.outputs[place] == name:
            return place, graph.producers.get(part.present_inputs[0])
    return None


def _kept_through(facts: Facts, node: Node) -> float:
    """Coupling layers in a row, up to the last one, all of which leave the same part of the numbers as it is."""
    found = _coupled(facts.graph, node)
    if found is None:
        return 0.0
    place, before = found
    readers = [
        reader for name in node.outputs for reader in facts.graph.consumers.get(name, ()) if reader.op == "split"
    ]
    parts = [reader.outputs[place] for reader in readers if len(reader.outputs) == 2]
    later = [reader for name in parts for reader in facts.graph.consumers.get(name, ()) if reader.op == "concat"]
    if any((again := _coupled(facts.graph, each)) is not None and again[0] == place for each in later):
        return 0.0  # the last of them tells
    count = 1
    while before is not None and (found := _coupled(facts.graph, before)) is not None and found[0] == place:
        count, before = count + 1, found[1]
    return float(count)


ALIKE = (
    function(
        "equal_entries(n)",
        "number",
        _equal_entries,
        "entries of a softmax's axis that nothing tells apart: stored and treated alike, so each gets the same share",
    ),
    function(
        "kept_through(n)",
        "number",
        _kept_through,
        "coupling layers in a row, up to the concatenation n, that all leave the same part of the numbers as it is",
    ),
)
