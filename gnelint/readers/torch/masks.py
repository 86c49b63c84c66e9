"""Random tensors of two values that a program multiplies by or adds: which are dropout, and what the others keep.

Dropout is neutral because its mask is 1 on average. A mask that is not, x * bernoulli(keep), removes part of the value.
One that comes with a shift of its own (alpha dropout: x m + s keeps mean 0 and variance 1) is neutral again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from gnelint.readers.torch.operations import operation_name
from gnelint.records import dataclass

_DRAWS = frozenset({"bernoulli", "rand", "rand_like"})
_BELOW, _ABOVE = frozenset({"lt", "le"}), frozenset({"gt", "ge"})
_TOLERANCE = 1e-3
"""Of a mean of 1: the numbers of half precision are no closer."""
_LARGEST = 1.0 - 2.0**-24
"""What a uniform draw at most gives."""


@dataclass(frozen=True)
class Mask:
    """A random tensor each of whose entries is one of two numbers.

    Attributes:
        low, high: what an entry is where the draw is at its lower and its upper end.
        at_low: the probability of the former.
        paired: whether it is the mask or the shift of an alpha dropout.
    """

    low: float
    high: float
    at_low: float
    paired: bool = False

    @property
    def is_dropout(self) -> bool:
        """Whether multiplying by it is neutral."""
        return self.paired or abs(self._average(self.low, self.high) - 1.0) < _TOLERANCE

    @property
    def removes(self) -> bool:
        """Whether some entries are 0, and not all."""
        return (self.low == 0) != (self.high == 0)

    @property
    def kept(self) -> float:
        """The probability that an entry is not 0."""
        return self._average(float(self.low != 0), float(self.high != 0))

    @property
    def factor(self) -> float:
        """What an entry is that is not 0."""
        return self.low or self.high

    def restored_by(self, shift: Mask) -> bool:
        """Whether x m + s, s = `shift`, has mean 0 and variance 1 where x has."""
        mean = self._average(shift.low, shift.high)
        second = self._average(self.low**2 + shift.low**2, self.high**2 + shift.high**2)
        return abs(mean) < _TOLERANCE and abs(second - 1.0) < _TOLERANCE

    def _average(self, low: float, high: float) -> float:
        return self.at_low * low + (1.0 - self.at_low) * high


Ancestors = Callable[[fx.Node], Sequence[fx.Node]]
"""A constant node and all that it is computed from, in an order to run them in."""


def find_mask(node: fx.Node, ancestors: Ancestors, is_constant: Callable[[fx.Node], bool]) -> Mask | None:
    """What the node is if it has two values, drawn by `bernoulli(p)`, `floor(rand + p)` or a comparison of `rand`."""
    order = ancestors(node)
    draws = [found for found in order if operation_name(found.target) in _DRAWS]
    if len(draws) != 1:
        return None
    own = _two_valued(order, draws[0])
    if own is None:
        return None
    used = [(call, _two_valued(ancestors(made), draws[0])) for made, call in _uses(draws[0], is_constant)]
    masks = [found for call, found in used if call == "mul" and found is not None]
    shifts = [found for call, found in used if call in ("add", "sub") and found is not None]
    pairs = [(mask, shift) for mask in masks for shift in shifts if mask.restored_by(shift)]
    return replace(own, paired=any(own in pair for pair in pairs))


def _uses(draw: fx.Node, is_constant: Callable[[fx.Node], bool]) -> Iterator[tuple[fx.Node, str]]:
    """What is made of the draw, and the name of each operation that combines it with a value."""
    waiting, seen = [draw], {draw}
    while waiting:
        made = waiting.pop()
        for user in made.users:
            if not is_constant(user):
                yield made, operation_name(user.target)
            elif user not in seen:
                seen.add(user)
                waiting.append(user)


def _two_valued(order: Sequence[fx.Node], draw: fx.Node) -> Mask | None:
    """The last node of `order` at both ends of the draw."""
    at_low = _chance_of_low(order, draw)
    if at_low is None:
        return None
    largest = 1.0 if operation_name(draw.target) == "bernoulli" else _LARGEST
    low, high = _value(order, draw, 0.0), _value(order, draw, largest)
    return None if low is None or high is None else Mask(low, high, at_low)


def _value(order: Sequence[fx.Node], draw: fx.Node, drawn: float) -> float | None:
    """The last node where all entries of the draw are `drawn`; None if its entries differ or need the draw's shape."""
    given = torch.full((1,) * len(draw.meta["val"].shape), drawn)
    return _only_number(order[order.index(draw) + 1 :], order[-1], {draw: given})


def _only_number(order: Sequence[fx.Node], last: fx.Node, results: dict[fx.Node, Any]) -> float | None:
    """What all entries of the last node are, once these were run on some results; None if they differ or need more."""
    try:
        for node in order:
            args, kwargs = fx.map_arg((node.args, node.kwargs), results.__getitem__)
            results[node] = node.target(*args, **kwargs)
        found = torch.as_tensor(results[last]).double()
    except (KeyError, RuntimeError, TypeError, ValueError):
        return None
    low, high = float(found.min()), float(found.max())
    return low if low == high else None


def _chance_of_low(order: Sequence[fx.Node], draw: fx.Node) -> float | None:
    """How often the draw counts as its lower end."""
    names = {operation_name(node.target): node for node in order}
    if operation_name(draw.target) == "bernoulli":
        kept = _second_argument(draw)
        if kept is None:
            kept = _probability(order, draw)
        return None if kept is None else _inside(1.0 - kept)
    if "floor" in names:
        added = [number for node in order if (number := _second_argument(node)) is not None and 0 < number <= 1]
        return _inside(1.0 - added[0]) if added else None
    bounds = [_second_argument(names[name]) for name in _BELOW | _ABOVE if name in names]
    return _inside(bounds[0]) if len(bounds) == 1 and bounds[0] is not None else None


def _probability(order: Sequence[fx.Node], draw: fx.Node) -> float | None:
    """The one number in the tensor of probabilities that a draw is given."""
    given = draw.args[0]
    return _only_number(order[: order.index(draw)], given, {}) if isinstance(given, fx.Node) else None


def _second_argument(node: fx.Node) -> float | None:
    given = node.args[1] if len(node.args) > 1 else None
    return float(given) if isinstance(given, (int, float)) else None


def _inside(chance: float) -> float | None:
    return chance if 0 <= chance < 1 else None
