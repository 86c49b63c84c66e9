"""Reading a tensor between its entries: the weighted sum over entries around a position."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Taps = list[tuple[Tensor, Tensor]]
"""Along one axis: the entries' indices, and their weights, each for all positions."""


def place_type(dtype: torch.dtype) -> torch.dtype:
    """The type in which places are computed: float16 and bfloat16 do not tell those of large images apart."""
    return torch.promote_types(dtype, torch.float32)


def linear_taps(positions: Tensor) -> Taps:
    """The two entries beside each position, of weights 1 - t and t."""
    low = positions.floor()
    t = positions - low
    return [(low, 1 - t), (low + 1, t)]


def cubic_taps(positions: Tensor, a: float = -0.75) -> Taps:
    """The four entries around each position, weighted by Keys' kernel of coefficient a."""
    low = positions.floor()
    t = positions - low
    return [(low + step, cubic(t - step, a)) for step in (-1, 0, 1, 2)]


def cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' kernel: (a+2)|d|^3 - (a+3)|d|^2 + 1 up to 1, a|d|^3 - 5a|d|^2 + 8a|d| - 4a up to 2, 0 beyond."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d >= 2, torch.zeros_like(d), far))


def read_taps(x: Tensor, taps: Sequence[Taps], place: Callable[[Tensor, int], Tensor] | None = None) -> Tensor:
    """Sums over the products of one tap per axis.

    Args:
        x: (batch, channels, *sizes).
        taps: per axis, of shape (batch, points).
        place: puts indices of an axis outside the tensor to indices inside; without it entries outside are 0.

    Returns:
        (batch, channels, points).
    """
    sizes = x.shape[2:]
    flat = x.flatten(2)
    total = x.new_zeros(())
    for corner in itertools.product(*taps):
        index = torch.zeros_like(corner[0][0], dtype=torch.int64)
        weight = torch.ones_like(corner[0][1])
        for axis, (at, factor) in enumerate(corner):
            weight = weight * factor
            if place is None:
                weight = weight * ((at >= 0) & (at < sizes[axis]))
            inside = at if place is None else place(at, axis)
            index = index * sizes[axis] + inside.to(torch.int64).clamp(0, sizes[axis] - 1)
        entries = flat.gather(2, index.unsqueeze(1).expand(-1, flat.shape[1], -1))
        total = total + entries * weight.unsqueeze(1).to(x.dtype)
    return total
