"""Tracing a module on its example inputs themselves, where its way depends on the values of tensors."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._export.verifier import TrainingIRVerifier
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from gnelint.readers.torch.below_autograd import WRITTEN_OUT, below_autograd, tell_detached


def program_of_examples(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], below: bool = False
) -> ExportedProgram:
    """The operations that the module runs on these inputs, with their sizes, as `torch.export` would write them.

    The module computes once; what it writes to its buffers and inputs is written to copies of them.

    Args:
        module: the network.
        args, kwargs: what it is called with.
        below: whether the operations are taken down below autograd and functorch, where gradients that `forward` takes
            itself, and functions that it maps over samples, are operations like others.
    """
    args, kwargs = pytree.tree_map_only(torch.Tensor, _copied, (args, kwargs))
    given, form = pytree.tree_flatten((args, kwargs))
    parameters = dict(module.named_parameters())
    originals = dict(module.named_buffers())
    places = [at for at, value in enumerate(given) if isinstance(value, torch.Tensor)]
    write_to_copies(module)
    state = {**parameters, **dict(module.named_buffers())}

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        for at, tensor in zip(places, tensors[len(state) :], strict=True):
            given[at] = tensor
        own_args, own_kwargs = pytree.tree_unflatten(given, form)
        return tuple(pytree.tree_leaves(module(*own_args, **own_kwargs)))

    run._orig_mod = module  # type: ignore[attr-defined]  # names of modules are recorded from here on
    trace = make_fx(
        run,
        decomposition_table=WRITTEN_OUT if below else None,
        pre_dispatch=not below,
        record_module_stack=True,
        record_stack_traces=True,
        _error_on_data_dependent_ops=False,
    )
    with _CentralDraws(), below_autograd() if below else contextlib.nullcontext():
        traced = trace(*state.values(), *(given[at] for at in places))
    if below:
        tell_detached(traced.graph)
    _without_modes(traced.graph)
    kinds = [InputKind.PARAMETER] * len(parameters) + [InputKind.BUFFER] * len(originals)
    return _program(traced, kinds, {**parameters, **originals}, (args, kwargs), form, _names(module, (args, kwargs)))


class _CentralDraws(TorchDispatchMode):  # type: ignore[misc]
    """Single numbers that are drawn take the middle of their law, for what the module reads off them.

    They stay draws in the trace; a branch that a coin keeps four times of five is there.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        middle = _MIDDLE.get(func.overloadpacket.__name__)
        if middle is not None and found.numel() == 1 and not isinstance(found, FakeTensor):
            found.fill_(middle(*args, **(kwargs or {})))
        return found


def _likelier(given: torch.Tensor, p: float | torch.Tensor | None = None, **_: Any) -> float:
    """Of a coin whose probability is a number, or else the tensor that is given."""
    return float(float(given if p is None else p) >= 0.5)


def _likelier_in_place(_: torch.Tensor, p: float | torch.Tensor = 0.5, **__: Any) -> float:
    return float(float(p) >= 0.5)


def _half_way(_: torch.Tensor, low: float = 0.0, high: float = 1.0, **__: Any) -> float:
    return (low + high) / 2


_MIDDLE: dict[str, Callable[..., float]] = {
    "bernoulli": _likelier,
    "bernoulli_": _likelier_in_place,
    "uniform_": _half_way,
    "rand": lambda *_, **__: 0.5,
}


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def write_to_copies(module: torch.nn.Module) -> None:
    """Copies in the place of the module's buffers; `untouched` puts its own back."""
    copies: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for name, tensor in part._buffers.items():
            if tensor is not None:
                part._buffers[name] = copies.setdefault(id(tensor), tensor.clone())


def _names(module: torch.nn.Module, given: tuple[tuple[Any, ...], dict[str, Any]]) -> list[str]:
    """Of the tensors that the module is called with: the arguments' own, and the way to one inside of an argument."""
    own = list(inspect.signature(module.forward).parameters)
    found = []
    for (_, first, *rest), value in pytree.tree_leaves_with_path(given):
        if isinstance(value, torch.Tensor):
            at = getattr(first, "idx", None)
            name = first.key if at is None else own[at] if at < len(own) else f"args_{at}"
            found.append("_".join(map(str, (name, *(getattr(step, "key", getattr(step, "idx", "")) for step in rest)))))
    return found


def _without_modes(graph: fx.Graph) -> None:
    """Leave out the calls that change modes and those that read numbers off tensors; what is computed without gradients
    is detached."""
    recorded = True
    for node in list(graph.nodes):
        if node.target is torch._C._set_grad_enabled:
            recorded = bool(node.args[0])
        elif not recorded and _is_floating(node):
            with graph.inserting_after(node):
                found = graph.call_function(torch.ops.aten.detach.default, (node,))
            found.meta = dict(node.meta)
            node.replace_all_uses_with(found, delete_user_cb=lambda user, own=found: user is not own)
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and node.meta.get("val") is None and not node.users:
            graph.erase_node(node)


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point()


def _program(
    traced: fx.GraphModule,
    kinds: list[InputKind],
    state: dict[str, torch.Tensor],
    examples: tuple[tuple[Any, ...], dict[str, Any]],
    form: pytree.TreeSpec,
    names: list[str],
) -> ExportedProgram:
    """The traced operations with what says which placeholder is what."""
    placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
    inputs = [
        InputSpec(kind, TensorArgument(node.name), name, True if kind is InputKind.BUFFER else None)
        for kind, node, name in zip(kinds, placeholders, state, strict=False)
    ]
    given = placeholders[len(kinds) :]
    for node, name in zip(given, names, strict=True):
        node.target = name
        node._rename(name)
    constants = _constants(traced, given[0] if given else placeholders[-1].next)
    inputs += [InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(name), name) for name in constants]
    inputs += [InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in given]
    _show_in_one_mode(traced.graph)
    returned = traced.graph.output_node().args[0]
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in returned]
    whole = ModuleCallSignature([], [], form, pytree.tree_structure(tuple(returned)))
    return ExportedProgram(
        traced,
        traced.graph,
        ExportGraphSignature(inputs, outputs),
        state,
        {},
        [ModuleCallEntry("", whole)],
        examples,
        constants,
        verifiers=[TrainingIRVerifier],
    )


def _constants(traced: fx.GraphModule, place: fx.Node) -> dict[str, torch.Tensor]:
    """Tensors that the program holds itself, each a placeholder before `place` from now on."""
    found: dict[str, torch.Tensor] = {}
    read: dict[str, fx.Node] = {}
    for node in list(traced.graph.nodes):
        tensor = getattr(traced, str(node.target), None) if node.op == "get_attr" else None
        if not isinstance(tensor, torch.Tensor):
            continue
        if node.target not in read:
            with traced.graph.inserting_before(place):
                held = traced.graph.placeholder(str(node.target))
            held.meta["val"] = tensor
            read[node.target] = held
            found[held.name] = tensor
        node.replace_all_uses_with(read[node.target])
        traced.graph.erase_node(node)
    return found


def _show_in_one_mode(graph: fx.Graph) -> None:
    """Shapes and types of all operations as stand-ins that can meet."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def shown(value: torch.Tensor) -> torch.Tensor:
        with mode:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)

    for node in graph.nodes:
        if node.meta.get("val") is not None:
            node.meta["val"] = pytree.tree_map_only(torch.Tensor, shown, node.meta["val"])
