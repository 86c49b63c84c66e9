"""The fixes: one file each, planned on the graph; the writers make their edits in the user's file or module.

Importing the package registers them all; a new fix is a class with the `fix` decorator in a file of its own.
"""

from importlib import import_module
from pkgutil import iter_modules

from gnelint.fixes.base import Fix, FixOptions, Plan, Refusal, Site, fix, fix_named

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Fix", "FixOptions", "Plan", "Refusal", "Site", "fix", "fix_named"]
