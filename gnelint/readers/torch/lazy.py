"""Layers that take their sizes from what they are first called with: a module with such computes once before it is
read, as it would before it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from gnelint.errors import ModelError
from gnelint.readers.torch.export import advice, cause, quietly


def lazy_layers(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of the layers whose sizes are not known yet."""
    return tuple(
        name
        for name, part in module.named_modules()
        if any(is_lazy(held) for held in (*part._parameters.values(), *part._buffers.values()))
    )


def initialise(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Give the lazy layers of a module their sizes and draw their weights, by one run on copies of its inputs.

    Returns:
        What is to be said of that, () where no layer is lazy.

    Raises:
        ModelError: the module does not run on these inputs, or does not call a lazy layer.
    """
    before = lazy_layers(module)
    if not before:
        return ()
    modes = [(part, part.training) for part in module.modules()]
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, dict(kwargs)))
    try:
        with quietly(), torch.no_grad():
            module.eval()  # running statistics stay as they are
            module(*args, **kwargs)
    except Exception as error:
        problem = f"its lazy layers ({_listed(before)}) cannot be initialised: {cause(error)}"
        raise ModelError(name, problem, advice(error)) from error
    finally:
        for part, training in modes:
            part.training = training
    left = lazy_layers(module)
    if left:
        raise ModelError(name, f"its lazy layers {_listed(left)} are never called", "Take them out, or call them.")
    return (f"its lazy layers ({_listed(before)}) were initialised by a run on these inputs",)


def _listed(names: tuple[str, ...], most: int = 3) -> str:
    return ", ".join((*names[:most], *(("...",) if len(names) > most else ())))
