"""A list of models over time: what each of several reports says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from gnelint.output.html.network import Network
from gnelint.output.html.words import power, short
from gnelint.records import dataclass
from gnelint.words import plural

WIDTH, HEIGHT, _EDGE = 120, 32, 4
"""Of a drawing, in pixels."""
_FLAT = 1.0
"""Bits that the drawing's height stands for at least: less is no change to look at."""


@dataclass(frozen=True)
class Cell:
    """What one report says of a network; `spread` is None where the report does not have it."""

    spread: Markup | None
    findings: str = ""


@dataclass(frozen=True)
class Track:
    """A network through the reports.

    Attributes:
        name: of the network.
        cells: one for each report.
        points: (x, y) of the spreads that are known, for the drawing.
        words: the same for those who cannot see it.
    """

    name: str
    cells: Sequence[Cell]
    points: Sequence[tuple[float, float]]
    words: str


@dataclass(frozen=True)
class History:
    """Names of the reports, the oldest first, and a track for each network of the last."""

    reports: Sequence[str]
    tracks: Sequence[Track]


def history(reports: Sequence[tuple[str, Sequence[Network]]]) -> History:
    """The networks of the last report through all of them; a network is known by its target's name.

    Args:
        reports: name and networks of each, the oldest first.
    """
    known = [{network.entry["target"]: network for network in networks} for _, networks in reports]
    tracks = [_track(target, [report.get(target) for report in known]) for target in known[-1]]
    return History([short(name) for name, _ in reports], tracks)


def _track(target: str, found: Sequence[Network | None]) -> Track:
    spreads = [None if network is None else network.spread for network in found]
    points = _points(spreads)
    first, last = (next((each for each in order if each is not None), None) for order in (spreads, spreads[::-1]))
    words = "" if first is None or last is None else f"from {first:.1f} to {last:.1f} bits"
    return Track(short(target), [_cell(network) for network in found], points, words)


def _cell(network: Network | None) -> Cell:
    if network is None:
        return Cell(None)
    summary: Mapping[str, Any] = network.summary
    counts = [plural(summary[key], key[:-1]) for key in ("errors", "warnings") if summary[key]]
    return Cell(power(network.spread), ", ".join(counts))


def _points(spreads: Sequence[float | None]) -> list[tuple[float, float]]:
    known = [spread for spread in spreads if spread is not None]
    if len(known) < 2:
        return []
    low = min(known)
    height = max(max(known) - low, _FLAT)
    step = (WIDTH - 2 * _EDGE) / (len(spreads) - 1)
    return [
        (round(_EDGE + at * step, 1), round(HEIGHT - _EDGE - (HEIGHT - 2 * _EDGE) * (spread - low) / height, 1))
        for at, spread in enumerate(spreads)
        if spread is not None
    ]
