"""Parameters that `forward` reaches past the module: through a list, another object or a closure that holds them, too.

A tracer puts tensors of its own in the place of a module's attributes. What is reached by another way is the parameter
itself, and the traced program has it as a constant. It trains like the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from gnelint.readers.torch.by_examples import write_to_copies
from gnelint.readers.torch.initializers import storage_key


def identity(tensor: torch.Tensor) -> tuple[Any, ...]:
    """The same for two names of one tensor. A tensor without storage of its own is only itself."""
    if tensor.layout is not torch.strided or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return (id(tensor),)
    return (storage_key(tensor), tensor.storage_offset(), *tensor.shape, *tensor.stride())


def held_elsewhere(
    program: ExportedProgram, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> frozenset[str]:
    """Names of the constants of a traced program that are trained parameters of the module.

    What the numbers of a parameter are read through, as `weight.data` kept somewhere, is a constant with the same
    numbers: where there are such constants, the module is run once to see which of the two `forward` uses. It writes to
    copies of its buffers, which the caller takes back (`readers.torch.export.untouched`).
    """
    trained = {identity(parameter) for parameter in module.parameters() if parameter.requires_grad}
    constants = [spec.target for spec in program.graph_signature.input_specs if spec.kind is InputKind.CONSTANT_TENSOR]
    same = {str(name): identity(program.constants[name]) for name in constants if name in program.constants}
    same = {name: key for name, key in same.items() if key in trained}
    if not same:
        return frozenset()
    write_to_copies(module)
    used = _Used(trained)
    with contextlib.suppress(Exception), torch.no_grad(), used:  # what cannot be run stays what the tracer took it for
        module(*args, **kwargs)
    return frozenset(name for name, key in same.items() if key in used.themselves and key not in used.numbers)


class _Used(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
    """Sees what functions of torch are given: parameters, or tensors of the same numbers that do not train."""

    def __init__(self, trained: set[tuple[Any, ...]]) -> None:
        super().__init__()
        self._trained = trained
        self.themselves: set[tuple[Any, ...]] = set()
        self.numbers: set[tuple[Any, ...]] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.Tensor.data.__get__:
            for given in tree_leaves((args, kwargs or {})):
                if isinstance(given, torch.Tensor) and (key := identity(given)) in self._trained:
                    (self.themselves if given.requires_grad else self.numbers).add(key)
        return function(*args, **(kwargs or {}))
