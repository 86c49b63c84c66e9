"""The vocabulary: what readers lower to, what components model and what rule patterns name, one record an operation.

A module of this package holds `RECORDS`; the vocabulary is all of them together, so that a new operation is one record
in one of the files, or a file of its own. What a record says is in `record`, what formulas compute with in `arrays`.

Conventions: images are (batch, channel, *space), `pads` are all begins then all ends over the spatial axes (ONNX),
axes are counted from 0 over the whole tensor, per-axis attributes have one entry a spatial axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from gnelint.ops.record import Operation


def _collected() -> dict[str, Operation]:
    found: dict[str, Operation] = {}
    for module in iter_modules(__path__):
        for operation in getattr(import_module(f"{__name__}.{module.name}"), "RECORDS", ()):
            if operation.name in found:
                raise ValueError(f"{operation.name} has two records, the second in gnelint/ops/{module.name}.py")
            found[operation.name] = operation
    return found


VOCABULARY: Mapping[str, Operation] = _collected()


@cache
def families() -> Mapping[str, frozenset[str]]:
    """The operations of each family, by the family's name."""
    found: dict[str, set[str]] = {}
    for name, operation in VOCABULARY.items():
        found.setdefault(operation.family, set()).add(name)
    return {family: frozenset(names) for family, names in found.items()}


def default_attribute(op: str, name: str) -> Any:
    """The default of an attribute.

    Raises:
        KeyError: the operation has no such attribute, or it has no default and the reader left it out.
    """
    value = VOCABULARY[op].attributes[name]
    if value is ...:
        raise KeyError(f"{op} needs the attribute {name}")
    return value
