"""Operands that tracing takes, which looks at shapes alone, and that no run gets past."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx
from torch.export import ExportedProgram

from gnelint.errors import ModelError
from gnelint.readers.torch.names import user_location
from gnelint.readers.torch.operations import operation_name

_PRODUCTS = frozenset({"linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "einsum"})
"""Operations that torch traces on integers and floating-point numbers, and refuses to run."""


def refuse_integers(program: ExportedProgram, name: str) -> None:
    """See that no product is taken of integers and floating-point numbers.

    Raises:
        ModelError: one is, which no run gets past; the message says which input must be of another type.
    """
    for node in program.graph.nodes:
        if operation_name(node.target) not in _PRODUCTS:
            continue
        read = [source for source in node.all_input_nodes if isinstance(source.meta.get("val"), torch.Tensor)]
        whole = [source for source in read if not source.meta["val"].dtype.is_floating_point]
        whole = [source for source in whole if not source.meta["val"].dtype.is_complex]
        if not whole or len(whole) == len(read):
            continue
        place = user_location(node.meta.get("stack_trace"))
        at_line = "" if place is None else f" ({place.file}:{place.line})"
        kind = str(whole[0].meta["val"].dtype).removeprefix("torch.")
        source = _source(whole[0], program.graph_signature.user_inputs)
        shape = "8,3,32,32" if source is None else ",".join(map(str, source.meta["val"].shape))
        fed = "a value" if source is None else f'its input "{source.name}"'
        raise ModelError(
            name,
            f"cannot be run: {fed} holds integers ({kind}), which are multiplied by floating-point numbers{at_line}",
            f"An input of floating-point numbers is needed: --input {shape}.",
        )


def _source(node: fx.Node, inputs: Collection[str]) -> fx.Node | None:
    """The first input of the network that an integer value is made of."""
    waiting, seen = [node], {node}
    while waiting:
        current = waiting.pop(0)
        if current.name in inputs:
            return current
        fresh = [source for source in current.all_input_nodes if source not in seen]
        seen.update(fresh)
        waiting += fresh
    return None
