"""What a module is called with: what the user gives in any form, else what the module says itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from gnelint.errors import ModelError
from gnelint.readers.inputs import InputSpec
from gnelint.readers.target import suggestion
from gnelint.readers.torch.export import device_advice
from gnelint.readers.torch.found_inputs import find_inputs, why_not
from gnelint.readers.torch.lazy import initialise, lazy_layers
from gnelint.records import dataclass


@dataclass(frozen=True)
class Arguments:
    """What a module's `forward` is called with.

    Attributes:
        args, kwargs: of the call.
        notes: where they are from, if nobody gave them.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def required(signature: inspect.Signature) -> list[str]:
    """Names of the parameters that have no default."""
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in signature.parameters.values() if p.default is p.empty and p.kind in named]


def arguments(
    module: torch.nn.Module,
    own: Any,
    specs: Sequence[InputSpec],
    name: str,
    keywords: Mapping[str, Any] | None = None,
) -> Arguments:
    """Arguments to trace with: made from the specs if there are any, else what was given, else what the module says;
    lazy layers are initialised on them.

    Floating ones are drawn from N(0, 1), integers are valid row numbers of every embedding table, booleans and masks
    are all ones. Arrays of numpy are taken as tensors.

    Args:
        module: the network.
        own: a tensor, a tuple of arguments, or a mapping: keywords if `forward` knows its keys, else one argument.
        specs: shapes as the option `--input` gives them.
        name: what the network is called.
        keywords: arguments by name.

    Raises:
        ModelError: nothing says what the inputs are, or a spec names no argument of `forward`.
    """
    found = _found(module, own, specs, name, keywords)
    said = initialise(module, found.args, found.kwargs, name)
    return replace(found, notes=(*found.notes, *said)) if said else found


def _found(
    module: torch.nn.Module, own: Any, specs: Sequence[InputSpec], name: str, keywords: Mapping[str, Any] | None
) -> Arguments:
    signature = inspect.signature(module.forward)
    if specs:
        several = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
        in_order = [spec for spec in specs if several and spec.name is None]
        by_name = [spec for spec in specs if spec not in in_order]
        args = tuple(_tensor(spec, module) for spec in in_order)
        return Arguments(args, _named_inputs(module, signature, by_name, name, len(args)))
    if own is not None or keywords:
        args, named = _given(signature, own)
        args, named = pytree.tree_map(_tensor_of, (args, {**named, **(keywords or {})}))
        return Arguments(args, named)
    missing = required(signature)
    if not missing and not any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        main = getattr(module, "main_input_name", None)
        if main is None:
            return Arguments((), {})
    if (lazy := lazy_layers(module)) and getattr(module, "example_input_array", None) is None:
        problem = f"the shapes of its inputs are not known (its layer {lazy[0]} takes its size from them)"
        raise ModelError(name, problem, how_to_say(module))
    found = find_inputs(module)
    if found is None:
        said = [f"forward takes {', '.join(missing)}"] if missing else []
        said += [failed] if (failed := why_not(module)) is not None else []
        taken = f" ({'; '.join(said)})" if said else ""
        way = device_advice("; ".join(said)) or how_to_say(module)
        raise ModelError(name, f"the shapes of its inputs are not known{taken}", way)
    return Arguments(found.args, found.kwargs, (found.note,))


def arguments_of_module(
    module: torch.nn.Module, own: Any, specs: Sequence[InputSpec], name: str, keywords: Mapping[str, Any] | None
) -> Arguments:
    """Arguments of a module in hand, where an empty tuple stands for nothing given.

    Raises:
        ModelError: as in `arguments`.
    """
    nothing = isinstance(own, (tuple, list)) and not own
    return arguments(module, None if nothing else own, specs, name, keywords)


def how_to_say(module: torch.nn.Module) -> str:
    """All the ways in which inputs can be given."""
    return (
        f"Pass one --input each, such as --input {_guess(module)}; name=8,16:int64 names and types one, "
        "batch.image=8,3,32,32 fills a dict; or point at a function that returns (module, inputs) or "
        "(module, inputs, kwargs)."
    )


def _given(signature: inspect.Signature, own: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if own is None:
        return (), {}
    if isinstance(own, Mapping):
        names = [p.name for p in signature.parameters.values()]
        catch_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        as_keywords = all(key in names for key in own) or (catch_all and not required(signature))
        return ((), dict(own)) if as_keywords else ((dict(own),), {})
    return (tuple(own) if isinstance(own, (tuple, list)) else (own,)), {}


def _tensor_of(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _named_inputs(
    module: torch.nn.Module, signature: inspect.Signature, specs: Sequence[InputSpec], name: str, given: int
) -> dict[str, Any]:
    """Arguments by name, behind so many that are given in order."""
    names = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    catch_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    taken = {part for spec in specs if spec.name is not None for part in (spec.name, spec.name.partition(".")[0])}
    free = iter([found for found in names if found not in taken])
    made: dict[str, Any] = {}
    for spec in specs:
        key = spec.name if spec.name is not None else next(free, None)
        inside: list[str] = []
        if key is not None and key not in names:
            key, *inside = key.split(".")
        if key is None or (key not in names and not catch_all):
            problem = f'forward takes no "{key}"' if key is not None else "more --input than forward takes arguments"
            raise ModelError(name, problem, suggestion(key or "", names) or f"It takes {', '.join(names) or 'none'}.")
        place, last = made, key  # where it goes
        for part in inside:  # a dict in the place of the argument, and dicts in it
            place, last = place.setdefault(last, {}), part
        place[last] = _tensor(spec, module)
    missing = [found for found in required(signature)[given:] if found not in made]
    if missing:
        example = f"--input {missing[0]}=8,16"
        raise ModelError(name, f"no --input for {', '.join(missing)}", f"Pass one each, as in {example}.")
    return made


def _tensor(spec: InputSpec, module: torch.nn.Module) -> torch.Tensor:
    floating = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    dtype = floating if spec.dtype is None else getattr(torch, spec.dtype)
    if dtype is torch.bool or (spec.name is not None and "mask" in spec.name):
        return torch.ones(spec.shape, dtype=dtype)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(spec.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = [part.num_embeddings for part in module.modules() if isinstance(part, torch.nn.Embedding)]
    return (torch.arange(math.prod(spec.shape)) % min([*rows, 100])).reshape(spec.shape).to(dtype)


def _guess(module: torch.nn.Module) -> str:
    """A shape that fits the first layer, to show the form of the option."""
    for part in module.modules():
        if isinstance(part, torch.nn.modules.conv._ConvNd):
            channels, axes = part.in_channels or 3, len(part.kernel_size)
            return ",".join(map(str, (8, channels, *(32,) * axes)))
        if isinstance(part, torch.nn.Linear):
            return f"8,{part.in_features or 16}"
        if isinstance(part, torch.nn.Embedding):
            return "8,16:int64"
    return "8,3,32,32"
