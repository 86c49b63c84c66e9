"""Values that meet: their moments on one shape."""

from __future__ import annotations

from collections.abc import Sequence

from gnelint.components.base import Inputs, NotModelledError
from gnelint.theory.fields.cells import refine
from gnelint.theory.fields.moments import Moments

UNCORRELATED = "the branches are uncorrelated"
UNKNOWN = "combines with a tensor whose values are not known before the network runs"


def known(inputs: Inputs) -> list[Moments]:
    """All inputs, or NotModelledError if one of them has no moments."""
    found = [x for x in inputs if x is not None]
    if len(found) < len(inputs):
        raise NotModelledError(UNKNOWN)
    return found


def aligned(inputs: Sequence[Moments], shape: Sequence[int]) -> list[Moments]:
    """The inputs broadcast to one shape and refined to common cells."""
    wide = [x.broadcast(shape) for x in inputs]
    cells = refine(*(x.axes for x in wide))
    wide = [x.refined(cells) for x in wide]
    cells = refine(*(x.axes for x in wide))
    return [x.refined(cells) for x in wide]


def is_flat(x: Moments) -> bool:
    """Whether no axis has a profile."""
    return all(profile is None for profile in x.profile)
