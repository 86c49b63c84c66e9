"""What functions of a module's code remember of their calls, which must not be a tracer's tensors.

`functools.lru_cache` around what builds a table of positions or anchors keeps the first tensor that it made. Of a call
on tensors without numbers that is one without numbers, and the next call of the module, its owner's own too, gets it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import _lru_cache_wrapper
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from gnelint.readers.torch.names import is_user_code

_DEPTH = 3
"""Functions around functions that are looked through."""


def forget(module: nn.Module) -> None:
    """Clear what the functions of the code that a module and its parts are written in remember."""
    for code in {type(part).__module__ for part in module.modules()}:
        source = sys.modules.get(code)
        if source is not None and is_user_code(getattr(source, "__file__", None) or "<"):
            for memory in _memories(source):
                memory.cache_clear()


def _memories(source: ModuleType) -> Iterator[_lru_cache_wrapper[Any]]:
    for value in list(vars(source).values()):
        if not inspect.isclass(value):
            yield from _inside(value, _DEPTH)
        elif value.__module__ == source.__name__:
            for attribute in list(vars(value).values()):
                yield from _inside(attribute, _DEPTH)


def _inside(value: Any, depth: int) -> Iterator[_lru_cache_wrapper[Any]]:
    """The memories of a function, or of those that it is wrapped around."""
    if isinstance(value, _lru_cache_wrapper):
        yield value
    elif isinstance(value, (staticmethod, classmethod)):
        yield from _inside(value.__func__, depth)
    elif isinstance(value, property):
        yield from _inside(value.fget, depth)
    elif isinstance(value, FunctionType) and depth:
        for cell in value.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # nothing is in it yet
                continue
            if callable(held):
                yield from _inside(held, depth - 1)
