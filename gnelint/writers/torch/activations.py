"""Modules of activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from gnelint.fixes.edits import Substitute
from gnelint.nn import ScaledELU
from gnelint.writers.base import CannotEditError

ACTIVATIONS: Mapping[str, Callable[..., nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": lambda alpha=0.01: nn.LeakyReLU(alpha),
    "elu": lambda alpha=1.0: nn.ELU(alpha),
    "selu": lambda alpha=None, gamma=None: nn.SELU() if alpha is None or gamma is None else ScaledELU(alpha, gamma),
    "celu": lambda alpha=1.0: nn.CELU(alpha),
    "gelu": lambda approximate="none": nn.GELU(approximate),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": lambda beta=1.0: nn.Softplus(beta),
}
"""What makes the module of a canonical operation, from the attributes that differ from the vocabulary's defaults."""


def made_of(action: Substitute) -> nn.Module:
    """The module that takes a node's place.

    Raises:
        CannotEditError: there is none.
    """
    make = ACTIVATIONS.get(action.op)
    if make is None:
        raise CannotEditError(f"there is no module for {action.op}")
    try:
        return make(**action.attributes)
    except TypeError:
        raise CannotEditError(f"{action.op} takes no {', '.join(action.attributes)}") from None
