"""An exported program in functional form, without tracing it a second time.

`torch.export.export` leaves writes in place (also through views), blocks with a gradient mode of their own, and
composites as they were called. What the lowering reads is a list of operations on values:

1. blocks are put in line; what a block without gradients computes is detached;
2. a write becomes an operation on a value, and every later use of the tensor or of a view on its memory reads that;
3. composites that the vocabulary lacks are taken apart, each kind once.

Names, scopes and source lines stay. A program that does something else to its memory goes through
`run_decompositions`, which traces it again.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from gnelint.readers.torch.composites import decomposed, take_apart
from gnelint.readers.torch.writes import OtherFormError, Writes

_OWN_MODES = {"wrap_with_set_grad_enabled": 2, "wrap_with_autocast": 5}
"""Blocks with a mode of their own, and where their operands start."""

aten = torch.ops.aten


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program in functional form; the given one is used up."""
    try:
        _put_blocks_in_line(program.graph_module)
        Writes(program.graph_module.graph).replace()
        take_apart(program)
    except OtherFormError:
        return decomposed(program)
    program.graph_module.recompile()
    return program


def _put_blocks_in_line(module: fx.GraphModule) -> None:
    graph = module.graph
    for node in list(graph.nodes):
        first = _OWN_MODES.get(getattr(node.target, "__name__", "")) if node.op == "call_function" else None
        if first is None:
            continue
        block = _attribute(module, node.args[first - 1].target)
        _put_blocks_in_line(block)
        inner = [found for found in block.graph.nodes if found.op == "placeholder"]
        known: dict[fx.Node, Any] = dict(zip(inner, node.args[first:], strict=False))
        with graph.inserting_before(node):
            for found in block.graph.nodes:
                if found.op == "get_attr":
                    name = f"{node.name}_{found.target}".replace(".", "_")
                    setattr(module, name, _attribute(block, found.target))
                    known[found] = graph.get_attr(name)
                    known[found].meta = dict(found.meta)
                elif found.op not in ("placeholder", "output"):
                    known[found] = graph.node_copy(found, known.__getitem__)
                    if first == 2 and node.args[0] is False:
                        _detach_written(graph, known[found])
            results = fx.map_arg(block.graph.output_node().args[0], known.__getitem__)
            if first == 2 and node.args[0] is False:
                results = [_detached(graph, result) for result in results]
        for part in list(node.users):
            if part.target is operator.getitem:
                part.replace_all_uses_with(results[part.args[1]])
                graph.erase_node(part)
        whole = node.args[first - 1]
        graph.erase_node(node)
        if not whole.users:
            graph.erase_node(whole)


def _attribute(module: Any, path: Any) -> Any:
    for part in str(path).split("."):
        module = getattr(module, part)
    return module


def _detach_written(graph: fx.Graph, node: fx.Node) -> None:
    """What is written in place into a tensor from outside the block has no history either."""
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable:
        with graph.inserting_before(node):
            node.args = (node.args[0], *(_detached(graph, each) for each in node.args[1:]))


def _detached(graph: fx.Graph, node: Any) -> Any:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return node
    found = graph.call_function(aten.detach.default, (node,))
    found.meta = dict(node.meta)
    return found
