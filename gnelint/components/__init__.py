"""The library of components: one file a family, each component a class with its formulas and their source.

Importing the package registers them all; a new component is a class with the `component` decorator in one of the files.
"""

from importlib import import_module
from pkgutil import iter_modules

from gnelint.components.base import Component, NotModelledError, component, component_class

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Component", "NotModelledError", "component", "component_class"]
