"""Names of traced operations, and the groups of them that are read alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

WHOLE_VIEWS = frozenset(
    {"view", "reshape", "_unsafe_view", "permute", "transpose", "t", "numpy_T", "unsqueeze", "squeeze", "alias",
     "clone", "detach", "contiguous", "lift_fresh_copy", "expand", "flatten", "unflatten", "view_as", "reshape_as",
     "expand_as", "movedim", "swapaxes", "swapdims", "mT", "to", "_to_copy"}
)  # fmt: skip
"""Operations that keep every number of a tensor: their result is still "that parameter"."""

PART_VIEWS = frozenset({"slice", "select", "split", "split_with_sizes", "unbind", "chunk", "narrow", "getitem"})
"""Operations that keep some of a tensor's numbers as they are."""

RANDOM = frozenset({"bernoulli", "rand", "randn", "rand_like", "randn_like", "normal", "normal_functional", "uniform",
                    "randint", "randint_like", "randperm", "exponential"})  # fmt: skip

DROPOUT = frozenset({"native_dropout", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
"""Neutral, so never part of a recipe: a position table that is dropped out stays a table."""

SHAPE_ONLY = frozenset({"new_empty", "new_zeros", "new_ones", "new_full", "empty_like", "zeros_like", "ones_like",
                        "full_like", "rand_like", "randn_like", "randint_like", "fill"})  # fmt: skip
"""Operations that read nothing but the shape and type of their first argument."""

_SHAPED_LIKE = frozenset({"expand_as", "view_as", "reshape_as", "type_as"})
"""Operations that read nothing but the shape and type of their second argument."""

UNWRITTEN = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"})
"""Operations whose result has no numbers yet."""


def shape_only(node: fx.Node) -> fx.Node | None:
    """The operand of which an operation reads the shape and type alone; `y.view_as(y)` reads its numbers as well."""
    name = operation_name(node.target)
    place = 0 if name in SHAPE_ONLY else 1 if name in _SHAPED_LIKE else None
    found = None if place is None or place >= len(node.args) else node.args[place]
    return found if isinstance(found, fx.Node) and (place == 0 or found is not node.args[0]) else None


def operation_name(target: Any) -> str:
    """The bare name of what an fx node calls: "conv2d" for aten.conv2d.default, "getitem" for operator.getitem.

    The target of an input or of a stored tensor is its own name and calls nothing: "" for an input that is called "t".
    """
    if isinstance(target, str):
        return ""
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket.__name__)
    return str(getattr(target, "__name__", target))
