"""Composites that the vocabulary lacks, taken apart: all kinds of a program in one small trace."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from gnelint.readers.torch.graph import knows, needed
from gnelint.readers.torch.operations import operation_name, shape_only
from gnelint.readers.torch.writes import ORIGIN, OtherFormError
from gnelint.records import dataclass

KEPT_WHOLE = frozenset({"_weight_norm", "_weight_norm_interface"})
"""Composites that the lowering table lacks and that are not taken apart: weight normalisation is folded into the weight
and named after what it is."""


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The same by a second trace; composites that the lowering table knows are kept whole."""
    return program.run_decompositions(_table())


def _table() -> dict[Any, Any]:
    """What is taken apart, and how."""
    found = {
        operation: rule
        for operation, rule in torch.export.default_decompositions().items()
        if not knows(operation) and operation_name(operation) not in KEPT_WHOLE
    }
    normal = torch.ops.aten.normal
    return found | dict.fromkeys((normal.Tensor_Tensor, normal.Tensor_float, normal.float_Tensor), _normal)


def _normal(mean: Any, std: Any, **options: Any) -> torch.Tensor:
    """`torch.normal` of tensors: no gradient reaches its mean or deviation."""
    like = mean if isinstance(mean, torch.Tensor) else std
    centre, spread = (each.detach() if isinstance(each, torch.Tensor) else each for each in (mean, std))
    return centre + spread * torch.randn_like(like)


def take_apart(program: ExportedProgram) -> None:
    """Put what they are made of in the place of calls that the vocabulary lacks, all kinds traced in one small program.

    What depends on no input is left whole: it is run, not read.
    """
    graph, given = program.graph_module.graph, set(program.graph_signature.user_inputs)
    live = set(needed(graph.output_node().all_input_nodes))
    flowing: set[fx.Node] = set()
    unknown = []
    for node in graph.nodes:
        if node.op == "placeholder" and node.name in given:
            flowing.add(node)
        shown = shape_only(node)
        read = [source for source in node.all_input_nodes if source is not shown]
        if not flowing.isdisjoint(read):
            flowing.add(node)
            if node in live and _is_unknown(node):
                unknown.append(node)
    if not unknown:
        return
    table = _table()
    kinds: dict[Any, list[fx.Node]] = {}
    for node in unknown:
        if node.target in table or _is_composite(node.target):
            kinds.setdefault(_signature(node), []).append(node)
    if not kinds:
        return
    parts = _taken_apart([nodes[0] for nodes in kinds.values()], table)
    for nodes, part in zip(kinds.values(), parts, strict=True):
        if part is not None:
            for node in nodes:
                part.put_in(graph, node)


def _is_unknown(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and not knows(node.target)
        and operation_name(node.target) not in KEPT_WHOLE
        and isinstance(node.meta.get("val"), (torch.Tensor, list, tuple))  # no number that is read off a tensor
    )


def _is_composite(operation: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), "CompositeImplicitAutograd"))


def _signature(node: fx.Node) -> Any:
    """The same for calls that are taken apart alike.

    Raises:
        OtherFormError: it depends on a size that is not known.
    """

    def shown(argument: Any) -> str:
        if not isinstance(argument, fx.Node):
            return f"{type(argument).__name__} {argument}"
        value = argument.meta.get("val")
        if not isinstance(value, torch.Tensor) or not all(isinstance(size, int) for size in value.shape):
            raise OtherFormError
        return f"tensor {tuple(value.shape)} {value.stride()} {value.dtype} {value.device.type}"

    leaves, form = pytree.tree_flatten((list(node.args), dict(node.kwargs)))
    return (node.target, str(form), tuple(map(shown, leaves)))


class _Calls(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The calls to take apart, on tensors that come as one list a call."""

    def __init__(self, calls: list[Callable[[list[torch.Tensor]], Any]]) -> None:
        super().__init__()
        self._calls = calls

    def forward(self, tensors: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
        return [pytree.tree_leaves(call(given)) for call, given in zip(self._calls, tensors, strict=True)]


@dataclass(frozen=True)
class _Part:
    """What one call becomes: operations between placeholders and results."""

    placeholders: tuple[fx.Node, ...]
    results: tuple[Any, ...]
    order: tuple[fx.Node, ...]

    def put_in(self, graph: fx.Graph, node: fx.Node) -> None:
        """The operations in the place of the call."""
        given = [found for found in pytree.tree_leaves((list(node.args), dict(node.kwargs))) if _is_tensor(found)]
        known: dict[fx.Node, fx.Node] = dict(zip(self.placeholders, given, strict=True))
        with graph.inserting_before(node):
            for found in self.order:
                copy = graph.node_copy(found, known.__getitem__)
                copy.meta = {"val": found.meta["val"]} | {key: node.meta[key] for key in ORIGIN if key in node.meta}
                known[found] = copy
        results = [known[found] if isinstance(found, fx.Node) else found for found in self.results]
        if isinstance(node.meta["val"], torch.Tensor):
            node.replace_all_uses_with(results[0])
        else:
            for user in list(node.users):
                if user.target is not operator.getitem:
                    return
                user.replace_all_uses_with(results[user.args[1]])
                graph.erase_node(user)
        graph.erase_node(node)


def _is_tensor(found: Any) -> bool:
    return isinstance(found, fx.Node) and isinstance(found.meta.get("val"), torch.Tensor)


def _taken_apart(nodes: list[fx.Node], table: Mapping[Any, Any]) -> list[_Part | None]:
    """What each of the calls becomes; None for one that is left whole, as it checks what it computes."""
    examples = []
    calls = []
    mode = FakeTensorMode(shape_env=ShapeEnv())
    for node in nodes:
        leaves, form = pytree.tree_flatten((list(node.args), dict(node.kwargs)))
        places = [at for at, leaf in enumerate(leaves) if _is_tensor(leaf)]
        rest = [None if at in places else leaf for at, leaf in enumerate(leaves)]
        with mode:
            examples.append([_shadow(leaves[at].meta["val"]) for at in places])
        calls.append(_call_with(node.target, rest, places, form))
    program = torch.export.export(_Calls(calls), (examples,), strict=False).run_decompositions(dict(table))
    named = {node.name: node for node in program.graph.nodes}
    placeholders = iter(named[name] for name in program.graph_signature.user_inputs)
    given = [tuple(next(placeholders) for _ in example) for example in examples]
    specs = program.graph_signature.output_specs
    kinds = zip(program.graph.output_node().args[0], specs, strict=True)
    returned = [found for found, spec in kinds if spec.kind is OutputKind.USER_OUTPUT]
    parts: list[_Part | None] = []
    for node, own in zip(nodes, given, strict=True):
        count = 1 if isinstance(node.meta["val"], torch.Tensor) else len(node.meta["val"])
        results, returned = tuple(returned[:count]), returned[count:]
        inner = set(needed(found for found in results if isinstance(found, fx.Node))) - set(own)
        whole = any(operation_name(found.target) == "with_effects" for found in inner)
        order = tuple(found for found in program.graph.nodes if found in inner)
        parts.append(None if whole else _Part(own, results, order))
    return parts


def _shadow(value: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _call_with(target: Any, rest: list[Any], places: list[int], form: Any) -> Callable[[list[torch.Tensor]], Any]:
    def call(tensors: list[torch.Tensor]) -> Any:
        leaves = list(rest)
        for at, tensor in zip(places, tensors, strict=True):
            leaves[at] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, form)
        return target(*args, **kwargs)

    return call
