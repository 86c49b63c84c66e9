"""Vision designs written from their papers' descriptions, small: what predictions are held against in breadth.

`UNSEEN`, every third in the order of names, is not looked at while formulas change.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from torch import nn

from tests.benchmarks.vision import attention, convolutional, mixers, modern
from tests.models import Case

_SHAPES = {"pvt": (4, 3, 64, 64)}
_SKIPPED = frozenset({"conv", "depthwise", "head", "stem", "mlp", "on_tokens", "prenorm", "small", "drawn", "mixing"})


def _designs(module: ModuleType) -> dict[str, Callable[[], nn.Module]]:
    found = {name: value for name, value in vars(module).items() if callable(value) and not isinstance(value, type)}
    own = {name: value for name, value in found.items() if value.__module__ == module.__name__}
    return {name: value for name, value in own.items() if not name.startswith("_") and name not in _SKIPPED}


_BUILDERS = {k: v for module in (convolutional, modern, attention, mixers) for k, v in _designs(module).items()}
VISION = {name: Case(name, _BUILDERS[name], _SHAPES.get(name, (8, 3, 32, 32))) for name in sorted(_BUILDERS)}
UNSEEN = frozenset(list(VISION)[2::3])
