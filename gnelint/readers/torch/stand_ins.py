"""Tensors that have a shape, a type and a place but no numbers, for modules on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from gnelint.records import dataclass


@dataclass(frozen=True)
class StandIns:
    """What a module without numbers is traced with.

    Attributes:
        args, kwargs: of the call.
        originals: the module's tensors by name, where others took their place; {} where they did not.
        real: the inputs as they were given, None where nothing stands in for them.
        mode: in which the module can be called by itself.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    originals: dict[str, torch.Tensor]
    real: Any = None
    mode: contextlib.AbstractContextManager[Any] = field(default_factory=contextlib.nullcontext)

    def put_back(self, program: ExportedProgram) -> None:
        """The module's own tensors and inputs in the place of what stood in for them."""
        for held in (program.state_dict, program.constants):
            held.update({name: self.originals[name] for name in held if name in self.originals})
        if self.real is not None:
            program._example_inputs = self.real


@contextlib.contextmanager
def stand_ins(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, always: bool = False
) -> Iterator[StandIns]:
    """A module some of whose tensors are on the meta device looks as if all were on the processor while it is traced:
    code that asks where its tensors are goes the way that it will go. The registries are put back by `untouched`.

    Args:
        module: the network.
        args, kwargs: what it is called with.
        always: whether tensors that hold numbers have stand-ins, too.
    """
    named = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    originals = {name: tensor for each in named for name, tensor in each}
    given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    if not always and not any(tensor.is_meta for tensor in (*originals.values(), *given)):
        yield StandIns(args, kwargs, {})
        return
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    made: dict[int, torch.Tensor] = {}

    def stand_in(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in made:
            fake = (
                FakeTensor(mode, value.detach(), torch.device("cpu"))
                if value.is_meta
                else mode.from_tensor(value, static_shapes=True)
            )
            is_parameter = isinstance(value, torch.nn.Parameter)
            made[id(value)] = torch.nn.Parameter(fake, value.requires_grad) if is_parameter else fake
        return made[id(value)]

    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):  # its registries are its program's: nobody puts them back
            continue
        for registry in (part._parameters, part._buffers):
            for name, tensor in registry.items():
                registry[name] = stand_in(tensor)
    shown_args, shown_kwargs = pytree.tree_map(stand_in, (args, kwargs))
    yield StandIns(shown_args, shown_kwargs, originals, (args, kwargs), mode)
