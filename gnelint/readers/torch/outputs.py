"""What a module returns, whatever it packs it into, as the tensors in it; caches, which no loss reads, turned off."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

_NO_TENSORS = (str, bytes, int, float, complex, bool, type(None))
_DEEPEST = 8
"""Containers inside of each other that are looked through."""


@dataclasses.dataclass
class Returned:
    """What a module's `forward` returned, filled in while it is traced.

    Attributes:
        names: of the tensors, in their order: "logits", "hidden_states.0"; "" for one that is returned by itself.
        losses: positions of floating scalars beside floating tensors with axes: what training minimises.
        notes: what a person should know of the rest.
    """

    names: tuple[str, ...] = ()
    losses: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def collecting(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """`forward` with the tensors of its output in one tuple."""

        @functools.wraps(forward)
        def collected(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
            return self._taken(forward(*args, **kwargs))

        return collected

    def _taken(self, output: Any) -> tuple[torch.Tensor, ...]:
        skipped: dict[str, None] = {}
        found = list(_tensors(output, "", skipped))
        self.losses = _losses([tensor for _, tensor in found])
        rest = [name for at, (name, tensor) in enumerate(found) if tensor.is_floating_point() and at not in self.losses]
        self.names = tuple(name for name, _ in found)
        self.notes = tuple(
            f"forward returns a {name} beside its outputs: what it keeps for later calls is no output, and is left out"
            for name in skipped
        )
        if self.losses:
            losses = ", ".join(found[at][0] or "the scalar" for at in sorted(self.losses))
            self.notes += (
                f"forward returns a loss ({losses}): the analysis starts at {', '.join(rest[:3])}"
                f"{' and others' if len(rest) > 3 else ''} instead",
            )
        return tuple(tensor for _, tensor in found)


def starts(output: Any) -> list[torch.Tensor]:
    """The floating tensors in an output at which the analysis starts: all of them, but losses beside others."""
    found = [tensor for _, tensor in _tensors(output, "", {})]
    losses = _losses(found)
    return [tensor for at, tensor in enumerate(found) if tensor.is_floating_point() and at not in losses]


def _losses(found: Sequence[torch.Tensor]) -> frozenset[int]:
    """The positions of floating scalars beside floating tensors with axes."""
    floating = [at for at, tensor in enumerate(found) if tensor.is_floating_point()]
    scalars = frozenset(at for at in floating if not found[at].dim())
    return scalars if len(scalars) < len(floating) else frozenset()


def _tensors(value: Any, name: str, skipped: dict[str, None], depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in an output, named by the way to them; caches are added to `skipped`."""
    if isinstance(value, torch.Tensor):
        yield name, value
        return
    if isinstance(value, _NO_TENSORS) or callable(value) or depth > _DEEPEST:
        return
    if "cache" in type(value).__name__.lower() or name.rpartition(".")[2] == "past_key_values":
        skipped[type(value).__name__] = None
        return
    for key, part in _parts(value):
        yield from _tensors(part, f"{name}.{key}" if name else key, skipped, depth + 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif hasattr(value, "_fields"):
        yield from ((key, getattr(value, key)) for key in value._fields)
    elif isinstance(value, (list, tuple)):
        yield from ((str(at), part) for at, part in enumerate(value))
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    else:
        yield from ((key, part) for key, part in getattr(value, "__dict__", {}).items() if not key.startswith("_"))


@contextlib.contextmanager
def without_caches(module: torch.nn.Module) -> Iterator[tuple[str, ...]]:
    """Turn off, for the reading, what decoders keep for the next token; yields a note if there was something."""
    configurations = {
        id(part): part
        for owner in module.modules()
        for part in _with_parts(getattr(owner, "config", None))
        if getattr(part, "use_cache", None) is True
    }
    for configuration in configurations.values():
        configuration.use_cache = False
    try:
        yield ("use_cache was turned off for the reading: a cache is no output that a loss reads",) * bool(
            configurations
        )
    finally:
        for configuration in configurations.values():
            configuration.use_cache = True


def _with_parts(configuration: Any) -> Iterator[Any]:
    """A configuration and those in it."""
    if isinstance(configuration, _NO_TENSORS) or not hasattr(configuration, "__dict__"):
        return
    yield configuration
    for part in vars(configuration).values():
        if hasattr(part, "use_cache"):
            yield part
