"""The chart over depth: the gradient's squared norm, each block's factor, and the activations' second moment.

Everything is placed in percent of the width, so that one drawing fits every screen, and in pixels from above. The
template chart.html.j2 draws it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from gnelint.output.html.network import Network, Stretch, shade
from gnelint.output.html.words import bits_text, isolated, log2, number, power_text
from gnelint.records import dataclass
from gnelint.words import plural

GRADIENT = 240
FACTOR = 84
MOMENT = 84
_PADDING = 10
_Point = TypeVar("_Point")

_MOST_HITS = 400
_MOST_MARKS = 240
_MOST_POINTS = 1500
_QUIET = 5.0
"""Bits that a panel spans at least to either side, so that a quiet network does not look dramatic."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis and what stands at it."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """Bits as pixels from above."""

    low: float
    high: float
    height: int

    def __call__(self, bits: float) -> float:
        """Where a number of bits lies; the nearest edge for one outside."""
        inside = min(max(bits, self.low), self.high)
        room = self.height - 2 * _PADDING
        return round(_PADDING + (self.high - inside) / (self.high - self.low) * room, 1)

    def ticks(self, most: int) -> list[Tick]:
        """At most so many round numbers with their places."""
        step = next(step for step in _steps() if (self.high - self.low) / step < most)
        first = math.ceil(self.low / step)
        return [Tick(self(k * step), number(k * step)) for k in range(first, math.floor(self.high / step) + 1)]


def _steps() -> Iterator[float]:
    scale = 1.0
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10


@dataclass(frozen=True)
class Dot:
    """A point: percent from the left, pixels from above; a measured one has the ends of its interval."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bar:
    """What a block does: its place and width in percent, and where its bar begins and how high it is."""

    x: float
    width: float
    y: float
    height: float
    shade: str


@dataclass(frozen=True)
class Hit:
    """A part of the depth that can be pointed at: what it says, and the block to go to."""

    x: float
    width: float
    block: int
    text: str


@dataclass(frozen=True)
class Panel:
    """One of the three drawings, one above the other."""

    height: int
    ticks: Sequence[Tick]
    zero: float


@dataclass(frozen=True)
class Chart:
    """The whole chart.

    Attributes:
        gradient, factor, moment: the panels.
        band: top and height of what the rules tolerate, None if that is not known.
        line, doubt: path of the gradient's norm, and of the stated error around it.
        earlier: the same line of the network that this one is compared with, "" for none.
        moments: path of the second moment.
        dots: values inside blocks with branches, where only a part of the gradient passes.
        measured: what was measured.
        lost: where no gradient at all arrives, in percent.
        marks: percent of each normalisation, join and attention, by name.
        bars, hits, depths: blocks' factors, what can be pointed at, the axis.
        text: what is to be seen, for those who do not see it.
    """

    gradient: Panel
    factor: Panel
    moment: Panel
    band: tuple[float, float] | None
    line: str
    doubt: str
    earlier: str
    moments: str
    dots: Sequence[Dot]
    measured: Sequence[Dot]
    lost: Sequence[float]
    marks: Mapping[str, Sequence[float]]
    bars: Sequence[Bar]
    hits: Sequence[Hit]
    depths: Sequence[Tick]
    text: str


def draw(network: Network, earlier: Network | None = None) -> Chart | None:
    """The chart of a network, over that of an earlier one if there is one; None if there is nothing to draw."""
    if not network.stretches:
        return None
    length = network.length
    known = [(at, bits, _error(node)) for at, bits, node in network.trunk if bits is not None]
    before = [] if earlier is None else [(at, bits) for at, bits, _ in earlier.trunk if bits is not None]
    measured = list(_measured(network))
    reach = [bits for _, bits, _ in known] + [bits for _, bits in before] + [bits for _, bits, _, _ in measured]
    scale = _scale([*reach, *(network.limits or ())], GRADIENT)
    factors = _scale([stretch.bits for stretch in network.stretches if stretch.bits is not None], FACTOR)
    moments = [
        (at, bits)
        for at, _, node in network.trunk
        if node is not None and (bits := log2(node["second_moment"])) is not None
    ]
    moment_scale = _scale([bits for _, bits in moments], MOMENT)
    limits = network.limits
    return Chart(
        gradient=Panel(GRADIENT, scale.ticks(8), scale(0.0)),
        factor=Panel(FACTOR, factors.ticks(4), factors(0.0)),
        moment=Panel(MOMENT, moment_scale.ticks(4), moment_scale(0.0)),
        band=None if limits is None else (scale(limits[1]), round(scale(limits[0]) - scale(limits[1]), 1)),
        line=_path(((at / length, scale(bits)) for at, bits, _ in known), "M"),
        doubt=_area([(at / length, scale(bits + error), scale(bits - error)) for at, bits, error in known]),
        earlier=_path(((at / earlier.length, scale(bits)) for at, bits in before), "M") if earlier else "",
        moments=_path(((at / length, moment_scale(bits)) for at, bits in moments), "M"),
        dots=[Dot(_percent(at, length), scale(bits)) for at, bits in _thin(list(_inside(network)))],
        measured=[Dot(_percent(at, length), *map(scale, values)) for at, *values in _thin(measured)],
        lost=_lost(network),
        marks=_marks(network),
        bars=[_bar(stretch, factors, length) for stretch in network.stretches],
        hits=_hits(network),
        depths=_depths(network),
        text=_told(network),
    )


def _scale(bits: Sequence[float], height: int) -> Scale:
    return Scale(min([-_QUIET, *bits]), max([_QUIET, *bits]), height)


def _percent(at: float, length: int) -> float:
    return round(100.0 * at / length, 2)


def _path(points: Iterable[tuple[float, float]], start: str) -> str:
    """A line in a drawing 1000 wide."""
    return " ".join(f"{start if not index else 'L'}{1000 * x:.1f} {y:g}" for index, (x, y) in enumerate(points))


def _area(points: Sequence[tuple[float, float, float]]) -> str:
    """The area between an upper and a lower line."""
    upper = [(x, top) for x, top, _ in points]
    lower = [(x, bottom) for x, _, bottom in reversed(points)]
    return f"{_path(upper, 'M')} {_path(lower, 'L')} Z" if points else ""


def _error(node: Mapping[str, Any] | None) -> float:
    return 0.0 if node is None else node.get("error_bits") or 0.0


def _inside(network: Network) -> Iterator[tuple[float, float]]:
    for stretch in network.stretches:
        if stretch.block["kind"] != "serial":
            for at, node in enumerate(stretch.nodes[:-1], start=stretch.start + 1):
                bits = node.get("gradient_log2")
                if bits is not None:
                    yield at, bits


def _measured(network: Network) -> Iterator[tuple[float, float, float, float]]:
    """Depth, measured log2 of the squared norm and the ends of its interval."""
    for at, _, node in network.trunk:
        holder = network.entry.get("verification", {}).get("gradient_ratio_log2", {}) if node is None else node
        key = "value" if node is None else "gradient_log2"
        value = holder.get("measured", {}).get(key)
        if value is not None:
            low, high = holder["interval"][key]
            yield at, value, value if low is None else low, value if high is None else high


def _thin(points: Sequence[_Point], most: int = _MOST_POINTS) -> Sequence[_Point]:
    """At most so many of the points, evenly."""
    return points if len(points) <= most else [points[len(points) * k // most] for k in range(most)]


def _lost(network: Network) -> list[float]:
    """Ends of blocks at which the gradient is exactly zero."""
    ends = (stretch for stretch in network.stretches if stretch.nodes and stretch.nodes[-1]["gradient_norm2"] == 0.0)
    return [_percent(stretch.stop, network.length) for stretch in ends if stretch.leaving is None][:_MOST_MARKS]


def _marks(network: Network) -> dict[str, list[float]]:
    """Where normalisations, joins and attention are, no two closer than can be told apart."""
    found: dict[str, dict[int, float]] = {"normalisation": {}, "join": {}, "attention": {}}
    for stretch in network.stretches:
        for at, node in enumerate(stretch.nodes, start=stretch.start + 1):
            family = node.get("family")
            kind = (
                "join"
                if node["name"] == stretch.block.get("join")
                else {"normalization": "normalisation", "attention": "attention"}.get(str(family))
            )
            if kind is not None:
                place = _percent(at, network.length)
                found[kind].setdefault(round(place / 100.0 * _MOST_MARKS), place)
    return {kind: list(places.values()) for kind, places in found.items() if places}


def _bar(stretch: Stretch, scale: Scale, length: int) -> Bar:
    bits = stretch.bits if stretch.bits is not None else 0.0
    top, bottom = sorted((scale(0.0), scale(bits)))
    width = _percent(stretch.stop - stretch.start, length)
    return Bar(
        _percent(stretch.start, length),
        max(round(width * 0.86, 2), 0.12),
        top if bottom - top >= 1 else scale(0.0) - 1,
        max(round(bottom - top, 1), 2.0),
        shade(stretch.phi),
    )


def _hits(network: Network) -> list[Hit]:
    """One for each block; where they are too many, one for each few, which speaks of the one furthest from 1."""
    blocks = network.stretches
    count = min(len(blocks), _MOST_HITS)
    found = []
    for index in range(count):
        few = blocks[len(blocks) * index // count : len(blocks) * (index + 1) // count]
        worst = max(few, key=lambda each: -1.0 if each.bits is None else abs(each.bits))
        x = _percent(few[0].start, network.length)
        found.append(Hit(x, round(_percent(few[-1].stop, network.length) - x, 2), worst.index, _said(worst)))
    return found


def _said(stretch: Stretch) -> str:
    block = stretch.block
    variance = "" if block["phi_variance"] is None else f", variance {number(block['phi_variance'])}"
    lines = [
        f"{stretch.index + 1}. {isolated(stretch.name)}",
        f"{block['kind']}, {plural(len(stretch.nodes), 'node')}",
        f"φ {number(stretch.phi) or 'unknown'}{variance}",
        f"squared gradient norm {power_text(stretch.entering)} at its entry, {power_text(stretch.leaving)} at its exit",
    ]
    if stretch.nodes and stretch.nodes[-1]["second_moment"] is not None:
        lines.append(f"second moment at its exit {number(stretch.nodes[-1]['second_moment'])}")
    measured = block.get("measured", {}).get("phi")
    if measured is not None:
        lines.append(f"measured φ {number(measured)}")
    return "\n".join(lines)


def _depths(network: Network) -> list[Tick]:
    """Numbers of blocks, at most a handful."""
    blocks = network.stretches
    step = next(int(step) for step in _steps() if len(blocks) / step <= 6)
    chosen = [blocks[k - 1] for k in range(step, len(blocks) + 1, step)] if step > 1 else list(blocks)
    return [Tick(_percent((each.start + each.stop) / 2, network.length), str(each.index + 1)) for each in chosen]


def _told(network: Network) -> str:
    known = [bits for _, bits, _ in network.trunk if bits is not None]
    if not known:
        return "The gradient along the depth is not known."
    said = (
        f"Squared gradient norm over {len(network.stretches)} blocks, log2, relative to the output: "
        f"{bits_text(known[0])} bits at the input, between {bits_text(min(known))} and {bits_text(max(known))}."
    )
    if network.worst is not None and network.worst.phi is not None:
        said += f" Furthest from 1 is {isolated(network.worst.name)} with phi {number(network.worst.phi)}."
    return said
