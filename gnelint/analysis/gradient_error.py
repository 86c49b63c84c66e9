"""The error of the gradient at one value, and of stretches of it along one axis.

Where several slices of a value are read apart, each sends back a gradient with an error of its own; where values are
laid side by side, each takes what errs in its own entries. The error of the whole is the large part's, whatever a small
one's is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from gnelint.components import Component
from gnelint.components.normalization import Normalization
from gnelint.ir.graph import Node
from gnelint.ops import families
from gnelint.records import dataclass, replace

QUANTILE = 1.645
"""90% of a Gaussian lie within this many standard deviations."""
_MOST = 32
"""Stretches that are told apart."""

_ENTRY_BY_ENTRY = families()["pointwise"] | families()["activation"] | {
    "add", "sub", "mul", "div", "bias", "scale", "identity", "dropout", "maximum", "minimum", "where", "hypot",
}  # fmt: skip
_MIXING_THE_LAST = frozenset({"linear"})


@dataclass(frozen=True)
class GradientError:
    """Of the log2 of a gradient's squared norm at one value.

    Attributes:
        variance: bits squared, of all that is independent from node to node.
        finite_width_variance: the part of it that the draw of the weights makes.
        drift: bits, of what has one sign.
        excess_coherence: excess of the mean squared cosine between the gradients of two samples.
        shared: bits, of what layers have in common that are used again.
        parts: what it is in parts of the value, where that is known.
    """

    variance: float = 0.0
    finite_width_variance: float = 0.0
    drift: float = 0.0
    excess_coherence: float = 0.0
    shared: float = 0.0
    parts: Parts | None = None

    @property
    def bound(self) -> float:
        """Bits within which 90% of errors lie."""
        return QUANTILE * math.hypot(math.sqrt(self.variance), self.drift + self.shared)

    @property
    def fluctuation(self) -> float:
        """Standard deviation in bits from draw to draw of the weights."""
        return math.hypot(math.sqrt(self.finite_width_variance), self.drift)

    def since(self, later: GradientError) -> GradientError:
        """What arose between a value behind this one, where the gradient was before, and here."""
        return GradientError(
            max(self.variance - later.variance, 0.0),
            max(self.finite_width_variance - later.finite_width_variance, 0.0),
            max(self.drift - later.drift, 0.0),
            shared=max(self.shared - later.shared, 0.0),
        )

    def grown(
        self,
        variance: float = 0.0,
        finite_width_variance: float = 0.0,
        drift: float = 0.0,
        shared: float = 0.0,
        excess_coherence: float | None = None,
    ) -> GradientError:
        """With what is added, here and in all parts.

        Args:
            excess_coherence: what it is now, everywhere.
        """
        return GradientError(
            self.variance + variance,
            self.finite_width_variance + finite_width_variance,
            self.drift + drift,
            self.excess_coherence if excess_coherence is None else excess_coherence,
            self.shared + shared,
            self.parts
            and self.parts.mapped(
                lambda error: error.grown(variance, finite_width_variance, drift, shared, excess_coherence)
            ),
        )

    def read_from(self, axis: int, start: int, stop: int, length: int) -> GradientError:
        """Of a longer value, of which it was a slice."""
        if start == 0 and stop == length:
            return self
        if self.parts is not None and self.parts.axis == axis:
            return replace(self, parts=self.parts.placed(start, length))
        whole = replace(self, parts=None)
        return replace(self, parts=Parts(axis, length, (Stretch(start, stop, 0.0, whole),)))

    def of_entries(self, axis: int, start: int, stop: int) -> GradientError:
        """Of a slice of the value; what the whole is, where no part is known."""
        if self.parts is None or self.parts.axis != axis:
            return self
        pieces = self.parts.within(start, stop)
        return replace(met(pieces), parts=self.parts.cut(start, stop)) if pieces else replace(self, parts=None)

    def along(self, axis: int | None) -> GradientError:
        """Where the axis of the parts is another one; None where it is lost."""
        if self.parts is None:
            return self
        return replace(self, parts=None if axis is None else replace(self.parts, axis=axis))


@dataclass(frozen=True)
class Stretch:
    """Entries from start to stop along an axis.

    Attributes:
        log: log2 of the squared norm of their gradient, relative to that of all parts.
        error: its error.
    """

    start: int
    stop: int
    log: float
    error: GradientError

    def within(self, start: int, stop: int) -> tuple[float, GradientError] | None:
        """What of it lies there, energy being the same all along."""
        common = min(self.stop, stop) - max(self.start, start)
        return (self.log + math.log2(common / (self.stop - self.start)), self.error) if common > 0 else None


@dataclass(frozen=True)
class Parts:
    """Stretches of a value along one of its axes, in order; no gradient lies between them.

    Attributes:
        length: entries of the axis.
    """

    axis: int
    length: int
    stretches: tuple[Stretch, ...]

    def within(self, start: int, stop: int, log: float = 0.0) -> list[tuple[float, GradientError]]:
        """Gradients and errors of what lies there, log2 of the squared norm of all parts being that."""
        found = (stretch.within(start, stop) for stretch in self.stretches)
        return [(log + piece[0], piece[1]) for piece in found if piece is not None]

    def cut(self, start: int, stop: int) -> Parts | None:
        """Of the entries there alone."""
        own = []
        for stretch in self.stretches:
            if (piece := stretch.within(start, stop)) is not None:
                own.append(Stretch(max(stretch.start, start) - start, min(stretch.stop, stop) - start, *piece))
        return _told_apart(replace(self, length=stop - start, stretches=tuple(own)))

    def placed(self, start: int, length: int) -> Parts:
        """Among others, beginning at an index of a longer axis."""
        moved = (replace(each, start=each.start + start, stop=each.stop + start) for each in self.stretches)
        return replace(self, length=length, stretches=tuple(moved))

    def mapped(self, change: Callable[[GradientError], GradientError]) -> Parts:
        """With other errors."""
        return replace(self, stretches=tuple(replace(each, error=change(each.error)) for each in self.stretches))


def _told_apart(parts: Parts) -> Parts | None:
    """None where there are too many, or one is all."""
    whole = len(parts.stretches) == 1 and parts.stretches[0].stop - parts.stretches[0].start == parts.length
    if whole or not 0 < len(parts.stretches) <= _MOST:
        return None
    total = log2_sum([each.log for each in parts.stretches])
    relative = (replace(each, log=each.log - total if math.isfinite(total) else 0.0) for each in parts.stretches)
    return replace(parts, stretches=tuple(relative))


def met(parts: Sequence[tuple[float, GradientError]]) -> GradientError:
    """Of gradients that add up, each given with log2 of its squared norm. They may err together: deviations add."""
    if len(parts) == 1:
        return parts[0][1]
    total = log2_sum([log for log, _ in parts])
    known = math.isfinite(total)
    shares = [(2.0 ** max(log - total, -1000.0) if known else 1.0 / len(parts), error) for log, error in parts]
    return GradientError(
        math.fsum(share * math.sqrt(error.variance) for share, error in shares) ** 2,
        math.fsum(share * math.sqrt(error.finite_width_variance) for share, error in shares) ** 2,
        math.fsum(share * error.drift for share, error in shares),
        math.fsum(share * error.excess_coherence for share, error in shares),
        math.fsum(share * error.shared for share, error in shares),
        _met_parts(parts),
    )


def _met_parts(parts: Sequence[tuple[float, GradientError]]) -> Parts | None:
    somewhere = [(log, error.parts) for log, error in parts if error.parts is not None]
    places = {(each.axis, each.length) for _, each in somewhere}
    if len(places) != 1:
        return None
    ((axis, length),) = places
    everywhere = [(log, error) for log, error in parts if error.parts is None]
    edges = {edge for _, each in somewhere for stretch in each.stretches for edge in (stretch.start, stretch.stop)}
    if everywhere:
        edges |= {0, length}
    borders, found = sorted(edges), []
    for start, stop in pairwise(borders):
        share = math.log2((stop - start) / length)
        pieces = [(log + share, error) for log, error in everywhere]
        pieces += [piece for log, each in somewhere for piece in each.within(start, stop, log)]
        if pieces:
            found.append(Stretch(start, stop, log2_sum([log for log, _ in pieces]), met(pieces)))
    return _told_apart(Parts(axis, length, tuple(found)))


def log2_sum(logs: Sequence[float]) -> float:
    """log2 of the sum of numbers whose log2 are given; -inf for zeros."""
    top = max(logs)
    return top + math.log2(math.fsum(2.0 ** max(log - top, -1000.0) for log in logs)) if math.isfinite(top) else top


def arrived(node: Node, component: Component, reached: Sequence[tuple[float, GradientError] | None]) -> GradientError:
    """The error of all that arrives at a node's outputs; of parts of one value, which part is which.

    Args:
        reached: log2 of the squared norm and the error by output; None where no gradient arrives.
    """
    if node.op == "split":
        axis = int(node.attribute("axis")) % len(component.output_shapes[0])
        sizes = [shape[axis] for shape in component.output_shapes]
        placed = []
        for i, each in enumerate(reached):
            if each is not None:
                start, stop = sum(sizes[:i]), sum(sizes[: i + 1])
                placed.append((each[0], each[1].read_from(axis, start, stop, sum(sizes))))
        return met(placed)
    return met([each for each in reached if each is not None])


def of_input(node: Node, component: Component, index: int, error: GradientError) -> GradientError:
    """The error behind a node as it is passed to the input of that index."""
    before, behind = component.input_shapes[index], component.output_shapes[0]
    if node.op == "split" or before is None:
        return error
    if node.op == "slice":
        ranges = list(zip(*(node.attribute(name) for name in ("axes", "starts", "ends", "steps")), strict=True))
        if len(ranges) == 1 and ranges[0][3] == 1:
            axis = int(ranges[0][0]) % len(before)
            start, stop, _ = slice(*(int(each) for each in ranges[0][1:3])).indices(before[axis])
            return error.read_from(axis, start, stop, before[axis])
    if error.parts is None:
        return error
    axis = error.parts.axis
    if node.op == "concat" and int(node.attribute("axis")) % len(behind) == axis:
        start = sum(shape[axis] for shape in component.input_shapes[:index] if shape is not None)
        return error.of_entries(axis, start, start + before[axis])
    return error.along(_axis_before(node, component, axis, before, behind))


def _axis_before(
    node: Node, component: Component, axis: int, before: tuple[int, ...], behind: tuple[int, ...]
) -> int | None:
    """Which axis of an input is that axis of the output, entry by entry; None where there is none."""
    own = axis - len(behind) + len(before)
    same = own >= 0 and before[own] == behind[axis]
    if node.op == "transpose":
        return int(node.attribute("perm")[axis])
    if node.op == "reshape":
        leading = [i for i in range(len(before)) if math.prod(before[:i]) == math.prod(behind[:axis])]
        return next((i for i in leading if before[i] == behind[axis]), None)
    if node.op in _MIXING_THE_LAST:
        return own if same and axis < len(behind) - 1 else None
    if isinstance(component, Normalization):
        return own if same and axis not in component.normalised_axes() else None
    return own if same and node.op in _ENTRY_BY_ENTRY | {"concat"} else None
