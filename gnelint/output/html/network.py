"""One network of the report, with what every part of the page asks of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gnelint.output.html.words import log2
from gnelint.records import cached_property, dataclass

PERIODS = (1, 2, 3, 4)
"""Lengths of a pattern of blocks that may repeat (attention, MLP, attention, MLP, ...)."""
FOLD_FROM = 4
"""Blocks of a repeating run from which on it is folded."""

_STEPS = (0.5, 1.5, 4.0)
"""Bits at which a block's change of the squared norm counts as noticeable, strong, extreme."""


def shade(phi: float | None) -> str:
    """The class that colours phi: p0 (shrinks, extreme) over p3 (keeps) to p6 (grows, extreme); "pu" if not known."""
    if phi is None:
        return "pu"
    bits = log2(phi)
    if bits is None:
        return "p0"
    step = sum(abs(bits) >= limit for limit in _STEPS)
    return f"p{3 + step if bits > 0 else 3 - step}"


def sign(phi: float | None) -> str:
    """What phi does, for those who do not see the colour."""
    found = shade(phi)
    return {"pu": "?", "p3": "●"}.get(found, "▲" if found > "p3" else "▼")


@dataclass(frozen=True)
class Stretch:
    """A block on the axis of depth.

    Attributes:
        index: counted from 0.
        block: its entry in the report.
        nodes: its nodes' entries, in topological order.
        start, stop: positions of its first node and behind its last, in nodes from the input.
        entering, leaving: log2 of the squared gradient norm at its entry and exit; None if not known. Their difference
            is not log2 of phi where neighbours depend on each other (a mask that the gradient has passed already).
    """

    index: int
    block: Mapping[str, Any]
    nodes: Sequence[Mapping[str, Any]]
    start: int
    stop: int
    entering: float | None
    leaving: float | None

    @property
    def name(self) -> str:
        """The block's name."""
        return str(self.block["name"])

    @property
    def phi(self) -> float | None:
        """What it multiplies the squared gradient norm by."""
        found: float | None = self.block["phi"]
        return found

    @property
    def bits(self) -> float | None:
        """log2 of phi."""
        return log2(self.phi)

    @property
    def makeup(self) -> tuple[str, ...]:
        """What it is made of: blocks of the same makeup repeat."""
        return (self.block["kind"], *(node["op"] for node in self.nodes))

    @property
    def has_weights(self) -> bool:
        """Whether there is anything in it that learns."""
        return any(node.get("weights") for node in self.nodes)


def gradient_bits(node: Mapping[str, Any]) -> float | None:
    """log2 of the squared gradient norm at a node's output; reports of older versions hold only the norm."""
    known = node.get("gradient_log2")
    return float(known) if known is not None else log2(node["gradient_norm2"])


@dataclass(frozen=True)
class Network:
    """A target of the report.

    Attributes:
        entry: its entry.
        key: what the ids of its elements begin with.
        rules: what the report says of each rule, by id.
    """

    entry: Mapping[str, Any]
    key: str
    rules: Mapping[str, Mapping[str, Any]]

    @property
    def summary(self) -> Mapping[str, Any]:
        """The summary of the entry."""
        found: Mapping[str, Any] = self.entry["summary"]
        return found

    @cached_property
    def nodes(self) -> Mapping[str, Mapping[str, Any]]:
        """The profile by name."""
        return {node["name"]: node for node in self.entry["profile"]}

    @cached_property
    def bits(self) -> float | None:
        """log2 of the squared gradient norm at the input over that at the output."""
        known = self.summary.get("gradient_log2")
        return float(known) if known is not None else log2(self.summary["gradient_ratio"])

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """The blocks along the depth; nodes that are in none stand for themselves."""
        blocks = self.entry["blocks"] or [
            {"name": name, "kind": "serial", "nodes": [name], "phi": node["phi"], "phi_variance": node["phi_variance"],
             "error_bits": None, "basis": node.get("basis", "exact"), "assumptions": []}
            for name, node in self.nodes.items()
        ]  # fmt: skip
        found: list[Stretch] = []
        at = 0
        for index, block in enumerate(blocks):
            inside = [self.nodes[name] for name in block["nodes"] if name in self.nodes]
            leaving = gradient_bits(inside[-1]) if inside else None
            change = log2(block["phi"])
            if found:
                entering = found[-1].leaving
            elif self.bits is not None:
                entering = self.bits
            else:
                entering = None if leaving is None or change is None else leaving + change
            stop = at + max(len(inside), 1)
            found.append(Stretch(index, block, inside, at, stop, entering, leaving))
            at = stop
        return tuple(found)

    @property
    def length(self) -> int:
        """Nodes along the axis of depth."""
        return self.stretches[-1].stop if self.stretches else 0

    @cached_property
    def block_of(self) -> Mapping[str, Stretch]:
        """The block of each node, beside its path too."""
        return {
            name: stretch
            for stretch in self.stretches
            for name in (*stretch.block.get("side", ()), *(node["name"] for node in stretch.nodes))
        }

    @cached_property
    def trunk(self) -> tuple[tuple[float, float | None, Mapping[str, Any] | None], ...]:
        """Where all of the gradient passes: depth, log2 of its squared norm there, and the node that writes the value.

        The input has no node. Inside blocks with branches no single value holds all of the gradient.
        """
        if not self.stretches:
            return ()
        first = self.stretches[0]
        points: list[tuple[float, float | None, Mapping[str, Any] | None]] = [(0, first.entering, None)]
        for stretch in self.stretches:
            inner = stretch.nodes if stretch.block["kind"] == "serial" else stretch.nodes[-1:]
            offset = stretch.stop - len(inner)
            points += [(offset + at, gradient_bits(node), node) for at, node in enumerate(inner, start=1)]
        return tuple(points)

    @property
    def spread(self) -> float | None:
        """Bits between the largest and the smallest squared gradient norm along the trunk."""
        known = [bits for _, bits, _ in self.trunk if bits is not None]
        return max(known) - min(known) if len(known) > 1 else None

    @cached_property
    def worst(self) -> Stretch | None:
        """The block whose phi is furthest from 1, among those with weights if there are any."""
        known = [stretch for stretch in self.stretches if stretch.phi is not None]
        learning = [stretch for stretch in known if stretch.has_weights] or known
        return max(learning, key=lambda each: math.inf if each.bits is None else abs(each.bits), default=None)

    @cached_property
    def limits(self) -> tuple[float, float] | None:
        """Bits lost and gained from which on the rules have something to say; None if they were not asked."""
        found = []
        for rule in ("GNE501", "GNE502"):
            if rule not in self.rules:
                return None
            chosen = self.entry.get("options", {}).get("params", {}).get(rule, {})
            found.append(float(chosen.get("notice", self.rules[rule]["params"]["notice"])))
        return -found[0], found[1]

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """Start, end and period of each repeating run of blocks, and each block that repeats nothing, in order."""
        keys = [stretch.makeup for stretch in self.stretches]
        found = []
        at = 0
        while at < len(keys):
            period, stop = _longest_run(keys, at)
            if stop - at < FOLD_FROM:
                period, stop = 1, at + 1
            found.append((at, stop, period))
            at = stop
        return tuple(found)


def _longest_run(keys: Sequence[tuple[str, ...]], start: int) -> tuple[int, int]:
    """The period and the end of the longest run of whole periods that begins here, the shorter period first.

    What repeats inside itself is no period: two stages of three like blocks are no run of stages.
    """
    best = (1, start + 1)
    for period in PERIODS:
        pattern = keys[start : start + period]
        if any(one == other for one, other in pairwise(pattern)):
            continue
        stop = start + period
        while stop < len(keys) and keys[stop] == keys[stop - period]:
            stop += 1
        stop -= (stop - start) % period
        if stop - start >= 2 * period and stop > best[1]:
            best = (period, stop)
    return best
