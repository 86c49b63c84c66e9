"""Straight-through estimators of a file, whose detached difference ONNX has no word for (fusion.gradient)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gnelint.ir.graph import Graph
from gnelint.measure.program import Watch


def through_estimators(graph: Graph, watch: Watch, given: Mapping[str, Any]) -> Watch:
    """A watch that puts x + (z - x).detach() in the place of x + (z - x), for each such node of the graph.

    Args:
        graph: what was read from the file that is run.
        watch: sees the tensors behind that.
        given: tensors that the run starts from and does not show.
    """
    made = {node.outputs[0]: node.present_inputs for node in graph.nodes if node.op == "straight_through"}
    if not made:
        return watch
    read = {name for names in made.values() for name in names}
    seen = {name: datum for name, datum in given.items() if name in read and isinstance(datum, Tensor)}

    def watched(name: str, tensor: Tensor) -> Tensor:
        parts = [seen[part] for part in made.get(name, ()) if part in seen]
        if len(parts) == 2:
            rounded, x = parts
            tensor = x + (rounded - x).detach()
        shown = watch(name, tensor)
        if name in read:
            seen[name] = shown
        return shown

    return watched
