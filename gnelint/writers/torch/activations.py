"""Modules of activations."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from gnelint.fixes.edits import Substitute
from gnelint.nn import Pointwise, ScaledELU
from gnelint.ops import VOCABULARY
from gnelint.ops.record import Scalar
from gnelint.writers.base import CannotEditError


def made_of(action: Substitute) -> nn.Module:
    """The module that takes a node's place: torch's own where it has one with these attributes.

    Raises:
        CannotEditError: there is none.
    """
    op, given = action.op, dict(action.attributes)
    if op == "identity":
        return nn.Identity()
    record = VOCABULARY.get(op)
    if record is None or not isinstance(record.function, Scalar) or record.parameters:
        raise CannotEditError(f"there is no module for {op}")
    if unknown := given.keys() - record.attributes.keys():
        raise CannotEditError(f"{op} takes no {', '.join(sorted(unknown))}")
    if op == "selu" and given:
        return ScaledELU(*({**record.attributes, **given}[name] for name in ("alpha", "gamma")))
    called = record.torch[0].attributes if record.torch else {}
    try:
        make: Callable[..., nn.Module] = getattr(nn, record.module)
        return make(**{called.get(name, name): value for name, value in given.items()})
    except (AttributeError, TypeError):  # torch has none, or none with these attributes
        return Pointwise(op, **given)
