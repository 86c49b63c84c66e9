"""Activations that are no submodule of their own, exchanged in the graph that torch.fx traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn

from gnelint.fixes.edits import Substitute
from gnelint.ir.graph import Graph
from gnelint.ops import VOCABULARY, families
from gnelint.readers.torch.export import cause
from gnelint.writers.base import CannotEditError
from gnelint.writers.torch.activations import made_of

_MODULES: Mapping[type[nn.Module], str] = {
    getattr(nn, record.module): name for name, record in VOCABULARY.items() if record.module
}


def substituted(module: nn.Module, wanted: Sequence[Substitute], graph: Graph) -> fx.GraphModule:
    """The module as an `fx.GraphModule` with other activations at some calls; each is a submodule of its own then.

    The n-th call of an activation in the traced graph is the n-th such node of `graph`: both are in the order in which
    Python runs them. Parameters and submodules keep their names.

    Args:
        module: is not changed; the result shares its parameters.
        wanted: what to put in, where.
        graph: what was read of the module.

    Raises:
        CannotEditError: the module cannot be traced so that it still does the same, or a call is not found.
    """
    traced = _traced(module)
    calls = {action.node: _call(traced, graph, action.node) for action in wanted}
    for action in wanted:
        _exchange(traced, calls[action.node], action)
    traced.graph.lint()
    traced.recompile()
    return traced


def _call(traced: fx.GraphModule, graph: Graph, name: str) -> fx.Node:
    """The call that a node of the graph is."""
    op = graph.node(name).op
    known = [node.name for node in graph.nodes if node.op == op]
    found = [node for node in traced.graph.nodes if _op(traced, node) == op]
    if len(found) != len(known):
        raise CannotEditError(f"torch.fx sees {len(found)} calls of {op}, where there are {len(known)}")
    return found[known.index(name)]


def _traced(module: nn.Module) -> fx.GraphModule:
    """Traced in the mode in which it is.

    Raises:
        CannotEditError: it cannot be, or it does something else in the other mode, which a traced graph could not.
    """
    modes = {part: part.training for part in module.modules()}
    try:
        codes = [fx.symbolic_trace(module.train(mode)).code for mode in (True, False)]
        for part, mode in modes.items():
            part.training = mode
        traced = fx.symbolic_trace(module)
    except Exception as error:
        raise CannotEditError(f"torch.fx cannot trace the module: {cause(error)}") from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    if codes[0] != codes[1]:
        raise CannotEditError("the module computes something else in evaluation, which torch.fx would not keep")
    return traced


def _op(traced: fx.GraphModule, node: fx.Node) -> str | None:
    """The activation that a call is, None if it is none."""
    if node.op == "call_module":
        return _MODULES.get(type(traced.get_submodule(str(node.target))))
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", "")
    else:
        return None
    return name.rstrip("_") if name.rstrip("_") in families()["activation"] else None


def _exchange(traced: fx.GraphModule, call: fx.Node, action: Substitute) -> None:
    """A submodule of its own, called as the node is, in the place of a call."""
    name = action.node
    while _taken(traced, name):
        name += "_fixed"
    new = made_of(action)
    new.train(traced.training)
    traced.add_submodule(name, new)
    read = call.args[0] if call.args else call.kwargs["input"]
    with traced.graph.inserting_before(call):
        instead = traced.graph.call_module(name, (read,))
    call.replace_all_uses_with(instead)
    traced.graph.erase_node(call)


def _taken(traced: fx.GraphModule, name: str) -> bool:
    parent, _, leaf = name.rpartition(".")
    try:
        holder: torch.nn.Module = traced.get_submodule(parent)
    except AttributeError:
        return False
    return hasattr(holder, leaf)
