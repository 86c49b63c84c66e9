"""Tables of lowerings, put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def once(*tables: Mapping[str, T]) -> dict[str, T]:
    """All the tables in one.

    Raises:
        ValueError: two have a lowering of one name, of which one would silently count for nothing.
    """
    found: dict[str, T] = {}
    for table in tables:
        if twice := found.keys() & table.keys():
            raise ValueError(f"two lowerings of {', '.join(sorted(twice))}")
        found.update(table)
    return found
