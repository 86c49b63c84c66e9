"""Layers that a module holds but that it does not know of, and layers that it knows of and does not call.

What is kept in a plain list, tuple or dict `parameters()` does not list, nor what a conversion made of a parameter
(`nn.Parameter(t).to(device)` is a tensor): no optimiser is given it, `to()` leaves it where it is and a checkpoint does
not hold it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn


def unregistered(module: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors kept as they are and parameters of layers in plain containers that ask for a gradient, by their path."""
    known = {id(parameter) for parameter in module.parameters()}
    found: dict[str, torch.Tensor] = {}
    for path, owner in module.named_modules():
        for attribute, kept in vars(owner).items():
            if attribute.startswith("_") or not isinstance(kept, (list, tuple, Mapping, torch.Tensor)):
                continue
            place = f"{path}.{attribute}" if path else attribute
            if isinstance(kept, torch.Tensor):
                if kept.requires_grad and id(kept) not in known:
                    found.setdefault(place, kept)
                continue
            for name, parameter in _within(kept, place):
                if parameter.requires_grad and id(parameter) not in known:
                    found.setdefault(name, parameter)
    return found


def aliases(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The other names of each parameter that the module holds more than once, by its first."""
    found: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return {names[0]: tuple(names[1:]) for names in found.values() if len(names) > 1}


def _within(kept: Any, place: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters in a container, whatever it nests; a container that holds itself is not followed twice."""
    pending, seen = [(place, kept)], set[int]()
    while pending:
        name, one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, nn.Parameter):
            yield name, one
        elif isinstance(one, nn.Module):
            yield from ((f"{name}.{inner}", parameter) for inner, parameter in one.named_parameters())
        elif isinstance(one, Mapping):
            pending += [(f"{name}.{key}", value) for key, value in one.items()]
        elif isinstance(one, (list, tuple)):
            pending += [(f"{name}.{at}", value) for at, value in enumerate(one)]


def asks_for_more(module: nn.Module, args: tuple[Any, ...], kwargs: Collection[str]) -> bool:
    """Whether `forward` takes inputs that may be left out and are: what only they lead to is not called."""
    try:
        signature = inspect.signature(module.forward)
        given = signature.bind_partial(*args, **dict.fromkeys(kwargs)).arguments
    except (TypeError, ValueError):
        return True
    return any(
        parameter.default is None and name not in given and parameter.kind is not parameter.VAR_KEYWORD
        for name, parameter in signature.parameters.items()
    )
