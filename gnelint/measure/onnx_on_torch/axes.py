"""Axes, positions and lists of numbers as ONNX counts them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gnelint.measure.onnx_on_torch.table import CannotRunError


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front; a negative one counts from the back.

    Raises:
        CannotRunError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise CannotRunError(f"axis {axis} of a tensor with {rank} axes")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front.

    Raises:
        CannotRunError: there is no such axis, or one comes twice.
    """
    found = [axis_of(axis, rank) for axis in axes]
    if len(set(found)) < len(found):
        raise CannotRunError(f"axes {list(axes)} name one axis twice")
    return found


def numbers(tensor: Tensor) -> list[int]:
    """A shape, axes or indices that a tensor holds, as a list; a scalar is a list of one."""
    found: list[int] = tensor.reshape(-1).tolist()
    return found
