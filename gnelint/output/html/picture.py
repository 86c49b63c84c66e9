"""The network as a picture of blocks: repeated ones folded, each opening to its nodes. picture.html.j2 draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gnelint.lint.places import folded
from gnelint.output.html.network import Network, Stretch, shade, sign
from gnelint.output.html.words import factor, isolated, joined, number, power, short, tail
from gnelint.records import dataclass

MOST_NODES = 1500
"""Nodes of a network up to which they are drawn; beyond, blocks are."""
_MOST_IN_BLOCK = 120
_OPEN_UP_TO = 5
"""Blocks of a run up to which it is shown open."""
_BOX = (134, 38)
_GAP = (14, 22)


@dataclass(frozen=True)
class Box:
    """A node in the drawing of its block."""

    x: int
    y: int
    name: str
    full: str
    op: str
    phi: str
    shade: str
    sign: str


@dataclass(frozen=True)
class Drawing:
    """The nodes of a block, the gradient's way from below to above."""

    width: int
    height: int
    boxes: Sequence[Box]
    edges: Sequence[str]


@dataclass(frozen=True)
class Tile:
    """A block."""

    index: int
    name: str
    kind: str
    phi: str
    shade: str
    sign: str
    facts: Sequence[tuple[str, object]]
    assumptions: Sequence[str]
    drawing: Drawing | None
    listed: Sequence[str]


@dataclass(frozen=True)
class Sliver:
    """A block of a folded run: its place, the top and height of its bar, in a drawing 40 high."""

    x: int
    y: float
    height: float
    shade: str


@dataclass(frozen=True)
class Run:
    """Blocks that repeat, or a single one.

    Attributes:
        title: where they are.
        makeup: what repeats.
        phi: of all of them together.
        tiles, slivers: the blocks, and the same as one line of bars.
        is_open: whether they are few enough to be shown at once.
    """

    title: str
    makeup: str
    phi: str
    shade: str
    sign: str
    tiles: Sequence[Tile]
    slivers: Sequence[Sliver]
    is_open: bool


def draw(network: Network) -> list[Run]:
    """The runs of blocks, in the order of depth."""
    drawn = len(network.nodes) <= MOST_NODES
    return [_run(network, network.stretches[start:stop], period, drawn=drawn) for start, stop, period in network.runs]


def _run(network: Network, stretches: Sequence[Stretch], period: int, *, drawn: bool) -> Run:
    tiles = [_tile(stretch, drawn=drawn) for stretch in stretches]
    phi = _together(stretches)
    kinds = [str(stretch.block["kind"]) for stretch in stretches[:period]]
    times = len(stretches) // period
    return Run(
        title=_title(stretches),
        makeup=f"{times} × {joined(kinds)}",
        phi=factor(phi),
        shade=shade(phi),
        sign=sign(phi),
        tiles=tiles,
        slivers=[_sliver(at, stretch) for at, stretch in enumerate(stretches)] if len(stretches) > 1 else [],
        is_open=len(stretches) <= _OPEN_UP_TO,
    )


def _title(stretches: Sequence[Stretch]) -> str:
    names = folded(short(stretch.name) for stretch in stretches)
    if len(names) == 1 and len(names[0]) < 60:
        return names[0]
    return f"{short(stretches[0].name, 30)} … {short(stretches[-1].name, 30)}"


def _together(stretches: Sequence[Stretch]) -> float | None:
    """What neighbouring blocks multiply the squared gradient norm by."""
    entering, leaving = stretches[0].entering, stretches[-1].leaving
    if len(stretches) == 1 or entering is None or leaving is None:
        return stretches[0].phi if len(stretches) == 1 else None
    return float(2.0 ** min(entering - leaving, 1023.0))


def _sliver(at: int, stretch: Stretch) -> Sliver:
    bits = min(max(stretch.bits or 0.0, -4.0), 4.0)
    height = max(abs(bits) * 4.5, 2.0)
    return Sliver(
        at * 8,
        round(20 - height if bits > 0 else 20, 1) if abs(bits) > 0.1 else 19,
        round(height, 1),
        shade(stretch.phi),
    )


def _tile(stretch: Stretch, *, drawn: bool) -> Tile:
    block = stretch.block
    return Tile(
        index=stretch.index,
        name=short(stretch.name),
        kind=block["kind"],
        phi=factor(stretch.phi),
        shade=shade(stretch.phi),
        sign=sign(stretch.phi),
        facts=list(_facts(stretch)),
        assumptions=block["assumptions"],
        drawing=_drawing(stretch.nodes) if drawn and len(stretch.nodes) <= _MOST_IN_BLOCK else None,
        listed=[f"{number} × {op}" for op, number in Counter(str(node["op"]) for node in stretch.nodes).items()],
    )


def _facts(stretch: Stretch) -> list[tuple[str, object]]:
    block = stretch.block
    error = block.get("error_bits")
    found: list[tuple[str, object]] = [
        ("φ", number(stretch.phi, 4) or "unknown"),
        ("variance of the spectrum", number(block["phi_variance"]) or "unknown"),
        ("gradient at entry", power(stretch.entering)),
        ("gradient at exit", power(stretch.leaving)),
        ("stated error", "unknown" if error is None else f"±{error:.2g} bits"),
        ("basis", block["basis"]),
    ]
    for key, label in (("branch_phi", "φ of the branch"), ("shortcut_phi", "φ of the shortcut")):
        if block.get(key) is not None:
            found.append((label, number(block[key])))
    measured = block.get("measured", {})
    if "phi" in measured:
        low, high = block["interval"]["phi"]
        found.append(("measured φ", f"{number(measured['phi'])} ({number(low)} to {number(high)}), {block['verdict']}"))
    return found


def _drawing(nodes: Sequence[Mapping[str, Any]]) -> Drawing:
    """The nodes in rows, each below the last of those that it reads."""
    rows = _rows(nodes)
    inside = {node["name"] for node in nodes}
    widest = max((len(row) for row in rows), default=1)
    wide, high = _BOX[0] + _GAP[0], _BOX[1] + _GAP[1]
    skips = any(row - 1 > at for node, row, at in _reads(nodes, rows))
    margin = 26 if skips else 6
    width = widest * wide + 2 * margin
    places: dict[str, tuple[int, int]] = {}
    for at, row in enumerate(rows):
        left = (width - len(row) * wide + _GAP[0]) // 2
        for column, name in enumerate(row):
            places[name] = (left + column * wide, _GAP[1] + at * high)
    boxes = [_box(node, *places[node["name"]]) for node in nodes]
    height = _GAP[1] + len(rows) * high
    edges = []
    for node in nodes:
        target = places[node["name"]]
        sources = [name for name in node.get("inputs", []) if name in inside]
        if len(sources) < len(node.get("inputs", [])) or not sources:
            edges.append(_edge(None, target, width))
        edges += [_edge(places[name], target, width) for name in sources]
    exit_x, exit_y = places[nodes[-1]["name"]] if nodes else (0, 0)
    edges.append(f"M{exit_x + _BOX[0] // 2} {exit_y + _BOX[1]}V{height}")
    return Drawing(width, height, boxes, edges)


def _rows(nodes: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    depth: dict[str, int] = {}
    for node in nodes:
        depth[node["name"]] = 1 + max((depth[name] for name in node.get("inputs", []) if name in depth), default=-1)
    rows: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, row in depth.items():
        rows[row].append(name)
    return rows


def _reads(nodes: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[str]]) -> list[tuple[str, int, int]]:
    """Each node that reads another: its row and the other's, -1 for the block's entry."""
    depth = {name: at for at, row in enumerate(rows) for name in row}
    return [
        (node["name"], depth[node["name"]], depth.get(name, -1)) for node in nodes for name in node.get("inputs", [])
    ]


def _edge(source: tuple[int, int] | None, target: tuple[int, int], width: int) -> str:
    """A line from below a node to above another; past what lies between them where that is more than a row."""
    x, y = target[0] + _BOX[0] // 2, target[1]
    if source is None:
        from_x, from_y = (x, 0) if y <= _GAP[1] else (width // 2, 0)
    else:
        from_x, from_y = source[0] + _BOX[0] // 2, source[1] + _BOX[1]
    if y - from_y <= _GAP[1]:
        return f"M{from_x} {from_y}L{x} {y}"
    side = width - 8
    out = f"M{from_x} {from_y}C{from_x} {from_y + 14} {side} {from_y} {side} {from_y + 28}"
    return f"{out}V{y - 28}C{side} {y} {x} {y - 14} {x} {y}"


def _box(node: Mapping[str, Any], x: int, y: int) -> Box:
    return Box(
        x=x,
        y=y,
        name=tail(node["name"], 16),
        full=isolated(node["name"]),
        op=short(node["op"], 14),
        phi=number(node["phi"]) or "?",
        shade=shade(node["phi"]),
        sign=sign(node["phi"]),
    )
