"""A network that a package makes, small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class SmallModel:
    """One network that a package makes.

    Attributes:
        package, family: where it is from.
        name: of its class.
        builds: ways to make it, fresh weights drawn as the package draws them: the first of which it can be called is
            the one to take.
    """

    package: str
    family: str
    name: str
    builds: tuple[Callable[[], nn.Module], ...]
