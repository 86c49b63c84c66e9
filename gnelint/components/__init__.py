"""The library of components: one file a family, each component a class with its formulas and their source.

A new component is a class with the `component` decorator in one of the files. They are imported when an operation asks
for them, the family's file first: most networks need a few.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from gnelint.components.base import Component, NotModelledError, component, registered
from gnelint.ops import VOCABULARY

__all__ = ["Component", "NotModelledError", "component", "component_class"]


@cache
def component_class(op: str) -> type[Component] | None:
    """The class that models this operation, None if there is none."""
    files = [module.name for module in iter_modules(__path__)]
    family = VOCABULARY[op].family if op in VOCABULARY else ""
    for name in sorted(files, key=lambda name: name != family):
        import_module(f"{__name__}.{name}")
        found = registered(op)
        if found is not None and name == family:
            return found
    return registered(op)
